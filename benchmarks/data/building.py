"""What converters and synthetic sets share: work on threads, and folders that are made once or not at all."""
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.progress import Progress

from benchmarks.data.coco import DataError


def each(function: Callable, items: Sequence, bar: Progress, label: str) -> list:
    """[function(item) for each item], on threads; a failure or Ctrl-C drops what has not begun."""
    workers = ThreadPoolExecutor(os.cpu_count())
    try:
        return list(bar.track(workers.map(function, items), total=len(items), description=label))
    finally:
        workers.shutdown(cancel_futures=True)


def build_once(root: Path, fill: Callable[[Path], None], last: str, version: int) -> None:
    """Make the folder `root` by `fill(folder)` under another name, unless this version of it is there.

    Args:
        last: a file without which the folder counts as broken, relative to `root`.
        version: of what fills it.
    Raises:
        DataError: `root` holds anything else.
    """
    mark = f"drawn-v{version}.txt"
    if (root / mark).exists() and (root / last).exists():
        return
    if any(root.glob("drawn-v*.txt")):
        shutil.rmtree(root)
    if root.exists() and any(root.iterdir()):
        raise DataError(f"{root}: not empty, but no synthetic scenes (no {mark}); move it away")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as folder:
        built = Path(folder) / root.name
        fill(built)
        (built / mark).touch()
        try:
            os.replace(built, root)
        except OSError:
            if not (root / mark).exists():  # else another process was first
                raise
