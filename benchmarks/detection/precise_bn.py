"""Precise BN: population statistics re-estimated over training batches before a detector is evaluated."""
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import islice

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, set_random_seed
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from detco.errors import UserError


@torch.no_grad()
def update_bn_stats(model: nn.Module, batches: Iterable, forward, iterations: int = 200) -> int:
    """Replace the running statistics of every normalisation layer in training mode; returns the batches used.

    As in "Rethinking 'Batch' in BatchNorm" (arXiv 2105.07576, section 3.1): mean = E[m], variance =
    E[m^2 + v] - E[m]^2 with m and v the mean and (biased) variance of a batch, each batch on each rank weighing
    the same. Covers BatchNorm, SyncBatchNorm and what mmengine turns the latter into on one process.

    Args:
        model: in training mode; its weights and buffers other than the statistics are left alone.
        batches: at most `iterations` of them are drawn. Raises UserError when there is none.
        forward: called with each batch; runs the model.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    sums = {layer: [0, 0, 0] for layer in layers}  # of the means, of the second moments, of the calls
    kept = {layer: layer.num_batches_tracked.clone() for layer in layers}

    def collect(layer, inputs):
        x = inputs[0].float()
        var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        mean, var = mean.double(), var.double()
        sums[layer] = [s + new for s, new in zip(sums[layer], (mean, var + mean**2, 1))]

    handles = [layer.register_forward_pre_hook(collect) for layer in layers]
    try:
        used = sum(1 for _ in map(forward, islice(batches, iterations)))
    finally:
        for handle in handles:
            handle.remove()
    if not used:
        raise UserError("precise BN: the training loader gave no batch")
    for layer, (mean, square, calls) in sums.items():
        if calls:
            moments = torch.stack([mean, square]) / calls
            all_reduce(moments, op="mean")
            layer.running_mean.copy_(moments[0])
            layer.running_var.copy_((moments[1] - moments[0] ** 2).clamp_(min=0))
        layer.num_batches_tracked.copy_(kept[layer])
    return used


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """`update_bn_stats` over `iterations` training batches after the last training iteration.

    Runs before mmengine's CheckpointHook, so that the saved detector is the one evaluated, and before
    validation. Batches and everything random in them are drawn anew from `seed`: the same weights always give
    the same statistics, whether or not the run was interrupted.
    """

    priority = "LOW"

    def __init__(self, iterations: int = 200, seed: int = 0):
        self.iterations, self.seed = iterations, seed

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.is_last_train_iter(runner):
            self.run(runner)

    def run(self, runner: Runner) -> None:
        """Re-estimate the statistics of `runner.model` now."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        set_random_seed(self.seed, diff_rank_seed=True)
        batches = _fresh_loader(runner.train_dataloader, self.seed)
        wrapper = getattr(runner, "optim_wrapper", None)  # brings the training's autocast
        model.train()
        with wrapper.optim_context(model) if wrapper else nullcontext():
            used = update_bn_stats(model, batches, lambda batch: model(
                **model.data_preprocessor(batch, training=True), mode="loss"), self.iterations)
        runner.logger.info(f"precise BN: statistics re-estimated over {used} batches")


def _fresh_loader(loader: DataLoader, seed: int) -> DataLoader:
    """A loader like the one given that starts from `seed`, wherever that one stands.

    Iterating the given one a second time would hang: mmdet's AspectRatioBatchSampler keeps its half-full groups.
    """
    groups = loader.batch_sampler
    sampler = type(groups.sampler)(loader.dataset, seed=seed)
    groups = type(groups)(sampler, groups.batch_size, drop_last=False)
    return DataLoader(loader.dataset, batch_sampler=groups, num_workers=loader.num_workers,
                      collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn)
