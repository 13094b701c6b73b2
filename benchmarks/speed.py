"""How fast pretraining is: each pair runs alternately in one process; medians, and the median of their ratios.

    python benchmarks/speed.py                    every part, on the GPU if there is one
    python benchmarks/speed.py encoder plain      some parts
    python benchmarks/speed.py --device cpu --batch 8

Figures of a machine lie in docs/speed/<machine>.json, from which docs/speed.md and docs/scaling.md (an epoch of
ImageNet on eight GPUs) are written; a part that runs again replaces its figures.
"""
import argparse
import importlib.util
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.errors import ended
from detco.console import CONSOLE, log
from detco.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "speed"
EPOCH = "scaling.md"  # beside FOLDER
BANKS = 8
SHOWN = 12  # operators of what remains
SETTINGS = dict(arch="{}", batch="batch {}", bank="K {:,}", repeats="{} rounds")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    p.add_argument("--compile", action="store_true", help="measure compiled backbones too (always on cuda)")
    p.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    p.add_argument("--arch", default="resnet50", help="default: resnet50")
    p.add_argument("--batch", type=int, metavar="N",
                   help="images a step (default: 32, a device's share of the paper's 256; cuda: 256 but for part step)")
    p.add_argument("--bank", type=int, default=65536, metavar="K", help="keys a bank (default: 65536)")
    p.add_argument("--repeats", type=int, default=7, metavar="R", help="rounds of each pair (default: 7)")
    p.add_argument("--images", type=Path, metavar="DIR", help="JPEGs for the loader (default: 64 synthetic scenes)")
    p.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="default: docs/speed")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; the exit status (`benchmarks.errors.ended`)."""
    arguments = parser().parse_args(argv)
    return ended(lambda: run(arguments), Path("work_dirs"))


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write what the command line asks for. Raises UserError for arguments that fit nothing."""
    import torch

    from benchmarks.timing import epoch

    if unknown := set(arguments.part) - set(PARTS):
        raise UserError(f"unknown part {', '.join(sorted(unknown))}: known: {', '.join(PARTS)}")
    if arguments.repeats < 2:
        raise UserError(f"--repeats {arguments.repeats}: quartiles take 2 or more")
    arguments.device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cudnn.benchmark = True  # for every side, as the engine has it
    for part in arguments.part or PARTS:
        if lacking := _lacking(part, arguments):
            if arguments.part:
                raise UserError(f"part {part}: {lacking}")
            log(f"{part}: left out, {lacking}\n")
            continue
        log(f"{part}: {PARTS[part].__doc__.splitlines()[0]}")
        whole = arguments.device.type == "cuda" and part != "step"
        batch = arguments.batch or (epoch.BATCH if whole else epoch.BATCH // epoch.GPUS)
        own = argparse.Namespace(**vars(arguments) | {"batch": batch})
        store(own, part, rows := PARTS[part](own))
        log(table(rows) + "\n")
    log(f"figures  {arguments.out}\npages    {arguments.out.with_suffix('.md')}, {arguments.out.with_name(EPOCH)}")
    return 0


def _lacking(part: str, arguments: argparse.Namespace) -> str:
    """What keeps a part from being measured here; empty if nothing does."""
    from mmengine.device import get_device

    if part == "lightly" and importlib.util.find_spec("lightly") is None:
        return "lightly is not installed: pip install lightly"
    if part == "loop" and arguments.device.type != get_device():
        return f"the engine runs on {get_device()}: leave --device out"
    return ""


# --- measuring ---------------------------------------------------------------------------------------------------

def interleaved(sides: dict[str, Callable], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each side's every round. Sides take turns, in turned order every other round, so that a machine
    that slows down slows both; two rounds before them do not count."""
    import torch

    steps = 5 if arguments.device.type == "cuda" else 1
    seconds = {name: [] for name in sides}
    for number in range(-2, arguments.repeats):
        for name in list(sides)[::-1 if number % 2 else 1]:
            if arguments.device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                sides[name]()
            if arguments.device.type == "cuda":
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append((time.perf_counter() - start) / steps)
    return seconds


def compared(what: str, seconds: dict[str, list[float]], ours: str, other: str, **settings) -> dict:
    """A row: the other side's time over ours, round by round; the ratio's median and quartiles."""
    ratios = [b / a for a, b in zip(seconds[ours], seconds[other])]
    low, _, high = statistics.quantiles(ratios, n=4)
    return dict(what=what, ours=statistics.median(seconds[ours]), other=statistics.median(seconds[other]),
                ratio=statistics.median(ratios), low=low, high=high, repeats=len(ratios), **settings)


def table(rows: list[dict]) -> str:
    """Rows for the console and the page, in markdown."""
    from tabulate import tabulate

    if "ratio" not in rows[0]:
        return tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".4g")
    lines = [(row["what"], 1000 * row["ours"], 1000 * row["other"], row["ratio"],
              f"{row['low']:.2f} to {row['high']:.2f}") for row in rows]
    return tabulate(lines, ("", "ours, ms", "other, ms", "other / ours", "quartiles"), "pipe",
                    floatfmt=("", ".1f", ".1f", ".3f", ""))


# --- the parts ---------------------------------------------------------------------------------------------------

def method_and_views(name: str, arguments: argparse.Namespace):
    """A method of the paper's configuration on the device, and a batch of its views."""
    import torch

    from detco import config, engine

    torch.manual_seed(0)
    settings = config.load_method(name)
    settings["method"] |= dict(arch=arguments.arch, bank_size=arguments.bank)
    method = engine.build(settings, 1).to(arguments.device, memory_format=torch.channels_last)
    views = {}
    for view_name, view in method.view_specs.items():
        shape = (view.grid**2, 3, view.patch, view.patch) if view.grid else (3, view.size, view.size)
        views[view_name] = torch.randn(arguments.batch, *shape, device=arguments.device)
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


def variants(method, arguments: argparse.Namespace):
    """(name, autocast, compiled) of each way a step is measured in, one after the other: for the last the method's
    backbones are compiled for good. bfloat16 is what `amp` gives on CUDA."""
    from detco import engine

    yield "float32", False, False
    on_cuda = arguments.device.type == "cuda"
    if on_cuda:
        yield "bfloat16", True, False
    if on_cuda or arguments.compile:
        engine.compile_backbones(method)
        yield "bfloat16 compiled" if on_cuda else "float32 compiled", on_cuda, True


def step(arguments: argparse.Namespace) -> list[dict]:
    """A whole step: views drawn from crops on the device, networks, losses, optimiser, banks and momentum encoder"""
    import torch

    rows = []
    for name in ("detco", "moco_v2"):
        method, views = method_and_views(name, arguments)
        crops = {key: torch.randint(0, 256, (arguments.batch, 3, view.size, view.size), dtype=torch.uint8,
                                    device=arguments.device) for key, view in method.view_specs.items()}
        for precision, amp, _ in variants(method, arguments):
            seconds = {side: statistics.median(rounds) for side, rounds in interleaved(
                {"views": lambda: method.views({"images": crops}), "step": own_step(method, views, amp)},
                arguments).items()}
            rows.append({"method": name, "precision": precision, "views, ms": 1e3 * seconds["views"],
                         "the rest, ms": 1e3 * seconds["step"],
                         "images a second": arguments.batch / sum(seconds.values())})
    return rows


def loop(arguments: argparse.Namespace) -> list[dict]:
    """A step as the engine takes it, its loop, hooks and logging included, and the same by hand"""
    import torch
    from mmengine.hooks import Hook

    from detco import config, engine
    from detco.pool import MemoryPool
    from detco.runner import CHECK_EVERY, quiet

    method, views = method_and_views("detco", arguments)
    n = 2 * arguments.batch
    images = torch.randint(0, 256, (n, 3, 256, 256), dtype=torch.uint8)
    pool = MemoryPool(images, torch.zeros(n, dtype=torch.long), ["a"], "")
    there, on_cuda = pool.to(arguments.device), arguments.device.type == "cuda"
    index = torch.arange(arguments.batch, device=arguments.device)
    taken = own_step(method, views, on_cuda)
    count = CHECK_EVERY if on_cuda else 1  # a round has every hook's rarest work in it, where that could tell

    def by_hand():
        views.update(method.views(there.batch(index)))
        taken()

    def repeated(step):
        def steps():
            for _ in range(count):
                step()
        return steps

    class Measure(Hook):
        priority = "LOWEST"  # what a step needs is there

        def before_train_epoch(self, runner):
            loop = runner.train_loop
            seconds = interleaved({"ours": repeated(lambda: loop.run_iter(next(loop.dataloader_iterator))),
                                   "other": repeated(by_hand)}, arguments)
            self.seconds = {name: [s / count for s in rounds] for name, rounds in seconds.items()}
            loop._max_iters = loop._iter

    measure = Measure()
    settings = config.load_method("detco")
    settings["schedule"]["batch"] = arguments.batch
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "run.log"):
        runner = engine.runner_of(method, pool, settings, 1_000_000, Path(folder), 0, "engine")
        runner.register_hook(measure)
        CONSOLE.quiet = True  # its bar would count to a million
        try:
            runner.train()
        finally:
            CONSOLE.quiet = False
    return [compared(f"DetCo by hand in {'bfloat16' if on_cuda else 'float32'}", measure.seconds, "ours", "other")]


def against(others: dict[str, Callable], method, views: dict, arguments: argparse.Namespace) -> list[dict]:
    """Rows of each variant of ours beside each other side: what it is, with room for the variant's name and precision,
    and a function of (autocast, compiled) that gives its step."""
    rows = {}
    for name, amp, compiled in variants(method, arguments):
        for what, other in others.items():
            what = what.format(ours=name, precision="bfloat16" if amp else "float32")
            if what not in rows:
                seconds = interleaved({"ours": own_step(method, views, amp), "other": other(amp, compiled)}, arguments)
                rows[what] = compared(what, seconds, "ours", "other")
    return list(rows.values())


def encoder(arguments: argparse.Namespace) -> list[dict]:
    """DetCo's step and the bare encoder: the same passes on the same pixels and a trivial loss"""
    from benchmarks.timing.rivals import bare_step

    method, views = method_and_views("detco", arguments)
    return against({"bare encoder, both in {ours}": lambda amp, compiled: bare_step(
        arguments.arch, views, arguments.device, amp, compiled)}, method, views, arguments)


def remains(arguments: argparse.Namespace) -> list[dict]:
    """What is left between DetCo's step and the bare encoder: operators' own time, by torch's profiler"""
    import torch

    from benchmarks.timing.rivals import bare_step

    method, views = method_and_views("detco", arguments)
    on_cuda = arguments.device.type == "cuda"
    sides = {"step": own_step(method, views, on_cuda),
             "bare": bare_step(arguments.arch, views, arguments.device, on_cuda)}
    kind = "device" if on_cuda else "cpu"
    activities = [getattr(torch.profiler.ProfilerActivity, name) for name in ("CPU", "CUDA")[:1 + on_cuda]]
    spent = {}
    for number in range(-2, arguments.repeats):
        for name, taken in sides.items():
            with torch.profiler.profile(activities=activities) as profiler:
                taken()
            for event in profiler.key_averages() if number >= 0 else ():
                if event.device_type == torch.autograd.DeviceType.CPU:  # kernels count with what starts them
                    both = spent.setdefault(event.key.removeprefix("aten::"), dict.fromkeys(sides, 0.0))
                    both[name] += getattr(event, f"self_{kind}_time_total") / 1000 / arguments.repeats
    rows = [{"operator": key, "step, ms": both["step"], "bare, ms": both["bare"],
             "more, ms": both["step"] - both["bare"]} for key, both in spent.items()]
    rows.sort(key=lambda row: -abs(row["more, ms"]))

    def total(title, part):
        return {"operator": title} | {name: sum(row[name] for row in part) for name in list(rows[0])[1:]}

    return [*rows[:SHOWN], total("all others", rows[SHOWN:]), total("together", rows)]


def plain(arguments: argparse.Namespace) -> list[dict]:
    """DetCo's step and a plain implementation in float32"""
    from benchmarks.timing.rivals import PlainDetCo

    method, views = method_and_views("detco", arguments)
    step = PlainDetCo(method)
    return against({"plain DetCo in float32, ours in {ours}": lambda *_: lambda: step(views)}, method, views, arguments)


def lightly(arguments: argparse.Namespace) -> list[dict]:
    """MoCo v2's step and lightly's, whose default is float32"""
    from benchmarks.timing.rivals import LightlyMoCoV2

    method, views = method_and_views("moco_v2", arguments)
    step = LightlyMoCoV2(arguments.arch, arguments.bank, method.temperature, method.momentum_encoder.momentum).to(arguments.device)
    return against({"lightly's MoCo v2 in float32, ours in {ours}": lambda *_: lambda: step(views),
                    "lightly's MoCo v2 in {precision}, ours in {ours}": lambda amp, _: lambda: step(views, amp)},
                   method, views, arguments)


def memory(arguments: argparse.Namespace) -> list[dict]:
    """Memory of eight banks and their losses, forward and backward, above everything else, at batch 256"""
    import torch
    from torch import multiprocessing

    if arguments.device.type == "cuda":
        banks_and_losses(8, 64, arguments.device)  # the products' workspace
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        banks_and_losses(256, arguments.bank, arguments.device)
        extra = torch.cuda.max_memory_allocated() - before
    else:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process whose peak is its own
            extra = pool.apply(_peak_of_banks_and_losses, (256, arguments.bank))
    banks = BANKS * arguments.bank * 128 * 4
    return [{"MB in all": extra / 1e6, "MB of banks": banks / 1e6, "MB of losses": (extra - banks) / 1e6}]


def _peak_of_banks_and_losses(batch: int, size: int) -> int:
    import torch

    from benchmarks.transfer import process_peak

    banks_and_losses(8, 64, torch.device("cpu"))  # libraries load and make their buffers
    before = process_peak()
    banks_and_losses(batch, size, torch.device("cpu"))
    return process_peak() - before


def banks_and_losses(batch: int, size: int, device, levels: int = 4) -> None:
    """DetCo's banks and one step's losses, gradients and new keys on random unit vectors."""
    contrast(make_banks(size, device, levels), batch)


def make_banks(size: int, device, levels: int = 4) -> list:
    """DetCo's banks of so many keys, a global and a local one a level."""
    from detco.memory_bank import MemoryBank

    return [MemoryBank(size, 128).to(device) for _ in range(2 * levels)]


def contrast(banks: list, batch: int) -> None:
    """Losses, gradients and new keys of a step: two queries a key against global banks, one against local ones."""
    import torch
    from torch.nn.functional import normalize

    from detco.loss import info_nce

    device = banks[0].keys.device
    for number, bank in enumerate(banks):
        stacked = 2 - number % 2
        query = normalize(torch.randn(stacked * batch, 128, device=device)).requires_grad_()
        keys = normalize(torch.randn(batch, 128, device=device))
        info_nce(query, keys.repeat(stacked, 1), bank.keys, 0.2).mean().backward()
        bank.enqueue(keys)


def loader(arguments: argparse.Namespace) -> list[dict]:
    """A photo's four views, 2 x 224 and 18 x 64 pixels, on one core; torchvision's transforms of PIL images"""
    import torch
    from torchvision.datasets.folder import default_loader

    from benchmarks.timing import epoch
    from benchmarks.timing.rivals import PilViews
    from detco.pool import FolderPool

    method, _ = method_and_views("detco", arguments)
    with tempfile.TemporaryDirectory() as folder:
        pool = FolderPool.load(arguments.images or _drawn_photos(Path(folder))).cropped(method.view_specs, seed=0)
        count, threads = min(64, len(pool)), torch.get_num_threads()
        pool = replace(pool, samples=pool.samples * (epoch.IMAGES // len(pool)))  # as many as ImageNet's
        torch.set_num_threads(1)
        other = PilViews(method.view_specs)
        sides = {
            "crops": lambda: [pool[i, i] for i in range(count)],
            "views": lambda: method.views(torch.utils.data.default_collate([pool[i, i] for i in range(count)])),
            "PIL": lambda: torch.utils.data.default_collate([other(default_loader(path))
                                                             for path, _ in pool.samples[:count]]),
        }
        try:
            seconds = {name: [s / count for s in rounds] for name, rounds in interleaved(
                sides, argparse.Namespace(**vars(arguments) | {"device": torch.device("cpu")})).items()}
        finally:
            torch.set_num_threads(threads)
    rate = {name: f"{1 / statistics.median(values):.0f} images a second" for name, values in seconds.items()}
    return [compared(f"a worker's part ({rate['crops']}; PIL {rate['PIL']})", seconds, "crops", "PIL"),
            compared(f"all of it on the core ({rate['views']})", seconds, "views", "PIL")]


def _drawn_photos(folder: Path) -> Path:
    """Drawn scenes of ImageNet's usual size as JPEGs, in a class folder."""
    from PIL import Image

    from benchmarks.data.synthetic import draw_scenes

    (folder / "scenes").mkdir()
    for i, image in enumerate(draw_scenes(64, 500)[0]):
        Image.fromarray(image[:375]).save(folder / "scenes" / f"{i:02d}.jpg", quality=90)
    return folder


def scaling(arguments: argparse.Namespace) -> list[dict]:
    """Losses and banks, time against keys a bank, batch and levels"""
    rows = []
    for what, values, settings in (
            ("keys a bank", [1024 << i for i in range(0, 9)], lambda v: (v, 64, 4)),
            ("batch", [32 << i for i in range(0, 6)], lambda v: (16384, v, 4)),
            ("levels", [1, 2, 3, 4], lambda v: (arguments.bank, 64, v))):
        sides = {}
        for value in values:
            size, batch, levels = settings(value)
            banks = make_banks(size, arguments.device, levels)
            sides[str(value)] = lambda banks=banks, batch=batch: contrast(banks, batch)
        for value, seconds in interleaved(sides, arguments).items():
            rows.append({"against": what, "value": int(value), "ms": 1000 * statistics.median(seconds)})
    return rows


PARTS = {part.__name__: part for part in (step, loop, encoder, remains, plain, lightly, memory, loader, scaling)}


# Of the settings, those that a part's figures depend on.
USED = dict.fromkeys(PARTS, tuple(SETTINGS)) | dict(memory=("bank",), loader=("repeats",), scaling=("bank", "repeats"))


# --- the page ----------------------------------------------------------------------------------------------------

def _ratio(ending: str) -> Callable:
    """The ratio of the row whose name ends so."""
    return lambda rows: next((row["ratio"] for row in rows if row["what"].endswith(ending)), None)


def _growth(rows: list[dict]) -> float:
    """The power of size that cost grows with, from the least to the largest; that of the worst kind of size."""
    kinds = {row["against"]: [] for row in rows}
    for row in rows:
        kinds[row["against"]].append((row["value"], row["ms"]))
    return max(math.log(last[1] / first[1]) / math.log(last[0] / first[0]) for first, *_, last in kinds.values())


# (what, part, "most" or "least", target by device, its value in the part's rows)
TARGETS = (
    ("DetCo's step / bare encoder's, the worst precision", "encoder", "most", dict(cuda=1.05, cpu=1.1),
     lambda rows: max(1 / row["ratio"] for row in rows)),
    ("plain DetCo's step / ours, both in float32", "plain", "least", dict(cuda=1.5, cpu=1.3),
     _ratio("ours in float32")),
    ("plain DetCo's step in float32 / ours in bfloat16", "plain", "least", dict(cuda=3), _ratio("ours in bfloat16")),
    ("lightly's MoCo v2 step / ours, both in float32", "lightly", "least", dict(cuda=1, cpu=1),
     _ratio("in float32, ours in float32")),
    ("lightly's MoCo v2 step / ours, both in bfloat16", "lightly", "least", dict(cuda=1),
     _ratio("in bfloat16, ours in bfloat16")),
    ("lightly's MoCo v2 step in float32 / ours in bfloat16, each one's default", "lightly", "least", dict(cuda=1.5),
     _ratio("in float32, ours in bfloat16")),
    ("MB of banks and losses", "memory", "most", dict(cuda=450, cpu=450), lambda rows: rows[0]["MB in all"]),
    ("torchvision-PIL pipeline / ours, all of it on one core", "loader", "least", dict(cuda=1.5, cpu=1.5),
     lambda rows: rows[1]["ratio"]),
    ("growth of cost as a power of keys, batch and levels, 1 and noise; the worst", "scaling", "most",
     dict(cuda=1.05, cpu=1.05), _growth),
)


def targets(figures: dict) -> str:
    """What a machine's figures should be beside what they are, in markdown."""
    from tabulate import tabulate

    lines = []
    for what, part, bound, by_device, value_in in TARGETS:
        entry = figures.get(part)
        target = entry and by_device.get(entry["device"])
        if target and (value := value_in(entry["rows"])) is not None:
            met = value <= target if bound == "most" else value >= target
            lines.append((what, f"at {bound} {target:g}", f"{value:.3g}", "yes" if met else "no"))
    return tabulate(lines, ("", "target", "measured", "met"), "pipe", disable_numparse=True)


def store(arguments: argparse.Namespace, part: str, rows: list[dict]) -> None:
    """Write a part's figures into the machine's file, then the page and the plots anew from every file."""
    from benchmarks.timing import epoch
    from benchmarks.transfer import device_name, environment
    from detco.files import replacing

    machine = device_name(arguments.device.type)
    path = arguments.out / f"{'-'.join(''.join(c if c.isalnum() else ' ' for c in machine).lower().split())}.json"
    figures = json.loads(path.read_text()) if path.is_file() else {}
    settings = {name: getattr(arguments, name) for name in ("arch", "batch", "bank", "repeats")}
    figures[part] = dict(rows=rows, settings=settings, machine=machine, device=arguments.device.type,
                         environment=environment())
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=1))
    if part == "scaling":
        plot(rows, path.with_suffix(".png"))
    machines = [json.loads(path.read_text()) for path in sorted(arguments.out.glob("*.json"))]
    for page_path, text in ((arguments.out.with_suffix(".md"), page(arguments.out)),
                            (arguments.out.with_name(EPOCH), epoch.page(machines))):
        with replacing(page_path) as temporary:
            temporary.write_text(text)


def page(folder: Path) -> str:
    """The page of every machine's figures, in markdown."""
    lines = ["# Speed of pretraining", "", "Written by `python benchmarks/speed.py`; do not edit. Ratios of sides that "
             "took turns in one process: medians over rounds, with quartiles. Times alone do not compare between "
             "machines.", ""]
    for path in sorted(folder.glob("*.json")):
        figures = json.loads(path.read_text())
        lines += [f"## {next(iter(figures.values()))['machine']}", "", targets(figures), ""]
        for part in (name for name in PARTS if name in figures):
            entry = figures[part]
            versions, commit = entry["environment"]["versions"], (entry["environment"]["commit"] or "none")[:12]
            commit += " with changes" * bool(entry["environment"]["dirty"])
            lines += [f"### {PARTS[part].__doc__.splitlines()[0]}", "", table(entry["rows"]), "",
                      ", ".join(SETTINGS[name].format(entry["settings"][name]) for name in USED[part]) + "; "
                      + "torch {torch}, torchvision {torchvision}, ".format(**versions) + f"commit {commit}.", ""]
            if part == "scaling":
                lines += [f"![time against keys, batch and levels]({folder.name}/{path.stem}.png)", ""]
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Time against each size, on two logarithmic axes beside the straight line of proportional cost."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from detco.files import replacing

    kinds = list(dict.fromkeys(row["against"] for row in rows))
    figure = Figure(figsize=(4 * len(kinds), 3.2), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(kinds)), kinds):
        x, y = zip(*((row["value"], row["ms"]) for row in rows if row["against"] == kind))
        axis.loglog(x, y, "o-", label="measured")
        axis.loglog(x, [y[-1] * value / x[-1] for value in x], ":", color="grey", label="proportional")
        axis.set(xlabel=kind, ylabel="ms a step", xticks=x,
                 xticklabels=[f"{value // 1024}k" if value >= 1024 else value for value in x])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(axis="x", labelsize="x-small")
        axis.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
