"""Image-level rows: linear probe, k-NN and VOC07 SVM on frozen, pooled C5."""
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import joblib
import numpy as np
import torch
from mmengine import dist
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.data.coco import DataError
from benchmarks.image_level import svm as machines
from benchmarks.image_level.features import BATCH, CHUNK, PooledC5, Squares, extract, frozen
from benchmarks.job import Job
from detco import engine
from detco.console import progress_bar, stop_if_asked
from detco.errors import several
from detco.method import Method
from detco.runner import quiet
from detco.views import View


class LinearProbe(Method):
    """A linear classifier on frozen features, as the engine trains it.

    Args:
        encoder: images [N, 3, S, S] -> features [N, encoder.channels]; not trained.
        num_classes: of the pool.
        view: of a training image.
        std: of the classifier's initial weights; its biases start at 0.
    """

    def __init__(self, encoder: nn.Module, num_classes: int, view: View, std: float):
        super().__init__()
        self.view_specs = {"image": view}
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=std)
        nn.init.zeros_(self.classifier.bias)

    def loss(self, views: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross entropy. The classifier works in float32: at a rate of 30 bfloat16's three digits would be coarse."""
        features = self.encoder(views["image"])
        with torch.autocast(features.device.type, enabled=False):
            return {"loss": F.cross_entropy(self.classifier(features), views["labels"])}


class BestEpoch(Hook):
    """Scores the classifier after every epoch; the run's state keeps what it found, so that a resumed run knows it.

    It draws nothing and moves nothing: the weights are those of a run without it.

    Args:
        top1: gives the classifier's accuracy in percent, the same on every rank.
        steps: at which epochs end.
    """

    KEY = "top1 by epoch"

    def __init__(self, top1: Callable[[], float], steps: set[int]):
        self.top1, self.steps = top1, steps

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 in self.steps:
            found = [*runner.message_hub.get_info(self.KEY, []), self.top1()]
            runner.message_hub.update_info(self.KEY, found)
            runner.logger.info(f"epoch {len(found)}: top1 {found[-1]:.2f}")


def linear(job: Job) -> dict:
    """Train a linear classifier on the frozen features of `job.data.train`; its accuracy on `val`, after the last epoch
    and, as `top1_best`, after the best.

    Both are pools. Raises CheckpointError, ValueError for a batch that does not divide among the processes,
    DivergedError at a loss that is not finite.
    """
    config, label = job.protocol.config, f"{job.name} seed {job.seed}"
    encoder, report = frozen(job)
    probe = LinearProbe(encoder, len(job.data.classes), View(size=config["data"]["crop"], **config["view"]),
                        config["classifier"]["std"])
    training = dict(schedule=config["schedule"] | dict(policy="step", batch=config["data"]["total_batch"]),
                    optimizer=config["optimizer"], amp=True, workers=job.workers, max_broken=0.0)
    steps = engine.steps_of(training, len(job.data.train))
    ends = {math.ceil(epoch * len(job.data.train) / config["data"]["total_batch"])
            for epoch in range(1, config["schedule"]["epochs"] + 1)}
    features, labels = _val_features(job, encoder, label)

    @torch.no_grad()
    def scores() -> tuple[dict, dict]:
        parts = zip(features.split(CHUNK), labels.split(CHUNK))
        return accuracy(((probe.classifier(x), y) for x, y in parts), job.data.classes, ["top1", "top5"])

    with quiet(job.work_dir / "run.log"):
        runner = engine.runner_of(probe, job.data.train, training, min(steps, job.limit or steps), job.work_dir,
                                  job.seed, label, job.resume)
        runner.register_hook(BestEpoch(lambda: scores()[0]["top1"], ends))
        runner.train()
    (metrics, per_class), hub = scores(), runner.message_hub
    best = max([*hub.get_info(BestEpoch.KEY, []), metrics["top1"]])
    return dict(
        metrics=metrics | dict(top1_best=best), per_class=per_class,
        load_report=report and report | dict(fresh=["classifier"]),
        train_losses={"train/loss": float(hub.get_scalar("train/loss").current())}, detections=None,
        cost=dict(train_seconds=round(hub.get_info("train_seconds"), 1), earlier_seconds=runner.clock.before,
                  accumulation=1))


def _val_features(job: Job, encoder: PooledC5, label: str) -> tuple[Tensor, Tensor]:
    """Features [M, C] of this rank's validation images, on the encoder's device, and labels [M].

    The backbone being frozen, once is enough for every epoch; 0.4 GB for 50,000 images of 2048 numbers.
    """
    val = _parts(job)[1]
    numbers = range(len(val))[_rank_slice()]
    batches = [list(numbers[i:i + BATCH]) for i in range(0, len(numbers), BATCH)]
    loader = Squares(val.images, job.protocol.config["data"]).loader(batches, job.workers)
    with progress_bar(disable=not dist.is_main_process()) as bar:
        rows = [encoder.of_crops(x) for x in bar.track(loader, description=f"{label}: validation features")]
    none = next(encoder.parameters()).new_empty(0, encoder.channels)  # a rank may have no image of few
    return torch.cat([none, *rows]), val.labels[_rank_slice()]


def knn(job: Job) -> dict:
    """Let the nearest images of `job.data.train` vote on those of `val`: Wu et al. (arXiv 1805.01978), section 3.4.

    Both are pools. A bank smaller than k votes as a whole. Every rank answers for its share of `val`.

    Device memory at paper scale on one GPU, with 50,000 queries of 2048 numbers, blocks of CHUNK = 2048 images out
    of 1.28 million, and k = 200: queries 0.38 GiB; their products with a block 0.38; these beside the best so far,
    as values and as numbers, 0.42 each; the best, old and new, with their numbers and places 0.22. In all 1.8 GiB,
    twice that if the selection copies what it selects from: the bank's length does not enter.
    """
    config = job.protocol.config
    encoder, report = frozen(job)
    train, val = _parts(job)
    bank = extract(job, encoder, train.images, "train")
    device = next(encoder.parameters()).device
    queries = _features(extract(job, encoder, val.images, "val"))[_rank_slice()].to(device)
    with progress_bar(disable=not dist.is_main_process()) as bar:
        blocks = (_features([path]).to(device) for path in bar.track(bank, description=f"{job.name}: neighbours"))
        similarity, index = nearest(queries, blocks, config["knn"]["k"])
    # On the CPU, where sums have one order.
    scores = votes(similarity.cpu(), train.labels[index.cpu()], config["knn"]["temperature"], len(job.data.classes))
    metrics, per_class = accuracy([(scores, val.labels[_rank_slice()])], job.data.classes, config["task"]["metrics"])
    return dict(metrics=metrics, per_class=per_class, load_report=report, train_losses={}, detections=None,
                deterministic=job.load, cost=dict(train_seconds=0.0, accumulation=1))


def svm(job: Job) -> dict:
    """Train one linear SVM a class on `job.data.train`, its cost chosen there; average precision on `val`.

    Both are `benchmarks.image_level.svm.Labelled`. Ranks share the classes out; mAP is the mean over classes that a
    tested image shows. Raises DataError for a class with fewer positive or negative training images than folds.
    """
    settings, classes = job.protocol.config["svm"], job.data.classes
    encoder, report = frozen(job)
    train, val = _parts(job)
    count = train.present.sum(0)
    if rare := [c for c, n in zip(classes, np.minimum(count, len(train.images) - count)) if n < settings["folds"]]:
        raise DataError(f"{job.protocol.task}: {several(rare, 'category')} with fewer than {settings['folds']} images "
                        "that show it, or that do not, to train on; give more images")
    features, tested = (_features(extract(job, encoder, part.images, name)).double().numpy()
                        for name, part in (("train", train), ("val", val)))
    present = {i: train.present[:, i].astype(int) for i in range(len(classes))[_rank_slice()]}
    jobs = max(1, joblib.cpu_count() // dist.get_world_size())
    label, started = f"{job.name} seed {job.seed}" if dist.is_main_process() else None, time.perf_counter()
    costs = machines.choose(features, present, settings, job.seed, job.work_dir / "svm", jobs, label)
    decisions = machines.decide(features, present, costs, tested, settings, job.seed, jobs, label)
    scores = {}
    for i, values in decisions.items():
        kept = ~val.excluded[:, i]
        if (val.present[kept, i]).any():
            scores[classes[i]] = 100 * machines.average_precision(val.present[kept, i], values[kept])
    found = {name: ap for part in dist.all_gather_object(scores) for name, ap in part.items()}
    if not found:
        raise DataError(f"{job.protocol.task}: no tested image shows any class; test more images")
    return dict(metrics=dict(mAP=float(np.mean(list(found.values())))), load_report=report, train_losses={},
                per_class=dict(AP={name: found.get(name) for name in classes}), detections=None,
                cost=dict(train_seconds=round(time.perf_counter() - started, 1), accumulation=1))


def _rank_slice() -> slice:
    """This rank's share of anything: every image once over all ranks."""
    return slice(dist.get_rank(), None, dist.get_world_size())


def _parts(job: Job) -> tuple:
    """What to train and to test on; under a limit, so many batches and so many images."""
    train, val = job.data.train, job.data.val
    return (train.limit(job.limit * BATCH), val.limit(job.limit)) if job.limit else (train, val)


def _features(paths: list[Path]) -> Tensor:
    """Features [M, C] of unit length, float32, from files of `extract`."""
    return F.normalize(torch.from_numpy(np.concatenate([np.load(path) for path in paths])).float())


def nearest(queries: Tensor, blocks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k largest products of each query with a bank that comes in blocks, exact whatever the blocks.

    Args:
        queries: [Q, C].
        blocks: [B, C] each; one is held at a time.
    Returns:
        products [Q, k], largest first, and int32 [Q, k], their places in the bank; fewer columns where it is smaller.
    """
    best = queries.new_empty(len(queries), 0)
    index = best.int()
    seen = 0
    for block in blocks:
        stop_if_asked()
        numbers = torch.arange(seen, seen + len(block), dtype=torch.int32, device=index.device)
        candidates = torch.cat([best, queries @ block.T], 1)
        best, place = candidates.topk(min(k, candidates.shape[1]))
        index = torch.cat([index, numbers.expand(len(queries), -1)], 1).gather(1, place)
        seen += len(block)
    return best, index


def votes(similarity: Tensor, labels: Tensor, temperature: float, classes: int) -> Tensor:
    """Each class's sum of exp(similarity / temperature) over its neighbours: [Q, k], labels [Q, k] -> [Q, classes]."""
    weight = (similarity.double() / temperature).exp()
    return weight.new_zeros(len(labels), classes).scatter_add_(1, labels, weight)


def accuracy(scored: Iterable[tuple[Tensor, Tensor]], classes: Sequence[str], metrics: list[str]) -> tuple[dict, dict]:
    """Percent of images whose class is among the best; counted over all ranks.

    Args:
        scored: scores [N, classes] and labels [N] of this rank's images.
        metrics: "top1", "top5", ...
    Returns:
        metric -> percent; and the first metric by class, None for a class without an image.
    """
    depths = [int(name.removeprefix("top")) for name in metrics]
    counts = torch.zeros(len(classes), 1 + len(depths), dtype=torch.int64)  # images, hits at each depth
    for scores, labels in scored:
        stop_if_asked()
        hit = scores.topk(min(max(depths), len(classes))).indices.cpu() == labels[:, None]
        row = torch.stack([torch.ones_like(hit[:, 0]), *(hit[:, :depth].any(1) for depth in depths)], 1)
        counts.index_add_(0, labels, row.long())
    dist.all_reduce(counts)
    total, *hits = counts.sum(0).tolist()
    by_class = {name: 100 * hit / n if n else None for name, (n, hit) in zip(classes, counts[:, :2].tolist())}
    return {name: 100 * n / total for name, n in zip(metrics, hits)}, {metrics[0]: by_class}
