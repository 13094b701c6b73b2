"""BYOL (arXiv 2006.07733): a prediction of what a momentum encoder makes of the other view; no negatives."""
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.simsiam import normalised
from detco.backbone import ResNetLevels, pooled
from detco.batch_norm import known_statistics
from detco.method import Method
from detco.momentum_encoder import MomentumEncoder
from detco.views import View


def mlp(channels: int, hidden: int, dim: int) -> nn.Sequential:
    """The projector and the predictor, [N, channels] -> [N, dim]; without a bias at the end, as in the authors'
    code."""
    return nn.Sequential(nn.Linear(channels, hidden), *normalised(hidden), nn.ReLU(inplace=True),
                         nn.Linear(hidden, dim, bias=False))


class Encoder(nn.Module):
    """A backbone and BYOL's projector: images [N, 3, S, S] -> [N, dim]."""

    def __init__(self, arch: str, hidden: int, dim: int):
        super().__init__()
        self.backbone = ResNetLevels(arch)
        self.projector = mlp(self.backbone.channels["c5"], hidden, dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.projector(pooled(self.backbone(images)["c5"]))


class BYOL(Method):
    """BYOL.

    Args:
        arch: torchvision ResNet.
        global_view: fields of `detco.views.View` that the two views share.
        blur_p, solarize_p: the one view's and the other's (appendix B).
        dim, hidden: of projector and predictor, 256 and 4096 (section 3.3).
        momentum: the momentum encoder's at the start, 0.996; it rises to 1 by a cosine (section 3.3).
        statistics: as in `detco.detco.DetCo`; "global" are the one view's.
    """

    batch_norm = "sync"  # over all of the batch, as in the authors' code

    def __init__(self, arch: str = "resnet50", global_view: dict | None = None,
                 blur_p: tuple[float, float] = (1.0, 0.1), solarize_p: tuple[float, float] = (0.0, 0.2),
                 dim: int = 256, hidden: int = 4096, momentum: float = 0.996, statistics: str = "trained"):
        super().__init__()
        self.view_specs = {name: View(**(global_view or {}) | dict(blur_p=blur, solarize_p=solarized))
                           for name, blur, solarized in zip(("one", "other"), blur_p, solarize_p, strict=True)}
        self.statistics, self.momentum = known_statistics(statistics), momentum
        self.encoder = Encoder(arch, hidden, dim)
        self.momentum_encoder = MomentumEncoder(self.encoder, momentum)
        self.predictor = mlp(dim, hidden, dim)

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """The squared distance of each view's prediction, as a unit vector, from the momentum encoder's projection of
        the other, summed over both directions (equation 2)."""
        predictions = [self.predictor(self.encoder(views[name])).float() for name in ("one", "other")]
        targets = [self.momentum_encoder(views[name]).float() for name in ("other", "one")]
        return {"loss": 2 * (2 - 2 * F.cosine_similarity(torch.cat(predictions), torch.cat(targets))).mean()}

    def parameter_groups(self) -> list[dict]:
        """Biases and batch norms apart: neither decay nor, under LARS, layer-wise rates are theirs (section 3.3)."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return [dict(params=[p for p in trained if p.dim() > 1]),
                dict(params=[p for p in trained if p.dim() == 1], weight_decay=0.0)]

    def after_step(self) -> None:
        """The momentum encoder follows, by 1 - (1 - momentum) (cos(pi progress) + 1) / 2."""
        self.momentum_encoder.momentum = 1 - (1 - self.momentum) * (math.cos(math.pi * self.progress) + 1) / 2
        self.momentum_encoder.update(self.encoder)

    def backbone(self) -> nn.Module:
        return self.encoder.backbone

    @property
    def pixels_per_image(self) -> int:
        return 2 * super().pixels_per_image  # both encoders see both views
