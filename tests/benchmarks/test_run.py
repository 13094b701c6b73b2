"""The main command as users type it: plans, errors in one line, a shortened run end to end, stop and resume."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision

from benchmarks import plan as plans
from benchmarks import run
from benchmarks.cli import request_of
from benchmarks.data.coco import DataError
from benchmarks.describe import describe
from benchmarks.detection.evaluate import NAMES
from benchmarks.recipe import scale_names
from detco.errors import UserError
from detco.runner import DivergedError
from leaderboard import record as record_room
from leaderboard.errors import RecordError

ROOT = Path(__file__).resolve().parents[2]
DATA = {}
METHODS = ("detco", "moco_v2", "supervised", "random_init")  # of every scale


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
    (["--method", "detko"], "unknown method 'detko': did you mean detco or detco_aa?"),
    (["--method", "detco", "--task", "coco_maskrcnn_c5"], "did you mean coco_maskrcnn_c4"),
    ([], "nothing to run"),
    (["--checkpoint", "a.pth"], "needs --name"),
    (["--checkpoint", "a.pth", "--name", "detco"], "choose another"),
    (["--checkpoint", "absent.pth", "--name", "mine"], "absent.pth: no such file"),
    (["--checkpoint", __file__, "--name", "mine"], "cannot be read"),
    *((["--checkpoint", "a.pth", f"--name={name}"], "give at most 100 letters, digits and _ . + % -") for name in
      ("a b", "a/b", "..", "/tmp/a", "a\nb", "-a", "mine-s0", "")),
    (["--method", "detco", "--name", "mine"], "--name names the row of --checkpoint FILE"),
    (["--method", "detco", "--seed", "-1"], "--seed -1: give 0 to 4294967295"),
    (["--method", "detco", "--seed", str(2**32)], "--seed 4294967296: give 0 to 4294967295"),
    (["--method", "detco", "--seed", "3", "3"], "--seed 3 is given twice"),
    (["--method", "detco", "--pretrain-seed", "1", "1"], "--pretrain-seed 1 is given twice"),
    (["--method", "detco", "--workers", "-1"], "--workers -1: give 0 or more"),
    (["--method", "detco", "--accumulation", "7"], "a batch of 32 does not divide among 1 processes and 7 parts"),
    (["--method", "detco", "--set", "lr=3"], "--set lr=3: give pretrain.FIELD=VALUE or task.FIELD=VALUE"),
    (["--method", "detco", "--set", "pretrain.optimizer.rl=3"], "optimizer.lr"),
    (["--method", "detco", "--set", "pretrain.optimizer.lr=fast"], "optimizer.lr"),
    (["--method", "detco", "--set", "task.no.such=3"], "no.such"),
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
    (["--method", "supervised_msra", "--arch", "resnet18"], "supervised_msra: a resnet50; the mini scale's tasks would "
     "run resnet18: give --arch resnet50"),
])
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_bad_input_is_one_clear_line_and_exit_2_before_any_work(arguments, words, more, tmp_path, capsys):
    assert run.main([*command(tmp_path, *arguments)[2:], *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert not list(tmp_path.iterdir())


def test_words_that_do_not_parse_are_one_line_too(tmp_path):
    done = call(tmp_path, "--method", "detco", "--workers", "many")
    assert done.returncode == 2 and done.stderr == (
        "error: argument --workers: invalid int value: 'many'; --help shows the options\n")


@pytest.mark.parametrize("option, missing, words", [
    (["--executor", "ray"], "ray", 'pip install -e ".[ray]"'),
    (["--tensorboard"], "tensorboard", 'pip install -e ".[tensorboard]"')])
def test_an_extra_that_is_not_installed_is_named(option, missing, words, tmp_path, monkeypatch, capsys):
    find = plans.importlib.util.find_spec
    monkeypatch.setattr(plans.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    assert run.main([*command(tmp_path, "--method", "detco")[2:], *option]) == 2
    assert words in capsys.readouterr().err


def test_no_compiler_no_room_and_no_writable_folder_are_refused(tmp_path, monkeypatch, capsys):
    def refused(*words):
        assert run.main([*command(tmp_path, "--method", "detco")[2:], *map(str, words)]) == 2
        return capsys.readouterr().err

    with monkeypatch.context() as patch:
        patch.setattr(plans.shutil, "which", lambda name: None)
        assert "--compile: no C++ compiler found" in refused("--compile")
    with monkeypatch.context() as patch:
        patch.setattr(plans.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**8))
        assert "states to resume from take 0.5 GB, 0.1 GB are free" in refused()
    (tmp_path / "file").touch()
    assert "not a folder that can be written" in refused("--work-dir", tmp_path / "file" / "work")


@pytest.mark.parametrize("harm, words", [
    (lambda state: state.__setitem__("conv1.weight", state["conv1.weight"] * float("nan")),
     "1 tensor (conv1.weight) not finite"),
    (lambda state: state.pop("layer4.1.bn2.bias"), "1 keys of a resnet18 missing: layer4.1.bn2.bias")])
def test_a_checkpoint_is_looked_at_before_the_work(harm, words, tmp_path, capsys):
    state = torchvision.models.resnet18(weights=None).state_dict()
    harm(state)
    torch.save(state, tmp_path / "a.pth")
    words_given = ["--checkpoint", str(tmp_path / "a.pth"), "--name", "mine", "--dry-run"]
    assert run.main([*command(tmp_path)[2:], *words_given]) == 2
    assert words in capsys.readouterr().err


def test_a_checkpoint_brings_its_backbone_and_any_method_takes_one(tmp_path):
    torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "a.pth")
    own = ["--checkpoint", str(tmp_path / "a.pth"), "--name", "mine", "--scale", "mini"]
    plan = plans.make(request_of([*own, "--task", "coco_maskrcnn_c4", "knn"]))
    assert [(t.protocol.config["arch"], t.protocol.schedule) for t in plan.transfers] == [
        ("resnet50", "mini+resnet50"), ("resnet50", "+resnet50")]
    assert plan.transfers[0].protocol.config["model"]["rpn_head"]["in_channels"] == 1024
    assert "backbone resnet50, as the checkpoint is, for the scale's resnet18" in plan.note
    with pytest.raises(UserError, match="a.pth: a resnet50; leave --arch resnet18 out"):
        plans.make(request_of([*own, "--arch", "resnet18"]))
    methods = ["--scale", "mini", "--task", "coco_maskrcnn_fpn", "--set", "task.data.total_batch=4", "--method"]
    [plain] = plans.make(request_of([*methods, "detco"])).transfers
    made = plans.make(request_of([*methods, "all", "--arch", "resnet34"]))
    assert {(p.row, p.recipe["method"]["arch"]) for p in made.pretrainings} >= {(m, "resnet34") for m in METHODS}
    assert "supervised_msra" not in {p.row for p in made.pretrainings}
    assert made.transfers[0].protocol.schedule == plain.protocol.schedule.replace("mini+", "mini+resnet34+")
    assert plans.make(request_of([*methods, "detco", "--arch", "resnet18"])).transfers == (plain,)


def test_dry_run_shows_what_would_run_and_runs_nothing(tmp_path, capsys):
    words = command(tmp_path, "--method", "detco", "--scale", "paper", "--schedule", "2x", "--dry-run")[2:]
    assert run.main(words) == 2  # there is no such data
    out, err = capsys.readouterr()
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines() if line}
    assert "1,000,912" in lines["pretrain detco, p0"] and "180,000" in lines["coco_maskrcnn_c4 2x: detco, p0, seed 0"]
    assert '"bank_size"' not in out and "scale paper: no coco data" in err
    run.main([*words, "--verbose"])
    out = capsys.readouterr().out
    assert '"bank_size": 65536' in out and '"iterations": 180000' in out
    assert not (tmp_path / "work").exists()


def test_a_shortened_run_keeps_its_share_and_tasks_without_the_schedule_run_their_own():
    words = ["--method", "detco", "--scale", "paper", "--task"]
    [transfer] = plans.make(request_of([*words, "coco_semisup_maskrcnn_fpn", "--share", "1", "--limit", "3"])).transfers
    assert transfer.protocol.config["schedule"] == dict(iterations=3, milestones=[], share=1)
    plan = plans.make(request_of([*words, "coco_maskrcnn_c4", "voc_fasterrcnn_c4", "--schedule", "12k"]))
    assert [transfer.protocol.schedule for transfer in plan.transfers] == ["12k", "24k"]


def test_every_method_and_task_resolves_at_every_scale(tmp_path):
    for scale in scale_names():
        plan = plans.make(request_of(["--method", *METHODS, "--task", "all", "--scale", scale]))
        assert "fingerprint" in describe(plan, verbose=True) and plan.rows == 4 * len(plan.transfers) >= 4 * 12


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
    [path] = tmp_path.glob("work/transfer/mini/coco_maskrcnn_c4/detco-p0-s0-*/result.json")
    record = json.loads(path.read_text())
    assert record["limit"] == 2
    assert set(record["metrics"]) == {f"{k}_{m}" for k in ("bbox", "segm") for m in NAMES}
    assert record["load_report"]["missing"]["count"] == record["load_report"]["unexpected"]["count"] == 0
    assert record["load_report"]["loaded"] == 120
    assert record["checkpoint"]["metadata"]["budget"]["images"] == 2 * 32
    assert record["cost"]["wall_seconds"] > 0 and record["cost"]["peak_memory_bytes"] > 0
    record_room.validate(record)
    assert (record["pretrain_seed"], record["seed"], record["cost"]["resumed"]) == (0, 0, False)
    assert record["recipe"]["config"]["method"]["bank_size"] == 256 and len(record["recipe"]["hash"]) == 64


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
    [path] = tmp_path.glob("work/transfer/mini/coco_maskrcnn_c4/detco-p0-s0-*/result.json")
    record = json.loads(path.read_text())
    assert record["cost"]["world_size"] == 2 and record["checkpoint"]["metadata"]["budget"]["images"] == 2 * 32
    assert record["load_report"]["missing"]["count"] == 0 and record["load_report"]["loaded"] == 120


def test_own_checkpoint_is_a_row(tmp_path):
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in
                               torchvision.models.resnet18(weights=None).state_dict().items()}}, tmp_path / "a.pth")
    done = call(tmp_path, "--checkpoint", tmp_path / "a.pth", "--name", "mine", "--limit", 1)
    assert done.returncode == 0, done.stderr
    assert "mine" in done.stdout.splitlines()[-6:][0] + done.stdout


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
    (ValueError("a fault of ours"), "ValueError: a fault of ours (details in "),
    (torch.cuda.OutOfMemoryError("CUDA out of memory"), "OutOfMemoryError: CUDA out of memory (details in "),
    (DivergedError("it diverged"), "error: it diverged\n"), (DataError("no such data"), "error: no such data\n"),
    (RecordError("no such field"), "error: no such field\n")])
def test_only_the_suites_own_errors_are_all_there_is_to_say(error, words, tmp_path, monkeypatch, capsys):
    """Others leave a traceback in a file and another exit status; a sweep starts their jobs again."""
    import benchmarks.execute

    def fails(plan):
        raise error

    monkeypatch.setattr(benchmarks.execute, "execute", fails)
    assert run.main(command(tmp_path, "--method", "detco")[2:]) == (70 if "details" in words else 2)
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
    assert run.main(command(tmp_path, "--method", "detco")[2:]) == 70
    [line] = capsys.readouterr().err.splitlines()
    [log] = (tmp_path / "work").glob("error-*.log")
    assert str(log) in line and "Traceback" in log.read_text()
