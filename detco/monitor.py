"""k-NN by level while pretraining runs: what features are worth on labelled images, touching nothing that is drawn."""
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine import dist
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF

from detco.backbone import LEVELS, pooled
from detco.errors import UserError
from detco.files import replacing
from detco.pool import FolderPool, MemoryPool, decode
from detco.views import MEAN, STD

BATCH = 256  # images at once


def crops(pool: MemoryPool | FolderPool, size: int, crop: int) -> Iterator[Tensor]:
    """A pool's images for testing, uint8 [N, 3, crop, crop]: the shorter side resized to `size`, the centre kept."""
    for numbers in torch.arange(len(pool)).split(BATCH):
        images = [pool.images[numbers]] if isinstance(pool, MemoryPool) else (decode(pool.images[i]) for i in numbers)
        cut = [TF.center_crop(TF.resize(image, [size], antialias=True), [crop]) for image in images]
        yield cut[0] if isinstance(pool, MemoryPool) else torch.stack(cut)


@torch.no_grad()
def features(backbone: nn.Module, pool: MemoryPool | FolderPool, size: int, crop: int) -> dict[str, Tensor]:
    """level -> unit vectors [M, C] of the pool's images, averaged over positions, on the backbone's device."""
    device, training = next(backbone.parameters()).device, backbone.training
    backbone.eval()
    try:
        found: dict[str, list[Tensor]] = {level: [] for level in LEVELS}
        for images in crops(pool, size, crop):
            maps = backbone(TF.normalize(images.to(device).float() / 255, MEAN, STD))
            for level, vectors in found.items():
                vectors.append(F.normalize(pooled(maps[level]).float()))
    finally:
        backbone.train(training)
    return {level: torch.cat(vectors) for level, vectors in found.items()}


def knn(train: Tensor, labels: Tensor, tested: Tensor, truth: Tensor, k: int, temperature: float) -> float:
    """Percent of `tested` [Q, C] whose class `truth` [Q] wins the vote of the k nearest of `train` [M, C], each with
    exp(cosine / temperature), as in `knn`'s protocol (Wu et al., arXiv 1805.01978, section 3.4)."""
    labels, hits = labels.to(train.device), 0
    for queries, right in zip(tested.split(BATCH), truth.to(train.device).split(BATCH)):
        cosine, nearest = (queries @ train.T).topk(min(k, len(train)))
        votes = cosine.new_zeros(len(queries), int(labels.max()) + 1, dtype=torch.float64)
        votes.scatter_add_(1, labels[nearest], (cosine.double() / temperature).exp())
        hits += int((votes.argmax(1) == right).sum())
    return 100 * hits / len(truth)


def measured(path: Path) -> list[dict]:
    """The lines that a monitor wrote; none where there was none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


class KnnMonitor(Hook):
    """Writes `monitor.jsonl` at every `knn_every`-th epoch's end and at the run's: a line with step, epoch, images,
    encoder_pixels and knn, percent by level. A resumed run goes on with it; lines of steps it takes again are dropped.

    Rank 0 measures with its own running statistics, as a checkpoint would hold them, while the others wait.

    Args:
        path: of the file.
        pools: labelled images that vote, and those that are asked: of one list of classes.
        images: a step, over the ranks.
        epoch: steps of an epoch, a fraction too.
        knn_every: epochs between measurements.
        k, temperature: of the vote.
        resize, crop: sides in pixels of the shorter side and of the centre kept.
    Raises:
        UserError: pools of other classes than each other's.
    """

    def __init__(self, path: Path, pools: tuple, images: int, epoch: float, knn_every: float, resize: int, crop: int,
                 k: int = 20, temperature: float = 0.07):
        if list(pools[0].classes) != list(pools[1].classes):
            raise UserError("monitor: the pool that votes and the one that is asked have other classes; give parts of "
                            "one")
        self.path, self.pools, self.images, self.epoch, self.every = path, pools, images, epoch, knn_every
        self.sizes, self.vote = (resize, crop), (k, temperature)

    def before_train(self, runner):
        if dist.is_main_process() and self.path.is_file():
            lines = [line for line in measured(self.path) if line["step"] <= runner.iter]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        step = runner.iter + 1
        period = self.epoch * self.every
        if step < runner.max_iters and int(step / period) == int((step - 1) / period):
            return
        started = time.perf_counter()
        if dist.is_main_process():
            method = getattr(runner.model, "module", runner.model).method
            (train, asked), backbone = self.pools, method.backbone()
            vectors = [features(backbone, pool, *self.sizes) for pool in (train, asked)]
            found = {level: round(knn(vectors[0][level], train.labels, vectors[1][level], asked.labels, *self.vote), 2)
                     for level in LEVELS}
            line = dict(step=step, epoch=round(step / self.epoch, 2), images=step * self.images,
                        encoder_pixels=step * self.images * method.pixels_per_image, knn=found)
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        dist.barrier()
        runner.clock.resumed_at += time.perf_counter() - started  # pretraining does not cost this
