"""The transfer harness: any checkpoint through one task's protocol in mmdetection's Runner, to one record."""
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import hooks, mmcv_ops  # noqa: F401 - hooks registers itself
from benchmarks.data import CocoData
from benchmarks.evaluate import coco_metrics
from benchmarks.task import load_task, resolve
from detco import checkpoint as checkpoints
from detco.config import digest
from detco.files import replacing, sha256
from detco.runner import Runner, quiet


@dataclass(frozen=True)
class Protocol:
    """A task as it will run: the resolved config and its fingerprint. Rows of one table share the latter."""

    task: str
    scale: str
    schedule: str
    config: dict

    @property
    def fingerprint(self) -> str:
        return digest(self.config)


def protocol_of(task: str, scale: str, arch: str, classes: tuple[str, ...], overrides: dict,
                schedule: str | None = None) -> Protocol:
    """Resolve a task at a scale.

    Args:
        overrides: the scale's dotted changes to the task.
        schedule: one of the task's at this scale; None for the first.
    Raises:
        ValueError: unknown task or schedule, or an override that fits nothing.
    """
    config = resolve(load_task(task), arch, len(classes), overrides).to_dict()
    schedules = config.pop("schedules")
    schedule = schedule or ("1x" if "1x" in schedules else next(iter(schedules)))
    if schedule not in schedules:
        raise ValueError(f"unknown schedule '{schedule}' for {task} at scale {scale}: known: {', '.join(schedules)}")
    config |= dict(schedule=schedules[schedule], arch=arch, classes=list(classes))
    return Protocol(task, scale, schedule, config)


def load_backbone(model, path: Path, checkpoint: checkpoints.Checkpoint, rules: list) -> dict:
    """Load a checkpoint into a detector by the task's prefix rules; the load report.

    Raises CheckpointError when a key finds no place or a place it should fill stays empty.
    """
    state = checkpoints.to_protocol(checkpoint, path)
    renamed = {}
    for key, value in state.items():
        source, target = next((s, t) for s, t in rules if key.startswith(s))
        renamed[target + key.removeprefix(source)] = value
    own = model.state_dict()
    unexpected = [k for k, v in renamed.items() if k not in own or own[k].shape != v.shape]
    targets = tuple(target for _, target in rules)
    missing = [k for k in own if k.startswith(targets) and k not in renamed and not k.endswith("num_batches_tracked")]
    if unexpected or missing:
        raise checkpoints.CheckpointError(
            f"checkpoint {path}: a {checkpoint.metadata['arch']} does not fit the detector: "
            f"{len(unexpected)} keys without a place ({', '.join(unexpected[:3])}), {len(missing)} empty places "
            f"({', '.join(missing[:3])})")
    model.load_state_dict(renamed, strict=False)
    fresh = sorted({k.rsplit(".", 1)[0] for k in own if k not in renamed and not k.endswith("num_batches_tracked")})
    return dict(loaded=len(renamed), missing=missing, unexpected=unexpected, ignored=checkpoint.ignored, fresh=fresh)


class TransferRunner(Runner):
    """Loads the backbone after mmengine has initialised the detector, and before a resume overrides both."""

    def __init__(self, *args, backbone=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.backbone, self.load_report = backbone, {}

    def load_or_resume(self):
        if self.backbone and not self._has_loaded:
            self.load_report = load_backbone(getattr(self.model, "module", self.model), *self.backbone)
        super().load_or_resume()


def runner_config(protocol: Protocol, data: CocoData, seed: int, workers: int, world_size: int,
                  limit: int | None = None) -> dict:
    """Keyword arguments of mmengine's Runner for a protocol.

    The total batch is kept on any number of processes: a process that cannot hold its share does several
    forward passes a step (accumulation), and iterations count accordingly.
    """
    config = protocol.config
    schedule, warmup, total = config["schedule"], config["warmup"], config["data"]["total_batch"]
    if total % world_size:
        raise ValueError(f"{protocol.task}: a total batch of {total} does not divide among {world_size} processes")
    per_process = total // world_size
    accumulate = -(-per_process // config["data"].get("max_per_process", per_process))
    if per_process % accumulate:
        raise ValueError(f"{protocol.task}: {per_process} images a process cannot be split into {accumulate} passes")
    iterations = schedule["iterations"] * accumulate
    dataset = dict(type=config["data"]["dataset"], metainfo=dict(classes=tuple(data.classes)), backend_args=None)
    train = dict(ann_file=str(data.train_annotations), data_prefix=dict(img=f"{data.train_images}/"),
                 filter_cfg=config["data"]["filter_cfg"], pipeline=config["train_pipeline"])
    val = dict(ann_file=str(data.val_annotations), data_prefix=dict(img=f"{data.val_images}/"), test_mode=True,
               indices=limit, pipeline=config["test_pipeline"])
    loader = dict(num_workers=workers, persistent_workers=workers > 0)
    return dict(
        model=_synchronised(config["model"]) if world_size > 1 else config["model"],
        train_dataloader=dict(batch_size=per_process // accumulate, **loader, dataset=dataset | train,
                              sampler=dict(type="InfiniteSampler", shuffle=True, seed=seed),
                              batch_sampler=config["data"]["batch_sampler"]),
        val_dataloader=dict(batch_size=1, **loader, dataset=dataset | val, drop_last=False,
                            sampler=dict(type="DefaultSampler", shuffle=False)),
        val_evaluator=config["evaluator"] | dict(format_only=True, ann_file=str(data.val_annotations)),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=iterations),
        val_cfg=dict(type="ValLoop"),
        optim_wrapper=dict(type="OptimWrapper", accumulative_counts=accumulate) | config["optimizer"],
        param_scheduler=[
            dict(type="LinearLR", start_factor=warmup["start_factor"], by_epoch=False, begin=0,
                 end=warmup["iterations"] * accumulate),
            dict(type="MultiStepLR", by_epoch=False, gamma=config["lr_decay"],
                 milestones=[m * accumulate for m in schedule["milestones"]])],
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=min(20, iterations)),
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=max(1, min(iterations // 4, 5000)),
                            max_keep_ckpts=2)),
        custom_hooks=[dict(type="PreciseBNHook", iterations=config["precise_bn"]["iterations"])],
        log_processor=dict(by_epoch=False), randomness=dict(seed=seed), default_scope="mmdet")


def _synchronised(node):
    """The model's config with every BN turned into one that synchronises over ranks."""
    from mmengine.device import get_device

    kind = "SyncBN" if get_device() == "cuda" else "DetCoSyncBN"
    if isinstance(node, dict):
        return {k: kind if k == "type" and v == "BN" else _synchronised(v) for k, v in node.items()}
    return type(node)(map(_synchronised, node)) if isinstance(node, (list, tuple)) else node


def transfer(protocol: Protocol, data: CocoData, name: str, seed: int, checkpoint_path: Path, work_dir: Path, *,
             resume: bool = True, load: bool = True, limit: int | None = None, workers: int = 0) -> dict:
    """Train and evaluate one detector; the result record (leaderboard.record), also kept in `work_dir`.

    Args:
        name: the row's name.
        seed: of the heads, the order of images and the augmentation.
        load: False leaves the backbone's weights as initialised: the alarm that shows loading matters.
        limit: the run was shortened (by `--limit`); recorded, and such a record enters no leaderboard.
        workers: loader processes.
    Raises:
        CheckpointError: the checkpoint does not fit. DivergedError: a loss that is not finite.
    """
    from mmengine import dist

    work_dir = Path(work_dir)
    if not resume:
        shutil.rmtree(work_dir, ignore_errors=True)
    checkpoint = checkpoints.load(checkpoint_path)
    arch = protocol.config["arch"]
    if checkpoint.metadata["arch"] != arch:
        raise checkpoints.CheckpointError(f"checkpoint {checkpoint_path}: a {checkpoint.metadata['arch']}; scale "
                                          f"{protocol.scale} runs {arch}")
    started = time.perf_counter()
    config = runner_config(protocol, data, seed, workers, dist.get_world_size(), limit)
    backbone = (checkpoint_path, checkpoint, protocol.config["load"]) if load else None
    runner = _run(config, backbone, work_dir, f"{name} seed {seed}", resume)
    cost = dict(
        wall_seconds=round(time.perf_counter() - started + runner.clock.before, 1),
        train_seconds=round(runner.message_hub.get_info("train_seconds", 0.0), 1),
        peak_memory_bytes=_peak_memory(), device=_device(), world_size=dist.get_world_size(),
        accumulation=config["optim_wrapper"]["accumulative_counts"])
    record = _scored(protocol, data, work_dir, limit) | dict(
        schema=1, scale=protocol.scale, schedule=protocol.schedule, method=name, seed=seed,
        load_report=runner.load_report,
        train_losses={key: float(series.current()) for key, series in runner.message_hub.log_scalars.items()
                      if key.startswith("train/loss")},
        protocol_fingerprint=protocol.fingerprint, data_fingerprint=data.fingerprint,
        checkpoint=dict(hash=sha256(checkpoint_path), metadata=checkpoint.metadata), cost=cost,
        environment=environment(), config=dict(protocol=protocol.config), limit=limit)
    if dist.is_main_process():
        with replacing(work_dir / "result.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1, sort_keys=True))
        for state in work_dir.glob("iter_*.pth"):
            state.unlink()
    dist.barrier()
    return record


def _run(config: dict, backbone: tuple | None, work_dir: Path, label: str, resume: bool) -> TransferRunner:
    """Train, evaluate, and leave `detections.<kind>.json` in the work folder; the runner that did."""
    from mmengine.config import ConfigDict

    from benchmarks import heads  # noqa: F401 - registers itself; imports mmdet

    with quiet(work_dir / "run.log"):
        config["val_evaluator"]["outfile_prefix"] = str(work_dir / "detections")
        runner = TransferRunner(
            **ConfigDict(config), work_dir=str(work_dir), resume=resume, label=label,
            visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
            experiment_name=f"transfer-{work_dir.name}", backbone=backbone)
        runner.train()
        if runner.iter >= runner.max_iters and not (work_dir / "detections.bbox.json").is_file():
            runner.val()  # stopped between training and evaluation
    return runner


def _scored(protocol: Protocol, data: CocoData, work_dir: Path, limit: int | None) -> dict:
    """The record's fields that say what was measured, from the detections in the work folder."""
    task = protocol.config["task"]
    files = {kind: work_dir / f"detections.{kind}.json" for kind in task["metrics"]}
    metrics, per_class = {}, {}
    for kind, file in files.items():
        scores, per_class[kind] = coco_metrics(data.val_annotations, file, kind, limit)
        metrics |= scores
    return dict(task=protocol.task, task_version=task["version"], main_metric=task["main_metric"], metrics=metrics,
                per_class=per_class, detections=digest(list(map(sha256, files.values()))))


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def _peak_memory() -> int:
    """Bytes: of the device where there is one, else of this process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def environment() -> dict:
    """Versions of what computed, and the commit, if this is a git checkout."""
    versions = {"python": platform.python_version(), "mmcv_operators": mmcv_ops.install()}
    for package in ("torch", "torchvision", "mmdet", "mmengine", "numpy", "pycocotools"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None

    def git(*words):
        here = Path(__file__).resolve().parent
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    # Results and the pages made of them change with every run; dirty means the code.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/leaderboard/results",
                  ":!/leaderboard/LEADERBOARD.md")
    return dict(versions=versions, platform=platform.platform(), commit=git("rev-parse", "HEAD"),
                dirty=None if changed is None else bool(changed))
