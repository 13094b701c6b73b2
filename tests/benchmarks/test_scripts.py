"""The shell script of the nine COCO protocols: order, arguments, launcher, and an early end."""
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "dist_test_coco.sh"
ORDER = [(task, schedule) for schedule in ("12k", "1x", "2x")
         for task in ("coco_maskrcnn_fpn", "coco_retinanet_fpn", "coco_maskrcnn_c4")]


@pytest.fixture
def call(tmp_path):
    """Runs the script with python and srun replaced by what writes down how it was called."""
    (tmp_path / "mine.pth").touch()
    (tmp_path / "bin").mkdir()
    for name in ("python", "srun"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/calls\n'
                           'case "$*" in *${FAIL:-nothing}*) exit 3;; esac\n')
        program.chmod(0o755)

    def run(*arguments, **environment):
        path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, cwd=tmp_path,
                              env={"PATH": path, **environment})
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_nine_protocols_in_order_on_every_gpu(call):
    done, calls = call("mine.pth", "work", "--limit", "3", GPUS="4")
    assert done.returncode == 0, done.stderr
    assert len(calls) == 9
    for (task, schedule), line in zip(ORDER, calls):
        assert line.startswith("python -m torch.distributed.run --standalone --nproc_per_node 4 ")
        assert (f"-m benchmarks.run --scale paper --checkpoint mine.pth --name mine --task {task} "
                f"--schedule {schedule} --work-dir work --limit 3") in line


def test_under_slurm_srun_starts_a_process_a_gpu(call):
    done, calls = call("mine.pth", "work", SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="6", NAME="ours")
    assert done.returncode == 0 and len(calls) == 9
    start = "srun --kill-on-bad-exit=1 --cpus-per-task=6 python "
    assert all(line.startswith(start) and "--name ours" in line for line in calls)


def test_it_ends_with_the_first_that_fails_and_refuses_what_is_not_there(call):
    done, calls = call("mine.pth", "work", GPUS="1", FAIL="coco_retinanet_fpn")
    assert done.returncode == 3 and len(calls) == 2
    assert call("none.pth", "work")[0].returncode == call("mine.pth")[0].returncode == 2
