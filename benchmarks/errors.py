"""How a command ends: its exit status, and one clear line for whatever stopped it."""
import errno
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from detco.console import STOP, stop

# torch's C++ warnings: each process would be told of DistributedDataParallel's search for unused parameters, which is
# meant (detco.runner). torch reads this when it is first imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # likewise: each profiled step would be told of
NOT_THERE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
ROOMS = ("detco", "baselines", "benchmarks", "leaderboard")
FULL = "the disk is full; what was computed is kept: free some space and run the same command again"


def ended(job: Callable[[], int], folder: Path) -> int:
    """Run a command's job; its exit status: the job's own, 2 for bad input or a failure, 130 where the user stopped it.

    Args:
        folder: takes the traceback of an error nobody foresaw.
    """
    STOP.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        return job()
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from what was saved", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - users see one line, developers the file
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            return _fail(FULL)
        if isinstance(error, NOT_THERE) or isinstance(error, (ValueError, RuntimeError)) and _is_ours(error):
            return _fail(str(error))
        return _unforeseen(error, folder)


def _is_ours(error: Exception) -> bool:
    """Whether the error's text is written for the user: a class of this suite, or raised by a line of it."""
    if type(error) is not ValueError:
        return type(error).__module__.split(".")[0] in ROOMS
    frames = traceback.extract_tb(error.__traceback__)
    root = str(Path(__file__).resolve().parent.parent)
    return frames[-1].filename.startswith(root) and "site-packages" not in frames[-1].filename


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _unforeseen(error: Exception, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    path.write_text("".join(traceback.format_exception(error)))
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return _fail(f"{type(error).__name__}: {first} (details in {path})")
