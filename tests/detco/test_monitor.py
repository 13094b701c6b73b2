"""Whether features collapse: what is measured, when, and what is said."""
import json
import pkgutil

import pytest
import torch

from detco import checkpoint, engine, monitor
from detco.backbone import ResNetLevels, pooled
from detco.method import Method
from detco.pool import MemoryPool
from detco.views import View


@pytest.mark.parametrize("vectors, rank, spread, uniformity", [
    (torch.ones(8, 16) / 4, 1, 0, 0), (torch.eye(16), 16, 1, -4),
    (torch.nn.functional.normalize(torch.randn(512, 64, generator=torch.Generator().manual_seed(0))), 62, 1, -3.9)])
def test_health_is_that_of_the_same_of_orthogonal_and_of_even_directions(vectors, rank, spread, uniformity):
    found = monitor.health(vectors)
    assert found["rank"] == pytest.approx(rank, rel=0.03, abs=1e-3)
    assert found["spread"] == pytest.approx(spread, rel=0.03, abs=1e-6)
    assert found["uniformity"] == pytest.approx(uniformity, rel=0.03, abs=1e-6)


def test_rank_is_rankmes_formula():
    vectors = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svd(vectors.double()).S
    share = values / values.abs().sum() + 1e-12  # as the paper writes it, to its epsilon
    assert monitor.health(vectors)["rank"] == pytest.approx(float(torch.exp(-(share * share.log()).sum())), rel=1e-6)


class Collapsing(Method):
    """Two views drawn together and nothing that holds them apart; an ill-chosen method, on purpose."""

    def __init__(self):
        super().__init__()
        self.view_specs = {"a": View(size=16), "b": View(size=16)}
        self.encoder = ResNetLevels("resnet18")

    def backbone(self):
        return self.encoder

    def loss(self, views):
        levels = [self.encoder(views[name]) for name in "ab"]
        spread = sum(pooled(level).float().var(0).sum() for own in levels for level in own.values())
        return {"loss": spread + sum(level.square().mean() for own in levels for level in own.values())}


def settings(steps, lr):
    return dict(name="collapsing", method=dict(type=f"{__name__}:Collapsing"), optimizer=dict(lr=lr, momentum=0.9),
                schedule=dict(epochs=steps * 8 / 32, batch=8, policy="constant"), amp=False, workers=0, max_broken=0.0)


@pytest.fixture
def pool():
    images = torch.randint(0, 256, (32, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return MemoryPool(images, torch.arange(32) % 2, ["a", "b"], "f" * 64)


@pytest.fixture
def often(monkeypatch):
    """Look at the features six times a run."""
    monkeypatch.setattr(monitor, "SHARE", 1e9)
    monkeypatch.setattr(monitor, "TIMES", 6)
    monkeypatch.setattr(pkgutil, "resolve_name", lambda name, given=pkgutil.resolve_name:
                        Collapsing if name.endswith(":Collapsing") else given(name))


def test_a_collapse_is_told_at_once_and_once_a_level(pool, often, tmp_path, capsys):
    engine.pretrain(settings(36, 0.05), pool, tmp_path / "run", seed=0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "health.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12, 18, 24, 30, 36]
    fallen = [level for level in ("c2", "c3", "c4", "c5") if any(
        line["rank"][level] < 2 or line["spread"][level] < 0.02 for line in lines)]
    said = [line for line in capsys.readouterr().out.splitlines() if "have collapsed" in line]
    assert "c5" in fallen and len(said) == len(fallen)
    assert all(sum(level.upper() in line for line in said) == 1 for level in fallen)
    assert "a lower rate" in said[0]


def test_a_resumed_run_goes_on_with_the_file_and_no_weight_knows_of_it(pool, often, tmp_path, monkeypatch):
    whole = engine.pretrain(settings(12, 1e-4), pool, tmp_path / "whole", seed=0)
    calls, look = [], monitor.HealthMonitor.line

    def stop(self, method, step):
        calls.append(step)
        if step == 8 and calls.count(8) == 1:
            raise KeyboardInterrupt
        return look(self, method, step)

    monkeypatch.setattr(monitor.HealthMonitor, "line", stop)
    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(settings(12, 1e-4), pool, tmp_path / "parts", seed=0)
    parts = engine.pretrain(settings(12, 1e-4), pool, tmp_path / "parts", seed=0)
    assert (tmp_path / "parts" / "health.jsonl").read_text() == (tmp_path / "whole" / "health.jsonl").read_text()
    monkeypatch.setattr(monitor.HealthMonitor, "due", lambda self, step, steps: False)
    without = engine.pretrain(settings(12, 1e-4), pool, tmp_path / "without", seed=0)
    states = [checkpoint.load(path).state for path in (whole, parts, without)]
    assert all(torch.equal(states[0][name], other[name]) for other in states[1:] for name in states[0])


@pytest.mark.parametrize("steps, batch, times", [(1480, 128, 20), (500, 32, 3), (5, 8, 1), (200_000, 256, 20)])
def test_looking_takes_a_small_share(steps, batch, times, pool, tmp_path):
    assert len(monitor.HealthMonitor(tmp_path / "h", pool, batch, steps, 16).steps) == times
