"""Cityscapes' own average precision of instances, by cityscapesScripts, from files in COCO's form."""
import copy
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as masks

from benchmarks.data.cityscapes import VOID
from detco.errors import UserError


def is_installed() -> bool:
    """Whether cityscapesScripts, which is optional, is there."""
    return find_spec("cityscapesscripts") is not None


def cityscapes_ap(coco: dict, results: list[dict], maps: Path) -> np.ndarray:
    """AP, in [0, 1], of each category of `coco` at IoUs from 0.5 to 0.95: [categories, 10], NaN where there is none.

    Args:
        coco: a COCO file's content, of RLE masks; crowds are groups, which like VOID pixels and objects of fewer than
            100 pixels count neither way.
        results: COCO results with RLE masks.
        maps: the folder of semantic maps, in which VOID pixels stand. Raises UserError where one is missing.
    """
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as scripts

    names = {category["id"]: category["name"] for category in coco["categories"]}
    truth, found = _by_image(coco["annotations"]), _by_image(results)
    args = copy.copy(scripts.args)
    args.instLabels = list(names.values())
    matches = {image["id"]: _matched(truth[image["id"]], found[image["id"]], _void(maps, image["file_name"]), names)
               for image in coco["images"]}
    return scripts.evaluateMatches(matches, args)[0]


def _by_image(entries: list[dict]) -> dict[int, list[dict]]:
    places = defaultdict(list)
    for entry in entries:
        places[entry["image_id"]].append(entry)
    return places


def _void(maps: Path, file_name: str) -> dict:
    """The pixels without a class that counts, as RLE."""
    path = maps / file_name.replace("leftImg8bit", "labelTrainIds")
    if not path.exists():
        raise UserError(f"{path}: missing, but Cityscapes' score of instances needs it; prepare Cityscapes again")
    return masks.encode(np.asfortranarray(np.asarray(Image.open(path)) == VOID, np.uint8))


def _matched(truth: list[dict], results: list[dict], void: dict, names: dict[int, str]) -> dict:
    """One image's entry of what cityscapesScripts' `matchGtWithPreds` makes from files: who shares pixels with whom.

    Its own loops compare whole images pixel by pixel, and call a part of numpy that is gone.
    """
    found = dict(groundTruth={name: [] for name in names.values()}, prediction={name: [] for name in names.values()})
    for category, name in names.items():
        own = [a for a in truth if a["category_id"] == category]
        objects = [(1000 + i, a["segmentation"]) for i, a in enumerate(own) if not a["iscrowd"]]
        if groups := [a["segmentation"] for a in own if a["iscrowd"]]:
            objects.append((0, masks.merge(groups)))  # below 1000: a group
        found["groundTruth"][name] = [
            dict(instID=number, pixelCount=int(masks.area(rle)), medDist=-1, distConf=0.0, matchedPred=[])
            for number, rle in objects]
        for result in (r for r in results if r["category_id"] == category):
            rle = result["segmentation"]
            prediction = dict(confidence=result["score"], pixelCount=int(masks.area(rle)),
                              voidIntersection=_common(rle, void), matchedGt=[])
            if not prediction["pixelCount"]:
                continue
            for entry, (_, mask) in zip(found["groundTruth"][name], objects):
                if common := _common(rle, mask):
                    prediction["matchedGt"].append(entry | dict(intersection=common, matchedPred=[]))
                    entry["matchedPred"].append(prediction | dict(intersection=common, matchedGt=[]))
            found["prediction"][name].append(prediction)
    return found


def _common(a: dict, b: dict) -> int:
    """Pixels that two RLE masks share."""
    return int(masks.area(masks.merge([a, b], intersect=True)))
