"""What `benchmarks/speed.py` is measured against: the bare encoder, a plain DetCo, lightly's MoCo v2, a PIL pipeline.

Each is written as its authors' readers would write it. None is imported outside the benchmark and its tests.
"""
from collections.abc import Callable
from copy import deepcopy

import torch
from PIL import ImageFilter
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms

from detco.backbone import ResNetLevels
from detco.detco import DetCo
from detco.views import MEAN, STD, View

Step = Callable[[], None]
SGD = dict(lr=0.03, momentum=0.9, weight_decay=1e-4)


def bare_step(arch: str, views: dict[str, Tensor], device: torch.device, amp: bool, compiled: bool = False) -> Step:
    """The encoder alone: forward and backward on the query views, forward on the key views, a loss that is a sum. (A
    mean's gradient is a map that is not channels last: the whole backward pass would be slower by a tenth.)"""
    encoder = ResNetLevels(arch).to(device, memory_format=torch.channels_last)
    momentum_encoder = deepcopy(encoder).requires_grad_(False)
    if compiled:
        encoder.compile(dynamic=False)
        momentum_encoder.compile(dynamic=False)
    pixels = {name: view.flatten(0, -4) for name, view in views.items()}

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            with torch.no_grad():
                for name in pixels:
                    if name.endswith("_k"):
                        momentum_encoder(pixels[name])
            loss = sum(encoder(x)["c5"].float().sum() for name, x in pixels.items() if name.endswith("_q"))
        loss.backward()
        encoder.zero_grad()

    return step


class PlainDetCo:
    """DetCo as one writes it at first, from the same weights and banks as `method`: a loop over parameters for the
    momentum encoder, a clone of each bank, twelve concatenated logits, float32."""

    def __init__(self, method: DetCo):
        self.method = method
        self.encoder = deepcopy(method.encoder).to(memory_format=torch.contiguous_format)
        self.momentum_encoder = deepcopy(method.momentum_encoder.module).to(memory_format=torch.contiguous_format)
        self.banks = {name: bank.keys.clone() for name, bank in method.banks.items()}
        self.pointer = 0
        self.optimizer = torch.optim.SGD(self.encoder.parameters(), **SGD)

    def loss(self, views: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            momentum = self.method.momentum_encoder.momentum
            for key, query in zip(self.momentum_encoder.parameters(), self.encoder.parameters()):
                key.data = key.data * momentum + query.data * (1 - momentum)
            self.keys = {kind: self.momentum_encoder(views[f"{kind}_k"]) for kind in ("global", "local")}
        queries = {kind: self.encoder(views[f"{kind}_q"]) for kind in ("global", "local")}
        total = 0
        for i, (level, weight) in enumerate(self.method.weights.items()):
            for q, k in (("global", "global"), ("local", "local"), ("local", "global")):
                query, bank = queries[q][i], self.banks[f"{k}_{level}"].clone().detach()
                positive = (query * self.keys[k][i]).sum(1, keepdim=True)
                logits = torch.cat([positive, query @ bank.T], 1) / self.method.temperature
                target = torch.zeros(len(query), dtype=torch.long, device=query.device)
                total = total + weight * F.cross_entropy(logits, target)
        return total

    def __call__(self, views: dict[str, Tensor]) -> Tensor:
        """One training step; the loss."""
        loss = self.loss(views)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for kind, levels in self.keys.items():
            for level, keys in zip(self.method.weights, levels):
                bank = self.banks[f"{kind}_{level}"]
                bank[(self.pointer + torch.arange(len(keys), device=keys.device)) % len(bank)] = keys
        self.pointer += len(keys)
        return loss.detach()


class LightlyMoCoV2(nn.Module):
    """MoCo v2 of lightly's documentation (examples/moco), with MoCo's width, temperature, bank and optimiser.

    Raises ImportError where lightly is not installed.
    """

    def __init__(self, arch: str, bank_size: int, temperature: float, momentum: float):
        super().__init__()
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead
        from lightly.models.utils import deactivate_requires_grad, update_momentum

        net = ResNetLevels(arch)
        channels = net.channels["c5"]
        self.backbone = nn.Sequential(*net.children(), nn.AdaptiveAvgPool2d(1))
        self.projection_head = MoCoProjectionHead(channels, channels, 128)
        self.backbone_momentum, self.head_momentum = deepcopy(self.backbone), deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.head_momentum)
        self.criterion = NTXentLoss(temperature=temperature, memory_bank_size=(bank_size, 128))
        self.momentum, self.update_momentum = momentum, update_momentum
        self.optimizer = torch.optim.SGD(
            [*self.backbone.parameters(), *self.projection_head.parameters()], **SGD)

    def forward(self, views: dict[str, Tensor], amp: bool = False) -> Tensor:
        """One training step; the loss."""
        self.update_momentum(self.backbone, self.backbone_momentum, m=self.momentum)
        self.update_momentum(self.projection_head, self.head_momentum, m=self.momentum)
        with torch.autocast(views["global_q"].device.type, torch.bfloat16, enabled=amp):
            query = self.projection_head(self.backbone(views["global_q"]).flatten(start_dim=1))
            with torch.no_grad():
                key = self.head_momentum(self.backbone_momentum(views["global_k"]).flatten(start_dim=1))
            loss = self.criterion(query, key)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class PilViews:
    """The views of one PIL image by torchvision's transforms, one after the other: MoCo's own recipe, the patches cut
    as PIRL does. Gives name -> float32 [3, S, S] or [G, 3, P, P]."""

    def __init__(self, specs: dict[str, View]):
        self.specs = specs
        self.crops = {name: transforms.Compose([transforms.RandomResizedCrop(view.size, view.area),
                                                transforms.RandomHorizontalFlip(view.flip_p)])
                      for name, view in specs.items()}
        self.photometric = {name: transforms.Compose([
            transforms.RandomApply([transforms.ColorJitter(*view.jitter)], view.jitter_p),
            transforms.RandomGrayscale(view.grey_p),
            transforms.RandomApply([self._blur(view)], view.blur_p),
            transforms.ToTensor(), transforms.Normalize(MEAN, STD)]) for name, view in specs.items()}

    @staticmethod
    def _blur(view: View) -> Callable:
        low, high = view.blur_sigma
        return lambda image: image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(low, high))))

    def __call__(self, image) -> dict[str, Tensor]:
        views = {}
        for name, view in self.specs.items():
            crop = self.crops[name](image)
            parts = self._patches(crop, view) if view.grid else [crop]
            tensors = [self.photometric[name](part) for part in parts]
            views[name] = torch.stack(tensors) if view.grid else tensors[0]
        return views

    @staticmethod
    def _patches(crop, view: View) -> list:
        cell = view.size // view.grid
        corners = [(column * cell, row * cell) for row in range(view.grid) for column in range(view.grid)]
        offsets = torch.randint(cell - view.patch + 1, (len(corners), 2)).tolist()
        return [crop.crop((x + dx, y + dy, x + dx + view.patch, y + dy + view.patch))
                for (x, y), (dx, dy) in zip(corners, offsets)]
