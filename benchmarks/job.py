"""One row to measure: what the harness hands to whatever measures it."""
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.protocol import Protocol
from detco.checkpoint import Checkpoint


@dataclass(frozen=True)
class Job:
    """One row to measure.

    Attributes:
        data: of the task's kind, with `classes` and `fingerprint`.
        source: what the data is (`benchmarks.data.sources`).
        changes: what --set changed in the task; recorded.
        name: the row's name.
        seed: of the heads, the order of images and the augmentation.
        pretrain_seed: of the checkpoint; None where nobody knows.
        identity: the checkpoint's, of its weights and recipe.
        resume: go on where an interrupted run stopped.
        load: False leaves the backbone's weights as initialised: the alarm that shows loading matters.
        limit: the run was shortened (by `--limit`); recorded, and such a record enters no leaderboard.
        workers: loader processes.
        max_per_process: images a process takes through a detector at once, at most; None for its whole share.
        tuning: the search that chose fields of the task (`benchmarks.tuning`); recorded. None where there was none.
    """

    protocol: Protocol
    data: Any
    source: str
    changes: dict[str, Any]
    name: str
    seed: int
    pretrain_seed: int | None
    checkpoint_path: Path
    checkpoint: Checkpoint
    identity: str
    work_dir: Path
    resume: bool = True
    load: bool = True
    limit: int | None = None
    workers: int = 0
    max_per_process: int | None = None
    tuning: dict[str, Any] | None = None

    @property
    def images(self) -> dict[str, int] | None:
        """How many there are to learn from and to be tested on; None where the data does not say."""
        return getattr(self.data, "counts", None)
