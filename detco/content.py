"""Files known by their content: sizes and hashes, kept in a table and computed anew where a file changed since.

A table is a JSON file in a cache folder. A row holds for as long as its file's size, time of modification and time of
change are those it was made with, so that files replaced under the same names are noticed, and others not read again.
"""
import hashlib
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec

from detco.console import progress_bar
from detco.files import replacing

BLOCK = 2**18  # bytes read at once
PORTION = 64  # files a thread takes at once
MISSING, NO_FILE = "missing", "no files, but folders, devices or pipes"


class Facts(msgspec.Struct, array_like=True, gc=False):
    """What is known of a file.

    Attributes:
        size, modified, changed: bytes; times in nanoseconds.
        digest: half of the content's sha256, hexadecimal; empty where it cannot be read.
        flaw: MISSING, NO_FILE or what else ails it; empty for nothing.
        more: what `Table`'s `look` found.
    """

    size: int = 0
    modified: int = 0
    changed: int = 0
    digest: str = ""
    flaw: str = ""
    more: tuple[int, ...] = ()


class Table:
    """The facts of one folder's files.

    Args:
        folder: where names begin.
        cache: folder that keeps the rows; None for none kept.
        look: (path, the first bytes, the last ones, up to BLOCK) -> (flaw, more): what else is to be known of a file.
    """

    def __init__(self, folder: Path, cache: Path | None = None, look=None):
        self.folder, self.look = folder, look
        place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
        kind = look.__name__.strip("_") if look else "files"
        self.file = cache and cache / f"{kind}-{folder.name}-{place}.json"
        self.rows = (self.file and kept(self.file, dict[str, Facts])) or {}

    def of(self, names: Sequence[str], label: str = "", show: bool = False) -> list[Facts]:
        """The facts of each name, by threads; what had to be computed is kept in the file.

        Args:
            label: of the progress bar.
            show: show the bar.
        """
        names = list(names)
        portions = [names[i:i + PORTION] for i in range(0, len(names), PORTION)]
        found, before = [], dict(self.rows)
        workers = ThreadPoolExecutor(max(4, os.cpu_count() or 1))  # threads, since reading and hashing let others run
        try:
            with progress_bar(disable=not show) as bar:
                task = bar.add_task(label, total=len(names))
                for facts in workers.map(lambda portion: [self._facts(name) for name in portion], portions):
                    found += facts
                    bar.advance(task, len(facts))
        finally:
            workers.shutdown(cancel_futures=True)
        self.rows |= {name: facts for name, facts in zip(names, found) if facts.digest}
        if self.file and self.rows != before:
            keep(self.file, self.rows)
        return found

    def _facts(self, name: str) -> Facts:
        path = self.folder / name
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return Facts(flaw=MISSING)
        if not stat.S_ISREG(status.st_mode):
            return Facts(flaw=NO_FILE)
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self.rows.get(name)
        if known and (known.size, known.modified, known.changed) == stamp:
            return known
        total, head, tail = hashlib.sha256(), b"", b""
        try:
            with open(path, "rb") as file:
                while block := file.read(BLOCK):
                    head, tail = head or block, block if len(block) == BLOCK else (tail + block)[-BLOCK:]
                    total.update(block)
        except OSError as error:
            return Facts(*stamp, flaw=f"not to be read: {error.strerror}")
        flaw, more = self.look(path, head, tail) if self.look else ("", ())
        return Facts(*stamp, total.hexdigest()[:32], flaw, more)


def keep(file: Path, value) -> None:
    """Write what is to be found again by `kept`, behind its digest; a cache that cannot be written keeps nothing."""
    text = msgspec.json.encode(value)
    with suppress(OSError), replacing(file) as temporary:
        temporary.write_bytes(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)


def kept(file: Path, form):
    """What was kept in a file, of a form; None where there is none, or not as it was written."""
    try:
        mark, _, text = file.read_bytes().partition(b"\n")
        return msgspec.json.decode(text, type=form) if hashlib.sha256(text).hexdigest().encode() == mark else None
    except (OSError, msgspec.DecodeError):
        return None


def digest(path: Path, cache: Path | None = None) -> str:
    """A file's digest, kept in the table of its folder. Raises FileNotFoundError."""
    [facts] = Table(Path(path).parent, cache).of([path.name])
    if not facts.digest:
        raise FileNotFoundError(2, facts.flaw, str(path))
    return facts.digest


def folder_digest(names: Sequence[str], facts: Sequence[Facts]) -> str:
    """One sha256 of files: of each one's name, size and digest, in the order of names."""
    lines = sorted(f"{name} {f.size} {f.digest}" for name, f in zip(names, facts))
    return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()
