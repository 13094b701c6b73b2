"""Scores over resampled photos, beside pycocotools' of the same detections."""
import json
import zipfile

import numpy as np
import pytest

from benchmarks import compare, verify
from benchmarks.data import sources, synthetic, synthetic_sets
from benchmarks.detection import resampling
from benchmarks.detection.evaluate import coco_metrics, files_of, hash_of_detections
from leaderboard import detections, record
from tests.leaderboard.conftest import PROTOCOL, make_record


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "mini"
    synthetic.write_scenes(root / "scenes", train=4, val=30)
    synthetic_sets.draw("person", root)
    return {kind: json.loads((root / "scenes" / "annotations" / f"{name}_val.json").read_text())
            for kind, name in (("bbox", "instances"), ("segm", "instances"), ("keypoints", "person_keypoints"))}


def detected(truth, seed, noise, unique=True):
    """Detections of a file's objects with noise, some of a wrong category, some of nothing; scores apart or tied."""
    draw, found = np.random.default_rng(seed), []
    size = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = [c["id"] for c in truth["categories"]]
    for a in truth["annotations"]:
        for _ in range(draw.integers(0, 3)):
            box = np.asarray(a["bbox"], float)
            box += draw.normal(0, noise, 4) * box[[2, 3, 2, 3]]
            points = np.asarray(a.get("keypoints", [0, 0, 2]), float).reshape(-1, 3)
            points[:, :2] += draw.normal(0, 20 * noise, points[:, :2].shape)
            dx, dy = np.rint(draw.normal(0, 20 * noise, 2))
            category = a["category_id"] if draw.random() < 0.8 else int(draw.choice(categories))
            found.append(dict(
                image_id=a["image_id"], category_id=category, size=size[a["image_id"]],
                bbox=np.maximum(box, [-99, -99, 1, 1]).tolist(), keypoints=points.ravel().tolist(),
                segmentation=[(np.reshape(p, (-1, 2)) + (dx, dy)).ravel().tolist() for p in a["segmentation"]]))
    scores = draw.permutation(len(found)) / len(found) if unique else draw.integers(0, 8, len(found)) / 8
    return [each | dict(score=float(s)) for each, s in zip(found, scores)]


def as_results(found, kind):
    """In the form that results of a kind have."""
    from pycocotools import mask

    if kind == "segm":
        codes = [mask.merge(mask.frPyObjects(each["segmentation"], *each["size"])) for each in found]
        found = [each | dict(segmentation=code | dict(counts=code["counts"].decode()))
                 for each, code in zip(found, codes)]
    more = {"bbox": ["bbox"], "segm": ["bbox", "segmentation"], "keypoints": ["keypoints"]}[kind]
    return [{key: each[key] for key in ("image_id", "category_id", "score", *more)} for each in found]


def official(truth, results, kind, folder):
    for name, content in (("truth", truth), ("results", results)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    scores, _ = coco_metrics(folder / "truth.json", folder / "results.json", kind)
    return [scores[f"{kind}_{name}"] for name in ("AP", "AP50", "AP75")]


def ours(matches, weights):
    by_iou = resampling.average_precisions(matches, np.atleast_2d(weights))
    return [by_iou.mean(), by_iou[0, 0], by_iou[0, 5]]


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_with_every_photo_once_the_figures_are_pycocotools(truth, kind, unique, tmp_path):
    results = as_results(detected(truth[kind], 1, 0.08, unique), kind)
    matches, _ = resampling.match(truth[kind], results, kind)
    expected = official(truth[kind], results, kind, tmp_path)
    assert 5 < expected[0] < 95 and ours(matches, np.ones(30, int)) == pytest.approx(expected, abs=1e-9)


def test_crowds_absent_categories_and_empty_photos_count_as_pycocotools_has_them(truth, tmp_path):
    changed = json.loads(json.dumps(truth["bbox"]))
    for number, annotation in enumerate(changed["annotations"]):
        annotation["iscrowd"] = int(number % 7 == 0)
    changed["categories"].append(dict(id=99, name="nothing"))
    empty = changed["images"][3]["id"]
    changed["annotations"] = [a for a in changed["annotations"] if a["image_id"] != empty]
    results = as_results(detected(truth["bbox"], 2, 0.1), "bbox")
    matches, _ = resampling.match(changed, results, "bbox")
    assert any(one.left_out.any() for one in matches.classes)
    assert ours(matches, np.ones(30, int)) == pytest.approx(official(changed, results, "bbox", tmp_path), abs=1e-9)


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
def test_weights_are_photos_taken_so_often(truth, kind, tmp_path):
    """Beside pycocotools on a file in which each photo stands as often as it was drawn, some never."""
    found = detected(truth[kind], 3, 0.1)
    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30))
    drawn, results = truth[kind] | dict(images=[], annotations=[]), []
    images = {image["id"]: image for image in truth[kind]["images"]}
    for number in np.repeat(sorted(images), weights).tolist():
        new = len(drawn["images"]) + 1
        drawn["images"].append(images[number] | dict(id=new))
        drawn["annotations"] += [a | dict(image_id=new, id=len(drawn["annotations"]) + i)
                                 for i, a in enumerate((a for a in truth[kind]["annotations"]
                                                        if a["image_id"] == number), 1)]
        results += [each | dict(image_id=new) for each in found if each["image_id"] == number]
    matches, _ = resampling.match(truth[kind], as_results(found, kind), kind)
    assert ours(matches, weights) == pytest.approx(
        official(drawn, as_results(results, kind), kind, tmp_path), abs=1e-9)


def test_nothing_detected_scores_nothing_and_a_detector_beside_itself_differs_by_nothing(truth):
    nothing, _ = resampling.match(truth["bbox"], [], "bbox")
    assert ours(nothing, np.ones(30, int)) == [0, 0, 0]
    some, errors = resampling.match(truth["bbox"], as_results(detected(truth["bbox"], 4, 0.1), "bbox"), "bbox")
    assert all(values == (0, 0, 0, 0) for values in resampling.bootstrap(some, some, 20).values())
    assert set(errors) == {"Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"} and errors["Miss"] > 0


def test_recalls_are_counted_as_searchsorted_counts_them():
    recall = np.concatenate([np.arange(n + 1) / n for n in range(1, 400)])
    assert np.array_equal(resampling._recalls_below(recall),
                          np.searchsorted(resampling.RECALLS, recall, side="right"))


def test_the_bootstrap_tells_how_far_photos_matter(truth):
    """Its standard error beside the spread of the difference over halves of the photos, drawn apart."""
    a, b = (resampling.match(truth["bbox"], as_results(detected(truth["bbox"], seed, noise), "bbox"), "bbox")[0]
            for seed, noise in ((5, 0.05), (6, 0.15)))
    mean, error, low, high = resampling.bootstrap(a, b, 400)["AP"]
    assert low < mean < high and low > 0 and (high - low) / 4 == pytest.approx(error, rel=0.2)


@pytest.fixture
def board(truth, tmp_path):
    """Two methods' rows of the mini scale, two seeds each, their detections kept, and the data."""
    root, results = tmp_path / "data", tmp_path / "board" / "results"
    synthetic.write_scenes(root / "mini" / "scenes", train=4, val=30)
    data = sources.coco_for("mini", "coco", root)
    protocol = PROTOCOL | {"task": {"metrics": ["bbox", "segm"]}}
    record.write_protocol(results, protocol)
    for method, noise in (("detco", 0.05), ("moco_v2", 0.12)):
        for seed in (0, 1):
            found = detected(truth["bbox"], seed + 10 * (method == "detco"), noise)
            folder = tmp_path / f"{method}{seed}"
            folder.mkdir()
            metrics = {}
            for kind in ("bbox", "segm"):
                content = as_results(found, kind)
                (folder / f"detections.{kind}.json").write_text(json.dumps(content))
                metrics |= coco_metrics(data.val_annotations, folder / f"detections.{kind}.json", kind)[0]
            stated = hash_of_detections(["bbox", "segm"], folder)
            record.write(results, make_record(
                method, seed, metrics=metrics, detections=stated, data_fingerprint=data.fingerprint,
                protocol_fingerprint=record.fingerprint(protocol)))
            detections.keep(results, stated, files_of(["bbox", "segm"], folder))
    return [f"--data-root={root}", f"--results={results}", "--resamples=50"]


def test_two_methods_are_compared_over_photos_and_over_seeds(board, capsys):
    assert compare.main(["detco", "moco_v2", *board]) == 0
    said = capsys.readouterr().out
    for words in ("bbox_AP ", "segm_AP75", "p0 s0", "p0 s1", "2 transfers", "detco - moco_v2", "AP50 lost to", "Miss"):
        assert words in said


@pytest.mark.parametrize("words, error", [
    (["detko", "moco_v2"], "unknown method 'detko': did you mean detco? at mini, coco_maskrcnn_c4"),
    (["detco", "moco_v2", "--task", "knn"], "no row of knn at scale mini"),
    (["detco", "moco_v2", "--resamples", "1"], "--resamples 1: give 2 or more")])
def test_what_cannot_be_compared_is_said_in_one_line(words, error, board, capsys):
    assert compare.main([*board, *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert error in line


def test_other_data_and_lost_or_changed_detections_are_refused(board, tmp_path, capsys):
    [first, *_] = sorted((tmp_path / "board" / "detections").iterdir())
    whole = first.read_bytes()
    first.write_bytes(whole[:-9])
    assert compare.main(["detco", "moco_v2", *board]) == 2 and f"{first}: cannot be read" in capsys.readouterr().err
    with zipfile.ZipFile(first, "w") as archive:
        archive.writestr("detections.bbox.json", "[]")
    assert compare.main(["detco", "moco_v2", *board]) == 2
    assert f"{first}: not the detections that its name says" in capsys.readouterr().err
    first.unlink()
    assert compare.main(["detco", "moco_v2", *board]) == 2 and f"{first}: no such detections" in capsys.readouterr().err
    synthetic.write_scenes(tmp_path / "other" / "mini" / "scenes", train=2, val=3)
    assert compare.main(["detco", "moco_v2", *board, f"--data-root={tmp_path / 'other'}"]) == 2
    assert "not the data that the rows were tested on" in capsys.readouterr().err


def test_filed_rows_are_scored_again_from_what_was_kept(board, tmp_path, capsys):
    assert verify.main(board[:2]) == 0 and "4 agree" in capsys.readouterr().out
    path = tmp_path / "board" / "results" / "mini" / "coco_maskrcnn_c4" / "detco-p0-s1.json"
    row = json.loads(path.read_text())
    honest = row["metrics"]["segm_AP50"]
    row["metrics"]["segm_AP50"] += 1e-6
    path.write_text(json.dumps(row))
    [lost, *_] = sorted((tmp_path / "board" / "detections").iterdir())
    record.write(path.parents[2], make_record("byol", task="knn", detections=None))
    assert verify.main(board[:2]) == 1
    said = capsys.readouterr().out
    assert f"mini coco_maskrcnn_c4 detco p0 s1: segm_AP50 is filed as {row['metrics']['segm_AP50']}, its detections " \
        f"score {honest}" in said
    assert "3 agree" in said and "1 differ" in said and "1 without detections" in said
    lost.unlink()
    assert verify.main([*board[:2], "--scale", "mini"]) in (0, 1)
    assert "1 whose detections are not here" in capsys.readouterr().out


@pytest.mark.parametrize("measured, said", [(True, "1 whose rules are not here"), (False, "4 agree")])
def test_rules_that_are_not_installed_are_told_where_a_row_was_scored_by_them(measured, said, board, tmp_path,
                                                                              monkeypatch, capsys):
    from benchmarks.detection import cityscapes_metric

    monkeypatch.setattr(cityscapes_metric, "is_installed", lambda: False)
    monkeypatch.setattr(verify, "filed_protocol", lambda root, row, given=verify.filed_protocol: {
        "task": {"metrics": [*given(root, row)["task"]["metrics"], "cityscapes"]}})
    path = tmp_path / "board" / "results" / "mini" / "coco_maskrcnn_c4" / "detco-p0-s1.json"
    row = json.loads(path.read_text())
    if measured:
        row["metrics"]["cityscapes_AP"] = 1.0
    path.write_text(json.dumps(row))
    assert verify.main(board[:2]) == 0 and said in capsys.readouterr().out
