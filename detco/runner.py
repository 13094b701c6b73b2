"""mmengine's Runner as this suite uses it: quiet, atomic, resumable. Pretraining and transfer share it."""
import contextlib
import errno
import logging
import math
import sys
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import broadcast_object_list, get_world_size, is_distributed, is_main_process, master_only
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, IterBasedTrainLoop
from mmengine.runner import Runner as _Runner
from rich.progress import TextColumn

from detco.console import CONSOLE, log, progress_bar, stop_if_asked
from detco.errors import UserError
from detco.files import replacing

OWN = "own-run:"
CHECK_EVERY = 10  # steps between looks at the losses
REMEMBERED = 1000  # values kept of each scalar: mmengine copies its million at every step


class DivergedError(UserError):
    """The loss is no longer finite."""


@CheckpointLoader.register_scheme(prefixes=OWN)
def _load_own(filename, map_location):
    """The run's own state holds mmengine's message hub, which torch's tensors-only loader refuses. Foreign
    files never come this way: only `Runner.load_or_resume` makes such names, from the run's own folder."""
    return torch.load(filename.removeprefix(OWN), map_location=map_location, weights_only=False)


def states_of(work_dir: Path) -> list[Path]:
    """The states in a work folder, newest first."""
    return sorted(Path(work_dir).glob("iter_*.pth"), key=lambda path: int(path.stem[len("iter_"):]), reverse=True)


class Runner(_Runner):
    """Logs to one file `run.log`, writes states under a temporary name, and resumes from its own folder.

    Runs on the processes of the group that stands (`detco.distributed.join`), without one on this process.

    Args:
        label: what the progress bar calls the run; the rest is mmengine's.
    """

    _has_loaded: bool

    def __init__(self, *args, label: str, **kwargs):
        super().__init__(*args, launcher="pytorch" if is_distributed() else "none", **kwargs)
        self.label = label
        self.bar, self.clock, self.losses = ProgressHook(label), ClockHook(), LossHook()
        self.register_custom_hooks([self.bar, self.clock, self.losses])

    def register_default_hooks(self, hooks=None):
        super().register_default_hooks(dict(runtime_info=dict(type="StateInfoHook")) | (hooks or {}))

    def build_logger(self, log_level="INFO", log_file=None, **kwargs):
        logger = super().build_logger(log_level, str(Path(self.work_dir) / "run.log"), **kwargs)
        logger.handlers[0].setLevel(logging.CRITICAL)  # the console has the progress bar; all else is in the file
        return logger

    def wrap_model(self, model_wrapper_cfg, model):
        if self.distributed:
            # Looking for unused parameters keeps the buckets of gradients as they are. Else they are laid out anew
            # after the first step, also of a resumed run, and sums over three ranks or more round otherwise.
            model_wrapper_cfg = dict(type="MMDistributedDataParallel", find_unused_parameters=True,
                                     broadcast_buffers=False, gradient_as_bucket_view=True)
            if not torch.cuda.is_available():  # mmengine expects a GPU a process
                model_wrapper_cfg["device_ids"] = None
        return super().wrap_model(model_wrapper_cfg, model)

    @master_only
    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        self.losses.check(self)
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise self.diverged(f"a weight is not finite after step {self.iter + 1}")
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
        chosen = [self._newest_state() if self._resume and is_main_process() else None]
        broadcast_object_list(chosen)  # every rank goes on from the same
        if chosen[0]:
            self.resume(f"{OWN}{chosen[0]}")

    def _newest_state(self) -> str | None:
        """The newest state that can be read, on the CPU; None without one."""
        states = states_of(self.work_dir)
        for state, before in zip(states, [*states[1:], None]):
            try:
                if (damaged := zipfile.ZipFile(state).testzip()) is not None:  # torch looks at no checksum
                    raise zipfile.BadZipFile(f"its bytes changed, in {damaged}")
                _load_own(f"{OWN}{state}", "cpu")
                return str(state)
            except (MemoryError, ImportError):  # the file may well be whole
                raise
            except Exception as error:  # one cut short or overwritten raises nearly anything, by where it was hit
                if isinstance(error, OSError) and error.errno != errno.EINVAL:
                    raise
                why = (str(error).splitlines() or [type(error).__name__])[0]
                then = "going on from the state before it" if before else "no other is left: starting over"
                log(f"{state}: cannot be read ({why}); {then}")
        return None

    def diverged(self, what: str) -> DivergedError:
        """The error that ends a run whose numbers are no longer finite."""
        last = next(iter(states_of(self.work_dir)), "none")
        return DivergedError(f"{self.label}: {what}; the last good state is {last}")


class StreamLoop(IterBasedTrainLoop):
    """mmengine's iteration loop, which on resume moves the batches (`batch_sampler.start`) instead of replaying them,
    and evaluates, where it shall, after the last."""

    def run(self):
        self.dataloader.batch_sampler.start = self._iter
        self.dataloader_iterator = iter(self.dataloader)
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            self.runner.model.train()
            self.run_iter(next(self.dataloader_iterator))
            if self.runner.val_loop is not None and self._iter == self._max_iters:
                self.runner.val_loop.run()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model


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
            CONSOLE.file = None  # type: ignore[assignment]  # whatever sys.stdout is from now on


class ProgressHook(Hook):
    """A progress bar with ETA on rank 0; stops the run when asked to."""

    priority = "VERY_LOW"

    def __init__(self, label: str):
        self.label = label
        self.progress: Any = None  # rich's, while there is one

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
        note = {}
        if outputs and (step % CHECK_EVERY == 0 or step == runner.max_iters):
            note = dict(note=f"loss {torch.as_tensor(outputs['loss']).item():.3f}")
        self.progress.update(self.task, completed=step, **note)

    def before_val(self, runner):
        self._bar(f"{self.label}: evaluate", 0, len(runner.val_dataloader))

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        stop_if_asked()
        self.progress.advance(self.task)


@HOOKS.register_module()
class StateInfoHook(RuntimeInfoHook):
    """mmengine's, without its look at each step's losses: `LossHook` files them."""

    def after_train_iter(self, *args, **kwargs):
        pass


class LossHook(Hook):
    """Files the losses as scalars and stops the run at one that is not finite. Looks at several steps' together,
    since a look waits for the device, and before a state is saved."""

    priority = "NORMAL"  # before the logger and before the state is saved

    def __init__(self):
        self.unseen: dict[int, dict[str, torch.Tensor]] = {}  # step -> its losses

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        step = runner.iter + 1
        self.unseen[step] = {name: torch.as_tensor(value).detach() for name, value in (outputs or {}).items()}
        if step % CHECK_EVERY == 0 or step == runner.max_iters:
            self.check(runner)

    def check(self, runner) -> None:
        """File what was not yet looked at. Raises DivergedError, naming the first step and term not finite."""
        unseen, self.unseen = self.unseen, {}
        if not unseen:
            return
        values = iter(torch.stack([v.float() for losses in unseen.values() for v in losses.values()]).tolist())
        for step, losses in unseen.items():
            losses = {name: next(values) for name in losses}
            for name, value in losses.items():
                runner.message_hub.update_scalar(f"train/{name}", value)
            for scalar in runner.message_hub.log_scalars.values():
                scalar.max_length = REMEMBERED
            if bad := [name for name, value in losses.items() if not math.isfinite(value)]:
                term = next((name for name in bad if name != "loss"), "loss")  # the sum says less than its term
                raise runner.diverged(f"{term} is not finite at step {step}")


class ClockHook(Hook):
    """Counts the seconds of training in the message hub, so they survive a stop; tells of another world size."""

    priority = "VERY_HIGH"
    before = 0.0  # seconds that interrupted sessions of the run have trained

    def before_train(self, runner):
        self.resumed_at = time.perf_counter()
        self.before = runner.message_hub.get_info("train_seconds", 0.0)
        now = get_world_size()
        if (then := runner.message_hub.get_info("world_size", now)) != now and is_main_process():
            log(f"resumed with {now} process{'es' * (now > 1)} after {then}: batches, their order and the schedule "
                "stay; each process draws its views and normalises its part of a batch anew, so weights will differ")
        runner.message_hub.update_info("world_size", now)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.message_hub.update_info("train_seconds", self.before + time.perf_counter() - self.resumed_at)
