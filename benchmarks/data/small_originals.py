"""Where the `small` scale's photos come from: the public downloads, or archives of photos already resized."""
import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.data.coco import DataError, read_coco
from benchmarks.data.small_definition import SETS, Definition
from benchmarks.data.sources import POOLS
from detco.errors import several
from detco.images import ImageError, rgb

POOL_SIDE, PHOTO_SIDE = 128, 256  # pixels; the photo's is its shorter side
KINDS = {"person": "person_keypoints", "objects": "instances"}  # set -> COCO's annotation files it comes from


class Archives:
    """Zip files of photos already resized: imagenette_128_{train,val}.zip and coco_photos_256.zip."""

    kind = "archives"

    def __init__(self, folder: Path):
        self.zips = {}
        for name in ("imagenette_128_train", "imagenette_128_val", "coco_photos_256"):
            path = folder / f"{name}.zip"
            try:
                self.zips[name] = zipfile.ZipFile(path)
            except FileNotFoundError:
                raise DataError(f"{path}: no such archive; --from-archives takes the folder that holds it") from None
            except zipfile.BadZipFile:
                raise DataError(f"{path}: no zip file, or truncated; fetch it again") from None

    def missing(self, definition: Definition) -> dict[str, list[str]]:
        """Archive -> what it should hold and does not."""
        wanted = {f"imagenette_128_{split}": [f"{name}.jpg" for name in names]
                  for split, names in definition.pools.items()}
        wanted["coco_photos_256"] = [f"{photo:012d}.jpg" for photo in definition.photos]
        held = {name: set(archive.namelist()) for name, archive in self.zips.items()}
        gaps = {name: [e for e in entries if f"{name}/{e}" not in held[name]] for name, entries in wanted.items()}
        gaps["coco_photos_256"] += [f"annotations/{name}.json" for name in SETS
                                    if f"annotations/{name}.json" not in held["coco_photos_256"]]
        return {self.zips[name].filename: entries for name, entries in gaps.items()}

    def _read(self, archive: str, member: str) -> bytes:
        try:
            return self.zips[archive].read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError):  # stored members, compressed ones, ones cut short
            raise DataError(f"{self.zips[archive].filename}: {member} is damaged; fetch the archive again") from None

    def pool_bytes(self, split: str, name: str) -> bytes:
        return self._read(f"imagenette_128_{split}", f"imagenette_128_{split}/{name}.jpg")

    def crop(self, image: Image.Image) -> Image.Image:
        return image

    def photo(self, photo: int) -> bytes:
        return self._read("coco_photos_256", f"coco_photos_256/{photo:012d}.jpg")

    def annotations(self, sets: dict[str, dict[int, list[int]]]) -> dict[str, bytes]:
        return {name: self._read("coco_photos_256", f"annotations/{name}.json") for name in sets}


class Public:
    """The public downloads: COCO 2017 (train2017, val2017, annotations) and Imagenette (train, val), any size."""

    kind = "public downloads"

    def __init__(self, coco: Path, imagenette: Path):
        self.coco, self.imagenette = coco, imagenette

    def missing(self, definition: Definition) -> dict[str, list[str]]:
        """Folder -> what it should hold and does not."""
        gaps = {str(self.imagenette / split): [f"{n}.JPEG" for n in names if not self._pool_path(split, n).exists()]
                for split, names in definition.pools.items()}
        files = [f"annotations/{kind}_{split}2017.json" for kind in KINDS.values() for split in POOLS]
        gaps[str(self.coco)] = [name for name in files if not (self.coco / name).exists()]
        gaps[str(self.coco / "{train,val}2017")] = [
            f"{photo:012d}.jpg" for photo in definition.photos if not self._photo_path(photo)]
        return gaps

    def _pool_path(self, split: str, name: str) -> Path:
        return self.imagenette / split / f"{name}.JPEG"

    def _photo_path(self, photo: int) -> Path | None:
        paths = (self.coco / f"{split}2017" / f"{photo:012d}.jpg" for split in POOLS)
        return next(filter(Path.exists, paths), None)

    def pool_bytes(self, split: str, name: str) -> bytes:
        return self._pool_path(split, name).read_bytes()

    def crop(self, image: Image.Image) -> Image.Image:
        """The usual evaluation crop, reduced: shorter side 256, the centre's 224 pixels, then 128."""
        image = image.resize(scaled_size(*image.size, 256), Image.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        return image.crop((left, top, left + 224, top + 224)).resize((POOL_SIDE, POOL_SIDE), Image.BICUBIC)

    def photo(self, photo: int) -> bytes:
        path, code = self._photo_path(photo), io.BytesIO()
        image = decoded(path.read_bytes(), str(path))
        image.resize(scaled_size(*image.size, PHOTO_SIDE), Image.BICUBIC).save(code, "JPEG", quality=85)
        return code.getvalue()

    def annotations(self, sets: dict[str, dict[int, list[int]]]) -> dict[str, bytes]:
        """COCO's annotations of the listed ids, scaled with their photos. Raises DataError for ids not found."""
        made = {}
        for prefix, kind in KINDS.items():
            chosen = {name: ids for name, ids in sets.items() if name.startswith(prefix)}
            parts = {name: dict(images=[], annotations=[]) for name in chosen}
            for split in POOLS if chosen else ():
                source = read_coco(self.coco / "annotations" / f"{kind}_{split}2017.json")
                for name, ids in chosen.items():
                    select(source, ids, parts[name])
            for name, part in parts.items():
                lost = set().union(*map(set, chosen[name].values())) - {a["id"] for a in part["annotations"]}
                if lost:
                    raise DataError(f"{self.coco / 'annotations'}: {several(sorted(lost), 'annotation')} of {name} not "
                                    f"in {kind}_{{train,val}}2017.json; fetch COCO 2017's annotations again")
                part["images"].sort(key=lambda image: image["id"])
                part |= dict(info={"description": f"COCO 2017 subset, shorter side {PHOTO_SIDE}"},
                             licenses=source.get("licenses", []), categories=source["categories"])
                made[name] = json.dumps(part, separators=(",", ":")).encode()
        return made


def scaled_size(width: int, height: int, shorter: int) -> tuple[int, int]:
    """(width, height) with the shorter side at `shorter` pixels, the other rounded."""
    factor = shorter / min(width, height)
    return round(width * factor), round(height * factor)


def select(source: dict, wanted: dict[int, list[int]], part: dict[str, list]) -> None:
    """Add to `part` the wanted images of a COCO annotation file, and their wanted annotations, scaled."""
    keys = ("id", "file_name", "license", "flickr_url", "coco_url")
    original = {image["id"]: image for image in source["images"] if image["id"] in wanted}
    for image in original.values():
        width, height = scaled_size(image["width"], image["height"], PHOTO_SIDE)
        part["images"].append({key: image.get(key) for key in keys} | dict(width=width, height=height))
    ids = {number for image in original for number in wanted[image]}
    part["annotations"] += [scaled(a, original[a["image_id"]]) for a in source["annotations"]
                            if a["id"] in ids and a["image_id"] in original]


def scaled(annotation: dict, image: dict) -> dict:
    """A COCO annotation in the pixels of its photo at PHOTO_SIDE.

    Boxes, areas and polygons are rounded to 0.01 pixel, keypoints to 0.1; a crowd's RLE is decoded, resized
    (nearest) and encoded again.
    """
    size = scaled_size(image["width"], image["height"], PHOTO_SIDE)
    across, down = size[0] / image["width"], size[1] / image["height"]

    def points(values: list[float]) -> list[float]:
        return [round(v * (down if i % 2 else across), 2) for i, v in enumerate(values)]

    shape = annotation["segmentation"]
    segmentation = resized_rle(shape, size) if isinstance(shape, dict) else [points(polygon) for polygon in shape]
    result = annotation | dict(bbox=points(annotation["bbox"]), segmentation=segmentation,
                               area=round(annotation["area"] * across * down, 2))
    if "keypoints" in annotation:
        flat = annotation["keypoints"]
        result["keypoints"] = [value for x, y, seen in zip(flat[::3], flat[1::3], flat[2::3])
                               for value in (round(x * across, 1), round(y * down, 1), seen)]
    return result


def resized_rle(rle: dict, size: tuple[int, int]) -> dict:
    """A COCO RLE (counts as a list or compressed) resized to (width, height), compressed."""
    from pycocotools import mask as masks

    coded = masks.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
    mask = np.asarray(Image.fromarray(masks.decode(coded)).resize(size, Image.NEAREST))
    coded = masks.encode(np.asfortranarray(mask))
    return {"size": coded["size"], "counts": coded["counts"].decode()}


def decoded(code: bytes, name: str) -> Image.Image:
    """An image file's content in RGB. Raises DataError where it cannot be decoded."""
    try:
        return rgb(code, name)
    except ImageError as error:
        raise DataError(f"{error}; fetch it again") from None
