"""The compiled operators of mmcv that mmdet calls, on torchvision's kernels (CPU and CUDA).

`install()` must run before mmdet is imported. mmcv-lite carries the Python of `mmcv.ops` without its compiled
extension `mmcv._ext`; this module takes that name. Signatures are those of mmcv 2.1.0's extension: results are
written into tensors that the caller allocated.
"""
import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch
import torchvision
from torch import Tensor

EXTENSION = "mmcv._ext"


def install() -> str:
    """Make `mmcv._ext` importable; returns whose kernels it has, "compiled" or "torchvision".

    A compiled mmcv that loads is preferred. Raises ImportError where mmcv's Python is missing.
    """
    importlib.import_module("mmcv")
    _silence()
    if isinstance(sys.modules.get(EXTENSION), _Extension):
        return "torchvision"
    try:
        importlib.import_module(EXTENSION)
        return "compiled"
    except ImportError:  # not built, or built against another torch
        sys.modules[EXTENSION] = _Extension(EXTENSION)
        return "torchvision"


class _Extension(ModuleType):
    """Answers to every operator's name, since mmcv looks all of them up at import; fails when one is called."""

    def __init__(self, name: str):
        super().__init__(name, "mmcv's operators on torchvision's kernels")
        self.__spec__ = ModuleSpec(name, loader=None)  # mmengine asks find_spec whether mmcv is compiled
        for operator in OPERATORS:
            setattr(self, operator.__name__, operator)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"mmcv operator '{name}' is not among those provided without a compiler "
                                      f"({', '.join(o.__name__ for o in OPERATORS)}): install a compiled mmcv")

        return missing


def _silence() -> None:
    """Filter what mmcv, mmengine and mmdet make current torch and Python say; all of it is theirs to change."""
    for message in (
        r"indexing with dtype torch\.uint8",  # StandardRoIHead.mask_loss picks the positives by a byte mask
        r"'?pkgutil\.find_loader",  # mmengine's look for a compiled mmcv
        r"`torch\.cuda\.amp\.",  # mmengine's AmpOptimWrapper
        r"torch\.meshgrid: in an upcoming release",  # mmdet's anchors
    ):
        warnings.filterwarnings("ignore", message=message)


def _wide(*tensors: Tensor) -> list[Tensor]:
    """The tensors in one type that every kernel of torchvision takes: float32, or float64 where one has it."""
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    return [t.to(dtype) for t in tensors]


def nms(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes kept, by falling score. bboxes [N, 4] as x1, y1, x2, y2; scores [N].

    `offset` 1 is the old convention in which a box from x to x is one pixel wide.
    """
    bboxes, scores = _wide(bboxes, scores)
    return torchvision.ops.nms(bboxes + bboxes.new_tensor([0, 0, offset, offset]), scores, iou_threshold)


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor,
                      aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                      pool_mode: int, aligned: bool) -> None:
    """RoIAlign of input [N, C, H, W] at rois [R, 5] (image, x1, y1, x2, y2) into output [R, C, h, w].

    Raises NotImplementedError for max pooling (`pool_mode` 0), which torchvision does not have.
    """
    _refuse_max(pool_mode)
    features, boxes = _wide(input, rois)
    output.copy_(torch.ops.torchvision.roi_align(features, boxes, spatial_scale, aligned_height, aligned_width,
                                                 sampling_ratio, aligned))


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor,
                       aligned_height: int, aligned_width: int, spatial_scale: float, sampling_ratio: int,
                       pool_mode: int, aligned: bool) -> None:
    """The gradient of `roi_align_forward` by its input, from grad_output [R, C, h, w] into grad_input [N, C, H, W]."""
    _refuse_max(pool_mode)
    grad, boxes = _wide(grad_output, rois)
    grad_input.copy_(torch.ops.torchvision._roi_align_backward(
        grad, boxes, spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned))


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float,
                               alpha: float) -> None:
    """Focal loss (arXiv 1708.02002, eq. 5) of each logit: input and output [N, C], target long [N], C = background.

    Raises NotImplementedError for class weights, which mmdet never passes.
    """
    if weight.numel():
        raise NotImplementedError("mmcv operator 'sigmoid_focal_loss_forward': class weights are not provided "
                                  "without a compiled mmcv")
    (logits,) = _wide(input)
    output.copy_(_focal(logits, target, gamma, alpha))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """The derivative of each element of `sigmoid_focal_loss_forward` by its logit, into grad_input [N, C]."""
    with torch.enable_grad():
        (logits,) = _wide(input.detach())
        logits = logits.requires_grad_()
        grad_input.copy_(torch.autograd.grad(_focal(logits, target, gamma, alpha).sum(), logits)[0])


def _focal(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    classes = torch.arange(logits.shape[1], device=logits.device)
    return torchvision.ops.sigmoid_focal_loss(logits, (target[:, None] == classes).to(logits.dtype), alpha, gamma)


def _refuse_max(pool_mode: int) -> None:
    if pool_mode == 0:
        raise NotImplementedError("mmcv operator 'roi_align' with pool_mode 'max' is not provided without a "
                                  "compiled mmcv: use pool_mode 'avg'")


OPERATORS = (nms, roi_align_forward, roi_align_backward, sigmoid_focal_loss_forward, sigmoid_focal_loss_backward)
