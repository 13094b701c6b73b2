"""Make a scale's data, or check a public data set and put it in its place for the `paper` scale.

    python benchmarks/prepare.py small --coco DIR --imagenette DIR
    python benchmarks/prepare.py small --from-archives DIR
    python benchmarks/prepare.py mini
    python benchmarks/prepare.py coco --coco DIR
    python benchmarks/prepare.py voc --voc DIR
    python benchmarks/prepare.py cityscapes --cityscapes DIR
    python benchmarks/prepare.py imagenet --imagenet DIR

What belongs to the small scale is written down in configs/data/small: names of Imagenette's photos, and ids of COCO's
photos and annotations. `mini` is drawn by the package. The public data sets stay where they are: links under the data
folder lead to them, and what is converted or unpacked lies there. Stop at any moment: the same command goes on with
what is missing.
"""
import argparse
import hashlib
import io
import json
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from benchmarks.data import sources as datasets
from benchmarks.data import downloads, synthetic_sets
from benchmarks.errors import ended
from benchmarks.data.sources import DEFINITION, POOLS, SETS, DataError, Definition, several
from detco.console import CONSOLE, log, progress_bar
from detco.files import replacing

POOL_SIDE, PHOTO_SIDE = 128, 256  # pixels; the photo's is its shorter side
KINDS = {"person": "person_keypoints", "objects": "instances"}  # set -> COCO's annotation files it comes from
PUBLIC = {"coco": downloads.prepare_coco, "voc": downloads.prepare_voc, "cityscapes": downloads.prepare_cityscapes,
          "imagenet": downloads.prepare_imagenet}


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
                source = datasets.read_coco(self.coco / "annotations" / f"{kind}_{split}2017.json")
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
    """An image file's content in RGB. Raises DataError where it is truncated."""
    try:
        return Image.open(io.BytesIO(code)).convert("RGB")
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for broken files, by format
        raise DataError(f"{name}: truncated or not decodable; fetch it again") from None


def each(function: Callable, items: Sequence, bar: Progress, label: str) -> list:
    """[function(item) for each item], on threads; a failure or Ctrl-C drops what has not begun."""
    workers = ThreadPoolExecutor(os.cpu_count())
    try:
        return list(bar.track(workers.map(function, items), total=len(items), description=label))
    finally:
        workers.shutdown(cancel_futures=True)


def make_pool(source: Archives | Public, definition: Definition, split: str, path: Path, bar: Progress) -> None:
    """Write a pool: `images` uint8 [N, 3, 128, 128] in RGB and `labels` int64 [N], in the order of the list.

    Metadata: classes (wnids), fingerprint (of the source files' bytes), definition (of the list), source. A pool
    that has this definition is left as it is.
    """
    names, wanted = definition.pools[split], definition.digests[f"imagenette_{split}"]["sha256"]
    if pool_definition(path) == wanted:
        bar.add_task(f"{path.name}, kept", total=len(names), completed=len(names))
        return
    images = np.empty((len(names), 3, POOL_SIDE, POOL_SIDE), np.uint8)

    def fill(index: int) -> bytes:
        code, where = source.pool_bytes(split, names[index]), f"Imagenette {split}/{names[index]}"
        image = source.crop(decoded(code, where))
        if image.size != (POOL_SIDE, POOL_SIDE):
            raise DataError(f"{where}: {image.width} x {image.height}, not {POOL_SIDE} pixels; fetch the archive again")
        images[index] = np.asarray(image).transpose(2, 0, 1)
        return hashlib.sha256(code).digest()

    digests = each(fill, range(len(names)), bar, path.name)
    classes, labels = np.unique([name.split("/")[0] for name in names], return_inverse=True)
    content = hashlib.sha256(f"{source.kind} {wanted} ".encode() + b"".join(digests)).hexdigest()
    metadata = dict(classes=json.dumps(classes.tolist()), fingerprint=content, definition=wanted,
                    source=f"Imagenette {split}, {POOL_SIDE} pixels, from {source.kind}")
    with replacing(path) as temporary:
        save_file({"images": images, "labels": labels.astype(np.int64)}, temporary, metadata)


def pool_definition(path: Path) -> str | None:
    """The definition a whole pool file was made by; None where there is none."""
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("definition")
    except (OSError, SafetensorError):
        return None


def make_coco(source: Archives | Public, definition: Definition, folder: Path, bar: Progress) -> None:
    """Write photos/<id>.jpg and annotations/<set>.json, keep those that are whole, and check everything made."""
    def write(photo: int) -> None:
        path = folder / "photos" / f"{photo:012d}.jpg"
        if datasets.image_state(path):
            with replacing(path) as temporary:
                temporary.write_bytes(source.photo(photo))

    each(write, definition.photos, bar, "COCO photos")
    paths = {name: folder / "annotations" / f"{name}.json" for name in SETS}
    absent = {name: definition.sets[name] for name, path in paths.items() if not path.exists()}
    for name, content in source.annotations(absent).items():
        with replacing(paths[name]) as temporary:
            temporary.write_bytes(content)
    for name, path in bar.track(paths.items(), description="COCO annotations"):
        datasets.check_coco(folder / "photos", path, decode=True)
        data = datasets.read_json(path)
        made = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            made[annotation["image_id"]].append(annotation["id"])
        if datasets.digests({}, {name: made})[name] != definition.digests[name]:
            raise DataError(f"{path}: not the images and annotations of the definition; delete it and prepare again")


def prepare_small(source: Archives | Public, root: Path, definition: Definition) -> None:
    """Make root/small. Raises DataError for what is missing or broken, before anything is made where it can."""
    if gaps := {place: lost for place, lost in source.missing(definition).items() if lost}:
        text = "; ".join(f"{place}: {several(lost, 'file')} missing" for place, lost in gaps.items())
        raise DataError(f"{text}; complete the download")
    folder = root / "small"
    with progress_bar() as bar:
        for split, name in POOLS.items():
            make_pool(source, definition, split, folder / name, bar)
        make_coco(source, definition, folder / "coco", bar)
    for name, counts in definition.digests.items():
        log(f"{name:<18} {', '.join(f'{n} {what}' for what, n in counts.items())}")
    log(f"small: all there in {folder.resolve()}")


def prepare_mini(root: Path) -> None:
    """Draw root/mini's pools, scenes and their forms for the tasks, unless they are there."""
    with CONSOLE.status("drawing"):
        synthetic_sets.draw_all(root / "mini")
    log(f"mini: all there in {(root / 'mini').resolve()}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("name", choices=("small", "mini", *PUBLIC), help="the scale, or the public data set")
    p.add_argument("--coco", type=Path, metavar="DIR",
                   help="small, coco: COCO 2017, with train2017/, val2017/ and annotations/ (cocodataset.org)")
    p.add_argument("--imagenette", type=Path, metavar="DIR",
                   help="small: Imagenette version 2, with train/ and val/ (imagenette2, or imagenette2-320)")
    p.add_argument("--from-archives", type=Path, metavar="DIR",
                   help="small: in their place, the folder of imagenette_128_{train,val}.zip and coco_photos_256.zip")
    p.add_argument("--voc", type=Path, metavar="DIR", help="voc: VOCdevkit, with VOC2007/ and VOC2012/")
    p.add_argument("--cityscapes", type=Path, metavar="DIR", help="cityscapes: with leftImg8bit/ and gtFine/")
    p.add_argument("--imagenet", type=Path, metavar="DIR",
                   help="imagenet: class folders in train/ and val/, or ILSVRC2012_img_train.tar, _img_val.tar and "
                        "_devkit_t12.tar.gz, unpacked into the data folder")
    p.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="where to (default: data)")
    p.add_argument("--definition", type=Path, default=DEFINITION, metavar="DIR",
                   help="small: other lists of names and ids (default: configs/data/small)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; the exit status (`benchmarks.errors.ended`)."""
    arguments = parser().parse_args(argv)
    return ended(lambda: prepare(arguments), arguments.data_root)


def prepare(arguments: argparse.Namespace) -> int:
    """What the command line asks for. Raises DataError, in one line, for what is missing or broken."""
    name, root = arguments.name, arguments.data_root
    if name == "mini":
        prepare_mini(root)
    elif name in PUBLIC:
        if not (source := getattr(arguments, name)):
            raise DataError(f"{name}: give --{name} DIR; --help says what it holds")
        PUBLIC[name](source, root)
        log(f"{name}: all there in {(root / name).absolute()}")
    else:
        prepare_small(_source(arguments), root, Definition.load(arguments.definition))
    return 0


def _source(arguments: argparse.Namespace) -> Archives | Public:
    public = (arguments.coco, arguments.imagenette)
    if arguments.from_archives and not any(public):
        return Archives(arguments.from_archives)
    if all(public) and not arguments.from_archives:
        return Public(*public)
    raise DataError("small: give either --coco DIR and --imagenette DIR, or --from-archives DIR; --help says more")


if __name__ == "__main__":
    sys.exit(main())
