"""Files that are either whole or absent, known to hold what was written, and folders that one process works in."""
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from detco.console import log, stop_if_asked
from detco.errors import UserError


@contextlib.contextmanager
def replacing(path: Path, sealed: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` when the block ends well, else it is removed.

    Args:
        sealed: leave the file's sha256 beside it, in the form of `sha256sum`, for `flaw_of`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if sealed:  # first, so that no file is ever without its seal
            with replacing(_seal_of(path)) as seal:
                seal.write_text(f"{sha256(temporary)}  {path.name}\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flaw_of(path: Path) -> str:
    """Why a file that was written sealed is not what was written; empty where it is."""
    try:
        stated = _seal_of(path).read_text(errors="replace").split(" ")[0]
    except FileNotFoundError:
        return f"no {_seal_of(path).name} beside it (`sha256sum` makes one, if you trust the file)" \
            if Path(path).exists() else "missing"
    try:
        return "" if sha256(path) == stated else f"not what was written: its bytes do not fit {_seal_of(path).name}"
    except FileNotFoundError:
        return "missing"


def _seal_of(path: Path) -> Path:
    return Path(path).with_name(f"{Path(path).name}.sha256")


@contextlib.contextmanager
def alone(folder: Path, patience: float | None = None, note: Callable[[str], None] = log) -> Iterator[None]:
    """Be the one process that works in a folder, by a lock file beside it; wait while another one is. A process that
    dies leaves it free. What killed processes left in the folder under temporary names is removed.

    Args:
        patience: seconds to wait; None for as long as it takes.
        note: is told of the wait.
    Raises UserError where the patience is at its end.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(folder.with_name(f".{folder.name}.lock")), 0
    while True:
        try:
            lock.acquire(timeout=1 if waited else 0)
            break
        except Timeout:
            stop_if_asked()
            if patience is not None and waited >= patience:
                raise UserError(f"{folder}: another process works there; run this again when it has ended") from None
            if not waited:
                note(f"{folder}: another process works there; waiting for it to end")
            waited += 1
    try:
        for left in folder.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else \
            hashlib.sha256(file.read()).hexdigest()
