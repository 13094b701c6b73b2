"""Detection sets of one's own: any categories, through COCO's tasks, in tables of their own."""
import json

import pytest

from benchmarks import plan, run
from benchmarks.cli import request_of, words_of


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Scenes with two of their categories under other names and numbers."""
    from benchmarks.data import synthetic

    root = tmp_path_factory.mktemp("mine")
    synthetic.write_scenes(root / "scenes", train=16, val=6)
    for split in ("train", "val"):
        [path] = (root / "scenes").rglob(f"instances_{split}.json")
        content = json.loads(path.read_text())
        kept = {c["id"]: n for c, n in zip(content["categories"], (7, 3))}
        names = {7: "apple", 3: "bicycle wheel"}
        content["categories"] = [dict(id=number, name=name) for number, name in names.items()]
        content["annotations"] = [a | dict(category_id=kept[a["category_id"]]) for a in content["annotations"]
                                  if a["category_id"] in kept]
        (root / f"{split}.json").write_text(json.dumps(content))
    (root / "orchard.yml").write_text("name: orchard\ntrain: {json: train.json, images: scenes/train}\n"
                                      "val: {json: val.json, images: scenes/val}\n")
    return root


def words(mine, folder, *more, task=("coco_retinanet_fpn",)):
    return list(map(str, ["--data", mine / "orchard.yml", "--scale", "mini", "--method", "random_init", "--task", *task,
                          "--limit", 2, "--no-report", "--data-root", folder / "none", "--work-dir", folder,
                          "--results", folder / "results", *more]))


def test_its_categories_go_through_the_detectors(mine, tmp_path):
    assert run.main(words(mine, tmp_path, task=("coco_retinanet_fpn", "coco_maskrcnn_c4", "coco_maskrcnn_fpn"))) == 0
    found = [json.loads(path.read_text()) for path in tmp_path.glob("transfer/mini/*/*/result.json")]
    assert len(found) == 3
    for row in found:
        assert set(row["per_class"]["bbox"]) == {"apple", "bicycle wheel"} and row["data"]["source"] == "orchard"
        assert row["schedule"].endswith("+orchard")
    assert len({row["data_fingerprint"] for row in found}) == 1
    assert list((tmp_path / "checked").iterdir()) and not list(mine.rglob(".checked"))  # nothing is written beside it


def test_a_yaml_file_and_the_four_options_say_the_same(mine, tmp_path):
    by_file = plan.make(request_of(words(mine, tmp_path)))
    given = words(mine, tmp_path, "--train-json", mine / "train.json", "--train-images", mine / "scenes" / "train",
                  "--val-json", mine / "val.json", "--val-images", mine / "scenes" / "val")
    given[1] = "orchard"
    by_options = plan.make(request_of(given))
    assert by_file.transfers == by_options.transfers
    assert plan.make(request_of(words_of(request_of(given)))).transfers == by_options.transfers  # a sweep's jobs


def test_a_sweeps_jobs_find_the_set_from_anywhere(mine, tmp_path, monkeypatch):
    from benchmarks.sweep import jobs

    monkeypatch.chdir(mine)
    for given in (["--data", "orchard.yml"], ["--data", "orchard", "--train-json", "train.json", "--train-images",
                                              "scenes/train", "--val-json", "val.json", "--val-images", "scenes/val"]):
        request = request_of([*given, *words(mine, tmp_path)[2:]])
        _, rows = jobs(request, plan.make(request))
        monkeypatch.chdir(tmp_path)
        [(command, _)] = rows.values()
        assert plan.make(request_of(command)).transfers[0].own.classes == ("apple", "bicycle wheel")
        monkeypatch.chdir(mine)


def test_all_tasks_are_those_of_objects(mine, tmp_path):
    made = plan.make(request_of([*words(mine, tmp_path, task=("all",))]))
    names = {transfer.protocol.task for transfer in made.transfers}
    assert {"coco_maskrcnn_c4", "coco_sparsercnn"} <= names
    assert not names & {"coco_keypointrcnn_fpn", "voc_fasterrcnn_c4", "knn", "cityscapes_maskrcnn_fpn"}


@pytest.mark.parametrize("change, said", [
    (lambda w, p: [*w, "--train-json", p / "train.json"], "says where the set lies; leave one out"),
    (lambda w, p: ["--data", "orchard", *w[2:], "--val-json", p / "val.json"],
     "--data orchard: --train-json, --train-images, --val-images missing; or give a YAML file"),
    (lambda w, p: [*w[2:], "--val-json", p / "val.json"], "--val-json belongs to --data NAME; give both"),
    (lambda w, p: ["--data", p / "gone.yml", *w[2:]], "gone.yml: no such file"),
    (lambda w, p: ["--data", p / "train.json.yml", *w[2:]], "train.json.yml: no such file"),
    (lambda w, p: [*w, "--task", "imagenet_linear"], "imagenet_linear: runs on imagenet data; --data takes"),
    (lambda w, p: [*w, "--task", "voc_fasterrcnn_c4"], "voc_fasterrcnn_c4: runs on voc data"),
    (lambda w, p: [*w, "--task", "coco_keypointrcnn_fpn"], "keypoints")])
def test_what_is_no_set_is_one_line_before_the_work(change, said, mine, tmp_path, capsys):
    assert run.main(list(map(str, change(words(mine, tmp_path), mine)))) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and not (tmp_path / "transfer").exists()


@pytest.mark.parametrize("text, said", [
    ("name: a b\ntrain: {json: train.json, images: scenes/train}\nval: {json: val.json, images: scenes/val}", "'a b'"),
    ("name: a\ntrain: {json: gone.json, images: scenes/train}\nval: {json: val.json, images: scenes/val}",
     "--train-json"),
    ("name: a\ntrain: {json: train.json, images: train.json}\nval: {json: val.json, images: scenes/val}",
     "no such folder"),
    ("name: a\ntrain: {json: val.json, images: scenes/train}\nval: {json: val.json, images: scenes/val}",
     "scenes/train"),
    ("- a", "cannot be read as YAML"), ("name: [", "cannot be read as YAML"), ("name: a", "cannot be read as YAML")])
def test_what_is_no_yaml_of_a_set_is_one_line(text, said, mine, tmp_path, capsys):
    path = mine / "bad.yml"
    path.write_text(text)
    given = words(mine, tmp_path)
    given[1] = str(path)
    assert run.main(given) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and not (tmp_path / "transfer").exists()
    path.unlink()


def test_other_data_under_the_same_name_is_refused(mine, tmp_path, capsys):
    from leaderboard import record

    assert run.main(words(mine, tmp_path)) == 0
    [path] = tmp_path.glob("transfer/mini/*/*/result.json")
    row, protocol = json.loads(path.read_text()), json.loads(path.with_name("protocol.json").read_text())
    row["limit"] = None
    assert record.file(tmp_path / "board", row, protocol).status == "filed"
    with pytest.raises(record.RecordError, match="differ in data"):
        record.file(tmp_path / "board", row | dict(data_fingerprint="0" * 64, seed=1), protocol)


def test_a_first_look_shows_photos_counts_and_sizes(mine, tmp_path, monkeypatch, capsys):
    from benchmarks import figures
    from benchmarks.drawing import photos, plots

    drawn, counted, grid, bars = [], [], photos.grid, plots.counted
    monkeypatch.setattr(photos, "grid", lambda columns, *more, **options: drawn.append(columns) or
                        grid(columns, *more, **options))
    monkeypatch.setattr(plots, "counted", lambda *given: counted.append(given) or bars(*given))
    assert figures.main(["data", "--data", str(mine / "orchard.yml"), "--count", "5", "--output", str(tmp_path)]) == 0
    truth = json.loads((mine / "train.json").read_text())
    shown = [photo for column in drawn[0] for photo in column if photo]
    assert len(shown) == 5 and all(photo["boxes"] and photo["image"] is not None for photo in shown)
    [(counts, sides)] = counted
    assert sum(counts.values()) == len(sides) == len(truth["annotations"]) and set(counts) == {"apple", "bicycle wheel"}
    assert f"16 photos, {len(sides)} objects of 2 categories" in capsys.readouterr().out
    assert len(list(tmp_path.glob("data_orchard_train_*"))) == 4
    assert figures.main(["data", "--data", "gone.yml", "--output", str(tmp_path)]) == 2
    assert "gone.yml: no such file" in capsys.readouterr().err
