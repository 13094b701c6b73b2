"""What features are worth while pretraining runs, touching nothing that is drawn: k-NN by level on labelled images,
and, without labels, whether they collapse.
"""
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
from detco.console import log
from detco.errors import UserError
from detco.files import replacing
from detco.method import Method
from detco.pool import FolderPool, MemoryPool
from detco.views import MEAN, STD

BATCH = 256  # images at once
LOOKED_AT = 512  # images of the pool by which collapse is told
SHARE = 0.12  # of the images seen, that may be looked at: one costs a sixth to a tenth of one learned from
TIMES = 20  # that they are looked at, at most
FLOORS = dict(rank=2.0, spread=0.02)  # below which features have collapsed; random weights have 8 and 0.12 or more


def crops(pool: MemoryPool | FolderPool, size: int, crop: int) -> Iterator[Tensor]:
    """A pool's images for testing, uint8 [N, 3, crop, crop]: the shorter side resized to `size`, the centre kept. Of
    one that cannot be decoded the next one's."""
    for numbers in torch.arange(len(pool)).split(BATCH):
        images = [pool.images[numbers]] if isinstance(pool, MemoryPool) else \
            (pool.decoded(int(i))[0] for i in numbers)
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


def health(vectors: Tensor) -> dict[str, float]:
    """How far unit vectors [M, C] of different images differ.

    Returns:
        rank: RankMe, the exponential of the entropy of the normalised singular values (Garrido et al., arXiv
            2210.02885): 1 where all point one way, min(M, C) at most.
        spread: the mean over C of the standard deviations, times the root of C (Chen and He, arXiv 2011.10566): 0
            where all are the same, 1 where directions are even.
        uniformity: the log of the mean of exp(-2 |x - y|^2) over pairs (Wang and Isola, arXiv 2005.10242): 0 where
            all are the same, -4 about where directions are even.
    """
    values = torch.linalg.svdvals(vectors.double())
    share = values / values.sum()
    entropy = -(share * (share + 1e-12).log()).sum()
    pairs = torch.pdist(vectors.double()).square()
    return dict(rank=float(entropy.exp()), spread=float(vectors.double().std(0).mean() * vectors.shape[1]**0.5),
                uniformity=float(pairs.mul(-2).exp().mean().log()) if len(pairs) else 0.0)


class _Monitor(Hook):
    """Writes a file of JSON lines while the run goes on. A resumed run goes on with it; lines of steps it takes again
    are dropped.

    Rank 0 measures with its own running statistics, as a checkpoint would hold them, while the others wait.

    Args:
        path: of the file.
        images: a step, over the ranks.
        epoch: steps of an epoch, a fraction too.
    """

    def __init__(self, path: Path, images: int, epoch: float):
        self.path, self.images, self.epoch = path, images, epoch

    def due(self, step: int, steps: int) -> bool:
        """Whether to measure after a step of so many."""
        raise NotImplementedError

    def line(self, method: Method, step: int) -> dict:
        """What was measured."""
        raise NotImplementedError

    def before_train(self, runner):
        if dist.is_main_process() and self.path.is_file():
            lines = [line for line in measured(self.path) if line["step"] <= runner.iter]
            with replacing(self.path) as temporary:
                temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        step = runner.iter + 1
        if not self.due(step, runner.max_iters):
            return
        started = time.perf_counter()
        if dist.is_main_process():
            method = getattr(runner.model, "module", runner.model).method
            line = dict(step=step, epoch=round(step / self.epoch, 2), images=step * self.images,
                        encoder_pixels=step * self.images * method.pixels_per_image) | self.line(method, step)
            with open(self.path, "a") as file:
                file.write(json.dumps(line) + "\n")
        dist.barrier()
        runner.clock.resumed_at += time.perf_counter() - started  # pretraining does not cost this


class KnnMonitor(_Monitor):
    """`monitor.jsonl`: at every `knn_every`-th epoch's end and at the run's a line with step, epoch, images,
    encoder_pixels and knn, percent by level.

    Args:
        path, images, epoch: as of every monitor.
        pools: labelled images that vote, and those that are asked: of one list of classes.
        knn_every: epochs between measurements.
        k, temperature: of the vote.
        resize, crop: sides in pixels of the shorter side and of the centre kept.
    Raises:
        UserError: pools of other classes than each other's.
    """

    def __init__(self, path: Path, pools: tuple, images: int, epoch: float, knn_every: float, resize: int, crop: int,
                 k: int = 20, temperature: float = 0.07):
        super().__init__(path, images, epoch)
        if list(pools[0].classes) != list(pools[1].classes):
            raise UserError("monitor: the pool that votes and the one that is asked have other classes; give parts of "
                            "one")
        self.pools, self.every = pools, knn_every
        self.sizes, self.vote = (resize, crop), (k, temperature)

    def due(self, step: int, steps: int) -> bool:
        period = self.epoch * self.every
        return step == steps or int(step / period) != int((step - 1) / period)

    def line(self, method: Method, step: int) -> dict:
        (train, asked), backbone = self.pools, method.backbone()
        vectors = [features(backbone, pool, *self.sizes) for pool in (train, asked)]
        return dict(knn={level: round(knn(vectors[0][level], train.labels, vectors[1][level], asked.labels, *self.vote),
                                      2) for level in LEVELS})


class HealthMonitor(_Monitor):
    """`health.jsonl`: up to TIMES a run, a line with step, epoch, images, encoder_pixels and, by level, what `health`
    finds on LOOKED_AT images of the pool. A level below FLOORS is told at once.

    Args:
        path, images, epoch: as of every monitor.
        pool: what the run learns from.
        steps: of the run.
        size: side in pixels of the images looked at; the shorter side is an eighth longer before.
    """

    def __init__(self, path: Path, pool: MemoryPool | FolderPool, images: int, steps: int, size: int):
        super().__init__(path, images, len(pool) / images)
        self.pool, self.sizes = pool, (round(size * 8 / 7), size)
        times = max(1, min(TIMES, int(SHARE * steps * images / LOOKED_AT)))
        self.steps = {round(steps * (i + 1) / times) for i in range(times)}
        self.told: set[str] = set()

    def due(self, step: int, steps: int) -> bool:
        return step in self.steps

    def line(self, method: Method, step: int) -> dict:
        if len(self.pool) > LOOKED_AT:
            self.pool = self.pool.limit(LOOKED_AT)
        vectors = features(method.backbone(), self.pool, *self.sizes)
        found = {level: health(own) for level, own in vectors.items()}
        for level, own in found.items():
            if level not in self.told and any(own[name] < floor for name, floor in FLOORS.items()):
                self.told.add(level)
                log(f"warning: after step {step} the features of {level.upper()} have collapsed: an effective rank of "
                    f"{own['rank']:.1f} and a spread of {own['spread']:.3f}; stop, and try a lower rate "
                    "(--set pretrain.optimizer.lr=...)")
        return {name: {level: round(own[name], 4) for level, own in found.items()}
                for name in ("rank", "spread", "uniformity")}
