"""The ResNet that every method trains: torchvision's, read at its four levels C2 to C5."""
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from detco.convolution import few_pixels
from detco.errors import UserError

LEVELS = ("c2", "c3", "c4", "c5")
ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class _GlobalAveragePool(torch.autograd.Function):

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        ctx.shape = features.shape
        return features.mean((2, 3))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return (grad / (ctx.shape[2] * ctx.shape[3]))[:, :, None, None].expand(ctx.shape)


def pooled(features: Tensor) -> Tensor:
    """Global average pool: [N, C, H, W] -> [N, C].

    The gradient reaches the map as an expanded view. That of torch's mean is a map of its own, which is not channels
    last, and whatever is added to it or multiplied with it, down to the stem, reads two layouts at once.
    """
    return _GlobalAveragePool.apply(features)


class ResNetLevels(nn.Module):
    """A torchvision ResNet without its classifier; parameters keep torchvision's names.

    Args:
        arch: resnet18, resnet34, resnet50, resnet101 or resnet152 (UserError otherwise).
        stride: which convolution of a bottleneck halves the map: "pytorch", the 3x3 (torchvision's), or "caffe", the
            first 1x1 (the original ResNet's, arXiv 1512.03385). ResNet-18 and 34 have no bottlenecks and are the same
            in both.

    `forward`: images [N, 3, H, W] -> {"c2": [N, C, H/4, W/4], ..., "c5": [N, 8C, H/32, W/32]}, with C = 64
    for ResNet-18 and 34 and 256 for the deeper ones.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module

    def __init__(self, arch: str = "resnet50", stride: str = "pytorch"):
        super().__init__()
        if arch not in ARCHS:
            raise UserError(f"unknown backbone '{arch}': known: {', '.join(ARCHS)}")
        net = getattr(torchvision.models, arch)(weights=None)
        for name, module in net.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, module)
        for block in self.modules():
            if stride == "caffe" and isinstance(block, Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        few_pixels(self)
        self.arch = arch
        self.channels = {level: net.fc.in_features >> (3 - i) for i, level in enumerate(LEVELS)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        levels = {}
        for i, level in enumerate(LEVELS):
            x = levels[level] = getattr(self, f"layer{i + 1}")(x)
        return levels
