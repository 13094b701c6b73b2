"""Cityscapes' polygons as instances in COCO's form and as semantic maps."""
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from pycocotools import mask as masks
from rich.progress import Progress

from benchmarks.data.building import each
from benchmarks.data.checks import image_state
from benchmarks.data.coco import DataError, made_from, read_json
from detco.config import digest
from detco.content import Table
from detco.errors import several
from detco.files import replacing

SEMANTIC_CLASSES = ("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
                    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle",
                    "bicycle")
THINGS = SEMANTIC_CLASSES[11:]
VOID = 255
VERSION = 2  # of what `convert` makes of polygons
_VOID_LABELS = ("unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground",
                "parking", "rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer")
Labels = dict[str, tuple[int, bool]]
# Label -> (train id, counted as instances), as in cityscapesScripts' helpers/labels.py. A label of VOID hides what it
# is painted over; one of -1 is not painted, so a license plate stays a part of its car.
LABELS: Labels = ({name: (number, name in THINGS) for number, name in enumerate(SEMANTIC_CLASSES)}
                  | {name: (VOID, False) for name in _VOID_LABELS} | {"license plate": (-1, False)})
Point = tuple[int, int]
Object = tuple[int, bool, bool, list[Point]]  # train id, is a thing, is a group, polygon


def convert(source: Path, out: Path, labels: Labels = LABELS, splits: Sequence[str] = ("train", "val"),
            bar: Progress | None = None, cache: Path | None = None) -> None:
    """Write what the tasks read from `source`/{leftImg8bit,gtFine}/<split>/<city>.

    `out`/annotations/instances_<split>.json: COCO's form with one RLE mask an instance of what remains visible,
    `file_name` relative to leftImg8bit/<split>, categories numbered from 1 in the order of train ids; a group of
    things, such as "cargroup", is a crowd. `out`/semantic/<split>/<city>/<image>_labelTrainIds.png: train ids uint8
    [H, W], VOID where nothing is labelled. Whole maps and annotation files made of the same polygons are kept.

    Args:
        labels: name -> (train id, counted as instances); a train id of -1 is not painted.
        cache: folder that keeps the files' hashes (`detco.content`).
    Raises:
        DataError: a part of a split is missing, an image is truncated, has no polygons or has another size than they
            say; a file of polygons is broken, or has an unknown label or a polygon of fewer than 3 points or wholly
            outside its image.
    """
    parts = [f"{part}/{split}" for split in splits for part in ("leftImg8bit", "gtFine")]
    if missing := [part for part in parts if not (source / part).is_dir()]:
        raise DataError(f"{source}: {several(missing, 'part')} missing; unpack leftImg8bit_trainvaltest.zip and "
                        "gtFine_trainvaltest.zip there")
    for split in splits:
        _convert_split(source, out, split, labels, bar or Progress(disable=True), cache)


def _convert_split(source: Path, out: Path, split: str, labels: Labels, bar: Progress, cache: Path | None) -> None:
    images, fine, annotations = (source / "leftImg8bit" / split, source / "gtFine" / split,
                                 out / "annotations" / f"instances_{split}.json")
    polygons = _polygon_files(images, fine)
    names = [str(path.relative_to(fine)) for path in polygons.values()]
    facts = Table(fine, cache).of(names)
    content = {name.as_posix(): digest([VERSION, labels, f.digest]) for name, f in zip(polygons, facts)}
    whole = made_from(annotations) == digest(content)
    things = sorted((number, name) for name, (number, thing) in labels.items() if thing)
    categories = {number: i for i, (number, _) in enumerate(things, 1)}

    def convert_one(name: Path) -> tuple[dict, list[dict]]:
        map_file = out / "semantic" / split / _renamed(name, "labelTrainIds.png")
        kept = not image_state(map_file) and _map_made_from(map_file) == content[name.as_posix()]
        if whole and kept:
            return {}, []
        (width, height), objects = _read(polygons[name], images / name, labels)
        numbers = _paint(width, height, objects)
        if not kept:
            train_ids = np.array([VOID, *(number for number, *_ in objects)], np.uint8)
            text = PngInfo()
            text.add_text("made_from", content[name.as_posix()])
            with replacing(map_file) as temporary:
                Image.fromarray(train_ids[numbers]).save(temporary, "PNG", pnginfo=text)
        return dict(file_name=name.as_posix(), width=width, height=height), _instances(numbers, objects, categories)

    converted = each(convert_one, list(polygons), bar, f"Cityscapes {split}")
    if whole:
        return
    result = dict(info=dict(made_from=digest(content)),
                  images=[dict(id=number) | image for number, (image, _) in enumerate(converted, 1)],
                  annotations=[dict(image_id=number) | instance for number, (_, instances) in enumerate(converted, 1)
                               for instance in instances],
                  categories=[dict(id=categories[number], name=name, supercategory="object")
                              for number, name in things])
    for number, annotation in enumerate(result["annotations"], 1):
        annotation["id"] = number
    with replacing(annotations, sealed=True) as temporary:
        temporary.write_text(json.dumps(result))


def _map_made_from(path: Path) -> str | None:
    """What a whole label map says that it was made from."""
    with Image.open(path) as image:
        return image.info.get("made_from")


def _renamed(image: Path, ending: str) -> Path:
    return image.with_name(image.name.replace("leftImg8bit.png", ending))


def _polygon_files(images: Path, fine: Path) -> dict[Path, Path]:
    """Each image's name in its split, sorted, and its file of polygons."""
    names = sorted(path.relative_to(images) for path in images.rglob("*_leftImg8bit.png"))
    if not names:
        raise DataError(f"{images}: no images named *_leftImg8bit.png; unpack leftImg8bit_trainvaltest.zip again")
    files = {name: fine / _renamed(name, "gtFine_polygons.json") for name in names}
    if lost := [name.stem for name, path in files.items() if not path.exists()]:
        raise DataError(f"{fine}: {several(lost, 'image')} without *_gtFine_polygons.json; unpack "
                        "gtFine_trainvaltest.zip again")
    return files


def _read(path: Path, image: Path, labels: Labels) -> tuple[tuple[int, int], list[Object]]:
    """(width, height) and the objects in painting order, without those marked deleted. Raises DataError."""
    content = read_json(path)
    try:
        width, height = size = int(content["imgWidth"]), int(content["imgHeight"])
        found = [(o["label"], [(int(x), int(y)) for x, y in o["polygon"]])
                 for o in content["objects"] if not o.get("deleted")]
        unknown = sorted({label for label, _ in found if _single(label, labels) not in labels})
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):  # OverflowError: an infinite coordinate
        raise DataError(f"{path}: no imgWidth, imgHeight or objects, or an object without label or polygon of points; "
                        "unpack it again") from None
    if unknown:
        raise DataError(f"{path}: {several(unknown, 'label')} unknown; known are {', '.join(labels)}")
    for flaw, bad in (
        ("with fewer than 3 points", [label for label, polygon in found if len(polygon) < 3]),
        (f"wholly outside the image of {width} x {height}",
         [label for label, polygon in found if polygon and _outside(polygon, width, height)]),
    ):
        if bad:
            raise DataError(f"{path}: {several(bad, 'polygon')} {flaw}; mend it, or mark it deleted")
    if flaw := image_state(image, size):
        raise DataError(f"{image}: {flaw} ({path.name}: {width} x {height} pixels); unpack both again")
    objects = [(*labels[_single(label, labels)], label not in labels, polygon) for label, polygon in found]
    return size, [o for o in objects if o[0] >= 0]


def _single(label: str, labels: Labels) -> str:
    """'car' for 'cargroup'; 'polegroup' is a label of its own."""
    return label if label in labels else label.removesuffix("group")


def _outside(polygon: list[Point], width: int, height: int) -> bool:
    (left, top), (right, bottom) = np.min(polygon, 0), np.max(polygon, 0)
    return right < 0 or bottom < 0 or left > width or top > height


def _paint(width: int, height: int, objects: list[Object]) -> np.ndarray:
    """Which object each pixel shows: int32 [H, W], 0 for none, else its place from 1. Later ones lie over earlier,
    and a polygon's outline belongs to it, as in cityscapesScripts' preparation/json2instanceImg.py."""
    image = Image.new("I", (width, height))
    draw = ImageDraw.Draw(image)
    for number, (_, _, _, polygon) in enumerate(objects, 1):
        draw.polygon(polygon, fill=number)
    return np.asarray(image)


def _instances(numbers: np.ndarray, objects: list[Object], categories: dict[int, int]) -> list[dict]:
    """COCO's annotations, as yet without ids, of the things that show a pixel in a map of objects."""
    areas, numbers = np.bincount(numbers.ravel(), minlength=len(objects) + 1), np.asfortranarray(numbers)
    found = []
    for number, (train_id, thing, group, _) in enumerate(objects, 1):
        if thing and areas[number]:
            rle = masks.encode((numbers == number).view(np.uint8))
            found.append(dict(category_id=categories[train_id], iscrowd=int(group), area=int(areas[number]),
                              bbox=masks.toBbox(rle).tolist(),
                              segmentation=dict(size=rle["size"], counts=rle["counts"].decode())))
    return found
