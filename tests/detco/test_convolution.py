"""Convolutions over maps of a few pixels against torch's own."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from detco import convolution
from detco.backbone import ResNetLevels
from detco.convolution import FewPixelsConv2d, few_pixels


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 3), (5, 5)])
@pytest.mark.parametrize("kernel, stride, padding", [(1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 1), (7, 2, 3), (3, 2, 0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_few_pixels_give_what_torch_gives_values_and_gradients(monkeypatch, size, kernel, stride, padding, layout):
    if any(side + 2 * padding < kernel for side in size):
        pytest.skip("no output")
    monkeypatch.setattr(convolution, "FEW", 100)  # every one of these sizes
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 6, kernel, stride, padding, bias=False).double().to(memory_format=layout)
    few_pixels(layer)
    assert type(layer) is FewPixelsConv2d
    images = torch.randn(3, 5, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    ours = layer(images)
    theirs = F.conv2d(images, layer.weight, None, stride, padding)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)
    grad = torch.randn_like(ours)
    for a, b in zip(*(torch.autograd.grad(out, (images, layer.weight), grad) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
        assert a.is_contiguous(memory_format=layout)


def test_every_convolution_of_a_backbone_is_one_and_its_maps_are_torchs(monkeypatch):
    torch.manual_seed(0)
    net = ResNetLevels("resnet50").double().eval()
    images, seen = torch.randn(2, 3, 40, 40, dtype=torch.float64), []
    monkeypatch.setattr(convolution._FewPixels, "apply", lambda *a, f=convolution._FewPixels.apply: seen.append(a) or
                        f(*a))
    ours = net(images)
    assert {tuple(a[2]) for a in seen} == {(2, 2), (3, 3)}  # C5, and the wide ones of C4
    for module in net.modules():
        if type(module) is FewPixelsConv2d:
            module.__class__ = nn.Conv2d
    theirs = net(images)
    assert len(ours) == 4
    for level, values in ours.items():
        torch.testing.assert_close(values, theirs[level], rtol=0, atol=1e-11)


def test_layers_of_other_forms_stay_torchs():
    layers = [nn.Conv2d(4, 4, 3)] + [nn.Conv2d(4, 4, 3, bias=False, **field) for field in (
        dict(groups=2), dict(dilation=2), dict(stride=(1, 2)), dict(padding=(0, 1)), dict(padding="same"))]
    for layer in layers:
        few_pixels(layer)
        assert type(layer) is nn.Conv2d
