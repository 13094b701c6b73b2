"""One detector through mmdetection's maintained fork, which keeps the import names, in an environment of its own."""
import json
import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FORK = ("onedl-mmdetection==3.5.1", "onedl-mmengine==0.10.12")
# What pip says where it reaches no package index, not where an index lacks a package.
UNREACHABLE = re.compile(r".*(?:connection broken|Failed to establish|Max retries exceeded|Ignoring indexes).*")
RUN = ("benchmarks/run.py", "--method", "detco", "--task", "coco_retinanet_fpn", "--scale", "mini", "--limit", "2")


def installed():
    return {(d.metadata["Name"], d.version) for d in distributions()}


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """The python of an environment where the fork shadows mmdet and mmengine; the rest, torch too, is the outer's."""
    before, home = installed(), tmp_path_factory.mktemp("fork")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    paths = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    # A .pth file's folders come after the environment's own.
    outer = "".join(f"{sysconfig.get_path(kind)}\n" for kind in ("purelib", "platlib"))
    Path(paths["purelib"], "outer.pth").write_text(outer)
    done = subprocess.run([sys.executable, "-m", "pip", "--python", str(python), "install", "--retries", "1", *FORK],
                          capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode and (why := UNREACHABLE.search(said)):
        pytest.skip(f"no package index: {why[0].strip()[:200]}")
    assert done.returncode == 0, said
    yield python
    assert installed() == before


def record(python, folder, data):
    """The record of a short run of the main command under one python."""
    done = subprocess.run(
        [python, *RUN, "--data-root", data, "--work-dir", folder / "work", "--results", folder / "board" / "results"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = folder.glob("work/transfer/**/result.json")
    return json.loads(path.read_text())


@pytest.mark.slow
def test_a_detector_runs_on_the_fork_as_on_what_is_pinned(fork, tmp_path):
    shown = subprocess.run([fork, "-c", "import mmdet, mmengine; print(mmdet.__version__, mmengine.__version__)"],
                           capture_output=True, text=True, check=True).stdout.split()
    assert [f"onedl-mmdetection=={shown[0]}", f"onedl-mmengine=={shown[1]}"] == list(FORK)
    there, here = (record(python, tmp_path / name, tmp_path / "data")
                   for name, python in (("fork", fork), ("pinned", sys.executable)))
    # Pretraining is the same to the bit. The fork's loops take their first draw later, so a detector's images are
    # flipped otherwise; its weights and the order of the images are the same.
    assert there["checkpoint"]["hash"] == here["checkpoint"]["hash"]
    assert there["protocol_fingerprint"] == here["protocol_fingerprint"]
    assert there["load_report"] == here["load_report"] and there["load_report"]["missing"]["count"] == 0
    assert there["train_losses"] == pytest.approx(here["train_losses"], rel=0.05)
    assert there["metrics"].keys() == here["metrics"].keys()
