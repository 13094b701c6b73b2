"""What each scale's data is, where it lies, and the checks it must pass. Imports neither torch nor mmdet."""
import hashlib
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from detco.config import CONFIGS
from detco.errors import UserError
from detco.files import replacing

DEFINITION = CONFIGS / "data" / "small"
POOLS = {"train": "pool.safetensors", "val": "pool_val.safetensors"}
SETS = ("person_train", "person_val", "objects_train", "objects_val")
SPLITS = ("train", "val")
# What a whole JPEG and a whole PNG begin and end with.
MARKS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))
FIELDS = {"images": ("id", "file_name", "width", "height"), "categories": ("id", "name"),
          "annotations": ("id", "image_id", "category_id", "bbox")}
KEYPOINTS = 17  # of COCO's persons
MISSING, BROKEN, RESIZED = "missing", "truncated or not decodable", "of another size than the annotations say"


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


@dataclass(frozen=True)
class Found:
    """Whether a scale's data is there, and the sentence that says so."""

    ready: bool
    text: str

    def __str__(self) -> str:
        return self.text


# Where a source of transfer data lies under a scale's folder, by split: (images, annotations).
COCO_FORM = {
    "coco": {s: (f"coco/{s}2017", f"coco/annotations/instances_{s}2017.json") for s in SPLITS},
    "person": {s: (f"coco/{s}2017", f"coco/annotations/person_keypoints_{s}2017.json") for s in SPLITS},
    "voc": {"train": ("voc/VOCdevkit", "voc/annotations/trainval0712.json"),
            "val": ("voc/VOCdevkit", "voc/annotations/test2007.json")},
    "voc07_labels": {"train": ("voc/VOCdevkit", "voc/annotations/trainval2007.json"),
                     "val": ("voc/VOCdevkit", "voc/annotations/test2007.json")},
    "cityscapes": {s: (f"cityscapes/leftImg8bit/{s}", f"cityscapes/annotations/instances_{s}.json") for s in SPLITS},
    "cityscapes_semantic": {s: (f"cityscapes/leftImg8bit/{s}", f"cityscapes/semantic/{s}") for s in SPLITS},
}
_PHOTOS = {kind: {s: ("coco/photos", f"coco/annotations/{kind}_{s}.json") for s in SPLITS}
           for kind in ("person", "objects", "supercategories")}
SOURCES = {
    "mini": COCO_FORM | {
        "coco": {s: (f"scenes/{s}", f"scenes/annotations/instances_{s}.json") for s in SPLITS},
        "person": {s: (f"scenes/{s}", f"scenes/annotations/person_keypoints_{s}.json") for s in SPLITS}},
    # VOC's place is taken by objects of 12 supercategories; street scenes have no like among the photos.
    "small": {"coco": _PHOTOS["person"], "person": _PHOTOS["person"], "voc": _PHOTOS["supercategories"],
              "voc07_labels": _PHOTOS["supercategories"]},
    "paper": COCO_FORM,
}
CLASS_COUNTS = {
    "small": {"coco": 1, "person": 1, "voc": 12, "voc07_labels": 12, "imagenet": 10},
    "paper": {"coco": 80, "person": 1, "voc": 20, "voc07_labels": 20, "cityscapes": 8, "cityscapes_semantic": 19,
              "imagenet": 1000},
}
POOL_FILES = {"mini": POOLS, "small": POOLS, "paper": {split: f"imagenet/{split}" for split in SPLITS}}


def folder_of(scale: str, root: Path) -> Path:
    """Where a scale's data lies."""
    return root if scale == "paper" else root / scale


def _paths(scale: str, source: str, root: Path) -> dict[str, tuple[Path, Path]]:
    """(images, annotations) of each split. Raises DataError where the scale has no such source."""
    if source not in SOURCES[scale]:
        raise DataError(f"the {scale} scale has no {source} data: leave this task out, or run it at another scale")
    base = folder_of(scale, root)
    return {split: (base / images, base / annotations)
            for split, (images, annotations) in SOURCES[scale][source].items()}


def available(root: Path) -> dict[str, Found]:
    """What is there for each scale, and for the paper scale's further data; only looks whether files exist."""
    def state(needed: list[Path], present: str, absent: str) -> Found:
        missing = [str(path) for path in dict.fromkeys(needed) if not path.exists()]
        return Found(False, f"{absent}; missing {', '.join(missing)}") if missing else Found(True, present)

    def paths(scale: str, *sources: str) -> list[Path]:
        return [path for source in sources for pair in _paths(scale, source, root).values() for path in pair]

    def prepare(what: str) -> str:
        return f"run `python benchmarks/prepare.py {what}`, its --help says from what"

    small = [root / "small" / POOLS["train"], *paths("small", "coco")]
    return {
        "mini": Found(True, "drawn by the package when first needed"),
        "small": state(small, "Imagenette pool and COCO photos", prepare("small")),
        "paper": state([*paths("paper", "coco", "person"), root / "imagenet" / "train"], "COCO 2017 and ImageNet",
                       f"{prepare('coco')}; likewise imagenet"),
        "paper: VOC": state(paths("paper", "voc", "voc07_labels"), "VOC 2007 and 2012", prepare("voc")),
        "paper: Cityscapes": state(paths("paper", "cityscapes", "cityscapes_semantic"), "instances and semantic maps",
                                   prepare("cityscapes")),
    }


def require(scale: str, source: str, root: Path) -> None:
    """Raise DataError where a source of a scale is plainly not there, before hours go into what comes first."""
    if scale == "mini":
        return
    if source == "imagenet":
        needed = [folder_of(scale, root) / name for name in POOL_FILES[scale].values()]
    else:
        needed = [images for images, _ in _paths(scale, source, root).values()]
    if missing := [str(path) for path in dict.fromkeys(needed) if not path.exists()]:
        raise DataError(f"scale {scale}: no {source} data, {' and '.join(missing)} missing; "
                        "`python benchmarks/run.py --list` says what makes it")


def pool_for(scale: str, root: Path, split: str = "train") -> Path:
    """The pretraining pool of a scale, or its validation part: a pool file, or the folder of ImageNet's classes.
    The mini pools are drawn when first asked for. Raises DataError where it is missing."""
    path = folder_of(scale, root) / POOL_FILES[scale][split]
    if scale == "mini":
        from benchmarks.data.synthetic import write_pool

        return write_pool(path.parent, split=split)
    if not path.exists():
        raise DataError(f"scale {scale}: no pool of images at {path}: {available(root)[scale]}")
    return path


def coco_for(scale: str, source: str, root: Path) -> CocoData:
    """The data of a source at a scale, checked. What the mini scale draws is drawn when first asked for.

    Raises DataError for whatever `check_source` finds, and where splits disagree on the categories.
    """
    paths = _paths(scale, source, root)
    _make(scale, source, root, paths)
    if source == "cityscapes_semantic":
        for pair in paths.values():
            check_maps(*pair)
        classes = dict.fromkeys(SPLITS, classes_of(scale, source, root))
    else:
        classes = {split: check_source(scale, source, *pair) for split, pair in paths.items()}
    if classes["train"] != classes["val"]:
        raise DataError(f"{paths['val'][1]}: its categories are not those of {paths['train'][1].name}; "
                        "both splits need the same list")
    return CocoData(*paths["train"], *paths["val"], classes["train"], fingerprint(paths))


def _make(scale: str, source: str, root: Path, paths: dict[str, tuple[Path, Path]]) -> None:
    """Draw or derive what a scale makes itself, unless it is there."""
    if scale == "mini":
        from benchmarks.data import synthetic_sets

        synthetic_sets.draw(source, root / "mini")
    if (scale, source) in (("small", "voc"), ("small", "voc07_labels")):
        for split, (_, annotations) in paths.items():
            if not annotations.exists():
                pool_categories(_paths("small", "coco", root)[split][1].with_name(f"objects_{split}.json"), annotations)


def pool_categories(annotations: Path, out: Path) -> None:
    """Write a COCO annotation file whose categories are the supercategories of another's, in their order there."""
    content = read_coco(annotations)
    names = list(dict.fromkeys(category["supercategory"] for category in content["categories"]))
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


def classes_of(scale: str, source: str, root: Path) -> tuple[str, ...]:
    """A source's categories without touching images: what `--dry-run` needs. Numbered ones where it is absent."""
    if scale == "mini":
        from benchmarks.data.synthetic_sets import classes_of as drawn

        return drawn(source)
    if source == "cityscapes_semantic":
        from benchmarks.data.cityscapes import SEMANTIC_CLASSES

        return SEMANTIC_CLASSES
    annotations = None if source == "imagenet" else _paths(scale, source, root)["val"][1]
    if annotations and annotations.is_file():
        return tuple(c["name"] for c in json.loads(annotations.read_text())["categories"])
    return tuple(f"category {i}" for i in range(1, CLASS_COUNTS[scale][source] + 1))


def check_maps(images: Path, maps: Path) -> None:
    """Check that each image of a folder in Cityscapes' form, and its label map, is there and whole. Raises DataError."""
    names = sorted(path.relative_to(images) for path in images.rglob("*_leftImg8bit.png"))
    if not names:
        raise DataError(f"{images}: no images named *_leftImg8bit.png; prepare them again")
    states = {(name, kind): image_state(folder / name.with_name(name.name.replace("leftImg8bit", kind)))
              for name in names for folder, kind in ((images, "leftImg8bit"), (maps, "labelTrainIds"))}
    for flaw in (MISSING, BROKEN):
        if bad := [f"{name.stem} {kind}" for (name, kind), state in states.items() if state == flaw]:
            raise DataError(f"{maps}: {several(bad, 'file')} {flaw}; prepare them again")


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


@dataclass(frozen=True)
class Definition:
    """What belongs to the small scale.

    Attributes:
        pools: split -> Imagenette's photos as 'wnid/stem', sorted: the pool's order.
        sets: COCO set -> image id -> ids of its annotations.
        digests: list -> counts and sha256. Names and ids alone enter it, so it does not depend on a decoder.
    """

    pools: dict[str, list[str]]
    sets: dict[str, dict[int, list[int]]]
    digests: dict[str, dict]

    @classmethod
    def load(cls, folder: Path = DEFINITION) -> "Definition":
        """Read the lists. Raises DataError where one is missing or not the one the fingerprint was taken of."""
        def lines(name: str) -> list[str]:
            try:
                return (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
            except FileNotFoundError:
                raise DataError(f"{folder / name}.txt: this list of the definition is missing; restore it") from None

        pools = {split: sorted(lines(f"imagenette_{split}")) for split in POOLS}
        rows = {name: lines(name) for name in SETS}
        try:
            sets = {name: {image: ids for image, *ids in (map(int, row.split()) for row in rows[name])} for name in SETS}
        except ValueError as error:
            raise DataError(f"{folder}: a list of ids holds something else ({error}); restore it") from None
        definition = cls(pools, sets, read_json(folder / "fingerprint.json"))
        for name, found in digests(pools, sets).items():
            if found != definition.digests.get(name):
                raise DataError(f"{folder / name}.txt: not the list fingerprint.json was taken of; restore one of them")
        return definition

    @property
    def photos(self) -> list[int]:
        """Ids of every COCO photo of any set."""
        return sorted(set().union(*self.sets.values()))


def digests(pools: dict[str, list[str]], sets: dict[str, dict[int, list[int]]]) -> dict[str, dict]:
    """Counts and sha256 of each list; the order of lines and of ids does not matter."""
    def sha256(lines: Iterable[str]) -> str:
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()

    return {f"imagenette_{split}": dict(images=len(names), sha256=sha256(names)) for split, names in pools.items()} | {
        name: dict(images=len(images), annotations=sum(map(len, images.values())),
                   sha256=sha256(" ".join(map(str, [image, *sorted(ids)])) for image, ids in images.items()))
        for name, images in sets.items()}


def check_source(scale: str, source: str, images: Path, annotations: Path) -> tuple[str, ...]:
    """Check one split of a source of transfer data; its categories' names.

    Raises DataError for whatever `check_coco` finds, for keypoints that cannot be used where persons are the source,
    and where the number of categories is not the source's (what the mini scale draws has any).
    """
    classes = check_coco(images, annotations, keypoints=source == "person")
    expected = CLASS_COUNTS.get(scale, {}).get(source, len(classes))
    if len(classes) != expected:
        raise DataError(f"{annotations}: its categories are {len(classes)}, those of {source} at the {scale} scale "
                        f"{expected}: a task's heads and published figures are of these; give the set's own")
    return classes


def check_coco(images: Path, annotations: Path, decode: bool = False, keypoints: bool = False) -> tuple[str, ...]:
    """Check a COCO annotation file and that each of its images is there and whole; its categories' names.

    Boxes without area are counted in a warning: mmdet leaves them out.

    Args:
        decode: decode every image and compare its size with the entry's; otherwise an image is decoded only
            where its first and last bytes are not those of a whole JPEG or PNG.
        keypoints: check every annotation's (`check_keypoints`).
    Raises:
        DataError: the file is missing, truncated or lacks a part or field; an annotation points to no image or
            category or has a box that is not four finite numbers; an image is missing or cannot be decoded.
            The line says which, how many, and what to do.
    """
    data = read_coco(annotations)
    _check_annotations(data, annotations)
    if keypoints:
        check_keypoints(annotations, data["annotations"])
    states = {e["file_name"]: image_state(images / e["file_name"], (e["width"], e["height"]) if decode else None)
              for e in data["images"]}
    for flaw in (MISSING, BROKEN, RESIZED):
        if bad := [name for name, state in states.items() if state == flaw]:
            raise DataError(f"{images}: {several(bad, 'image')} of {annotations.name} {flaw}; fetch or prepare them again")
    return tuple(category["name"] for category in data["categories"])


def check_keypoints(path: Path, annotations: list[dict]) -> None:
    """Check the keypoints of some of a COCO file's annotations.

    Raises DataError that names the file and the annotations: keypoints that are not 51 finite numbers, a visibility
    other than 0, 1 or 2, or no `num_keypoints`, without which pycocotools cannot evaluate.
    """
    flawed = {}
    for annotation in annotations:
        if flaw := _keypoint_flaw(annotation):
            flawed.setdefault(flaw, []).append(annotation["id"])
    for flaw, ids in flawed.items():
        raise DataError(f"{path}: {several(ids, 'annotation')} {flaw}; remove or mend them")


def _keypoint_flaw(annotation: dict) -> str:
    values = annotation.get("keypoints")
    if not (isinstance(values, list) and len(values) == 3 * KEYPOINTS and all(map(_is_finite, values))):
        return f"whose keypoints are not {3 * KEYPOINTS} finite numbers"
    if not {*values[2::3]} <= {0, 1, 2}:
        return "with a visibility other than 0, 1 or 2"
    return "" if "num_keypoints" in annotation else "without num_keypoints"


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
            raise DataError(f"{path}: {several(bad, 'annotation')} {what}; remove or mend them")
    if flat := [a["id"] for a in entries if min(a["bbox"][2:]) <= 0]:
        logging.getLogger(__name__).warning("%s: %s with a box without area; left out of training", path,
                                            several(flat, "annotation"))


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))


def _is_finite(value) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def image_state(path: Path, size: tuple[int, int] | None = None) -> str:
    """'' for an image that is there and whole, else what ails it: MISSING, BROKEN or RESIZED.

    Args:
        size: (width, height) it must have; None only looks at its first and last bytes, and decodes it where
            those are unusual (some files of the public sets end oddly and are whole).
    """
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            file.seek(max(0, file.seek(0, 2) - 64))
            tail = file.read()
    except OSError:
        return MISSING
    if size is None and any(head.startswith(start) and end in tail for start, end in MARKS):
        return ""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return RESIZED if size and image.size != size else ""
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for broken files, by format
        return BROKEN


def several(items: list, noun: str) -> str:
    """'3 images (a, b, c)', the first five named."""
    named = ", ".join(map(str, items[:5])) + (", ..." if len(items) > 5 else "")
    many = noun if len(items) == 1 else noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{len(items)} {many} ({named})"
