"""Pretraining on mmengine's Runner: any method, one process or many, stopped and resumed at any step."""
import inspect
import json
import math
import pkgutil
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, LOOPS
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader

from detco import checkpoint
from detco.backbone import ResNetLevels
from detco.batch_norm import synchronise_batch_norm
from detco.config import digest, recipe, recipe_hash
from detco.console import log
from detco.distributed import alone, check_splits, splits_here
from detco.errors import UserError, nearest
from detco.files import replacing
from detco.method import Method
from detco.monitor import HealthMonitor, KnnMonitor, measured
from detco.pool import FolderPool, MemoryPool, PoolError, decode
from detco.runner import Runner, StreamLoop, quiet, states_of

MONITOR = "monitor.jsonl"
HEALTH = "health.jsonl"
CONFIG = "config.json"


def check_shares(batch: int, processes: int, parts: int) -> None:
    """Raise UserError for a batch that does not divide among processes and parts of each."""
    if batch % (processes * parts):
        raise UserError(f"a batch of {batch} does not divide among {processes} processes"
                        + f" and {parts} parts of each" * (parts > 1))


class Stream:
    """An endless shuffled stream of the pool, cut into batches; any position is reached at once.

    Every epoch is a permutation of its own, drawn from (seed, epoch). Step t's batch is
    [t * batch, (t + 1) * batch) of the stream, and rank r takes the r-th part of it, so the ranks' parts in
    order are the batch of a single process. Yields lists of (image, draw number).

    Args:
        size: images in the pool.
        batch: total batch over the ranks, a multiple of their number times `parts` (UserError otherwise). Since the
            stream has no end, no batch is shorter than others, whatever the pool's size.
        seed: of the permutations.
        parts: that a rank's batch will be cut into.
    """

    def __init__(self, size: int, batch: int, seed: int, parts: int = 1):
        check_shares(batch, dist.get_world_size(), parts)
        self.size, self.batch, self.seed, self.start = size, batch, seed, 0

    def __len__(self) -> int:
        """Steps of an epoch, which mmengine asks for; the stream itself has no end."""
        return max(1, self.size // self.batch)

    def __iter__(self):
        own = self.batch // dist.get_world_size()
        step, epoch, order = self.start, -1, []
        while True:
            first = step * self.batch + dist.get_rank() * own
            numbers = []
            for draw in range(first, first + own):
                if draw // self.size != epoch:
                    epoch = draw // self.size
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.size, generator=generator).tolist()
                numbers.append((order[draw % self.size], draw))
            yield numbers
            step += 1


def parts_of(batch: dict, count: int) -> list[dict]:
    """A batch of tensors [N, ...], by name and nested, cut into `count` equal parts in order."""
    leaves, form = tree_flatten(batch)
    return [tree_unflatten(part, form) for part in zip(*(leaf.chunk(count) for leaf in leaves))]


@LOOPS.register_module()
class PretrainLoop(StreamLoop):
    """Steps over a `Stream`.

    Args:
        seed: what a step draws depends on (seed, step, rank) alone.
        accumulation: parts a rank's batch goes through the networks in, for one optimiser step; each draws and
            normalises as a rank of its own would.
    """

    def __init__(self, *args, seed: int, accumulation: int = 1, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed, self.accumulation = seed, accumulation

    def run(self):
        # mmengine counts parts: from here on as many as were taken before the run was resumed.
        self.runner.optim_wrapper.initialize_count_status(
            self.runner.model, self._iter * self.accumulation, self._max_iters * self.accumulation)
        return super().run()

    def run_iter(self, data_batch):
        self.runner.call_hook("before_train_iter", batch_idx=self._iter, data_batch=data_batch)
        model, outputs = getattr(self.runner.model, "module", self.runner.model), []
        model.method.progress = self._iter / self._max_iters
        views = []
        for number, part in enumerate(parts_of(model.data_preprocessor(data_batch, True), self.accumulation)):
            self._seed(number)
            views.append(model.views(**part))
        model.begin_step(views)
        for number in range(self.accumulation):
            self._seed(number)
            outputs.append(self.runner.model.train_step(views.pop(0), optim_wrapper=self.runner.optim_wrapper))
        means = {name: sum(output[name] for output in outputs) / len(outputs) for name in outputs[0]}
        self.runner.call_hook("after_train_iter", batch_idx=self._iter, data_batch=data_batch, outputs=means)
        self._iter += 1

    def _seed(self, part: int) -> None:
        method_of(self.runner).seed_step(self.seed, self._iter, dist.get_rank() * self.accumulation + part)


def method_of(runner) -> Method:
    """The method a Runner trains."""
    return getattr(runner.model, "module", runner.model).method


class PretrainModel(BaseModel):
    """Gives a `Method` the face mmengine's Runner wants; batches come from the pool by index.

    The convolutions' weights are laid out channels last, which current kernels work in; with `amp` the networks
    work in bfloat16 on CUDA. Views, normalised keys and losses stay float32, and since bfloat16 has float32's range
    no loss needs scaling. Not on CPUs, AVX512_BF16 or not: oneDNN's gradients of convolutions over a few pixels
    differ from run to run there (torch 2.15).
    """

    def __init__(self, method: Method, pool: MemoryPool | FolderPool, amp: bool):
        super().__init__(data_preprocessor=dict(type="BaseDataPreprocessor", non_blocking=True))
        self.method = method.to(memory_format=torch.channels_last)
        self.amp = amp
        self._pool = [pool]  # in a list: the pool is no part of the state

    def views(self, index=None, images=None, labels=None) -> dict[str, Tensor]:
        """index [N] into a pool in memory, or a batch of crops from the workers -> the method's views."""
        batch = dict(images=images, labels=labels) if index is None else cast(MemoryPool, self._pool[0]).batch(index)
        return self.method.views(batch)

    def begin_step(self, parts: list[dict[str, Tensor]]) -> None:
        with self._autocast():
            self.method.begin_step(parts)

    def forward(self, mode="loss", **views: Tensor) -> dict[str, Tensor]:
        """Views -> dict of scalars."""
        with self._autocast():
            return self.method.loss(views)

    def _autocast(self):
        return torch.autocast("cuda", torch.bfloat16, enabled=self.amp and torch.cuda.is_available())


@HOOKS.register_module()
class MethodHook(Hook):
    """Lets the method move its momentum encoder and banks after each step, and keeps the rates that it fixed."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        for group in runner.optim_wrapper.param_groups:
            if group.get("fixed_lr"):
                group["lr"] = group["initial_lr"]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        method_of(runner).after_step()


@HOOKS.register_module()
class BrokenImageHook(Hook):
    """Lists the images of a folder that cannot be decoded, and stops the run when they are too many.

    Args:
        pool: the folder; it has put another image in a broken one's place.
        path: the list, one line an image; every rank adds to it.
        batch: images a step, over the ranks.
        share: of the images drawn so far, or of the first `LEAST`, how many may be broken.
    """

    LEAST = 2000

    def __init__(self, pool: FolderPool, path: Path, batch: int, share: float):
        self.pool, self.path, self.batch, self.share = pool, path, batch, share

    def _listed(self) -> set[str]:
        return set(self.path.read_text().splitlines()) if self.path.is_file() else set()

    def before_train(self, runner):
        if dist.is_main_process() and (listed := self._listed()):
            with replacing(self.path) as temporary:  # without those that were fetched again
                temporary.write_text("".join(f"{path}\n" for path in sorted(listed) if _broken(path)))
        dist.barrier()
        self.known = self._listed()

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        found = {self.pool.samples[i][0] for i in data_batch.pop("broken").tolist() if i >= 0}
        if not found:
            return
        with open(self.path, "a") as file:
            file.write("".join(f"{path}\n" for path in sorted(found - self.known)))
        self.known = self._listed()
        drawn = min(max((runner.iter + 1) * self.batch, self.LEAST), len(self.pool))
        if len(self.known) > self.share * drawn:
            raise PoolError(f"pool: {len(self.known)} images cannot be decoded, more than {self.share:.0%} of {drawn}: "
                            f"{self.path} lists them; fetch them again, or raise max_broken")

    def after_train(self, runner):
        dist.barrier()
        self.known = self._listed()
        if self.known and dist.is_main_process():
            log(f"{len(self.known)} of {len(self.pool)} images could not be decoded, others took their place; "
                f"listed in {self.path}")


def _broken(path: str) -> bool:
    try:
        decode(path)
    except OSError:
        return True
    return False


def steps_of(config: dict, images: int) -> int:
    """Optimiser steps of a schedule: whole batches in its epochs of the pool."""
    return math.ceil(config["schedule"]["epochs"] * images / config["schedule"]["batch"])


def save_every(steps: int) -> int:
    """Steps between the states a run is resumed from: a tenth of the run, 2000 at most. The other ranks wait while
    rank 0 writes one, for DetCo 1.2 GB."""
    return max(1, min(steps // 10, 2000))


def identity(config: dict, fingerprint: str, seed: int) -> str:
    """What a pretraining is known by in the cache: its recipe, its data and its seed."""
    return digest({"config": recipe(config), "data": fingerprint, "seed": seed})


def check_batch(config: dict, processes: int = 1) -> None:
    """Raise UserError for a batch that does not divide among processes, parts and virtual ranks. Needs no data, so that
    it can be asked before any work."""
    batch, parts = config["schedule"]["batch"], config["schedule"].get("accumulation", 1)
    check_shares(batch, processes, parts)
    if config["method"].get("batch_norm", "shuffle") == "shuffle" and "bn_splits" in config["method"]:
        splits = splits_here(config["method"]["bn_splits"], parts, processes)
        check_splits(splits, batch // (processes * parts))


def build(config: dict, num_classes: int) -> Method:
    """The method of a resolved config, whose `type` is "module:Class". Raises UserError for a class that is not there
    or arguments it refuses."""
    arguments = dict(config["method"])
    name = arguments.pop("type")
    try:
        kind = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"method.type '{name}': {error}; give module:Class") from None
    if "num_classes" in inspect.signature(kind).parameters:
        arguments["num_classes"] = num_classes
    return kind(**arguments)


def build_optimizer(method: Method, settings: dict) -> torch.optim.Optimizer:
    """The optimiser of a config over the method's parameter groups.

    Args:
        settings: `type`, a class of torch.optim ("SGD" where there is none) or "module:Class", and its arguments.
    Raises:
        UserError: an optimiser that is not there, or arguments it refuses.
    """
    arguments = dict(settings)
    name = arguments.pop("type", "SGD")
    known = [n for n, kind in vars(torch.optim).items() if inspect.isclass(kind) and n != "Optimizer"]
    if ":" not in name and name not in known:
        raise UserError(f"{nearest('optimizer.type', name, known)}; or give module:Class")
    groups = method.parameter_groups()
    try:
        kind = pkgutil.resolve_name(name if ":" in name else f"torch.optim:{name}")
        if "fused" in inspect.signature(kind).parameters:
            arguments.setdefault("fused", True)
        return kind(groups, **arguments)
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer '{name}': {error}") from None


def compile_backbones(method: Method) -> None:
    """Compile every backbone of a method, the momentum encoder's too, when it is first used; a graph for each kind of
    view."""
    for module in method.modules():
        if isinstance(module, ResNetLevels):
            module.compile(dynamic=False)


def pretrain(config: dict, pool: MemoryPool | FolderPool, work_dir: Path, seed: int = 0, resume: bool = True,
             tensorboard: bool = False, monitor: tuple | None = None) -> Path:
    """Pretrain a backbone, or find it finished.

    Args:
        config: resolved: `name` (the method's, of its file), `method` (class and arguments), `optimizer` (class and
            arguments), `schedule` (epochs, batch, policy, warmup), `amp`, `workers`, `max_broken` (the share of a
            folder's images that may fail to decode), `compile` if the backbones shall be, `monitor` (`knn_every`
            epochs, `resize`, `crop`, and k and temperature where they are not 20 and 0.07) if k-NN shall be measured on
            the way.
        pool: the images.
        work_dir: holds `checkpoint.safetensors` at the end, `run.log`, scalars, and the states to resume from.
        seed: of weights, order and augmentation.
        resume: go on from the newest state there; otherwise start over.
        tensorboard: write TensorBoard's event files too.
        monitor: the labelled pools that vote and are asked, for `config["monitor"]`; weights do not depend on it. The
            checkpoint's metadata hold what it measured.
    Returns:
        the checkpoint's path.
    Raises:
        UserError: unknown method or a config it refuses; states of another recipe. DivergedError: a loss that is not
            finite.
    """
    work_dir = Path(work_dir)
    with alone(work_dir):
        return _pretrained(config, pool, work_dir, seed, resume, tensorboard, monitor)


def _pretrained(config, pool, work_dir, seed, resume, tensorboard, monitor) -> Path:
    final = work_dir / "checkpoint.safetensors"
    finished = [False]
    if dist.is_main_process():
        if not resume:
            shutil.rmtree(work_dir, ignore_errors=True)
        finished = [final.is_file()]
        if not finished[0]:
            _refuse_others(work_dir, config)
            with replacing(work_dir / CONFIG) as temporary:
                temporary.write_text(json.dumps(config, indent=1, sort_keys=True))
    dist.broadcast_object_list(finished)  # file systems show a file to one node before the other
    if finished[0]:
        return final
    steps = steps_of(config, len(pool))
    if steps:
        check_batch(config, dist.get_world_size())
    torch.manual_seed(seed)
    method = build(config, len(pool.classes))
    seconds = 0.0
    if steps:
        with quiet(work_dir / "run.log"):
            seconds = _train(method, pool, config, steps, work_dir, seed, resume, tensorboard, monitor)
    if dist.is_main_process():
        seen = steps * config["schedule"]["batch"]
        budget = dict(images=seen, encoder_pixels=seen * method.pixels_per_image,
                      device_hours=seconds * dist.get_world_size() / 3600)
        checkpoint.save(final, method.backbone().state_dict(), dict(
            arch=method.backbone().arch, method=config["name"], pool=pool.fingerprint, seed=seed,
            recipe=recipe_hash(config), recipe_config=recipe(config), config=identity(config, pool.fingerprint, seed),
            budget=budget, monitor=measured(work_dir / MONITOR) or None) | method.metadata)
        for state in work_dir.glob("iter_*.pth"):  # the run is finished: nothing will resume from these
            state.unlink()
    dist.barrier()
    return final


def _refuse_others(work_dir: Path, config: dict) -> None:
    """Raise UserError where a work folder holds states of another recipe, of other splits for one."""
    stated = work_dir / CONFIG
    if not (stated.is_file() and states_of(work_dir)):
        return
    before, now = (_leaves(recipe(c)) for c in (json.loads(stated.read_text()), json.loads(json.dumps(config))))
    if changed := [key for key in before | now if before.get(key) != now.get(key)]:
        key = changed[0]
        raise UserError(f"{work_dir}: holds states of another recipe: {key} was {before.get(key)}, is {now.get(key)} "
                        "now; give another folder, or start over without them")


def _leaves(tree: dict, prefix: str = "") -> dict:
    """Dotted key -> value."""
    return {name: leaf for key, value in tree.items() for name, leaf in (
        _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}).items()}


def _train(method, pool, config, steps, work_dir, seed, resume, tensorboard, monitor) -> float:
    """Run the Runner; seconds spent in training, earlier sessions of the run counted in."""
    runner = runner_of(method, pool, config, steps, work_dir, seed, f"pretrain {config['name']}", resume,
                       tensorboard)
    batch = config["schedule"]["batch"]
    if config.get("monitor") and monitor:
        runner.register_hook(KnnMonitor(work_dir / MONITOR, monitor, batch, len(pool) / batch, **config["monitor"]))
    size = next(iter(method.view_specs.values())).size
    runner.register_hook(HealthMonitor(work_dir / HEALTH, pool, batch, steps, size))
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):  # every step has the same sizes; detectors' have not
        runner.train()
        method.finish(_further_batches(runner, steps, seed))
    return runner.message_hub.get_info("train_seconds")


def _further_batches(runner: Runner, steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
    """Views of this rank's parts of the batches that would come next."""
    loop, model = runner.train_loop, cast(PretrainModel, getattr(runner.model, "module", runner.model))
    loop.dataloader.batch_sampler.start = steps
    for step, batch in enumerate(loop.dataloader, steps):
        batch.pop("broken", None)
        for number, part in enumerate(parts_of(model.data_preprocessor(batch, True), loop.accumulation)):
            model.method.seed_step(seed, step, dist.get_rank() * loop.accumulation + number)
            yield model.views(**part)


def runner_of(method: Method, pool: MemoryPool | FolderPool, config: dict, steps: int, work_dir: Path, seed: int,
              label: str, resume: bool = True, tensorboard: bool = False) -> Runner:
    """The Runner that trains `method` on `pool` for `steps`; `config` holds schedule, optimizer, amp, workers,
    max_broken and, where the backbones shall be compiled, compile."""
    device = torch.device(get_device())
    schedule = config["schedule"]
    accumulation = schedule.get("accumulation", 1)
    if getattr(method, "batch_norm", None) == "sync" and dist.get_world_size() > 1:
        synchronise_batch_norm(method, device)
    if config.get("compile"):
        compile_backbones(method)
    in_memory = isinstance(pool, MemoryPool)
    hooks: list[dict] = [dict(type="MethodHook")]
    if not in_memory:
        hooks.append(dict(type="BrokenImageHook", pool=pool, path=work_dir / "broken_images.txt",
                          batch=schedule["batch"], share=config["max_broken"]))
    pool = pool.to(device) if isinstance(pool, MemoryPool) else pool.cropped(method.view_specs, seed)
    loader = DataLoader(pool, batch_sampler=Stream(len(pool), schedule["batch"], seed, accumulation),
                        num_workers=0 if in_memory else config["workers"], persistent_workers=False,
                        collate_fn=(lambda batch: {"index": torch.tensor(batch)}) if in_memory else None,
                        pin_memory=not in_memory and device.type == "cuda")
    model = PretrainModel(method, pool, config["amp"])
    backends = [dict(type="LocalVisBackend")] + [dict(type="TensorboardVisBackend")] * tensorboard
    return Runner(
        model=model, work_dir=str(work_dir), train_dataloader=loader,
        train_cfg=dict(type="PretrainLoop", max_iters=steps, seed=seed, accumulation=accumulation),
        optim_wrapper=OptimWrapper(build_optimizer(method.to(device), config["optimizer"]), accumulation),
        param_scheduler=_schedulers(schedule, steps),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=10), sampler_seed=None,  # the stream seeds itself
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=save_every(steps),
                            max_keep_ckpts=2, save_last=True)),
        custom_hooks=hooks, label=label,
        log_processor=dict(by_epoch=False), visualizer=dict(type="Visualizer", vis_backends=backends),
        resume=resume, randomness=dict(seed=seed),
        experiment_name=f"{label}-{work_dir.name}", default_scope="mmengine")


def _schedulers(schedule: dict, steps: int) -> list[dict]:
    """The learning rate's: `policy` "cosine", decay to zero (MoCo v2), "step", by 0.1 at the `milestones` in epochs
    (torchvision's supervised), or "constant"; after `warmup` epochs, if any, in which it rises evenly to its full
    value. Raises UserError for another policy, or a warm-up as long as the run."""
    warmup = round(steps * schedule.get("warmup", 0) / schedule["epochs"])
    if warmup >= steps:
        raise UserError(f"schedule: a warm-up of {warmup} steps leaves none of {steps}")
    rise = [dict(type="LinearLR", start_factor=1 / warmup, end=warmup, by_epoch=False)] if warmup > 1 else []
    if schedule["policy"] == "cosine":
        return [*rise, dict(type="CosineAnnealingLR", T_max=steps - warmup, eta_min=0, begin=warmup, by_epoch=False)]
    if schedule["policy"] == "step":
        milestones = [round(steps * m / schedule["epochs"]) for m in schedule["milestones"]]
        return [*rise, dict(type="MultiStepLR", milestones=milestones, gamma=0.1, by_epoch=False)]
    if schedule["policy"] == "constant":
        return rise
    raise UserError(nearest("schedule.policy", schedule["policy"], ("cosine", "step", "constant")))
