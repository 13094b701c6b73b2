"""Batch norm over ranks: over all of them, by virtual ones in one process, and whose statistics are kept."""
import contextlib
from collections.abc import Iterator

import torch
from mmengine import dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from detco.errors import UserError, nearest

STATISTICS = ("trained", "global_only", "global")
ESTIMATED_ON = 8192  # images, at least: a mean over them is off by a ninetieth of a deviation


def known_statistics(name: str) -> str:
    """One of STATISTICS. Raises UserError for another."""
    if name not in STATISTICS:
        raise UserError(nearest("statistics", name, STATISTICS))
    return name


@torch.no_grad()
def _track(layer: nn.BatchNorm2d, mean: Tensor, var: Tensor) -> None:
    """Move a layer's running statistics towards a batch's; without a momentum they are the mean of all batches'."""
    assert layer.num_batches_tracked is not None and layer.running_mean is not None and layer.running_var is not None
    layer.num_batches_tracked.add_(1)
    share = layer.num_batches_tracked.float().reciprocal() if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, share)
    layer.running_var.lerp_(var, share)


class SyncBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of every rank. torch's own SyncBatchNorm runs on CUDA only; this one on
    whatever the process group reduces, with the same result as batch norm over the whole batch, also where ranks hold
    different numbers of images or images of different sizes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or dist.get_world_size() == 1:
            return super().forward(x)
        dims = (0, 2, 3)
        here = x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)  # ranks may hold different numbers
        *total, count = all_reduce(torch.cat([x.float().sum(dims), here])).split([x.shape[1], 1])
        mean = total[0] / count
        var = all_reduce((x.float() - mean[:, None, None]).square().sum(dims)) / count
        _track(self, mean, var * count / (count - 1).clamp_min(1))
        scale = (var + self.eps).rsqrt()
        if self.affine:
            scale = self.weight * scale
        shift = self.bias - mean * scale if self.affine else -mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


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
        mean, var = torch.zeros(2, self.splits, self.num_features, device=x.device, dtype=self.weight.dtype)
        out = torch.cat([F.batch_norm(part, of_mean, of_var, self.weight, self.bias, True, 1.0, self.eps)
                         for part, of_mean, of_var in zip(x.chunk(self.splits), mean, var)])
        _track(self, mean.mean(0), var.mean(0))
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
        setattr(layer, "splits", splits)  # noqa: B010 - a field that the class above has


@contextlib.contextmanager
def untracked(module: nn.Module):
    """Let batches normalise themselves without a say in the running statistics."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum


def global_statistics(backbone: nn.Module, batches: Iterator[dict[str, Tensor]]) -> None:
    """Replace a backbone's running statistics by the mean of those of further batches' first views, which are global,
    every rank's."""
    def images() -> Iterator[Tensor]:
        seen = 0
        while seen < ESTIMATED_ON:
            view = next(iter(next(batches).values()))
            seen += len(view) * dist.get_world_size()
            yield view

    split_batch_norm(backbone, 1)
    update_bn(images(), backbone)
    for name, running in backbone.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            dist.all_reduce(running, "mean")
