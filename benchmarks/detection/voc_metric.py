"""Pascal VOC 2007's average precision as detectron2 computes it, which is what published VOC tables hold."""
import numpy as np

THRESHOLDS = np.arange(50, 100, 5) / 100
RECALLS = np.arange(0, 1.1, 0.1)


def voc_ap(truth: list[dict], results: list[dict], categories: list[int]) -> np.ndarray:
    """AP, in [0, 1], of each category at each of THRESHOLDS: [categories, 10], NaN where there is nothing to find.

    The mean over 11 recalls of the best precision from there on. A detection is matched to the object of its class that
    it overlaps most; it is right if they overlap by more than the threshold and no detection of a higher score took the
    object, and left out if the object is difficult. As there, boxes count in VOC's pixels, first 1 and last one
    included, detections' to a tenth of a pixel, and scores to a thousandth; of equal scores the earlier comes first.

    Args:
        truth: COCO annotations, `difficult` among their keys.
        results: COCO results.
        categories: their ids.
    """
    return np.stack([_class_ap([a for a in truth if a["category_id"] == category],
                               [r for r in results if r["category_id"] == category]) for category in categories])


def _class_ap(truth: list[dict], results: list[dict]) -> np.ndarray:
    difficult = np.array([a["difficult"] for a in truth], bool)
    count = (~difficult).sum()
    if not count:
        return np.full(len(THRESHOLDS), np.nan)
    scores = np.array([r["score"] for r in results]).round(3)
    order = np.argsort(-scores, kind="stable")
    overlap, of = _best_matches(truth, [results[i] for i in order])
    aps = []
    for threshold in THRESHOLDS:
        matched = overlap > threshold
        first = np.zeros(len(matched), bool)  # to take its object
        first[np.flatnonzero(matched)[np.unique(of[matched], return_index=True)[1]]] = True
        left_out = matched & difficult[of]
        hits, misses = np.cumsum(first & ~left_out), np.cumsum(~first & ~left_out)
        precision = hits / np.maximum(hits + misses, np.finfo(float).eps)
        aps.append(np.mean([precision[hits / count >= recall].max(initial=0) for recall in RECALLS]))
    return np.array(aps)


def _best_matches(truth: list[dict], results: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """The largest IoU of each result with an object of its image, 0 where there is none, and the object's index."""
    boxes, found = _corners(truth), _corners(results).round(1)
    objects = _by_image(truth)
    overlap, of = np.zeros(len(results)), np.zeros(len(results), int)
    for image, own in _by_image(results).items():
        if image not in objects:
            continue
        a, b = found[own][:, None], boxes[objects[image]]
        sides = np.clip(np.minimum(a[..., 2:], b[:, 2:]) - np.maximum(a[..., :2], b[:, :2]) + 1, 0, None)
        common = sides.prod(-1)
        ious = common / ((a[..., 2:] - a[..., :2] + 1).prod(-1) + (b[:, 2:] - b[:, :2] + 1).prod(-1) - common)
        best = ious.argmax(1)
        overlap[own], of[own] = ious[np.arange(len(own)), best], np.array(objects[image])[best]
    return overlap, of


def _corners(entries: list[dict]) -> np.ndarray:
    """[N, 4] as (x1, y1, x2, y2) in VOC's pixels."""
    x, y, width, height = np.array([e["bbox"] for e in entries], float).reshape(-1, 4).T
    return np.stack([x + 1, y + 1, x + width, y + height], 1)


def _by_image(entries: list[dict]) -> dict[int, list[int]]:
    places: dict[int, list[int]] = {}
    for i, entry in enumerate(entries):
        places.setdefault(entry["image_id"], []).append(i)
    return places
