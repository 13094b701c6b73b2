"""`Request` -> `Plan`: what will run, with every recipe, protocol and seed resolved. All refusals happen here.

A plan is plain, frozen and complete: whoever executes it asks nobody again.
"""
import importlib.util
import inspect
import math
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import tuning
from benchmarks.cli import Request, change_of
from benchmarks.data import sources
from benchmarks.data.own import PARTS, OwnData, own_data
from benchmarks.estimates import KEPT, detector_bytes, state_bytes
from benchmarks.protocol import Protocol, kind_of, protocol_of
from benchmarks.recipe import arch_of, load_scale, resolve_recipe, with_arch
from benchmarks.task import defined_at, load_task, overrides_at, source_of, task_names
from detco import config
from detco.collection import Collection, look
from detco.errors import UserError, nearest
from leaderboard.checks import AMP
from leaderboard.record import read_all, required_of_name

SEEDS = 2**32  # numpy's bound
OWN = ("coco", "person")  # sources of the tasks that --data takes


@dataclass(frozen=True)
class Pretraining:
    """A checkpoint to make: one method under one recipe from one seed.

    Attributes:
        row: the name that its rows have.
        recipe: the resolved pretraining config.
        steps: optimiser steps on the scale's pool.
        images: of the pool that are taken; None for all.
    """

    row: str
    seed: int
    recipe: dict[str, Any]
    steps: int
    images: int | None


@dataclass(frozen=True)
class Foreign:
    """Somebody's checkpoint, to be brought into the suite's format.

    Attributes:
        row: the name that its rows have.
        path: a file, or a name that `detco.hub` fetches.
        stated: how it is to be read (`detco.checkpoint.load`).
    """

    row: str
    path: str
    stated: dict[str, Any]


@dataclass(frozen=True)
class Transfer:
    """A task at the plan's scale.

    Attributes:
        source: of its data (`benchmarks.data.sources`).
        changes: what --set changed, by dotted key.
        asked: of "share" and "schedule" what was asked for and the task has.
        trials: values that --tune tries, each with the protocol that has them.
        own: the user's data, in the place of the source's.
    """

    protocol: Protocol
    source: str
    changes: dict[str, Any]
    asked: dict[str, Any]
    trials: tuple[tuple[dict[str, Any], Protocol], ...] = ()
    own: OwnData | None = None


@dataclass(frozen=True)
class Folders:
    """Where data, work and results lie."""

    data_root: Path
    work_dir: Path
    results: Path


@dataclass(frozen=True)
class Options:
    """How rows are run and filed; none of it belongs to what they measure, but `load` and `limit`, which keep them out
    of the leaderboard."""

    resume: bool
    force: bool
    replace: bool
    load: bool
    limit: int | None
    workers: int | None
    max_per_process: int | None
    tensorboard: bool
    report: bool
    compare: str | None

    @property
    def filed(self) -> bool:
        """Whether results may enter the leaderboard."""
        return self.load and self.limit is None


@dataclass(frozen=True)
class Plan:
    """What will run, in order: checkpoints, then a row of each for each transfer and seed.

    Attributes:
        data: whose data the scale runs on (`benchmarks.data.sources`).
        note: announces the scale.
        images: what pretraining runs on instead of the scale's pool.
        export: where to write the backbone for other projects, and in whose style.
    """

    scale: str
    data: str
    note: str
    folders: Folders
    options: Options
    pretrainings: tuple[Pretraining, ...]
    foreign: Foreign | None
    transfers: tuple[Transfer, ...]
    seeds: tuple[int, ...]
    images: Collection | None = None
    export: tuple[Path, str] | None = None

    @property
    def checkpoints(self) -> tuple[Pretraining | Foreign, ...]:
        """Whose rows there will be."""
        return (self.foreign,) if self.foreign else self.pretrainings

    @property
    def watched(self) -> bool:
        """Whether some pretraining is watched by k-NN."""
        return any(p.steps and p.recipe.get("monitor") for p in self.pretrainings)

    @property
    def rows(self) -> int:
        return len(self.checkpoints) * len(self.transfers) * len(self.seeds)


def make(request: Request) -> Plan:
    """Resolve and check a request. Raises UserError, in one line, for whatever can be refused before the work but
    missing data, which `require_data` refuses."""
    _check_numbers(request)
    methods = _chosen("method", request.methods, config.names("pretrain"))
    tasks = _chosen("task", request.tasks, task_names())
    scale, note = (request.scale, "") if request.scale else _default_scale(request.data_root)
    scale_config = load_scale(scale)
    data, own_arch = scale_config["data"], scale_config["arch"]
    if data not in sources.SOURCES:
        raise UserError(f"scale {scale}: its config names no data that there is: {', '.join(sources.SOURCES)}")
    _check_row_names(request, methods)
    _check_installed(request)
    foreign, arch = _foreign(request) if request.checkpoint else (None, request.arch or own_arch)
    note = note or f"scale {scale}: {scale_config['description']}"
    if arch != own_arch:
        scale_config = with_arch(scale_config, arch)
        note += (f"\nbackbone {arch}, {'as asked' if request.arch else 'as the checkpoint is'}, for the scale's "
                 f"{own_arch}: its rows have tables of their own")
    images = look(request.images) if request.images else None
    changes, tuned = _changes(request.changes, "set"), _tuned(request)
    if request.methods == ("all",):  # weights that somebody else trained are of one architecture
        methods = [m for m in methods if arch_of(resolve_recipe(m, scale_config)) == scale_config["arch"]]
    own = own_data(request.data, {part: getattr(request, part) for part in PARTS})
    if request.tasks == ("all",):
        tasks = [task for task in tasks if defined_at(task, scale_config)
                 and (not own or source_of(load_task(task)) == "coco")]
    changes_of = _fitting(changes["pretrain"], {method: resolve_recipe(method, scale_config) for method in methods},
                          "method")
    transfers = () if request.pretrain_only else _transfers(request, scale, data, scale_config, tasks, changes["task"],
                                                            tuned, own, arch if arch != own_arch else "")
    plan = Plan(
        scale, data, note,
        Folders(request.data_root, request.work_dir, request.results),
        Options(resume=request.resume, force=request.force, replace=request.replace, load=not request.no_load,
                limit=request.limit, workers=request.workers, max_per_process=request.max_per_process,
                tensorboard=request.tensorboard, report=request.report, compare=request.compare),
        tuple(_pretraining(request, method, seed, data, scale_config, changes_of[method], images)
              for method in methods for seed in request.pretrain_seeds),
        foreign, transfers, request.seeds, images, _export(request, methods))
    _check_processes(plan)
    _check_compared(request, plan)
    _check_folder(plan)
    return plan


def require_data(plan: Plan) -> None:
    """Raise DataError where data of the plan is plainly not there."""
    needed = dict.fromkeys(transfer.source for transfer in plan.transfers if not transfer.own)
    if plan.pretrainings and not plan.images:
        needed |= {"imagenet" if plan.watched else "pool": None}
    for source in needed:
        sources.require(plan.data, source, plan.folders.data_root)


def _check_numbers(request: Request) -> None:
    for option, least in (("limit", 1), ("accumulation", 1), ("max_per_process", 1), ("job_cpus", 1), ("job_gpus", 0),
                          ("retries", 0), ("workers", 0)):
        if (value := getattr(request, option)) is not None and value < least:
            raise UserError(f"--{option.replace('_', '-')} {value}: give {least} or more")
    if request.epochs is not None and not 0 < request.epochs < math.inf:
        raise UserError(f"--epochs {request.epochs:g}: give more than 0")
    for option, seeds in (("seed", request.seeds), ("pretrain-seed", request.pretrain_seeds)):
        for seed in seeds:
            if not 0 <= seed < SEEDS:
                raise UserError(f"--{option} {seed}: give 0 to {SEEDS - 1}")
            if seeds.count(seed) > 1:
                raise UserError(f"--{option} {seed} is given twice: each seed is a row of its own")
    if request.measure and not request.dry_run:
        raise UserError("--measure belongs to --dry-run; give both")
    if request.schedule and request.limit:
        raise UserError("--limit shortens the schedule: leave --schedule out")


def _chosen(kind: str, given: Sequence[str], known: list[str]) -> list[str]:
    if tuple(given) == ("all",):
        return known
    for name in given:
        if name not in known:
            raise UserError(nearest(kind, name, [*known, "all"]))
    return list(dict.fromkeys(given))


def _default_scale(data_root: Path) -> tuple[str, str]:
    """The scale to run where none is named, and the line that announces it."""
    if not sources.available(data_root)["paper"].ready:
        return "mini", f"no COCO under {data_root}: the mini scale runs, on images the package draws"
    import torch

    if not torch.cuda.is_available():
        return "mini", "COCO found but no GPU: the mini scale runs; --scale paper insists"
    return "paper", f"COCO found under {data_root}: the paper scale runs"


def _check_row_names(request: Request, methods: list[str]) -> None:
    if request.checkpoint and methods:
        raise UserError("--checkpoint is a row of its own: leave --method out, or run it separately")
    if request.checkpoint and request.name is None:
        raise UserError("--checkpoint needs --name, the name of its row")
    if request.name and not (request.checkpoint or request.images):
        raise UserError("--name names the row of --checkpoint FILE, or --images; a method's row has the method's name")
    if request.checkpoint and (request.images or request.epochs or request.images_seen):
        raise UserError("--checkpoint is pretrained already: leave --images, --epochs and --images-seen out")
    if request.name is not None and (rule := required_of_name(request.name)):
        raise UserError(f"--name {request.name!r}: give {rule}")
    if request.name in config.names("pretrain"):
        raise UserError(f"--name {request.name}: a method of this suite has that name; choose another")
    if not methods and not request.checkpoint:
        raise UserError(f"nothing to run: give --method ({', '.join(config.names('pretrain'))}, all) or --checkpoint "
                        "FILE --name NAME")
    if request.checkpoint and request.pretrain_seeds != (0,):
        raise UserError("--pretrain-seed: the seed that made --checkpoint cannot be chosen; leave it out")


def _check_installed(request: Request) -> None:
    for wanted, package in ((request.tensorboard, "tensorboard"), (request.executor == "ray", "ray")):
        if wanted and importlib.util.find_spec(package) is None:
            raise UserError(f'{package} is not installed: pip install -e ".[{package}]"')
    compilers = filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++"))
    if request.compile and not any(map(shutil.which, compilers)):
        raise UserError("--compile: no C++ compiler found (c++, g++, clang++, or what CXX names): install one, or "
                        "leave --compile out")


def _changes(words: Sequence[str], option: str) -> dict[str, dict[str, Any]]:
    """An option's changes of "pretrain" and of "task": field -> value."""
    found: dict[str, dict[str, Any]] = {"pretrain": {}, "task": {}}
    for part, field, value in (change_of(word, option) for word in words):
        if field in found[part]:
            raise UserError(f"--{option} {part}.{field} is given twice")
        found[part][field] = value
    return found


def _tuned(request: Request) -> dict[str, list]:
    """--tune's fields of tasks, each with its values."""
    found = _changes(request.tune, "tune")
    if found["pretrain"]:
        raise UserError("--tune searches fields of tasks, task.FIELD=VALUE,VALUE; of pretraining give one --set a run")
    if found["task"] and request.pretrain_only:
        raise UserError("--tune searches fields of tasks: leave --pretrain-only out")
    return tuning.fields_of(found["task"])


def _placed(changes: dict[str, Any], written: dict, within: str) -> dict[str, Any]:
    """Changes with the keys they have in a config: what it does not know at its top is looked for `within` a part."""
    return {key if key.partition(".")[0] in written or key.partition(".")[0] not in written.get(within, {})
            else f"{within}.{key}": value for key, value in changes.items()}


def _has(written: dict[str, Any], key: str) -> bool:
    """Whether a config has a dotted key."""
    try:
        config.override(written, {key: None})
    except UserError:
        return False
    return True


def _fitting(changes: dict[str, Any], written: dict[str, dict[str, Any]], within: str) -> dict[str, dict[str, Any]]:
    """Of --set's changes those that each config, by name, has; one that none of them has stays, to be refused."""
    placed = {name: _placed(changes, content, within) for name, content in written.items()}
    known = {key for name, content in written.items() for key in placed[name] if _has(content, key)}
    return {name: {key: value for key, value in placed[name].items() if key not in known or _has(content, key)}
            for name, content in written.items()}


def _suffix(changes: dict[str, Any]) -> str:
    """What --set adds to a name, so that the row mixes with none: "+" and a hash of the changes."""
    return f"+{config.digest(changes)[:8]}" if changes else ""


def _export(request: Request, methods: list[str]) -> tuple[Path, str] | None:
    if request.export is None:
        return None
    from detco.checkpoint import STYLES  # late: imports torch

    if not request.pretrain_only or len(methods) != 1 or len(request.pretrain_seeds) != 1:
        raise UserError("--export writes one backbone: give --pretrain-only, one --method and one --pretrain-seed")
    if request.export_style not in STYLES:
        raise UserError(nearest("--to", request.export_style, list(STYLES)))
    if request.export.is_dir():
        raise UserError(f"--export {request.export}: a folder; give a file")
    return request.export, request.export_style


def _seen(words: str) -> float:
    """"2M" -> 2,000,000 images."""
    number, unit = (words[:-1], words[-1]) if words[-1:].lower() in ("k", "m") else (words, "")
    try:
        found = float(number) * {"": 1, "k": 1e3, "m": 1e6}[unit.lower()]
    except ValueError:
        found = 0
    if not 1 <= found < math.inf:
        raise UserError(f"--images-seen {words}: give a number of images, such as 500000, 500k or 2M")
    return found


def _of_images(request: Request, method: str, recipe: dict, images: Collection) -> str:
    """Fit a recipe to photos of the user's; what is added to the row's name. Raises UserError where they are too few,
    or lack the labels that the method needs."""
    from pkgutil import resolve_name

    count, bank = len(images), recipe["method"].get("bank_size", 0)
    batch = recipe["schedule"]["batch"] if recipe["schedule"]["epochs"] else 0
    if not images.classes and "num_classes" in inspect.signature(resolve_name(recipe["method"]["type"])).parameters:
        raise UserError(f"{method}: learns from labels, and these photos have none; put each class into a folder of "
                        "its own, or choose a method that needs none")
    if batch > count:
        raise UserError(f"{method}: a batch of {batch} of {count} photos; give more, or --set "
                        f"pretrain.schedule.batch={max(2, count // 4)}")
    if bank >= count:
        least = max(batch, count // 2 // batch * batch)
        raise UserError(f"{method}: a memory bank of {bank:,} keys of {count:,} photos would hold the queries' own; "
                        f"give more photos, or --set pretrain.method.bank_size={least}")
    recipe["monitor"] = None  # it asks the scale's labelled images, and these are others
    recipe["workers"] = min(recipe.get("workers", 0), os.cpu_count() or 1)
    name = request.name or re.sub(r"[^A-Za-z0-9]+", "-", request.images[0].resolve().name.partition(".")[0]).strip("-")
    if rule := required_of_name(f"{method}+{name}"):
        raise UserError(f"--name {name!r}: give {rule}")
    return f"+{name}"


def _pretraining(request: Request, method: str, seed: int, data: str, scale_config: dict,
                 changes: dict[str, Any], own: Collection | None) -> Pretraining:
    count = len(own) if own else sources.pool_size(data, request.data_root)
    epochs = request.epochs or (_seen(request.images_seen) / count if request.images_seen else None)
    if epochs and resolve_recipe(method, scale_config)["schedule"]["epochs"]:  # some methods learn nothing
        changes = changes | {"schedule.epochs": float(epochs)}
    recipe, changes = resolve_recipe(method, scale_config, changes), dict(changes)
    schedule = recipe["schedule"]
    if (arch := arch_of(recipe)) != scale_config["arch"]:
        raise UserError(f"{method}: a {arch}; the {scale_config['name']} scale's tasks would run "
                        f"{scale_config['arch']}: give --arch {arch}")
    if not schedule["epochs"]:  # weights of somebody else's that are not there are missed before the work
        from detco import engine  # late: imports torch

        engine.build(recipe, 1)
    if request.accumulation > 1:  # batch norm sees the parts: another recipe
        schedule["accumulation"] = changes["schedule.accumulation"] = request.accumulation
    if request.compile:
        recipe["compile"] = changes["compile"] = True
    images, row = count, method + (_of_images(request, method, recipe, own) if own else "") + _suffix(changes)
    if request.limit and schedule["epochs"]:
        schedule["epochs"] = 1
        images = request.limit * schedule["batch"]
    return Pretraining(row, seed, recipe, math.ceil(schedule["epochs"] * images / schedule["batch"]),
                       images if request.limit else None)


def _foreign(request: Request) -> tuple[Foreign, str]:
    """The request's checkpoint, read once so that what is wrong with it is said before the work; its architecture."""
    from detco import checkpoint as checkpoints  # late: imports torch

    stated = dict(encoder=request.encoder, channel_order=request.channel_order, mean=request.pixel_mean,
                  std=request.pixel_std, stride=request.stride, override=request.override)
    foreign = Foreign(str(request.name), str(request.checkpoint), stated)
    loaded = checkpoints.load(foreign.path, **foreign.stated)
    checkpoints.to_protocol(loaded, Path(foreign.path))
    arch = loaded.metadata["arch"]
    if request.arch not in (None, arch):
        raise checkpoints.CheckpointError(f"checkpoint {foreign.path}: a {arch}; leave --arch {request.arch} out")
    return foreign, arch


def _transfers(request: Request, scale: str, data: str, scale_config: dict, tasks: list[str],
               changes: dict[str, Any], tuned: dict[str, list],
               own: OwnData | None, apart: str) -> tuple[Transfer, ...]:
    known = {task: _schedules(task, scale_config) for task in tasks}
    names = list(dict.fromkeys(name for schedules in known.values() for name in schedules))
    for option, asked, sign in (("schedule", request.schedule, ""), ("share", request.share, "%")):
        if asked and f"{asked}{sign}" not in names:
            raise UserError(f"--{option} {asked}: at the {scale} scale {', '.join(tasks)} "
                            + (f"can run {', '.join(names)}" if names else "trains by no schedule"))
    written = {task: load_task(task) for task in tasks}
    changes_of, tuned_of = (_fitting(each, written, "model") for each in (changes, tuned))
    if request.amp and not any(kind_of(content) == "detector" for content in written.values()):
        raise UserError(f"--amp: {', '.join(tasks)} trains no detector; leave it out")
    for task in tasks:
        if clash := changes_of[task].keys() & tuned_of[task].keys():
            raise UserError(f"--tune task.{clash.pop()}: --set gives it too; leave one out")
    return tuple(_transfer(request, scale, data, scale_config, task, known[task], changes_of[task], tuned_of[task],
                           own, apart) for task in tasks)


def _schedules(task: str, scale_config: dict) -> dict[str, dict]:
    """A task's schedules at a scale, by name; empty for a task that trains nothing."""
    return overrides_at(task, scale_config).get("schedules", load_task(task).get("schedules", {}))


def _schedule(request: Request, known: dict[str, dict]) -> str | None:
    """The one asked for of a task's schedules: --share's, else --schedule's. None where it has neither."""
    asked = (f"{request.share}%", request.schedule)
    return next((name for name in asked if name in known), None)


def _transfer(request: Request, scale: str, data: str, scale_config: dict, task: str, known: dict[str, dict],
              changes: dict[str, Any], tuned: dict[str, list], own: OwnData | None, apart: str) -> Transfer:
    source = source_of(load_task(task))
    if own and source not in OWN:
        raise UserError(f"{task}: runs on {source} data; --data takes the tasks of COCO's form, such as "
                        "coco_maskrcnn_c4")
    classes = own.classes if own else sources.classes_of(data, source, request.data_root)

    def protocol_with(values: dict[str, Any]) -> Protocol:
        overrides, schedule = overrides_at(task, scale_config, changes | values), _schedule(request, known)
        if request.limit:
            overrides |= _shortened(task, overrides, known, schedule, request.limit)
            schedule = None
        found = protocol_of(task, scale, scale_config["arch"], classes, overrides, schedule)
        amp = AMP if request.amp and found.kind == "detector" else ""
        found = replace(found, config=found.config | (dict(amp="bfloat16") if amp else {}))
        parts = [found.schedule, apart, own.name if own else "", amp]  # `leaderboard.checks.arch_apart` reads them
        return replace(found, schedule="+".join([parts[0], *filter(None, parts[1:])]) + _suffix(changes))

    protocol, trials = protocol_with({}), [(values, protocol_with(values)) for values in tuning.grid(tuned) if values]
    if tuned:
        search = dict(fields=tuned, held_out=tuning.HELD_OUT)
        protocol = replace(protocol, config=protocol.config | dict(tuned=search),
                           schedule=f"{protocol.schedule}+tuned-{config.digest(search)[:8]}")
        trials = [(values, replace(each, schedule=protocol.schedule, filed_as=protocol)) for values, each in trials]
    asked = dict(share=request.share if f"{request.share}%" in known else None,
                 schedule=request.schedule if request.schedule in known else None)
    return Transfer(protocol, own.name if own else source, changes, asked, tuple(trials), own)


def _shortened(task: str, overrides: dict, known: dict[str, dict], schedule: str | None, limit: int) -> dict[str, Any]:
    """Changes that cut a task to `limit` iterations (one epoch, where it counts in epochs)."""
    task_config, changes = load_task(task), {}
    if known:
        whole = known[schedule or next(iter(known))]
        length = dict(epochs=1) if "epochs" in whole else dict(iterations=limit)
        changes["schedules"] = {"limit": {**whole, **length, "milestones": []}}
    for part, most in (("warmup", max(1, limit // 2)), ("precise_bn", limit)):
        if part in task_config:
            key = f"{part}.iterations"
            changes[key] = min(overrides.get(key, task_config[part]["iterations"]), most)
    return changes


def processes() -> int:
    """How many processes torchrun or Slurm's srun started."""
    if "LOCAL_RANK" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def _check_processes(plan: Plan) -> None:
    """Refuse batches that do not divide among the processes and their parts."""
    count = processes()
    for pretraining in plan.pretrainings:
        schedule = pretraining.recipe["schedule"]
        parts = schedule.get("accumulation", 1)
        if pretraining.steps and schedule["batch"] % (count * parts):
            raise UserError(f"{pretraining.row}: a batch of {schedule['batch']} does not divide among {count} processes"
                            + f" and {parts} parts of each" * (parts > 1))
    for transfer in plan.transfers:
        total = transfer.protocol.config["data"].get("total_batch", count)
        if total % count:
            raise UserError(f"{transfer.protocol.task}: a total batch of {total} does not divide among {count} "
                            "processes")


def _check_compared(request: Request, plan: Plan) -> None:
    known = set(config.names("pretrain")) | {c.row for c in plan.checkpoints}
    if request.compare and request.compare not in known:
        filed = {r["method"] for r in read_all(request.results) if r["scale"] == plan.scale} \
            if request.results.is_dir() else set()
        if request.compare not in filed:
            raise UserError(nearest("method", request.compare, sorted(known | filed)))


def _check_folder(plan: Plan) -> None:
    """Refuse a work folder that cannot be written, or whose disk has no room for the states to resume from."""
    there = next(path for path in (plan.folders.work_dir.absolute(), *plan.folders.work_dir.absolute().parents)
                 if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(f"--work-dir {plan.folders.work_dir}: {there} is not a folder that can be written; choose "
                        "another")
    states = [state_bytes(p.recipe) for p in plan.pretrainings if p.steps]
    states += [detector_bytes(t.protocol.config["arch"]) for t in plan.transfers if t.protocol.kind == "detector"]
    needed, free = KEPT * max(states, default=0), shutil.disk_usage(there).free
    if needed > free:
        raise UserError(f"--work-dir {plan.folders.work_dir}: states to resume from take {needed / 1e9:.1f} GB, "
                        f"{free / 1e9:.1f} GB are free; free some space or choose another")


def listing(data_root: Path) -> str:
    """Methods, tasks, scales and the data found; reads file names only."""
    lines = []
    for title, folder in (("methods", "pretrain"), ("tasks", "tasks"), ("scales", "scales")):
        lines += [title] + [f"  {name:<27} {config.headline(config.CONFIGS / folder / f'{name}.py')}"
                            for name in config.names(folder)]
    lines += [f"data under {data_root}"]
    lines += [f"  {scale:<27} {found}" for scale, found in sources.available(data_root).items()]
    return "\n".join(lines)
