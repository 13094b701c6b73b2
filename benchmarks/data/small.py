"""The `small` scale's data, made from its photos."""
import hashlib
import json
from pathlib import Path

import numpy as np
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from benchmarks.data.building import each
from benchmarks.data.checks import check_coco, image_state
from benchmarks.data.coco import DataError, read_json
from benchmarks.data.small_definition import SETS, Definition, digests
from benchmarks.data.small_originals import POOL_SIDE, Archives, Public, decoded
from benchmarks.data.sources import POOLS
from detco.console import log, progress_bar
from detco.errors import several
from detco.files import alone, flaw_of, replacing


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
    with replacing(path, sealed=True) as temporary:
        save_file({"images": images, "labels": labels.astype(np.int64)}, temporary, metadata)


def pool_definition(path: Path) -> str | None:
    """The definition a whole pool file was made by; None where there is none."""
    if flaw_of(path):
        return None
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("definition")
    except (OSError, SafetensorError):
        return None


def make_coco(source: Archives | Public, definition: Definition, folder: Path, bar: Progress) -> None:
    """Write photos/<id>.jpg and annotations/<set>.json, keep those that are whole, and check everything made."""
    def write(photo: int) -> None:
        path = folder / "photos" / f"{photo:012d}.jpg"
        if image_state(path):
            with replacing(path) as temporary:
                temporary.write_bytes(source.photo(photo))

    each(write, definition.photos, bar, "COCO photos")
    paths = {name: folder / "annotations" / f"{name}.json" for name in SETS}
    absent = {name: definition.sets[name] for name, path in paths.items() if not path.exists()}
    for name, content in source.annotations(absent).items():
        with replacing(paths[name]) as temporary:
            temporary.write_bytes(content)
    for name, path in bar.track(paths.items(), description="COCO annotations"):
        check_coco(folder / "photos", path, decode=True)
        data = read_json(path)
        made = {image["id"]: [] for image in data["images"]}
        for annotation in data["annotations"]:
            made[annotation["image_id"]].append(annotation["id"])
        if digests({}, {name: made})[name] != definition.digests[name]:
            raise DataError(f"{path}: not the images and annotations of the definition; delete it and prepare again")


def prepare_small(source: Archives | Public, root: Path, definition: Definition) -> None:
    """Make root/small. Raises DataError for what is missing or broken, before anything is made where it can."""
    if gaps := {place: lost for place, lost in source.missing(definition).items() if lost}:
        text = "; ".join(f"{place}: {several(lost, 'file')} missing" for place, lost in gaps.items())
        raise DataError(f"{text}; complete the download")
    folder = root / "small"
    with alone(folder), progress_bar() as bar:
        for split, name in POOLS.items():
            make_pool(source, definition, split, folder / name, bar)
        make_coco(source, definition, folder / "coco", bar)
    for name, counts in definition.digests.items():
        log(f"{name:<18} {', '.join(f'{n} {what}' for what, n in counts.items())}")
    log(f"small: all there in {folder.resolve()}")
