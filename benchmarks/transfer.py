"""The transfer harness: any checkpoint through one task's protocol, to one record."""
import json
import shutil
import time
from pkgutil import resolve_name
from typing import Any

from benchmarks.environment import PeakMemory, device_name, environment
from benchmarks.job import Job
from benchmarks.task import without_prose
from detco.checkpoint import CheckpointError
from detco.errors import UserError
from detco.files import flaw_of, replacing
from leaderboard.checks import first_difference
from leaderboard.record import SCHEMA, brief_report

RESULT = "result.json"

# What measures a task's rows, by `task.kind`: a function from a Job to the record's fields that say what came out
# (metrics, per_class, load_report, train_losses, detections, cost). A kind of one's own is named "module:function".
KINDS = {"detector": "benchmarks.detection.runner:measure", "linear": "benchmarks.image_level.probes:linear",
         "knn": "benchmarks.image_level.probes:knn", "svm": "benchmarks.image_level.probes:svm"}


def _asked(job: Job) -> dict[str, Any]:
    """The fields of a record that say what was to be measured."""
    protocol = job.protocol
    return dict(schema=SCHEMA, task=protocol.task, task_version=protocol.version,
                main_metric=protocol.config["task"]["main_metric"], scale=protocol.scale, schedule=protocol.schedule,
                arch=job.checkpoint.metadata["arch"], method=job.name, seed=job.seed, pretrain_seed=job.pretrain_seed,
                protocol_fingerprint=protocol.fingerprint, data_fingerprint=job.data.fingerprint, changes=job.changes,
                limit=job.limit)


def stored(job: Job) -> dict | None:
    """The record that a job's work folder holds already; None where there is none.

    Raises UserError for one that was changed since, is of another job, or whose detections are not there as they were.
    """
    path = job.work_dir / RESULT
    if not path.exists():
        return None
    why = flaw_of(path)
    if not why:
        record, asked = json.loads(path.read_text()), json.loads(json.dumps(_asked(job)))
        held = {key: record.get(key) for key in asked} | {"checkpoint": record["checkpoint"]["hash"]}
        if difference := first_difference(held, asked | {"checkpoint": job.identity}):
            why = f"of another row, {difference}"
        elif record["detections"] is not None:
            from benchmarks.detection.evaluate import hash_of_detections

            try:
                if hash_of_detections(job.protocol.config["task"]["metrics"], job.work_dir) != record["detections"]:
                    why = "its detections, beside it, are not those that were scored"
            except FileNotFoundError as error:
                why = f"{error.filename}, its detections, is missing"
    if why:
        raise UserError(f"{path}: {why}; --force measures the row again")
    return record


def transfer(job: Job) -> dict:
    """Measure one row; the result record (leaderboard/schema.json), also kept in the job's work folder.

    Raises CheckpointError where the checkpoint does not fit, and what the task's kind raises.
    """
    from mmengine import dist
    from mmengine.device import get_device

    protocol, metadata = job.protocol, dict(job.checkpoint.metadata)
    if not job.resume and dist.is_main_process():
        shutil.rmtree(job.work_dir, ignore_errors=True)
    dist.barrier()
    if metadata["arch"] != protocol.config["arch"]:
        raise CheckpointError(f"checkpoint {job.checkpoint_path}: a {metadata['arch']}; scale {protocol.scale} runs "
                              f"{protocol.config['arch']}")
    started, memory = time.perf_counter(), PeakMemory()
    job.work_dir.mkdir(parents=True, exist_ok=True)
    measured = resolve_name(KINDS.get(protocol.kind, protocol.kind))(job)
    cost = measured.pop("cost")
    earlier = cost.pop("earlier_seconds", 0.0)
    measured["load_report"] = brief_report(measured["load_report"])
    recipe = dict(hash=metadata["recipe"], config=metadata.pop("recipe_config"), pool=metadata["pool"])
    record = dict(deterministic=False) | measured | _asked(job) | dict(
        data=dict(source=job.source, images=job.images), recipe=recipe,
        checkpoint=dict(hash=job.identity, metadata=metadata),
        cost=cost | dict(
            wall_seconds=round(time.perf_counter() - started + earlier, 1), resumed=earlier > 0,
            peak_memory_bytes=memory.bytes(), device=device_name(get_device()), **_used(job, dist.get_world_size())),
        environment=environment(), unreliable=None)
    if job.tuning:
        record["tuning"] = job.tuning
    if dist.is_main_process():
        with replacing(job.work_dir / "protocol.json") as temporary:
            temporary.write_text(json.dumps(without_prose(protocol.filed), indent=1, sort_keys=True))
        with replacing(job.work_dir / RESULT, sealed=True) as temporary:
            temporary.write_text(json.dumps(record, indent=1, sort_keys=True))
        for state in job.work_dir.glob("iter_*.pth"):
            state.unlink()
    dist.barrier()
    return record


def _used(job: Job, ranks: int) -> dict[str, Any]:
    """What a row ran on, beside the device's name."""
    import torch

    on_cuda = torch.cuda.is_available()
    # Frozen features are computed in bfloat16 on a GPU, detectors where asked.
    config, is_detector = job.protocol.config, job.protocol.kind == "detector"
    precision = config.get("amp", "float32") if is_detector else "bfloat16" if on_cuda else "float32"
    return dict(device_count=ranks if on_cuda else 1, world_size=ranks, workers=job.workers,
                threads=torch.get_num_threads(), precision=precision)
