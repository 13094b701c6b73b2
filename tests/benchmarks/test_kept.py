"""What is kept between calls cannot lie: changed bytes, other rows' files, two commands at once, stops at any time."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks import execute, run
from benchmarks.image_level import features
from detco import files
from leaderboard import build, record

ROOT = Path(__file__).resolve().parents[2]
FILED = ROOT / "leaderboard" / "results"


@pytest.fixture(scope="module")
def root(drawn_data):
    return drawn_data(pool=80, train=12, val=6)


def words(root, folder, *more, task="knn", method="random_init"):
    return list(map(str, ["--method", method, "--scale", "mini", "--task", task, "--limit", 2, "--no-report",
                          "--data-root", root, "--work-dir", folder, "--results", folder / "results", *more]))


@pytest.fixture(scope="module", params=["knn", "coco_maskrcnn_c4"])
def measured(request, root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    assert run.main(words(root, folder, task=request.param)) == 0
    return request.param, folder


@pytest.fixture
def row(measured, root, tmp_path):
    """A finished row's task, its work folder and its call, in folders of its own."""
    task, folder = measured
    shutil.copytree(folder, tmp_path / "work")
    [result] = (tmp_path / "work").glob(f"transfer/mini/{task}/*/result.json")
    return task, result, lambda *more: run.main(words(root, tmp_path / "work", *more, task=task))


def edited(path):
    content = json.loads(path.read_text())
    content["metrics"][content["main_metric"]] = 99.0
    path.write_text(json.dumps(content, indent=1, sort_keys=True))


def of_another_seed(path):
    content = json.loads(path.read_text()) | dict(seed=1)
    with files.replacing(path, sealed=True) as temporary:
        temporary.write_text(json.dumps(content))


def of_another_checkpoint(path):
    content = json.loads(path.read_text())
    content["checkpoint"]["hash"] = "0" * 64
    with files.replacing(path, sealed=True) as temporary:
        temporary.write_text(json.dumps(content))


@pytest.mark.parametrize("harm, words", [
    (edited, "not what was written: its bytes do not fit result.json.sha256"),
    (lambda path: path.write_bytes(path.read_bytes()[:300]), "not what was written"),
    (lambda path: path.write_bytes(b""), "not what was written"),
    (lambda path: path.with_name("result.json.sha256").unlink(), "no result.json.sha256 beside it"),
    (of_another_seed, "of another row, seed: 1 != 0"),
    (of_another_checkpoint, "of another row, checkpoint: '000")])
def test_a_result_that_changed_or_is_anothers_is_refused_in_one_line(harm, words, row, capsys):
    _, result, call = row
    harm(result)
    capsys.readouterr()
    assert call() == 2
    [line] = capsys.readouterr().err.splitlines()
    assert str(result) in line and words in line and line.endswith("--force measures the row again")


def test_a_whole_result_is_reused_and_force_mends_a_bad_one(row, capsys):
    _, result, call = row
    whole = json.loads(result.read_text())
    assert call() == 0 and "reused from" in capsys.readouterr().out
    edited(result)
    assert call("--force") == 0
    assert json.loads(result.read_text())["metrics"] == whole["metrics"]
    assert call() == 0 and "reused from" in capsys.readouterr().out


def test_detections_are_those_that_were_scored(row, capsys):
    task, result, call = row
    if task == "knn":
        pytest.skip("k-NN detects nothing")
    detections = result.with_name("detections.bbox.json")
    detections.write_text(detections.read_text() + " ")
    assert call() == 2 and "its detections, beside it, are not those that were scored" in capsys.readouterr().err
    detections.unlink()
    assert call() == 2 and f"{detections}, its detections, is missing; --force" in capsys.readouterr().err


def test_features_that_changed_are_computed_again_and_under_force_all_are(root, tmp_path, monkeypatch):
    computed, compute = [], features._compute
    monkeypatch.setattr(features, "_compute", lambda job, model, images, split, todo: computed.extend(
        f"{split} {path.name}" for _, path in todo) or compute(job, model, images, split, todo))
    call = words(root, tmp_path)
    assert run.main(call) == 0
    [train], [val] = ([*tmp_path.glob(f"transfer/mini/knn/features/{split}-*/*.npy")] for split in ("train", "val"))
    [result] = tmp_path.glob("transfer/mini/knn/*/result.json")
    whole, once = json.loads(result.read_text())["metrics"], [f"train {train.name}", f"val {val.name}"]
    assert computed == once
    train.write_bytes(train.read_bytes()[:-2] + b"\x00\x3c")
    result.unlink()
    assert run.main(call) == 0 and computed == [*once, once[0]]
    assert json.loads(result.read_text())["metrics"] == whole
    assert run.main([*call, "--force"]) == 0 and computed == [*once, once[0], *once]


def test_a_pretrained_checkpoint_that_changed_is_refused(root, tmp_path, capsys):
    call = words(root, tmp_path, "--pretrain-only", method="moco_v2")
    assert run.main(call) == 0
    [checkpoint] = tmp_path.glob("pretrain/mini/*/checkpoint.safetensors")
    whole = checkpoint.read_bytes()
    for place in (len(whole) // 2, whole.index(b"encoder_pixels") + 20):  # a weight, a digit of the metadata
        checkpoint.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
        capsys.readouterr()
        assert run.main(call) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"checkpoint {checkpoint}: its bytes changed since it was written" in line
    checkpoint.write_bytes(whole)
    assert run.main(call) == 0


def started(*arguments):
    return subprocess.Popen([sys.executable, str(ROOT / "benchmarks" / "run.py"), *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def test_of_two_equal_commands_at_once_one_works_and_the_other_takes_what_it_made(root, tmp_path):
    both = [started(*words(root, tmp_path, method="moco_v2")) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("reused from" in text for text in said) == 1
    [log] = tmp_path.glob("pretrain/mini/*/run.log")
    assert log.read_text().count("Iter(train) [2/2]") == 1


def test_a_page_is_never_older_than_its_records(tmp_path):
    """As many rows as writers, each filed and followed by a page, as `execute.report` does it."""
    results = tmp_path / "board" / "results"
    rows = [row for row in record.read_all(FILED) if row["task"] == "knn" and row["scale"] == "mini"]
    protocols = record.read_protocols(FILED, rows)

    def writer(row):
        record.file(results, row, protocols[row["protocol_fingerprint"]])
        build.write(results)

    assert len(rows) > 3
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / ".LEADERBOARD.md.1.tmp").write_text("half")  # of one that was killed
    for _ in range(5):
        shutil.rmtree(results, ignore_errors=True)
        with ThreadPoolExecutor(len(rows)) as threads:
            list(threads.map(writer, rows))
        assert (results.parent / "LEADERBOARD.md").read_text() == build.build(results)
    assert not list(results.parent.rglob(".*.tmp"))


def stopped_at(seconds, number, root, folder):
    process = started(*words(root, folder))
    time.sleep(seconds)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert "Traceback" not in error and len(error.strip().splitlines()) <= 1, (seconds, error)
    assert process.returncode in (0, 130, -number), (seconds, process.returncode, error)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_at_start_up_is_at_most_one_line(number, root, tmp_path):
    draw = random.Random(number)
    for _ in range(3):  # interpreter, imports, checks, reading: wherever it is
        stopped_at(draw.uniform(0.05, 4), number, root, tmp_path)


@pytest.mark.slow
def test_forty_stops_at_start_up(root, tmp_path):
    draw = random.Random(0)
    for i in range(40):
        stopped_at(draw.uniform(0.05, 8), (signal.SIGINT, signal.SIGTERM)[i % 2], root, tmp_path)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied", "/elsewhere/x"),
                                   OSError(30, "Read-only file system", "/elsewhere/x")])
def test_a_folder_that_cannot_be_written_is_one_line_with_the_remedy(error, root, tmp_path, monkeypatch, capsys):
    def fails(plan):
        raise error

    monkeypatch.setattr(execute, "execute", fails)
    assert run.main(words(root, tmp_path)) == 2
    assert capsys.readouterr().err == (f"error: /elsewhere/x: {error.strerror}; mend its permissions, or name another "
                                       "folder (--data-root, --work-dir, --results)\n")


@pytest.mark.slow
def test_a_detector_killed_twenty_times_at_random_moments_gives_the_same_bits(root, tmp_path):
    """Rows of eight iterations, a state every second one, each killed until it is done, until there were twenty."""
    draw, kills, seed, resumed = random.Random(0), 0, 0, 0
    while kills < 20:
        found = []
        for name in ("whole", "parts"):
            folder = tmp_path / f"{name}{seed}"
            arguments = [*words(root, folder, "--seed", seed, task="coco_maskrcnn_c4"), "--limit", "8"]
            while not list(folder.glob("transfer/mini/*/*/result.json")):
                process = started(*arguments)
                if name == "parts":
                    before = logged(folder)
                    while process.poll() is None and logged(folder) == before:
                        time.sleep(0.05)
                    time.sleep(draw.uniform(0, 6))  # building, resuming, training, saving, evaluating
                    kills += process.poll() is None
                    process.kill()
                process.communicate()
            [result] = folder.glob("transfer/mini/*/*/result.json")
            found.append(json.loads(result.read_text()))
        resumed += found[1]["cost"]["resumed"]
        for key in ("detections", "metrics", "train_losses"):
            assert found[0][key] == found[1][key]
        seed += 1
    print(f"{kills} kills of {seed} rows, {resumed} of them resumed from a state")
    assert resumed


def logged(folder):
    return sum(path.stat().st_size for path in folder.glob("transfer/mini/*/*/run.log"))
