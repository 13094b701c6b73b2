"""BYOL against lightly's and timm's parts, which nobody here wrote, and its paper's identities."""
import copy
import math

import pytest
import torch
from torch import nn

from baselines.byol import BYOL
from detco import config, engine
from detco.backbone import pooled

heads = pytest.importorskip("lightly.models.modules.heads")
losses = pytest.importorskip("lightly.loss")
lightly_utils = pytest.importorskip("lightly.models.utils")
scheduler = pytest.importorskip("lightly.utils.scheduler")
NAMES = ("one", "other")


@pytest.fixture
def method():
    torch.manual_seed(0)
    return BYOL("resnet18", dict(size=32), dim=12, hidden=24, momentum=0.9)


@pytest.fixture
def views():
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(6, 3, 32, 32, generator=draw) for name in NAMES}


def copied(ours, theirs):
    """Put our weights into lightly's head, whose first layer has no bias and whose last has one."""
    own, there = ([m for m in head.modules() if isinstance(m, (nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d))]
                  for head in (ours, theirs))
    nn.init.zeros_(own[0].bias)  # ahead of a batch norm it does nothing
    for a, b in zip(own, there, strict=True):
        b.load_state_dict({key: value for key, value in a.state_dict().items() if key in b.state_dict()}, strict=False)
    nn.init.zeros_(there[-1].bias)
    return theirs


def test_loss_and_gradients_are_lightlys(method, views):
    with torch.no_grad():  # so that the momentum encoder is another
        for p in method.momentum_encoder.parameters():
            p.mul_(0.9)
    online, target = method.encoder, copy.deepcopy(method.momentum_encoder.module)
    parts = [copy.deepcopy(online.backbone), copied(online.projector, heads.BYOLProjectionHead(512, 24, 12)),
             copied(method.predictor, heads.BYOLPredictionHead(12, 24, 12))]
    p = [parts[2](parts[1](pooled(parts[0](views[name])["c5"]))) for name in NAMES]
    z = [target.projector(pooled(target.backbone(views[name])["c5"])) for name in NAMES]
    criterion = losses.NegativeCosineSimilarity()
    theirs = 4 + 2 * (criterion(p[0], z[1]) + criterion(p[1], z[0]))
    theirs.backward()
    ours = method.loss(views)["loss"]
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    for a, b in ((online.backbone, parts[0]), (online.projector[-1], parts[1].layers[-1]),
                 (method.predictor[-1], parts[2].layers[-1])):
        for name, parameter in a.named_parameters():
            torch.testing.assert_close(parameter.grad, dict(b.named_parameters())[name].grad, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_through_the_target(method, views):
    """With a predictor that gives a constant, the encoder has no gradient: all it has comes by the prediction."""
    method.predictor = nn.Sequential(method.predictor, Constant())
    method.loss(views)["loss"].backward()
    assert all(p.grad is None or not p.grad.any() for p in method.parameters() if p is not method.predictor[1].value)
    assert method.predictor[1].value.grad.any()
    assert not any(p.requires_grad for p in method.momentum_encoder.parameters())


class Constant(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.arange(12.0))

    def forward(self, x):
        return self.value.expand_as(x)


def test_predictions_that_are_the_targets_give_nothing_and_opposite_ones_eight(method, views):
    """Of equal views and an identity; each direction's squared distance of unit vectors is 4 at most."""
    equal = {name: views["one"] for name in NAMES}
    method.predictor = nn.Identity()
    assert method.loss(equal)["loss"].item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        method.encoder.projector[-1].weight.neg_()
    assert method.loss(equal)["loss"].item() == pytest.approx(8, abs=1e-5)


def test_the_momentum_encoder_follows_ever_more_slowly_as_lightlys(method):
    online, theirs, steps = method.encoder, copy.deepcopy(method.momentum_encoder.module), 5
    for step in range(steps):
        with torch.no_grad():
            for p in online.parameters():
                p.add_(torch.randn_like(p))
        method.progress = step / steps
        method.after_step()
        momentum = scheduler.cosine_schedule(step, steps + 1, 0.9, 1.0)  # theirs ends a step before its last
        assert method.momentum_encoder.momentum == pytest.approx(momentum)
        lightly_utils.update_momentum(online, theirs, m=momentum)
        for a, b in zip(method.momentum_encoder.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert momentum == pytest.approx(1 - 0.05 * (1 + math.cos(0.8 * math.pi)))


def test_views_are_asymmetric_and_both_pass_through_both_encoders():
    written = config.load_method("byol")
    method = BYOL("resnet18", written["method"]["global_view"], dim=8, hidden=8)
    one, other = (method.view_specs[name] for name in NAMES)
    assert (one.blur_p, one.solarize_p, other.blur_p, other.solarize_p) == (1.0, 0.0, 0.1, 0.2)
    assert one.jitter == other.jitter == (0.4, 0.4, 0.2, 0.1) and one.area == (0.08, 1.0)
    assert method.pixels_per_image == 4 * 224**2


def test_sizes_are_the_papers():
    whole = BYOL("resnet50")
    linear = [(m.in_features, m.out_features) for m in [*whole.encoder.projector, *whole.predictor]
              if isinstance(m, nn.Linear)]
    assert linear == [(2048, 4096), (4096, 256), (256, 4096), (4096, 256)]


def test_the_papers_optimiser_is_lars_on_weights_and_sgd_on_biases_and_norms(method, views):
    """A first step of the config's own optimiser: weights move by their norm, at a rate of 3.2 times 0.001."""
    pytest.importorskip("timm")
    settings = config.load_method("byol")["optimizer"]
    optimizer = engine.build_optimizer(method, settings)
    method.loss(views)["loss"].backward()
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    optimizer.step()
    for name, p in method.named_parameters():
        step = before[name] - p.detach()
        if name.startswith("momentum_encoder"):
            assert not step.any()
        elif p.dim() > 1:
            decayed = p.grad + 1.5e-6 * before[name]
            expected = 3.2e-3 * before[name].norm() / decayed.norm() * decayed
            torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-5, msg=name)
        else:
            torch.testing.assert_close(step, 3.2 * p.grad, rtol=1e-3, atol=1e-5, msg=name)
