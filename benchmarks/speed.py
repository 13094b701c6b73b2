"""How fast pretraining is: each pair runs alternately in one process; medians, and the median of their ratios.

    python benchmarks/speed.py                    every part, on the GPU if there is one
    python benchmarks/speed.py encoder plain      some parts
    python benchmarks/speed.py --device cpu --batch 8

Figures of a machine lie in docs/speed/<machine>.json, from which docs/speed.md and docs/scaling.md (an epoch of
ImageNet on eight GPUs) are written; a part that runs again replaces its figures.
"""
import argparse
import importlib.util
import sys
from pathlib import Path

from benchmarks.errors import ended
from benchmarks.timing.measure import Settings
from benchmarks.timing.page import EPOCH, store, table
from benchmarks.timing.parts import PARTS
from detco import config
from detco.console import log
from detco.errors import UserError

FOLDER = config.CONFIGS.parent / "docs" / "speed"


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
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.backends.cudnn.benchmark = True  # for every side, as the engine has it
    for part in arguments.part or PARTS:
        if lacking := _lacking(part, device.type):
            if arguments.part:
                raise UserError(f"part {part}: {lacking}")
            log(f"{part}: left out, {lacking}\n")
            continue
        log(f"{part}: {PARTS[part].__doc__.splitlines()[0]}")
        whole = device.type == "cuda" and part != "step"
        batch = arguments.batch or (epoch.BATCH if whole else epoch.BATCH // epoch.GPUS)
        settings = Settings(device, arguments.arch, batch, arguments.bank, arguments.repeats, arguments.compile,
                            arguments.images)
        store(settings, part, rows := PARTS[part](settings), arguments.out)
        log(table(rows) + "\n")
    log(f"figures  {arguments.out}\npages    {arguments.out.with_suffix('.md')}, {arguments.out.with_name(EPOCH)}")
    return 0


def _lacking(part: str, device: str) -> str:
    """What keeps a part from being measured here; empty if nothing does."""
    from mmengine.device import get_device

    if part == "lightly" and importlib.util.find_spec("lightly") is None:
        return "lightly is not installed: pip install lightly"
    if part == "few_pixels" and device != "cpu":
        return "it is about the CPU: give --device cpu"
    if part == "loop" and device != get_device():
        return f"the engine runs on {get_device()}: leave --device out"
    return ""


if __name__ == "__main__":
    sys.exit(main())
