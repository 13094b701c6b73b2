"""Scores by a data set's own rules: VOC 2007's against a naive reading of them, Cityscapes' against its scripts."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from benchmarks.data import cityscapes
from benchmarks.detection.cityscapes_metric import cityscapes_ap
from benchmarks.detection.evaluate import NAMES, coco_metrics, score
from benchmarks.detection.voc_metric import THRESHOLDS, voc_ap
from detco.errors import UserError

# ---- VOC 2007


def entry(image, box, category=1, **more):
    return dict(image_id=image, category_id=category, bbox=box, **more)


def naive_ap(truth, results, threshold):
    """One class, as VOC's development kit says it: objects one by one, detection by detection."""
    taken, hits, misses, curve = set(), 0, 0, []
    objects = [(a["image_id"], a["bbox"], a["difficult"]) for a in truth]
    count = sum(not difficult for _, _, difficult in objects)
    for result in sorted(results, key=lambda r: -float(f"{r['score']:.3f}")):
        x, y, w, h = result["bbox"]
        left, top, right, bottom = (float(f"{v:.1f}") for v in (x + 1, y + 1, x + w, y + h))
        best, which = 0, None
        for i, (image, (gx, gy, gw, gh), _) in enumerate(objects):
            if image == result["image_id"]:
                width = min(right, gx + gw) - max(left, gx + 1) + 1
                height = min(bottom, gy + gh) - max(top, gy + 1) + 1
                if width > 0 and height > 0:
                    union = (right - left + 1) * (bottom - top + 1) + gw * gh - width * height
                    if width * height / union > best:
                        best, which = width * height / union, i
        if best > threshold and objects[which][2]:
            continue
        if best > threshold and which not in taken:
            taken.add(which)
            hits += 1
        else:
            misses += 1
        curve.append((hits / count, hits / (hits + misses)))
    return sum(max([p for r, p in curve if r >= i * 0.1], default=0) for i in range(11)) / 11


@pytest.fixture(scope="module")
def scenes():
    """Random objects of two classes in 30 images, one in five difficult, and detections around and beside them."""
    draw = np.random.default_rng(0)
    truth, results = [], []
    for image in range(30):
        for _ in range(draw.integers(1, 5)):
            x, y, w, h = (*draw.integers(0, 100, 2), *draw.integers(10, 60, 2))
            category = int(draw.integers(1, 3))
            truth.append(entry(image, [int(x), int(y), int(w), int(h)], category, difficult=int(draw.random() < 0.2)))
            for _ in range(draw.integers(0, 4)):
                box = np.array([x, y, w, h]) + draw.normal(0, 4, 4)
                results.append(entry(image, np.maximum(box, [0, 0, 5, 5]).tolist(), category, score=draw.random()))
        results.append(entry(image, [*draw.uniform(0, 100, 2), 30.0, 30.0], 1, score=draw.random()))
    return truth, results


def test_voc_ap_is_the_naive_one_at_every_threshold(scenes):
    truth, results = scenes
    found = voc_ap(truth, results, [1, 2, 3])
    for row, category in zip(found, (1, 2)):
        own = [[e for e in part if e["category_id"] == category] for part in scenes]
        assert row.tolist() == pytest.approx([naive_ap(*own, threshold) for threshold in THRESHOLDS], abs=1e-12)
    assert 0.2 < found[0, 0] < 0.9 and np.isnan(found[2]).all()


@pytest.mark.parametrize("results, expected", [
    ([entry(1, [0, 0, 10, 10], score=0.9), entry(1, [50, 50, 10, 10], score=0.8)], 1),
    # One of two found: precision 1 at recalls 0 to 0.5, six of eleven points.
    ([entry(1, [0, 0, 10, 10], score=0.9)], 6 / 11),
    # The second detection of an object is wrong.
    ([entry(1, [0, 0, 10, 10], score=0.9), entry(1, [0, 0, 10, 10], score=0.8),
      entry(1, [50, 50, 10, 10], score=0.7)], (6 + 5 * 2 / 3) / 11),
    # Those of a difficult one are neither right nor wrong, however many; an IoU of 1/2 is not above it.
    ([entry(1, [80, 80, 10, 10], score=0.99), entry(1, [80, 80, 10, 10], score=0.98),
      entry(1, [0, 0, 10, 10], score=0.9), entry(1, [50, 50, 10, 10], score=0.8)], 1),
    ([entry(1, [0, 0, 10, 5], score=0.9), entry(1, [50, 50, 10, 10], score=0.8)], 6 / 11 / 2),
    ([entry(2, [0, 0, 10, 10], score=0.9)], 0),
    ([], 0),
])
def test_voc_ap50_of_handmade_cases(results, expected):
    truth = [entry(1, [0, 0, 10, 10], difficult=0), entry(1, [50, 50, 10, 10], difficult=0),
             entry(1, [80, 80, 10, 10], difficult=1)]
    assert voc_ap(truth, results, [1])[0, 0] == pytest.approx(expected)


def test_voc_score_takes_the_mean_over_thresholds_and_classes(scenes, tmp_path):
    truth, results = scenes
    names = ("cat", "dog", "absent")
    content = dict(images=[dict(id=i) for i in range(30)], annotations=truth,
                   categories=[dict(id=i + 1, name=name) for i, name in enumerate(names)])
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "detections.bbox.json").write_text(json.dumps(results))
    data = SimpleNamespace(val_annotations=tmp_path / "truth.json")
    metrics, per_class = score("voc", data, tmp_path)
    aps = 100 * voc_ap(truth, results, [1, 2])
    assert metrics == pytest.approx(dict(voc_AP=aps.mean(), voc_AP50=aps[:, 0].mean(), voc_AP75=aps[:, 5].mean()))
    assert per_class == dict(cat=pytest.approx(aps[0].mean()), dog=pytest.approx(aps[1].mean()), absent=None)
    first = [[e for e in part if e["image_id"] < 3] for part in scenes]
    assert score("voc", data, tmp_path, images=3)[0]["voc_AP50"] == pytest.approx(
        100 * voc_ap(*first, [1, 2])[:, 0].mean())


# ---- COCO's sizes


def test_sizes_and_recalls_are_pycocotools(tmp_path):
    """The small and the medium object are found, the large one is not."""
    truth = [entry(1, [10, 10, 20, 20]), entry(1, [40, 40, 60, 60]), entry(1, [110, 110, 120, 120])]
    content = dict(images=[dict(id=1, width=400, height=400)], categories=[dict(id=1, name="thing")],
                   annotations=[a | dict(id=i + 1, iscrowd=0, area=a["bbox"][2] * a["bbox"][3])
                                for i, a in enumerate(truth)])
    (tmp_path / "truth.json").write_text(json.dumps(content))
    results = [entry(1, a["bbox"], score=0.9 - i / 10) for i, a in enumerate(truth[:2])]
    (tmp_path / "detections.bbox.json").write_text(json.dumps(results))
    metrics, _ = coco_metrics(tmp_path / "truth.json", tmp_path / "detections.bbox.json", "bbox")
    assert set(metrics) == {f"bbox_{name}" for name in NAMES}
    two_thirds = 100 * 67 / 101  # precision 1 up to a recall of 2/3, on 101 points
    expected = dict(AP=two_thirds, AP50=two_thirds, AP75=two_thirds, APs=100, APm=100, APl=0, AR1=100 / 3,
                    AR10=200 / 3, AR100=200 / 3, ARs=100, ARm=100, ARl=0)
    assert metrics == pytest.approx({f"bbox_{name}": value for name, value in expected.items()})


# ---- Cityscapes

STREETS = ["a_000000_000019", "a_000001_000019", "b_000000_000019"]


@pytest.fixture
def street(tmp_path):
    """Polygons of three scenes in Cityscapes' folders, converted; cars, a group and void lie over each other."""
    draw = np.random.default_rng(0)
    for stem in STREETS:
        city = stem[0]
        objects = [("road", [[0, 0], [199, 0], [199, 149], [0, 149]]),
                   ("static", [[0, 0], [40, 0], [40, 149], [0, 149]])]
        for label in ["car"] * 4 + ["person"] * 3 + ["cargroup", "truck"]:
            x, y, w, h = (*draw.integers(0, 140, 2), *draw.integers(8, 60, 2))
            objects.append((label, [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]))
        content = dict(imgWidth=200, imgHeight=150, objects=[
            dict(label=label, polygon=np.clip(points, 0, [199, 149]).tolist()) for label, points in objects])
        for folder in ("leftImg8bit", "gtFine"):
            (tmp_path / folder / "val" / city).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 150)).save(tmp_path / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png")
        (tmp_path / "gtFine" / "val" / city / f"{stem}_gtFine_polygons.json").write_text(json.dumps(content))
    cityscapes.convert(tmp_path, tmp_path, splits=("val",))
    return tmp_path


def detections(coco):
    """Shifted copies of the objects, some of them twice, and masks on void and on nothing."""
    draw = np.random.default_rng(1)
    found = []
    for a in coco["annotations"]:
        for _ in range(int(draw.integers(0, 3))):
            moved = np.roll(masks.decode(a["segmentation"]), draw.integers(-3, 4, 2), (0, 1))
            found.append((a["image_id"], a["category_id"], moved))
    for image in coco["images"]:
        for column in (5, 30, 150):
            mask = np.zeros((150, 200), np.uint8)
            mask[20:60, column:column + 20] = 1
            found.append((image["id"], 3, mask))
    rles = [masks.encode(np.asfortranarray(mask)) for _, _, mask in found]
    return [dict(image_id=i, category_id=c, score=float(draw.random()), bbox=[0, 0, 1, 1],
                 segmentation=rle | dict(counts=rle["counts"].decode())) for (i, c, _), rle in zip(found, rles)]


def test_cityscapes_ap_is_its_scripts_own_from_files(street, monkeypatch):
    """Their instance maps from the polygons, their matching of PNG masks, their curve."""
    scripts = pytest.importorskip("cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling")
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.helpers.labels import name2label
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # gone from numpy 2.4
    coco = json.loads((street / "annotations" / "instances_val.json").read_text())
    results = detections(coco)
    names = {c["id"]: c["name"] for c in coco["categories"]}
    truth_files, prediction_files = [], []
    for image in coco["images"]:
        stem = image["file_name"].removesuffix("_leftImg8bit.png")
        polygons = street / "gtFine" / "val" / f"{stem}_gtFine_polygons.json"
        truth_files.append(str(polygons).replace("polygons.json", "instanceIds.png"))
        annotation = Annotation()
        annotation.fromJsonFile(str(polygons))
        drawn = np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)
        Image.fromarray(drawn).save(truth_files[-1])
        lines = []
        for i, result in enumerate(r for r in results if r["image_id"] == image["id"]):
            name = f"{stem.split('/')[1]}_{i}.png"
            Image.fromarray(masks.decode(result["segmentation"]) * 255).save(street / name)
            lines.append(f"{name} {name2label[names[result['category_id']]].id} {result['score']}")
        prediction_files.append(str(street / f"{stem.split('/')[1]}_pred.txt"))
        (street / f"{stem.split('/')[1]}_pred.txt").write_text("\n".join(lines) + "\n")
    args = scripts.args
    for name, value in dict(predictionPath=str(street), gtInstancesFile=str(street / "gt.json"), quiet=True).items():
        monkeypatch.setattr(args, name, value)
    scripts.setInstanceLabels(args)
    theirs = scripts.evaluateMatches(scripts.matchGtWithPreds(
        prediction_files, truth_files, scripts.getGtInstances(truth_files, args), args), args)[0]
    ours = cityscapes_ap(coco, results, street / "semantic" / "val")
    np.testing.assert_array_equal(ours, theirs[[args.instLabels.index(name) for name in names.values()]])
    assert np.nanmean(ours) > 0.1 and np.isnan(ours).any(1).sum() == 5  # neither rider, bus, train, ... is there

    (street / "detections.segm.json").write_text(json.dumps(results))
    data = SimpleNamespace(val_annotations=street / "annotations" / "instances_val.json",
                           val_images=street / "leftImg8bit" / "val")
    metrics, per_class = score("cityscapes", data, street)
    averages = scripts.computeAverages(theirs[None], args)
    assert metrics == pytest.approx(dict(cityscapes_AP=100 * averages["allAp"],
                                         cityscapes_AP50=100 * averages["allAp50%"]))
    assert per_class["car"] == pytest.approx(100 * averages["classes"]["car"]["ap"]) and per_class["bus"] is None


def test_cityscapes_without_its_maps_is_one_line(street):
    pytest.importorskip("cityscapesscripts")
    coco = json.loads((street / "annotations" / "instances_val.json").read_text())
    (street / "semantic" / "val" / "b" / f"{STREETS[2]}_labelTrainIds.png").unlink()
    with pytest.raises(UserError, match="b_000000_000019_labelTrainIds.png: missing, .*; prepare Cityscapes again"):
        cityscapes_ap(coco, [], street / "semantic" / "val")
