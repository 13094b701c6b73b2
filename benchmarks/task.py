"""Transfer tasks as data: read configs/tasks/NAME.py, override it, fill in what depends on the backbone."""
from typing import TYPE_CHECKING, Any

from benchmarks.data.sources import SOURCES
from detco import config
from detco.errors import UserError, nearest

if TYPE_CHECKING:
    from mmengine.config import ConfigDict

PROSE = ("source", "differences")  # of a config's `task`
UNBOUNDED = 10**6  # pixels; no photo's side


def task_names() -> list[str]:
    """The tasks there are, by file name."""
    return config.names("tasks")


def load_task(name: str) -> "ConfigDict":
    """The task file as written, placeholders included, without its `scales`. Raises UserError with the nearest names
    otherwise."""
    from mmengine.config import ConfigDict  # late: `--list` must answer without importing torch

    written = config.load_named("tasks", name)
    written.pop("scales", None)
    return ConfigDict(written)


def source_of(task_cfg: dict) -> str:
    """What data a task learns from (`benchmarks.data.sources.SOURCES`, or "imagenet"); COCO where it names none."""
    return task_cfg["data"].get("source", "coco")


def defined_at(name: str, scale: dict) -> bool:
    """Whether a scale (`benchmarks.recipe.load_scale`) has the data that a task learns from."""
    source = source_of(load_task(name))
    return source == "imagenet" or source in SOURCES[scale["data"]]


def overrides_at(name: str, scale: dict, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a scale changes in a task, dotted: what fits of the scale's rules, then the task's own `scales`, then
    `changes`, which a user asks for.

    Args:
        scale: `benchmarks.recipe.load_scale`'s.
        changes: dotted, held against the task at this scale (`detco.config.checked`).
    Raises:
        UserError: unknown task, one whose data the scale has not, a change that does not fit, or one of what the task
            is called, reports or cites.
    """
    written = config.load_named("tasks", name)
    if not defined_at(name, scale):
        raise UserError(f"task {name}: the {scale['name']} scale has no {source_of(written)} data; "
                        "leave this task out, or run it at another scale")
    overrides = config.changes_at(written, scale["tasks"], scale["name"])
    written.pop("scales", None)
    for key in changes or {}:
        if key.partition(".")[0] == "task":
            raise UserError(f"{key}: a task's name, version and metrics are fixed; write a task of your own")
    return overrides | config.checked(config.override(written, overrides), changes or {})


def resolve(task_cfg: dict, arch: str, num_classes: int, overrides: dict[str, Any] | None = None) -> "ConfigDict":
    """Apply dotted overrides, then replace every placeholder by what it stands for.

    Placeholders are whole strings: '{depth}'; '{c2}' to '{c5}', the backbone's channels; '{num_classes}'; any key
    of the task's `data`; '{train_scales}', '{crop_scales}' and '{test_scale}', (longer, shorter) sides in pixels
    made from it.

    Args:
        arch: resnet18, resnet34, resnet50, resnet101 or resnet152.
        num_classes: categories of the data set, background not counted.
    Raises UserError for an unknown backbone, an override of a key that does not exist, or an unknown placeholder.
    """
    from mmengine.config import ConfigDict

    from detco.backbone import ARCHS

    if arch not in ARCHS:
        raise UserError(nearest("backbone", arch, ARCHS))
    task_cfg = config.override(task_cfg, overrides or {})
    depth, data = int(arch.removeprefix("resnet")), task_cfg["data"]
    width = 64 if depth < 50 else 256
    values = {**data, "depth": depth, "num_classes": num_classes} | {f"c{i + 2}": width << i for i in range(4)}
    if "short_sides" in data:
        values["train_scales"] = [(data["max_side"], side) for side in data["short_sides"]]
    if "crop_sides" in data:
        values["crop_scales"] = [(UNBOUNDED, side) for side in data["crop_sides"]]
    if "test_short_side" in data:
        values["test_scale"] = (data["test_max_side"], data["test_short_side"])
    return ConfigDict(_fill(task_cfg, values))


def _fill(node: Any, values: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        return {key: _fill(value, values) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return type(node)(_fill(value, values) for value in node)
    if isinstance(node, str) and (match := config.PLACEHOLDER.fullmatch(node)):
        if match[1] not in values:
            raise UserError(f"unknown placeholder '{node}' in the task: known are {', '.join(values)}")
        return values[match[1]]
    return node


def without_prose(resolved: dict) -> dict:
    """A resolved task config as it is hashed and stored: without its citation and its differences from it."""
    return resolved | {"task": {key: value for key, value in resolved["task"].items() if key not in PROSE}}


def protocol_digest(resolved: dict) -> str:
    """A protocol's fingerprint: sha256 of the resolved task config without prose, so that a full stop taken out of a
    citation changes no protocol."""
    return config.digest(without_prose(resolved))
