"""What is kept of a detector's results beyond its metrics."""
import hashlib
import json
from types import SimpleNamespace

import pytest
from hotcoco import COCO, COCOeval

from benchmarks.detection import analysis
from leaderboard import analyses, detections
from leaderboard.record import fingerprint


@pytest.fixture
def truth():
    """Twelve photos of two objects each, the first with a crowd alone, the second empty."""
    def box(i, image, category, left):
        return dict(id=i, image_id=image, category_id=category, bbox=[left, 10, 20, 20], area=400, iscrowd=image == 1)

    annotations = [box(2 * i + k, i, k + 1, 10 + 40 * k) for i in range(1, 13) if i != 2 for k in range(2)]
    return dict(images=[dict(id=i, file_name=f"{i}.jpg", width=100, height=60) for i in range(1, 13)],
                annotations=annotations, categories=[dict(id=1, name="cat"), dict(id=2, name="dog")])


@pytest.fixture
def results(truth):
    """Of each object one box: exact, moved, of the other class or twice, by turns."""
    found = []
    for n, each in enumerate(a for a in truth["annotations"] if not a["iscrowd"]):
        left, top, width, height = each["bbox"]
        box = dict(image_id=each["image_id"], category_id=each["category_id"], bbox=[left, top, width, height],
                   score=0.9 - 0.01 * n)
        kind = n % 4
        if kind == 1:
            box["bbox"] = [left + 9, top, width, height]
        if kind == 2:
            box["category_id"] = 3 - each["category_id"]
        found += [box] * (1 + (kind == 3))
    return found


def test_photos_are_those_with_objects_in_the_order_of_their_hashes(truth):
    ids = [image["id"] for image in analysis.fixed_photos(truth)]
    assert ids == sorted(range(3, 13), key=lambda i: hashlib.sha256(str(i).encode()).digest())[:8]
    truth["images"].reverse()
    assert [image["id"] for image in analysis.fixed_photos(truth)] == ids


def test_errors_are_tides_and_boxes_the_best(truth, results):
    content = json.dumps(results).encode()
    made = analysis.analysis_of(truth, "d" * 64, "e" * 64, {"detections.bbox.json": content})
    gt = COCO(truth)
    peer = COCOeval(gt, gt.loadRes(results), "bbox")
    peer.evaluate()
    stated = {name: 100 * value for name, value in peer.tide_errors()["delta_ap"].items()}
    assert made["errors"]["bbox"] == {name: pytest.approx(stated[name], abs=1e-4) for name in made["errors"]["bbox"]}
    assert made["errors"]["bbox"]["Loc"] > 1 and made["errors"]["bbox"]["Cls"] > 1
    for image, found in zip(analysis.fixed_photos(truth), made["found"]):
        own = sorted((r for r in results if r["image_id"] == image["id"]), key=lambda r: -r["score"])
        assert [(box[1:5], box[5]) for box in found] == [(r["bbox"], pytest.approx(r["score"])) for r in own]
        assert {box[0] for box in found} <= {"cat", "dog"}


def test_faint_boxes_and_more_than_ten_are_left_out(truth):
    image = analysis.fixed_photos(truth)[0]["id"]
    results = [dict(image_id=image, category_id=1, bbox=[0, 0, 5, 5], score=0.03 + 0.01 * i) for i in range(20)]
    made = analysis.analysis_of(truth, "d" * 64, "e" * 64, {"detections.bbox.json": json.dumps(results).encode()})
    assert len(made["found"][0]) == 10 and made["found"][0][0][5] == 0.22
    made = analysis.analysis_of(truth, "d" * 64, "e" * 64, {"detections.bbox.json": json.dumps(results[:4]).encode()})
    assert [box[5] for box in made["found"][0]] == [0.06, 0.05]


def test_it_is_kept_once_beside_the_board(truth, results, tmp_path):
    (tmp_path / "val.json").write_text(json.dumps(truth))
    file = tmp_path / "detections.bbox.json"
    file.write_text(json.dumps(results))
    stated = fingerprint([hashlib.sha256(file.read_bytes()).hexdigest()])
    root, data = tmp_path / "results", SimpleNamespace(val_annotations=tmp_path / "val.json", fingerprint="d" * 64)
    detections.keep(root, stated, [file])
    row = dict(detections=stated, data_fingerprint="d" * 64)
    assert len(analysis.keep(root, row, data)) == 2 and analysis.keep(root, row, data) == []
    kept = analyses.read_all(root, [row])
    assert [kept["d" * 64], kept[stated]] == json.loads(json.dumps(analysis.made(root, row, data)))
    assert [photo["id"] for photo in kept["d" * 64]["photos"]] == [i["id"] for i in analysis.fixed_photos(truth)]
