"""Annotations in COCO's form, seen once before any work: what stands in the way, what tools would drop or trip over.

`examine` gives findings, each a kind of trouble with the ids that have it. Some refuse the file; others are told, and
where a tool would trip over them the entries are mended in memory (ids anew, areas computed), so that a cleaned file
can be written. The tools are pycocotools 2.0.11, mmdet 3.3.0 and the suite's own data sets for it.
"""
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import PurePath

import msgspec
import numpy as np
from msgspec import UNSET, Raw

from benchmarks.data.coco import NOTHING, Annotation, CocoFile, Image
from detco.errors import several

KEYPOINTS = 17  # of COCO's persons
CHUNK = 8192  # annotations looked at together
WHOLE = 2**53  # a larger number is not the same as a float, which evaluation makes of ids
LARGE = 1e12  # no coordinate or area
SMALLEST = 1e-5  # pixels; a narrower box is left out of training, as in detectron2
Trouble = defaultdict[str | tuple[str, str], list[int]]  # what ails annotations -> their ids
_POLYGONS = msgspec.json.Decoder(list[list[float]])


@dataclass
class Findings:
    """What `examine` found, in lines without the file's name.

    Attributes:
        refusals: why the file cannot be used.
        notes: what is left out, mended, or to be known.
        changed: entries were mended, so that the file as it is must not be used.
    """

    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed: bool = False

    def refuse(self, ids: Sequence, noun: str, what: str, remedy: str = "remove or mend them") -> bool:
        if ids:
            self.refusals.append(f"{several(ids, noun)} {what}; {remedy}")
        return bool(ids)

    def note(self, ids: Sequence, what: str, remedy: str, changed: bool = False) -> None:
        if ids:
            self.notes.append(f"{several(ids, 'annotation')} {what}; {remedy}")
            self.changed |= changed


def examine(data: CocoFile, masks: bool = False, keypoints: bool = False, difficult: bool = False) -> Findings:
    """Look at a file's entries, and mend in place what can be.

    Args:
        masks: a task learns from masks.
        keypoints: a task learns from persons' keypoints.
        difficult: a task leaves out difficult objects, as VOC's do.
    """
    found = Findings()
    _images(data.images, found)
    _categories(data.categories, found)
    if not found.refusals:
        _references(data, found)
    if not found.refusals:
        _objects(data, masks, keypoints, difficult, found)
    return found


def is_whole(value) -> bool:
    """Whether it is a whole number that ids and sizes can be; true and false are none."""
    return type(value) is int and abs(value) < WHOLE


def _repeated(values: Iterable) -> list:
    return [value for value, count in Counter(values).items() if count > 1]


def _images(images: list[Image], found: Findings) -> None:
    names = [i.file_name for i in images]
    found.refuse([i.id for i in images if not is_whole(i.id)], "image", "whose id is no whole number")
    found.refuse([i.id for i in images if not all(is_whole(side) and side > 0 for side in (i.width, i.height))],
                 "image", "whose width or height is no whole number of pixels")
    found.refuse([repr(n)[:100] for n in names if not inside(n)], "file name",
                 "that leads out of the folder of images, or is none", "give names relative to it, without '..'")
    if found.refusals:
        return
    found.refuse(_repeated(i.id for i in images), "image id", "given more than once", "number the images anew")
    if twice := _repeated(names):
        found.notes.append(f"{several(twice, 'photo')} listed more than once: what is annotated of one entry is "
                           "background in the other")


def inside(name) -> bool:
    """Whether a file name stays in the folder that it is relative to."""
    if not isinstance(name, str) or not name or not name.isprintable():
        return False
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts != ()


def _categories(categories: list[dict], found: Findings) -> None:
    found.refuse([c["id"] for c in categories if not is_whole(c["id"])], "category", "whose id is no whole number")
    found.refuse([c["id"] for c in categories if not isinstance(c["name"], str) or not c["name"]], "category",
                 "whose name is no text")
    if not found.refusals:
        found.refuse(_repeated(c["id"] for c in categories), "category id", "given more than once",
                     "number the categories anew")
        found.refuse(_repeated(c["name"] for c in categories), "category name", "given more than once",
                     "join those categories, or name them apart")


def _references(data: CocoFile, found: Findings) -> None:
    images, categories = {i.id for i in data.images}, {c["id"] for c in data.categories}
    entries = data.annotations
    if found.refuse([a.id for a in entries if not is_whole(a.id)], "annotation", "whose id is no whole number"):
        return
    found.refuse(_repeated(a.id for a in entries), "annotation id", "given more than once",
                 "number the annotations anew")
    found.refuse([a.id for a in entries if not is_whole(a.image_id) or a.image_id not in images], "annotation",
                 "pointing to no image")
    found.refuse([a.id for a in entries if not is_whole(a.category_id) or a.category_id not in categories],
                 "annotation", "of an unknown category")
    found.refuse([a.id for a in entries if not _is_box(a.bbox)], "annotation", "whose box is not four finite numbers")
    for name in ("iscrowd", "ignore", "difficult"):
        found.refuse([a.id for a in entries if getattr(a, name) not in (0, 1, None, UNSET)], "annotation",
                     f"whose {name} is neither 0 nor 1")


def is_finite(value) -> bool:
    """Whether it is a number, finite and no larger than any that means something."""
    return isinstance(value, (int, float)) and -LARGE < value < LARGE


def _is_box(box) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(map(is_finite, box))


def _objects(data: CocoFile, masks: bool, keypoints: bool, difficult: bool, found: Findings) -> None:
    sizes = {i.id: (i.width, i.height) for i in data.images}
    entries, refused, noted = data.annotations, Trouble(list), Trouble(list)
    usable, corners, shares, beyond, apart, astray = 0, 0, 0, [], [], []
    measured, crowds, counts, marks, unread = [], [], [], [], []
    for start in range(0, len(entries), CHUNK):
        part = entries[start:start + CHUNK]
        frames = np.array([sizes[a.image_id] for a in part], float)
        boxes = np.array([a.bbox for a in part], float)
        near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        meets = (np.minimum(far, frames) - np.maximum(near, 0) > SMALLEST).all(1)
        thin = (boxes[:, 2:] < 1).any(1)
        beyond += [part[i].id for i in np.flatnonzero(meets & ((near < -1).any(1) | (far > frames + 1).any(1)))]
        corners += int(((boxes[:, 2:] > near) & (boxes[:, 2:] <= frames + 1) & (near >= -1)).all(1).sum())
        shares += int((np.abs(boxes) <= 1).all(1).sum())
        shapes = _Shapes(part, frames, *((refused, noted) if masks else (Trouble(list), Trouble(list))))
        found.changed |= shapes.changed and masks
        left_top, right_bottom = shapes.extents[:, :2], shapes.extents[:, 2:]
        off = (np.minimum(far, right_bottom) < np.maximum(near, left_top) - 1).any(1)
        apart += [part[i].id for i in np.flatnonzero(shapes.valid & off) if masks]
        for i, a in enumerate(part):
            if not (masks or shapes.valid[i]) and a.is_masked:
                a.segmentation = NOTHING
                unread.append(a.id)
            if a.iscrowd is UNSET or a.iscrowd is None:
                a.iscrowd = 0
                crowds.append(a.id)
            if difficult and (a.difficult is UNSET or a.difficult is None):
                a.difficult = 0
                marks.append(a.id)
            if not (is_finite(a.area) and a.area > 0):
                a.area = float(shapes.area(i) or boxes[i, 2:].clip(0).prod())
                measured.append(a.id)
            if a.ignore is not UNSET and a.ignore:
                noted["marked `ignore`", "left out of training, and of evaluation as crowds are"].append(a.id)
                found.changed |= a.iscrowd != 1
                a.iscrowd = 1
            elif not meets[i]:
                noted["with a box without area, or outside its photo", "left out of training"].append(a.id)
            else:
                usable += a.iscrowd != 1
                if thin[i]:
                    noted["with a box under a pixel wide or high", "used as they are"].append(a.id)
            if keypoints:
                flaw, count, outside = _keypoints(a, boxes[i])
                if flaw:
                    refused[flaw].append(a.id)
                elif a.num_keypoints != count:
                    a.num_keypoints = count
                    counts.append(a.id)
                if outside:
                    astray.append(a.id)
    for what, ids in refused.items():
        found.refuse(ids, "annotation", what)
    for what, ids in noted.items():
        found.note(ids, *what)
    _units(found, entries, usable, corners, shares, beyond)
    for ids, what in ((apart, "whose mask lies outside its box"), (astray, "whose keypoints all lie outside its box")):
        if len(ids) > len(entries) / 2:
            found.refuse(ids, "annotation", what, "give both in pixels of the photo")
        else:
            found.note(ids, what, "used as they are")
    found.note(measured, "without an area above 0", "taken from mask or box", changed=True)
    found.note(crowds, "without iscrowd", "taken for single objects", changed=True)
    found.note(marks, "without difficult", "taken for none", changed=True)
    found.note(unread, "with a mask that cannot be used", "this task reads boxes alone, the masks are left out",
               changed=True)
    found.note(counts, "without the count of its keypoints (num_keypoints), or with a wrong one", "counted anew",
               changed=True)
    if any(a.id == 0 for a in entries):
        # pycocotools marks a match by the object's id, so that one found under 0 counts as missed.
        found.note([0], "is numbered 0", "all are numbered anew from 1", changed=True)
        for number, a in enumerate(entries, 1):
            a.id = number


def _units(found: Findings, entries: list[Annotation], usable: int, corners: int, shares: int, beyond: list) -> None:
    """Refuse boxes that are plainly not left, top, width and height in pixels, or none of which can be learned from."""
    if shares > 0.95 * len(entries):
        found.refuse([a.id for a in entries], "annotation",
                     "whose box lies within 0 and 1, as if in shares of the photo",
                     "give left, top, width and height in pixels")
    elif len(beyond) > 0.1 * len(entries) and corners == len(entries):
        found.refuse(beyond, "annotation", "whose box leaves its photo, but would not as two corners",
                     "give left, top, width and height in pixels")
    elif not usable:
        reasons = "; ".join(found.notes) or "all are crowds"
        found.refusals.append(f"none of {several([a.id for a in entries], 'annotation')} is an object to learn from: "
                              f"{reasons}")
    else:
        found.note(beyond, "whose box leaves its photo by more than a pixel", "used as they are")


class _Shapes:
    """The masks of some annotations.

    Attributes:
        valid: bool [N], whether a mask can be used.
        extents: float [N, 4], left, top, right, bottom of valid masks.
        changed: polygons of fewer than three points were taken out of masks that have others.
    """

    def __init__(self, part: list[Annotation], frames: np.ndarray, refused: Trouble, noted: Trouble):
        self.part, self.frames, self.refused, self.noted, self.changed = part, frames, refused, noted, False
        self.extents, self.valid = np.zeros((len(part), 4)), np.zeros(len(part), bool)
        self.surfaces = np.zeros(len(part))
        polygons, owners = [], []
        for i, a in enumerate(part):
            start = bytes(memoryview(a.segmentation)[:1])
            if start == b"[":
                whole = self._polygons(i, a)
                polygons += whole
                owners += [i] * len(whole)
            elif start == b"{":
                self._runs(i, a)
            else:
                refused["without a mask"].append(a.id)
        if polygons:
            flat = np.fromiter(chain.from_iterable(polygons), float)
            starts = np.cumsum([0, *(len(p) // 2 for p in polygons)])
            x, y = flat[::2], flat[1::2]
            following = np.arange(1, len(x) + 1)
            following[starts[1:] - 1] = starts[:-1]  # a polygon's last point is followed by its first
            surface = np.add.reduceat(x * y[following] - x[following] * y, starts[:-1])
            np.add.at(self.surfaces, owners, np.abs(surface) / 2)
            self.extents[owners] = [math.inf, math.inf, -math.inf, -math.inf]
            for column, values in enumerate((x, y, x, y)):
                extreme = np.minimum if column < 2 else np.maximum
                extreme.at(self.extents[:, column], owners, extreme.reduceat(values, starts[:-1]))
        for i in np.flatnonzero(self.valid & (self.surfaces < 2)):  # the few that may hold no pixel
            if not self.area(i):
                noted["whose mask covers no pixel", "used as they are"].append(part[i].id)

    def _polygons(self, i: int, a: Annotation) -> list[list[float]]:
        try:
            polygons = _POLYGONS.decode(a.segmentation)
        except msgspec.MsgspecError:
            polygons = [[math.inf]]
        whole = [p for p in polygons if len(p) >= 6]
        if not all(-LARGE < v < LARGE for v in chain.from_iterable(polygons)):
            self.refused["whose polygons are not lists of finite numbers x, y, x, y, ..."].append(a.id)
        elif any(len(p) % 2 for p in whole):
            self.refused["with a polygon of an odd number of coordinates"].append(a.id)
        elif not whole:
            self.refused["without a mask: no polygon of three points or more"].append(a.id)
        else:
            self.valid[i] = True
            if len(whole) < len(polygons):  # mmdet drops them too; pycocotools would take four numbers for a box
                self.changed = True
                self.noted["with a polygon of fewer than three points beside others", "it is left out"].append(a.id)
                a.segmentation = Raw(msgspec.json.encode(whole))
            return whole
        return []

    def _runs(self, i: int, a: Annotation) -> None:
        width, height = self.frames[i]
        try:
            shape = msgspec.json.decode(a.segmentation)
            counts = shape["counts"]
            runs = _runs_of_text(counts) if isinstance(counts, str) else counts
            if not isinstance(counts, str) and not all(type(run) is int for run in counts):
                raise ValueError
            runs = np.array(runs, float)
            size = list(map(int, shape["size"]))
            if size != [height, width]:
                self.refused["whose mask is of another size than its photo, or has its sides swapped"].append(a.id)
                return
            if not len(runs) or (runs < 0).any() or runs.sum() != width * height:
                raise ValueError
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError, OverflowError):
            self.refused["whose mask's runs (counts) do not fill its size"].append(a.id)
            return
        self.valid[i], self.surfaces[i] = True, runs[1::2].sum()
        ends = np.cumsum(runs)
        begin, end = ends[:-1:2], ends[1::2]  # of the runs inside
        begin, end = begin[end > begin], end[end > begin]
        if len(begin):
            left, right = begin[0] // height, (end[-1] - 1) // height + 1
            over = (begin // height != (end - 1) // height).any()  # a run that goes on in the next column
            top, bottom = (0, height) if over else ((begin % height).min(), ((end - 1) % height).max() + 1)
            self.extents[i] = left, top, right, bottom

    def area(self, i: int) -> int:
        """The pixels that a valid mask covers, else 0."""
        if not self.valid[i]:
            return 0
        from pycocotools import mask

        width, height = map(int, self.frames[i])
        shape = msgspec.json.decode(self.part[i].segmentation)
        if isinstance(shape, list):
            shape = mask.merge(mask.frPyObjects(shape, height, width))
        elif isinstance(shape["counts"], list):
            shape = mask.frPyObjects(shape, height, width)
        return int(mask.area(shape))


def _runs_of_text(text: str) -> np.ndarray:
    """The runs of COCO's compressed RLE, as its maskApi.c reads them: digits of five bits, the lowest first, each run
    from the third on as the difference to the last but one. Raises ValueError for what is none."""
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("no runs")
    last = (codes & 32) == 0
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    place = np.arange(len(codes)) - np.repeat(starts, np.diff([*starts, len(codes)]))
    if place.max() > 6:
        raise ValueError("a run of more than 2^35 pixels")
    values = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[last] & 16) != 0
    values[negative] -= 1 << (5 * (place[last][negative] + 1))
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def keypoints_flaw(values) -> str:
    """What ails an annotation's keypoints; empty for nothing."""
    if not (isinstance(values, list) and len(values) == 3 * KEYPOINTS and all(map(is_finite, values))):
        return f"whose keypoints are not {3 * KEYPOINTS} finite numbers"
    return "" if {*values[2::3]} <= {0, 1, 2} else "with a visibility other than 0, 1 or 2"


def _keypoints(a: Annotation, box: np.ndarray) -> tuple[str, int, bool]:
    """What ails an annotation's keypoints, how many are labelled, and whether all of those lie outside its box."""
    values = msgspec.json.decode(a.keypoints) if bytes(memoryview(a.keypoints)[:1]) else None
    if flaw := keypoints_flaw(values):
        return flaw, 0, False
    x, y, seen = (np.array(values[i::3]) for i in range(3))
    left, top, width, height = box
    within = (x >= left - 1) & (x <= left + width + 1) & (y >= top - 1) & (y <= top + height + 1)
    return "", int((seen > 0).sum()), bool((seen > 0).any() and not within[seen > 0].any())
