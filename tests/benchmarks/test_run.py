"""The main command as users type it: plans, errors in one line, a shortened run end to end, stop and resume."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision

from benchmarks import plan as plans
from benchmarks import run
from benchmarks.data.sources import DataError
from detco.runner import DivergedError

ROOT = Path(__file__).resolve().parents[2]
DATA = {}


def command(tmp_path, *arguments):
    return [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--data-root", str(DATA["root"]), "--work-dir",
            str(tmp_path / "work"), "--results", str(tmp_path / "board" / "results"), *map(str, arguments)]


def call(tmp_path, *arguments):
    return subprocess.run(command(tmp_path, *arguments), capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module", autouse=True)
def drawn(tmp_path_factory):
    """A small pool and few scenes, drawn once for the module, where the command looks for its own."""
    from benchmarks.data import synthetic

    DATA["root"] = tmp_path_factory.mktemp("data")
    synthetic.write_pool(DATA["root"] / "mini", count=80)
    synthetic.write_scenes(DATA["root"] / "mini" / "scenes", train=12, val=6)


def test_list_names_everything_and_imports_nothing_heavy():
    code = ("import sys; from benchmarks import run; run.main(['--list']); "
            "print([m for m in ('torch', 'mmdet', 'mmengine', 'cv2') if m in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.rstrip().endswith("[]")
    for name in ("detco", "moco_v2", "supervised", "random_init", "coco_maskrcnn_c4", "mini", "small", "paper"):
        assert f"  {name} " in out


@pytest.mark.parametrize("arguments, words", [
    (["--method", "detko"], "unknown method 'detko': did you mean detco?"),
    (["--method", "detco", "--task", "coco_maskrcnn_c5"], "did you mean coco_maskrcnn_c4"),
    ([], "nothing to run"),
    (["--checkpoint", "a.pth"], "needs --name"),
    (["--checkpoint", "a.pth", "--name", "detco"], "choose another"),
    (["--checkpoint", "absent.pth", "--name", "mine"], "absent.pth: no such file"),
    (["--method", "detco", "--limit", "0"], "--limit 0"),
    (["--method", "detco", "--schedule", "9x", "--scale", "paper"],
     "--schedule 9x: at the paper scale coco_maskrcnn_c4 can run 12k, 1x, 2x"),
    (["--method", "detco", "--schedule", "1x"], "--schedule 1x: at the mini scale coco_maskrcnn_c4 can run mini"),
    (["--method", "detco", "--share", "5"], "--share 5: at the mini scale coco_maskrcnn_c4 can run mini"),
    (["--method", "detco", "--share", "1", "--task", "coco_semisup_maskrcnn_fpn"], "maskrcnn_fpn can run 10%"),
    (["--method", "detco", "--schedule", "1x", "--task", "knn"], "knn trains by no schedule"),
    (["--method", "detco", "--max-per-process", "0"], "--max-per-process 0: give 1 or more"),
    (["--method", "detco", "--compare", "moco"], "did you mean moco_v2"),
    (["--method", "detco", "--scale", "small"], "scale small: no coco data"),
])
def test_bad_input_is_one_clear_line_and_exit_2(arguments, words, tmp_path, capsys):
    assert run.main(command(tmp_path, *arguments)[2:]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]


def test_dry_run_prints_the_resolved_configs_and_runs_nothing(tmp_path, capsys):
    assert run.main(command(tmp_path, "--method", "detco", "--scale", "paper", "--schedule", "2x", "--dry-run")[2:]) == 0
    out = capsys.readouterr().out
    assert '"bank_size": 65536' in out and '"iterations": 180000' in out
    assert not (tmp_path / "work").exists()


def test_a_shortened_run_keeps_its_share_and_tasks_without_the_schedule_run_their_own():
    words = ["--method", "detco", "--scale", "paper", "--task"]
    plan = plans.make(run.parser().parse_args([*words, "coco_semisup_maskrcnn_fpn", "--share", "1", "--limit", "3"]))
    assert plan.protocol("coco_semisup_maskrcnn_fpn", ()).config["schedule"] == dict(
        iterations=3, milestones=[], share=1)
    plan = plans.make(run.parser().parse_args([*words, "coco_maskrcnn_c4", "voc_fasterrcnn_c4", "--schedule", "12k"]))
    assert [plan.protocol(task, ()).schedule for task in plan.tasks] == ["12k", "24k"]


def test_every_method_and_task_resolves_at_every_scale(tmp_path):
    for scale in plans.SCALES:
        arguments = run.parser().parse_args(["--method", "all", "--task", "all", "--scale", scale])
        plan = plans.make(arguments)
        assert "fingerprint" in plan.describe()


@pytest.fixture(scope="module")
def shortened(tmp_path_factory, drawn):
    """DetCo through everything, two steps of each."""
    tmp_path = tmp_path_factory.mktemp("shortened")
    done = call(tmp_path, "--method", "detco", "--limit", 2)
    return tmp_path, done


def test_shortened_run_goes_through_and_stays_out_of_the_leaderboard(shortened):
    tmp_path, done = shortened
    assert done.returncode == 0, done.stderr
    assert "kept out of the leaderboard" in done.stdout and not (tmp_path / "board").exists()
    [path] = tmp_path.glob("work/transfer/mini/coco_maskrcnn_c4/detco-seed0-*/result.json")
    record = json.loads(path.read_text())
    assert record["limit"] == 2
    assert set(record["metrics"]) == {f"{k}_{m}" for k in ("bbox", "segm") for m in ("AP", "AP50", "AP75")}
    assert record["load_report"]["missing"] == record["load_report"]["unexpected"] == []
    assert record["load_report"]["loaded"] == 120
    assert record["checkpoint"]["metadata"]["budget"]["images"] == 2 * 32
    assert record["cost"]["wall_seconds"] > 0 and record["cost"]["peak_memory_bytes"] > 0


def test_console_is_quiet_and_the_log_is_not(shortened):
    tmp_path, done = shortened
    assert "warn" not in (done.stdout + done.stderr).lower() and len(done.stdout.splitlines()) < 20
    [log] = tmp_path.glob("work/transfer/mini/coco_maskrcnn_c4/*/run.log")
    assert "Iter(train)" in log.read_text()


def test_second_call_reuses_the_result(shortened):
    tmp_path, _ = shortened
    again = call(tmp_path, "--method", "detco", "--limit", 2)
    assert again.returncode == 0 and "reused" in again.stdout


def test_two_processes_make_one_record(tmp_path):
    arguments = command(tmp_path, "--method", "detco", "--limit", 2)[1:]
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", *arguments],
                          capture_output=True, text=True, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("kept out of the leaderboard") == 1
    [path] = tmp_path.glob("work/transfer/mini/coco_maskrcnn_c4/detco-seed0-*/result.json")
    record = json.loads(path.read_text())
    assert record["cost"]["world_size"] == 2 and record["checkpoint"]["metadata"]["budget"]["images"] == 2 * 32
    assert record["load_report"]["missing"] == [] and record["load_report"]["loaded"] == 120


def test_own_checkpoint_is_a_row_and_another_architecture_is_refused(tmp_path):
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in
                               torchvision.models.resnet18(weights=None).state_dict().items()}}, tmp_path / "a.pth")
    done = call(tmp_path, "--checkpoint", tmp_path / "a.pth", "--name", "mine", "--limit", 1)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout.splitlines()[-6:][0] + done.stdout
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "b.pth")
    refused = call(tmp_path, "--checkpoint", tmp_path / "b.pth", "--name", "other", "--limit", 1)
    assert refused.returncode == 2 and "a resnet34; scale mini runs resnet18" in refused.stderr


def test_ctrl_c_stops_in_one_line_and_the_same_command_goes_on(tmp_path):
    arguments = ["--method", "moco_v2", "--limit", 12]
    process = subprocess.Popen(command(tmp_path, *arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 300
    while not list(tmp_path.glob("work/pretrain/mini/*/iter_*.pth")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "goes on from what was saved" in err and "Traceback" not in err
    [log] = tmp_path.glob("work/pretrain/mini/*/run.log")
    done = call(tmp_path, *arguments, "--pretrain-only")
    assert done.returncode == 0, done.stderr
    assert "resumed" in log.read_text()


@pytest.mark.parametrize("error, words", [
    (RuntimeError("CUDA error: out of luck"), "RuntimeError: CUDA error: out of luck (details in "),
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory (details in "),
    (DivergedError("it diverged"), "error: it diverged\n"), (DataError("no such data"), "error: no such data\n")])
def test_only_the_suites_own_errors_are_all_there_is_to_say(error, words, tmp_path, monkeypatch, capsys):
    """Others leave a traceback in a file; a sweep starts their jobs again."""
    import benchmarks.execute

    def fails(plan):
        raise error

    monkeypatch.setattr(benchmarks.execute, "execute", fails)
    assert run.main(command(tmp_path, "--method", "detco")[2:]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said
    if "details" in words:
        [path] = (tmp_path / "work").glob("error-*.log")
        assert "Traceback" in path.read_text()


def test_full_disk_is_one_line(tmp_path, monkeypatch, capsys):
    import benchmarks.execute

    def full(plan):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(benchmarks.execute, "execute", full)
    assert run.main(command(tmp_path, "--method", "detco")[2:]) == 2
    assert capsys.readouterr().err == ("error: the disk is full; what was computed is kept: free some space and run "
                                       "the same command again\n")


def test_what_nobody_foresaw_is_one_line_with_its_traceback_in_a_file(tmp_path, monkeypatch, capsys):
    import benchmarks.execute

    monkeypatch.setattr(benchmarks.execute, "execute", lambda plan: torch.zeros(2) @ torch.zeros(3))
    assert run.main(command(tmp_path, "--method", "detco")[2:]) == 2
    [line] = capsys.readouterr().err.splitlines()
    [log] = (tmp_path / "work").glob("error-*.log")
    assert str(log) in line and "Traceback" in log.read_text()
