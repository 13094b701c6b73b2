"""Pascal VOC's annotations in COCO's form (MoCo's and detectron2's protocol: AP, AP50 and AP75, not AP50 alone)."""
import json
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

from rich.progress import Progress

from benchmarks.data.annotations import inside, is_whole
from benchmarks.data.coco import DataError, made_from
from detco.config import digest
from detco.content import Table, folder_digest
from detco.errors import several
from detco.files import replacing

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
           "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
# Files made: (year, image set) they hold.
SETS = {"trainval0712": (("2007", "trainval"), ("2012", "trainval")), "trainval2007": (("2007", "trainval"), ),
        "test2007": (("2007", "test"), )}
VERSION = 2  # of what `convert` makes of a devkit
NUMBER = re.compile(r"[0-9]+(_[0-9]+)*")  # an image's name in VOC's own sets
ENCODING = re.compile(rb"""(?:\xef\xbb\xbf)?\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")


def convert(devkit: Path, out: Path, classes: tuple[str, ...] = CLASSES, bar: Progress | None = None,
            cache: Path | None = None) -> None:
    """Write `out`/{trainval0712,trainval2007,test2007}.json, COCO's form, from a VOCdevkit with VOC2007 and VOC2012.

    `file_name` is relative to the devkit, an image's id its folder's year before its name's digits (2007000001), or,
    where a name is no number, its place in the list; boxes are those of detectron2: VOC's first pixel is 1 and its last
    one included, so 1 is taken from the smaller corner. `difficult` objects are kept in training, as detectron2 does;
    in the test file they are also `iscrowd`, by which COCO's evaluation leaves them out, as VOC's does. A file made of
    the same lists and annotations is kept.

    Args:
        cache: folder that keeps the annotation files' hashes (`detco.content`).
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
    table = Table(devkit, cache)
    for name, sets in SETS.items():
        path = out / f"{name}.json"
        files = [(year, stem) for year, image_set in sets for stem in listed[year, image_set]]
        labels = [f"VOC{year}/Annotations/{stem}.xml" for year, stem in files]
        source = digest([VERSION, classes, name == "test2007", labels, folder_digest(labels, table.of(labels))])
        if made_from(path) == source:
            continue
        numbers = _numbers(files)
        content = dict(info=dict(made_from=source), images=[], annotations=[], categories=[
            dict(id=i + 1, name=c, supercategory="object") for i, c in enumerate(classes)])
        pairs = list(zip(files, numbers))
        for (year, stem), number in bar.track(pairs, description=f"{name}.json") if bar else pairs:
            image, objects = _read(devkit, year, stem, classes)
            content["images"].append(dict(id=number) | image)
            for a in objects:
                crowd = int(name == "test2007" and a["difficult"])
                content["annotations"].append(
                    dict(image_id=number) | a | dict(id=len(content["annotations"]) + 1, iscrowd=crowd))
        with replacing(path, sealed=True) as temporary:
            temporary.write_text(json.dumps(content))


def _list(devkit: Path, year: str, image_set: str) -> Path:
    return devkit / f"VOC{year}" / "ImageSets" / "Main" / f"{image_set}.txt"


def _stems(path: Path) -> list[str]:
    """The images of an image set, by name, one a line. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    counts = Counter(filter(None, map(str.strip, lines)))
    if not counts:
        raise DataError(f"{path}: lists no image; unpack it again")
    if twice := [stem for stem, count in counts.items() if count > 1]:
        raise DataError(f"{path}: {several(twice, 'image')} listed more than once; unpack it again")
    if bad := [stem for stem in counts if not inside(stem)]:
        raise DataError(f"{path}: {several(bad, 'name')} leading out of its folder; name images by their files")
    return list(counts)


def _numbers(files: list[tuple[str, str]]) -> list[int]:
    """The images' ids: their names' digits after the year where every name is a number, else places from 1."""
    if all(NUMBER.fullmatch(stem) for _, stem in files):
        numbers = [int(f"{year}{stem.replace('_', '')}") for year, stem in files]
        if len(set(numbers)) == len(numbers) and all(map(is_whole, numbers)):
            return numbers
    return list(range(1, len(files) + 1))


def _tree(path: Path, year: str) -> ElementTree.Element:
    """An annotation file's root element. Raises DataError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: missing, but its image set lists it; unpack VOC{year} again") from None
    declared = ENCODING.match(data)
    encoding = declared[1].decode() if declared else "utf-8"
    try:  # Python knows more encodings than the parser, which finds UTF-16 by itself
        return ElementTree.fromstring(data.decode(encoding).removeprefix("\ufeff") if declared else data)
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: XML that is not well formed, line {error.position[0]}, or is not in {encoding}; "
                        f"mend it, or unpack VOC{year} again") from None
    except LookupError:
        raise DataError(f"{path}: line 1 declares the unknown encoding '{encoding}'; save it as UTF-8") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not in {encoding}, which line 1 declares; save it as UTF-8") from None


def _read(devkit: Path, year: str, stem: str, classes: tuple[str, ...]) -> tuple[dict, list[dict]]:
    """An image's entry and its annotations, as yet without ids."""
    path = devkit / f"VOC{year}" / "Annotations" / f"{stem}.xml"
    root = _tree(path, year)

    def number(node: ElementTree.Element, tag: str, what: str) -> float:
        text = (node.findtext(tag) or "").strip()
        try:
            return float(text)
        except ValueError:
            raise DataError(f"{path}: the {tag} of {what} is '{text[:40]}', no number; mend it") from None

    nodes = list(root.iter("object"))
    if root.find("size") is None or not all(o.find("bndbox") is not None and (o.findtext("name") or "").strip()
                                            for o in nodes):
        raise DataError(f"{path}: no size, or an object without name or box; unpack VOC{year} again")
    names = [o.findtext("name").strip() for o in nodes]
    if unknown := sorted(set(names) - set(classes)):
        raise DataError(f"{path}: {several(unknown, 'name')} of no known class; known are {', '.join(classes)}")
    width, height = (number(root.find("size"), side, "the image") for side in ("width", "height"))
    if not all(side > 0 and side % 1 == 0 for side in (width, height)):
        raise DataError(f"{path}: a size of {width:g} x {height:g} pixels; mend it")
    width, height = int(width), int(height)
    found = [[number(o.find("bndbox"), side, f"a {name}") for side in ("xmin", "ymin", "xmax", "ymax")]
             for o, name in zip(nodes, names)]
    marks = [number(o, "difficult", f"a {name}") if (o.findtext("difficult") or "").strip() else 0
             for o, name in zip(nodes, names)]
    if bad := [name for name, mark in zip(names, marks) if mark not in (0, 1)]:
        raise DataError(f"{path}: {several(bad, 'object')} whose difficult is neither 0 nor 1; mend it")
    cut = [(max(x1, 1), max(y1, 1), min(x2, width), min(y2, height)) for x1, y1, x2, y2 in found]
    if bad := [name for name, (x1, y1, x2, y2), (left, top, right, bottom) in zip(names, found, cut)
               if not (0 <= x1 <= x2 <= width + 1 and 0 <= y1 <= y2 <= height + 1
                       and left < right + 1 and top < bottom + 1)]:
        raise DataError(f"{path}: {several(bad, 'object')} with a box outside the image of {width} x {height} or "
                        "without area; mend it")
    image = dict(file_name=f"VOC{year}/JPEGImages/{stem}.jpg", width=width, height=height)
    return image, [dict(category_id=classes.index(name) + 1, difficult=int(mark),
                        bbox=[x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], area=(x2 - x1 + 1) * (y2 - y1 + 1))
                   for name, mark, (x1, y1, x2, y2) in zip(names, marks, cut)]
