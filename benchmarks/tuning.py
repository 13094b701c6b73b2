"""`--tune`: a task's fields chosen for each row, on a part of the training images that the row's trials do not learn
from. What is tuned never shares a table with what is not, nor with another search.
"""
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.data import coco
from benchmarks.data.coco import CocoData
from benchmarks.protocol import Protocol
from detco.config import digest
from detco.console import log
from detco.errors import UserError

if TYPE_CHECKING:  # late: who only plans needs no torch
    from benchmarks.job import Job

HELD_OUT = 20  # percent of the training images
Values = dict[str, Any]  # dotted field of a task -> its value


def fields_of(changes: Values) -> dict[str, list]:
    """What --tune gives, field -> values; UserError for fewer than two of one, or one twice."""
    for field, values in changes.items():
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            raise UserError(f"--tune task.{field}: give two values or more, such as task.optimizer.lr=0.01,0.02")
        if len({repr(value) for value in values}) < len(values):
            raise UserError(f"--tune task.{field}: a value is given twice")
    return {field: list(values) for field, values in changes.items()}


def grid(fields: dict[str, list]) -> list[Values]:
    """Every combination of the fields' values."""
    return [dict(zip(fields, values)) for values in product(*fields.values())]


def split(data: Any, folder: Path, least: int) -> Any:
    """A task's data with a part of its training images held out, in the place of what it is tested on.

    Args:
        data: `CocoData`, or parts `train` and `val` of images that `take` chooses of.
        folder: takes annotation files of the two parts.
        least: images that must be left to learn from; DataError otherwise.
    """
    if isinstance(data, CocoData):
        return coco.held_out(data, HELD_OUT, least, folder)
    order = coco.shuffled(range(len(data.train.images)))
    cut = round(len(order) * HELD_OUT / 100)
    return replace(data, train=data.train.take(sorted(order[cut:]), f"less {HELD_OUT} %"),
                   val=data.train.take(sorted(order[:cut]), f"{HELD_OUT} %"))


def chosen(job: "Job", trials: Sequence[tuple[Values, Protocol]], measure: Callable[["Job"], dict],
           show: bool) -> "Job":
    """The job with the values that did best on the images held out; of equals the first.

    Args:
        trials: values, and the protocol that has them.
        measure: a job to its record, run unless that is there.
        show: log each trial.
    """
    folder = job.work_dir.with_name(f"{job.work_dir.name}-trials")
    least = job.protocol.config["data"].get("total_batch", 1)
    data, metric, found = split(job.data, folder, least), job.protocol.config["task"]["main_metric"], []
    for number, (values, protocol) in enumerate(trials, 1):
        record = measure(replace(job, protocol=protocol, data=data, work_dir=folder / digest(values)[:12]))
        score = record["metrics"][metric]
        found.append(dict(values=values, score=score, wall_seconds=record["cost"]["wall_seconds"]))
        if show:
            said = ", ".join(f"{field} {value}" for field, value in values.items())
            log(f"{job.name}: trial {number} of {len(trials)}, {said}: {metric} "
                f"{'nothing' if score is None else f'{score:.1f}'} on the images held out")
    measured = [(each, protocol) for each, (_, protocol) in zip(found, trials) if each["score"] is not None]
    if not measured:
        raise UserError(f"{job.protocol.task}: no trial measured {metric}; tune over other values")
    best, protocol = max(measured, key=lambda pair: pair[0]["score"])
    return replace(job, protocol=protocol, tuning=dict(chosen=best["values"], held_out=HELD_OUT, trials=found))
