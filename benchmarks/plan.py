"""What a command line means: methods, tasks and seeds resolved into configs and data. Light until it must read."""
import argparse
import ast
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.data import sources as datasets
from benchmarks.task import load_task, source_of, task_names
from detco import config
from detco.errors import UserError
from detco.registry import METHODS, nearest

SCALES = ("mini", "small", "paper")
RESULTS = config.CONFIGS.parent / "leaderboard" / "results"


@dataclass
class Plan:
    """A resolved command line."""

    arguments: argparse.Namespace
    scale: str
    methods: list[str]
    tasks: list[str]
    scale_config: dict[str, Any] = field(repr=False)
    note: str = ""

    def pretraining(self, method: str) -> dict:
        """The resolved pretraining config of a method at this scale."""
        changes = dict(self.scale_config["pretrain"].get(method, {}))
        resolved = config.override(config.load(config.CONFIGS / "pretrain" / f"{method}.py"), changes)
        if self.arguments.accumulation > 1:
            resolved["schedule"]["accumulation"] = self.arguments.accumulation
        if self.arguments.compile:
            resolved["compile"] = True
        return resolved

    def overrides(self, task: str) -> dict:
        """The scale's dotted changes to a task, `--limit` included."""
        changes = dict(self.scale_config["tasks"].get(task, {}))
        if self.scale != "paper" and task not in self.scale_config["tasks"]:
            raise UserError(f"task {task}: the {self.scale} scale does not define it; "
                             f"add it to configs/scales/{self.scale}.py")
        if limit := self.arguments.limit:
            config = load_task(task)
            if known := self.schedules(task):
                chosen = self.schedule(task) or next(iter(known))
                changes["schedules"] = {"limit": self._shortened(known[chosen], limit)}
            for part, most in (("warmup", max(1, limit // 2)), ("precise_bn", limit)):
                if part in config:
                    key = f"{part}.iterations"
                    changes[key] = min(changes.get(key, config[part]["iterations"]), most)
        return changes

    @staticmethod
    def _shortened(schedule: dict, limit: int) -> dict:
        """A schedule cut to `limit` iterations (one epoch, where it counts in epochs)."""
        length = dict(epochs=1) if "epochs" in schedule else dict(iterations=limit)
        return {**schedule, **length, "milestones": []}

    def schedules(self, task: str) -> dict:
        """A task's schedules at this scale, by name; empty for a task that trains nothing."""
        changes = self.scale_config["tasks"].get(task, {})
        return changes.get("schedules", load_task(task).get("schedules", {}))

    def asked(self, task: str) -> dict[str, Any]:
        """Of "share" and "schedule" what was asked for, None where the task has no such schedule at this scale."""
        share, schedule, known = self.arguments.share, self.arguments.schedule, self.schedules(task)
        return dict(share=share if f"{share}%" in known else None, schedule=schedule if schedule in known else None)

    def schedule(self, task: str) -> str | None:
        """The one asked for of a task's schedules: --share's, else --schedule's. None where it has neither."""
        asked = self.asked(task)
        return f"{asked['share']}%" if asked["share"] else asked["schedule"]

    def protocol(self, task: str, classes: tuple[str, ...]):
        """A task resolved for this scale and a data set's classes: a `benchmarks.transfer.Protocol`. Raises UserError
        for a task that the scale does not define."""
        from benchmarks.transfer import protocol_of

        schedule = None if self.arguments.limit else self.schedule(task)
        return protocol_of(task, self.scale, self.scale_config["arch"], classes, self.overrides(task), schedule)

    def describe(self) -> str:
        """The plan and every resolved config, for `--dry-run`; reads no images."""
        lines = [f"scale {self.scale}: {self.scale_config['description']}"]
        rows = [self.arguments.name] if self.arguments.checkpoint else self.methods
        lines += [f"run: {row}, {task}, seed {seed}" for row in rows for task in self.tasks
                  for seed in self.arguments.seed]
        configs = {f"pretrain {m}": self.pretraining(m) for m in self.methods}
        for task in self.tasks:
            classes = datasets.classes_of(self.scale, source_of(load_task(task)), self.arguments.data_root)
            protocol = self.protocol(task, classes)
            configs[f"task {task}, fingerprint {protocol.fingerprint[:12]}"] = protocol.config
        for title, resolved in configs.items():
            lines += ["", f"{title}:", json.dumps(resolved, indent=1)]
        return "\n".join(lines)


def make(arguments: argparse.Namespace) -> Plan:
    """Resolve a command line. Raises UserError, with the nearest names, for what does not exist."""
    methods = _names("method", arguments.method, list(METHODS))
    tasks = _names("task", arguments.task, task_names())
    if arguments.checkpoint and methods:
        raise UserError("--checkpoint is a row of its own: leave --method out, or run it separately")
    if arguments.checkpoint and not arguments.name:
        raise UserError("--checkpoint needs --name, the name of its row")
    if arguments.checkpoint and arguments.name in METHODS:
        raise UserError(f"--name {arguments.name}: a method of this suite has that name; choose another")
    if not methods and not arguments.checkpoint:
        raise UserError(f"nothing to run: give --method ({', '.join(METHODS)}, all) or --checkpoint FILE --name NAME")
    for option, least in (("limit", 1), ("accumulation", 1), ("max_per_process", 1), ("job_cpus", 1), ("job_gpus", 0),
                          ("retries", 0)):
        if (value := getattr(arguments, option)) is not None and value < least:
            raise UserError(f"--{option.replace('_', '-')} {value}: give {least} or more")
    if arguments.schedule and arguments.limit:
        raise UserError("--limit shortens the schedule: leave --schedule out")
    found = datasets.available(arguments.data_root)
    scale, note = (arguments.scale, "") if arguments.scale else _choose(found, arguments.data_root)
    path = config.CONFIGS / "scales" / f"{scale}.py"
    scale_config = config.load(path) | {"description": headline(path)}
    if arguments.compare and arguments.compare not in METHODS:
        known = {path.stem.rsplit("-seed", 1)[0] for path in arguments.results.glob(f"{scale}/**/*.json")}
        if arguments.compare not in known:
            raise UserError(nearest("method", arguments.compare, sorted(known | set(METHODS))))
    if arguments.task == ["all"] and scale != "paper":
        tasks = [task for task in tasks if task in scale_config["tasks"]]
    plan = Plan(arguments, scale, methods, tasks, scale_config, note)
    known = list(dict.fromkeys(name for task in tasks for name in plan.schedules(task)))
    for option, asked, sign in (("schedule", arguments.schedule, ""), ("share", arguments.share, "%")):
        if asked and f"{asked}{sign}" not in known:
            raise UserError(f"--{option} {asked}: at the {scale} scale {', '.join(tasks)} "
                             + (f"can run {', '.join(known)}" if known else "trains by no schedule"))
    return plan


def _names(kind: str, given: list[str], known: list[str]) -> list[str]:
    if given == ["all"]:
        return known
    for name in given:
        if name not in known:
            raise UserError(nearest(kind, name, [*known, "all"]))
    return list(dict.fromkeys(given))


def _choose(found: dict[str, datasets.Found], data_root: Path) -> tuple[str, str]:
    """The scale to run where none is named, and the line that announces it."""
    if not found["paper"].ready:
        return "mini", f"no COCO under {data_root}: the mini scale runs, on images the package draws"
    import torch

    if not torch.cuda.is_available():
        return "mini", "COCO found but no GPU: the mini scale runs; --scale paper insists"
    return "paper", f"COCO found under {data_root}: the paper scale runs"


def headline(path: Path) -> str:
    """First line of a config's `preamble`, empty without one."""
    return next(iter(preamble(path).splitlines()), "")


def preamble(path: Path) -> str:
    """A config's docstring, or its leading comment, without running it."""
    text = path.read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return ast.get_docstring(ast.parse(text)) or "\n".join(line.lstrip("# ") for line in comment)


def listing(data_root: Path) -> str:
    """Methods, tasks, scales and the data found; reads file names only."""
    lines = []
    for title, folder, names in (("methods", "pretrain", METHODS), ("tasks", "tasks", task_names()),
                                 ("scales", "scales", SCALES)):
        lines += [title] + [f"  {name:<27} {headline(config.CONFIGS / folder / f'{name}.py')}" for name in names]
    lines += [f"data under {data_root}"]
    lines += [f"  {scale:<27} {found}" for scale, found in datasets.available(data_root).items()]
    return "\n".join(lines)
