"""Metrics from what a detector wrote: COCO's by pycocotools, VOC's and Cityscapes' own, mIoU by hotcoco; unrounded."""
import contextlib
import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.data.coco import CocoData
from benchmarks.detection.cityscapes_metric import cityscapes_ap
from benchmarks.detection.voc_metric import voc_ap
from detco.config import digest
from detco.files import sha256

# What pycocotools sums up, in its order. Sizes are areas: small below 32 x 32 pixels, large from 96 x 96.
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
KEYPOINT_NAMES = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
# Kinds whose scores come from another kind's detections.
FILES = {"voc": "bbox", "cityscapes": "segm"}
Scores = tuple[dict[str, float | None], dict[str, float | None]]


def score(kind: str, data: CocoData, folder: Path, images: int | None = None) -> Scores:
    """Metrics in percent and scores by class of one kind, from the detections in a folder.

    Args:
        kind: "bbox", "segm" or "keypoints", COCO's; "voc", VOC 2007's; "cityscapes", Cityscapes' of instances; "mIoU".
        data: what the detector was tested on.
        folder: holds detections.<kind>.json, as mmdet's CocoMetric or the semantic metric wrote it.
        images: only the file's first so many images were tested; None for all.
    """
    detections = detections_of(kind, folder)
    if kind == "mIoU":
        return semantic_metrics(detections)
    if kind in FILES:
        return own_metrics(data, detections, kind, images)
    return coco_metrics(data.val_annotations, detections, kind, images)


def detections_of(kind: str, folder: Path) -> Path:
    """The file in a folder that a kind's scores come from."""
    return folder / f"detections.{FILES.get(kind, kind)}.json"


def hash_of_detections(kinds: Iterable[str], folder: Path) -> str:
    """What the detections in a folder that some kinds' scores come from are known by. Raises FileNotFoundError."""
    return digest([sha256(file) for file in files_of(kinds, folder)])


def files_of(kinds: Iterable[str], folder: Path) -> list[Path]:
    """The files in a folder that some kinds' scores come from, each once."""
    return list(dict.fromkeys(detections_of(kind, folder) for kind in kinds))


def semantic_metrics(counts: Path) -> Scores:
    """mIoU and IoU by class, from the JSON that `benchmarks.detection.semantic.SemanticMetric` wrote."""
    report = json.loads(Path(counts).read_text())
    return dict(mIoU=100 * report["mIoU"]), {k: None if v is None else 100 * v for k, v in report["per_class"].items()}


def own_metrics(data: CocoData, detections: Path, kind: str, images: int | None = None) -> Scores:
    """{"<kind>_AP", "<kind>_AP50"} and, for "voc", "voc_AP75", with AP by category name, by a data set's own rules
    (`benchmarks.detection.voc_metric`, `benchmarks.detection.cityscapes_metric`).

    Cityscapes' semantic maps lie where `benchmarks.data.cityscapes.convert` puts them.
    """
    content, results = json.loads(data.val_annotations.read_text()), json.loads(detections.read_text())
    content["images"] = content["images"][:images]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
    results = [r for r in results if r["image_id"] in kept]
    names = {category["id"]: category["name"] for category in content["categories"]}
    if kind == "voc":
        aps, thresholds = voc_ap(content["annotations"], results, list(names)), dict(AP50=0, AP75=5)
    else:
        maps = data.val_images.parents[1] / "semantic" / data.val_images.name
        aps, thresholds = cityscapes_ap(content, results, maps), dict(AP50=0)
    there = ~np.isnan(aps[:, 0])
    metrics = {"AP": aps[there]} | {name: aps[there, i] for name, i in thresholds.items()}
    return ({f"{kind}_{name}": 100 * float(values.mean()) if there.any() else None for name, values in metrics.items()},
            {name: 100 * float(own.mean()) if found else None for name, own, found in zip(names.values(), aps, there)})


def coco_metrics(annotations: Path, detections: Path, kind: str, images: int | None = None) -> Scores:
    """Evaluate one kind of detections.

    Args:
        annotations: COCO annotation file.
        detections: JSON list of COCO results.
        kind: "bbox", "segm" or "keypoints" (OKS).
        images: only the file's first so many images were tested; None for all.
    Returns:
        {"<kind>_<name>"} in percent, of NAMES or KEYPOINT_NAMES, and AP by category name; None without ground truth.
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
        found = truth.loadRes(results) if results else COCO()
        evaluation = COCOeval(truth, found, kind)
        evaluation.params.imgIds = sorted(truth.getImgIds()[:images])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools says -1 where there is nothing to find
    summary = zip(KEYPOINT_NAMES if kind == "keypoints" else NAMES, evaluation.stats)
    metrics = {f"{kind}_{name}": None if value < 0 else 100 * float(value) for name, value in summary}
    precision = evaluation.eval["precision"][..., 0, -1]  # [IoU, recall, category], all areas, 100 detections
    per_class = {}
    for i, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, i][precision[:, :, i] > -1]
        per_class[names[category]] = 100 * float(np.mean(values)) if values.size else None
    return metrics, per_class
