"""MoCo v2 (arXiv 2003.04297): one contrast of two views, at C5."""
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detco.backbone import ResNetLevels, pooled
from detco.memory_bank import MemoryBank
from detco.distributed import rank_part, shuffled
from detco.loss import info_nce
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
    """

    def __init__(self, arch: str = "resnet50", global_view: dict | None = None, dim: int = 128,
                 bank_size: int = 65536, temperature: float = 0.2, momentum: float = 0.999):
        super().__init__()
        view = View(**(global_view or {}))
        self.view_specs = {"global_q": view, "global_k": view}
        self.temperature = temperature
        self.encoder = Encoder(arch, dim)
        self.momentum_encoder = MomentumEncoder(self.encoder, momentum)
        self.bank = MemoryBank(bank_size, dim)
        self._pending: list[Tensor] = []  # keys of a step's parts

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """InfoNCE of the query view against its key and the bank."""
        [keys] = shuffled(self.momentum_encoder, views["global_k"], self.generator("shuffle global_k", shared=True))
        self._pending.append(keys)
        [query] = self.encoder(views["global_q"])
        return {"loss": info_nce(query, rank_part(keys), self.bank.keys, self.temperature).mean()}

    def after_step(self) -> None:
        """Every rank's keys enter the bank, and the momentum encoder follows."""
        self.bank.enqueue(torch.cat(self._pending))
        self._pending = []
        self.momentum_encoder.update(self.encoder)

    def backbone(self) -> nn.Module:
        return self.encoder.backbone
