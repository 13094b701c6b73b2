"""What a row's kept detections show: TIDE's six kinds of errors, and the boxes on eight photos that nobody chose."""
import json
from pathlib import Path
from typing import Any

from benchmarks.data.coco import CocoData, shuffled
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
    entries = {image["id"]: image for image in truth["images"] if image["id"] in there}
    return [entries[number] for number in shuffled(entries)[:count]]


def objects_on(shown: list[dict], truth: dict) -> list[list[dict]]:
    """The annotations of each of some photos, without crowds."""
    return [[a for a in truth["annotations"] if a["image_id"] == image["id"] and not a.get("iscrowd")]
            for image in shown]


def best_on(shown: list[dict], results: list[dict], score: float) -> list[list[dict]]:
    """The best COCO results of each of some photos, from a score on."""
    return [sorted((box for box in results if box["image_id"] == image["id"] and box["score"] >= score),
                   key=lambda box: -box["score"])[:BOXES] for image in shown]


def boxes_of(truth: dict, found: list[dict]) -> list[list]:
    """Annotations or COCO results as [category, left, top, width, height], results with their score."""
    names = {category["id"]: category["name"][:analyses.NAMES] for category in truth["categories"]}
    return [[names[each["category_id"]], *(round(float(value), 1) for value in each["bbox"]),
             *([round(each["score"], 3)] if "score" in each else [])] for each in found]


def photos_of(truth: dict, fingerprint: str) -> dict[str, Any]:
    """The photos that are shown with their objects, as `leaderboard.analyses.photos` keeps them."""
    shown = fixed_photos(truth)
    return analyses.photos(fingerprint, [
        dict(id=image["id"], width=image["width"], height=image["height"], objects=boxes_of(truth, own))
        for image, own in zip(shown, objects_on(shown, truth))])


def analysis_of(truth: dict, fingerprint: str, stated: str, files: dict[str, bytes]) -> dict[str, Any]:
    """What detections show, as `leaderboard.analyses.analysis` keeps it.

    Args:
        files: name -> content of the detections that `stated` is the hash of.
    """
    found = {name.split(".")[1]: json.loads(content) for name, content in files.items()}
    errors = {kind: {name: round(value, 4) for name, value in match(truth, found[kind], kind)[1].items()}
              for kind in ("bbox", "segm") if kind in found}
    best = best_on(fixed_photos(truth), found.get("bbox") or found.get("segm") or [], SCORE)
    return analyses.analysis(stated, fingerprint, errors, [boxes_of(truth, own) for own in best])


def keep(root: str | Path, record: Record, data: CocoData) -> list[Path]:
    """Keep what the kept detections of a record show, and the photos of its data, where they are not there yet; what
    was written. Raises RecordError where the detections are missing."""
    if all(analyses.path_of(root, record[key]).is_file() for key in ("data_fingerprint", "detections")):
        return []
    return [analyses.keep(root, content) for content in made(root, record, data)
            if not analyses.path_of_content(root, content).is_file()]


def made(root: str | Path, record: Record, data: CocoData) -> list[dict[str, Any]]:
    """The photos of a record's data, and what its kept detections show on them. Raises as `keep`."""
    truth, stated = json.loads(data.val_annotations.read_text()), record["detections"]
    return [photos_of(truth, data.fingerprint),
            analysis_of(truth, data.fingerprint, stated, detections.read(root, stated))]
