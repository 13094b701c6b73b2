"""How far a score depends on the photos it was taken of: COCO's AP over resampled images, from matches found once.

Matching detections to objects is hotcoco's, done once; each resample only weighs the images and accumulates again, all
resamples at a time. With every weight 1 the figures are pycocotools'.
"""
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

IOUS = 10  # 0.50 to 0.95
RECALLS = np.linspace(0.0, 1.0, 101)
BLOCK = 1 << 24  # numbers held at once, of resamples by detections


@dataclass(frozen=True)
class ClassMatches:
    """One category's detections, best first, and its objects.

    Attributes:
        objects: int [images], those that count.
        image: int [D], each detection's place among the images.
        right: bool [IOUS, D]: matched to an object that counts.
        left_out: bool [IOUS, D]: matched to a crowd, so neither right nor wrong.
    """

    objects: np.ndarray
    image: np.ndarray
    right: np.ndarray
    left_out: np.ndarray


@dataclass(frozen=True)
class Matches:
    """A detector's matches on a file's images, in the order of their ids."""

    images: int
    classes: list[ClassMatches]


def match(truth: dict, results: list[dict], kind: str) -> tuple[Matches, dict[str, float]]:
    """Match detections to objects.

    Args:
        truth: a COCO annotation file's content.
        results: COCO results.
        kind: "bbox", "segm" or "keypoints".
    Returns:
        the matches, and how much AP50 would rise without each of TIDE's six kinds of error (Bolya et al., 2020), in
        percent; none for keypoints.
    """
    from hotcoco import COCO, COCOeval

    if kind == "segm":  # areas are the masks'
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
    gt = COCO(truth)
    evaluation = COCOeval(gt, gt.loadRes(results) if results else COCO(truth | {"annotations": []}), kind)
    evaluation.params.areaRng = evaluation.params.areaRng[:1]  # objects of every size
    evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
    evaluation.evaluate()
    errors = {} if kind == "keypoints" else {
        name: 100 * value for name, value in evaluation.tide_errors()["delta_ap"].items() if name not in ("FP", "FN")}
    place = {image: i for i, image in enumerate(sorted(entry["id"] for entry in truth["images"]))}
    grouped: dict[int, list[dict]] = {}
    gc.disable()  # the collector would look through a million new lists again and again: fifteen times as long
    try:
        for found in filter(None, evaluation.eval_imgs):
            grouped.setdefault(found["category_id"], []).append(found)
    finally:
        gc.enable()
    most = evaluation.params.maxDets[-1]
    return Matches(len(place), [_of_class(found, place, most) for found in grouped.values()]), errors


def _of_class(found: list[dict], place: dict[int, int], most: int) -> ClassMatches:
    found = sorted(found, key=lambda each: each["image_id"])
    objects = np.zeros(len(place), np.int64)
    for each in found:
        objects[place[each["image_id"]]] += len(each["gtIgnore"]) - int(np.sum(each["gtIgnore"]))
    scores = np.concatenate([np.asarray(each["dtScores"], float)[:most] for each in found])
    order = np.argsort(-scores, kind="mergesort")
    image = np.concatenate([np.full(min(most, len(each["dtScores"])), place[each["image_id"]]) for each in found])
    matched, ignored = (np.concatenate([np.asarray(each[key]).reshape(IOUS, -1)[:, :most] for each in found], 1)
                        [:, order].astype(bool) for key in ("dtMatches", "dtIgnore"))
    return ClassMatches(objects, image[order].astype(np.int64), matched & ~ignored, ignored)


def average_precisions(matches: Matches, weights: np.ndarray) -> np.ndarray:
    """AP in percent at each IoU, over the categories that have objects: [R, IOUS]; NaN where none has.

    Args:
        weights: int [R, images], how often each image is taken.
    """
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # NumPy lets the others run
        found = list(threads.map(lambda one: _of(one, weights), matches.classes))
    there = np.stack([weights @ one.objects > 0 for one in matches.classes])  # [classes, R]
    total = np.einsum("crt,cr->rt", np.stack(found), there)
    with np.errstate(invalid="ignore"):
        return 100 * total / there.sum(0)[:, None]


def _of(one: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """A category's AP [R, IOUS]."""
    last = int(np.flatnonzero(one.right.any(0))[-1]) + 1 if one.right.any() else 0  # what follows changes nothing
    rows = max(1, BLOCK // max(1, last))
    return np.concatenate([_block(one, weights[i:i + rows], last) for i in range(0, len(weights), rows)])


def _block(one: ClassMatches, weights: np.ndarray, last: int) -> np.ndarray:
    taken = weights[:, one.image[:last]].astype(np.float32)  # whole numbers to 2^24
    seen, objects = taken.cumsum(1, dtype=np.float32), (weights @ one.objects).astype(float)
    found = np.zeros((len(weights), IOUS))
    for iou in range(IOUS):
        right, left_out = (np.flatnonzero(which[iou, :last]) for which in (one.right, one.left_out))
        if not len(right):
            continue
        hits, before = taken[:, right].cumsum(1, dtype=np.float32), seen[:, right]
        if len(left_out):
            none = np.zeros((len(weights), 1), np.float32)
            skipped = np.concatenate([none, taken[:, left_out].cumsum(1, dtype=np.float32)], 1)
            before = before - skipped[:, np.searchsorted(left_out, right)]
        precision = hits / (before.astype(float) + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        with np.errstate(divide="ignore", invalid="ignore"):
            reached = _recalls_below(np.nan_to_num(hits / objects[:, None]))
        found[:, iou] = np.einsum("rn,rn->r", best, np.diff(reached, axis=1, prepend=0)) / len(RECALLS)
    return found


def _recalls_below(recall: np.ndarray) -> np.ndarray:
    """How many of RECALLS are at most each recall, as searchsorted on the right side says, but quicker."""
    floor = np.minimum(np.rint(100 * recall), 100).astype(np.int64)
    return floor + (RECALLS[floor] <= recall)


def bootstrap(a: Matches, b: Matches, resamples: int, seed: int = 0) -> dict[str, tuple[float, float, float, float]]:
    """The difference a - b of two detectors on the same images, over images drawn with replacement, the same for both.

    Returns:
        "AP", "AP50", "AP75" -> the difference on the images themselves, its standard error, and the 2.5th and 97.5th
        percentile, in percent.
    """
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(a.images, np.full(a.images, 1 / a.images), resamples)
    weights = np.concatenate([np.ones((1, a.images), np.int64), weights])
    difference = average_precisions(a, weights) - average_precisions(b, weights)
    found = {}
    for name, values in (("AP", difference.mean(1)), ("AP50", difference[:, 0]), ("AP75", difference[:, 5])):
        low, high = np.nanpercentile(values[1:], [2.5, 97.5])
        found[name] = float(values[0]), float(np.nanstd(values[1:], ddof=1)), float(low), float(high)
    return found
