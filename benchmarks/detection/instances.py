"""Objects of a COCO file as detectron2 trains on them, where mmdet decides otherwise. Importing this imports mmdet."""
import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, TRANSFORMS
from mmdet.structures.mask import PolygonMasks

SMALLEST = 1e-5  # pixels; detectron2's threshold of an empty box


@DATASETS.register_module()
class InstanceDataset(CocoDataset):
    """COCO's instances; what is trained on is chosen as in detectron2.

    Crowds are left out, and images whose only objects are crowds (`filter_cfg`'s `filter_empty_gt`). Boxes count
    however small they are, if some of them lies in the image; mmdet leaves out those under a pixel. Of a mask's
    polygons those of fewer than three points are left out, and objects that have no other.
    """

    def parse_data_info(self, raw_data_info: dict) -> dict:
        image, annotations = raw_data_info["raw_img_info"], raw_data_info["raw_ann_info"]
        info = super().parse_data_info(raw_data_info | dict(raw_ann_info=[]))
        objects = [o for a in annotations if not a.get("iscrowd") and (o := self.parse_object(a)) is not None]
        info["has_objects"] = bool(objects)
        size = np.array([image["width"], image["height"]] * 2)
        corners = np.clip(np.array([o["bbox"] for o in objects]).reshape(-1, 4), 0, size)
        within = (corners[:, 2:] - corners[:, :2] > SMALLEST).all(1)
        info["instances"] = [o for o, is_within in zip(objects, within) if is_within]
        return info

    def parse_object(self, annotation: dict) -> dict | None:
        """mmdet's form of one annotation; None for one that is left out."""
        if annotation["category_id"] not in self.cat2label:
            return None
        x, y, width, height = annotation["bbox"]
        found = dict(bbox=[x, y, x + width, y + height], bbox_label=self.cat2label[annotation["category_id"]],
                     ignore_flag=0)
        if mask := annotation.get("segmentation"):
            if isinstance(mask, list):
                mask = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
            found["mask"] = mask
        return found if found.get("mask", True) else None

    def filter_data(self) -> list[dict]:
        if self.test_mode or not (self.filter_cfg or {}).get("filter_empty_gt"):
            return self.data_list
        return [info for info in self.data_list if info["has_objects"]]


@TRANSFORMS.register_module()
class LoadInstances(LoadAnnotations):
    """mmdet's LoadAnnotations; masks stay polygons where all of an image's are, and are bitmaps where some are RLE."""

    def _load_masks(self, results: dict) -> None:
        masks = [instance["mask"] for instance in results["instances"]]
        if all(isinstance(mask, list) for mask in masks):
            results["gt_masks"] = PolygonMasks([[np.array(polygon, float) for polygon in mask] for mask in masks],
                                               *results["ori_shape"])
        else:
            super()._load_masks(results)
