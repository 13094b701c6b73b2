"""COCO's metrics from a file of detections, by pycocotools, unrounded."""
import contextlib
import io
import json
from pathlib import Path

import numpy as np


def coco_metrics(annotations: Path, detections: Path, kind: str,
                 images: int | None = None) -> tuple[dict[str, float], dict[str, float | None]]:
    """Evaluate one kind of detections.

    Args:
        annotations: COCO annotation file.
        detections: JSON list of COCO results.
        kind: "bbox" or "segm".
        images: only the file's first so many images were tested; None for all.
    Returns:
        {"<kind>_AP", "<kind>_AP50", "<kind>_AP75"} in percent, and AP by category name; None for a category
        without ground truth.
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
            return {f"{kind}_{m}": 0.0 for m in ("AP", "AP50", "AP75")}, dict.fromkeys(names.values())
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.imgIds = sorted(truth.getImgIds()[:images])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = {f"{kind}_{m}": 100 * float(v) for m, v in zip(("AP", "AP50", "AP75"), evaluation.stats)}
    precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, category], all areas, 100 detections
    per_class = {}
    for i, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, i][precision[:, :, i] > -1]
        per_class[names[category]] = 100 * float(np.mean(values)) if values.size else None
    return metrics, per_class
