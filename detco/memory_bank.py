"""The memory bank: a ring of the most recent keys, the negatives of the contrastive loss."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MemoryBank(nn.Module):
    """A ring of `size` unit vectors of length `dim` (MoCo's queue; DetCo section 3.3 keeps eight).

    `size` need not be a multiple of the batch. Starts with random unit vectors, as MoCo does.
    """

    keys: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Write keys [N, dim] over the oldest ones, in order; of more than `size` keys the last remain."""
        size = len(self.keys)
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.keys[slots[-size:]] = keys[-size:].to(self.keys.dtype)
        self.pointer.add_(len(keys)).remainder_(size)
