"""The seam between methods and the engine: what a pretraining method is."""
import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from detco.batch_norm import global_statistics
from detco.views import View


class Method(nn.Module):
    """A pretraining method. The engine calls `views`, `begin_step`, `loss`, then the optimiser, then `after_step`.

    A subclass sets `view_specs` (name -> View, a global one first) and its networks, and overrides `loss`, `backbone`,
    `after_step` where it keeps state, and `parameter_groups` where not every parameter is trained alike. One file and
    one config, whose `type` names the class, add a method; the config names the optimiser and the schedule of its
    learning rate.

    Attributes:
        progress: the share of the run's steps taken before this one, in [0, 1); the engine sets it ahead of `loss`, for
            what follows a schedule of the method's own, such as a momentum.
        statistics: batch norm's, of the backbone that is handed on (`detco.batch_norm.STATISTICS`).
        metadata: what its checkpoint says in the place of what the engine knows, where weights come from elsewhere.
    """

    view_specs: dict[str, View] = {}
    progress = 0.0
    statistics = "trained"
    metadata: dict = {}

    def __init__(self):
        super().__init__()
        self.seed_step(0, 0, 0)

    def seed_step(self, seed: int, step: int, rank: int) -> None:
        """Fix what this step draws; so a resumed run draws what the uninterrupted one did."""
        self._step = (seed, step, rank)

    def generator(self, name: str, shared: bool = False) -> torch.Generator:
        """A CPU generator for one purpose of this step: views do not disturb each other's draws. Every rank has its
        own, or draws the same from a shared one."""
        seed, step, rank = self._step
        key = hashlib.blake2b(repr((seed, step, "all" if shared else rank, name)).encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(key, "big") >> 1)

    def views(self, batch: dict) -> dict[str, Tensor]:
        """Augment a batch.

        Args:
            batch: "images", uint8 [N, 3, H, W], or a dict of uint8 crops [N, 3, size, size], one a view, where
                loader workers have cropped already; "labels", long [N], where the pool has any.
        Returns:
            name -> float32 [N, 3, size, size] or [N, grid * grid, 3, patch, patch]; and "labels".
        """
        images = batch["images"]
        views = {}
        for name, view in self.view_specs.items():
            generator = self.generator(name)
            crops = images[name] if isinstance(images, dict) else view.crop(images, generator)
            views[name] = view.finish(crops, generator)
        return views | ({"labels": batch["labels"]} if "labels" in batch else {})

    def begin_step(self, parts: list[dict[str, Tensor]]) -> None:
        """Called before a step's losses with the views of its batch; of each part, where the batch is accumulated from
        several. For what concerns all parts, such as keys that are shuffled among them."""

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars by name; those named "loss..." are summed and minimised, the others logged."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict]:
        """What the optimiser trains, as torch.optim takes it: {"params": parameters, options of these alone}.

        A group may fix its rate ("fixed_lr": True): the schedule then passes it by.
        """
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def finish(self, batches: Iterator[dict[str, Tensor]]) -> None:
        """Called once the last step is taken, before the backbone is saved, with views of further batches, without end:
        for what is estimated under the final weights. Here batch norm's statistics, where they shall be "global"."""
        if self.statistics == "global":
            global_statistics(self.backbone(), batches)

    def backbone(self) -> nn.Module:
        """The network whose weights are transferred, with torchvision's ResNet names."""
        raise NotImplementedError

    @property
    def pixels_per_image(self) -> int:
        """Pixels through an encoder, query's and momentum encoder's, for one image of the pool (docs/method.md,
        Cost)."""
        return sum(view.pixels for view in self.view_specs.values())
