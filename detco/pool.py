"""The pretraining pool: uint8 images in memory, or a folder of JPEGs cropped by loader workers."""
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

import safetensors
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as F

from detco.content import Table, folder_digest
from detco.errors import UserError
from detco.files import flaw_of
from detco.images import decode
from detco.views import View, random_boxes


class PoolError(UserError):
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
        """Read `pool.safetensors`, written sealed (images, labels; metadata classes, fingerprint). Raises PoolError."""
        if flaw := flaw_of(path):
            raise PoolError(f"pool {path}: {flaw}; delete it and prepare it again")
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
        return self.take(keep, str(len(keep)))

    def take(self, keep: Tensor | Sequence[int], name: str) -> "MemoryPool":
        """Some of its images, under a fingerprint that ends in `name`."""
        return MemoryPool(self.images[keep], self.labels[keep], self.classes, f"{self.fingerprint}:{name}")

    def to(self, device: torch.device) -> "MemoryPool":
        return MemoryPool(self.images.to(device), self.labels.to(device), self.classes, self.fingerprint)


@dataclass(frozen=True)
class FolderPool(Dataset):
    """Class folders of JPEGs (ImageNet's layout). One decode serves all views; workers crop, the device augments.

    Attributes:
        samples: (path, label) of each image.
        views: name -> `detco.views.View`, the crops to take (`cropped`).
        seed: crops depend on (seed, draw, view) alone, whatever the number of workers.
    """

    samples: list[tuple[str, int]]
    classes: list[str]
    fingerprint: str
    views: dict[str, View] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def load(cls, root: Path, cache: Path | None = None, show: bool = False) -> "FolderPool":
        """List a folder that holds one folder of images a class; the fingerprint is of its files' names and content.

        Args:
            cache: folder that keeps the files' hashes (`detco.content`); None computes them each time.
            show: show a progress bar.
        Raises PoolError.
        """
        try:
            folder = ImageFolder(str(root))
        except FileNotFoundError as error:
            raise PoolError(f"pool {root}: {error}") from None
        names = [path[len(str(root)) + 1:] for path, _ in folder.samples]
        facts = Table(root, cache).of(names, f"hashing {root.name}", show)
        return cls(folder.samples, folder.classes, folder_digest(names, facts))

    @property
    def images(self) -> list[str]:
        """Each image's path."""
        return [path for path, _ in self.samples]

    @property
    def labels(self) -> Tensor:
        """Each image's label [M]."""
        return torch.tensor([label for _, label in self.samples])

    def __len__(self) -> int:
        return len(self.samples)

    def limit(self, n: int) -> "FolderPool":
        """The folder's first n of a fixed shuffle; another fingerprint, for results kept out of tables."""
        keep = first_of_shuffle(len(self), n)
        return self.take(keep, str(len(keep)))

    def take(self, keep: Tensor | Sequence[int], name: str) -> "FolderPool":
        """Some of its images, under a fingerprint that ends in `name`."""
        return replace(self, samples=[self.samples[i] for i in keep], fingerprint=f"{self.fingerprint}:{name}")

    def cropped(self, views: dict[str, View], seed: int) -> "FolderPool":
        """The same images, from which a method's views are cropped."""
        return replace(self, views=views, seed=seed)

    def decoded(self, number: int) -> tuple[Tensor, int]:
        """An image, uint8 [3, H, W], or the next one that can be decoded, and that one's number. Raises PoolError where
        none can."""
        for chosen in chain(range(number, len(self)), range(number)):
            try:
                return decode(self.samples[chosen][0]), chosen
            except OSError as error:
                reason = str(error)
        raise PoolError(f"pool: none of {len(self)} images can be decoded ({reason}); prepare it again")

    def __getitem__(self, item: tuple[int, int]) -> dict:
        """item (image, draw number) -> {"images": {view: uint8 [3, size, size]}, "labels": int, "broken": int}.

        An image that cannot be decoded is replaced by the next one that can; "broken" is then its number, else -1.
        Raises PoolError where none can.
        """
        number, draw = item
        image, chosen = self.decoded(number)
        label = self.samples[chosen][1]
        crops, (height, width) = {}, image.shape[1:]
        for i, (name, view) in enumerate(self.views.items()):
            generator = torch.Generator().manual_seed(hash((self.seed, draw, i)) & (2**63 - 1))
            x1, y1, x2, y2 = map(int, random_boxes(1, height, width, view.area, generator)[0])
            crops[name] = F.resized_crop(image, y1, x1, y2 - y1, x2 - x1, [view.size] * 2, antialias=True)
        return {"images": crops, "labels": label, "broken": -1 if chosen == number else number}
