"""What a row's kept detections show: TIDE's six kinds of errors, and the boxes on eight photos that nobody chose."""
import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.data.coco import CocoData
from benchmarks.detection.resampling import match
from leaderboard import analyses, detections
from leaderboard.checks import Record

PHOTOS = 8
BOXES = 10  # of a photo, at most; the best
SCORE = 0.05  # of a box, at least


def fixed_photos(truth: dict, count: int = PHOTOS) -> list[dict]:
    """The entries of the photos that are shown: of those with objects, the first by the sha256 of their ids.

    Args:
        truth: a COCO annotation file's content.
    """
    there = {a["image_id"] for a in truth["annotations"] if not a.get("iscrowd")}
    order = sorted((image for image in truth["images"] if image["id"] in there),
                   key=lambda image: hashlib.sha256(str(image["id"]).encode()).digest())
    return order[:count]


def boxes_of(truth: dict, found: list[dict]) -> list[list]:
    """Annotations or COCO results as [category, left, top, width, height], results with their score."""
    names = {category["id"]: category["name"][:analyses.NAMES] for category in truth["categories"]}
    return [[names[each["category_id"]], *(round(float(value), 1) for value in each["bbox"]),
             *([round(each["score"], 3)] if "score" in each else [])] for each in found]


def photos_of(truth: dict, fingerprint: str) -> dict[str, Any]:
    """The photos that are shown with their objects, as `leaderboard.analyses.photos` keeps them."""
    shown = [dict(id=image["id"], width=image["width"], height=image["height"],
                  objects=boxes_of(truth, [a for a in truth["annotations"]
                                           if a["image_id"] == image["id"] and not a.get("iscrowd")]))
             for image in fixed_photos(truth)]
    return analyses.photos(fingerprint, shown)


def analysis_of(truth: dict, fingerprint: str, stated: str, files: dict[str, bytes]) -> dict[str, Any]:
    """What detections show, as `leaderboard.analyses.analysis` keeps it.

    Args:
        files: name -> content of the detections that `stated` is the hash of.
    """
    found = {name.split(".")[1]: json.loads(content) for name, content in files.items()}
    errors = {kind: {name: round(value, 4) for name, value in match(truth, found[kind], kind)[1].items()}
              for kind in ("bbox", "segm") if kind in found}
    boxes = found.get("bbox") or found.get("segm") or []
    best = [sorted((box for box in boxes if box["image_id"] == image["id"] and box["score"] >= SCORE),
                   key=lambda box: -box["score"])[:BOXES] for image in fixed_photos(truth)]
    return analyses.analysis(stated, fingerprint, errors, [boxes_of(truth, own) for own in best])


def keep(root: str | Path, record: Record, data: CocoData) -> list[Path]:
    """Keep what the kept detections of a record show, and the photos of its data, where they are not there yet; what
    was written. Raises RecordError where the detections are missing."""
    stated, fingerprint = record["detections"], record["data_fingerprint"]
    missing = [hashed for hashed in (fingerprint, stated) if not analyses.path_of(root, hashed).is_file()]
    return [analyses.keep(root, content) for content in _made(root, stated, data, missing)] if missing else []


def made(root: str | Path, record: Record, data: CocoData) -> list[dict[str, Any]]:
    """The photos of a record's data, and what its kept detections show on them. Raises as `keep`."""
    return _made(root, record["detections"], data, [record["data_fingerprint"], record["detections"]])


def _made(root: str | Path, stated: str, data: CocoData, wanted: list[str]) -> list[dict[str, Any]]:
    truth = json.loads(data.val_annotations.read_text())
    return [photos_of(truth, data.fingerprint) if hashed != stated else
            analysis_of(truth, data.fingerprint, stated, detections.read(root, stated)) for hashed in wanted]
