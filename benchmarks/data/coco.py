"""COCO's form: annotation files read, derived from one another, and fingerprinted. Imports neither torch nor mmdet."""
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from detco import content
from detco.errors import UserError, several
from detco.files import alone, flaw_of, replacing

FIELDS = {"images": ("id", "file_name", "width", "height"), "categories": ("id", "name"),
          "annotations": ("id", "image_id", "category_id", "bbox")}


NOTHING = Raw()  # in the place of a field that is missing


class DataError(UserError):
    """Data that cannot be used: what, where, and what to do, in one line."""


@dataclass(frozen=True)
class CocoData:
    """A detection data set in COCO's form, checked.

    Annotation files are those to train and to evaluate with: the user's, or cleaned ones derived from them.
    """

    train_images: Path
    train_annotations: Path
    val_images: Path
    val_annotations: Path
    classes: tuple[str, ...]
    fingerprint: str


class Image(msgspec.Struct, gc=False, omit_defaults=True):
    """An image's entry: the fields that tools read, unchecked; UNSET where a field is missing."""

    id: Any = UNSET
    file_name: Any = UNSET
    width: Any = UNSET
    height: Any = UNSET


class Annotation(msgspec.Struct, gc=False, omit_defaults=True):
    """An object: the fields that tools read, unchecked; UNSET, or an empty Raw, where a field is missing.

    Masks and keypoints stay the file's text until they are looked at: as Python's numbers they would take nine times
    the file's size.
    """

    id: Any = UNSET
    image_id: Any = UNSET
    category_id: Any = UNSET
    bbox: Any = UNSET
    area: Any = UNSET
    iscrowd: Any = UNSET
    ignore: Any = UNSET
    difficult: Any = UNSET
    num_keypoints: Any = UNSET
    keypoints: Raw = NOTHING
    segmentation: Raw = NOTHING

    @property
    def is_masked(self) -> bool:
        """Whether anything is given for a mask."""
        return bytes(memoryview(self.segmentation)[:9]).translate(None, b" \t\r\n") not in (b"", b"null", b"[]")


class CocoFile(msgspec.Struct, omit_defaults=True):
    """An annotation file's content, without what no tool reads.

    Attributes:
        info: of what the suite derived, `made_from` says from what.
    """

    images: list[Image | None] = []
    categories: list[dict[str, Any] | None] = []
    annotations: list[Annotation | None] = []
    info: Any = UNSET

    def write(self, path: Path) -> None:
        """Write it as JSON, sealed, an entry at a time, so that no second copy lies in memory."""
        encode = msgspec.json.Encoder().encode
        with replacing(path, sealed=True) as temporary, open(temporary, "wb") as file:
            for lead, part in (("{", "images"), (",", "categories"), (",", "annotations")):
                file.write(f'{lead}"{part}":['.encode())
                for i, entry in enumerate(getattr(self, part)):
                    file.write(b"," * bool(i) + encode(entry))
                file.write(b"]")
            file.write(b"}" if self.info is UNSET else b',"info":' + encode(self.info) + b"}")


class _Listing(msgspec.Struct):
    """An annotation file without its annotations, which are skipped and not built."""

    images: list[Image] = []
    categories: list[dict[str, Any]] = []
    info: Any = UNSET


def read_json(path: Path):
    """A JSON file's content. Raises DataError that says where it breaks off."""
    return _json(_bytes(path), path)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; see `python benchmarks/run.py --list`") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _json(data: bytes, path: Path, **hooks):
    try:
        return json.loads(data.decode("utf-8-sig"), **hooks)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON, or truncated, at line {error.lineno} column {error.colno}; "
                        "fetch it again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text at byte {error.start}; fetch it again") from None
    except RecursionError:
        raise DataError(f"{path}: lists within lists without end; fetch it again") from None


def read_coco(path: Path) -> dict:
    """A COCO annotation file's whole content. Raises DataError where it, a part of it, or an entry's field is missing.
    """
    data = read_json(path)
    _require_fields(path, data if isinstance(data, dict) else {}, lambda e, field: isinstance(e, dict) and field in e)
    return data


def read(path: Path) -> CocoFile:
    """A COCO annotation file's content, in about twice the file's size of memory. Raises DataError as `read_coco`."""
    data = _decoded(path, CocoFile)
    _require_fields(path, {part: getattr(data, part) for part in FIELDS}, lambda e, field: e is not None and (
        field in e if isinstance(e, dict) else getattr(e, field) is not UNSET))
    return data


def listing(path: Path) -> CocoFile:
    """An annotation file's images, categories and info; its annotations are skipped. Raises DataError."""
    data = _decoded(path, _Listing)
    return CocoFile(data.images, data.categories, info=data.info)


def _require_fields(path: Path, parts: dict, has) -> None:
    if absent := [part for part in FIELDS if not isinstance(parts.get(part), list) or not parts[part]]:
        raise DataError(f"{path}: no {' and no '.join(absent)} in it; it is not a complete COCO annotation file")
    for part, fields in FIELDS.items():
        for field in fields:
            if bad := [n for n, entry in enumerate(parts[part]) if not has(entry, field)]:
                raise DataError(f"{path}: {several(bad, 'entry')} of '{part}', counted from 0, without "
                                f"'{field}'; it is not COCO's form")


def _decoded(path: Path, form: type):
    data = _bytes(path)
    try:
        return msgspec.json.decode(data, type=form)
    except msgspec.ValidationError as error:
        reason = str(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # No JSON, and Python's reader says where it ends, keeping nothing; or of what only that one takes: NaN, a
        # byte order mark.
        _json(data, path, object_pairs_hook=lambda pairs: None)
        try:
            return msgspec.json.decode(msgspec.json.encode(_json(data, path)), type=form)  # NaN becomes null
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            reason = str(error)
    if reason == "Expected `object`, got `array`":
        _require_fields(path, {}, None)
    raise DataError(f"{path}: {reason}; it is not COCO's form")


def made_from(path: Path) -> str | None:
    """The digest of what the suite derived an annotation file from; None where there is no such file as was written."""
    try:
        info = None if flaw_of(path) else listing(path).info
    except DataError:
        return None
    return info.get("made_from") if isinstance(info, dict) else None


def supercategories(categories: Iterable[dict]) -> list[str]:
    """The supercategories of some categories, in their order there; a category without one stands for itself."""
    return list(dict.fromkeys(category.get("supercategory") or category["name"] for category in categories))


def pool_categories(annotations: Path, out: Path, cache: Path | None = None) -> None:
    """Write a COCO annotation file whose categories are the supercategories of another's, in their order there, unless
    one made of the same content is there."""
    source = f"{content.digest(annotations, cache)} supercategories"
    if made_from(out) == source:
        return
    data = read(annotations)
    names = supercategories(data.categories)
    number = {c["id"]: names.index(c.get("supercategory") or c["name"]) + 1 for c in data.categories}
    for annotation in data.annotations:
        if annotation.category_id not in number:
            raise DataError(f"{annotations}: annotation {annotation.id} of an unknown category; remove or mend it")
        annotation.category_id = number[annotation.category_id]
    data.categories = [dict(id=i + 1, name=name, supercategory=name) for i, name in enumerate(names)]
    data.info = dict(made_from=source)
    data.write(out)


def shuffled(numbers: Iterable[int], seed: int | None = None) -> list[int]:
    """Numbers by the sha256 of "<seed>:<number>", or without a seed of the number: the same order everywhere."""
    lead = "" if seed is None else f"{seed}:"
    return sorted(numbers, key=lambda number: hashlib.sha256(f"{lead}{number}".encode()).digest())


def held_out(data: CocoData, share: float, least: int, folder: Path) -> CocoData:
    """The data tested on `share` percent of its training images, and trained on the others; the same for every seed.

    Args:
        least: images that must be left to train on; DataError otherwise.
        folder: takes the annotation files of both parts.
    """
    whole = read(data.train_annotations)
    order = shuffled(image.id for image in whole.images)
    cut = round(len(order) * share / 100)
    if len(order) - cut < least or not cut:
        raise DataError(f"{data.train_annotations}: {share} % of its {len(order)} images are {cut}, which leaves "
                        f"{len(order) - cut} for a batch of {least}; give more images")
    paths = []
    for name, kept in (("held-out", set(order[:cut])), ("rest", set(order[cut:]))):
        paths.append(folder / f"{data.train_annotations.stem}-{name}.json")
        with_images(whole, kept).write(paths[-1])
    return replace(data, train_annotations=paths[1], val_images=data.train_images, val_annotations=paths[0],
                   fingerprint=f"{data.fingerprint}:less {share} %")


def with_images(whole: CocoFile, kept: set[int]) -> CocoFile:
    """An annotation file's content with some of its images, by their ids, and their annotations."""
    return CocoFile([i for i in whole.images if i.id in kept], whole.categories,
                    [a for a in whole.annotations if a.image_id in kept], info=whole.info)


def subset(data: CocoData, share: float, seed: int, least: int, folder: Path) -> CocoData:
    """The data with `share` percent of its training images, the same for a seed everywhere, written down by id.

    Images are ordered by the sha256 of "<seed>:<id>" and the first are taken, so a smaller share is a part of a
    larger one. The fingerprint stays the whole data's: rows of one table differ in nothing but their seeds.

    Args:
        least: images there must be; DataError otherwise.
        folder: takes the annotation file <name>-<share>pct-seed<seed>.json, kept if it is there as it was written.
    """
    name = f"{data.train_annotations.stem}-{data.fingerprint[:8]}-{share}pct-seed{seed}.json"
    path = folder / name
    with alone(folder):
        if flaw_of(path):
            _write_subset(data, share, seed, least, path)
    return replace(data, train_annotations=path)


def _write_subset(data: CocoData, share: float, seed: int, least: int, path: Path) -> None:
    whole = read(data.train_annotations)
    ids = shuffled((image.id for image in whole.images), seed)
    kept = set(ids[:round(len(ids) * share / 100)])
    if len(kept) < least:
        raise DataError(f"{data.train_annotations}: {share} % of its {len(ids)} images are {len(kept)}, fewer than "
                        f"a batch of {least}; take a larger share")
    with_images(whole, kept).write(path)


def fingerprint(paths: dict[str, tuple[Path, Path]]) -> str:
    """sha256 over annotation files' content and the names, sizes and content of the images that they list.

    Args:
        paths: of each split, (images, annotations).
    """
    total = hashlib.sha256()
    for images, annotations in paths.values():
        names = sorted({image.file_name for image in listing(annotations).images})
        total.update(content.digest(annotations).encode())
        total.update(content.folder_digest(names, content.Table(images).of(names)).encode())
    return total.hexdigest()
