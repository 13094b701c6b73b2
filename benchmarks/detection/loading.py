"""Photos and annotations for mmdetection, read as everywhere in the suite. Importing this imports mmdet."""
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import TRANSFORMS

from benchmarks.data.coco import read
from detco.images import decode


class CompactCOCO(COCO):
    """mmdet's index of an annotation file, with polygons as arrays: as Python's numbers they take several times the
    file's size. Fields that no tool reads are left out (`benchmarks.data.coco.Annotation`)."""

    def __init__(self, annotation_file: str | None = None):
        super().__init__()
        if annotation_file is None:
            return
        file = read(Path(annotation_file))
        annotations, file.annotations = file.annotations[::-1], []
        self.dataset = dict(images=[_entry(image) for image in file.images], categories=file.categories,
                            annotations=[_entry(annotations.pop()) for _ in range(len(annotations))])
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs


def _entry(written: Any) -> dict[str, Any]:
    """An entry's fields, those that are there."""
    found = {}
    for name in written.__struct_fields__:
        value = getattr(written, name)
        if isinstance(value, msgspec.Raw):
            if not bytes(value):
                continue
            value = msgspec.json.decode(value)
            if name == "segmentation" and isinstance(value, list):
                value = [np.array(polygon) for polygon in value]
        if value is not msgspec.UNSET:
            found[name] = value
    return found


CocoDataset.COCOAPI = CompactCOCO


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Load `img_path` as `img` uint8 [H, W, 3], BGR, with `img_shape` and `ori_shape` (height, width).

    mmcv's LoadImageFromFile turns photos by their EXIF orientation and leaves the boxes where they were; this one
    reads pixels as stored (`detco.images`). Of other photos both give the same. Raises ImageError.
    """

    def transform(self, results: dict) -> dict:
        image = decode(results["img_path"]).flip(0).permute(1, 2, 0).contiguous().numpy()
        return results | dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
