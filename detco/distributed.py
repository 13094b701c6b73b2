"""What ranks share: gathered keys, shuffled batch statistics, and SyncBN that also runs without CUDA."""
import os

import torch
from mmengine import dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def join() -> None:
    """Join the processes torchrun or Slurm's srun started, over NCCL; over gloo where torchrun finds no CUDA.
    Alone, do nothing."""
    by_torchrun, by_srun = "LOCAL_RANK" in os.environ, int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1
    if dist.is_distributed() or not (by_torchrun or by_srun):
        return
    if by_torchrun and not torch.cuda.is_available():
        torch.distributed.init_process_group("gloo")
    else:
        dist.init_dist("pytorch" if by_torchrun else "slurm")


@torch.no_grad()
def gather(x: Tensor) -> Tensor:
    """Concatenate [N, ...] of every rank in rank order: [ranks * N, ...]."""
    return torch.cat(dist.all_gather(x)) if dist.get_world_size() > 1 else x


@torch.no_grad()
def shuffled(encode, images: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Keys of every rank's images, computed under shuffled batch statistics (MoCo's shuffle-BN).

    An image travels to the one rank that encodes it. MoCo gathers every image on every rank, as many times the
    traffic and the memory as there are ranks, for the same keys.

    Args:
        encode: images [N, ...] -> list of [N, D] tensors.
        images: this rank's images [N, ...]; every rank holds as many.
        generator: in the same state on every rank; draws the permutation. With one rank nothing is shuffled and
            nothing drawn.
    Returns:
        one tensor [ranks * N, D] a level, in the order of the unshuffled images, the same on every rank.
    """
    ranks, rank, n = dist.get_world_size(), dist.get_rank(), len(images)
    if ranks == 1:
        return encode(images)
    order = torch.randperm(ranks * n, generator=generator).view(ranks, n).sort().values  # row r: what rank r encodes
    source = order // n
    sent = [order[to][source[to] == rank] - rank * n for to in range(ranks)]
    leave, back = (i.to(images.device, non_blocking=True) for i in (torch.cat(sent), order.flatten().argsort()))
    mixed = torch.empty_like(images, memory_format=torch.contiguous_format)
    torch.distributed.all_to_all_single(mixed, images[leave].contiguous(),
                                        source[rank].bincount(minlength=ranks).tolist(), [len(s) for s in sent])
    return [gather(key)[back] for key in encode(mixed)]


def rank_part(x: Tensor) -> Tensor:
    """This rank's part [N, ...] of a tensor [ranks * N, ...] in rank order."""
    return x.chunk(dist.get_world_size())[dist.get_rank()]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of every rank. torch's own SyncBatchNorm runs on CUDA only; this one on
    whatever the process group reduces, with the same result as batch norm over the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.get_world_size() == 1:
            return super().forward(x)
        dims = (0, 2, 3)
        count = dist.get_world_size() * x.numel() / x.shape[1]
        mean = all_reduce(x.float().sum(dims)) / count
        var = all_reduce((x.float() - mean[:, None, None]).square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / max(count - 1, 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Turn every BatchNorm2d of `module` into one that synchronises over ranks; weights are kept."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SyncBatchNorm2d  # same fields, another forward
    return module
