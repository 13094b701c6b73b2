"""Supervised pretraining: cross entropy over the pool's labels, torchvision's recipe."""
from torch import Tensor, nn
from torch.nn import functional as F

from detco.backbone import ResNetLevels, pooled
from detco.method import Method
from detco.views import View


class Supervised(Method):
    """A classifier on C5. The view is torchvision's: crops of 8 to 100 % of the area, and flips.

    Args:
        arch: torchvision ResNet.
        num_classes: of the pool; the engine fills it in.
        global_view: fields of `detco.views.View`.
    """

    def __init__(self, num_classes: int, arch: str = "resnet50", global_view: dict | None = None):
        super().__init__()
        self.view_specs = {"image": View(**(global_view or dict(area=(0.08, 1.0), jitter_p=0, grey_p=0, blur_p=0)))}
        self.encoder = ResNetLevels(arch)
        self.classifier = nn.Linear(self.encoder.channels["c5"], num_classes)

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy, and the training batch's top-1 accuracy in percent."""
        logits = self.classifier(pooled(self.encoder(views["image"])["c5"])).float()
        top1 = (logits.argmax(1) == views["labels"]).float().mean() * 100
        return {"loss": F.cross_entropy(logits, views["labels"]), "top1": top1}

    def backbone(self) -> nn.Module:
        return self.encoder
