"""How fast pretraining is: each pair runs alternately in one process; medians, and the median of their ratios.

    python benchmarks/speed.py                    every part, on the GPU if there is one
    python benchmarks/speed.py encoder plain      some parts
    python benchmarks/speed.py --device cpu --batch 8

Figures of a machine lie in docs/speed/<machine>.json, from which docs/speed.md and docs/scaling.md (an epoch of
ImageNet on eight GPUs) are written; a part that runs again replaces its figures.
"""
import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.command import ended
from detco.console import say

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "speed"
EPOCH = "scaling.md"  # beside FOLDER
BANKS = 8


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    p.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    p.add_argument("--arch", default="resnet50", help="default: resnet50")
    p.add_argument("--batch", type=int, metavar="N",
                   help="images a step (default: 256 on cuda, 8 on cpu; part step: 32, a GPU's share of eight)")
    p.add_argument("--bank", type=int, default=65536, metavar="K", help="keys a bank (default: 65536)")
    p.add_argument("--repeats", type=int, default=7, metavar="R", help="rounds of each pair (default: 7)")
    p.add_argument("--images", type=Path, metavar="DIR", help="JPEGs for the loader (default: 64 drawn scenes)")
    p.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="default: docs/speed")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; the exit status (`benchmarks.command.ended`)."""
    arguments = parser().parse_args(argv)
    return ended(lambda: run(arguments), Path("work_dirs"))


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, and write what the command line asks for. Raises ValueError for arguments that fit nothing."""
    import torch

    from benchmarks import epoch

    if unknown := set(arguments.part) - set(PARTS):
        raise ValueError(f"unknown part {', '.join(sorted(unknown))}: known: {', '.join(PARTS)}")
    if arguments.repeats < 2:
        raise ValueError(f"--repeats {arguments.repeats}: quartiles take 2 or more")
    arguments.device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for part in arguments.part or PARTS:
        say(f"{part}: {PARTS[part].__doc__.splitlines()[0]}")
        batch = arguments.batch or (epoch.BATCH // epoch.GPUS if part == "step" else
                                    256 if arguments.device.type == "cuda" else 8)
        own = argparse.Namespace(**vars(arguments) | {"batch": batch})
        store(own, part, rows := PARTS[part](own))
        say(table(rows) + "\n")
    say(f"figures  {arguments.out}\npages    {arguments.out.with_suffix('.md')}, {arguments.out.with_name(EPOCH)}")
    return 0


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
    settings = config.load(config.CONFIGS / "pretrain" / f"{name}.py")
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

    from benchmarks.rivals import SGD

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


def step(arguments: argparse.Namespace) -> list[dict]:
    """A whole step: views drawn from crops on the device, networks, losses, optimiser, banks and twin"""
    import torch

    rows = []
    for name in ("detco", "moco_v2"):
        method, views = method_and_views(name, arguments)
        crops = {key: torch.randint(0, 256, (arguments.batch, 3, view.size, view.size), dtype=torch.uint8,
                                    device=arguments.device) for key, view in method.view_specs.items()}
        for precision, amp in precisions(arguments).items():
            seconds = {side: statistics.median(rounds) for side, rounds in interleaved(
                {"views": lambda: method.views({"images": crops}), "step": own_step(method, views, amp)},
                arguments).items()}
            rows.append({"method": name, "precision": precision, "views, ms": 1e3 * seconds["views"],
                         "the rest, ms": 1e3 * seconds["step"],
                         "images a second": arguments.batch / sum(seconds.values())})
    return rows


def precisions(arguments: argparse.Namespace) -> dict[str, bool]:
    """Precision -> whether it is autocast: bfloat16 is what `amp` gives on CUDA."""
    return {"float32": False} | ({"bfloat16": True} if arguments.device.type == "cuda" else {})


def against(other: Callable, what: str, method, views: dict, arguments: argparse.Namespace) -> list[dict]:
    """A row a precision of ours: `other`, given whether ours is autocast, is the other side's step."""
    rows = []
    for name, amp in precisions(arguments).items():
        seconds = interleaved({"ours": own_step(method, views, amp), "other": other(amp)}, arguments)
        rows.append(compared(what.format(name), seconds, "ours", "other"))
    return rows


def encoder(arguments: argparse.Namespace) -> list[dict]:
    """DetCo's step and the bare encoder: the same passes on the same pixels and a trivial loss"""
    from benchmarks.rivals import bare_step

    method, views = method_and_views("detco", arguments)
    return against(lambda amp: bare_step(arguments.arch, views, arguments.device, amp), "bare encoder, both in {}",
                   method, views, arguments)


def plain(arguments: argparse.Namespace) -> list[dict]:
    """DetCo's step and a plain implementation in float32"""
    from benchmarks.rivals import PlainDetCo

    method, views = method_and_views("detco", arguments)
    step = PlainDetCo(method)
    return against(lambda amp: lambda: step(views), "plain DetCo in float32, ours in {}", method, views, arguments)


def lightly(arguments: argparse.Namespace) -> list[dict]:
    """MoCo v2's step and lightly's, in float32, which is lightly's default"""
    from benchmarks.rivals import LightlyMoCoV2

    method, views = method_and_views("moco_v2", arguments)
    try:
        step = LightlyMoCoV2(arguments.arch, arguments.bank, method.temperature, method.twin.momentum)
    except ImportError:
        raise ValueError("part lightly: lightly is not installed: pip install lightly") from None
    step.to(arguments.device)
    return against(lambda amp: lambda: step(views), "lightly's MoCo v2 in float32, ours in {}", method, views,
                   arguments)


def memory(arguments: argparse.Namespace) -> list[dict]:
    """Memory of eight banks and their losses, forward and backward, above everything else, at batch 256"""
    import torch
    from torch import multiprocessing

    if arguments.device.type == "cuda":
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
    from detco.bank import MemoryBank

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

    from benchmarks import epoch
    from benchmarks.rivals import PilViews
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

    from detco.drawn import draw_scenes

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


PARTS = {part.__name__: part for part in (step, encoder, plain, lightly, memory, loader, scaling)}


# --- the page ----------------------------------------------------------------------------------------------------

def store(arguments: argparse.Namespace, part: str, rows: list[dict]) -> None:
    """Write a part's figures into the machine's file, then the page and the plots anew from every file."""
    from benchmarks import epoch
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
        lines += [f"## {next(iter(figures.values()))['machine']}", ""]
        for part in (name for name in PARTS if name in figures):
            entry = figures[part]
            versions, commit = entry["environment"]["versions"], (entry["environment"]["commit"] or "none")[:12]
            commit += " with changes" * bool(entry["environment"]["dirty"])
            lines += [f"### {PARTS[part].__doc__.splitlines()[0]}", "", table(entry["rows"]), "",
                      "{arch}, batch {batch}, K {bank:,}, {repeats} rounds; ".format(**entry["settings"])
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
        axis.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
