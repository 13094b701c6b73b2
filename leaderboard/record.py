"""The result record: one JSON file per run, validated when written and when read.

Contract of one record (SCHEMA 1); a nested value that is absent prints as a dash in the tables:
    schema, task_version, seed      integers
    task, scale, schedule, method   names; schedule is "" for tasks that have none
    metrics                         name -> percent, or null where nothing could be measured
    per_class, load_report          objects, free form
    protocol_fingerprint, data_fingerprint   hex digests, equal in all rows of one table
    checkpoint                      {"hash": hex, "metadata": {"budget": {"images", "encoder_pixels",
                                    "device_hours"}, ...}}
    detections                      hex digest of the detections, or null
    cost                            {"wall_seconds", "device", "peak_memory_bytes"}
    environment                     {"versions": {"torch", "mmdet", ...}, "commit": hex, "dirty": bool}
    config                          {"protocol": what protocol_fingerprint hashes, "data": likewise, ...}
Optional: main_metric (a name in metrics), unreliable (one sentence that says why), limit (a shortened run).
"""
from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

SCHEMA = 1
SCALES = ("paper", "small", "mini")  # in the order the leaderboard shows them
# The metric that orders a table: the first of these that a record carries, unless the record names its own.
MAIN_METRICS = ("densepose_AP", "keypoints_AP", "bbox_AP", "segm_AP", "mIoU", "top1", "mAP")

_NONE = type(None)
_FIELDS: dict[str, tuple[type, ...]] = {
    "schema": (int,), "task": (str,), "task_version": (int,), "scale": (str,), "schedule": (str,),
    "method": (str,), "seed": (int,), "metrics": (dict,), "per_class": (dict,), "load_report": (dict,),
    "protocol_fingerprint": (str,), "data_fingerprint": (str,), "checkpoint": (dict,),
    "detections": (str, _NONE), "cost": (dict,), "environment": (dict,), "config": (dict,),
}
_OPTIONAL: dict[str, tuple[type, ...]] = {"main_metric": (str, _NONE), "unreliable": (str, _NONE)}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+%-]*")


def result_path(root: str | Path, record: dict[str, Any]) -> Path:
    """Where a record lies: `<root>/<scale>/<task>/<method>-seed<k>.json`.

    A schedule that is not simply the scale's own stands between:
    `<root>/paper/<task>/<schedule>/<method>-seed<k>.json`.
    """
    folder = Path(root) / record["scale"] / record["task"]
    if record["schedule"] != record["scale"]:
        folder /= record["schedule"]
    return folder / f"{record['method']}-seed{record['seed']}.json"


def is_shortened(record: dict[str, Any]) -> bool:
    """True for a run under `--limit`, whose scores stand for nothing and are kept out of the leaderboard."""
    return any(holder.get("limit") is not None for holder in (record, record["environment"]))


def main_metric(record: dict[str, Any]) -> str:
    """The metric that orders the record's table. Raises ValueError when the record has none that is known."""
    known = [name for name in (record.get("main_metric"), *MAIN_METRICS) if name in record["metrics"]]
    if not known:
        raise ValueError("field 'metrics' holds no main metric; name one in 'main_metric'")
    return known[0]


def validate(record: Any) -> None:
    """Raises ValueError, one line that names the field, unless `record` keeps the contract above."""
    _require("(the whole record)", record, (dict,))
    for field, types in (_FIELDS | _OPTIONAL).items():
        if field in record:
            _require(field, record[field], types)
        elif field in _FIELDS:
            raise ValueError(f"field '{field}' is missing")
    if record["schema"] != SCHEMA:
        raise ValueError(f"field 'schema' is {record['schema']}; this version reads schema {SCHEMA}")
    if record["scale"] not in SCALES:
        raise ValueError(f"field 'scale' is '{record['scale']}'; known: {', '.join(SCALES)}")
    _validate_names(record)
    _validate_metrics(record)


def _require(field: str, value: Any, types: tuple[type, ...]) -> None:
    kind = type(value)
    if kind is bool or not issubclass(kind, types):
        expected = " or ".join("null" if one is _NONE else one.__name__ for one in types)
        raise ValueError(f"field '{field}' must be {expected}, not {kind.__name__}")


def _validate_names(record: dict[str, Any]) -> None:
    """Names become paths and table cells, so they hold no separator, blank or markup."""
    for field in ("task", "method", "schedule"):
        if not _NAME.fullmatch(record[field]) and (field, record[field]) != ("schedule", ""):
            raise ValueError(f"field '{field}' is {record[field]!r}; use letters, digits and _ . + % - only")
    for field in ("protocol_fingerprint", "data_fingerprint"):
        if not re.fullmatch(r"[0-9a-f]{12,}", record[field]):
            raise ValueError(f"field '{field}' is {record[field]!r}; expected at least 12 hex digits")


def _validate_metrics(record: dict[str, Any]) -> None:
    for name, value in record["metrics"].items():
        _require(f"metrics.{name}", value, (int, float, _NONE))
    named = record.get("main_metric")
    if named is not None and named not in record["metrics"]:
        raise ValueError(f"field 'main_metric' is '{named}', which 'metrics' does not hold")
    main_metric(record)


def write(root: str | Path, record: dict[str, Any]) -> Path:
    """Validates `record` and writes it to `result_path(root, record)`, in one step or not at all.

    NaN and infinity (a class without ground truth, a diverged run) become null: JSON has no word for them.
    Raises ValueError for a record that breaks the contract or holds what JSON cannot, OSError from the disk.
    """
    validate(record)
    try:
        text = json.dumps(_without_nan(record), sort_keys=True, indent=1, allow_nan=False) + "\n"
    except TypeError as error:
        raise ValueError(f"{record['method']} seed {record['seed']} is not JSON: {error}") from error
    path = result_path(root, record)
    write_text(path, text)
    return path


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to a temporary name beside `path` and renames it: readers see the old file or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_all(root: str | Path) -> list[dict[str, Any]]:
    """Every record under `root`, in the order of their paths.

    Raises FileNotFoundError where there is no such folder, and ValueError, one line that names file and
    field, for a record that is broken, shortened by `--limit`, or filed elsewhere than `result_path` says.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such results folder")
    records = []
    for path in sorted(root.rglob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            validate(record)
        except ValueError as error:  # json and unicode errors are ValueErrors too
            raise ValueError(f"{path}: {error}") from error
        if is_shortened(record):
            raise ValueError(f"{path}: field 'limit' is set: a shortened run, remove the file")
        if path != result_path(root, record):
            raise ValueError(f"{path}: its fields say it is {result_path(root, record).relative_to(root)}")
        records.append(record)
    return records
