"""SimSiam (arXiv 2011.10566): two views drawn together, with neither negatives nor a momentum encoder."""
from torch import Tensor, nn
from torch.nn import functional as F

from detco.backbone import ResNetLevels, pooled
from detco.batch_norm import known_statistics
from detco.method import Method
from detco.views import View


def normalised(channels: int, affine: bool = True) -> list[nn.Module]:
    """Batch norm of vectors, as a map of one pixel: so that it is synchronised over ranks as the backbone's is."""
    return [nn.Unflatten(1, (channels, 1, 1)), nn.BatchNorm2d(channels, affine=affine), nn.Flatten(1)]


class SimSiam(Method):
    """SimSiam.

    Args:
        arch: torchvision ResNet.
        global_view: fields of `detco.views.View`.
        dim, hidden: of the projector's layers and of the predictor's bottleneck, 2048 and 512 (section 3).
        fixed_predictor: the predictor keeps its first learning rate (section 4.2, table 1 (c): 68.1 against 67.7).
        statistics: as in `detco.detco.DetCo`; there are no patches that could have a say.
    """

    batch_norm = "sync"  # section 3: over all of the batch

    def __init__(self, arch: str = "resnet50", global_view: dict | None = None, dim: int = 2048, hidden: int = 512,
                 fixed_predictor: bool = True, statistics: str = "trained"):
        super().__init__()
        view = View(**(global_view or {}))
        self.view_specs = {"one": view, "other": view}
        self.statistics, self.fixed_predictor = known_statistics(statistics), fixed_predictor
        self.encoder = ResNetLevels(arch)
        c5 = self.encoder.channels["c5"]
        # The output's batch norm has neither scale nor shift, as in the authors' code.
        self.projector = nn.Sequential(
            nn.Linear(c5, dim, bias=False), *normalised(dim), nn.ReLU(inplace=True),
            nn.Linear(dim, dim, bias=False), *normalised(dim), nn.ReLU(inplace=True),
            nn.Linear(dim, dim, bias=False), *normalised(dim, affine=False))
        self.predictor = nn.Sequential(nn.Linear(dim, hidden, bias=False), *normalised(hidden), nn.ReLU(inplace=True),
                                       nn.Linear(hidden, dim))

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Minus the cosine of each view's prediction and the other's projection, through which no gradient flows
        (algorithm 1); and the projections' spread, near 1 unless they collapse."""
        projections = [self.projector(pooled(self.encoder(views[name])["c5"])).float() for name in ("one", "other")]
        predictions = [self.predictor(z).float() for z in projections]
        cosines = [F.cosine_similarity(p, z.detach()).mean() for p, z in zip(predictions, reversed(projections))]
        unit = F.normalize(projections[0].detach())
        return {"loss": -sum(cosines) / 2, "spread": unit.std(0, correction=0).mean() * unit.shape[1]**0.5}

    def parameter_groups(self) -> list[dict]:
        """The predictor apart, whose rate may be fixed."""
        own = list(self.predictor.parameters())
        names = set(map(id, own))
        return [dict(params=[p for p in self.parameters() if id(p) not in names]),
                dict(params=own, fixed_lr=self.fixed_predictor)]

    def backbone(self) -> nn.Module:
        return self.encoder
