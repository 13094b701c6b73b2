"""Anchors and boxes as detectron2 takes them, where mmdet decides otherwise. Importing this imports mmdet."""
import torch
from mmdet.models.task_modules import AnchorGenerator, AssignResult, DeltaXYWHBBoxCoder, MaxIoUAssigner
from mmdet.registry import TASK_UTILS
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image


@TASK_UTILS.register_module()
class EveryAnchor(AnchorGenerator):
    """mmdet's anchors, all of them in use. mmdet leaves out those beyond an image's own padding, where a larger image
    of the batch makes the feature map go on; in detectron2 they are background like any other."""

    def valid_flags(self, featmap_sizes: list[tuple[int, int]], pad_shape: tuple, device="cuda") -> list[Tensor]:
        return [torch.ones(height * width * count, dtype=torch.bool, device=device)
                for (height, width), count in zip(featmap_sizes, self.num_base_anchors)]


@TASK_UTILS.register_module()
class BestMatchAssigner(MaxIoUAssigner):
    """mmdet's assigner, in which a low-quality match makes a box positive and no more.

    A box that some object overlaps more than it overlaps any other box becomes positive, as in Faster R-CNN (arXiv
    1506.01497, section 3.1.2); it learns the object that it overlaps most itself, as in detectron2. mmdet has it learn
    the former.
    """

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor) -> AssignResult:
        low_quality, self.match_low_quality = self.match_low_quality, False
        try:
            result = super().assign_wrt_overlaps(overlaps, gt_labels)
        finally:
            self.match_low_quality = low_quality
        if low_quality and overlaps.numel():
            best = overlaps.max(dim=1, keepdim=True).values
            raised = ((overlaps == best) & (best >= self.min_pos_iou)).any(0)
            result.gt_inds[raised] = overlaps.argmax(0)[raised] + 1
            result.labels[raised] = gt_labels[result.gt_inds[raised] - 1]
        return result


@TASK_UTILS.register_module()
class DeltaCoder(DeltaXYWHBBoxCoder):
    """mmdet's coder, decoding by torchvision's, which limits how much a box may grow and not how much it may shrink, as
    detectron2 does; mmdet limits both.

    Args:
        growth: how often longer than its anchor or proposal a side may become.
    """

    def __init__(self, *args, growth: float = 1000 / 16, **kwargs):
        super().__init__(*args, **kwargs)
        self.box_coder = BoxCoder([1 / std for std in self.stds], bbox_xform_clip=torch.tensor(growth).log().item())

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: tuple | None = None, **kwargs) -> Tensor:
        """Boxes [N, 4 K] from boxes [N, 4] and deltas [N, 4 K], clipped to `max_shape` (height, width) if given."""
        decoded = self.box_coder.decode_single(pred_bboxes, bboxes)
        if self.clip_border and max_shape is not None:
            decoded = clip_boxes_to_image(decoded.view(-1, 4), tuple(max_shape[:2])).view(decoded.shape)
        return decoded
