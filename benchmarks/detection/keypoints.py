"""Keypoint R-CNN for mmdetection: data set, transforms, heads and results file. Importing this imports mmdet.

Between loading and the results file keypoints are continuous, as boxes are: the middle of the first pixel lies at 0.5.
COCO's are pixel indices, so half a pixel is added when they are read and taken away when they are written, as in
detectron2; torchvision's heat maps read and give continuous ones.
"""
import json
from pathlib import Path

import numpy as np
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.evaluation import CocoMetric
from mmdet.models import StandardRoIHead
from mmdet.registry import DATASETS, METRICS, MODELS, TRANSFORMS
from mmdet.structures.bbox import bbox2roi
from mmengine.model import BaseModule
from torch import Tensor
from torchvision.models.detection import KeypointRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import keypointrcnn_inference, keypointrcnn_loss

from benchmarks.data.checks import KEYPOINTS, check_keypoints
from benchmarks.detection.instances import InstanceDataset
from detco.errors import UserError
from detco.files import replacing

# COCO's 17, in its order, and the place of each one's partner on the other side of the body.
NAMES = KeypointRCNN_ResNet50_FPN_Weights.DEFAULT.meta["keypoint_names"]
_OTHER = {"left": "right", "right": "left"}
MIRRORED = [NAMES.index("_".join(_OTHER.get(part, part) for part in name.split("_"))) for name in NAMES]
_HALF = np.float32([0.5, 0.5, 0])  # of a pixel, for (x, y, visibility)


@DATASETS.register_module()
class KeypointDataset(InstanceDataset):
    """COCO's persons with `keypoints`, float32 [17, 3] as (x, y, visibility), in each instance.

    Training leaves out images in which no person has a visible keypoint (detectron2's MIN_KEYPOINTS_PER_IMAGE 1).
    Raises DataError for keypoints that `check_keypoints` refuses.
    """

    def parse_data_info(self, raw_data_info: dict) -> dict:
        check_keypoints(self.ann_file, raw_data_info["raw_ann_info"])
        return super().parse_data_info(raw_data_info)

    def parse_object(self, annotation: dict) -> dict | None:
        found = super().parse_object(annotation)
        if found:
            found["keypoints"] = np.float32(annotation["keypoints"]).reshape(KEYPOINTS, 3) + _HALF
        return found

    def filter_data(self) -> list[dict]:
        return [info for info in super().filter_data() if self.test_mode or any(
            instance["keypoints"][:, 2].any() for instance in info["instances"])]


@TRANSFORMS.register_module()
class LoadKeypointAnnotations(LoadAnnotations):
    """mmdet's LoadAnnotations, and `gt_keypoints` [N, 17, 3] in the pixels of the image as loaded.

    `gt_instances_ids` numbers the instances, so that `PackKeypointInputs` knows which of them a crop left.
    """

    def transform(self, results: dict) -> dict:
        results = super().transform(results)
        keypoints = [instance["keypoints"] for instance in results["instances"]]
        results["gt_keypoints"] = np.float32(keypoints).reshape(-1, KEYPOINTS, 3)
        results["gt_instances_ids"] = np.arange(len(keypoints))
        return results


@TRANSFORMS.register_module()
class PackKeypointInputs(PackDetInputs):
    """mmdet's PackDetInputs with `gt_instances.keypoints` [N, 17, 3] in the pixels of the image as it is now.

    One affine map carries the keypoints through all resizes, flips and crops: mmdet's transforms record theirs in
    `homography_matrix`. Raises UserError after a transform that drops boxes and does not tell which.
    """

    mapping_table = PackDetInputs.mapping_table | {"gt_keypoints": "keypoints"}

    def transform(self, results: dict) -> dict:
        left = results["gt_instances_ids"]
        if len(left) != len(results["gt_bboxes"]):
            raise UserError(f"{results['img_path']}: {len(left)} instances, {len(results['gt_bboxes'])} boxes; "
                            "take out the transform that drops boxes alone")
        matrix = results.get("homography_matrix", np.eye(3, dtype=np.float32))
        results["gt_keypoints"] = moved(results["gt_keypoints"][left], matrix, results["img_shape"])
        return super().transform(results)


def moved(keypoints: np.ndarray, matrix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Keypoints [N, 17, 3] under an affine map [3, 3] into an image of shape (height, width).

    Those that leave the image lose their visibility; where the map mirrors, left and right change places.
    """
    xy = keypoints[..., :2] @ matrix[:2, :2].T + matrix[:2, 2]
    inside = ((xy >= 0) & (xy <= shape[::-1])).all(-1, keepdims=True)
    result = np.concatenate([xy, keypoints[..., 2:] * inside], -1)
    return result[:, MIRRORED] if np.linalg.det(matrix) < 0 else result


@MODELS.register_module()
class KeypointRCNNHead(BaseModule):
    """Mask R-CNN's keypoint head (arXiv 1703.06870, section 5) from torchvision's parts, initialisation included.

    `forward`: RoI features [R, C, S, S] -> heat maps, as logits, [R, 17, 4 S, 4 S].

    Args:
        in_channels: C.
        channels, num_convs: of the 3 x 3 convolutions before the deconvolution.
    """

    def __init__(self, in_channels: int, channels: int = 512, num_convs: int = 8):
        super().__init__()
        self.convs = KeypointRCNNHeads(in_channels, [channels] * num_convs)
        self.predictor = KeypointRCNNPredictor(channels, KEYPOINTS)

    def forward(self, features: Tensor) -> Tensor:
        return self.predictor(self.convs(features))


@MODELS.register_module()
class KeypointRoIHead(StandardRoIHead):
    """mmdet's RoI head with a keypoint branch in the mask branch's place.

    The loss is the cross entropy over a heat map's positions, averaged over the visible keypoints inside the positive
    boxes of the batch; 0, and still connected to every parameter, where there are none. Predictions gain `keypoints`
    [N, 17, 3] as (x, y, logit); detectron2's third number is a probability made of the logit, which COCO never reads.
    """

    with_mask = True  # what makes mmdet call mask_loss and predict_mask

    def __init__(self, keypoint_roi_extractor: dict, keypoint_head: dict, **kwargs):
        super().__init__(**kwargs)
        self.keypoint_roi_extractor = MODELS.build(keypoint_roi_extractor)
        self.keypoint_head = MODELS.build(keypoint_head)

    def _mask_forward(self, x: tuple[Tensor], rois: Tensor) -> dict[str, Tensor]:
        features = self.keypoint_roi_extractor(x[:self.keypoint_roi_extractor.num_inputs], rois)
        return dict(mask_preds=self.keypoint_head(features))

    def mask_loss(self, x: tuple[Tensor], sampling_results: list, bbox_feats: Tensor, batch_gt_instances: list) -> dict:
        boxes = [sampled.pos_priors for sampled in sampling_results]
        loss = keypointrcnn_loss(
            self._mask_forward(x, bbox2roi(boxes))["mask_preds"], boxes,
            [truth.keypoints for truth in batch_gt_instances],
            [sampled.pos_assigned_gt_inds for sampled in sampling_results])
        return dict(loss_mask=dict(loss_keypoint=loss))

    def predict_mask(self, x: tuple[Tensor], batch_img_metas: list[dict], results_list: list,
                     rescale: bool = False) -> list:
        boxes = [result.bboxes for result in results_list]
        logits = self._mask_forward(x, bbox2roi(boxes))["mask_preds"]
        for result, meta, points, peaks in zip(results_list, batch_img_metas, *keypointrcnn_inference(logits, boxes)):
            points[..., 2] = peaks
            if rescale:
                scale = points.new_tensor([*meta["scale_factor"], 1])
                points, result.bboxes = points / scale, result.bboxes / scale[[0, 1, 0, 1]]
            result.keypoints = points
        return results_list


@METRICS.register_module()
class KeypointMetric(CocoMetric):
    """mmdet's CocoMetric, which also writes <outfile_prefix>.keypoints.json in COCO's form.

    The score of a result is its box's, as in detectron2. `benchmarks.detection.evaluate` computes OKS from the file.
    """

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        super().process(data_batch, data_samples)
        for (_, result), sample in zip(self.results[-len(data_samples):], data_samples):
            result["keypoints"] = sample["pred_instances"]["keypoints"].cpu().numpy() - _HALF

    def results2json(self, results: list[dict], outfile_prefix: str) -> dict[str, str]:
        files = super().results2json(results, outfile_prefix) | {"keypoints": f"{outfile_prefix}.keypoints.json"}
        found = [dict(image_id=result["img_id"], category_id=self.cat_ids[label], score=float(score),
                      keypoints=points.ravel().tolist())
                 for result in results
                 for label, score, points in zip(result["labels"], result["scores"], result["keypoints"])]
        with replacing(Path(files["keypoints"])) as temporary:
            temporary.write_text(json.dumps(found))
        return files
