"""What ran where: versions, commit, device, threads, memory. Recorded in every row."""
import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_CLEAR_REFS = Path("/proc/self/clear_refs")


def device_name(kind: str) -> str:
    """What a device of this kind, "cuda" or "cpu", is called in records."""
    import torch

    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


class PeakMemory:
    """The most bytes held since it was made: of the device where there is one, else of this process.

    `bytes()` is None where the system cannot forget what the process held before (elsewhere than on Linux): a figure
    that pretraining set would be no figure of the row.
    """

    def __init__(self):
        import torch

        self.on_device, self.forgotten = torch.cuda.is_available(), True
        if self.on_device:
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            _CLEAR_REFS.write_text("5")  # proc(5): forget the peak
        except OSError:
            self.forgotten = False

    def bytes(self) -> int | None:
        if self.on_device:
            import torch

            return torch.cuda.max_memory_allocated()
        return process_peak() if self.forgotten else None


def process_peak() -> int:
    """The most bytes this process has held. On Linux not by getrusage, which counts what its parent held."""
    status = Path("/proc/self/status")
    if status.is_file() and (peak := re.search(r"VmHWM:\s*(\d+)", status.read_text())):
        return 1024 * int(peak[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def environment() -> dict:
    """Versions of what computed, and the commit, if this is a git checkout and git is there; else None."""
    from benchmarks.detection import mmcv_ops

    versions = {"python": platform.python_version(), "mmcv_operators": mmcv_ops.install()}
    for package in ("torch", "torchvision", "mmdet", "mmengine", "numpy", "pycocotools"):
        # Of what was imported, if it was: a fork may stand before the package that is installed under its name.
        versions[package] = getattr(sys.modules.get(package), "__version__", None)
        if versions[package] is None:
            with suppress(PackageNotFoundError):
                versions[package] = version(package)
    commit = changed = None
    if _git("rev-parse", "--show-toplevel") == str(ROOT):  # else another project's checkout may lie above
        commit = _git("rev-parse", "HEAD")
        # Results and the pages made of them change with every run; dirty means the code.
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/leaderboard/results",
                       ":!/leaderboard/protocols", ":!/leaderboard/LEADERBOARD.md", ":!/docs/speed*",
                       ":!/docs/scaling.md")
    return dict(versions=versions, platform=platform.platform(), commit=commit,
                dirty=None if changed is None else bool(changed))


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError:  # no git on the machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None
