"""What data must pass before it is used: annotations in COCO's form, keypoints, photos, label maps.

What was found out is kept in a cache folder by content: a file that did not change is not looked at again.
"""
import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.data.annotations import KEYPOINTS as KEYPOINTS
from benchmarks.data.annotations import examine, keypoints_flaw
from benchmarks.data.coco import DataError, read
from detco import content
from detco.config import digest
from detco.console import CONSOLE
from detco.content import Facts, Table
from detco.errors import several
from detco.images import BROKEN, ImageError, header, open_regular, rgb

VERSION = 1  # of what `benchmarks.data.annotations` finds and mends
# What a whole JPEG and a whole PNG begin and end with.
MARKS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))
RESIZED = "of another size than the annotations say"
VOID = 255  # a label map's pixels without a label


@dataclass(frozen=True)
class Checked:
    """Annotations and photos that passed.

    Attributes:
        classes: the categories' names.
        annotations: the file to train and evaluate with: the one given, or a cleaned one made of it.
        fingerprint: of the annotations' and photos' content.
        notes: what was mended, is left out by tools, or should be known: a line each.
        photos: digest of each photo -> its name.
        images, objects: how many there are.
    """

    classes: tuple[str, ...]
    annotations: Path
    fingerprint: str
    notes: tuple[str, ...]
    photos: dict[str, str]
    images: int
    objects: int


class _Examined(msgspec.Struct):
    """What is kept of an annotation file: its images as (name, width, height), and findings; `cleaned` is the digest
    of the file made of it, if any."""

    images: list[tuple[str, int, int]]
    classes: list[str]
    objects: int
    refusals: list[str]
    notes: list[str]
    cleaned: str


def check_coco(images: Path, annotations: Path, decode: bool = False, keypoints: bool = False,
               masks: bool | None = None, difficult: bool = False, cache: Path | None = None,
               show: bool = False) -> Checked:
    """Check a COCO annotation file and that each of its photos is there, whole, and of its entry's size.

    Args:
        decode: decode every photo; otherwise one is decoded only where its first and last bytes are not those of a
            whole JPEG or PNG.
        keypoints: a task learns from persons' keypoints.
        masks: whether a task learns from masks, so that every object must have one; None where any object has.
        difficult: a task leaves out objects marked `difficult`.
        cache: folder that keeps what was found, and takes the cleaned file; None keeps nothing and makes none.
        show: show a progress bar.
    Raises:
        DataError: whatever stands in the way of training or evaluation (docs/data.md), in one line: what, how many,
            which, and what to do.
    """
    with CONSOLE.status(f"checking {annotations.name}") if show else nullcontext():
        examined, file = _examined(annotations, cache, keypoints=keypoints, masks=masks, difficult=difficult)
    if examined.refusals:
        raise DataError(f"{annotations}: {'; also '.join(examined.refusals)}")
    names = [name for name, *_ in examined.images]
    facts = Table(images, cache, photo).of(names, f"checking {annotations.stem}", show)
    states = [f.flaw or (_decoding(images / name) if decode else "") for name, f in zip(names, facts)]
    for flaw in dict.fromkeys(filter(None, states)):
        raise DataError(_photos(images, annotations, [n for n, s in zip(names, states) if s == flaw], flaw))
    other = [(name, (width, height), f.more) for (name, width, height), f in zip(examined.images, facts)
             if f.more[:2] != (width, height)]
    if turned := [name for name, size, stored in other if stored[2] > 4 and stored[1::-1] == size]:
        raise DataError(f"{images}: {several(turned, 'image')} of {annotations.name} annotated upright but stored "
                        "turned (EXIF orientation); store them upright, without the tag")
    if other:
        raise DataError(_photos(images, annotations, [name for name, *_ in other], RESIZED))
    notes = [f"{annotations}: {note}" for note in examined.notes]
    if tagged := [n for n, f in zip(names, facts) if f.more[2] != 1]:
        notes.append(f"{images}: {several(tagged, 'image')} of {annotations.name} with an EXIF orientation; read as "
                     "stored, which the boxes must fit")
    whole = " ".join([content.digest(annotations, cache), content.folder_digest(names, facts),
                      f"cleaned {VERSION}" * bool(examined.cleaned)])
    return Checked(tuple(examined.classes), file, hashlib.sha256(whole.encode()).hexdigest(), tuple(notes),
                   {f.digest: name for name, f in zip(names, facts)}, len(names), examined.objects)


def _photos(images: Path, annotations: Path, names: list[str], flaw: str) -> str:
    return f"{images}: {several(names, 'image')} of {annotations.name} {flaw}; fetch or prepare them again"


def _examined(annotations: Path, cache: Path | None, **needs: bool | None) -> tuple[_Examined, Path]:
    """What is known of an annotation file, and the file to use in its place: kept ones where they are of its content.

    Args:
        needs: `benchmarks.data.annotations.examine`'s.
    """
    if not annotations.is_file():
        read(annotations)  # raises
    name = f"{annotations.stem}-{content.digest(annotations, cache)[:16]}-v{VERSION}"
    name += "-" + digest(needs)[:4]
    findings, cleaned = (cache / f"{name}.findings", cache / f"{name}.json") if cache else (None, None)
    if examined := findings and content.kept(findings, _Examined):
        if not examined.cleaned:
            return examined, annotations
        if cleaned.is_file() and content.digest(cleaned, cache) == examined.cleaned:
            return examined, cleaned
    data = read(annotations)
    if needs["masks"] is None:
        needs["masks"] = any(a.is_masked for a in data.annotations)
    found = examine(data, **needs)
    with open(annotations, "rb") as file:
        if file.read(3) == b"\xef\xbb\xbf":
            found.notes.append("begins with a byte order mark, which tools refuse; written without")
            found.changed = True
    examined = _Examined([] if found.refusals else [(i.file_name, i.width, i.height) for i in data.images],
                         [c["name"] for c in data.categories], len(data.annotations), found.refusals, found.notes, "")
    if cache:
        if found.changed and not found.refusals:
            data.info = dict(made_from=name)
            data.write(cleaned)
            examined.cleaned = content.digest(cleaned, cache)
        content.keep(findings, examined)
    return examined, cleaned if examined.cleaned else annotations


def check_keypoints(path: Path, annotations: list[dict]) -> None:
    """Check the keypoints of some of a COCO file's annotations.

    Raises DataError that names the file and the annotations: keypoints that are not 51 finite numbers, a visibility
    other than 0, 1 or 2, or no `num_keypoints`, without which pycocotools cannot evaluate.
    """
    flawed = {}
    for annotation in annotations:
        flaw = keypoints_flaw(annotation.get("keypoints"))
        if flaw := flaw or "without num_keypoints" * ("num_keypoints" not in annotation):
            flawed.setdefault(flaw, []).append(annotation["id"])
    for flaw, ids in flawed.items():
        raise DataError(f"{path}: {several(ids, 'annotation')} {flaw}; remove or mend them")


def check_maps(images: Path, maps: Path, classes: int | None = None, cache: Path | None = None,
               show: bool = False) -> str:
    """Check that each image of a folder in Cityscapes' form, and its label map, is there, whole, and of one size.

    Args:
        classes: how many labels there are, from 0; None takes any below VOID.
        cache, show: as `check_coco`'s.
    Returns: a fingerprint of their content.
    Raises DataError.
    """
    stems = sorted(str(path.relative_to(images)).removesuffix("leftImg8bit.png")
                   for path in images.rglob("*_leftImg8bit.png"))
    if not stems:
        raise DataError(f"{images}: no images named *_leftImg8bit.png; prepare them again")
    found: dict[str, Sequence[Facts]] = {}
    total = hashlib.sha256()
    for folder, kind, look in ((images, "leftImg8bit", photo), (maps, "labelTrainIds", label_map)):
        names = [f"{stem}{kind}.png" for stem in stems]
        found[kind] = Table(folder, cache, look).of(names, f"checking {kind} {folder.name}", show)
        total.update(content.folder_digest(names, found[kind]).encode())
    pairs = list(zip(stems, *found.values()))
    states = {f"{Path(stem).name}leftImg8bit {kind}": f.flaw
              for kind, facts in found.items() for stem, f in zip(stems, facts)}
    states = {name: flaw for name, flaw in states.items() if flaw} or {
        f"{Path(stem).name}leftImg8bit labelTrainIds": "of another size than its image"
        for stem, image, labels in pairs if image.more[:2] != labels.more[:2]} or {
        f"{Path(stem).name}leftImg8bit labelTrainIds": f"with a label other than 0 to {classes - 1} and {VOID}"
        for stem, _, labels in pairs if classes and labels.more[2] >= classes}
    for flaw in dict.fromkeys(states.values()):
        bad = [name for name, state in states.items() if state == flaw]
        raise DataError(f"{maps}: {several(bad, 'file')} {flaw}; prepare them again")
    return total.hexdigest()


def photo(path: Path, head: bytes, tail: bytes) -> tuple[str, tuple[int, ...]]:
    """A look at a photo (`detco.content.Table`): what ails it; width, height and EXIF orientation."""
    try:
        found = header(path)
    except ImageError as error:
        return _reason(error, path), ()
    return _whole(path, head, tail), found


def label_map(path: Path, head: bytes, tail: bytes) -> tuple[str, tuple[int, ...]]:
    """A look at a label map: what ails it; width, height and the highest label but VOID, -1 for none."""
    from PIL import Image

    try:
        header(path)  # refuses what is too large to decode
        with Image.open(path) as image:
            if image.mode != "L":
                return "of more than one channel of 8 bits", ()
            labels = np.asarray(image)
    except (ImageError, OSError, SyntaxError, ValueError) as error:
        return _reason(error, path) if isinstance(error, ImageError) else BROKEN, ()
    named = labels[labels != VOID]
    return "", (*labels.shape[::-1], int(named.max()) if named.size else -1)


def image_state(path: Path, size: tuple[int, int] | None = None) -> str:
    """'' for an image that is there and whole, else what ails it: `detco.content.MISSING`, BROKEN, RESIZED or another.

    Args:
        size: (width, height) it must have.
    """
    try:
        with open_regular(path) as file:
            head = file.read(8)
            file.seek(max(0, file.seek(0, 2) - 64))
            tail = file.read()
    except ImageError as error:
        return content.MISSING if not path.exists() else _reason(error, path)
    flaw, more = photo(path, head, tail)
    return flaw or (RESIZED if size and more[:2] != size else "")


def _whole(path: Path, head: bytes, tail: bytes) -> str:
    """BROKEN, or '' for a photo that begins and ends as whole ones do, or else decodes: some files of the public sets
    end oddly and are whole."""
    if any(head.startswith(start) and end in tail[-64:] for start, end in MARKS):
        return ""
    return _decoding(path)


def _decoding(path: Path) -> str:
    try:
        rgb(path)
    except ImageError as error:
        return _reason(error, path)
    return ""


def _reason(error: ImageError, path: Path) -> str:
    """An error's text without the path; without details, where they differ from file to file."""
    text = str(error).removeprefix(f"{path}: ")
    return BROKEN if text.startswith(BROKEN) else text
