"""Carries out a plan: pretrain what is not cached, transfer what has no result, file, rebuild and print the tables."""
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mmengine import dist

from benchmarks import tuning
from benchmarks.data import coco, sources
from benchmarks.data.coco import CocoData, DataError
from benchmarks.job import Job
from benchmarks.plan import Folders, Foreign, Options, Plan, Pretraining, Transfer
from benchmarks.task import without_prose
from benchmarks.transfer import RESULT, stored, transfer
from detco import checkpoint as checkpoints
from detco import collection, engine
from detco.checkpoint import Checkpoint
from detco.config import digest
from detco.console import log
from detco.distributed import alone, join
from detco.pool import FolderPool, MemoryPool
from leaderboard import build, detections, record, tables

Pool = MemoryPool | FolderPool


@dataclass(frozen=True)
class Ready:
    """A checkpoint whose rows are to be measured.

    Attributes:
        row: the rows' name.
        pretrain_seed: None where nobody knows.
        identity: the hash of its weights and recipe (`detco.checkpoint.identity`).
    """

    row: str
    pretrain_seed: int | None
    path: Path
    checkpoint: Checkpoint
    identity: str


def execute(plan: Plan) -> int:
    """Run a plan; 0 when every row has its result. Raises what its parts raise, each in one line."""
    join()
    _log(plan.note)
    for step in plan.transfers:
        if step.source != "imagenet":  # looked at before hours go into what comes first
            first_on_main(partial(coco_data, step, plan.data, plan.folders, dist.is_main_process()))
    pool = first_on_main(lambda: _pool(plan)) if plan.pretrainings else None
    asked = first_on_main(lambda: load_pool(plan.data, plan.folders.data_root, "val")) if plan.watched else None
    ready = [_own(plan.foreign, plan.folders.work_dir)] if plan.foreign else \
        [pretrained(p, pool, asked, plan.scale, plan.folders.work_dir, plan.options) for p in plan.pretrainings]
    if not plan.transfers:
        for checkpoint in ready:
            _log(f"{checkpoint.row}: {checkpoint.path}")
    if plan.export and dist.is_main_process():
        path = checkpoints.export(ready[0].checkpoint, *plan.export)
        log(f"exported: {path}\n{checkpoints.how_to_load(path, plan.export[1], ready[0].checkpoint.metadata)}")
    for step in plan.transfers:
        data = first_on_main(partial(data_for, step, plan.data, plan.folders))
        schedule = step.protocol.schedule
        _log(f"task {step.protocol.task}" + f", schedule {schedule}" * bool(schedule))
        records = [_row(plan, step, data, checkpoint, seed) for checkpoint in ready for seed in plan.seeds]
        if plan.options.report and dist.is_main_process():
            report(plan, records)
    return 0


def _log(text: str) -> None:
    """A line on rank 0."""
    if dist.is_main_process():
        log(text)


def first_on_main(function: Callable):
    """function(), on rank 0 before the others: what it draws and caches is drawn once."""
    for turn in (True, False):
        if dist.is_main_process() is turn:
            result = function()
        dist.barrier()
    return result


def from_main(function: Callable[[], Any]) -> Any:
    """What function() gives on rank 0, on every rank: file systems show a file to one node before the other."""
    result = [function() if dist.is_main_process() else None]
    dist.broadcast_object_list(result)
    return result[0]


def _pool(plan: Plan) -> Pool:
    """What the plan pretrains on."""
    if not plan.images:
        return load_pool(plan.data, plan.folders.data_root)
    _log(f"images: {plan.images.described}")
    work = plan.folders.work_dir / "images"
    return collection.load(plan.images, work, work, dist.is_main_process())


def load_pool(scale: str, data_root: Path, split: str = "train") -> Pool:
    """The scale's pool in memory, or the folder of its images; drawn first where the scale draws it."""
    path = sources.pool_for(scale, data_root, split)
    if path.is_file():
        return MemoryPool.load(path)
    return FolderPool.load(path, sources.cache_of(data_root), dist.is_main_process())


def coco_data(step: Transfer, scale: str, folders: Folders, show: bool = False) -> CocoData:
    """A task's data in COCO's form, checked; with bars and the checks' notes where `show`. Raises DataError."""
    kinds = step.protocol.config["task"]["metrics"]
    if step.own:
        return step.own.checked("segm" in kinds, "keypoints" in kinds, folders.work_dir / "checked", show)
    return sources.coco_for(scale, step.source, folders.data_root, masks="segm" in kinds, show=show)


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

    @property
    def counts(self) -> dict[str, int]:
        return dict(train=len(self.train.images), val=len(self.val.images))


def data_for(step: Transfer, scale: str, folders: Folders) -> CocoData | Pools:
    """What a task learns from and is tested on, of a scale's data, checked. Raises DataError."""
    protocol = step.protocol
    if step.source == "imagenet":
        data = Pools(load_pool(scale, folders.data_root), load_pool(scale, folders.data_root, "val"))
        if list(data.train.classes) != list(data.val.classes):
            raise DataError(f"scale {scale}: the validation images have other classes than the pool; prepare both "
                            "again")
    else:
        data = coco_data(step, scale, folders)
        if protocol.kind != "detector":
            from benchmarks.image_level.svm import labelled

            data = Pools(labelled(data.train_annotations, data.train_images, data.fingerprint),
                         labelled(data.val_annotations, data.val_images, data.fingerprint))
    if list(data.classes) != protocol.config["classes"]:
        raise DataError(f"{protocol.task}: the data's categories are no longer those that the run was planned with; "
                        "run it again")
    return data


def pretrained(pretraining: Pretraining, pool: Pool, asked: Pool | None, scale: str, work_dir: Path,
               options: Options) -> Ready:
    """The checkpoint of a method, pretrained unless it is cached; watched by k-NN of the pool on the images `asked`
    where its recipe says so."""
    if pretraining.images:
        pool = pool.limit(pretraining.images)
    recipe, seed = pretraining.recipe, pretraining.seed
    identity = engine.identity(recipe, pool.fingerprint, seed)
    path = engine.pretrain(recipe, pool, work_dir / "pretrain" / scale / f"{pretraining.row}-p{seed}-{identity[:12]}",
                           seed, options.resume, options.tensorboard, asked and (pool, asked))
    return _ready(pretraining.row, seed, path)


def _own(foreign: Foreign, work_dir: Path) -> Ready:
    """Somebody's checkpoint, brought into the suite's format under its row's name."""
    loaded = checkpoints.load(foreign.path, **foreign.stated)
    identity = checkpoints.identity(loaded.state, loaded.metadata["recipe"])
    path = work_dir / "checkpoints" / f"{foreign.row}-{identity[:12]}.safetensors"
    with alone(path.parent):
        if dist.is_main_process():
            checkpoints.save(path, loaded.state, loaded.metadata | {"method": foreign.row})
            log(f"{foreign.path}: {loaded.described()}; {len(loaded.state)} tensors loaded, {len(loaded.ignored)} left "
                "aside")
        dist.barrier()
    return _ready(foreign.row, loaded.metadata["seed"], path)


def _ready(row: str, seed: int | None, path: Path) -> Ready:
    loaded = checkpoints.load(path)
    return Ready(row, seed, path, loaded, checkpoints.identity(loaded.state, loaded.metadata["recipe"]))


def _row(plan: Plan, step: Transfer, data: CocoData | Pools, ready: Ready, seed: int) -> dict:
    """The record of one row, run unless the work folder holds it already; filed in the leaderboard."""
    options, protocol, work_dir = plan.options, step.protocol, plan.folders.work_dir
    # States count parts of a batch: those of another number of them are no states of this run.
    parts = [options.max_per_process, dist.get_world_size()] if options.max_per_process else []
    style = [ready.checkpoint.metadata[key] for key in checkpoints.STYLE]
    key = digest([protocol.fingerprint, data.fingerprint, ready.identity, style, not options.load, options.limit,
                  *parts])
    seeds = f"p{ready.pretrain_seed}-s{seed}" if ready.pretrain_seed is not None else f"s{seed}"
    folder = work_dir / "transfer" / protocol.scale / protocol.task / f"{ready.row}-{seeds}-{key[:12]}"
    job = Job(
        protocol, data, step.source, step.changes, ready.row, seed, ready.pretrain_seed, ready.path, ready.checkpoint,
        ready.identity, folder, resume=options.resume and not options.force, load=options.load, limit=options.limit,
        workers=_workers(options.workers), max_per_process=options.max_per_process)
    with alone(folder):
        if not options.force and (result := from_main(partial(stored, job))):
            _log(f"{ready.row}, {protocol.task}, {seeds}: reused from {folder / RESULT} (--force runs it again)")
        else:
            if share := (protocol.config["schedule"] or {}).get("share"):
                least, subsets = protocol.config["data"]["total_batch"], work_dir / "subsets"
                job = replace(job, data=first_on_main(lambda: coco.subset(data, share, seed, least, subsets)))
            if step.trials:
                job = tuning.chosen(job, step.trials, _trial, dist.is_main_process())
            result = transfer(job)
    if options.filed and dist.is_main_process():
        outcome = record.file(plan.folders.results, result, without_prose(protocol.config), options.replace)
        if result["detections"] and outcome.status in ("filed", "same"):
            from benchmarks.detection import analysis, evaluate

            kinds = protocol.config["task"]["metrics"]
            detections.keep(plan.folders.results, result["detections"], evaluate.files_of(kinds, folder))
            if "mIoU" not in kinds:
                analysis.keep(plan.folders.results, result, data)
        _log(f"{ready.row}, {protocol.task}, {seeds}: {outcome.line}")
    return result


def _trial(job: Job) -> dict:
    """The record of a trial, run unless it is there."""
    return (job.resume and from_main(partial(stored, job))) or transfer(job)


def _workers(asked: int | None) -> int:
    """Loader processes: on the CPU none, since they would take the cores from the detector."""
    import torch

    return asked if asked is not None else 4 * torch.cuda.is_available()


def report(plan: Plan, records: list[dict]) -> None:
    """Print the new rows beside those already there, rebuild the leaderboard, say where everything lies."""
    options, results, shown = plan.options, plan.folders.results, records
    if options.filed:
        key = [records[0][k] for k in ("scale", "task", "task_version", "schedule")]
        filed = [r for r in record.read_all(results)
                 if [r[k] for k in ("scale", "task", "task_version", "schedule")] == key] if results.is_dir() else []
        shown = filed or records  # none filed: the board holds rows of another version alone
    new = {r["method"] for r in records}
    log("\n" + tables.format_rows(shown, highlight=new.pop() if len(new) == 1 else None))
    if options.compare:
        log("\n" + tables.format_comparison(shown, options.compare))
    log("")
    if options.filed:
        page, site = build.write(results)
        log(f"results      {results}\nleaderboard  {page}\n             {site}")
    else:
        log("shortened or unloaded run: kept out of the leaderboard")
    log(f"logs, checkpoints and detections  {plan.folders.work_dir.resolve()}")
