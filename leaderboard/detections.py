"""Detections of filed rows: kept beside the board, outside version control, under the hash that their record holds.

Each is a zip `detections/<hash>.zip` beside `results/`, of the files that a detector wrote, in the order in which their
hashes make up the record's.
"""
from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

from leaderboard.errors import RecordError
from leaderboard.record import fingerprint, replacing


def path_of(root: str | Path, stated: str) -> Path:
    """Where the detections of a record lie; `root` is the board's `results/`."""
    return Path(root).parent / "detections" / f"{stated}.zip"


def keep(root: str | Path, stated: str, files: Iterable[Path]) -> Path:
    """Keep files under the hash that a record states, unless they are there. Raises RecordError where it is not theirs.
    """
    path = path_of(root, stated)
    if path.is_file():
        return path
    with replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)
        _read(temporary, stated)
    return path


def read(root: str | Path, stated: str) -> dict[str, bytes]:
    """File name -> content of the detections under a hash. Raises RecordError where they are missing or others."""
    path = path_of(root, stated)
    if not path.is_file():
        raise RecordError(f"{path}: no such detections; run the row again, or copy the folder from who filed it")
    return _read(path, stated)


def beside(path: Path, stated: str) -> list[Path]:
    """The files `detections.*.json` beside a result, in the order that makes up the hash it states. Raises RecordError
    where none does."""
    files = sorted(path.parent.glob("detections.*.json"))
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for order in permutations(files):
        if fingerprint([digests[file] for file in order]) == stated:
            return list(order)
    raise RecordError(f"{path}: the detections beside it are not those that it states; give all files of the run")


def _read(path: Path, stated: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, NotImplementedError) as error:
        raise RecordError(f"{path}: cannot be read ({error}); delete it and run the row again") from None
    if fingerprint([hashlib.sha256(content).hexdigest() for content in found.values()]) != stated:
        raise RecordError(f"{path}: not the detections that its name says; delete it and run the row again")
    return found
