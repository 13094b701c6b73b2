"""COCO's form: annotation files read, derived from one another, and fingerprinted. Imports neither torch nor mmdet."""
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

from detco.errors import UserError, several
from detco.files import replacing

FIELDS = {"images": ("id", "file_name", "width", "height"), "categories": ("id", "name"),
          "annotations": ("id", "image_id", "category_id", "bbox")}


class DataError(UserError):
    """Data that cannot be used: what, where, and what to do, in one line."""


@dataclass(frozen=True)
class CocoData:
    """A detection data set in COCO's form, checked."""

    train_images: Path
    train_annotations: Path
    val_images: Path
    val_annotations: Path
    classes: tuple[str, ...]
    fingerprint: str
    counts: dict[str, int] | None = None  # images, by split


def read_json(path: Path):
    """A JSON file's content. Raises DataError that says where it breaks off."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; see `python benchmarks/run.py --list`") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON, or truncated, at line {error.lineno} column {error.colno}; "
                        "fetch it again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text at byte {error.start}; fetch it again") from None


def read_coco(path: Path) -> dict:
    """A COCO annotation file's content. Raises DataError where it, a part of it, or an entry's field is missing."""
    data = read_json(path)
    parts = [p for p in FIELDS if not isinstance(data, dict) or not data.get(p)]
    if parts:
        raise DataError(f"{path}: no {' and no '.join(parts)} in it; it is not a complete COCO annotation file")
    for part, fields in FIELDS.items():
        for field in fields:
            if bad := [n for n, entry in enumerate(data[part]) if not isinstance(entry, dict) or field not in entry]:
                raise DataError(f"{path}: {several(bad, 'entry')} of '{part}', counted from 0, without "
                                f"'{field}'; it is not COCO's form")
    return data


def supercategories(content: dict) -> list[str]:
    """The supercategories of an annotation file's content, in their order there."""
    return list(dict.fromkeys(category["supercategory"] for category in content["categories"]))


def pool_categories(annotations: Path, out: Path) -> None:
    """Write a COCO annotation file whose categories are the supercategories of another's, in their order there."""
    content = read_coco(annotations)
    names = supercategories(content)
    number = {c["id"]: names.index(c["supercategory"]) + 1 for c in content["categories"]}
    content["annotations"] = [a | {"category_id": number[a["category_id"]]} for a in content["annotations"]]
    content["categories"] = [dict(id=i + 1, name=name, supercategory=name) for i, name in enumerate(names)]
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(content))


def subset(data: CocoData, share: float, seed: int, least: int, folder: Path) -> CocoData:
    """The data with `share` percent of its training images, the same for a seed everywhere, written down by id.

    Images are ordered by the sha256 of "<seed>:<id>" and the first are taken, so a smaller share is a part of a
    larger one. The fingerprint stays the whole data's: rows of one table differ in nothing but their seeds.

    Args:
        least: images there must be; DataError otherwise.
        folder: takes the annotation file <name>-<share>pct-seed<seed>.json, kept if it is there.
    """
    name = f"{data.train_annotations.stem}-{data.fingerprint[:8]}-{share}pct-seed{seed}.json"
    path = folder / name
    if not path.exists():
        content = read_coco(data.train_annotations)
        ids = sorted((i["id"] for i in content["images"]),
                     key=lambda number: hashlib.sha256(f"{seed}:{number}".encode()).digest())
        kept = set(ids[:round(len(ids) * share / 100)])
        if len(kept) < least:
            raise DataError(f"{data.train_annotations}: {share} % of its {len(ids)} images are {len(kept)}, fewer than "
                            f"a batch of {least}; take a larger share")
        content["images"] = [i for i in content["images"] if i["id"] in kept]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content))
    return replace(data, train_annotations=path)


def fingerprint(paths: dict[str, tuple[Path, Path]]) -> str:
    """sha256 over the annotation files' bytes and, for each image they list, its name and size on disk; over names
    and sizes alone where label maps stand in the annotations' place."""
    total = hashlib.sha256()
    for images, annotations in paths.values():
        if annotations.is_dir():
            for folder in (images, annotations):
                files = sorted(path for path in folder.rglob("*.png"))
                total.update("\n".join(f"{f.relative_to(folder)} {f.stat().st_size}" for f in files).encode())
            continue
        content = annotations.read_bytes()
        total.update(content)
        names = sorted(image["file_name"] for image in json.loads(content)["images"])
        total.update("\n".join(f"{name} {(images / name).stat().st_size}" for name in names).encode())
    return total.hexdigest()
