"""Every task once through the command on a few images: one step, finite, all of it trained, every metric there."""
import json
import math

import pytest
from mmengine.optim import OptimWrapper

from benchmarks import run
from benchmarks.data import synthetic
from benchmarks.detection.cityscapes_metric import is_installed
from benchmarks.detection.evaluate import KEYPOINT_NAMES, NAMES
from benchmarks.protocol import kind_of
from benchmarks.task import load_task, task_names

METRICS = {kind: [f"{kind}_{name}" for name in names] for kind, names in dict(
    bbox=NAMES, segm=NAMES, keypoints=KEYPOINT_NAMES, voc=("AP", "AP50", "AP75"),
    cityscapes=("AP", "AP50") if is_installed() else ()).items()}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Arguments that say where data, work and results lie; a small pool and few scenes, drawn once."""
    folder = tmp_path_factory.mktemp("tasks")
    synthetic.write_pool(folder / "data" / "mini", 60)
    synthetic.write_pool(folder / "data" / "mini", 30, "val")
    synthetic.write_scenes(folder / "data" / "mini" / "scenes", train=24, val=6)
    return ["--data-root", str(folder / "data"), "--work-dir", str(folder / "work"),
            "--results", str(folder / "board" / "results")], folder


@pytest.mark.parametrize("task", task_names())
def test_one_step_trains_everything_and_evaluation_fills_the_row(task, places, monkeypatch, capsys):
    arguments, folder = places
    untrained, step = [], OptimWrapper.step

    def watched(wrapper, **kwargs):
        untrained.extend(p.shape for group in wrapper.param_groups for p in group["params"]
                         if p.requires_grad and p.grad is None)
        step(wrapper, **kwargs)

    monkeypatch.setattr(OptimWrapper, "step", watched)
    limit = ["--limit", "2"] if kind_of(load_task(task)) == "detector" else ["--limit", "20"]
    words = ["--method", "random_init", "--scale", "mini", "--task", task, *limit, *arguments]
    assert run.main(words) == 0, capsys.readouterr()
    assert not untrained
    [path] = folder.glob(f"work/transfer/mini/{task}/*/result.json")
    record = json.loads(path.read_text())
    expected = [name for kind in load_task(task)["task"]["metrics"] for name in METRICS.get(kind, [kind])]
    assert sorted(record["metrics"]) == sorted(expected)
    scores = {name: value for name, value in record["metrics"].items() if value is not None}
    assert all(0 <= value <= 100 for value in scores.values())
    # Of so few objects none may be of a size.
    assert {name for name in expected if name not in scores} <= {name for name in expected if name[-1] in "sml"}
    assert all(math.isfinite(value) for value in record["train_losses"].values())
    report = record["load_report"]
    assert report["loaded"] == 120 and report["missing"]["count"] == report["unexpected"]["count"] == 0
