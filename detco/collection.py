"""Photos of one's own to pretrain on: folders, flat or nested, lists of paths, archives; labels by the folders."""
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from detco.console import progress_bar, stop_if_asked
from detco.content import Table, folder_digest
from detco.errors import UserError
from detco.files import alone, replacing, sha256

if TYPE_CHECKING:  # late: who only lists needs no torch
    from detco.pool import FolderPool

PHOTOS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
LISTS = (".lst", ".txt")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
ASIDE = ("@eadir", "__macosx")  # folders that machines make, beside all hidden ones
DONE = ".whole"  # in a folder of unpacked photos: the archive's sha256


@dataclass
class Collection:
    """What was found, without a look into the photos.

    Attributes:
        photos: (folder or archive, names in it) of each source.
        aside: why files were left aside -> how many.
    """

    photos: list[tuple[Path, list[str]]] = field(default_factory=list)
    aside: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return sum(len(names) for _, names in self.photos)

    @cached_property
    def classes(self) -> list[str]:
        """Names of the first folders, where every photo lies in one and these are several; else none."""
        firsts = [PurePosixPath(name).parts[0] if "/" in name else "" for _, names in self.photos for name in names]
        found = sorted(set(firsts))
        return found if len(found) > 1 and "" not in found else []

    @property
    def described(self) -> str:
        """A line for the user."""
        said = f"{len(self):,} photos" + (f" in {len(self.classes)} class folders" if self.classes else ", unlabelled")
        left = ", ".join(f"{count:,} {why}" for why, count in sorted(self.aside.items()))
        return said + (f"; left aside: {left}" if left else "")


def look(sources: Sequence[Path]) -> Collection:
    """List the photos of folders, of lists of paths (.txt, .lst: one a line, relative to the list) and of archives
    (.zip, .tar, .tar.gz). Raises UserError, in one line, where a source has none or cannot be read."""
    found = Collection()
    for source in sources:
        before = len(found)
        try:
            if source.is_dir():
                found.photos.append((source, sorted(_in_folder(source, found.aside))))
            elif not source.exists():
                raise UserError(f"--images {source}: no such folder, list or archive")
            elif source.name.lower().endswith(ARCHIVES):
                with _opened(source) as members:
                    found.photos.append((source, sorted(name for name, _ in members if _kept(name, found.aside))))
            elif source.suffix.lower() in LISTS:
                found.photos.append((source.parent, _in_list(source)))
            else:
                raise UserError(f"--images {source}: neither a folder nor a list ({', '.join(LISTS)}) nor an archive "
                                f"({', '.join(ARCHIVES)})")
        except OSError as error:
            raise UserError(f"--images {source}: cannot be read ({error.strerror or error})") from None
        if len(found) == before:
            raise UserError(f"--images {source}: no photo there ({', '.join(PHOTOS)})")
    names = Counter((root.resolve(), name) for root, own in found.photos for name in own)
    if twice := [name for (_, name), count in names.items() if count > 1]:
        raise UserError(f"--images: {len(twice)} photos given twice ({twice[0]}, ...); give each once")
    return found


def load(found: Collection, unpacked: Path, cache: Path | None = None, show: bool = False) -> "FolderPool":
    """The pool of a collection; its fingerprint is of the photos' names and content.

    Args:
        unpacked: takes the photos of archives, once.
        cache: folder that keeps the files' hashes (`detco.content`); None computes them each time.
        show: show progress bars.
    """
    from detco.pool import FolderPool

    classes = found.classes
    label = {name: number for number, name in enumerate(classes)}
    samples, prints = [], []
    for source, names in found.photos:
        root = source if source.is_dir() else unpack(source, unpacked, show)
        prints.append(folder_digest(names, Table(root, cache).of(names, f"hashing {source.name}", show)))
        samples += [(str(root / name), label.get(PurePosixPath(name).parts[0], -1)) for name in names]
    whole = prints[0] if len(prints) == 1 else hashlib.sha256(" ".join(prints).encode()).hexdigest()
    return FolderPool(samples, classes, whole)


def unpack(archive: Path, folder: Path, show: bool = False) -> Path:
    """The folder of an archive's photos, unpacked unless it is there whole. Raises UserError for a damaged archive."""
    stated = sha256(archive)
    place = folder / f"{archive.name.split('.')[0]}-{stated[:12]}"
    with alone(place):
        if (place / DONE).is_file():
            return place
        try:
            with _opened(archive) as members, progress_bar(disable=not show) as bar:
                task = bar.add_task(f"unpacking {archive.name}", total=None)
                for name, read in members:
                    stop_if_asked()
                    if _kept(name, Counter()):
                        with replacing(place / name) as temporary, read() as source, open(temporary, "wb") as file:
                            while block := source.read(2**20):
                                file.write(block)
                        bar.advance(task)
        except OSError as error:
            raise UserError(f"--images {archive}: cannot be unpacked ({error})") from None
        (place / DONE).write_text(stated)
    return place


def _kept(name: str, aside: Counter[str]) -> bool:
    """Whether a name is a photo's that is taken; if not, it is counted."""
    parts = PurePosixPath(name).parts
    if any(part.startswith(".") or part.lower() in ASIDE for part in parts):
        aside["hidden or made by machines"] += 1
    elif PurePosixPath(name).suffix.lower() not in PHOTOS:
        aside["no photos by their names"] += 1
    else:
        return True
    return False


def _in_folder(root: Path, aside: Counter[str]) -> Iterator[str]:
    top = root.resolve()
    seen = {top, *top.parents}
    for folder, folders, files in os.walk(root, followlinks=True):
        for name in list(folders):
            path = Path(folder, name)
            if name.startswith(".") or name.lower() in ASIDE:
                aside["hidden or made by machines"] += sum(len(own) for _, _, own in os.walk(path))
                folders.remove(name)
            elif path.is_symlink() and ((real := path.resolve()) in seen or top in real.parents):
                folders.remove(name)  # a link back would not end, one within would give photos twice
            else:
                seen.add(path.resolve())
        for name in files:
            within = Path(folder, name).relative_to(root).as_posix()
            if _kept(within, aside):
                yield within


def _in_list(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"--images {path}: not text in UTF-8; write one path a line") from None
    names = sorted(line for line in lines if line and not line.startswith("#"))
    if missing := [name for name in names if not (path.parent / name).is_file()]:
        raise UserError(f"--images {path}: {len(missing)} of {len(names)} paths lead to no file ({missing[0]}, ...)")
    return names


@contextmanager
def _opened(archive: Path) -> Iterator[Iterator[tuple[str, Callable[[], Any]]]]:
    """The regular files of an archive that lie within it: (name, how to read them)."""
    try:
        if archive.suffix.lower() == ".zip":
            with zipfile.ZipFile(archive) as zipped:
                yield ((_plain(info.filename), partial(zipped.open, info)) for info in zipped.infolist()
                       if not info.is_dir() and _within(info.filename)
                       and not stat.S_ISLNK(info.external_attr >> 16))
        else:
            with tarfile.open(archive) as tarred:
                yield ((_plain(member.name), partial(tarred.extractfile, member)) for member in tarred
                       if member.isfile() and _within(member.name))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"--images {archive}: cannot be read ({str(error).splitlines()[0]})") from None


def _plain(name: str) -> str:
    return PurePosixPath(name).as_posix()  # without the "./" that tar puts before names


def _within(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and "\\" not in name
