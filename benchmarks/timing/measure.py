"""How sides are timed: in turns, in one process; a method's step and views to time."""
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What a part is measured with.

    Attributes:
        device: a torch.device.
        arch, batch, bank: the backbone, images a step, keys a bank.
        repeats: rounds of each pair.
        compile: measure compiled backbones too.
        images: a folder of JPEGs for the loader; None for synthetic ones.
    """

    device: Any
    arch: str
    batch: int
    bank: int
    repeats: int
    compile: bool
    images: Path | None


def interleaved(sides: dict[str, Callable], settings: Settings) -> dict[str, list[float]]:
    """Seconds of each side's every round. Sides take turns, in turned order every other round, so that a machine
    that slows down slows both; two rounds before them do not count."""
    import torch

    steps = 5 if settings.device.type == "cuda" else 1
    seconds = {name: [] for name in sides}
    for number in range(-2, settings.repeats):
        for name in list(sides)[::-1 if number % 2 else 1]:
            if settings.device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                sides[name]()
            if settings.device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


def compared(what: str, seconds: dict[str, list[float]], ours: str, other: str, **more) -> dict:
    """A row: the other side's time over ours, round by round; the ratio's median and quartiles."""
    ratios = [b / a for a, b in zip(seconds[ours], seconds[other])]
    low, _, high = statistics.quantiles(ratios, n=4)
    return dict(what=what, ours=statistics.median(seconds[ours]), other=statistics.median(seconds[other]),
                ratio=statistics.median(ratios), low=low, high=high, repeats=len(ratios), **more)


def method_and_views(name: str, settings: Settings):
    """A method of the paper's configuration on the device, and a batch of its views."""
    import torch

    from detco import config, engine

    torch.manual_seed(0)
    recipe = config.load_method(name)
    # One split: what each of eight ranks computes, and the rivals do.
    recipe["method"] |= dict(arch=settings.arch, bank_size=settings.bank, bn_splits=1)
    method = engine.build(recipe, 1).to(settings.device, memory_format=torch.channels_last)
    views = {}
    for view_name, view in method.view_specs.items():
        shape = (view.grid**2, 3, view.patch, view.patch) if view.grid else (3, view.size, view.size)
        views[view_name] = torch.randn(settings.batch, *shape, device=settings.device)
    return method, views


def own_step(method, views: dict, amp: bool) -> Callable:
    """A training step of ours: what the engine does between two batches, the drawing of views left out."""
    import torch

    from benchmarks.timing.rivals import SGD

    device = next(method.parameters()).device
    optimizer = torch.optim.SGD(method.encoder.parameters(), fused=True, **SGD)

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            losses = method.loss(views)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        method.after_step()

    return step


def variants(method, settings: Settings) -> Iterator[tuple[str, bool, bool]]:
    """(name, autocast, compiled) of each way a step is measured in, one after the other: for the last the method's
    backbones are compiled for good. bfloat16 is what `amp` gives on CUDA."""
    from detco import engine

    yield "float32", False, False
    on_cuda = settings.device.type == "cuda"
    if on_cuda:
        yield "bfloat16", True, False
    if on_cuda or settings.compile:
        engine.compile_backbones(method)
        yield "bfloat16 compiled" if on_cuda else "float32 compiled", on_cuda, True


def against(others: dict[str, Callable], method, views: dict, settings: Settings) -> list[dict]:
    """Rows of each variant of ours beside each other side: what it is, with room for the variant's name and precision,
    and a function of (autocast, compiled) that gives its step."""
    rows = {}
    for name, amp, compiled in variants(method, settings):
        for what, other in others.items():
            what = what.format(ours=name, precision="bfloat16" if amp else "float32")
            if what not in rows:
                seconds = interleaved({"ours": own_step(method, views, amp), "other": other(amp, compiled)}, settings)
                rows[what] = compared(what, seconds, "ours", "other")
    return list(rows.values())
