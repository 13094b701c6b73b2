"""A task as it will run: resolved for a scale, a backbone and a data set's categories."""
from dataclasses import dataclass
from typing import Any

from benchmarks.task import load_task, protocol_digest, resolve
from detco.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """A resolved task. Rows of one table share its fingerprint.

    Attributes:
        task, scale, schedule: names.
        config: resolved; `schedule`, `arch` and `classes` among its keys.
        filed_as: of one trial of a search, what its row is filed as: the search.
    """

    task: str
    scale: str
    schedule: str
    config: dict
    filed_as: "Protocol | None" = None

    @property
    def filed(self) -> dict:
        """The config that rows are filed with."""
        return (self.filed_as or self).config

    @property
    def fingerprint(self) -> str:
        """Hash of the filed config without prose."""
        return protocol_digest(self.filed)

    @property
    def kind(self) -> str:
        """What measures the rows (`benchmarks.transfer.KINDS`); tasks that name no kind are detectors."""
        return kind_of(self.config)

    @property
    def version(self) -> int:
        return self.config["task"]["version"]


def kind_of(config: dict) -> str:
    """What measures a task's rows."""
    return config["task"].get("kind", "detector")


def protocol_of(task: str, scale: str, arch: str, classes: tuple[str, ...], overrides: dict[str, Any],
                schedule: str | None = None) -> Protocol:
    """Resolve a task at a scale.

    Args:
        overrides: dotted changes to the task.
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
