"""The embedded data of the `mini` scale: synthetic objects to pretrain on, synthetic scenes to detect in.

Image i is drawn from its own PCG64 stream [seed, i, part], with integer rasterising, so it does
not depend on how many are drawn nor on the platform (OpenCV 4.13 and newer agree to the bit).
Colour, texture, outline, size, turn, background, clutter and occluders are drawn without looking
at the category: only shape tells it. Colours are few and textures faint, so that shape also helps to
tell one image from another. Objects stand within 45 degrees of upright, on a dim ground.
`python -m benchmarks.data.synthetic --sheet FILE` draws a contact sheet.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.data.building import build_once
from benchmarks.data.synthetic_shapes import (
    KEYPOINTS,
    SHAPES,
    SKELETON,
    Outline,
    clutter,
    colours,
    figure,
    painted,
    posed,
    texture,
    uniform,
)
from detco.errors import UserError
from detco.files import alone, flaw_of, replacing

CLASSES: tuple[str, ...] = tuple(SHAPES)
SCENE_CLASSES: tuple[str, ...] = ("person", *CLASSES[:4])  # few, for a detector trained for minutes
VERSION = 2  # raise it whenever a pixel or an annotation changes: it enters every fingerprint
ORIGIN = "detco.drawn"  # the name of this module when version 2 was made: it enters the scenes' fingerprint
_POOL, _SCENE = 0, 1
_SQUARE = np.ones((3, 3), np.uint8)
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)  # quick
_KEEP_POOL, _KEEP_SCENE = 0.65, 0.35  # least visible share of an object


def _stream(seed: int, index: int, part: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, index, part]))


def _fill(mask: np.ndarray, polygons: list[np.ndarray]) -> None:
    for polygon in polygons:  # one by one: together their overlaps would cancel
        cv2.fillPoly(mask, [polygon], 255, cv2.LINE_8, 4)


class _Canvas:
    """An image and, for each pixel, the number of the last thing painted there (0: background)."""

    def __init__(self, rng: np.random.Generator, height: int, width: int):
        base = int(rng.integers(55, 85)) + rng.integers(-5, 6, 3)  # things stand out from a dim ground
        pair = np.stack([base, base + rng.integers(-8, 9)]).astype(np.int32)
        self.image = painted(texture(rng, height, width), pair)
        self.owner = np.zeros((height, width), np.uint8)
        self.painted = 0
        self.visible = np.zeros(256)  # pixels of each number; [0] is not kept
        self.least = np.full(256, -np.inf)
        self.keypoints: dict[int, np.ndarray] = {}

    def add(self, rng: np.random.Generator, outline: Outline, centre: tuple[float, float],
            keep: float = 0.0) -> int | None:
        """Paint a posed outline about `centre` (x, y); `keep` is the share of it that must stay visible.

        Returns its number, or None (nothing painted) where it or something under it would show too little.
        """
        width, height = (np.concatenate(outline.parts).max(0) // 16 + 3).tolist()
        mask = np.zeros((height, width), np.uint8)
        _fill(mask, outline.parts)
        left, top = math.floor(centre[0] - width / 2), math.floor(centre[1] - height / 2)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + width, self.owner.shape[1]), min(top + height, self.owner.shape[0])
        if x0 >= x1 or y0 >= y1:
            return None
        at, cut = np.s_[y0:y1, x0:x1], np.s_[y0 - top:y1 - top, x0 - left:x1 - left]
        inside, owner = mask[cut], self.owner[at]
        visible = self.visible - cv2.calcHist([owner], [0], inside, [256], [0, 256]).ravel()
        shown, least = cv2.countNonZero(inside), keep * cv2.countNonZero(mask)
        if shown < least or (visible < self.least).any():
            return None
        self._paint(rng, outline, mask, at, cut)
        self.painted = number = self.painted + 1
        cv2.copyTo(np.full_like(inside, number), inside, owner)
        self.visible = visible
        self.visible[number], self.least[number] = shown, least
        if outline.keypoints is not None:
            self.keypoints[number] = (outline.keypoints + 8) // 16 + (left, top)
        return number

    def _paint(self, rng: np.random.Generator, outline: Outline, mask: np.ndarray, at: tuple, cut: tuple) -> None:
        inside, view = mask[cut], self.image[at]
        pair = colours(rng, np.rint(cv2.mean(view)[:3]))
        weight = texture(rng, *inside.shape)
        rim, width = np.zeros_like(mask), int(rng.integers(3))
        if width:
            rim = mask - cv2.erode(mask, _SQUARE, iterations=width)
        _fill(rim, outline.marks)
        cv2.copyTo(painted(weight | rim[cut], pair), inside, view)

    def scatter(self, rng: np.random.Generator, count: int, low: float, high: float) -> None:
        """Paint up to `count` pieces of clutter, `low` to `high` pixels long, anywhere."""
        height, width = self.owner.shape
        for _ in range(count):
            piece = posed(rng, clutter(rng), uniform(rng, low, high))
            self.add(rng, piece, (uniform(rng, 0, width), uniform(rng, 0, height)))


def _pool_image(seed: int, index: int, size: int) -> tuple[np.ndarray, int, np.ndarray]:
    """One object-centred image [size, size, 3], its label, and the visible mask of its object."""
    rng = _stream(seed, index, _POOL)
    canvas = _Canvas(rng, size, size)
    canvas.scatter(rng, int(rng.integers(3)), 0.1 * size, 0.4 * size)
    label = int(rng.integers(len(CLASSES)))
    outline = posed(rng, SHAPES[CLASSES[label]](rng), uniform(rng, 0.5, 0.95) * size)
    centre = (size * uniform(rng, 0.42, 0.58), size * uniform(rng, 0.42, 0.58))
    number = canvas.add(rng, outline, centre, _KEEP_POOL)  # never refused: it hangs over by 6 % at most
    canvas.scatter(rng, int(rng.integers(2)), 0.1 * size, 0.3 * size)
    return canvas.image, label, canvas.owner == number


def draw_pool(count: int = 4000, size: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Object-centred images for pretraining: RGB uint8 [count, 3, size, size], labels int64 [count].

    Labels index CLASSES. Raises UserError when count < 1 or size < 32.
    """
    _check(count, size)
    images, labels = np.empty((count, 3, size, size), np.uint8), np.empty(count, np.int64)
    for i in range(count):
        image, labels[i], _ = _pool_image(seed, i, size)
        images[i] = image.transpose(2, 0, 1)
    return images, labels


def _check(count: int, size: int) -> None:
    if count < 1 or size < 32:
        raise UserError(f"synthetic data: count {count} and size {size}: give at least 1 image of at least 32 pixels")


def write_pool(directory: str | os.PathLike, count: int | None = None, split: str = "train") -> Path:
    """Write a pool (images, labels; metadata classes, fingerprint, source) and return its path: pool.safetensors of
    4,000 images to learn from, or for the split "val" pool_val.safetensors of 1,000 others to be tested on.

    A file that is already there is returned as it is, unless another version of this module drew it or its bytes
    changed.
    """
    name, usual, seed = {"train": ("pool", 4000, 0), "val": ("pool_val", 1000, 1)}[split]
    path = Path(directory) / f"{name}.safetensors"
    if not _is_drawn(path):
        with alone(path.parent):
            if not _is_drawn(path):  # another process was first
                _write(path, count or usual, seed)
    return path


def _write(path: Path, count: int, seed: int) -> None:
    images, labels = draw_pool(count, seed=seed)
    digest = hashlib.sha256(f"pool {VERSION}".encode())
    digest.update(images)
    digest.update(labels.astype("<i8").tobytes())
    source = f"{ORIGIN} version {VERSION}: {len(images)} images of {images.shape[-1]} px, seed {seed}"
    metadata = {"classes": json.dumps(CLASSES), "fingerprint": digest.hexdigest(), "source": source,
                "version": str(VERSION)}
    with replacing(path, sealed=True) as temporary:
        save_file({"images": images, "labels": labels}, temporary, metadata)


def _is_drawn(pool: Path) -> bool:
    """Whether a file holds a pool as this version drew it."""
    if flaw_of(pool):
        return False
    with safe_open(pool, "numpy") as file:
        return file.metadata().get("version") == str(VERSION)


def _polygons(mask: np.ndarray, x: int = 0, y: int = 0) -> list[list[float]]:
    """COCO polygons of a uint8 mask whose first pixel lies at (x, y).

    COCO polygons know no holes: a mask with one is cut in two there. Contours join pixel centres,
    half a pixel inside the true edge, hence the doubled mask; pycocotools decodes them to it.
    """
    doubled = cv2.resize(mask, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    for contour, (_, _, _, parent) in zip(contours, tree[0] if contours else ()):
        if parent >= 0:
            left, _, width, _ = cv2.boundingRect(contour)
            middle = (left + width // 2) // 2
            return _polygons(mask[:, :middle], x, y) + _polygons(mask[:, middle:], x + middle, y)
    simple = (cv2.approxPolyDP(contour, 0.6, True)[:, 0] for contour in contours)
    return [(c / 2 + (x + 0.25, y + 0.25)).ravel().tolist() for c in simple if len(c) >= 3]


def _annotation(canvas: _Canvas, number: int, category: int) -> dict:
    mask = cv2.compare(canvas.owner, number, cv2.CMP_EQ)
    x, y, width, height = box = cv2.boundingRect(mask)
    record = {"category_id": category, "iscrowd": 0, "area": cv2.countNonZero(mask), "bbox": list(box),
              "segmentation": _polygons(mask[y:y + height, x:x + width], x, y)}
    if number in canvas.keypoints:
        triples = [_keypoint(canvas.owner, number, *point) for point in canvas.keypoints[number].tolist()]
        record |= {"keypoints": [x for triple in triples for x in triple],
                   "num_keypoints": sum(t[2] > 0 for t in triples)}
    return record


def _keypoint(owner: np.ndarray, number: int, x: int, y: int) -> list[int]:
    if not (0 <= y < owner.shape[0] and 0 <= x < owner.shape[1]):
        return [0, 0, 0]
    return [x, y, 1 if owner[y, x] > number else 2]  # things painted later have larger numbers


def _scene(seed: int, index: int, size: int) -> tuple[np.ndarray, list[dict], np.ndarray]:
    """One scene [H, W, 3], its annotations in painting order, and the map of owners [H, W].

    Each annotation carries `number`, its value in the map of owners.
    """
    rng = _stream(seed, index, _SCENE)
    height, width = ((size, size), (size, size * 6 // 5), (size * 6 // 5, size))[int(rng.integers(3))]
    canvas, kept = _Canvas(rng, height, width), []
    canvas.scatter(rng, int(rng.integers(4)), 0.05 * size, 0.25 * size)
    wanted = int(rng.integers(2, 6))
    for _ in range(4 * wanted):  # a place may be refused
        person = rng.random() < 0.25
        label = 0 if person else int(rng.integers(1, len(SCENE_CLASSES)))
        outline = figure(rng) if person else SHAPES[SCENE_CLASSES[label]](rng)
        outline = posed(rng, outline, uniform(rng, 36 / 160, 90 / 160) * size)
        centre = (width * uniform(rng, 0.1, 0.9), height * uniform(rng, 0.1, 0.9))
        number = canvas.add(rng, outline, centre, _KEEP_SCENE)
        if number is not None:
            kept.append((number, label + 1))
        if len(kept) == wanted:
            break
    canvas.scatter(rng, int(rng.integers(2)), 0.05 * size, 0.2 * size)
    records = [_annotation(canvas, number, category) | {"number": number} for number, category in kept]
    return canvas.image, records, canvas.owner


def draw_scenes(count: int, size: int = 160, seed: int = 0) -> tuple[list[np.ndarray], dict]:
    """Scenes (RGB uint8 [H, W, 3], shorter side `size`) and their COCO annotations.

    Two to five objects of 36 to 90 pixels (at size 160), each at least 35 % visible; category 1 is
    `person` with COCO's 17 keypoints (v 2 seen, 1 hidden by something else, 0 outside), the other
    SCENE_CLASSES follow from 2. Raises UserError when count < 1 or size < 32.
    """
    _check(count, size)
    images, entries, annotations = [], [], []
    for i in range(count):
        image, records, _ = _scene(seed, i, size)
        images.append(image)
        height, width = image.shape[:2]
        entries.append({"id": i + 1, "file_name": f"{i + 1:06d}.png", "height": height, "width": width})
        for record in records:
            del record["number"]
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1} | record)
    person = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(KEYPOINTS),
              "skeleton": [list(pair) for pair in SKELETON]}
    shapes = [{"id": i + 2, "name": name, "supercategory": "shape"} for i, name in enumerate(SCENE_CLASSES[1:])]
    info = {"description": f"{ORIGIN} version {VERSION}: scenes of {size} px, seed {seed}"}
    return images, {"info": info, "images": entries, "annotations": annotations, "categories": [person, *shapes]}


def write_scenes(directory: str | os.PathLike, train: int = 450, val: int = 150) -> Path:
    """Write train/*.png, val/*.png, annotations/instances_{train,val}.json and fingerprint-v<VERSION>.txt; the folder.

    A finished folder is returned as it is; one that another version of this module drew is drawn anew.
    Raises DataError when it holds anything else.
    """
    build_once(Path(directory), lambda folder: f"{_fill_scenes(folder, train, val)}\n", "fingerprint", VERSION)
    return Path(directory)


def _fill_scenes(folder: Path, train: int, val: int) -> str:
    """Draw scenes into a folder; a digest of their images and annotations."""
    images, coco = draw_scenes(train + val)
    digest = hashlib.sha256(f"scenes {VERSION}".encode())
    for name, first, stop in (("train", 0, train), ("val", train, train + val)):
        ids = range(first + 1, stop + 1)
        part = coco | {"images": coco["images"][first:stop],
                       "annotations": [a for a in coco["annotations"] if a["image_id"] in ids]}
        (folder / name).mkdir()
        for entry, image in zip(part["images"], images[first:stop]):
            digest.update(np.ascontiguousarray(image))
            code = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG)[1]
            (folder / name / entry["file_name"]).write_bytes(code)
        (folder / "annotations").mkdir(exist_ok=True)
        text = json.dumps(part, separators=(",", ":"))
        digest.update(text.encode())
        (folder / "annotations" / f"instances_{name}.json").write_text(text)
    return digest.hexdigest()


def _overlay(image: np.ndarray, annotations: list[dict]) -> np.ndarray:
    """A scene at twice its size with masks, boxes, keypoints and names drawn on it: [384, 384, 3]."""
    big = image.repeat(2, 0).repeat(2, 1)
    for k, record in enumerate(annotations):
        colour = ((255, 60, 60), (60, 220, 60), (80, 120, 255), (255, 220, 0), (255, 0, 255), (0, 230, 230))[k % 6]
        for polygon in record["segmentation"]:
            outline = (np.reshape(polygon, (1, -1, 2)) * 2).round().astype(np.int32)
            cv2.polylines(big, outline, True, colour, 1)
        x, y, width, height = (2 * v for v in record["bbox"])
        cv2.rectangle(big, (x, y), (x + width, y + height), colour, 1)
        name = SCENE_CLASSES[record["category_id"] - 1]
        _label(big, name, (x + 2, max(y - 3, 9)), colour)
        points = np.reshape(record.get("keypoints", []), (-1, 3)) * (2, 2, 1)
        for a, b in (points[np.array(pair) - 1] for pair in (SKELETON if len(points) else ())):
            if a[2] and b[2]:
                cv2.line(big, a[:2].tolist(), b[:2].tolist(), (255, 255, 255), 1)
        for name, (px, py, v) in zip(KEYPOINTS, points.tolist()):
            if v:  # the figure's left is red, its right blue; hollow where hidden
                cv2.circle(big, (px, py), 3, (255, 0, 0) if "left" in name else (0, 0, 255), -1 if v == 2 else 1)
    plate = np.full((384, 384, 3), 255, np.uint8)
    plate[:big.shape[0], :big.shape[1]] = big
    return plate


def _label(image: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 3)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1)


def contact_sheet() -> np.ndarray:
    """The first five pool objects of each class above six annotated scenes: RGB uint8 [1344, 1152, 3]."""
    images, labels = draw_pool(40 * len(CLASSES))
    rows = []
    for label, name in enumerate(CLASSES):
        plate = np.full((96, 96, 3), 255, np.uint8)
        cv2.putText(plate, name, (8, 52), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1)
        rows.append(np.hstack([plate, *images[labels == label][:5].transpose(0, 2, 3, 1)]))
    scenes, coco = draw_scenes(6)
    cells = [_overlay(scene, [a for a in coco["annotations"] if a["image_id"] == i + 1])
             for i, scene in enumerate(scenes)]
    strips = [rows[i:i + 2] for i in range(0, len(rows), 2)] + [cells[:3], cells[3:]]
    return np.vstack([np.hstack(strip) for strip in strips])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data.synthetic",
                                     description="Contact sheet of the embedded data.")
    parser.add_argument("--sheet", type=Path, required=True, metavar="FILE", help="PNG file to write")
    with replacing(parser.parse_args().sheet) as sheet:
        sheet.write_bytes(cv2.imencode(".png", contact_sheet()[..., ::-1], (cv2.IMWRITE_PNG_COMPRESSION, 9))[1])
