"""The synthetic data: the same everywhere, told apart by shape and not by colour, annotated to the pixel."""
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from safetensors import safe_open

from benchmarks.data import synthetic
from benchmarks.data.synthetic_shapes import KEYPOINTS, SKELETON, colours, figure, posed

SCENES = 60


def sha(*parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else np.ascontiguousarray(part))
    return digest.hexdigest()


@lru_cache
def pool():
    """Images [900, 96, 96, 3], labels and visible masks of the pool's first images."""
    return tuple(map(np.stack, zip(*(synthetic._pool_image(0, i, 96) for i in range(900)))))


@lru_cache
def scenes():
    return synthetic.draw_scenes(SCENES)


def nearest_centroid(features: np.ndarray, labels: np.ndarray) -> float:
    """Share of the last third that lies nearest to its own class's mean over the first two thirds."""
    cut = len(labels) * 2 // 3
    features = (features - features[:cut].mean(0)) / (features[:cut].std(0) + 1e-9)
    means = np.stack([features[:cut][labels[:cut] == k].mean(0) for k in range(len(synthetic.CLASSES))])
    return float((((features[cut:, None] - means) ** 2).sum(-1).argmin(1) == labels[cut:]).mean())


def radii(mask: np.ndarray) -> np.ndarray:
    """Moments and spread of the pixels about their middle: blind to place, size and turn."""
    offset = np.argwhere(mask) - np.argwhere(mask).mean(0)
    radius = np.hypot(*offset.T)
    hu = cv2.HuMoments(cv2.moments(mask.astype(np.uint8))).ravel()
    spread = np.histogram(radius / np.sqrt((radius**2).mean()), 12, (0, 2.4))[0] / len(radius)
    return np.concatenate([spread, np.log10(np.abs(hu[:2]) + 1e-12)])


def test_pixels_and_annotations_are_those_recorded():
    images, labels = synthetic.draw_pool(12)
    pictures, coco = synthetic.draw_scenes(6)
    assert sha(images, labels.astype("<i8")) == "3a9f5d090c012884166cb6bb556388a0b936d0cb6c883a39ef184a3c7abbab36"
    assert sha(*pictures) == "f4cae9ca3e9550ee3145cb592d71203c8f7aa858081003856ff2e586b0b7fe64"
    assert sha(json.dumps(coco).encode()) == "1e6cbf393e094ceb59d8e25fdca4f5eac1cb8b9162a2894afd9d31ed8b20b2da"


def test_an_image_depends_on_its_seed_and_place_alone():
    images, labels = synthetic.draw_pool(4)
    more, more_labels = synthetic.draw_pool(6)
    assert np.array_equal(images, more[:4]) and np.array_equal(labels, more_labels[:4])
    other = synthetic.draw_pool(4, seed=1)[0]
    assert all((a != b).any() for a, b in zip(images, other))
    assert len({sha(image) for image in more}) == 6
    short, long = synthetic.draw_scenes(2), scenes()
    assert all(np.array_equal(a, b) for a, b in zip(short[0], long[0]))
    assert short[1]["annotations"] == [a for a in long[1]["annotations"] if a["image_id"] <= 2]
    assert not np.array_equal(short[0][0], synthetic.draw_scenes(1, seed=1)[0][0])


def test_pool_form():
    images, labels = synthetic.draw_pool(5, size=64)
    assert images.shape == (5, 3, 64, 64) and images.dtype == np.uint8 and labels.dtype == np.int64
    assert len(synthetic.CLASSES) >= 12 and len(set(synthetic.CLASSES)) == len(synthetic.CLASSES)
    _, labels, masks = pool()
    counts = np.bincount(labels, minlength=len(synthetic.CLASSES))
    assert counts.min() > 0.6 * counts.mean()
    assert masks.sum((1, 2)).min() > 200  # every image shows its object


def test_colour_does_not_tell_the_class_and_shape_does():
    images, labels, masks = pool()
    chance = 1 / len(synthetic.CLASSES)
    histograms = np.stack([cv2.calcHist([i], [0, 1, 2], None, [4] * 3, [0, 256] * 3).ravel() for i in images])
    inside = np.stack([np.r_[i[m].mean(0), i[m].std(0)] for i, m in zip(images, masks)])
    assert nearest_centroid(histograms, labels) < 1.6 * chance
    assert nearest_centroid(inside, labels) < 1.6 * chance
    assert nearest_centroid(np.stack([radii(m) for m in masks]), labels) > 6 * chance


def test_objects_stand_out_from_what_surrounds_them():
    images, _, masks = pool()
    gaps = []
    for image, mask in zip(images[:300], masks[:300]):
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~mask
        gaps.append(np.linalg.norm(image[mask].mean(0) - image[around].mean(0)))
    assert np.median(gaps) > 60 and np.mean(np.array(gaps) < 15) < 0.05
    for i in range(200):
        rng = synthetic._stream(4, i, 9)
        behind = rng.integers(0, 256, 3)
        assert np.linalg.norm(colours(rng, behind)[0] - behind) >= 105  # 110 less what the clip to 255 takes


def test_polygons_boxes_and_areas_are_those_of_the_visible_masks():
    coco = COCO()
    coco.dataset = scenes()[1]
    coco.createIndex()
    extents = []
    for i in range(SCENES):
        _, records, owner = synthetic._scene(0, i, 160)
        found = coco.loadAnns(coco.getAnnIds(i + 1))
        assert 2 <= len(found) <= 6 and len(found) == len(records)
        for record, annotation in zip(records, found):
            mask, decoded = owner == record["number"], coco.annToMask(annotation) > 0
            assert (mask & decoded).sum() / (mask | decoded).sum() > 0.98
            (y0, x0), (y1, x1) = np.argwhere(mask).min(0), np.argwhere(mask).max(0)
            assert annotation["bbox"] == [x0, y0, x1 - x0 + 1, y1 - y0 + 1]
            assert annotation["area"] == mask.sum() and annotation["iscrowd"] == 0
            extents.append(max(annotation["bbox"][2:]))
    assert max(extents) <= 92 and np.mean(np.array(extents) >= 28) > 0.9
    assert len({a["id"] for a in coco.dataset["annotations"]}) == len(coco.dataset["annotations"])


def test_a_hole_is_cut_open():
    mask = np.zeros((30, 30), np.uint8)
    mask[5:25, 5:25] = 255
    mask[10:20, 8:22] = 0
    polygons = synthetic._polygons(mask)
    coco = COCO()
    coco.imgs = {1: {"height": 30, "width": 30}}
    assert len(polygons) == 2
    assert np.array_equal(coco.annToMask({"image_id": 1, "segmentation": polygons}), mask > 0)


def test_scenes_form():
    images, coco = scenes()
    assert [c["name"] for c in coco["categories"]] == list(synthetic.SCENE_CLASSES)
    assert {i.shape for i in images} == {(160, 160, 3), (192, 160, 3), (160, 192, 3)}
    assert all(i.shape[:2] == (e["height"], e["width"]) for i, e in zip(images, coco["images"]))
    assert {a["category_id"] for a in coco["annotations"]} == set(range(1, len(synthetic.SCENE_CLASSES) + 1))


def test_nothing_is_covered_beyond_the_limit(monkeypatch):
    whole = {}
    add = synthetic._Canvas.add

    def spy(self, rng, outline, centre, keep=0.0):
        number = add(self, rng, outline, centre, keep)
        mask = np.zeros((120, 120), np.uint8)
        synthetic._fill(mask, outline.parts)
        whole[id(self), number] = cv2.countNonZero(mask), keep
        spy.canvas = self
        return number

    monkeypatch.setattr(synthetic._Canvas, "add", spy)
    shares = []
    for i in range(20):
        _, records, owner = synthetic._scene(0, i, 160)
        for record in records:
            area, keep = whole[id(spy.canvas), record["number"]]
            shares.append((owner == record["number"]).sum() / area)
            assert keep == 0.35 and shares[-1] >= 0.35
    assert min(shares) < 0.7  # and much is covered


def test_keypoints():
    people = [a for a in scenes()[1]["annotations"] if a["category_id"] == 1]
    sizes = {e["id"]: (e["width"], e["height"]) for e in scenes()[1]["images"]}
    seen = set()
    for person in people:
        points = np.reshape(person["keypoints"], (17, 3))
        assert person["num_keypoints"] == (points[:, 2] > 0).sum()
        x, y, w, h = person["bbox"]
        for px, py, v in points.tolist():
            seen.add(v)
            assert (v == 0) == (px == py == 0)
            assert px < sizes[person["image_id"]][0] and py < sizes[person["image_id"]][1]
            assert v != 2 or (x - 2 <= px <= x + w + 1 and y - 2 <= py <= y + h + 1)
    assert seen == {0, 1, 2}
    category = scenes()[1]["categories"][0]
    assert category["keypoints"] == list(KEYPOINTS) and len(KEYPOINTS) == 17
    assert category["skeleton"] == [list(p) for p in SKELETON] and len(SKELETON) == 19
    assert all("keypoints" not in a for a in scenes()[1]["annotations"] if a["category_id"] != 1)


def test_hidden_keypoints_are_hidden_and_visible_ones_are_not():
    for i in range(20):
        _, records, owner = synthetic._scene(0, i, 160)
        for record in records:
            for x, y, v in np.reshape(record.get("keypoints", []), (-1, 3)).astype(int).tolist():
                assert v == 0 or (v == 1) == (owner[y, x] > record["number"])


def test_left_is_left_in_every_pose():
    """Facing the viewer, the left of each pair lies to the right once the head is turned up."""
    for i in range(50):
        rng = synthetic._stream(3, i, 9)
        points = dict(zip(KEYPOINTS, posed(rng, figure(rng), 90.0).keypoints.astype(float)))
        up = points["left_shoulder"] + points["right_shoulder"] - points["left_hip"] - points["right_hip"]
        for pair in ("shoulder", "hip", "ear", "eye"):
            across = points[f"left_{pair}"] - points[f"right_{pair}"]
            assert up[0] * across[1] - up[1] * across[0] > 0


def test_write_pool(tmp_path):
    path = synthetic.write_pool(tmp_path / "new", count=6)
    assert path == tmp_path / "new" / "pool.safetensors" and not list(path.parent.glob(".*"))
    with safe_open(path, "np") as file:
        meta = file.metadata()
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
    assert np.array_equal(images, synthetic.draw_pool(6)[0]) and np.array_equal(labels, synthetic.draw_pool(6)[1])
    assert tuple(json.loads(meta["classes"])) == synthetic.CLASSES and "6 images of 96 px" in meta["source"]
    assert meta["fingerprint"] == sha(f"pool {synthetic.VERSION}".encode(), images, labels)
    stamp = path.stat().st_mtime_ns
    assert synthetic.write_pool(path.parent).stat().st_mtime_ns == stamp  # what is there is not drawn again
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with safe_open(synthetic.write_pool(path.parent, count=6), "np") as file:  # unless its bytes changed
        assert np.array_equal(file.get_tensor("images"), images) and np.array_equal(file.get_tensor("labels"), labels)


MARK = f"fingerprint-v{synthetic.VERSION}.txt"


def test_write_scenes(tmp_path):
    folder = synthetic.write_scenes(tmp_path / "scenes", train=3, val=2)
    images, coco = synthetic.draw_scenes(5)
    for part, ids in (("train", (1, 2, 3)), ("val", (4, 5))):
        stored = COCO(folder / "annotations" / f"instances_{part}.json").dataset
        assert stored["annotations"] == [a for a in coco["annotations"] if a["image_id"] in ids]
        assert stored["categories"] == coco["categories"] and [e["id"] for e in stored["images"]] == list(ids)
        assert sorted(p.name for p in (folder / part).iterdir()) == [e["file_name"] for e in stored["images"]]
        for entry in stored["images"]:
            picture = cv2.imread(str(folder / part / entry["file_name"]))[..., ::-1]
            assert np.array_equal(picture, images[entry["id"] - 1])
    mark = folder / MARK
    assert len(mark.read_text().strip()) == 64
    assert sorted(p.name for p in tmp_path.iterdir()) == [".scenes.lock", "scenes"]
    assert synthetic.write_scenes(tmp_path / "again", 3, 2).joinpath(MARK).read_text() == mark.read_text()
    mark.write_text("mine")
    assert synthetic.write_scenes(folder) == folder and mark.read_text() == "mine"


def test_what_another_version_drew_is_drawn_anew(tmp_path, monkeypatch):
    folder, pool = synthetic.write_scenes(tmp_path / "scenes", 1, 1), synthetic.write_pool(tmp_path, 2)
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    before = pool.read_bytes(), (folder / MARK).read_text()
    assert synthetic.write_scenes(folder, 1, 1) == folder and not (folder / MARK).exists()
    assert (folder / f"fingerprint-v{synthetic.VERSION}.txt").read_text() != before[1]
    assert synthetic.write_pool(tmp_path, 2).read_bytes() != before[0]


def test_of_several_that_write_scenes_or_a_pool_at_once_one_draws(tmp_path, monkeypatch):
    (tmp_path / ".scenes.12.tmp" / "train").mkdir(parents=True)  # of one that was killed
    drawn = []
    for name in ("draw_scenes", "draw_pool"):
        draw = getattr(synthetic, name)
        monkeypatch.setattr(synthetic, name, lambda *a, draw=draw, **k: drawn.append(draw) or draw(*a, **k))
    with ThreadPoolExecutor() as threads:
        for _ in range(4):
            threads.submit(synthetic.write_scenes, tmp_path / "scenes", 1, 1)
            threads.submit(synthetic.write_pool, tmp_path / "pool", 2)
    assert len(drawn) == len(set(drawn)) == 2 and (tmp_path / "scenes" / MARK).exists()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_an_interrupted_writer_leaves_nothing(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(synthetic.cv2, "imencode", stop)
    monkeypatch.setattr(synthetic, "save_file", stop)
    for write in (lambda: synthetic.write_pool(tmp_path, 2), lambda: synthetic.write_scenes(tmp_path / "scenes", 1, 1)):
        with pytest.raises(KeyboardInterrupt):
            write()
    assert all(p.suffix == ".lock" for p in tmp_path.iterdir())


def test_bad_input(tmp_path):
    for bad in (lambda: synthetic.draw_pool(0), lambda: synthetic.draw_pool(1, size=8),
                lambda: synthetic.draw_scenes(-1)):
        with pytest.raises(ValueError, match="at least 1 image of at least 32 pixels"):
            bad()
    (tmp_path / "notes.txt").write_text("kept")
    with pytest.raises(ValueError, match="name another folder"):
        synthetic.write_scenes(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_contact_sheet_shows_every_class_and_the_annotations():
    sheet = synthetic.contact_sheet()
    assert sheet.shape == (1344, 1152, 3)
    images, labels, _ = pool()
    for label in range(len(synthetic.CLASSES)):
        y, x = 96 * (label // 2), 96 + 576 * (label % 2)
        assert np.array_equal(sheet[y:y + 96, x:x + 96], images[labels == label][0])
    scene = scenes()[0][0].repeat(2, 0).repeat(2, 1)
    assert (sheet[576:576 + len(scene), :scene.shape[1]] != scene).any()  # drawn over
