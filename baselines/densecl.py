"""DenseCL (arXiv 2011.09157): beside MoCo v2's contrast of images, one of the positions of C5 that correspond."""
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.moco_v2 import Encoder, MoCoV2
from detco.backbone import pooled
from detco.detco import projector
from detco.loss import info_nce
from detco.memory_bank import MemoryBank


def correspondence(queries: Tensor, keys: Tensor) -> Tensor:
    """The key of its image that each query is nearest to by cosine (section 3.4).

    Args:
        queries, keys: [N, P, C], the backbone's features at P positions.
    Returns:
        long [N, P], positions of the keys.
    """
    with torch.no_grad(), torch.autocast(queries.device.type, enabled=False):
        # A query's length changes nothing in the order of its keys.
        return (queries.float() @ F.normalize(keys.float(), dim=2).mT).argmax(2)


class DenseEncoder(Encoder):
    """MoCo's encoder with a dense head, two layers at each of C5's P positions (section 3.2).

    `forward`: images [N, 3, S, S] -> unit vectors of the images [N, dim], of the positions [N, P, dim] and of the mean
    over these [N, dim]; and the backbone's features [N, P, C].
    """

    def __init__(self, arch: str, dim: int, head: str):
        super().__init__(arch, dim, head)
        c5 = self.backbone.channels["c5"]
        self.dense_head = projector(c5, c5, dim)  # on vectors, what 1x1 convolutions are on maps

    def forward(self, images: Tensor) -> list[Tensor]:
        c5 = self.backbone(images)["c5"]
        features = c5.flatten(2).mT
        dense = self.dense_head(features).float()
        return [F.normalize(self.head(pooled(c5)).float()), F.normalize(dense, dim=2), F.normalize(dense.mean(1)),
                features]


class DenseCL(MoCoV2):
    """DenseCL.

    Args:
        dense_weight: the dense term's share of the loss, 0.5 (section 3.3: lambda).
        moco: MoCo v2's arguments. A second bank, of as many keys, holds each image's mean of dense keys (section 3.3).
    """

    encoder_type = DenseEncoder

    def __init__(self, dense_weight: float = 0.5, **moco):
        super().__init__(**moco)
        self.dense_weight = dense_weight
        self.dense_bank = MemoryBank(*self.bank.keys.shape)

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """InfoNCE of images and of positions, weighted. A position's key is the dense key of the position whose
        features its own are nearest to."""
        if not self._parts:
            self.begin_step([views])
        query, dense_query, _, features = self.encoder(views["global_q"])
        key, dense_key, _, key_features = self._parts.pop(0)
        positive = dense_key.take_along_dim(correspondence(features, key_features)[:, :, None], 1)
        of_images = info_nce(query, key, self.bank.keys, self.temperature).mean()
        of_positions = info_nce(dense_query.flatten(0, 1), positive.flatten(0, 1), self.dense_bank.keys,
                                self.temperature).mean()
        return {"loss_global": (1 - self.dense_weight) * of_images, "loss_dense": self.dense_weight * of_positions}

    def after_step(self) -> None:
        """Every rank's keys enter both banks, and the momentum encoder follows."""
        self.dense_bank.enqueue(self._keys[2])
        super().after_step()
