"""No pretraining: torchvision's initial weights. Also the alarm: a pretrained row at its level did not load."""
from torch import nn

from detco.backbone import ResNetLevels
from detco.method import Method


class RandomInit(Method):
    """A backbone as initialised; it has no views, no loss, and its config asks for no epochs."""

    def __init__(self, arch: str = "resnet50"):
        super().__init__()
        self.encoder = ResNetLevels(arch)

    def backbone(self) -> nn.Module:
        return self.encoder
