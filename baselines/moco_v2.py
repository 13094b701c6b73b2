"""MoCo v2 (arXiv 2003.04297), and v1 (arXiv 1911.05722) with a linear head: one contrast of two views, at C5."""
from torch import Tensor, nn
from torch.nn import functional as F

from detco.backbone import ResNetLevels, pooled
from detco.batch_norm import known_statistics, split_batch_norm
from detco.detco import projector
from detco.distributed import rank_part, shuffled, splits_here
from detco.errors import UserError, nearest
from detco.loss import info_nce
from detco.memory_bank import MemoryBank
from detco.method import Method
from detco.momentum_encoder import MomentumEncoder
from detco.views import View

HEADS = ("mlp", "linear")  # v2's and v1's


class Encoder(nn.Module):
    """A backbone and a head of HEADS: images [N, 3, S, S] -> [unit vectors [N, dim]]."""

    def __init__(self, arch: str, dim: int, head: str):
        super().__init__()
        self.backbone = ResNetLevels(arch)
        c5 = self.backbone.channels["c5"]
        self.head = projector(c5, c5, dim) if head == "mlp" else nn.Linear(c5, dim)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.normalize(self.head(pooled(self.backbone(images)["c5"])).float())]


class MoCoV2(Method):
    """MoCo v2.

    Args:
        arch: torchvision ResNet.
        global_view: fields of `detco.views.View`.
        dim, bank_size, temperature, momentum: 128, 65536, 0.2 and 0.999 (the paper's, section 2).
        bn_splits, statistics: as in `detco.detco.DetCo`; there are no patches that could have a say.
        head: "mlp", v2's two layers, or "linear", v1's one.
    Raises:
        UserError: another head, statistics of no known kind.
    """

    encoder_type: type[Encoder] = Encoder

    def __init__(self, arch: str = "resnet50", global_view: dict | None = None, dim: int = 128,
                 bank_size: int = 65536, temperature: float = 0.2, momentum: float = 0.999, bn_splits: int = 8,
                 statistics: str = "trained", head: str = "mlp"):
        super().__init__()
        if head not in HEADS:
            raise UserError(nearest("head", head, HEADS))
        view = View(**(global_view or {}))
        self.view_specs = {"global_q": view, "global_k": view}
        self.temperature, self.bn_splits, self.statistics = temperature, bn_splits, known_statistics(statistics)
        self.encoder = self.encoder_type(arch, dim, head)
        self.momentum_encoder = MomentumEncoder(self.encoder, momentum)
        self.bank = MemoryBank(bank_size, dim)
        split_batch_norm(self, bn_splits)
        self._keys: list[Tensor] = []  # what the momentum encoder makes of every rank's images, [R * N, ...] each
        self._parts: list[tuple[Tensor, ...]] = []  # of these, [N, ...] of this rank's parts that have no loss yet

    def begin_step(self, parts: list[dict[str, Tensor]]) -> None:
        """Encode the keys of every part, so that parts are ranks to one another."""
        splits = splits_here(self.bn_splits, len(parts))
        split_batch_norm(self, splits)
        self._keys = shuffled(self.momentum_encoder, [part["global_k"] for part in parts],
                              self.generator("shuffle global_k", shared=True), splits)
        self._parts = list(zip(*(rank_part(keys).chunk(len(parts)) for keys in self._keys)))

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """InfoNCE of the query view against its key and the bank."""
        if not self._parts:
            self.begin_step([views])
        [query], [key] = self.encoder(views["global_q"]), self._parts.pop(0)
        return {"loss": info_nce(query, key, self.bank.keys, self.temperature).mean()}

    def after_step(self) -> None:
        """Every rank's keys enter the bank, and the momentum encoder follows."""
        self.bank.enqueue(self._keys[0])
        self.momentum_encoder.update(self.encoder)

    def backbone(self) -> nn.Module:
        return self.encoder.backbone
