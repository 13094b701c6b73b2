"""A plan as jobs: each job's command line parses back to what it shall run; Ray runs them all."""
import _thread
import threading
import time
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks import plan as plans
from benchmarks import run, sweep
from benchmarks.cli import Request, request_of
from detco.console import STOP


def folders(tmp_path):
    return ["--scale", "mini", "--data-root", str(tmp_path / "data"), "--work-dir", str(tmp_path / "work"),
            "--results", str(tmp_path / "board" / "results")]


def planned(tmp_path, *words):
    """A request and its plan."""
    request = request_of([*folders(tmp_path), *map(str, words)])
    return request, plans.make(request)


def test_every_job_is_a_command_line_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(plans.importlib.util, "find_spec", lambda name: True)
    first, rows = sweep.jobs(*planned(
        tmp_path, "--method", "moco_v2", "random_init", "--task", "knn", "coco_semisup_retinanet_fpn", "--seed", 0, 3,
        "--pretrain-seed", 0, 5, "--share", 10, "--accumulation", 2, "--no-resume", "--executor", "ray", "--compare",
        "moco_v2", "--set", "pretrain.optimizer.lr=0.5"))
    assert len(first) == 4 and len(rows) == 16
    [name] = [name for name in first if name.startswith("moco_v2+") and name.endswith("-p5")]
    pretraining = request_of(first[name])
    assert pretraining.pretrain_only and pretraining.methods == ("moco_v2",) and pretraining.pretrain_seeds == (5,)
    assert not pretraining.resume and pretraining.accumulation == 2
    command, needs = rows[f"{name}-coco_semisup_retinanet_fpn-s3"]
    job = request_of(command)
    assert needs == name and job.resume and not job.report and job.executor == "local" and job.compare is None
    assert (job.methods, job.tasks, job.seeds, job.pretrain_seeds) == (
        ("moco_v2",), ("coco_semisup_retinanet_fpn",), (3,), (5,))
    assert (job.scale, job.share, job.schedule, job.work_dir) == ("mini", 10, None, tmp_path / "work")
    plan = plans.make(job)
    assert plan.transfers[0].protocol.schedule == "10%"
    assert plan.pretrainings[0].row == name[:-3] and plan.pretrainings[0].recipe["optimizer"]["lr"] == 0.5


def test_a_shortened_sweep_hands_each_task_the_share_it_knows(tmp_path):
    request, plan = planned(tmp_path, "--method", "random_init", "--task", "knn", "coco_semisup_retinanet_fpn",
                            "--share", 10, "--limit", 2)
    for words in [command for command, _ in sweep.jobs(request, plan)[1].values()]:
        job = request_of(words)
        assert job.share == (10 if job.tasks != ("knn",) else None) and job.schedule is None and plans.make(job)


def test_a_row_of_ones_own_needs_no_pretraining(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "a.pth")
    first, rows = sweep.jobs(*planned(tmp_path, "--checkpoint", tmp_path / "a.pth", "--name", "mine", "--task", "knn"))
    command, needs = rows["mine-knn-s0"]
    job = request_of(command)
    assert not first and needs is None and job.checkpoint == str(tmp_path / "a.pth") and not job.methods


def test_a_job_leaves_its_output_in_a_log_and_tells_why_it_failed(tmp_path):
    sweep.run_job(["--list"], tmp_path / "list.log", 0)
    assert "coco_maskrcnn_c4" in (tmp_path / "list.log").read_text()
    with pytest.raises(sweep.RefusedError, match="exit status 2: error: unknown method 'detko'"):
        sweep.run_job(["--method", "detko"], tmp_path / "bad.log", 0)
    with pytest.raises(sweep.RefusedError, match="exit status 2: error: unknown method 'detko'"):
        sweep.run_job(["--method", "detko"], tmp_path / "bad.log", 2)  # by torchrun


def test_a_stopped_sweep_stops_its_jobs(tmp_path):
    timer = threading.Timer(1, _thread.interrupt_main)  # as Ray's workers are told
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sweep.run_job([*folders(tmp_path), "--method", "detco"], tmp_path / "job.log", 0)
    STOP.clear()  # set where an earlier test left the command's signal handler
    assert time.monotonic() - start < 60  # the job takes minutes


def test_a_job_that_will_not_end_is_killed_with_its_ranks(tmp_path, monkeypatch):
    deaf = tmp_path / "python"
    deaf.write_text(f"#!/bin/sh\ntrap '' TERM\nsleep 300 &\necho $! > {tmp_path}/rank\nwait\nwait\n")
    deaf.chmod(0o755)
    monkeypatch.setattr(sweep.sys, "executable", str(deaf))
    monkeypatch.setattr(sweep, "PATIENCE", 1)
    threading.Timer(1, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        sweep.run_job([], tmp_path / "job.log", 0)
    STOP.clear()
    rank, deadline = int((tmp_path / "rank").read_text()), time.monotonic() + 10
    while _runs(rank) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(rank)


def _runs(process):
    """Whether a process is there and no zombie."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_job_that_dies_goes_on_and_one_that_refuses_is_not_started_again(tmp_path, monkeypatch):
    started, endings = [], []

    def run_job(command, log, gpus):
        started.append(command)
        if ending := endings.pop(0):
            raise ending

    monkeypatch.setattr(sweep, "run_job", run_job)
    job = ["--method", "detco", "--no-resume"]

    def outcome(name, retries=2, of="first"):
        started.clear()
        return sweep.run_until_done(name, job, tmp_path / f"{name}.log", 0, retries, of)

    endings[:] = [sweep.SweepError("exit status -9"), None]
    assert outcome("dies once") is None and started == [job, job[:-1]]
    endings[:] = [None]
    assert outcome("dies once") is None and started == [job[:-1]]  # on another node, in the same sweep
    endings[:] = [None]
    assert outcome("dies once", of="second") is None and started == [job]  # in a sweep of its own
    endings[:] = [sweep.SweepError("exit status -9")] * 3
    assert outcome("dies").startswith("dies: exit status -9 (") and len(started) == 3
    endings[:] = [sweep.RefusedError("exit status 2: error: no")]
    assert outcome("refuses").startswith("refuses: exit status 2") and len(started) == 1


def test_jobs_that_no_node_could_run_are_refused(tmp_path):
    request = Request(job_cpus=8, job_gpus=1)
    nodes = [{"Alive": True, "Resources": {"CPU": 64.0}}, {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 8.0}},
             {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    with pytest.raises(sweep.SweepError, match="no node of the cluster has 8 cores and 1 GPUs"):
        sweep._check_room(nodes, request)
    sweep._check_room([*nodes, {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}], request)
    with pytest.raises(ValueError, match="--retries -1: give 0 or more"):
        planned(tmp_path, "--method", "detco", "--retries", "-1")


@pytest.mark.slow
def test_ray_runs_a_plan_and_reports_what_failed(tmp_path, capsys):
    pytest.importorskip("ray")
    from benchmarks.data import synthetic

    synthetic.write_pool(tmp_path / "data" / "mini", count=80)
    synthetic.write_pool(tmp_path / "data" / "mini", count=40, split="val")
    words = [*folders(tmp_path), "--executor", "ray", "--job-cpus", "1", "--task", "knn", "--limit", "2"]
    assert run.main([*words, "--method", "moco_v2", "random_init"]) == 0
    assert len(list((tmp_path / "work" / "transfer").rglob("result.json"))) == 2
    assert "top1" in capsys.readouterr().out
    pool = tmp_path / "data" / "mini" / "pool.safetensors"
    pool.write_bytes(pool.read_bytes()[:-1])  # what only the job's own look finds
    assert run.main([*words, "--method", "moco_v2", "--pretrain-seed", "1"]) == 2
    said = capsys.readouterr().err
    assert "2 of 2 jobs failed" in said and "moco_v2-p1-knn-s0: not run, its pretraining failed" in said
