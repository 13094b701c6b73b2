"""Two methods' filed detections on the same photos: how far their difference depends on these, and what goes wrong.

    python benchmarks/compare.py detco moco_v2 --scale small --task coco_maskrcnn_c4

Reads the board's records and the detections kept beside it (`leaderboard/detections/`), and the data they were tested
on. For each pair of runs with the same seeds the photos are drawn with replacement, the same for both, and COCO's AP is
accumulated again; the official figures stay pycocotools'. Errors are TIDE's six kinds: what AP50 would gain without
each.
"""
import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from benchmarks import filed
from benchmarks.cli import RESULTS
from benchmarks.errors import ended
from detco.console import CONSOLE, log
from detco.errors import UserError
from leaderboard import detections
from leaderboard.checks import Record, run_of
from leaderboard.statistics import Difference, difference, holm, verdict
from leaderboard.tables import render

KINDS = ("bbox", "segm", "keypoints")
METRICS = ("AP", "AP50", "AP75")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("methods", nargs=2, metavar="METHOD", help="rows' names; differences are the first less the second")
    p.add_argument("--scale", default="mini", help="default: mini")
    p.add_argument("--task", default="coco_maskrcnn_c4", help="default: coco_maskrcnn_c4")
    p.add_argument("--schedule", help="where the rows have several")
    p.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the photos, a pair (default: 1000)")
    p.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    p.add_argument("--results", type=Path, default=RESULTS, metavar="DIR",
                   help="default: leaderboard/results, of the checkout or of the current folder")
    return p


def main(words: Sequence[str] | None = None) -> int:
    """Compare; the exit status (`benchmarks.errors.ended`)."""
    given = parser().parse_args(words)
    return ended(lambda: run(given.methods, given.scale, given.task, given.schedule, given.resamples, given.data_root,
                             given.results), Path("work_dirs"))


def run(methods: Sequence[str], scale: str, task: str, schedule: str | None, resamples: int, data_root: Path,
        root: Path) -> int:
    """Print the comparison. Raises UserError and RecordError for what cannot be compared."""
    if resamples < 2:
        raise UserError(f"--resamples {resamples}: give 2 or more")
    sides = filed.comparable(root, methods, scale, task, schedule)
    pairs = filed.paired(sides, methods)
    first = sides[0][pairs[0]]
    kinds = [kind for kind in KINDS if f"{kind}_AP" in first["metrics"]]
    if not kinds:
        raise UserError(f"{task}: detects nothing that COCO's AP is taken of; see its table on the board")
    over = {f"{kind}_{name}": difference(*(list(side.values()) for side in sides), f"{kind}_{name}")
            for kind in kinds for name in METRICS}
    seeds = {metric: (found, p) for (metric, found), p in zip(over.items(), holm([each.p for each in over.values()]))}
    truth = json.loads(filed.data_of(first, data_root).val_annotations.read_text())
    for kind in kinds:
        with CONSOLE.status(f"{kind}: {len(pairs)} pairs, {resamples} times {len(truth['images'])} photos"):
            tables = _compared(methods, kind, truth, sides, pairs, resamples, root, seeds)
        log("\n\n".join(tables) + "\n")
    log("photos: over images drawn with replacement, a pair of runs at a time; seeds: over the runs, verdicts "
        f"corrected for {len(seeds)} metrics (docs/statistics.md)")
    return 0


def _compared(methods: Sequence[str], kind: str, truth: dict, sides: list[filed.Runs], pairs: list, resamples: int,
              root: Path, seeds: dict[str, tuple[Difference, float]]) -> list[str]:
    """Of one kind of detections: the differences, and the errors of both methods."""
    from benchmarks.detection.resampling import bootstrap, match

    lines, errors = [], [[], []]
    for pair in pairs:
        found = [match(truth, _results(root, side[pair], kind), kind) for side in sides]
        for side, (_, kinds_of_error) in zip(errors, found):
            side.append(kinds_of_error)
        for name, (mean, error, low, high) in bootstrap(found[0][0], found[1][0], resamples).items():
            lines.append([f"{kind}_{name}", "photos", run_of(sides[0][pair]).partition(" ")[2], f"{mean:+.2f}",
                          f"{error:.2f}", f"{low:+.2f} … {high:+.2f}", ""])
    for name in METRICS:
        over, p = seeds[f"{kind}_{name}"]
        several = over.n > 1
        lines.append([f"{kind}_{name}", "seeds", over.over, f"{over.mean:+.2f}", f"{over.se:.2f}" if several else "—",
                      f"{over.low:+.2f} … {over.high:+.2f}" if several else "—", verdict(over.mean, p)])
    lines.sort(key=lambda line: line[0])
    tables = [render(["metric", "over", "runs", " - ".join(methods), "SE", "95 % interval", "verdict"], lines,
                     {0, 1, 2, 6}, "simple")]
    if errors[0][0]:
        shown = [[method, *(f"{fmean(each[name] for each in side):.2f}" for name in side[0])]
                 for method, side in zip(methods, errors)]
        tables.append(render([f"{kind}: AP50 lost to", *errors[0][0]], shown, {0}, "simple"))
    return tables


def _results(root: Path, row: Record, kind: str) -> list[dict]:
    return json.loads(detections.read(root, row["detections"])[f"detections.{kind}.json"])


if __name__ == "__main__":
    sys.exit(main())
