"""Pictures of what was measured, as PNG and SVG.

    python benchmarks/figures.py curves --scale small
    python benchmarks/figures.py training work_dirs/pretrain/small/detco-p0-* work_dirs/pretrain/small/moco_v2-p0-*
    python benchmarks/figures.py detections detco moco_v2 --scale small --task coco_maskrcnn_c4
    python benchmarks/figures.py data --data orchard.yml
    python benchmarks/figures.py attention detco=FILE moco_v2=FILE --scale small
    python benchmarks/figures.py retrieval detco=FILE moco_v2=torchvision:resnet18 --scale small

curves: of the filed rows, k-NN while pretraining ran, scores over cost, and, from five methods on, which task foretells
which. training: of pretrainings, running or done, their losses, k-NN, and whether features collapse. detections:
objects and what filed rows found, on photos chosen by a hash of their numbers. data: a first look at a detection set of
your own, as `run.py --data` takes it: annotated photos, objects by category and by size. attention (the paper's Figure
6): where checkpoints look. retrieval (its Figure 7): validation images and their nearest neighbours in the pool. A
checkpoint is any file or name that `run.py --checkpoint` takes.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cli import RESULTS
from benchmarks.data.own import PARTS, own_data
from benchmarks.data.sources import SPLITS
from benchmarks.errors import ended
from detco import config
from detco.console import log
from detco.errors import UserError

LEVELS = ("c2", "c3", "c4", "c5")
SIDES = (32, 2048)  # pixels that images of `attention` may be given


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    figures = p.add_subparsers(dest="figure", required=True, metavar="FIGURE")
    for name in ("curves", "training", "detections", "data", "attention", "retrieval"):
        own = figures.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__)
        if name == "detections":
            own.add_argument("methods", nargs="+", metavar="METHOD", help="rows' names")
            own.add_argument("--task", default="coco_maskrcnn_c4", help="default: coco_maskrcnn_c4")
            own.add_argument("--schedule", help="where the rows have several")
            own.add_argument("--score", type=float, default=0.3, metavar="S", help="least of a box (default: 0.3)")
            own.add_argument("--no-photos", dest="photos_shown", action="store_false", help="outlines, without masks")
        elif name == "data":
            own.add_argument("--data", required=True, metavar="NAME", help="a YAML file, or a name and the four paths")
            for part in PARTS:
                own.add_argument(f"--{part.replace('_', '-')}", type=Path, metavar="PATH")
            own.add_argument("--split", choices=SPLITS, default="train", help="default: train")
        elif name == "training":
            own.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="work folders of pretrainings")
            own.add_argument("--over", choices=("step", "images", "encoder_pixels"), default="step",
                             help="default: step")
            own.add_argument("--level", choices=LEVELS, default="c5", help="default: c5")
        elif name != "curves":
            own.add_argument("checkpoints", nargs="+", metavar="NAME=FILE", help="what to call it, and where it lies")
        if name in ("curves", "detections"):
            own.add_argument("--results", type=Path, default=RESULTS, metavar="DIR",
                             help="default: leaderboard/results, of the checkout or of the current folder")
        if name not in ("training", "data"):
            own.add_argument("--scale", choices=config.names("scales"), default="mini",
                             help="whose rows or images (default: mini)")
        if name == "attention":
            own.add_argument("--images", type=Path, nargs="+", metavar="PATH",
                             help="photos, or folders of photos (default: of the scale's validation images)")
            own.add_argument("--level", choices=LEVELS, default="c5", help="default: c5")
            own.add_argument("--size", type=int, default=224, help="of the images, in pixels (default: 224)")
        if name == "retrieval":
            own.add_argument("--neighbours", type=int, default=5, metavar="N", help="a query (default: 5)")
        if name not in ("curves", "training"):
            own.add_argument("--count", type=int, default=16 if name == "data" else 6, metavar="N",
                             help="photos, or queries (default: %(default)s)")
        if name in ("detections", "attention", "retrieval"):
            own.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="default: data")
        own.add_argument("--output", type=Path, default=Path("work_dirs/figures"), metavar="DIR",
                         help="default: work_dirs/figures")
    return p


def main(words: Sequence[str] | None = None) -> int:
    """Draw; the exit status (`benchmarks.errors.ended`)."""
    given = vars(parser().parse_args(words))
    output = given.pop("output")
    return ended(lambda: run(given.pop("figure"), output, given), Path("work_dirs"))


def run(figure: str, output: Path, given: dict) -> int:
    """Draw a figure, and say where it lies. Raises UserError, RecordError and CheckpointError."""
    for option in ("count", "neighbours"):
        if given.get(option, 1) < 1:
            raise UserError(f"--{option} {given[option]}: give 1 or more")
    if not SIDES[0] <= given.get("size", SIDES[0]) <= SIDES[1]:
        raise UserError(f"--size {given['size']}: give {SIDES[0]} to {SIDES[1]}")
    if figure == "data":
        given["own"] = own_data(given.pop("data"), {part: given.pop(part) for part in PARTS})
    if "checkpoints" in given:
        given["checkpoints"] = _named(given["checkpoints"])
    from benchmarks.drawing import commands  # late: imports matplotlib

    for path in commands.FIGURES[figure](output, **given):
        log(str(path))
    return 0


def _named(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equal, path = word.partition("=")
        if not (name and equal and path):
            raise UserError(f"{word}: give NAME=FILE, what to call a checkpoint and where it lies")
        if name in found:
            raise UserError(f"{name} is given twice: each checkpoint has a name of its own")
        found[name] = path
    return found


if __name__ == "__main__":
    sys.exit(main())
