"""The record seam: what is refused, what is written, and that no partial file is ever seen."""
import json
import os
import subprocess
import sys

import pytest

from leaderboard.record import is_shortened, main_metric, read_all, result_path, write, write_text

REQUIRED = ("schema", "task", "task_version", "scale", "schedule", "method", "seed", "metrics", "per_class",
            "load_report", "protocol_fingerprint", "data_fingerprint", "checkpoint", "detections", "cost",
            "environment", "config")


def test_a_record_comes_back_as_it_was_written(tmp_path, make):
    records = [make(method, seed) for method in ("detco", "moco_v2") for seed in (0, 1)]
    for record in reversed(records):
        write(tmp_path, record)
    assert read_all(tmp_path) == records  # in the order of their paths
    text = (tmp_path / "mini/coco_maskrcnn_c4/detco-seed0.json").read_text()
    assert text.endswith("}\n") and text.startswith('{\n "checkpoint"')  # sorted keys, indent 1


def test_a_schedule_that_is_not_the_scales_own_is_a_folder(tmp_path, make):
    small = make(scale="small", schedule="small")
    assert result_path(tmp_path, small) == tmp_path / "small/coco_maskrcnn_c4/detco-seed0.json"
    assert result_path(tmp_path, small | {"schedule": "10%"}).parent.name == "10%"
    assert result_path(tmp_path, small | {"schedule": ""}) == result_path(tmp_path, small)
    paper = make(seed=3, scale="paper", schedule="2x")
    assert write(tmp_path, paper) == tmp_path / "paper/coco_maskrcnn_c4/2x/detco-seed3.json"
    write(tmp_path, make(seed=3, scale="paper", schedule="12k"))
    assert len(read_all(tmp_path)) == 2


@pytest.mark.parametrize("field", REQUIRED)
def test_a_missing_field_is_named(tmp_path, make, field):
    record = make()
    del record[field]
    with pytest.raises(ValueError, match=f"^field '{field}' is missing$"):
        write(tmp_path, record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("field", "value", "message"), [
    ("schema", 2, "'schema' is 2; this version reads schema 1"),
    ("scale", "huge", "'scale' is 'huge'"),
    ("seed", True, "'seed' must be int, not bool"),
    ("seed", "0", "'seed' must be int, not str"),
    ("detections", 7, "'detections' must be str or null, not int"),
    ("method", "../detco", "'method' is '../detco'"),
    ("method", "a|b", "'method' is 'a|b'"),
    ("task", "", "'task' is ''"),
    ("data_fingerprint", "unknown", "'data_fingerprint' is 'unknown'"),
    ("metrics", {"bbox_AP": "23"}, "'metrics.bbox_AP' must be int or float or null, not str"),
    ("metrics", {"speed": 2.0}, "'metrics' holds no main metric"),
    ("main_metric", "AP", "'main_metric' is 'AP', which 'metrics' does not hold"),
    ("unreliable", True, "'unreliable' must be str or null, not bool"),
])
def test_a_bad_field_is_named(tmp_path, make, field, value, message):
    with pytest.raises(ValueError) as error:
        write(tmp_path, make() | {field: value})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_reading_names_file_and_field(tmp_path, make):
    path = write(tmp_path, make())
    record = make()
    del record["cost"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="detco-seed0.json: field 'cost' is missing"):
        read_all(tmp_path)
    path.write_text('{"schema": 1')
    with pytest.raises(ValueError, match="detco-seed0.json: Expecting"):
        read_all(tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="detco-seed0.json: .*must be dict, not list"):
        read_all(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_all(tmp_path / "nowhere")


@pytest.mark.parametrize("where", ["record", "environment"])
def test_a_shortened_run_among_the_results_is_refused(tmp_path, make, where):
    record = make(limit=None)
    assert not is_shortened(record)
    (record if where == "record" else record["environment"])["limit"] = 8
    assert is_shortened(record)
    write(tmp_path, record)  # a scratch folder may hold it
    with pytest.raises(ValueError, match="detco-seed0.json: field 'limit' is set"):
        read_all(tmp_path)


def test_a_misfiled_record_is_refused(tmp_path, make):
    path = write(tmp_path, make())
    path.rename(path.with_name("detco-seed1.json"))
    with pytest.raises(ValueError, match="detco-seed1.json: its fields say it is .*detco-seed0.json"):
        read_all(tmp_path)


def test_not_a_number_becomes_null(tmp_path, make):
    record = make(metrics={"bbox_AP": 1.0, "segm_AP": float("nan")}, per_class={"disc": [float("inf"), 2.0]})
    stored = json.loads(write(tmp_path, record).read_text(), parse_constant=pytest.fail)
    assert stored["metrics"] == {"bbox_AP": 1.0, "segm_AP": None}
    assert stored["per_class"] == {"disc": [None, 2.0]}
    assert record["per_class"]["disc"][0] == float("inf")  # the caller's record is left alone


def test_what_json_cannot_hold_leaves_the_old_file_alone(tmp_path, make):
    path = write(tmp_path, make())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="detco seed 0 is not JSON: .*set"):
        write(tmp_path, make(per_class={"disc": {1, 2}}))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failing_disk_leaves_the_old_file_and_no_partial_one(tmp_path, make, monkeypatch, step):
    path = write(tmp_path, make())
    before = path.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    def half(self, text, **options):
        self.write_bytes(text[:10].encode())
        full()

    if step == "replace":
        monkeypatch.setattr("leaderboard.record.os.replace", full)
    else:
        monkeypatch.setattr("leaderboard.record.Path.write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, make(cost={}))
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_readers_see_the_old_text_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "page.md"
    write_text(path, "old")
    seen, replace = [], os.replace

    def spy(source, target):
        seen.append((path.read_text(), source.read_text(), source.parent))
        replace(source, target)

    monkeypatch.setattr("leaderboard.record.os.replace", spy)
    write_text(path, "new")
    assert seen == [("old", "new", tmp_path)] and path.read_text() == "new"


@pytest.mark.parametrize(("metrics", "expected"), [
    ({"segm_AP": 1.0, "bbox_AP": 2.0}, "bbox_AP"),
    ({"bbox_AP": 1.0, "keypoints_AP": 2.0}, "keypoints_AP"),
    ({"top5": 1.0, "top1": 2.0}, "top1"),
    ({"mIoU": 1.0}, "mIoU"),
    ({"segm_AP50": 1.0, "segm_AP": 2.0}, "segm_AP"),
])
def test_the_main_metric(make, metrics, expected):
    assert main_metric(make(metrics=metrics)) == expected
    named = min(metrics)
    assert main_metric(make(metrics=metrics, main_metric=named)) == named


def test_importing_the_room_brings_neither_torch_nor_another_room():
    code = ("import sys, leaderboard.__main__\n"
            "rooms = {'torch', 'numpy', 'scipy', 'mmdet', 'detco', 'baselines', 'benchmarks'}\n"
            "heavy = rooms & set(sys.modules)\n"
            "sys.exit(', '.join(sorted(heavy)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
