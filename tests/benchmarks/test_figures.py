"""The pictures' command: what they are made of, and what is refused."""
import json

import pytest
import torch
from PIL import Image

from benchmarks import figures, run
from benchmarks.drawing import commands, photos


@pytest.fixture(scope="module")
def root(drawn_data):
    return drawn_data(pool=60, train=12, val=6)


@pytest.fixture(scope="module")
def checkpoint(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    assert run.main(["--method", "random_init", "--scale", "mini", "--pretrain-only", "--data-root", str(root),
                     "--work-dir", str(folder), "--limit", "2"]) == 0
    [path] = folder.glob("pretrain/mini/*/checkpoint.safetensors")
    return path


@pytest.fixture
def drawn(monkeypatch):
    """What each grid was made of."""
    found, grid = [], photos.grid
    monkeypatch.setattr(photos, "grid", lambda columns, titles, *more, **options: found.append((columns, titles)) or
                        grid(columns, titles, *more, **options))
    return found


def test_a_picture_that_is_in_the_pool_is_its_own_nearest_neighbour(root, checkpoint, drawn, tmp_path, monkeypatch,
                                                                    capsys):
    monkeypatch.setattr(commands, "load_pool", lambda scale, data_root, split="train", load=commands.load_pool:
                        load(scale, data_root))
    assert figures.main(["retrieval", f"it={checkpoint}", "--count", "3", "--neighbours", "2", "--data-root", str(root),
                         "--output", str(tmp_path)]) == 0
    [(columns, titles)] = drawn
    assert titles == ["query", "it", ""]
    for query, nearest in zip(columns[0], columns[1]):
        assert (query[0] == nearest[0]).all() and query[1] == nearest[1] and nearest[2] is True
    assert {path.name for path in tmp_path.iterdir()} == {"retrieval_mini.png", "retrieval_mini.svg"}
    assert f"{tmp_path}/retrieval_mini.png" in capsys.readouterr().out


def test_attention_is_where_features_are_large():
    features = torch.zeros(2, 3, 4, 4)
    features[0, :, 1, 2] = torch.tensor([3.0, -4.0, 0.0])
    found = commands.attended(features, 8)
    assert found[0].argmax() // 8 in (2, 3) and found[0].argmax() % 8 in (4, 5)
    assert found[0].min() == 0 and found[0].max() == 1 and (found[1] == 0).all()


def test_attention_of_own_photos(checkpoint, drawn, tmp_path):
    Image.new("RGB", (50, 40), "red").save(tmp_path / "a.jpg")
    Image.new("L", (40, 60)).save(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no photo")
    assert figures.main(["attention", f"x={checkpoint}", "--images", str(tmp_path), "--size", "64", "--level", "c4",
                         "--output", str(tmp_path / "out")]) == 0
    [(columns, titles)] = drawn
    assert titles == ["image", "x"] and [image.shape for image, _ in columns[0]] == [(64, 64, 3)] * 2
    assert [heat.shape for _, heat in columns[1]] == [(64, 64)] * 2
    with Image.open(tmp_path / "out" / "attention_c4.png") as picture:
        assert picture.width > 300 and picture.height > 300


@pytest.mark.parametrize("options, boxes, masks", [([], 2, 2), (["--no-photos"], 2, 0), (["--score", "0.5"], 1, 1)])
def test_detections_of_filed_rows_stand_beside_the_objects(options, boxes, masks, root, drawn, tmp_path, monkeypatch):
    """A row of the limited run, filed with two boxes of its own making on every photo."""
    from benchmarks.data import sources
    from benchmarks.detection import analysis

    data = sources.coco_for("mini", "coco", root)
    truth = json.loads(data.val_annotations.read_text())
    first = [next(a for a in truth["annotations"] if a["image_id"] == image["id"]) for image in truth["images"]]
    made = [dict(image_id=a["image_id"], category_id=a["category_id"], bbox=a["bbox"], score=score,
                 segmentation=a["segmentation"]) for a in first for score in (0.4, 0.8)]
    rows = [{(0, 0): dict(method=name, pretrain_seed=0, seed=0, scale="mini", detections="e" * 64,
                          data=dict(source="coco"), data_fingerprint=data.fingerprint)} for name in ("a", "b")]
    monkeypatch.setattr(commands.filed, "comparable", lambda *_: rows)
    monkeypatch.setattr(commands.kept, "read", lambda *_: {f"detections.{kind}.json": json.dumps(made)
                                                           for kind in ("bbox", "segm")})
    assert figures.main(["detections", "a", "b", "--count", "2", *options, "--data-root", str(root),
                         "--output", str(tmp_path)]) == 0
    [(columns, titles)] = drawn
    assert titles == ["objects", "a p0 s0", "b p0 s0"] and [len(column) for column in columns] == [2, 2, 2]
    shown = analysis.fixed_photos(truth, 2)
    assert [(p["width"], p["height"]) for p in columns[0]] == [(i["width"], i["height"]) for i in shown]
    assert all(len(p["boxes"]) == boxes and len(p["masks"]) == masks for p in columns[1])
    assert all((p["image"] is None) is ("--no-photos" in options) for column in columns for p in column)


def test_curves_of_the_shipped_board(tmp_path, capsys):
    assert figures.main(["curves", "--scale", "small", "--output", str(tmp_path)]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"small_knn_over_epochs.svg", "small_knn_over_pixels.png", "small_score_over_pixels.svg"} <= names


@pytest.mark.parametrize("words, said", [
    (["attention", "file.pth"], "file.pth: give NAME=FILE"), (["attention", "a=x", "a=y"], "a is given twice"),
    (["attention", "a=gone.pth", "--images", "."], "gone.pth"),
    (["attention", "a=x", "--size", "5"], "--size 5: give 32 to 2048"),
    (["retrieval", "a=x", "--count", "0"], "--count 0: give 1 or more"),
    (["detections", "nobody"], "unknown method 'nobody'"), (["curves", "--scale", "paper"], "no row of scale paper")])
def test_what_cannot_be_drawn_is_one_line(words, said, tmp_path, monkeypatch, capsys):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert figures.main([*words, "--output", str(tmp_path / "out")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and not (tmp_path / "out").exists()


def test_folders_without_photos_and_photos_that_are_none_are_one_line(checkpoint, tmp_path, capsys):
    call = ["attention", f"x={checkpoint}", "--output", str(tmp_path / "out"), "--images"]
    (tmp_path / "empty").mkdir()
    assert figures.main([*call, str(tmp_path / "empty")]) == 2
    assert "no photo there" in capsys.readouterr().err
    assert figures.main([*call, str(tmp_path / "gone.jpg")]) == 2
    assert "no such photo or folder" in capsys.readouterr().err
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8no photo")
    assert figures.main([*call, str(tmp_path / "bad.jpg")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "bad.jpg" in line and "leave it out" in line


def test_trainings_side_by_side(checkpoint, root, tmp_path, monkeypatch, capsys):
    from benchmarks.drawing import plots

    assert run.main(["--method", "moco_v2", "--scale", "mini", "--pretrain-only", "--data-root", str(root),
                     "--work-dir", str(tmp_path), "--limit", "4", "--set", "pretrain.method.bank_size=64"]) == 0
    [folder] = tmp_path.glob("pretrain/mini/moco_v2*")
    drawn, series = [], plots.series
    monkeypatch.setattr(plots, "series", lambda found, title: drawn.append(found) or series(found, title))
    assert figures.main(["training", str(folder), "--level", "c4", "--output", str(tmp_path / "out")]) == 0
    [[own]] = [list(found.values()) for found in drawn]
    line = json.loads((folder / "health.jsonl").read_text().splitlines()[-1])
    assert own["effective rank of C4"][-1] == (line["step"], line["rank"]["c4"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"training_c4.png", "training_c4.svg"}
    assert figures.main(["training", str(tmp_path), "--output", str(tmp_path / "out2")]) == 2
    assert "no work folder of a pretraining" in capsys.readouterr().err
