"""Pascal VOC's annotations in COCO's form (MoCo's and detectron2's protocol: AP, AP50 and AP75, not AP50 alone)."""
import json
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from rich.progress import Progress

from benchmarks.data.coco import DataError
from detco.errors import several
from detco.files import replacing

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
# Files made: (year, image set) they hold.
SETS = {"trainval0712": (("2007", "trainval"), ("2012", "trainval")), "trainval2007": (("2007", "trainval"), ),
        "test2007": (("2007", "test"), )}


def convert(devkit: Path, out: Path, classes: tuple[str, ...] = CLASSES, bar: Progress | None = None) -> None:
    """Write `out`/{trainval0712,trainval2007,test2007}.json, COCO's form, from a VOCdevkit with VOC2007 and VOC2012.

    `file_name` is relative to the devkit, an image's id its folder's year before its name's digits (2007000001), boxes
    are those of detectron2: VOC's first pixel is 1 and its last one included, so 1 is taken from the smaller corner.
    `difficult` objects are kept in training, as detectron2 does; in the test file they are also `iscrowd`, by which
    COCO's evaluation leaves them out, as VOC's does. A file that is there is kept.

    Raises DataError: a part of a split is missing, an image set is empty or lists an image twice, XML that is not well
    formed, an unknown class, a box that has no area or leaves its image by more than a pixel (a smaller excess is cut).
    """
    missing = [str(part.relative_to(devkit)) for sets in SETS.values() for year, name in sets
               for part in (_list(devkit, year, name), devkit / f"VOC{year}" / "Annotations",
                            devkit / f"VOC{year}" / "JPEGImages") if not part.exists()]
    if missing:
        raise DataError(f"{devkit}: {several(sorted(set(missing)), 'part')} missing; unpack VOC2007's trainval and "
                        "test and VOC2012's trainval there")
    listed = {part: _stems(_list(devkit, *part)) for sets in SETS.values() for part in sets}
    for name, sets in SETS.items():
        path = out / f"{name}.json"
        if path.exists():
            continue
        files = [(year, stem) for year, image_set in sets for stem in listed[year, image_set]]
        files = bar.track(files, description=f"{name}.json") if bar else files
        content = dict(images=[], annotations=[], categories=[
            dict(id=i + 1, name=c, supercategory="object") for i, c in enumerate(classes)])
        for year, stem in files:
            image, objects = _read(devkit, year, stem, classes)
            content["images"].append(image)
            for a in objects:
                crowd = int(name == "test2007" and a["difficult"])
                content["annotations"].append(a | dict(id=len(content["annotations"]) + 1, iscrowd=crowd))
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content))


def _list(devkit: Path, year: str, image_set: str) -> Path:
    return devkit / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt"


def _stems(path: Path) -> list[str]:
    """The images of an image set, by name. Raises DataError."""
    counts = Counter(path.read_text().split())
    if not counts:
        raise DataError(f"{path}: lists no image; unpack it again")
    if twice := [stem for stem, count in counts.items() if count > 1]:
        raise DataError(f"{path}: {several(twice, 'image')} listed more than once; unpack it again")
    return list(counts)


def _read(devkit: Path, year: str, stem: str, classes: tuple[str, ...]) -> tuple[dict, list[dict]]:
    """An image's entry and its annotations, as yet without ids."""
    path = devkit / f"VOC{year}" / "Annotations" / f"{stem}.xml"
    try:
        root = ElementTree.parse(path).getroot()
        width, height = (int(root.find("size").findtext(side)) for side in ("width", "height"))
        found = [(o.find("name").text.strip(), int(o.findtext("difficult") or 0),
                  [float(o.find("bndbox").findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")])
                 for o in root.iter("object")]
    except FileNotFoundError:
        raise DataError(f"{path}: missing, but its image set lists it; unpack VOC{year} again") from None
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: XML that is not well formed, line {error.position[0]}; "
                        f"unpack VOC{year} again") from None
    except (AttributeError, TypeError, ValueError):
        raise DataError(f"{path}: no size, or an object without name or box; unpack VOC{year} again") from None
    if unknown := sorted({name for name, _, _ in found} - set(classes)):
        raise DataError(f"{path}: {several(unknown, 'name')} of no known class; known are {', '.join(classes)}")
    cut = [(max(x1, 1), max(y1, 1), min(x2, width), min(y2, height)) for _, _, (x1, y1, x2, y2) in found]
    if bad := [name for (name, _, (x1, y1, x2, y2)), (left, top, right, bottom) in zip(found, cut)
               if not (0 <= x1 <= x2 <= width + 1 and 0 <= y1 <= y2 <= height + 1
                       and left < right + 1 and top < bottom + 1)]:
        raise DataError(f"{path}: {several(bad, 'object')} with a box outside the image of {width} x {height} or "
                        "without area; mend it")
    number = int(f"{year}{stem.replace('_', '')}")
    image = dict(id=number, file_name=f"VOC{year}/JPEGImages/{stem}.jpg", width=width, height=height)
    return image, [dict(image_id=number, category_id=classes.index(name) + 1, difficult=difficult,
                        bbox=[x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], area=(x2 - x1 + 1) * (y2 - y1 + 1))
                   for (name, difficult, _), (x1, y1, x2, y2) in zip(found, cut)]
