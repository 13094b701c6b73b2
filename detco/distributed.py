"""What ranks, real or virtual, share: gathered keys, shuffled batch statistics, SyncBN that also runs without CUDA."""
import os

import torch
from mmengine import dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.distributed.nn.functional import all_reduce

from detco.errors import UserError


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


def splits_here(ranks: int, parts: int) -> int:
    """Into how many virtual ranks a process divides each part of its batch, so that there are `ranks` in all; where
    processes and parts are more than that, each is one. Raises UserError where they do not come out even."""
    there = dist.get_world_size() * parts
    if ranks % there and there % ranks:
        raise UserError(f"bn_splits {ranks} do not divide among {dist.get_world_size()} processes"
                        + f" and {parts} parts of each" * (parts > 1))
    return max(1, ranks // there)


@torch.no_grad()
def shuffled(encode, parts: list[Tensor], generator: torch.Generator, splits: int = 1) -> list[Tensor]:
    """Keys of every rank's images, computed under shuffled batch statistics (MoCo's shuffle-BN).

    An image travels to the one rank that encodes it. MoCo gathers every image on every rank, as many times the
    traffic and the memory as there are ranks, for the same keys.

    Args:
        encode: images [N, ...] -> list of [N, D] tensors; normalises each of its `splits` by itself.
        parts: this rank's images, [N, ...] a part; every rank holds as many. Parts and splits are virtual ranks.
        generator: in the same state on every rank; draws the permutation. With one virtual rank nothing is shuffled
            and nothing drawn.
        splits: of a part, consecutive and equal.
    Returns:
        one tensor [ranks * parts * N, D] a level, in the order of the unshuffled images, the same on every rank.
    Raises:
        UserError: splits that do not divide a part, or of one image.
    """
    ranks, rank, n = dist.get_world_size(), dist.get_rank(), len(parts[0])
    if splits > 1 and (n % splits or n == splits):
        raise UserError(f"bn_splits: {splits} splits of {n} images: give a number that divides them into two or more "
                        "each")
    if ranks * len(parts) * splits == 1:
        return encode(parts[0])
    own = len(parts) * n
    order = torch.randperm(ranks * own, generator=generator).view(-1, n // splits).sort().values  # by virtual rank
    order = order.view(ranks, own)  # row r: what rank r encodes
    source = order // own
    sent = [wanted[there == rank] - rank * own for wanted, there in zip(order, source)]
    leave, place, back = (i.to(parts[0].device, non_blocking=True) for i in (
        torch.cat(sent), source[rank].argsort(stable=True).argsort(), order.flatten().argsort()))
    mixed = torch.cat(parts)[leave]
    if ranks > 1:
        received = torch.empty_like(mixed, memory_format=torch.contiguous_format)
        torch.distributed.all_to_all_single(received, mixed.contiguous(), source[rank].bincount(
            minlength=ranks).tolist(), [len(s) for s in sent])
        mixed = received[place]  # they came by the rank that sent them
    levels = zip(*(encode(part) for part in mixed.split(n)))
    return [gather(torch.cat(keys))[back] for keys in levels]


def rank_part(x: Tensor) -> Tensor:
    """This rank's part [N, ...] of a tensor [ranks * N, ...] in rank order."""
    return x.chunk(dist.get_world_size())[dist.get_rank()]


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of every rank. torch's own SyncBatchNorm runs on CUDA only; this one on
    whatever the process group reduces, with the same result as batch norm over the whole batch, also where ranks hold different numbers of images or sizes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.get_world_size() == 1:
            return super().forward(x)
        dims = (0, 2, 3)
        here = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)  # ranks may hold different numbers
        *total, count = all_reduce(torch.cat([x.float().sum(dims), here])).split([x.shape[1], 1])
        mean = total[0] / count
        var = all_reduce((x.float() - mean[:, None, None]).square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1).clamp_min(1), self.momentum)
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


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm of as many ranks in one process: each of the `splits` of a batch, consecutive and equal, is normalised
    by itself. Running statistics are the mean of those that the ranks would have; the ranks of a real run save the
    first one's, a noisier estimate of the same.

    Split by split: with channels last, as convolutions work, the splits cannot be viewed as channels of one call.
    """

    splits = 1

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return super().forward(x)
        mean, var = (running.repeat(self.splits, 1) for running in (self.running_mean, self.running_var))
        out = torch.cat([F.batch_norm(part, *running, self.weight, self.bias, True, self.momentum, self.eps)
                         for part, *running in zip(x.chunk(self.splits), mean, var)])
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.copy_(mean.mean(0))
            self.running_var.copy_(var.mean(0))
        return out


def split_batch_norm(module: nn.Module, splits: int) -> None:
    """Have every batch norm of `module` normalise that many splits by themselves. Raises UserError for a network
    without one."""
    layers = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    if splits > 1 and not layers:
        raise UserError(f"bn_splits {splits}: the network has no batch norm to split; give 1")
    for layer in layers:
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = SplitBatchNorm2d  # same fields, another forward
        layer.splits = splits
