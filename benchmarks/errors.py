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
from detco.errors import UserError
from leaderboard.errors import RecordError

# torch's C++ warnings: each process would be told of DistributedDataParallel's search for unused parameters, which is
# meant (detco.runner). torch reads this when it is first imported.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # likewise: each profiled step would be told of

REFUSED, UNFORESEEN, STOPPED = 2, 70, 130  # bad input; a fault, its traceback in a file; stopped by the user
STATUS_FILE = "DETCO_BENCH_STATUS"  # names a file that takes the exit status: torchrun gives 1 for any
USER_ERRORS = (UserError, RecordError)  # leaderboard imports nothing of the suite, hence two
NOT_THERE = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
LOCKED = "mend its permissions, or name another folder (--data-root, --work-dir, --results)"
FULL = "the disk is full; what was computed is kept: free some space and run the same command again"


def ended(job: Callable[[], int], folder: Path) -> int:
    """Run a command's job; its exit status: the job's own, REFUSED, UNFORESEEN or STOPPED.

    Args:
        folder: takes the traceback of an error nobody foresaw.
    """
    status = _status_of(job, folder)
    if STATUS_FILE in os.environ and status:  # of several processes the first to fail says why
        try:
            with open(os.environ[STATUS_FILE], "x") as file:
                file.write(str(status))
        except FileExistsError:
            pass
    return status


def _status_of(job: Callable[[], int], folder: Path) -> int:
    STOP.clear()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        return job()
    except KeyboardInterrupt:
        return _stopped()
    except USER_ERRORS as error:
        return _refuse(str(error))
    except Exception as error:  # users see one line, developers the file
        if STOP.is_set():  # what a library made of it
            return _stopped()
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            return _refuse(FULL)
        if getattr(error, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM):
            return _refuse(f"{_where(error)}; {LOCKED}")
        if isinstance(error, NOT_THERE):
            return _refuse(_where(error))
        return _unforeseen(error, folder)


def _stopped() -> int:
    print("\nstopped; the same command goes on from what was saved", file=sys.stderr)
    return STOPPED


def _where(error: Exception) -> str:
    file = getattr(error, "filename", None)
    return f"{file}: {getattr(error, 'strerror', error)}" if file else str(error)


def _refuse(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return REFUSED


def _unforeseen(error: Exception, folder: Path) -> int:
    trace = "".join(traceback.format_exception(error))
    path = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(trace)
    except OSError:  # a folder that cannot be written must not hide what happened
        print(trace, file=sys.stderr)
    first = (str(error).strip().splitlines() or [""])[0][:200]
    print(f"error: {type(error).__name__}: {first} (details in {path})", file=sys.stderr)
    return UNFORESEEN
