"""The public data sets in their own form: checked, linked into the data folder, converted or unpacked there.

The full sets' image counts are known; another count is a warning, since people work on parts of them.
"""
import json
import os
import shutil
from pathlib import Path

from benchmarks.data import cityscapes, voc
from benchmarks.data.checks import check_maps
from benchmarks.data.coco import DataError, read_json
from benchmarks.data.sources import COCO_FORM, SPLITS, cache_of, check_source
from detco.console import CONSOLE, log, progress_bar
from detco.errors import several
from detco.files import replacing, sha256

# Images of the full sets, by annotation file.
COCO_IMAGES = {"instances_train2017": 118_287, "instances_val2017": 5_000}
VOC_IMAGES = {"trainval0712": 16_551, "trainval2007": 5_011, "test2007": 4_952}
CITYSCAPES_IMAGES = {"instances_train": 2_975, "instances_val": 500}
IMAGENET_CLASSES, IMAGENET_IMAGES = 1000, {"train": 1_281_167, "val": 50_000}


def link(path: Path, target: Path) -> None:
    """Make `path` a link to the folder `target`, unless it is that folder already. Raises DataError where anything
    else is in its place."""
    if path.exists() and path.samefile(target):
        return
    if os.path.lexists(path):
        what = f"a link to {os.readlink(path)}" if path.is_symlink() else "something else"
        raise DataError(f"{path}: there is {what}, not {target}; move it away, or choose another --data-root")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target.resolve(), target_is_directory=True)


def prepare_coco(source: Path, root: Path) -> None:
    """Check COCO 2017 and link root/coco to it.

    The annotation files' sha256 are written to root/coco-checksums.json by the first check and compared by later ones.
    Raises DataError for what is missing, broken or changed.
    """
    files = [annotations.removeprefix("coco/") for kind in ("coco", "person")
             for _, annotations in COCO_FORM[kind].values()]
    _require(source, [*(f"{split}2017" for split in SPLITS), *files], "fetch COCO 2017 from cocodataset.org")
    link(root / "coco", source)
    record = root / "coco-checksums.json"
    known = read_json(record) if record.exists() else {}
    with CONSOLE.status("checksums of COCO's annotations"):
        sums = {name: sha256(source / name) for name in files}
    if changed := [name for name in files if known.get(name, sums[name]) != sums[name]]:
        raise DataError(f"{source}: {several(changed, 'file')} changed since the first check; fetch COCO's annotations "
                        f"again, or delete {record} if the change is meant")
    for kind in ("coco", "person"):
        for images, annotations in COCO_FORM[kind].values():
            _check(kind, root, root / images, root / annotations, COCO_IMAGES)
    if known != sums:
        with replacing(record) as temporary:
            temporary.write_text(json.dumps(sums, indent=2) + "\n")


def prepare_voc(source: Path, root: Path) -> None:
    """Link root/voc/VOCdevkit to a VOCdevkit, convert it to COCO's form and check that. Raises DataError."""
    _require(source, ["VOC2007", "VOC2012"], "unpack VOC2007's trainval and test and VOC2012's trainval there")
    devkit, out = root / "voc" / "VOCdevkit", root / "voc" / "annotations"
    link(devkit, source)
    with progress_bar() as bar:
        voc.convert(devkit, out, bar=bar, cache=cache_of(root))
    for name in voc.SETS:
        _check("voc", root, devkit, out / f"{name}.json", VOC_IMAGES)


def prepare_cityscapes(source: Path, root: Path) -> None:
    """Link root/cityscapes/{leftImg8bit,gtFine} to Cityscapes' folders, convert them to instances in COCO's form and
    to semantic maps, and check those. Raises DataError."""
    parts, folder = ("leftImg8bit", "gtFine"), root / "cityscapes"
    _require(source, [f"{part}/{split}" for part in parts for split in SPLITS],
             "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there")
    for part in parts:
        link(folder / part, source / part)
    with progress_bar() as bar:
        cityscapes.convert(folder, folder, bar=bar, cache=cache_of(root))
    for images, annotations in COCO_FORM["cityscapes"].values():
        _check("cityscapes", root, root / images, root / annotations, CITYSCAPES_IMAGES)
    for split, (images, maps) in COCO_FORM["cityscapes_semantic"].items():
        check_maps(root / images, root / maps, len(cityscapes.SEMANTIC_CLASSES), cache_of(root), show=True)
        log(f"semantic/{split}: {sum(1 for _ in (root / maps).rglob('*_labelTrainIds.png')):,} maps")


def prepare_imagenet(source: Path, root: Path) -> None:
    """Link root/imagenet to ImageNet's class folders, or unpack the official archives there, and check it.

    Raises DataError for what is missing or damaged, a class without images, and classes that differ between splits.
    """
    folder = root / "imagenet"
    if not any(source.glob("ILSVRC2012_*.tar*")) or all((source / split).is_dir() for split in SPLITS):
        _require(source, SPLITS, "give class folders, or ILSVRC2012_{img_train.tar,img_val.tar,devkit_t12.tar.gz}")
        link(folder, source)
    else:
        unpack(source, folder)
    check_imagenet(folder)


def unpack(source: Path, folder: Path) -> None:
    """Unpack ImageNet's archives into folder/{train,val}/<class>, after torchvision has compared their md5.

    A part is unpacked beside its place and renamed when it is whole; one that is there is kept. Raises DataError where
    an archive is missing or damaged.
    """
    from torchvision.datasets import imagenet  # imports torch

    if folder.is_symlink():
        raise DataError(f"{folder}: there is a link to {os.readlink(folder)}; move it away to unpack the archives")
    parts = [split for split in SPLITS if not (folder / split).is_dir()]
    needed = {split: ["devkit", "val"] if split == "val" else [split] for split in parts}  # the devkit tells classes
    archives = {name: source.resolve() / file for name, (file, _) in imagenet.ARCHIVE_META.items()}
    _require(source, [archives[name].name for part in parts for name in needed[part]], "complete the download")
    work = folder.resolve() / ".unpacking"
    for part in parts:
        shutil.rmtree(work, ignore_errors=True)  # what a killed run left
        work.mkdir(parents=True)
        try:
            for name in needed[part]:
                with CONSOLE.status(f"checking and unpacking {archives[name].name}"):
                    getattr(imagenet, f"parse_{name}_archive")(work, archives[name])
            os.replace(work / part, folder / part)
        except RuntimeError as error:
            if "corrupted" not in str(error):
                raise
            raise DataError(f"{archives[name]}: damaged, its md5 is not that of ImageNet's; fetch it again") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)


def check_imagenet(folder: Path) -> None:
    """Check class folders under folder/{train,val}: the same in both, none without images. Raises DataError."""
    from torchvision.datasets import ImageFolder  # imports torch

    found = {}
    for split in SPLITS:
        with CONSOLE.status(f"listing {split}"):
            try:
                found[split] = ImageFolder(str(folder / split), allow_empty=True)
            except FileNotFoundError:
                raise DataError(f"{folder / split}: no class folders in it; sort its images into one folder a "
                                "class") from None
        filled = set(found[split].targets)
        if empty := [name for name, label in found[split].class_to_idx.items() if label not in filled]:
            raise DataError(f"{folder / split}: {several(empty, 'class folder')} without images; "
                            "delete the split and unpack it again")
    if lone := sorted(set(found["train"].classes) ^ set(found["val"].classes)):
        raise DataError(f"{folder}: {several(lone, 'class folder')} in only one of train/ and val/; both need the same")
    for split, images in found.items():
        log(f"{split}: {len(images):,} images, {len(images.classes):,} classes")
        _compare(split, len(images), IMAGENET_IMAGES[split])
    _compare("train and val", len(found["val"].classes), IMAGENET_CLASSES, "classes")


def _require(source: Path, parts: list[str] | tuple[str, ...], remedy: str) -> None:
    """Raise DataError for the parts that are not under `source`."""
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; {remedy}")
    if missing := [part for part in parts if not (source / part).exists()]:
        raise DataError(f"{source}: {several(missing, 'part')} missing; {remedy}")


def _check(source: str, root: Path, images: Path, annotations: Path, expected: dict[str, int]) -> None:
    """Check an annotation file of a source and its images, and say what is there. Raises DataError."""
    checked = check_source("paper", source, images, annotations, cache=cache_of(root), show=True)
    log(f"{annotations.stem}: {checked.images:,} images, {checked.objects:,} annotations, "
        f"{len(checked.classes)} class" + "es" * (len(checked.classes) > 1))
    for note in checked.notes:
        log(f"note: {note}")
    _compare(annotations.stem, checked.images, expected.get(annotations.stem, checked.images))


def _compare(what: str, number: int, expected: int, noun: str = "images") -> None:
    if number != expected:
        log(f"warning: {what}: {number:,} {noun}, where the full set has {expected:,}; right if you use a part of it")
