"""SimSiam against lightly's parts, which nobody here wrote, and its paper's identities."""
import copy

import pytest
import torch
from torch import nn

from baselines.simsiam import SimSiam
from detco.backbone import pooled

heads = pytest.importorskip("lightly.models.modules.heads")
losses = pytest.importorskip("lightly.loss")


@pytest.fixture
def method():
    torch.manual_seed(0)
    return SimSiam("resnet18", dict(size=32), dim=24, hidden=8)


@pytest.fixture
def views():
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(6, 3, 32, 32, generator=draw) for name in ("one", "other")}


def copied(ours, theirs):
    """Put our weights into lightly's head, layer by layer."""
    pairs = zip([m for m in ours if isinstance(m, (nn.Linear, nn.BatchNorm2d))],
                [m for m in theirs.modules() if isinstance(m, (nn.Linear, nn.BatchNorm1d))], strict=True)
    for a, b in pairs:
        assert (a.weight is None) == (b.weight is None)
        b.load_state_dict(a.state_dict())
    return theirs


def test_loss_and_gradients_are_lightlys(method, views):
    projector = copied(method.projector, heads.SimSiamProjectionHead(512, 24, 24))
    predictor = copied(method.predictor, heads.SimSiamPredictionHead(24, 8, 24))
    backbone = copy.deepcopy(method.encoder)
    criterion = losses.NegativeCosineSimilarity()
    z = [projector(pooled(backbone(views[name])["c5"])) for name in ("one", "other")]
    p = [predictor(each) for each in z]
    theirs = 0.5 * (criterion(p[0], z[1].detach()) + criterion(p[1], z[0].detach()))
    theirs.backward()
    ours = method.loss(views)["loss"]
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for a, b in zip(method.encoder.parameters(), backbone.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    for a, b in zip(method.predictor.parameters(), predictor.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_through_the_target(method, views):
    """With a predictor that gives a constant, the projector has no gradient: all it has comes by the prediction."""
    for parameter in method.predictor.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(method.predictor[-1].bias)
    method.loss(views)["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.encoder.parameters())
    assert method.predictor[-1].bias.grad.any()


def test_equal_views_and_an_identity_predictor_give_minus_one(method, views):
    method.predictor = nn.Identity()
    assert method.loss({"one": views["one"], "other": views["one"]})["loss"].item() == pytest.approx(-1, abs=1e-6)


def test_spread_is_one_of_even_directions_and_zero_of_a_collapse(method, views):
    assert method.loss(views)["spread"].item() == pytest.approx(1, abs=0.15)
    method.projector[-1] = nn.Sequential(nn.Flatten(1), Constant())
    assert method.loss(views)["spread"].item() == pytest.approx(0, abs=1e-5)


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones_like(x)


def test_the_predictors_rate_is_fixed(method):
    rest, predictor = method.parameter_groups()
    assert predictor["fixed_lr"] and {id(p) for p in predictor["params"]} == set(map(id, method.predictor.parameters()))
    assert len(rest["params"]) + len(predictor["params"]) == len(list(method.parameters()))


def test_sizes_are_the_papers():
    whole = SimSiam("resnet50")
    linear = [(m.in_features, m.out_features) for m in [*whole.projector, *whole.predictor] if isinstance(m, nn.Linear)]
    assert linear == [(2048, 2048)] * 3 + [(2048, 512), (512, 2048)]


def test_global_statistics_are_those_of_its_first_view(method, views, monkeypatch):
    monkeypatch.setattr("detco.batch_norm.ESTIMATED_ON", 6)
    method.statistics = "global"
    method.finish(iter([views]))
    seen = method.encoder.conv1(views["one"])
    torch.testing.assert_close(method.encoder.bn1.running_mean, seen.mean((0, 2, 3)))
    assert not method.encoder.bn1.running_mean.allclose(method.encoder.conv1(views["other"]).mean((0, 2, 3)))


def test_other_statistics_are_refused():
    with pytest.raises(Exception, match="statistics"):
        SimSiam("resnet18", statistics="none")
