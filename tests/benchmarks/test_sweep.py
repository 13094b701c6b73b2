"""A plan as jobs: each job's command line parses back to what it shall run; Ray runs them all."""
import pytest

from benchmarks import plan as plans
from benchmarks import run, sweep


def folders(tmp_path):
    return ["--scale", "mini", "--data-root", str(tmp_path / "data"), "--work-dir", str(tmp_path / "work"),
            "--results", str(tmp_path / "board" / "results")]


def plan_of(tmp_path, *words):
    return plans.make(run.parser().parse_args([*folders(tmp_path), *map(str, words)]))


def test_every_job_is_a_command_line_of_its_own(tmp_path):
    plan = plan_of(tmp_path, "--method", "moco_v2", "random_init", "--task", "knn", "coco_semisup_retinanet_fpn",
                   "--seed", 0, 3, "--share", 10, "--accumulation", 2, "--no-resume", "--executor", "ray", "--compare", "moco_v2")
    first, rows = sweep.jobs(plan)
    assert list(first) == ["moco_v2", "random_init"] and len(rows) == 8
    pretraining = run.parser().parse_args(first["moco_v2"])
    assert pretraining.pretrain_only and pretraining.method == ["moco_v2"] and pretraining.accumulation == 2
    command, needs = rows["moco_v2-coco_semisup_retinanet_fpn-seed3"]
    job = run.parser().parse_args(command)
    assert needs == "moco_v2" and not job.resume and not job.report and job.executor == "local" and job.compare is None
    assert (job.method, job.task, job.seed) == (["moco_v2"], ["coco_semisup_retinanet_fpn"], [3])
    assert (job.scale, job.schedule, job.work_dir) == ("mini", "10%", tmp_path / "work")
    assert run.parser().parse_args(rows["random_init-knn-seed0"][0]).schedule is None
    assert plans.make(job).schedule("coco_semisup_retinanet_fpn") == "10%"


def test_a_row_of_ones_own_needs_no_pretraining(tmp_path):
    plan = plan_of(tmp_path, "--checkpoint", tmp_path / "a.pth", "--name", "mine", "--task", "knn")
    first, rows = sweep.jobs(plan)
    command, needs = rows["mine-knn-seed0"]
    job = run.parser().parse_args(command)
    assert not first and needs is None and job.checkpoint == tmp_path / "a.pth" and not job.method


def test_a_job_leaves_its_output_in_a_log_and_tells_why_it_failed(tmp_path):
    sweep.run_job(["--list"], tmp_path / "logs" / "list.log", 0)
    assert "coco_maskrcnn_c4" in (tmp_path / "logs" / "list.log").read_text()
    with pytest.raises(sweep.SweepError, match="exit status 2: error: unknown method 'detko'"):
        sweep.run_job(["--method", "detko"], tmp_path / "logs" / "bad.log", 0)


@pytest.mark.slow
def test_ray_runs_a_plan_and_reports_what_failed(tmp_path, capsys):
    pytest.importorskip("ray")
    from detco import drawn

    drawn.write_pool(tmp_path / "data" / "mini", count=80)
    drawn.write_pool(tmp_path / "data" / "mini", count=40, split="val")
    words = [*folders(tmp_path), "--executor", "ray", "--job-cpus", "1", "--task", "knn", "--limit", "2"]
    assert run.main([*words, "--method", "moco_v2", "random_init"]) == 0
    assert len(list((tmp_path / "work" / "transfer").rglob("result.json"))) == 2
    assert "top1" in capsys.readouterr().out
    (tmp_path / "mine.pth").write_bytes(b"broken")
    assert run.main([*words, "--checkpoint", str(tmp_path / "mine.pth"), "--name", "mine"]) == 2
    assert "1 of 1 jobs failed" in capsys.readouterr().err
