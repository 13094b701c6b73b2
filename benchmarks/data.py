"""Where each scale's data lies, and the checks it must pass. Imports neither torch nor mmdet."""
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

SPLITS = ("train", "val")
MAGIC_END = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}


class DataError(ValueError):
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


@dataclass(frozen=True)
class Found:
    """Whether a scale's data is there, and the sentence that says so."""

    ready: bool
    text: str

    def __str__(self) -> str:
        return self.text


def _paths(scale: str, task: str, root: Path) -> dict[str, tuple[Path, Path]]:
    """(images, annotations) of each split."""
    if scale == "mini":
        base = root / "mini" / "scenes"
        return {s: (base / s, base / "annotations" / f"instances_{s}.json") for s in SPLITS}
    if scale == "small":
        base = root / "small" / "coco"
        return {s: (base / "photos", base / "annotations" / f"person_{s}.json") for s in SPLITS}
    base = root / "coco"
    return {s: (base / f"{s}2017", base / "annotations" / f"instances_{s}2017.json") for s in SPLITS}


def available(root: Path) -> dict[str, Found]:
    """What is there for each scale; only looks whether files exist."""
    def state(needed: list[Path], present: str, absent: str) -> Found:
        missing = [str(path) for path in needed if not path.exists()]
        return Found(False, f"{absent}; missing {', '.join(missing)}") if missing else Found(True, present)

    small = [root / "small" / "pool.safetensors", *sum(_paths("small", "", root).values(), ())]
    paper = sum(_paths("paper", "", root).values(), ())
    return {
        "mini": Found(True, "drawn by the package when first needed"),
        "small": state(list(dict.fromkeys(small)), "Imagenette pool and COCO photos",
                       "run `python benchmarks/prepare.py small`"),
        "paper": state([*paper, root / "imagenet" / "train"], "COCO 2017 and ImageNet",
                       "link COCO 2017 to coco/ and ImageNet to imagenet/"),
    }


def pool_for(scale: str, root: Path) -> Path:
    """The pretraining pool of a scale: a pool file, or the folder of ImageNet's classes. The mini pool is drawn
    when first asked for. Raises DataError where it is missing."""
    if scale == "mini":
        from detco.drawn import write_pool

        return write_pool(root / "mini")
    path = root / "small" / "pool.safetensors" if scale == "small" else root / "imagenet" / "train"
    if not path.exists():
        raise DataError(f"scale {scale}: no pretraining pool at {path}: {available(root)[scale]}")
    return path


def coco_for(scale: str, task: str, root: Path) -> CocoData:
    """The data a task transfers to at a scale, checked. The mini scenes are drawn when first asked for.

    Raises DataError for whatever `check_coco` finds, and where splits disagree on the categories.
    """
    if scale == "mini":
        from detco.drawn import write_scenes

        write_scenes(root / "mini" / "scenes")
    paths = _paths(scale, task, root)
    classes = {split: check_coco(*pair) for split, pair in paths.items()}
    if classes["train"] != classes["val"]:
        raise DataError(f"{paths['val'][1]}: its categories are not those of {paths['train'][1].name}; "
                        "both splits need the same list")
    return CocoData(*paths["train"], *paths["val"], classes["train"], fingerprint(paths))


def classes_of(scale: str, task: str, root: Path) -> tuple[str, ...]:
    """A task's categories without touching images: what `--dry-run` needs. COCO's 80 where COCO is absent."""
    if scale == "mini":
        from detco.drawn import SCENE_CLASSES

        return SCENE_CLASSES
    if scale == "small":
        return ("person",)
    annotations = _paths(scale, task, root)["val"][1]
    if annotations.exists():
        return tuple(c["name"] for c in json.loads(annotations.read_text())["categories"])
    return tuple(f"category {i}" for i in range(1, 81))


def fingerprint(paths: dict[str, tuple[Path, Path]]) -> str:
    """sha256 over the annotation files' bytes and, for each image they list, its name and size on disk."""
    total = hashlib.sha256()
    for images, annotations in paths.values():
        content = annotations.read_bytes()
        total.update(content)
        names = sorted(image["file_name"] for image in json.loads(content)["images"])
        total.update("\n".join(f"{name} {(images / name).stat().st_size}" for name in names).encode())
    return total.hexdigest()


def check_coco(images: Path, annotations: Path) -> tuple[str, ...]:
    """Check a COCO annotation file and that each of its images is there and complete; its categories' names.

    Raises:
        DataError: the file is missing, truncated or lacks a part; an annotation points to no image or category
            or has a box that is not four finite numbers; an image is missing or truncated. The line says which,
            how many, and what to do.
    """
    data = _read_json(annotations)
    parts = [p for p in ("images", "annotations", "categories") if not isinstance(data, dict) or not data.get(p)]
    if parts:
        raise DataError(f"{annotations}: no {' and no '.join(parts)} in it; it is not a complete COCO annotation file")
    try:
        _check_annotations(data, annotations)
        missing, broken = _check_images(images, [image["file_name"] for image in data["images"]])
        names = tuple(category["name"] for category in data["categories"])
    except (KeyError, TypeError) as error:
        raise DataError(f"{annotations}: an entry lacks its field {error}; it is not COCO's form") from None
    if missing:
        raise DataError(f"{images}: {_several(missing, 'image')} of {annotations.name} missing; complete the download")
    if broken:
        raise DataError(f"{images}: {_several(broken, 'image')} truncated or no JPEG or PNG; fetch them again")
    return names


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file; see `python benchmarks/run.py --list`") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not JSON, or truncated, at line {error.lineno} column {error.colno}; "
                        "fetch it again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text at byte {error.start}; fetch it again") from None


def _check_annotations(data: dict, path: Path) -> None:
    known_images = {image["id"] for image in data["images"]}
    known_categories = {category["id"] for category in data["categories"]}
    entries = data["annotations"]
    for what, bad in (
        ("pointing to no image", [a["id"] for a in entries if a["image_id"] not in known_images]),
        ("of an unknown category", [a["id"] for a in entries if a["category_id"] not in known_categories]),
        ("whose box is not four finite numbers", [a["id"] for a in entries if not _is_box(a["bbox"])]),
    ):
        if bad:
            raise DataError(f"{path}: {_several(bad, 'annotation')} {what}; remove or mend them")


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(
        isinstance(v, (int, float)) and math.isfinite(v) for v in box)


def _check_images(folder: Path, names: list[str]) -> tuple[list[str], list[str]]:
    """Names of the images that are missing, and of those that do not end as their format does."""
    missing, broken = [], []
    for name in names:
        end = MAGIC_END.get(Path(name).suffix.lower())
        try:
            with open(folder / name, "rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - 64))
                tail = file.read().rstrip(b"\0\r\n")
        except OSError:
            missing.append(name)
            continue
        if not tail or (end and end not in tail):
            broken.append(name)
    return missing, broken


def _several(items: list, noun: str) -> str:
    """'3 images (a, b, c)', the first five named."""
    named = ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")
    return f"{len(items)} {noun}{'s' * (len(items) > 1)} ({named})"
