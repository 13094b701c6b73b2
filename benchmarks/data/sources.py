"""What each scale's data is and where it lies. Imports neither torch nor mmdet."""
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from benchmarks.data.checks import Checked, check_coco, check_maps
from benchmarks.data.coco import CocoData, DataError, listing, pool_categories, supercategories
from detco.console import log
from detco.errors import several

POOLS = {"train": "pool.safetensors", "val": "pool_val.safetensors"}
SPLITS = ("train", "val")


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
POOLED = (("small", "voc"), ("small", "voc07_labels"))  # (scale, source) whose categories are supercategories
POOL_IMAGES = {"mini": 4000, "small": 9469, "paper": 1_281_167}  # of the training pools
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
    if source == "pool":
        needed = [folder_of(scale, root) / POOL_FILES[scale]["train"]]
    elif source == "imagenet":
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


def pool_size(scale: str, root: Path) -> int:
    """Images of a scale's training pool: of the file that is there, else of the pool as it should be."""
    path = folder_of(scale, root) / POOL_FILES[scale]["train"]
    if path.is_file():
        with suppress(OSError, SafetensorError), safe_open(path, "numpy") as file:
            return file.get_slice("labels").get_shape()[0]
    return POOL_IMAGES[scale]


def _pool_classes(path: Path) -> tuple[str, ...]:
    """The classes of a pool: those that its file names, or its folders; none where it is absent or damaged."""
    if path.is_dir():
        return tuple(sorted(entry.name for entry in os.scandir(path) if entry.is_dir()))
    with suppress(OSError, SafetensorError, KeyError, TypeError, ValueError), safe_open(path, "numpy") as file:
        return tuple(json.loads(file.metadata()["classes"]))
    return ()


def cache_of(root: Path) -> Path | None:
    """The folder that keeps what is found out about a data folder: inside it, or in the user's cache where it cannot be
    written; None where there is no data folder. Raises DataError where neither can be written."""
    if not root.is_dir():
        return None
    place = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (root / ".checked", user / "detco-bench" / place):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    raise DataError(f"{root}: neither it nor {user} can be written, where cleaned annotations go; set XDG_CACHE_HOME "
                    "to a folder that can")


def coco_for(scale: str, source: str, root: Path, masks: bool | None = None, show: bool = False) -> CocoData:
    """The data of a source at a scale, checked. What the mini scale draws is drawn when first asked for.

    Args:
        masks: as `check_coco`'s.
        show: show progress bars, and print what the check notes.
    Raises DataError for whatever `check_source` finds, and where splits disagree on the categories.
    """
    paths = _paths(scale, source, root)
    _make(scale, source, root, paths)
    cache = cache_of(root)
    if source == "cityscapes_semantic":
        classes = classes_of(scale, source, root)
        prints = [check_maps(*pair, len(classes), cache, show) for pair in paths.values()]
        return CocoData(*paths["train"], *paths["val"], classes, _joined(prints))
    found = {split: check_source(scale, source, *pair, masks=masks, cache=cache, show=show)
             for split, pair in paths.items()}
    return joined(paths, found, show)


def joined(paths: Mapping[str, tuple[Path, Path]], found: Mapping[str, Checked], show: bool = False) -> CocoData:
    """Both checked splits as one set; what the checks note is printed where `show`. Raises DataError where the splits
    disagree on the categories."""
    train, val = found["train"], found["val"]
    if train.classes != val.classes:
        raise DataError(f"{paths['val'][1]}: its categories are not those of {paths['train'][1].name}; "
                        "both splits need the same list")
    notes = [*train.notes, *val.notes]
    if both := [name for digest, name in val.photos.items() if digest in train.photos]:
        notes.append(f"{paths['val'][1]}: {several(both, 'image')} trained on too, by content; scores are partly of "
                     "what was learned by heart")
    for note in notes if show else ():
        log(f"note: {note}")
    return CocoData(paths["train"][0], train.annotations, paths["val"][0], val.annotations, train.classes,
                    _joined([train.fingerprint, val.fingerprint]))


def _joined(fingerprints: list[str]) -> str:
    return hashlib.sha256(" ".join(fingerprints).encode()).hexdigest()


def _make(scale: str, source: str, root: Path, paths: dict[str, tuple[Path, Path]]) -> None:
    """Draw or derive what a scale makes itself, unless it is there."""
    if scale == "mini":
        from benchmarks.data import synthetic_sets

        synthetic_sets.draw(source, root / "mini")
    if (scale, source) in POOLED:
        for split, (_, annotations) in paths.items():
            pool_categories(_objects(root, split), annotations, cache_of(root))


def _objects(root: Path, split: str) -> Path:
    """The small scale's annotations of 80 categories, of which VOC's place is made."""
    return _paths("small", "coco", root)[split][1].with_name(f"objects_{split}.json")


def check_source(scale: str, source: str, images: Path, annotations: Path, masks: bool | None = None,
                 cache: Path | None = None, show: bool = False) -> Checked:
    """Check one split of a source of transfer data.

    Args:
        masks, cache, show: as `check_coco`'s.
    Raises DataError for whatever `check_coco` finds, for keypoints that cannot be used where persons are the source,
    and where the number of categories is not the source's (what the mini scale draws has any).
    """
    checked = check_coco(images, annotations, keypoints=source == "person", masks=masks,
                         difficult=source.startswith("voc"), cache=cache, show=show)
    number, expected = len(checked.classes), CLASS_COUNTS.get(scale, {}).get(source)
    if expected not in (number, None):
        raise DataError(f"{annotations}: its categories are {number}, those of {source} at the {scale} scale "
                        f"{expected}: a task's heads and published figures are of these; give the set's own")
    return checked


def classes_of(scale: str, source: str, root: Path) -> tuple[str, ...]:
    """A source's categories without touching images: what `--dry-run` needs. Numbered ones where it is absent."""
    if scale == "mini":
        from benchmarks.data.synthetic_sets import classes_of as drawn

        return drawn(source)
    if source == "cityscapes_semantic":
        from benchmarks.data.cityscapes import SEMANTIC_CLASSES

        return SEMANTIC_CLASSES
    if source == "imagenet":
        annotations, found = None, _pool_classes(folder_of(scale, root) / POOL_FILES[scale]["val"])
        if found:
            return found
    else:
        annotations = _paths(scale, source, root)["val"][1]
    if (scale, source) in POOLED and _objects(root, "val").is_file():
        return tuple(supercategories(listing(_objects(root, "val")).categories))
    if annotations and annotations.is_file():
        return tuple(c.get("name") for c in listing(annotations).categories)
    return tuple(f"category {i}" for i in range(1, CLASS_COUNTS[scale][source] + 1))
