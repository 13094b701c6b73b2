"""Precise BN: population statistics re-estimated over training batches before a detector is evaluated."""
from collections.abc import Iterable
from contextlib import nullcontext
from itertools import count, islice

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.detection.stream import seed_all, stream
from detco.errors import UserError


@torch.no_grad()
def update_bn_stats(model: nn.Module, batches: Iterable, forward, iterations: int = 200, parts: int = 1) -> int:
    """Replace the running statistics of every normalisation layer in training mode; returns the iterations used.

    As fvcore's precise BN did until May 2021, when the published rows were run: the mean over iterations of the
    batch's mean and of its Bessel-corrected variance, both over all ranks. (Today's pools second moments instead, which
    adds the variance of the means.) Covers BatchNorm, SyncBatchNorm and what mmengine turns the latter into on one
    process. A layer that sees nothing in an iteration leaves it out.

    Args:
        model: in training mode; its weights and buffers other than the statistics are left alone.
        batches: what ranks and parts take at once; at most `iterations` x `parts` are drawn. Raises UserError when
            there are fewer than `parts`.
        forward: called with each batch; runs the model.
        parts: batches that a rank takes one after another in one iteration. Their statistics are pooled as if ranks
            had taken them; what each computes is normalised by itself all the same.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not layers:
        return 0  # all are frozen
    statistics = {id(b) for m in layers for b in (m.running_mean, m.running_var)}
    kept = [(b, b.clone()) for b in model.buffers() if id(b) not in statistics]
    # Of one iteration, by layer, [1 + 2 C]: values a channel, their sum and that of their squares; one tensor, so that
    # ranks reduce once.
    sizes = [1 + 2 * layer.num_features for layer in layers]
    moments = torch.zeros(sum(sizes), dtype=torch.float64, device=next(model.parameters()).device)
    totals = torch.zeros_like(moments)  # over iterations, [1 + 2 C] a layer: how many, their means and variances
    seen = dict(zip(layers, moments.split(sizes)))

    def collect(layer, inputs):
        x = inputs[0].float()
        var, mean = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        mean, count = mean.double(), x.numel() // x.shape[1]
        if count:
            seen[layer] += torch.cat([mean.new_ones(1), mean, var.double() + mean**2]) * count

    handles = [layer.register_forward_pre_hook(collect) for layer in layers]
    batches, used = iter(batches), 0
    try:
        while used < iterations and len([forward(batch) for batch in islice(batches, parts)]) == parts:
            all_reduce(moments)
            for of_one, total in zip(moments.split(sizes), totals.split(sizes)):
                count, mean, square = of_one[:1], *(of_one[1:] / of_one[0].clamp(min=1)).chunk(2)
                var = (square - mean**2).clamp(min=0) * count / (count - 1).clamp(min=1)
                total += torch.cat([(count > 0).double(), mean, var])
            moments.zero_()
            used += 1
    finally:
        for handle in handles:
            handle.remove()
    if not used:
        raise UserError("precise BN: the training loader gave no batch")
    for buffer, value in kept:
        buffer.copy_(value)
    for layer, total in zip(layers, totals.split(sizes)):
        if total[0]:
            mean, var = (total[1:] / total[0]).chunk(2)
            layer.running_mean.copy_(mean)
            layer.running_var.copy_(var)
    return used


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """`update_bn_stats` over `iterations` of training, in `parts` each, after the last one.

    Runs before mmengine's CheckpointHook, so that the saved detector is the one evaluated, and before
    validation. Batches and everything random in them are drawn anew from `seed`: the same weights always give
    the same statistics, whether or not the run was interrupted.
    """

    priority = "LOW"

    def __init__(self, iterations: int = 200, parts: int = 1, seed: int = 0):
        self.iterations, self.parts, self.seed = iterations, parts, seed

    def after_train_iter(self, runner: Runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.is_last_train_iter(runner):
            self.run(runner)

    def run(self, runner: Runner) -> None:
        """Re-estimate the statistics of `runner.model` now."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wrapper = getattr(runner, "optim_wrapper", None)  # brings the training's autocast
        number = count()

        def forward(batch: dict) -> None:
            seed_all(self.seed, "precise BN", next(number))
            model(**model.data_preprocessor(batch, training=True), mode="loss")

        model.train()
        batches = stream(runner.train_dataloader, self.seed)
        with wrapper.optim_context(model) if wrapper else nullcontext():
            used = update_bn_stats(model, batches, forward, self.iterations, self.parts)
        runner.logger.info(f"precise BN: statistics re-estimated over {used} iterations")
