"""MoCo v2 (arXiv 2003.04297): one contrast of two views, at C5."""
from torch import Tensor, nn
from torch.nn import functional as F

from detco.backbone import ResNetLevels, pooled
from detco.batch_norm import known_statistics, split_batch_norm
from detco.distributed import rank_part, shuffled, splits_here
from detco.loss import info_nce
from detco.memory_bank import MemoryBank
from detco.method import Method
from detco.momentum_encoder import MomentumEncoder
from detco.views import View


class Encoder(nn.Module):
    """A backbone and MoCo v2's MLP head: images [N, 3, S, S] -> [unit vectors [N, dim]]."""

    def __init__(self, arch: str, dim: int):
        super().__init__()
        self.backbone = ResNetLevels(arch)
        c5 = self.backbone.channels["c5"]
        self.head = nn.Sequential(nn.Linear(c5, c5), nn.ReLU(inplace=True), nn.Linear(c5, dim))

    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.normalize(self.head(pooled(self.backbone(images)["c5"])).float())]


class MoCoV2(Method):
    """MoCo v2.

    Args:
        arch: torchvision ResNet.
        global_view: fields of `detco.views.View`.
        dim, bank_size, temperature, momentum: 128, 65536, 0.2 and 0.999 (the paper's, section 2).
        bn_splits, statistics: as in `detco.detco.DetCo`; there are no patches that could have a say.
    """

    def __init__(self, arch: str = "resnet50", global_view: dict | None = None, dim: int = 128,
                 bank_size: int = 65536, temperature: float = 0.2, momentum: float = 0.999, bn_splits: int = 8,
                 statistics: str = "trained"):
        super().__init__()
        view = View(**(global_view or {}))
        self.view_specs = {"global_q": view, "global_k": view}
        self.temperature, self.bn_splits, self.statistics = temperature, bn_splits, known_statistics(statistics)
        self.encoder = Encoder(arch, dim)
        self.momentum_encoder = MomentumEncoder(self.encoder, momentum)
        self.bank = MemoryBank(bank_size, dim)
        split_batch_norm(self, bn_splits)
        self._parts: list[Tensor] = []  # keys [N, dim] of those of this rank's parts that have no loss yet

    def begin_step(self, parts: list[dict[str, Tensor]]) -> None:
        """Encode the keys of every part, so that parts are ranks to one another."""
        splits = splits_here(self.bn_splits, len(parts))
        split_batch_norm(self, splits)
        [self._keys] = shuffled(self.momentum_encoder, [part["global_k"] for part in parts],
                                self.generator("shuffle global_k", shared=True), splits)
        self._parts = list(rank_part(self._keys).chunk(len(parts)))

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """InfoNCE of the query view against its key and the bank."""
        if not self._parts:
            self.begin_step([views])
        [query] = self.encoder(views["global_q"])
        return {"loss": info_nce(query, self._parts.pop(0), self.bank.keys, self.temperature).mean()}

    def after_step(self) -> None:
        """Every rank's keys enter the bank, and the momentum encoder follows."""
        self.bank.enqueue(self._keys)
        self.momentum_encoder.update(self.encoder)

    def backbone(self) -> nn.Module:
        return self.encoder.backbone
