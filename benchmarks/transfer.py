"""The transfer harness: any checkpoint through one task's protocol, to one record."""
import json
import os
import pkgutil
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.detection import mmcv_ops
from benchmarks.task import load_task, resolve
from detco import checkpoint as checkpoints
from detco.config import digest
from detco.errors import UserError
from detco.files import replacing, sha256

# What measures a task's rows, by `task.kind`: a function from a Job to the record's fields that say what came out
# (metrics, per_class, load_report, train_losses, detections, cost).
KINDS = {"detector": "benchmarks.detection.runner:measure", "linear": "benchmarks.image_level.probes:linear",
         "knn": "benchmarks.image_level.probes:knn", "svm": "benchmarks.image_level.probes:svm"}


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


def kind_of(config: dict) -> str:
    """What measures a task's rows (`KINDS`); tasks that name no kind are detectors."""
    return config["task"].get("kind", "detector")


def protocol_of(task: str, scale: str, arch: str, classes: tuple[str, ...], overrides: dict,
                schedule: str | None = None) -> Protocol:
    """Resolve a task at a scale.

    Args:
        overrides: the scale's dotted changes to the task.
        schedule: one of the task's at this scale; None for 1x, where there is none for the first.
    Raises:
        UserError: unknown task or schedule, or an override that fits nothing.
    """
    config = resolve(load_task(task), arch, len(classes), overrides).to_dict()
    schedules = config.pop("schedules", {"": None})
    schedule = schedule or ("1x" if "1x" in schedules else next(iter(schedules)))
    if schedule not in schedules:
        raise UserError(f"unknown schedule '{schedule}' for {task} at scale {scale}: known: {', '.join(schedules)}")
    config |= dict(schedule=schedules[schedule], arch=arch, classes=list(classes))
    return Protocol(task, scale, schedule, config)


@dataclass(frozen=True)
class Job:
    """One row to measure.

    Attributes:
        data: of the task's kind, with `classes` and `fingerprint`.
        name: the row's name.
        seed: of the heads, the order of images and the augmentation.
        resume: go on where an interrupted run stopped.
        load: False leaves the backbone's weights as initialised: the alarm that shows loading matters.
        limit: the run was shortened (by `--limit`); recorded, and such a record enters no leaderboard.
        workers: loader processes.
        max_per_process: images a process takes through a detector at once, at most; None for its whole share.
    """

    protocol: Protocol
    data: Any
    name: str
    seed: int
    checkpoint_path: Path
    checkpoint: checkpoints.Checkpoint
    work_dir: Path
    resume: bool = True
    load: bool = True
    limit: int | None = None
    workers: int = 0
    max_per_process: int | None = None


def transfer(job: Job) -> dict:
    """Measure one row; the result record (leaderboard.record), also kept in the job's work folder.

    Raises CheckpointError where the checkpoint does not fit, and what the task's kind raises.
    """
    from mmengine import dist
    from mmengine.device import get_device

    protocol, metadata = job.protocol, job.checkpoint.metadata
    if not job.resume and dist.is_main_process():
        shutil.rmtree(job.work_dir, ignore_errors=True)
    dist.barrier()
    if metadata["arch"] != protocol.config["arch"]:
        raise checkpoints.CheckpointError(f"checkpoint {job.checkpoint_path}: a {metadata['arch']}; scale "
                                          f"{protocol.scale} runs {protocol.config['arch']}")
    started, task = time.perf_counter(), protocol.config["task"]
    job.work_dir.mkdir(parents=True, exist_ok=True)
    measured = pkgutil.resolve_name(KINDS[kind_of(protocol.config)])(job)
    cost = measured.pop("cost")
    seconds = time.perf_counter() - started + cost.pop("earlier_seconds", 0.0)
    record = measured | dict(
        schema=1, task=protocol.task, task_version=task["version"], main_metric=task["main_metric"],
        scale=protocol.scale, schedule=protocol.schedule, method=job.name, seed=job.seed,
        protocol_fingerprint=protocol.fingerprint, data_fingerprint=job.data.fingerprint,
        checkpoint=dict(hash=sha256(job.checkpoint_path), metadata=metadata),
        cost=cost | dict(wall_seconds=round(seconds, 1), peak_memory_bytes=_peak_memory(),
                         device=device_name(get_device()), world_size=dist.get_world_size()),
        environment=environment(), config=dict(protocol=protocol.config), limit=job.limit)
    if dist.is_main_process():
        with replacing(job.work_dir / "result.json") as temporary:
            temporary.write_text(json.dumps(record, indent=1, sort_keys=True))
        for state in job.work_dir.glob("iter_*.pth"):
            state.unlink()
    dist.barrier()
    return record


def device_name(kind: str) -> str:
    """What a device of this kind, "cuda" or "cpu", is called in records."""
    import torch

    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def _peak_memory() -> int:
    """Bytes: of the device where there is one, else of this process."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else process_peak()


def process_peak() -> int:
    """The most bytes this process has held. On Linux not by getrusage, which counts what its parent held."""
    status = Path("/proc/self/status")
    if status.is_file() and (peak := re.search(r"VmHWM:\s*(\d+)", status.read_text())):
        return 1024 * int(peak[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


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
                  ":!/leaderboard/LEADERBOARD.md", ":!/docs/speed*", ":!/docs/scaling.md")
    return dict(versions=versions, platform=platform.platform(), commit=git("rev-parse", "HEAD"),
                dirty=None if changed is None else bool(changed))
