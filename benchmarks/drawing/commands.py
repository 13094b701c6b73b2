"""What `benchmarks/figures.py` draws, a function a figure; each gives the files it wrote."""
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import filed
from benchmarks.data.coco import shuffled
from benchmarks.data.own import OwnData
from benchmarks.detection import analysis
from benchmarks.drawing import photos, plots
from benchmarks.execute import Pool, load_pool
from benchmarks.recipe import load_scale
from benchmarks.task import load_task, overrides_at, resolve
from detco.collection import PHOTOS
from detco.console import log, progress_bar, stop_if_asked
from detco.engine import CONFIG, HEALTH, MONITOR
from detco.errors import UserError
from detco.images import ImageError, rgb
from detco.monitor import measured
from leaderboard import detections as kept
from leaderboard import overview, tables
from leaderboard.checks import arch_apart, run_of, split_recipes
from leaderboard.record import read_all, read_recipes

BATCH = 128


def curves(output: Path, scale: str, results: Path) -> list[Path]:
    """Of the filed rows of a scale with its own backbone: k-NN over epochs and pixels, scores over cost, correlations
    between tasks."""
    rows = split_recipes([row for row in read_all(results) if row["scale"] == scale and not arch_apart(row)],
                         read_recipes())[0]
    names = {row["method"]: row["method"] for row in rows}
    written, found = [], tables.tables(rows)
    if measured := overview.curves(rows):
        for over, name in (("epoch", "epochs"), ("encoder_pixels", "pixels")):
            written += plots.save(plots.knn_curves(measured, names, over), output, f"{scale}_knn_over_{name}")
    tasks = overview.newest(found)
    if panels := overview.panels(tasks):
        written += plots.save(plots.score_over_cost(panels, names), output, f"{scale}_score_over_pixels")
    if foretold := overview.foretold(overview.fixed(tasks)):
        written += plots.save(plots.correlations(foretold), output, f"{scale}_correlations")
    if not written:
        raise UserError(f"{results}: no row of scale {scale} that a curve could be drawn of; run some first")
    return written


def training(output: Path, runs: Sequence[Path], over: str, level: str) -> list[Path]:
    """Of pretrainings' work folders: loss, learning rate, k-NN, effective rank and spread of a level."""
    found = {}
    for run in runs:
        if not (run / CONFIG).is_file():
            raise UserError(f"{run}: no work folder of a pretraining; give folders such as "
                            "work_dirs/pretrain/small/detco-p0-...")
        found[run.name] = _series(run, over, level)
    title = {"step": "steps", "images": "images seen", "encoder_pixels": "encoder pixels"}[over]
    return plots.save(plots.series(found, title), output, f"training_{level}")


def _series(run: Path, over: str, level: str) -> dict[str, list[tuple[float, float]]]:
    """What is drawn -> points of it, of a pretraining."""
    scalars = [json.loads(line) for path in sorted(run.glob("*/vis_data/scalars.json"))
               for line in path.read_text().splitlines()]
    watched = {name: measured(run / name) for name in (HEALTH, MONITOR)}
    known = next((line for lines in watched.values() for line in lines), None)
    per_step = 1.0 if over == "step" else known[over] / known["step"] if known else None
    found: dict[str, dict[float, float]] = {}
    if per_step:
        for line in scalars:
            for name in ("loss", "lr"):
                if name in line:
                    found.setdefault(name, {})[line["step"] * per_step] = line[name]
    for line in watched[MONITOR]:
        found.setdefault(f"k-NN of {level.upper()}, %", {})[line[over]] = line["knn"][level]
    for line in watched[HEALTH]:
        found.setdefault(f"effective rank of {level.upper()}", {})[line[over]] = line["rank"][level]
        found.setdefault(f"spread of {level.upper()}", {})[line[over]] = line["spread"][level]
    return {name: sorted(points.items()) for name, points in found.items()}


def detections(output: Path, methods: Sequence[str], scale: str, task: str, schedule: str | None, score: float,
               photos_shown: bool, count: int, data_root: Path, results: Path) -> list[Path]:
    """Objects and what the first run of the same seeds of each method found; masks where the task has them."""
    sides = filed.comparable(results, methods, scale, task, schedule)
    pair = filed.paired(sides, methods)[0]
    data = filed.data_of(sides[0][pair], data_root)
    truth = json.loads(data.val_annotations.read_text())
    shown = analysis.fixed_photos(truth, count)
    found = [{name.split(".")[1]: json.loads(content) for name, content in
              kept.read(results, side[pair]["detections"]).items()} for side in sides]
    if not all({"bbox", "segm"} & set(own) for own in found):
        raise UserError(f"{task}: detects no boxes; see its table on the board")
    colours = {method: f"C{i}" for i, method in enumerate(methods)}
    images = [np.asarray(rgb(data.val_images / image["file_name"])) if photos_shown else None for image in shown]
    columns = [_photos(truth, shown, images, analysis.objects_on(shown, truth), "black")]
    for method, own in zip(methods, found):
        kind = "segm" if "segm" in own and photos_shown else "bbox" if "bbox" in own else "segm"
        columns.append(_photos(truth, shown, images, analysis.best_on(shown, own[kind], score), colours[method]))
    titles = ["objects", *(run_of(side[pair]) for side in sides)]
    figure = photos.grid(columns, titles, photos.boxes, ratio=photos.ratio_of(shown))
    return plots.save(figure, output, f"detections_{scale}_{task}")


def data(output: Path, own: OwnData, split: str, count: int) -> list[Path]:
    """A first look at a detection set: photos with their objects, how many of each category, and how large they are;
    what its check notes is printed."""
    checked = own.checked(masks=False, keypoints=False, cache=output / "checked", show=True)
    folder, annotations = (checked.train_images, checked.train_annotations) if split == "train" else \
        (checked.val_images, checked.val_annotations)
    truth = json.loads(annotations.read_text())
    shown = analysis.fixed_photos(truth, count)
    images = [np.asarray(rgb(folder / image["file_name"])) for image in shown]
    drawn = _photos(truth, shown, images, analysis.objects_on(shown, truth), "tab:orange")
    across = max(1, round(len(drawn)**0.5))
    columns = [drawn[i::across] for i in range(across)]
    columns = [column + [None] * (len(columns[0]) - len(column)) for column in columns]
    found = plots.save(photos.grid(columns, [""] * across, photos.boxes, ratio=photos.ratio_of(drawn)), output,
                       f"data_{own.name}_{split}_photos")
    names = {category["id"]: category["name"] for category in truth["categories"]}
    objects = [a for a in truth["annotations"] if not a.get("iscrowd")]
    sides = [(a["bbox"][2] * a["bbox"][3])**0.5 for a in objects]
    counts = Counter(names[a["category_id"]] for a in objects)
    log(f"{own.name}, {split}: {len(truth['images'])} photos, {len(sides)} objects of {len(names)} categories")
    return found + plots.save(plots.counted({name: counts[name] for name in names.values()}, sides), output,
                              f"data_{own.name}_{split}_objects")


def _photos(truth: dict, shown: list[dict], images: list, found: list[list[dict]], colour: str) -> list[dict]:
    from pycocotools.coco import COCO

    shape = COCO()
    shape.imgs = {image["id"]: image for image in shown}
    masked = [image is not None for image in images]
    return [dict(width=image["width"], height=image["height"], image=pixels, colour=colour,
                 several=len(truth["categories"]) > 1, boxes=analysis.boxes_of(truth, own),
                 masks=[shape.annToMask(each).astype(bool) for each in own if each.get("segmentation")] if mask else [])
            for image, pixels, own, mask in zip(shown, images, found, masked)]


def attention(output: Path, checkpoints: Mapping[str, str], scale: str, images: Sequence[Path] | None, level: str,
              size: int, count: int, data_root: Path) -> list[Path]:
    """Where checkpoints look: the mean over channels of a level's squared features, from its least to its most.

    The paper does not say what its Figure 6 shows; this is the map of Zagoruyko and Komodakis (arXiv 1612.03928).
    """
    import torch
    from torchvision.transforms.v2 import functional as F

    from benchmarks.image_level.features import normalised

    crops = torch.stack([F.center_crop(F.resize(image, [size], antialias=True), [size])
                         for image in _images(scale, images, count, data_root)])
    pixels = list(crops.permute(0, 2, 3, 1).numpy())
    columns: list[list] = [[(image, None) for image in pixels]]
    for path in checkpoints.values():
        model = _model(path)
        with torch.no_grad():
            features = model.levels(normalised(crops))[level].float()
        columns.append(list(zip(pixels, attended(features, size).numpy())))
    figure = photos.grid(columns, ["image", *checkpoints], photos.overlaid, across=True)
    return plots.save(figure, output, f"attention_{level}")


def attended(features: Any, size: int) -> Any:
    """Features [N, C, H, W] -> the mean of their squares over channels, [N, size, size], each from 0 to 1."""
    from torchvision.transforms.v2 import functional as F

    maps = F.resize(features.square().mean(1, keepdim=True), [size, size], antialias=True)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def retrieval(output: Path, checkpoints: Mapping[str, str], scale: str, neighbours: int, count: int,
              data_root: Path) -> list[Path]:
    """Validation images and their nearest neighbours in the pool, by the cosine of pooled C5, and how many of those are
    of the query's class."""
    import torch

    pool, asked = load_pool(scale, data_root), load_pool(scale, data_root, "val")
    if neighbours > len(pool):
        raise UserError(f"--neighbours {neighbours}: the pool has {len(pool)} images; give fewer")
    config = load_scale(scale)
    sizes = resolve(load_task("knn"), config["arch"], len(pool.classes), overrides_at("knn", config)).to_dict()["data"]
    numbers = shuffled(range(len(asked)))[:count]
    columns: list[list] = [[(_pixels(asked, i), asked.classes[int(asked.labels[i])], None) for i in numbers]]
    titles = ["query"]
    for name, path in checkpoints.items():
        model = _model(path)
        bank, queries = (_features(model, part, sizes, f"{name}: {what}", chosen) for part, what, chosen in (
            (pool, "pool", range(len(pool))), (asked, "queries", numbers)))
        nearest = (queries @ bank.T).topk(neighbours).indices
        right = pool.labels[nearest] == asked.labels[torch.tensor(numbers)][:, None]
        log(f"{name}: {100 * right.float().mean():.1f} % of {neighbours} neighbours of {len(numbers)} queries are of "
            "their class")
        for k in range(neighbours):
            columns.append([(_pixels(pool, int(i)), pool.classes[int(pool.labels[i])], bool(ok))
                            for i, ok in zip(nearest[:, k], right[:, k])])
            titles.append(name if not k else "")
    return plots.save(photos.grid(columns, titles, photos.framed), output, f"retrieval_{scale}")


def _images(scale: str, paths: Sequence[Path] | None, count: int, data_root: Path) -> list[Any]:
    """Photos to look at, uint8 [3, H, W], or the scale's validation images."""
    from torchvision.transforms.v2 import functional as F

    if paths is None:
        pool = load_pool(scale, data_root, "val")
        return [F.to_image(_pixels(pool, i)) for i in shuffled(range(len(pool)))[:count]]
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"--images {path}: no such photo or folder")
        found += sorted(p for p in path.rglob("*") if p.suffix.lower() in PHOTOS) if path.is_dir() else [path]
    if not found:
        raise UserError(f"--images {' '.join(map(str, paths))}: no photo there ({', '.join(PHOTOS)})")
    try:
        return [F.pil_to_tensor(rgb(path)) for path in found[:count]]
    except ImageError as error:
        raise UserError(f"image {error}; leave it out") from None


def _pixels(pool: Pool, number: int) -> np.ndarray:
    image = pool.images[number]
    return np.asarray(rgb(image)) if isinstance(image, (str, Path)) else image.permute(1, 2, 0).numpy()


def _model(path: str) -> Any:
    """A checkpoint's backbone. Raises CheckpointError."""
    from benchmarks.image_level.features import PooledC5
    from detco import checkpoint

    loaded = checkpoint.load(path)
    model = PooledC5(loaded.metadata["arch"], loaded.metadata)
    checkpoint.load_into(model, loaded, [("", "backbone.")], Path(path))
    return model


def _features(model: Any, pool: Pool, sizes: dict, what: str, numbers: Sequence[int]) -> Any:
    """Unit-length features of some images of a pool, [N, C]."""
    import torch
    from torch.nn.functional import normalize

    from benchmarks.image_level.features import Squares

    batches = [list(numbers[i:i + BATCH]) for i in range(0, len(numbers), BATCH)]
    rows = []
    with progress_bar() as bar:
        for crops in bar.track(Squares(pool.images, sizes).loader(batches, 0), description=what):
            stop_if_asked()
            rows.append(normalize(model.of_crops(crops)))
    return torch.cat(rows)


FIGURES: dict[str, Callable[..., list[Path]]] = dict(
    curves=curves, training=training, detections=detections, data=data, attention=attention, retrieval=retrieval)
