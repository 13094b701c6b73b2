"""Score filed rows again from the detections that were kept, and name every metric that differs; likewise what
`leaderboard/analyses` keeps of them, which is made where it is missing.

    python benchmarks/verify.py
    python benchmarks/verify.py --scale small --data-root data

Rows of frozen features have no detections; those are counted, as are rows whose detections or data are not here.
"""
import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from benchmarks.cli import RESULTS
from benchmarks.data import sources
from benchmarks.data.coco import CocoData, DataError
from benchmarks.errors import ended
from detco.console import log, progress_bar
from leaderboard import analyses, detections
from leaderboard.checks import Record, run_of
from leaderboard.errors import RecordError
from leaderboard.record import filed_protocol, load, read_all

TOLERANCE = 1e-9  # percent


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--scale", help="default: all")
    p.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    p.add_argument("--results", type=Path, default=RESULTS, metavar="DIR",
                   help="default: leaderboard/results, of the checkout or of the current folder")
    return p


def main(words: Sequence[str] | None = None) -> int:
    """Verify; the exit status: 1 where a metric differs, else `benchmarks.errors.ended`'s."""
    given = parser().parse_args(words)
    return ended(lambda: run(given.results, given.data_root, given.scale), Path("work_dirs"))


def run(root: Path, data_root: Path, scale: str | None) -> int:
    """Print what differs and what was seen; 1 where something differs."""
    rows = [row for row in read_all(root) if scale in (None, row["scale"])]

    @cache
    def data_of(scale: str, source: str) -> CocoData | str:
        try:
            return sources.coco_for(scale, source, data_root)
        except DataError as error:
            return str(error)

    seen: Counter[str] = Counter()
    with progress_bar() as bar:
        for row in bar.track(rows, description="verify"):
            outcome, lines = verified(root, row, data_of)
            seen[outcome] += 1
            for line in lines:
                log(f"{row['scale']} {row['task']} {run_of(row)}: {line}")
    log("\n".join(f"{count:>5} {outcome}" for outcome, count in sorted(seen.items())))
    return 1 if seen["differ"] else 0


def verified(root: Path, row: Record, data_of) -> tuple[str, list[str]]:
    """What became of a row, and the metrics that differ."""
    from benchmarks.detection import analysis, cityscapes_metric
    from benchmarks.detection.evaluate import score

    if not row["detections"]:
        return "without detections", []
    try:
        kept = detections.read(root, row["detections"])
    except RecordError as error:
        if not detections.path_of(root, row["detections"]).is_file():
            return "whose detections are not here", []
        return "differ", [str(error)]
    data = data_of(row["scale"], row["data"]["source"])
    if isinstance(data, str) or data.fingerprint != row["data_fingerprint"]:
        return "whose data are not here", []
    kinds, again = filed_protocol(root, row)["task"]["metrics"], {}
    if not any(name.startswith("cityscapes_") for name in row["metrics"]):  # where its rules are not installed
        kinds = [kind for kind in kinds if kind != "cityscapes"]
    elif not cityscapes_metric.is_installed():
        return 'whose rules are not here (pip install -e ".[cityscapes]")', []
    with tempfile.TemporaryDirectory() as folder:
        for name, content in kept.items():
            (Path(folder) / name).write_bytes(content)
        for kind in kinds:
            again |= score(kind, data, Path(folder))[0]
    lines = [f"{name} is filed as {value}, its detections score {again[name]}" for name, value in row["metrics"].items()
             if name in again and not _equal(value, again[name])]
    if "mIoU" not in kinds:
        for content in analysis.made(root, row, data):
            path = analyses.path_of_content(root, content)
            if not path.is_file():
                analyses.keep(root, content)
            elif load(path) != json.loads(json.dumps(content)):
                lines.append(f"{path} is not what its detections show; delete it, and run this again")
    return "differ" if lines else "agree", lines


def _equal(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else abs(a - b) <= TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
