"""The momentum encoder: a copy of the encoder that follows it slowly and never gets a gradient."""
from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MomentumEncoder(nn.Module):
    """Holds `module`, a frozen copy of an encoder; `update` moves it by m * module + (1 - m) * encoder.

    Batch norm's running statistics are the copy's own, as in MoCo: they see the keys' batches. A method whose momentum
    rises while it trains (BYOL, MoCo v3) sets `momentum` before `update`.
    """

    def __init__(self, encoder: nn.Module, momentum: float = 0.999):
        super().__init__()
        self.module = deepcopy(encoder).requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def update(self, encoder: nn.Module) -> None:
        """Follow the encoder by one step; call it after the optimiser's."""
        get_ema_multi_avg_fn(self.momentum)(list(self.module.parameters()), list(encoder.parameters()), None)

    @torch.no_grad()
    def forward(self, *args):
        return self.module(*args)
