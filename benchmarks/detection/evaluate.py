"""Metrics from what a detector wrote: COCO's by pycocotools, mIoU by hotcoco, unrounded."""
import contextlib
import io
import json
from pathlib import Path

import numpy as np

NAMES = ("AP", "AP50", "AP75")
Scores = tuple[dict[str, float | None], dict[str, float | None]]


def score(kind: str, annotations: Path, detections: Path, images: int | None = None) -> Scores:
    """Metrics in percent and scores by class of one kind: "bbox", "segm", "keypoints" (`coco_metrics`) or "mIoU"."""
    return (semantic_metrics(detections) if kind == "mIoU"
            else coco_metrics(annotations, detections, kind, images))


def semantic_metrics(counts: Path) -> Scores:
    """mIoU and IoU by class, from the JSON that `benchmarks.detection.semantic.SemanticMetric` wrote."""
    report = json.loads(Path(counts).read_text())
    return dict(mIoU=100 * report["mIoU"]), {k: None if v is None else 100 * v for k, v in report["per_class"].items()}


def coco_metrics(annotations: Path, detections: Path, kind: str,
                 images: int | None = None) -> Scores:
    """Evaluate one kind of detections.

    Args:
        annotations: COCO annotation file.
        detections: JSON list of COCO results.
        kind: "bbox", "segm" or "keypoints" (OKS).
        images: only the file's first so many images were tested; None for all.
    Returns:
        {"<kind>_AP", "<kind>_AP50", "<kind>_AP75"} in percent, and AP by category name; None without ground truth.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    results = json.loads(Path(detections).read_text())
    if kind == "segm":
        for result in results:
            del result["bbox"]  # loadRes would take areas from it instead of from the mask
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints; the figures go into the record
        truth = COCO(str(annotations))
        names = {category["id"]: category["name"] for category in truth.dataset["categories"]}
        if not results:
            return {f"{kind}_{m}": 0.0 for m in NAMES}, dict.fromkeys(names.values())
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.imgIds = sorted(truth.getImgIds()[:images])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools says -1 where there is nothing to find
    metrics = {f"{kind}_{m}": None if v < 0 else 100 * float(v) for m, v in zip(NAMES, evaluation.stats)}
    precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, category], all areas, 100 detections
    per_class = {}
    for i, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, i][precision[:, :, i] > -1]
        per_class[names[category]] = 100 * float(np.mean(values)) if values.size else None
    return metrics, per_class
