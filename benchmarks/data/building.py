"""What converters and synthetic sets share: work on threads, and folders that are made once or not at all."""
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.progress import Progress

from benchmarks.data.coco import DataError
from detco.files import alone


def each(function: Callable, items: Sequence, bar: Progress, label: str) -> list:
    """[function(item) for each item], on threads; a failure or Ctrl-C drops what has not begun."""
    workers = ThreadPoolExecutor(os.cpu_count())
    try:
        return list(bar.track(workers.map(function, items), total=len(items), description=label))
    finally:
        workers.shutdown(cancel_futures=True)


def build_once(root: Path, fill: Callable[[Path], str | None], mark: str, version: int, last: str = "") -> None:
    """Make the folder `root` by `fill(folder)` under another name, unless this version of it is there; one of another
    version is made anew.

    Args:
        fill: what it returns is written into the mark.
        mark: name of the file, with the version, by which a finished folder is known.
        version: of what fills it.
        last: a file without which the folder counts as broken, relative to `root`.
    Raises:
        DataError: `root` holds anything else.
    """
    name = f"{mark}-v{version}.txt"

    def is_whole() -> bool:
        return (root / name).exists() and (root / last).exists()

    if is_whole():  # also where nothing can be written
        return
    with alone(root):
        if is_whole():  # another process was first
            return
        if any(root.glob(f"{mark}-v*.txt")):
            shutil.rmtree(root)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DataError(f"{root}: not empty, but no synthetic scenes (no {name}); name another folder, or move it "
                            "away")
        with replacing_folder(root) as built:
            (built / name).write_text(fill(built) or "")


@contextlib.contextmanager
def replacing_folder(root: Path) -> Iterator[Path]:
    """Yield an empty folder beside `root`, which is empty or absent; it becomes `root` when the block ends well, else
    it is removed. The caller is `alone` in `root`, so that whatever lies under such names was left by the killed."""
    for left in root.parent.glob(f".{root.name}.*.tmp"):
        shutil.rmtree(left)
    folder = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    folder.mkdir(parents=True)
    try:
        yield folder
        os.replace(folder, root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
