"""What data must pass before it is used: annotations in COCO's form, keypoints, images, label maps."""
import logging
import math
from pathlib import Path

from benchmarks.data.coco import DataError, read_coco
from detco.errors import several

# What a whole JPEG and a whole PNG begin and end with.
MARKS = ((b"\xff\xd8", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"))
KEYPOINTS = 17  # of COCO's persons
MISSING, BROKEN, RESIZED = "missing", "truncated or not decodable", "of another size than the annotations say"


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
