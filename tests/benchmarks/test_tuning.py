"""--tune: a search on images held out of training, recorded, in tables of its own."""
import json
from dataclasses import replace

import pytest

from benchmarks import cli, execute, plan, run, tuning
from benchmarks.data import coco, sources
from benchmarks.job import Job
from detco.errors import UserError
from detco.pool import MemoryPool
from leaderboard import record
from leaderboard.build import build


@pytest.fixture(scope="module")
def root(drawn_data):
    return drawn_data(pool=80, train=20, val=6)


def words(root, folder, *more, task="coco_maskrcnn_c4"):
    return list(map(str, ["--method", "random_init", "--scale", "mini", "--task", task, "--no-report", "--data-root",
                          root, "--work-dir", folder, "--results", folder / "results", *more]))


RATES = ("--tune", "task.optimizer.optimizer.lr=0.001,0.02")


@pytest.fixture(scope="module")
def tuned(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    assert run.main(words(root, folder, "--limit", 2, *RATES)) == 0
    [result] = folder.glob("transfer/mini/coco_maskrcnn_c4/*/result.json")
    if result.parent.name.endswith("-trials"):
        pytest.fail("the row lies among its trials")
    return folder, result


def test_the_row_has_the_search_and_is_filed_as_one(tuned):
    folder, path = tuned
    row, filed = json.loads(path.read_text()), json.loads(path.with_name("protocol.json").read_text())
    assert filed["tuned"] == {"fields": {"optimizer.optimizer.lr": [0.001, 0.02]}, "held_out": 20}
    assert record.fingerprint(filed) == row["protocol_fingerprint"] and "+tuned-" in row["schedule"]
    search = row["tuning"]
    assert [t["values"] for t in search["trials"]] == [{"optimizer.optimizer.lr": v} for v in (0.001, 0.02)]
    best = max(search["trials"], key=lambda trial: trial["score"])
    assert search["chosen"] == best["values"]
    for trial in search["trials"]:  # each is a record of its own, measured under its rate
        [its] = [p for p in folder.glob("transfer/mini/coco_maskrcnn_c4/*-trials/*/result.json")
                 if json.loads(p.read_text())["metrics"]["bbox_AP"] == trial["score"]
                 and json.loads(p.read_text())["cost"]["wall_seconds"] == trial["wall_seconds"]][:1]
        assert json.loads(its.read_text())["data_fingerprint"] == f"{row['data_fingerprint']}:less 20 %"


def test_it_is_filed_and_shown_in_a_table_of_its_own(tuned, root, tmp_path):
    _, path = tuned
    row, protocol = json.loads(path.read_text()), json.loads(path.with_name("protocol.json").read_text())
    row["limit"] = None
    assert record.file(tmp_path / "results", row, protocol).status == "filed"
    fixed = row | dict(schedule="mini", method="other")
    del fixed["tuning"]
    other = {key: value for key, value in protocol.items() if key != "tuned"}
    fixed["protocol_fingerprint"] = record.fingerprint(other)
    assert record.file(tmp_path / "results", fixed, other).status == "filed"
    text = build(tmp_path / "results")
    assert text.count("## mini · coco_maskrcnn_c4 · version") == 2
    assert "Tuned: random_init p0 s0: optimizer.optimizer.lr 0.0" in text and "the best of 2 on 20 %" in text


def test_a_second_call_searches_nothing_again(tuned, root, monkeypatch, capsys):
    folder, path = tuned
    monkeypatch.setattr(execute, "transfer", lambda job: pytest.fail("measured again"))
    assert run.main(words(root, folder, "--limit", 2, *RATES)) == 0 and "reused from" in capsys.readouterr().out
    path.unlink()  # its trials are there
    monkeypatch.setattr(execute, "transfer", lambda job: json.loads(json.dumps(dict(tuning=job.tuning, detections=None,
                                                                                    method=job.name))))
    assert run.main(words(root, folder, "--limit", 2, *RATES)) == 0


def test_the_best_trial_decides_and_the_first_of_equals(root, tmp_path):
    made = plan.make(cli.request_of(words(root, tmp_path, "--tune", "task.knn.k=1,2,3", task="knn")))
    [step] = made.transfers
    pools = execute.data_for(step, "mini", made.folders)
    job = Job(step.protocol, pools, step.source, {}, "m", 0, 0, tmp_path, None, "i", tmp_path / "row")
    for scores, k in (((1, 5, 2), 2), ((4, 4, 1), 1), ((None, None, 0), 3)):
        records = iter([dict(metrics=dict(top1=score), cost=dict(wall_seconds=1.0)) for score in scores])
        found = tuning.chosen(job, step.trials, lambda trial, records=records: next(records), False)
        assert found.protocol.config["knn"]["k"] == k and found.tuning["chosen"] == {"knn.k": k}
        assert found.data is pools and found.work_dir == job.work_dir  # the row learns from all images
        assert found.protocol.fingerprint == step.protocol.fingerprint
    with pytest.raises(UserError, match="no trial measured top1"):
        tuning.chosen(job, step.trials, lambda trial: dict(metrics=dict(top1=None), cost=dict(wall_seconds=1)), False)


def test_held_out_images_are_a_fifth_and_in_no_training(root, tmp_path):
    data = sources.coco_for("mini", "coco", root)
    split = tuning.split(data, tmp_path, 2)
    train, val, whole = (coco.read(path) for path in (split.train_annotations, split.val_annotations,
                                                      data.train_annotations))
    ids = [{image.id for image in part.images} for part in (train, val, whole)]
    assert ids[0] | ids[1] == ids[2] and not ids[0] & ids[1] and len(ids[1]) == 4
    assert {a.image_id for a in val.annotations} <= ids[1] and split.val_images == data.train_images
    with pytest.raises(coco.DataError, match="leaves 16 for a batch of 17"):
        tuning.split(data, tmp_path, 17)
    pools = execute.Pools(*(MemoryPool.load(sources.pool_for("mini", root, part)) for part in ("train", "val")))
    parts = tuning.split(pools, tmp_path, 1)
    assert (len(parts.train), len(parts.val)) == (64, 16) and parts.fingerprint != pools.fingerprint
    rows = [tuple(image.flatten()[:500].tolist()) for part in (parts.train, parts.val) for image in part.images]
    assert sorted(rows) == sorted(tuple(image.flatten()[:500].tolist()) for image in pools.train.images)


@pytest.mark.parametrize("more, said", [
    (["--tune", "task.optimizer.optimizer.lr=0.1"], "give two values or more"),
    (["--tune", "task.optimizer.optimizer.lr=0.1,0.1"], "a value is given twice"),
    (["--tune", "pretrain.optimizer.lr=0.1,0.2"], "of pretraining give one --set a run"),
    (["--tune", "task.optimizer.optimizer.lr=0.1,0.2", "--set", "task.optimizer.optimizer.lr=0.3"],
     "--set gives it too"),
    (["--tune", "task.nothing.at.all=1,2"], "nothing"), (["--tune", "lr=1,2"], "--tune lr=1,2: give pretrain.FIELD"),
    (["--tune", "task.optimizer.optimizer.lr=0.1,fast"], "optimizer.optimizer.lr"),
    (["--tune", "task.knn.k=1,2", "--tune", "task.knn.k=3,4"], "--tune task.knn.k is given twice"),
    (["--tune", "task.optimizer.optimizer.lr=0.1,0.2", "--pretrain-only"], "leave --pretrain-only out")])
def test_a_search_that_cannot_be_is_one_line_before_the_work(more, said, root, tmp_path, capsys):
    assert run.main(words(root, tmp_path, *more)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and not (tmp_path / "pretrain").exists()


def test_each_job_of_a_sweep_has_the_search(root, tmp_path):
    request = cli.request_of(words(root, tmp_path, *RATES))
    again = cli.request_of(cli.words_of(replace(request, seeds=(1,))))
    assert again == replace(request, seeds=(1,))
