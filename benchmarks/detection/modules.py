"""Detector parts that mmdet lacks, registered in its `MODELS`. Importing this imports mmdet."""
import numpy as np
import pycocotools.mask as coco_masks
import torch
from mmcv.cnn import ConvModule, build_norm_layer
from mmdet.models import FPN, DIIHead, FCNMaskHead, ResLayer, ResNet, RetinaHead, SparseRoIHead, accuracy
from mmdet.registry import MODELS
from mmdet.structures.mask import PolygonMasks, mask_target
from mmdet.utils import reduce_mean
from mmengine.dist import all_gather, get_rank, get_world_size
from mmengine.model import normal_init
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from detco.batch_norm import SyncBatchNorm2d


@MODELS.register_module()
class Res5ExtraNorm(ResLayer):
    """ResNet's res5 on each RoI, followed by one extra normalisation layer.

    MoCo (arXiv 1911.05722, section 4.2 and appendix): features that were not supervised have another scale
    than the heads expect. `norm_eval` is False here, where mmdet's ResLayer freezes the statistics by default.

    `forward`: RoI features [R, C4, 14, 14] -> [R, C5, 7, 7].
    """

    def __init__(self, depth: int, norm_cfg: dict, norm_eval: bool = False, **kwargs):
        super().__init__(depth, norm_cfg=norm_cfg, norm_eval=norm_eval, **kwargs)
        channels = 64 * 2**self.stage * ResNet.arch_settings[depth][0].expansion
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


@MODELS.register_module()
class PolygonMaskHead(FCNMaskHead):
    """mmdet's mask head with detectron2's start and targets.

    Its predictor starts at a standard deviation of 0.001; mmdet's grows as the classes get fewer (1 at two classes: a
    mask loss of 5 where ln 2 is chance). Polygons are drawn at the targets' size; bitmaps, which data sets of RLE masks
    give, are cut out by mmdet.
    """

    def init_weights(self) -> None:
        super().init_weights()
        normal_init(self.conv_logits, std=0.001)

    def get_targets(self, sampling_results: list, batch_gt_instances: list, rcnn_train_cfg: dict) -> Tensor:
        """Targets float [R, mask_size, mask_size] in {0, 1} of the positive boxes of all images."""
        size, targets = rcnn_train_cfg.mask_size, []
        for sampled, truth in zip(sampling_results, batch_gt_instances):
            boxes, of = sampled.pos_priors, sampled.pos_assigned_gt_inds
            if isinstance(truth.masks, PolygonMasks):
                drawn = [drawn_within(truth.masks.masks[i], box, size)
                         for i, box in zip(of.tolist(), boxes.double().cpu().numpy())]
                targets.append(torch.from_numpy(np.array(drawn, np.float32).reshape(-1, size, size)).to(boxes.device))
            else:
                targets.append(mask_target([boxes], [of], [truth.masks], rcnn_train_cfg))
        return torch.cat(targets)


def drawn_within(polygons: list[np.ndarray], box: np.ndarray, size: int) -> np.ndarray:
    """What of polygons, each [x1, y1, x2, y2, ...], lies in a box (x1, y1, x2, y2): uint8 [size, size].

    The polygons are moved and scaled to the box and drawn by pycocotools, as in detectron2; sides count as at least a
    tenth of a pixel.
    """
    scale = size / np.maximum(box[2:] - box[:2], 0.1)
    moved = [((polygon.reshape(-1, 2) - box[:2]) * scale).ravel().tolist() for polygon in polygons]
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(moved, size, size)))


@MODELS.register_module()
class PlainTopFPN(FPN):
    """RetinaNet's FPN (arXiv 1708.02002, section 4): P6 is a convolution of C5, P7 one of P6 after ReLU.

    Neither is normalised, as in detectron2, whatever `norm_cfg` says of the other levels; mmdet's FPN would.
    """

    def __init__(self, in_channels: list[int], out_channels: int, num_outs: int, **kwargs):
        super().__init__(in_channels, out_channels, num_outs, add_extra_convs="on_input",
                         relu_before_extra_convs=True, **kwargs)
        for i in range(len(in_channels), num_outs):
            channels = in_channels[-1] if i == len(in_channels) else out_channels
            self.fpn_convs[i] = ConvModule(channels, out_channels, 3, stride=2, padding=1, act_cfg=None)


@MODELS.register_module()
class AveragedRetinaHead(RetinaHead):
    """RetinaNet's head, its losses divided by a moving average of positive anchors, as in detectron2.

    Momentum 0.9, from 100. Each rank, and each part of a rank's images that is taken by itself, has an average of its
    own.

    Args:
        parts: how many parts take turns; the Runner's config sets it.
    """

    def __init__(self, *args, parts: int = 1, **kwargs):
        super().__init__(*args, **kwargs)
        # Of all ranks, so that a state holds them; the first column is of the part whose turn it is.
        self.register_buffer("positives", torch.full((get_world_size(), parts), 100.0))

    def get_targets(self, *args, **kwargs) -> tuple:
        """mmdet's targets; last the moving average in place of this batch's positives."""
        labels, *targets, _ = super().get_targets(*args, **kwargs)
        count = sum((level < self.num_classes).sum() for level in labels).float()
        self.positives[:, 0].lerp_(torch.stack(all_gather(count)).clamp(min=1), 0.1)
        normaliser = self.positives[get_rank(), 0].clone()
        self.positives.copy_(self.positives.roll(-1, dims=1))
        return labels, *targets, normaliser

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        key, new = f"{prefix}positives", self.positives
        if state_dict.get(key, new).shape != new.shape:  # a run resumed in other shares of its batch
            state_dict[key] = torch.full_like(new, float(state_dict[key].sum()) / new.numel())
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class FlooredDIIHead(DIIHead):
    """Sparse R-CNN's head with its authors' number of boxes: the mean over ranks, at least 1. mmdet divides by 0 where
    a batch has no object."""

    def loss_and_target(self, cls_score: Tensor, bbox_pred: Tensor, sampling_results: list, rcnn_train_cfg: dict,
                        imgs_whwh: Tensor, **kwargs) -> dict:
        """The losses of class logits [N P, classes] and boxes [N P, 4], P proposals in each of N images."""
        labels, label_weights, targets, weights = self.get_targets(sampling_results, rcnn_train_cfg, concat=True)
        found = (labels >= 0) & (labels < self.num_classes)
        count = reduce_mean(found.sum().float()).clamp(min=1)
        boxes, truth, sides = bbox_pred.view(-1, 4)[found], targets[found], imgs_whwh.reshape(-1, 4)[found]
        losses = dict(
            loss_cls=self.loss_cls(cls_score, labels, label_weights, avg_factor=count),
            pos_acc=accuracy(cls_score[found], labels[found]),
            loss_bbox=self.loss_bbox(boxes / sides, truth / sides, avg_factor=count),
            loss_iou=self.loss_iou(boxes, truth, avg_factor=count))
        return dict(loss_bbox=losses, bbox_targets=(labels, label_weights, targets, weights))


@MODELS.register_module()
class ClippedSparseRoIHead(SparseRoIHead):
    """Sparse R-CNN whose detections, not the boxes between its stages, end at the image's border, as in detectron2.
    Those that lie beyond it are left out."""

    def predict_bbox(self, x: tuple[Tensor], batch_img_metas: list[dict], rpn_results_list: list, rcnn_test_cfg: dict,
                     rescale: bool = False) -> list:
        results = super().predict_bbox(x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale)
        for result, meta in zip(results, batch_img_metas):
            result.bboxes = clip_boxes_to_image(result.bboxes, meta["ori_shape" if rescale else "img_shape"][:2])
        return [result[(result.bboxes[:, 2:] > result.bboxes[:, :2]).all(1)] for result in results]


# The SyncBN of processes without CUDA, where torch has none.
MODELS.register_module(name="DetCoSyncBN", module=SyncBatchNorm2d)
