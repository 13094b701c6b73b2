"""What a plan would take here, from a few steps of each of its pretrainings and detectors (`--dry-run --measure`)."""
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from benchmarks.data.coco import CocoData, DataError
from benchmarks.environment import PeakMemory
from benchmarks.execute import coco_data
from benchmarks.plan import Plan, Pretraining, Transfer
from detco import engine
from detco.console import CONSOLE
from detco.pool import MemoryPool
from detco.runner import Runner, quiet

STEPS = 3  # that are timed, after one that is not
SIDE = 256  # pixels of the made-up images that pretraining is timed on


@dataclass(frozen=True)
class Cost:
    """Seconds that a whole run would take, and the most bytes it held in its first steps (None where not known)."""

    seconds: float
    memory: int | None


@HOOKS.register_module()
class Stopwatch(Hook):
    """In the place of a run: its first steps, and where it has an evaluation as many of its images, timed."""

    priority = "LOWEST"
    step, image, images = 0.0, 0.0, 0  # seconds of a step and of testing an image; how many would be tested

    def before_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        runner.model.train()
        self.step = _seconds(lambda: loop.run_iter(next(loop.dataloader_iterator)))
        if runner.val_loop is not None:
            runner.model.eval()
            batches, self.images = iter(runner.val_loop.dataloader), len(runner.val_loop.dataloader)
            with torch.no_grad():
                self.image = _seconds(lambda: runner.model.val_step(next(batches)))
            runner.val_loop.evaluated = True
        loop._max_iters = loop._iter


def _seconds(function: Callable[[], object]) -> float:
    """Of a call, the mean of STEPS after one that does not count."""
    for number in range(STEPS + 1):
        if number <= 1:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS


def measure(plan: Plan) -> dict[str, Cost]:
    """Row of a pretraining, or fingerprint of a detector's protocol -> what it would take on this machine in one
    process: steps of random weights on this device, a pretraining's on made-up images in memory, so that what loading
    costs is not in it. Detectors whose data is not there are left out."""
    found = {}
    CONSOLE.quiet = True  # bars would count to the whole run's end
    try:
        for pretraining in plan.pretrainings:
            if pretraining.steps:
                found[pretraining.row] = _pretraining(pretraining)
        for step in plan.transfers:
            if step.protocol.kind == "detector":
                try:
                    data = coco_data(step, plan.data, plan.folders)
                except DataError:
                    continue
                found[step.protocol.fingerprint] = _detector(step, data, plan)
    finally:
        CONSOLE.quiet = False
    return found


def _pretraining(pretraining: Pretraining) -> Cost:
    recipe, memory, watch = pretraining.recipe, PeakMemory(), Stopwatch()
    images = torch.randint(0, 256, (recipe["schedule"]["batch"], 3, SIDE, SIDE), dtype=torch.uint8)
    pool = MemoryPool(images, torch.zeros(len(images), dtype=torch.long), ["a"], "")
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "run.log"):
        runner = engine.runner_of(engine.build(recipe, 1000), pool, recipe, pretraining.steps, Path(folder), 0,
                                  pretraining.row)
        runner.register_hook(watch)
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            runner.train()
    return Cost(pretraining.steps * watch.step, memory.bytes())


def _detector(step: Transfer, data: CocoData, plan: Plan) -> Cost:
    from benchmarks.detection.runner import run, runner_config

    config, memory, watch = step.protocol.config, PeakMemory(), Stopwatch()
    settings = runner_config(step.protocol, data, 0, plan.options.workers or 0, 1,
                             max_per_process=plan.options.max_per_process)
    settings["custom_hooks"].append(watch)
    with tempfile.TemporaryDirectory() as folder:
        run(settings, None, Path(folder), step.protocol.task, False, "amp" in config)
    # Precise BN's passes are forward alone, a third of a step.
    passes = settings["train_cfg"]["max_iters"] + settings["optim_wrapper"]["accumulative_counts"] * config.get(
        "precise_bn", {"iterations": 0})["iterations"] / 3
    return Cost(passes * watch.step + watch.images * watch.image, memory.bytes())
