"""What a run would take, from a few of its steps: `--dry-run --measure`."""
import pytest
from mmengine.device import get_device

from benchmarks import measuring
from benchmarks import plan as plans
from benchmarks.cli import request_of
from benchmarks.data import synthetic
from benchmarks.describe import describe
from benchmarks.environment import device_name
from benchmarks.estimates import filed_cost
from detco.errors import UserError


def words(tmp_path, *more):
    return ["--scale", "mini", "--method", "simsiam", "random_init", "--task", "coco_retinanet_fpn", "knn",
            "--set", "pretrain.schedule.batch=8", "--max-per-process", "1", "--data-root", str(tmp_path / "data"),
            "--work-dir", str(tmp_path / "work"), "--results", str(tmp_path / "results"), *more]


def test_costs_are_a_steps_times_the_steps(tmp_path, monkeypatch):
    def twice(function):
        function()
        function()
        return 2.0

    monkeypatch.setattr(measuring, "_seconds", twice)
    synthetic.write_scenes(tmp_path / "data" / "mini" / "scenes", train=4, val=6)
    plan = plans.make(request_of(words(tmp_path, "--dry-run", "--measure")))
    simsiam, nothing = plan.pretrainings
    retinanet, _ = (transfer.protocol for transfer in plan.transfers)
    found = measuring.measure(plan)
    assert set(found) == {simsiam.row, retinanet.fingerprint} and nothing.steps == 0
    assert found[simsiam.row].seconds == simsiam.steps * 2
    # Two parts a step; ten of precise BN, whose passes are forward alone; six images to test.
    assert found[retinanet.fingerprint].seconds == pytest.approx(2 * (300 + 10 / 3) * 2 + 6 * 2)
    assert found[simsiam.row].memory > 1e8 and not (tmp_path / "work").exists()
    shown = describe(plan, measured=found)
    lines = {line.split("  ")[0]: line.split() for line in shown.splitlines() if line}
    assert lines[f"pretrain {simsiam.row}, p0"][-6:-4] == [str(round(simsiam.steps * 2 / 60)), "min"]
    assert lines[f"coco_retinanet_fpn mini: {nothing.row}, p0, seed 0"][-6:-4] == ["20", "min"]
    assert lines[f"knn : {nothing.row}, p0, seed 0"][-3:] == ["?", "?", "-"] and "measured here" in shown


def test_data_that_is_not_there_is_not_measured_on(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_pretraining", lambda pretraining: measuring.Cost(1.0, None))
    plan = plans.make(request_of(["--scale", "one_gpu", *words(tmp_path)[2:]]))
    assert set(measuring.measure(plan)) == {plan.pretrainings[0].row}


def test_it_belongs_to_a_dry_run(tmp_path):
    with pytest.raises(UserError, match="--measure belongs to --dry-run; give both"):
        plans.make(request_of(words(tmp_path, "--measure")))


def test_filed_rows_of_this_device_come_first():
    def row(device, seconds):
        return dict(task="a", cost=dict(device=device, wall_seconds=seconds))

    others = [row("another", 100), row("another", 300)]
    assert filed_cost(others, "wall_seconds", task="a") == 200
    assert filed_cost([*others, row(device_name(get_device()), 7)], "wall_seconds", task="a") == 7
    assert filed_cost(others, "wall_seconds", task="b") is None
