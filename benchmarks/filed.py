"""Filed rows that several commands look at again: those of some methods that may be compared, and their data."""
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data import sources
from benchmarks.data.coco import CocoData
from detco.errors import UserError, nearest
from leaderboard.checks import Record
from leaderboard.record import read_all

Runs = dict[tuple[int | None, int], Record]  # (pretraining seed, transfer seed) -> row


def comparable(root: Path, methods: Sequence[str], scale: str, task: str, schedule: str | None) -> list[Runs]:
    """Each method's rows of the newest version of a task that all have. Raises UserError where there is none."""
    rows = [row for row in read_all(root) if (row["scale"], row["task"]) == (scale, task)
            and schedule in (None, row["schedule"])]
    for method in methods:
        if method not in (known := sorted({row["method"] for row in rows})):
            raise UserError(f"{nearest('method', method, known)} at {scale}, {task}" if known else
                            f"no row of {task} at scale {scale} in {root}")
    tables = [{(row["task_version"], row["schedule"]) for row in rows if row["method"] == m} for m in methods]
    if not (shared := set.intersection(*tables)):
        raise UserError(f"{' and '.join(methods)} share no version and schedule of {task}; run one of them again")
    version = max(version for version, _ in shared)
    if len(schedules := sorted(name for number, name in shared if number == version)) > 1:
        raise UserError(f"{task}: give one --schedule of {', '.join(schedules)}")
    return [{(row["pretrain_seed"], row["seed"]): row for row in rows if row["method"] == method
             and (row["task_version"], row["schedule"]) == (version, schedules[0])} for method in methods]


def paired(sides: Sequence[Runs], methods: Sequence[str]) -> list[tuple[int | None, int]]:
    """The seeds of which every side has a run. Raises UserError where there are none."""
    if not (pairs := sorted(set.intersection(*map(set, sides)), key=str)):
        raise UserError(f"{' and '.join(methods)} have no run of the same seeds; run both with one --seed")
    return pairs


def data_of(row: Record, data_root: Path) -> CocoData:
    """What a detector's row was tested on. Raises UserError where that is not there."""
    data = sources.coco_for(row["scale"], row["data"]["source"], data_root)
    if data.fingerprint != row["data_fingerprint"]:
        raise UserError(f"{data_root}: not the data that the rows were tested on; prepare those, or give another "
                        "--data-root")
    return data
