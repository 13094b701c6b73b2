"""mmengine's Runner as this suite uses it: quiet, atomic, resumable. Pretraining and transfer share it."""
import contextlib
import logging
import sys
import time
import warnings
from pathlib import Path

import torch
from mmengine.dist import is_distributed, is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader
from mmengine.runner import Runner as _Runner
from rich.progress import TextColumn

from detco.console import CONSOLE, progress_bar, stop_if_asked
from detco.files import replacing

OWN = "own-run:"


class DivergedError(RuntimeError):
    """The loss is no longer finite."""


@CheckpointLoader.register_scheme(prefixes=OWN)
def _load_own(filename, map_location):
    """The run's own state holds mmengine's message hub, which torch's tensors-only loader refuses. Foreign
    files never come this way: only `state_of` makes such names, from the run's own folder."""
    return torch.load(filename.removeprefix(OWN), map_location=map_location, weights_only=False)


def state_of(work_dir: Path) -> str | None:
    """The newest complete state in a work folder, as a name `Runner.resume` takes; None if there is none."""
    pointer = Path(work_dir) / "last_checkpoint"
    newest = Path(work_dir) / Path(pointer.read_text().strip()).name if pointer.is_file() else None
    return f"{OWN}{newest}" if newest and newest.is_file() else None


class Runner(_Runner):
    """Logs to one file `run.log`, writes states under a temporary name, and resumes from its own folder.

    Runs on the processes of the group that stands (`detco.distributed.join`), without one on this process.

    Args:
        label: what the progress bar calls the run; the rest is mmengine's.
    """

    def __init__(self, *args, label: str, **kwargs):
        super().__init__(*args, launcher="pytorch" if is_distributed() else "none", **kwargs)
        self.bar, self.clock = ProgressHook(label), ClockHook()
        self.register_custom_hooks([self.bar, self.clock])

    def build_logger(self, log_level="INFO", log_file=None, **kwargs):
        logger = super().build_logger(log_level, str(Path(self.work_dir) / "run.log"), **kwargs)
        logger.handlers[0].setLevel(logging.CRITICAL)  # the console has the progress bar; all else is in the file
        return logger

    def wrap_model(self, model_wrapper_cfg, model):
        if self.distributed and not torch.cuda.is_available():  # mmengine's own wrapper insists on a GPU a process
            model_wrapper_cfg = dict(device_ids=None, broadcast_buffers=False)
        return super().wrap_model(model_wrapper_cfg, model)

    @master_only
    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        with replacing(Path(out_dir) / filename) as temporary:
            super().save_checkpoint(out_dir, temporary.name, *args, **kwargs)

    def train(self):
        with contextlib.closing(self.bar):
            return super().train()

    def val(self):
        with contextlib.closing(self.bar):
            return super().val()

    def load_or_resume(self):
        if self._has_loaded:
            return
        self._has_loaded = True
        if self._resume and (state := state_of(self.work_dir)):
            self.resume(state)


@contextlib.contextmanager
def quiet(log_file: Path):
    """Send what third parties print and warn of to a log file; `CONSOLE` goes on writing to the console."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with open(log_file, "a", buffering=1) as log, warnings.catch_warnings():
        def show(message, category, filename, lineno, file=None, line=None):
            log.write(warnings.formatwarning(message, category, filename, lineno, line))
        warnings.simplefilter("default")
        warnings.showwarning = show
        CONSOLE.file = sys.stdout
        try:
            with contextlib.redirect_stdout(log):
                yield
        finally:
            CONSOLE.file = None


class ProgressHook(Hook):
    """A progress bar with ETA on rank 0; stops the run when asked to, and at a loss that is not finite."""

    priority = "VERY_LOW"

    def __init__(self, label: str, check_every: int = 10):
        self.label, self.check_every = label, check_every
        self.progress = None

    def _bar(self, label: str, done: int, total: int):
        self.close()
        self.progress = progress_bar(TextColumn("{task.fields[note]}"), disable=not is_main_process())
        self.progress.start()
        self.task = self.progress.add_task(label, total=total, completed=done, note="")

    def close(self):
        if self.progress:
            self.progress.stop()
            self.progress = None

    def before_train(self, runner):
        self._bar(f"{self.label}: train", runner.iter, runner.max_iters)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        stop_if_asked()
        step = runner.iter + 1
        note = ""
        if outputs and (step % self.check_every == 0 or step == runner.max_iters):
            bad = [name for name, value in outputs.items() if not torch.isfinite(torch.as_tensor(value)).all()]
            if bad:
                raise DivergedError(f"{self.label}: {bad[0]} is not finite at step {step}; the last good state is "
                                    f"{(state_of(runner.work_dir) or 'none').removeprefix(OWN)}")
            note = f"loss {torch.as_tensor(outputs['loss']).item():.3f}"
        self.progress.update(self.task, completed=step, **({"note": note} if note else {}))

    def before_val(self, runner):
        self._bar(f"{self.label}: evaluate", 0, len(runner.val_dataloader))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        stop_if_asked()
        self.progress.advance(self.task)


class ClockHook(Hook):
    """Counts the seconds of training in the message hub, so they survive a stop."""

    priority = "VERY_HIGH"
    before = 0.0  # seconds that interrupted sessions of the run have trained

    def before_train(self, runner):
        self.resumed_at = time.perf_counter()
        self.before = runner.message_hub.get_info("train_seconds", 0.0)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.message_hub.update_info("train_seconds", self.before + time.perf_counter() - self.resumed_at)
