"""The pretraining pool: uint8 images in memory, or a folder of JPEGs cropped by loader workers."""
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from detco.views import random_boxes


class PoolError(ValueError):
    """A pool that cannot be used, in one line."""


def first_of_shuffle(total: int, n: int) -> Tensor:
    """Sorted indices [min(n, total)] of a random but fixed part of `total`."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:n].sort().values


@dataclass
class MemoryPool(Dataset):
    """Images of one size, held as uint8 [M, 3, H, W] with labels [M]; on the device, no loader in the way."""

    images: Tensor
    labels: Tensor
    classes: list[str]
    fingerprint: str

    @classmethod
    def load(cls, path: Path) -> "MemoryPool":
        """Read `pool.safetensors` (images, labels; metadata classes, fingerprint). Raises PoolError."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                meta = file.metadata()
                return cls(file.get_tensor("images"), file.get_tensor("labels"), json.loads(meta["classes"]),
                           meta["fingerprint"])
        except (OSError, safetensors.SafetensorError, KeyError, TypeError) as error:
            raise PoolError(f"pool {path}: cannot be read ({error}); delete it and prepare it again") from None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: tuple[int, int]) -> int:
        return item[0]  # pixels are taken by `batch`, on the device

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """The images and labels at index [N]."""
        return {"images": self.images[index], "labels": self.labels[index]}

    def limit(self, n: int) -> "MemoryPool":
        """The pool's first n of a fixed shuffle; another fingerprint, for results kept out of tables."""
        keep = first_of_shuffle(len(self), n)
        return MemoryPool(self.images[keep], self.labels[keep], self.classes, f"{self.fingerprint}:{len(keep)}")

    def to(self, device: torch.device) -> "MemoryPool":
        return MemoryPool(self.images.to(device), self.labels.to(device), self.classes, self.fingerprint)


class FolderPool(Dataset):
    """Class folders of JPEGs (ImageNet's layout). One decode serves all views; workers crop, the device augments.

    Args:
        root: folder with one folder of images a class.
        views: name -> `detco.views.View`, the crops to take.
        seed: crops depend on (seed, draw, image) alone, whatever the number of workers.
    """

    def __init__(self, root: Path, views: dict, seed: int):
        try:
            self.folder = ImageFolder(str(root))
        except FileNotFoundError as error:
            raise PoolError(f"pool {root}: {error}") from None
        self.views, self.seed = views, seed
        self.classes = self.folder.classes
        names = "\n".join(str(Path(path).relative_to(root)) for path, _ in self.folder.samples)
        self.fingerprint = hashlib.sha256(names.encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.folder)

    def limit(self, n: int) -> "FolderPool":
        """The folder's first n of a fixed shuffle; another fingerprint, for results kept out of tables."""
        self.folder.samples = [self.folder.samples[i] for i in first_of_shuffle(len(self), n)]
        self.fingerprint += f":{len(self)}"
        return self

    def __getitem__(self, item: tuple[int, int]) -> dict:
        """item (image, draw number) -> {"images": {view: uint8 [3, size, size]}, "labels": int}."""
        number, draw = item
        path, label = self.folder.samples[number]
        try:
            image = F.pil_to_tensor(self.folder.loader(path))
        except OSError as error:
            raise PoolError(f"pool image {path}: cannot be decoded ({error}); remove or replace it") from None
        crops = {}
        for i, (name, view) in enumerate(self.views.items()):
            generator = torch.Generator().manual_seed(hash((self.seed, draw, i)) & (2**63 - 1))
            x1, y1, x2, y2 = map(int, random_boxes(1, *image.shape[1:], view.area, generator)[0])
            crops[name] = F.resized_crop(image, y1, x1, y2 - y1, x2 - x1, [view.size] * 2, antialias=True)
        return {"images": crops, "labels": label}
