"""DetCo: multi-level contrast of an image and its patches (arXiv 2102.04803).

Shapes: N images a rank, R ranks, D = dim, K = bank_size; levels c2 to c5 with C_s channels.
"""
import contextlib
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detco.backbone import LEVELS, ResNetLevels, pooled
from detco.batch_norm import known_statistics, split_batch_norm, untracked
from detco.distributed import gather, rank_part, shuffled, splits_here
from detco.errors import UserError
from detco.loss import info_nce
from detco.memory_bank import MemoryBank
from detco.method import Method
from detco.momentum_encoder import MomentumEncoder
from detco.views import View


def projector(channels: int, hidden: int, dim: int) -> nn.Sequential:
    """MoCo v2's two-layer MLP: [N, channels] -> [N, dim]."""
    return nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))


class MultiLevelEncoder(nn.Module):
    """A backbone with a projector a level, for whole images or for patches (DetCo section 3.2).

    Args:
        hidden: of local projectors, in C_s of their level; a global one's is C_s.
        tracked: whether patches have a say in batch norm's running statistics.
    """

    def __init__(self, backbone: ResNetLevels, kinds: tuple[str, ...], levels: tuple[str, ...], grid: int, dim: int,
                 hidden: int, tracked: bool):
        super().__init__()
        self.backbone = backbone
        self.levels, self.tracked = levels, tracked
        patches, widths = {"global": 1, "local": grid * grid}, {"global": 1, "local": hidden}
        self.projectors = nn.ModuleDict({
            f"{kind}_{level}": projector(patches[kind] * channels, widths[kind] * channels, dim)
            for kind in kinds for level, channels in ((level, backbone.channels[level]) for level in levels)
        })

    def forward(self, view: Tensor) -> list[Tensor]:
        """[N, 3, S, S] or patches [N, G, 3, P, P] -> unit vectors [N, D], one tensor a level."""
        kind = "local" if view.dim() == 5 else "global"
        n = len(view)
        with untracked(self.backbone) if kind == "local" and not self.tracked else contextlib.nullcontext():
            maps = self.backbone(view.flatten(0, 1) if kind == "local" else view)
        # The G patch vectors of an image stand side by side in grid order: [N * G, C] -> [N, G * C].
        return [F.normalize(self.projectors[f"{kind}_{level}"](pooled(maps[level]).view(n, -1)).float())
                for level in self.levels]


class DetCo(Method):
    """DetCo with its momentum encoder and up to eight banks.

    Args:
        arch: torchvision ResNet.
        global_view, local_view: fields of `detco.views.View`.
        weights: loss weights of C2 to C5 (section 3.2: 0.1, 0.4, 0.7, 1.0); a level of weight 0 is not built.
        terms: of "g2g", "l2l", "g2l", those that count.
        dim, bank_size, temperature, momentum: MoCo v2's 128, 65536, 0.2 and 0.999.
        permute: shuffle the order of an image's patches, as PIRL does; DetCo does not say that it does.
        batch_norm: "shuffle" (keys under shuffled statistics) or "sync" (SyncBN, which the engine puts in). Under
            "sync" a query and its key share no statistics of a few images, but a batch still differs from the banks in
            its own: the loss can tell positives from negatives by them.
        bn_splits: virtual ranks under "shuffle": one process computes what so many would, several share them out (8:
            the GPUs that DetCo and MoCo trained on). 1 leaves a lone process without a shuffle, and a query's
            statistics then tell its key.
        local_hidden: width of local projectors' hidden layers, in C_s. 1 is MoCo v2's rule for C5; the paper gives
            none, and one public attempt has 9, the width of what comes in.
        statistics: batch norm's, of the backbone that is handed on: as "trained", a mixture of images and patches; as
            "global_only", patches normalised by themselves but without a say in the running statistics; or "global",
            estimated anew on global views under the final weights. Detectors estimate their own.
    Raises:
        UserError: a term that is none of the three, a batch_norm that is neither, statistics of no known kind.
    """

    def __init__(self, arch: str = "resnet50", global_view: dict | None = None, local_view: dict | None = None,
                 weights: tuple[float, ...] = (0.1, 0.4, 0.7, 1.0), terms: tuple[str, ...] = ("g2g", "l2l", "g2l"),
                 dim: int = 128, bank_size: int = 65536, temperature: float = 0.2, momentum: float = 0.999,
                 permute: bool = False, batch_norm: str = "shuffle", bn_splits: int = 8,
                 local_hidden: int = 1, statistics: str = "trained"):
        super().__init__()
        if not terms or not set(terms) <= {"g2g", "l2l", "g2l"}:
            raise UserError(f"detco: terms {terms}: choose from g2g, l2l, g2l")
        if batch_norm not in ("shuffle", "sync"):
            raise UserError(f"detco: batch_norm '{batch_norm}': choose shuffle or sync")
        self.statistics = known_statistics(statistics)
        if statistics == "global" and set(terms) == {"l2l"}:
            raise UserError("detco: statistics 'global' need a global view, and the term l2l alone has none")
        self.weights = {level: w for level, w in zip(LEVELS, weights, strict=True) if w}
        self.terms, self.temperature, self.permute = terms, temperature, permute
        self.batch_norm, self.bn_splits = batch_norm, bn_splits
        global_spec = View(**(global_view or {}))
        local_spec = View(**(local_view or dict(size=255, area=(0.6, 1.0), grid=3, patch=64)))
        local = set(terms) != {"g2g"}
        specs = dict(global_q=global_spec, global_k=global_spec, local_q=local_spec, local_k=local_spec)
        needed = dict(global_q="g2g" in terms, global_k=set(terms) != {"l2l"}, local_q=local, local_k="l2l" in terms)
        self.view_specs = {name: spec for name, spec in specs.items() if needed[name]}
        kinds = tuple(k for k in ("global", "local") if any(name.startswith(k) for name in self.view_specs))
        self.encoder = MultiLevelEncoder(ResNetLevels(arch), kinds, tuple(self.weights), local_spec.grid, dim,
                                         local_hidden, statistics != "global_only")
        self.momentum_encoder = MomentumEncoder(self.encoder, momentum)
        self.banks = nn.ModuleDict({
            f"{kind}_{level}": MemoryBank(bank_size, dim)
            for kind in kinds if f"{kind}_k" in self.view_specs for level in self.weights
        })
        if batch_norm == "shuffle":
            split_batch_norm(self, bn_splits)
        self._keys: dict[str, list[Tensor]] = {}  # kind -> every rank's keys [R * N, D] a level
        self._parts: list[dict[str, list[Tensor]]] = []  # those of this rank's parts that have no loss yet

    def views(self, batch: dict) -> dict[str, Tensor]:
        views = super().views(batch)
        for name in (name for name in views if self.permute and name.startswith("local")):
            order = torch.rand(views[name].shape[:2], generator=self.generator(f"permute {name}")).argsort(1)
            order = order[:, :, None, None, None].to(views[name].device, non_blocking=True)
            views[name] = views[name].take_along_dim(order, 1)
        return views

    def begin_step(self, parts: list[dict[str, Tensor]]) -> None:
        """Encode the keys of every part, so that parts are ranks to one another."""
        splits = splits_here(self.bn_splits, len(parts)) if self.batch_norm == "shuffle" else 1
        if self.batch_norm == "shuffle":
            split_batch_norm(self, splits)
        self._keys = {}
        for name in (name for name in ("global_k", "local_k") if name in parts[0]):
            images = [part[name] for part in parts]
            if self.batch_norm == "shuffle":
                keys = shuffled(self.momentum_encoder, images, self.generator(f"shuffle {name}", shared=True), splits)
            else:
                keys = [gather(torch.cat(level)) for level in zip(*map(self.momentum_encoder, images))]
            self._keys[name[:-2]] = keys
        own = {kind: [rank_part(level).chunk(len(parts)) for level in keys] for kind, keys in self._keys.items()}
        self._parts = [{kind: [level[i] for level in keys] for kind, keys in own.items()} for i in range(len(parts))]

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted terms, "loss_c5_g2g" and so on: L = sum_s w_s (g2g + l2l + g2l) (section 3.2). Of the parts that
        `begin_step` was given in their order; without it, of a batch in one part."""
        if not self._parts:
            self.begin_step([views])
        keys = self._parts.pop(0)
        queries = {name[:-2]: self.encoder(views[name]) for name in ("global_q", "local_q") if name in views}
        losses = {}
        for i, (level, weight) in enumerate(self.weights.items()):
            # The terms against one bank share its product: their queries are stacked.
            for bank, terms in (("global", {"g2g": "global", "g2l": "local"}), ("local", {"l2l": "local"})):
                stacked = [(term, queries[kind][i]) for term, kind in terms.items() if term in self.terms]
                if not stacked:
                    continue
                positives = keys[bank][i].repeat(len(stacked), 1)
                values = info_nce(torch.cat([q for _, q in stacked]), positives, self._bank(f"{bank}_{level}").keys,
                                  self.temperature)
                for (term, _), value in zip(stacked, values.chunk(len(stacked))):
                    losses[f"loss_{level}_{term}"] = weight * value.mean()
        return losses

    def _bank(self, name: str) -> MemoryBank:
        return cast(MemoryBank, self.banks[name])

    def after_step(self) -> None:
        """This step's keys of every rank enter the banks, and the momentum encoder follows.

        MoCo moves the momentum encoder at the start of the next step instead; the weights its keys are computed with
        are the same.
        """
        for kind, levels in self._keys.items():
            for level, keys in zip(self.weights, levels):
                self._bank(f"{kind}_{level}").enqueue(keys)
        self._keys = {}
        self.momentum_encoder.update(self.encoder)

    def backbone(self) -> nn.Module:
        return self.encoder.backbone
