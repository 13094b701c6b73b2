"""Training batches of detectors, drawn by (seed, iteration): a stopped run goes on with the very images, sizes, flips
and samples, whatever the number of loader workers, and reads none twice."""
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine import dist
from mmengine.dataset import InfiniteSampler
from mmengine.registry import LOOPS
from torch.utils.data import DataLoader, Dataset

from detco.runner import StreamLoop


def seed_all(*parts) -> None:
    """Have Python, NumPy and torch draw by these, and by the rank."""
    digest = hashlib.blake2b(repr((*parts, dist.get_rank())).encode(), digest_size=4).digest()
    seed = int.from_bytes(digest, "big")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class SeededBatches:
    """An endless batch sampler, of a kind that torch or mmdet has, from its `start`-th batch on.

    Yields lists of (index, number of the draw). To move it, indices are drawn and thrown away; no image is read.
    """

    def __init__(self, kind: type, dataset: Dataset, batch_size: int, seed: int):
        self.kind, self.dataset, self.batch_size, self.seed, self.start = kind, dataset, batch_size, seed, 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        # Anew each time: mmengine's sampler and mmdet's groups remember where they were.
        groups = self.kind(InfiniteSampler(self.dataset, seed=self.seed), self.batch_size, drop_last=False)
        for number, batch in enumerate(groups):
            if number >= self.start:
                yield [(index, number * self.batch_size + place) for place, index in enumerate(batch)]

    def __len__(self) -> int:
        """Batches of an epoch, which mmengine asks for; there is no end."""
        return max(1, len(self.dataset) // self.batch_size)


class SeededDataset(Dataset):
    """A data set whose item (index, number of the draw) draws by (seed, number, rank) alone."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, item: tuple[int, int]):
        index, draw = item
        seed_all(self.seed, "image", draw)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def metainfo(self) -> dict:
        """Of mmdet's data set."""
        return self.dataset.metainfo


def stream(loader: DataLoader, seed: int) -> DataLoader:
    """A loader of the same images in the same kind of batches, endless, shuffled and drawn by `seed`."""
    dataset, groups = loader.dataset, loader.batch_sampler
    if isinstance(dataset, SeededDataset):
        dataset, kind = dataset.dataset, groups.kind
    else:
        kind = type(groups)
    return DataLoader(
        SeededDataset(dataset, seed), batch_sampler=SeededBatches(kind, dataset, groups.batch_size, seed),
        num_workers=loader.num_workers, collate_fn=loader.collate_fn, worker_init_fn=loader.worker_init_fn,
        pin_memory=loader.pin_memory, persistent_workers=loader.persistent_workers)


@LOOPS.register_module()
class SeededLoop(StreamLoop):
    """Iterations whose images, and whatever the detector samples, depend on (seed, iteration, rank) alone."""

    def __init__(self, runner, dataloader: dict, *args, seed: int, **kwargs):
        super().__init__(runner, stream(runner.build_dataloader(dataloader, seed=seed), seed), *args, **kwargs)
        self.seed = seed

    def run_iter(self, data_batch) -> None:
        seed_all(self.seed, "iteration", self._iter)
        super().run_iter(data_batch)
