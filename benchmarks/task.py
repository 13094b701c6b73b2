"""Transfer tasks as data: read configs/tasks/NAME.py, override it, fill in what depends on the backbone."""
import re
from typing import TYPE_CHECKING, Any

from detco import config
from detco.errors import UserError, nearest

if TYPE_CHECKING:
    from mmengine.config import ConfigDict

TASKS = config.CONFIGS / "tasks"
UNBOUNDED = 10**6  # pixels; no photo's side
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def task_names() -> list[str]:
    """The tasks there are, by file name."""
    return sorted(path.stem for path in TASKS.glob("*.py") if path.stem != "__init__")


def load_task(name: str) -> "ConfigDict":
    """The task file as written, placeholders included. Raises UserError with the nearest names otherwise."""
    from mmengine.config import ConfigDict  # late: `--list` must answer without importing torch

    if name not in task_names():
        raise UserError(nearest("task", name, task_names()))
    return ConfigDict(config.load(TASKS / f"{name}.py"))


def source_of(task_cfg: dict) -> str:
    """What data a task learns from (`benchmarks.data.sources.SOURCES`, or "imagenet"); tasks that name none take COCO."""
    return task_cfg["data"].get("source", "coco")


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
    if isinstance(node, str) and (match := PLACEHOLDER.fullmatch(node)):
        if match[1] not in values:
            raise UserError(f"unknown placeholder '{node}' in the task: known are {', '.join(values)}")
        return values[match[1]]
    return node
