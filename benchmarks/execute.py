"""Carries out a plan: pretrain what is not cached, transfer what has no result, rebuild and print the tables."""
import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import dist

from benchmarks.data import sources as datasets
from benchmarks.plan import Plan
from benchmarks.task import load_task, source_of
from benchmarks.transfer import Job, Protocol, kind_of, transfer
from detco import checkpoint as checkpoints
from detco import engine
from detco.config import digest
from detco.console import log
from detco.distributed import join
from detco.files import sha256
from detco.pool import FolderPool, MemoryPool
from leaderboard import build, record, tables


def execute(plan: Plan) -> int:
    """Run a plan; 0 when every row has its result. Raises what its parts raise, each in one line."""
    arguments = plan.arguments
    join()
    log(plan.note or f"scale {plan.scale}: {plan.scale_config['description']}")
    for task in plan.tasks if not arguments.pretrain_only else ():
        datasets.require(plan.scale, source_of(load_task(task)), arguments.data_root)
    pool = first_on_main(lambda: load_pool(plan)) if plan.methods else None
    rows = {method: pretrained(plan, method, pool) for method in plan.methods}
    if arguments.checkpoint:
        rows[arguments.name] = own_checkpoint(plan)
    if arguments.pretrain_only:
        for name, path in rows.items():
            log(f"{name}: {path}")
        return 0
    for task in plan.tasks:
        data = first_on_main(lambda: data_for(plan, task))
        protocol = plan.protocol(task, data.classes)
        log(f"task {task}" + f", schedule {protocol.schedule}" * bool(plan.schedules(task)))
        records = [transferred(arguments, protocol, data, name, path, seed)
                   for name, path in rows.items() for seed in arguments.seed]
        if arguments.report and dist.is_main_process():
            report(plan, records)
    return 0


def log(text: str) -> None:
    """Print a line on rank 0."""
    if dist.is_main_process():
        log(text)


def first_on_main(function: Callable):
    """function(), on rank 0 before the others: what it draws and caches is drawn once."""
    for turn in (True, False):
        if dist.is_main_process() is turn:
            result = function()
        dist.barrier()
    return result


def load_pool(plan: Plan, split: str = "train") -> MemoryPool | FolderPool:
    """The scale's pool in memory, or the folder of its images; drawn first where the scale draws it."""
    path = datasets.pool_for(plan.scale, plan.arguments.data_root, split)
    return MemoryPool.load(path) if path.is_file() else FolderPool.load(path)


@dataclass(frozen=True)
class Pools:
    """Labelled images to learn from and to be tested on: what the image-level protocols take.

    Both parts are pools, or `benchmarks.image_level.svm.Labelled`; each has `classes` and a `fingerprint`.
    """

    train: Any
    val: Any

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.train.classes)

    @property
    def fingerprint(self) -> str:
        return digest([self.train.fingerprint, self.val.fingerprint])


def data_for(plan: Plan, task: str) -> datasets.CocoData | Pools:
    """What a task learns from and is tested on at the plan's scale, checked."""
    config, root = load_task(task), plan.arguments.data_root
    if source_of(config) == "imagenet":
        pools = Pools(load_pool(plan), load_pool(plan, "val"))
        if list(pools.train.classes) != list(pools.val.classes):
            raise datasets.DataError(f"scale {plan.scale}: the validation images have other classes than the pool; "
                                     "prepare both again")
        return pools
    data = datasets.coco_for(plan.scale, source_of(config), root)
    if kind_of(config) == "svm":
        from benchmarks.image_level.svm import labelled

        return Pools(labelled(data.train_annotations, data.train_images),
                     labelled(data.val_annotations, data.val_images))
    return data


def pretrained(plan: Plan, method: str, pool: MemoryPool | FolderPool) -> Path:
    """The checkpoint of a method at the plan's scale, pretrained unless it is cached."""
    arguments, config = plan.arguments, plan.pretraining(method)
    if arguments.limit and config["schedule"]["epochs"]:
        config["schedule"]["epochs"] = 1
        pool = pool.limit(arguments.limit * config["schedule"]["batch"])
    identity = engine.identity(config, pool.fingerprint, arguments.pretrain_seed)
    work_dir = arguments.work_dir / "pretrain" / plan.scale / f"{method}-{identity[:12]}"
    return engine.pretrain(config, pool, work_dir, arguments.pretrain_seed, arguments.resume,
                           arguments.tensorboard)


def own_checkpoint(plan: Plan) -> Path:
    """Somebody's checkpoint, brought into the suite's format under its row's name."""
    arguments = plan.arguments
    stated = {"channel_order": arguments.channel_order, "stride": arguments.stride}
    loaded = checkpoints.load(arguments.checkpoint, **{k: v for k, v in stated.items() if v})
    path = arguments.work_dir / "checkpoints" / f"{arguments.name}-{sha256(arguments.checkpoint)[:12]}.safetensors"
    if dist.is_main_process():
        checkpoints.save(path, loaded.state, loaded.metadata | {"method": arguments.name})
        log(f"{arguments.checkpoint}: a {loaded.metadata['arch']}, {len(loaded.state)} tensors loaded, "
            f"{len(loaded.ignored)} left aside (heads, momentum encoders)")
    dist.barrier()
    return path


def transferred(arguments: argparse.Namespace, protocol: Protocol, data: datasets.CocoData | Pools, name: str,
                checkpoint: Path, seed: int) -> dict:
    """The record of one row, run unless the work folder holds it already; filed in the leaderboard."""
    # States count parts of a batch: those of another number of them are no states of this run.
    parts = [arguments.max_per_process, dist.get_world_size()] if arguments.max_per_process else []
    key = digest([protocol.fingerprint, data.fingerprint, sha256(checkpoint), arguments.no_load, arguments.limit,
                  *parts])
    work_dir = arguments.work_dir / "transfer" / protocol.scale / protocol.task / f"{name}-seed{seed}-{key[:12]}"
    stored = work_dir / "result.json"
    if stored.is_file() and not arguments.force:
        log(f"{name}, {protocol.task}, seed {seed}: reused from {stored} (--force runs it again)")
        result = json.loads(stored.read_text())
    else:
        if share := (protocol.config["schedule"] or {}).get("share"):
            least, folder = protocol.config["data"]["total_batch"], arguments.work_dir / "subsets"
            data = first_on_main(lambda: datasets.subset(data, share, seed, least, folder))
        result = transfer(Job(
            protocol, data, name, seed, checkpoint, checkpoints.load(checkpoint), work_dir,
            resume=arguments.resume and not arguments.force, load=not arguments.no_load, limit=arguments.limit,
            workers=_workers(arguments.workers), max_per_process=arguments.max_per_process))
    if not (arguments.limit or arguments.no_load) and dist.is_main_process():
        record.write(arguments.results, result)
    return result


def _workers(asked: int | None) -> int:
    """Loader processes: on the CPU none, since they would take the cores from the detector."""
    import torch

    return asked if asked is not None else 4 * torch.cuda.is_available()


def report(plan: Plan, records: list[dict]) -> None:
    """Print the new rows beside those already there, rebuild the leaderboard, say where everything lies."""
    arguments = plan.arguments
    shortened = bool(arguments.limit or arguments.no_load)
    shown = records
    if not shortened:
        first = records[0]
        shown = [r for r in record.read_all(arguments.results)
                 if all(r[k] == first[k] for k in ("scale", "task", "task_version", "schedule"))]
    new = {r["method"] for r in records}
    log("\n" + tables.format_rows(shown, highlight=new.pop() if len(new) == 1 else None))
    if arguments.compare:
        log("\n" + tables.format_comparison(shown, arguments.compare))
    log("")
    if shortened:
        log("shortened or unloaded run: kept out of the leaderboard")
    else:
        page = arguments.results.parent / "LEADERBOARD.md"
        record.write_text(page, build.build(arguments.results))
        log(f"results      {arguments.results}\nleaderboard  {page}")
    log(f"logs, checkpoints and detections  {arguments.work_dir.resolve()}")
