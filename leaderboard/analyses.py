"""What the detections of filed rows show beyond their metrics, small enough to keep in version control: the kinds of
errors, and the boxes on a few photos. Made of the kept detections (`benchmarks.detection.analysis`), read by the page.

`analyses/<hash>.json` beside `results/`, by the first 16 digits: an analysis under the hash of its detections, the
objects on those photos under the fingerprint of their data.
"""
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from leaderboard.checks import Record
from leaderboard.errors import RecordError
from leaderboard.record import load, write_text

NAMES = 80  # characters of a category, at most


def path_of(root: str | Path, stated: str) -> Path:
    """Where what is known under a hash lies; `root` is the board's `results/`."""
    return Path(root).parent / "analyses" / f"{stated[:16]}.json"


def photos(fingerprint: str, shown: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What is kept of a data set: photos as {id, width, height, objects: [[category, left, top, width, height]]}."""
    return dict(data=fingerprint, photos=list(shown))


def analysis(detections: str, fingerprint: str, errors: Mapping[str, Mapping[str, float]],
             found: Iterable[Iterable]) -> dict[str, Any]:
    """What is kept of detections.

    Args:
        errors: kind of detection -> kind of error -> how much AP50 would gain without it, in percent.
        found: of each of the data's photos, in their order: [[category, left, top, width, height, score]].
    """
    return dict(detections=detections, data=fingerprint, errors=errors, found=list(found))


def path_of_content(root: str | Path, content: Mapping[str, Any]) -> Path:
    """Where what `photos` or `analysis` made lies."""
    return path_of(root, content.get("detections") or content["data"])


def keep(root: str | Path, content: Mapping[str, Any]) -> Path:
    """Keep what `photos` or `analysis` made; where it lies."""
    path = path_of_content(root, content)
    write_text(path, json.dumps(content, sort_keys=True) + "\n")
    return path


def read_all(root: str | Path, records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """Hash -> what is kept of records' detections and of their data, of those that have it.

    Raises RecordError, one line that names the file, for what is no such thing.
    """
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        for key, stated in (("detections", record["detections"]), ("data", record["data_fingerprint"])):
            if stated and stated not in found and record["detections"] and (path := path_of(root, stated)).is_file():
                found[stated] = _read(path, key, stated)
    return found


def mean_errors(rows: Iterable[Record], kept: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    """(kind of detection, kind of error) -> how much AP50 would gain without it, in percent, over the rows that have
    an analysis among `kept`."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for kind, own in kept.get(row["detections"], {}).get("errors", {}).items():
            for name, value in own.items():
                found.setdefault((kind, name), []).append(value)
    return {key: fmean(values) for key, values in found.items()}


def _read(path: Path, key: str, stated: str) -> dict[str, Any]:
    content = load(path)
    if not (isinstance(content, dict) and content.get(key) == stated and (_analysis if key == "detections" else _photos)
            (content)):
        raise RecordError(f"{path}: not what its name says; delete it, `python benchmarks/verify.py` makes it anew")
    return content


def _photos(content: dict) -> bool:
    return set(content) == {"data", "photos"} and isinstance(content["photos"], list) and all(
        isinstance(photo, dict) and set(photo) == {"id", "width", "height", "objects"}
        and all(_number(photo[side]) and photo[side] > 0 for side in ("width", "height"))
        and isinstance(photo["id"], int) and _boxes(photo["objects"], 4) for photo in content["photos"])


def _analysis(content: dict) -> bool:
    return set(content) == {"detections", "data", "errors", "found"} and isinstance(content["errors"], dict) and all(
        isinstance(own, dict) and all(_number(value) for value in own.values()) for own in content["errors"].values()) \
        and isinstance(content["found"], list) and all(_boxes(own, 5) for own in content["found"])


def _boxes(boxes: Any, numbers: int) -> bool:
    return isinstance(boxes, list) and all(
        isinstance(box, list) and len(box) == numbers + 1 and isinstance(box[0], str) and len(box[0]) <= NAMES
        and all(map(_number, box[1:])) for box in boxes)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
