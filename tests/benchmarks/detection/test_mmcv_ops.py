"""mmcv's operators on torchvision's kernels against a slow reference in float64."""
import math
import sys

import pytest
import torch

from benchmarks.detection import mmcv_ops

KERNELS = mmcv_ops.install()

from mmcv.ops import batched_nms, deform_conv2d, nms, roi_align, sigmoid_focal_loss  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
ROIS = torch.tensor([[0, 2, 3, 30, 25], [1, -6, -4, 12, 50], [0, 10, 10, 10, 10],  # inside, across, a point
                     [1, 5, 8, 20, 8], [0, 60, 60, 90, 80], [1, 0.5, 0.7, 39.2, 35.1]]).double()  # a line, outside


def bilinear(feature, y, x):
    """feature [C, H, W] at one point; 0 beyond one pixel outside; differentiable by the feature."""
    height, width = feature.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return feature.new_zeros(feature.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return ((1 - dy) * ((1 - dx) * feature[:, top, left] + dx * feature[:, top, right])
            + dy * ((1 - dx) * feature[:, bottom, left] + dx * feature[:, bottom, right]))


def slow_roi_align(features, rois, size, scale, sampling_ratio, aligned):
    shift, pooled = 0.5 if aligned else 0.0, []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - shift for value in box)
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        rows, columns = (sampling_ratio or math.ceil(side / size) for side in (height, width))
        for i in range(size):
            for j in range(size):
                points = [bilinear(features[int(image)], y1 + (i + (a + 0.5) / rows) * height / size,
                                   x1 + (j + (b + 0.5) / columns) * width / size)
                          for a in range(rows) for b in range(columns)]
                pooled.append(torch.stack(points).mean(0) if points else features.new_zeros(features.shape[1]))
    return torch.stack(pooled).view(len(rois), size, size, -1).permute(0, 3, 1, 2)


def slow_nms(boxes, scores, threshold, offset=0):
    kept = []
    for i in scores.argsort(descending=True).tolist():
        x1, y1, x2, y2 = boxes[i].tolist()
        for j in kept:
            u1, v1, u2, v2 = boxes[j].tolist()
            inter = max(min(x2, u2) - max(x1, u1) + offset, 0) * max(min(y2, v2) - max(y1, v1) + offset, 0)
            union = ((x2 - x1 + offset) * (y2 - y1 + offset) + (u2 - u1 + offset) * (v2 - v1 + offset) - inter)
            if union > 0 and inter / union > threshold:
                break
        else:
            kept.append(i)
    return kept


def some_boxes(count, seed=0):
    """Boxes of 20 to 60 pixels, many overlapping, each fifth of zero area; distinct scores."""
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * 60
    side = torch.rand(count, 2, generator=draw) * 40 + 20
    side[::5, 0] = 0
    return torch.cat([corner, corner + side], 1), torch.randperm(count, generator=draw) / count + 0.01


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_roi_align_and_its_gradient_equal_the_reference(device, aligned, sampling_ratio, dtype, tolerance):
    torch.manual_seed(0)
    features = torch.randn(2, 3, 10, 11, dtype=torch.float64)
    slow, fast = features.clone().requires_grad_(), features.to(device, dtype).requires_grad_()
    expected = slow_roi_align(slow, ROIS, 3, 0.25, sampling_ratio, aligned)
    result = roi_align(fast, ROIS.to(device, dtype), 3, 0.25, sampling_ratio, "avg", aligned)
    weight = torch.randn_like(expected)
    (expected * weight).sum().backward()
    (result * weight.to(result)).sum().backward()
    assert result.dtype == dtype and expected.abs().sum() > 1
    torch.testing.assert_close(result.cpu().double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(fast.grad.cpu().double(), slow.grad, rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_roi_align_under_autocast(device, dtype):
    features = torch.randn(2, 3, 10, 11, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    half, full = features.clone().requires_grad_(), features.float().requires_grad_()
    rois = ROIS.float().to(device)
    with torch.autocast(device, dtype=dtype):
        result = roi_align(half, rois, 3, 0.25, 0, "avg", True)
    expected = roi_align(full, rois, 3, 0.25, 0, "avg", True)
    result.sum().backward()
    expected.sum().backward()
    assert result.dtype == dtype and half.grad.dtype == dtype
    torch.testing.assert_close(result, expected.to(dtype), rtol=0, atol=0)  # computed in float32, rounded once
    torch.testing.assert_close(half.grad, full.grad.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_roi_align_of_no_rois(device):
    features = torch.randn(1, 4, 8, 8, device=device, requires_grad=True)
    result = roi_align(features, torch.zeros(0, 5, device=device), 7, 1.0, 0, "avg", True)
    result.sum().backward()
    assert result.shape == (0, 4, 7, 7) and not features.grad.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nms_equals_the_reference(device, offset, threshold, dtype):
    boxes, scores = some_boxes(60)
    boxes = boxes.to(dtype)
    detections, kept = nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    expected = slow_nms(boxes.double(), scores, threshold, offset)
    assert kept.tolist() == expected and len(expected) < 60
    torch.testing.assert_close(detections[:, 4].cpu().float(), scores[kept.cpu()])


@pytest.mark.parametrize("device", DEVICES)
def test_batched_nms_keeps_classes_apart(device):
    boxes, scores = some_boxes(60, seed=1)
    classes = torch.arange(60) % 3
    expected = []
    for label in range(3):
        index = (classes == label).nonzero().flatten()
        expected += index[slow_nms(boxes[index].double(), scores[index], 0.5)].tolist()
    _, kept = batched_nms(boxes.to(device), scores.to(device), classes.to(device), dict(type="nms", iou_threshold=0.5))
    assert kept.tolist() == sorted(expected, key=lambda i: -scores[i]) and 3 < len(expected) < 60


@pytest.mark.parametrize("device", DEVICES)
def test_nms_of_nothing_and_of_points(device):
    nothing = torch.zeros(0, 4, device=device)
    assert nms(nothing, torch.zeros(0, device=device), 0.5)[1].shape == (0,)
    points = torch.full((3, 4), 7.0, device=device)  # no area, so no overlap: all stay
    assert nms(points, torch.tensor([0.1, 0.3, 0.2], device=device), 0.5)[1].tolist() == [1, 2, 0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (1.5, 0.6)])
@pytest.mark.skipif(KERNELS == "compiled" and not torch.cuda.is_available(), reason="compiled mmcv has it on CUDA only")
def test_focal_loss_equals_the_formula(device, gamma, alpha):
    torch.manual_seed(0)
    logits = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3, 4, 4, 1])  # 4 is background
    hit = target[:, None] == torch.arange(4)
    p = torch.where(hit, logits.sigmoid(), 1 - logits.sigmoid())  # arXiv 1708.02002, eq. 5
    expected = -torch.where(hit, alpha, 1 - alpha) * (1 - p) ** gamma * p.log()
    weight = torch.rand(7, 4, dtype=torch.float64)
    (expected * weight).sum().backward()
    fast = logits.detach().float().to(device).requires_grad_()
    result = sigmoid_focal_loss(fast, target.to(device), gamma, alpha, None, "none")
    (result * weight.to(result)).sum().backward()
    torch.testing.assert_close(result.cpu().double(), expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast.grad.cpu().double(), logits.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(KERNELS == "compiled", reason="a compiled mmcv has them")
def test_operators_that_are_not_provided_name_themselves():
    with pytest.raises(NotImplementedError, match="'deform_conv_forward'"):
        deform_conv2d(torch.zeros(1, 1, 5, 5), torch.zeros(1, 18, 3, 3), torch.zeros(1, 1, 3, 3))
    with pytest.raises(NotImplementedError, match="'max'"):
        roi_align(torch.zeros(1, 1, 8, 8), torch.zeros(1, 5), 2, 1.0, 0, "max", True)


def test_install_twice_changes_nothing_and_prefers_a_compiled_mmcv(monkeypatch):
    before = sys.modules[mmcv_ops.EXTENSION]
    assert mmcv_ops.install() == KERNELS and sys.modules[mmcv_ops.EXTENSION] is before
    monkeypatch.setitem(sys.modules, mmcv_ops.EXTENSION, type(sys)(mmcv_ops.EXTENSION))  # stands for a compiled one
    assert mmcv_ops.install() == "compiled"
