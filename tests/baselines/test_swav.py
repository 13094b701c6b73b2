"""SwAV against lightly's parts, which nobody here wrote, and its paper's identities."""
import copy

import pytest
import torch
from torch import distributed
from torch.nn import functional as F

from baselines import swav
from baselines.swav import SwAV, sinkhorn
from detco import config, engine
from detco.backbone import pooled
from detco.batch_norm import synchronise_batch_norm
from detco.distributed import rank_part
from detco.errors import UserError
from detco.lars import LARS
from tests.baselines.test_simsiam import copied
from tests.detco.test_distributed import run_ranks

heads = pytest.importorskip("lightly.models.modules.heads")
losses = pytest.importorskip("lightly.loss.swav_loss")


def built(**fields):
    torch.manual_seed(0)
    method = SwAV("resnet18", dict(size=32), dict(size=16), small_views=3, dim=8, hidden=16, prototypes=7,
                  **dict(bank_size=10, bank_from=0.5, frozen=0.25) | fields)
    method.progress = 0.5
    return method


def views_of(method, n=6):
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(n, 3, view.size, view.size, generator=draw) for name, view in method.view_specs.items()}


def cosines(n=30, k=7):
    draw = torch.Generator().manual_seed(0)
    images, prototypes = (F.normalize(torch.randn(m, 8, generator=draw)) for m in (n, k))
    return images @ prototypes.T


@pytest.mark.parametrize("epsilon, iterations", [(0.05, 3), (0.03, 1), (0.5, 10)])
def test_codes_are_lightlys(epsilon, iterations):
    ours = sinkhorn(cosines(), epsilon, iterations)
    torch.testing.assert_close(ours, losses.sinkhorn(cosines(), iterations, epsilon), rtol=0, atol=1e-6)


def test_codes_are_shares_that_use_prototypes_evenly():
    """Rows add up to one after any number of steps, columns to a prototype's part of the images after many; both as
    close to the cosines as can be: codes of an image and of another differ in their logarithms as cosines do, but for
    a factor of each prototype."""
    few, many = (sinkhorn(cosines().double(), 0.05, iterations) for iterations in (3, 300))
    for codes in (few, many):
        torch.testing.assert_close(codes.sum(1), torch.ones(30).double())
    uneven = [codes.sum(0).std() for codes in (cosines().div(0.05).softmax(1), few)]
    assert uneven[1] < 0.6 * uneven[0]
    torch.testing.assert_close(many.sum(0), torch.full((7, ), 30 / 7).double())
    left = many.log() - cosines().double() / 0.05
    torch.testing.assert_close(left - left[:1] - left[:, :1] + left[0, 0], torch.zeros(30, 7).double())


@pytest.mark.parametrize("bank", [False, True])
def test_loss_and_gradients_are_lightlys(bank):
    method = built(bank_from=0.5 if bank else 0.6)
    views, backbone = views_of(method), copy.deepcopy(method.encoder)
    head = copied(method.projector, heads.SwaVProjectionHead(512, 16, 8))
    prototypes = heads.SwaVPrototypes(8, 7)
    prototypes.heads[0].weight.data, prototypes.heads[0].bias.data = method.prototypes.data.clone(), torch.zeros(7)
    c5 = [pooled(backbone(torch.cat([views[name] for name in views if name.startswith(kind)]))["c5"])
          for kind in ("global", "small")]
    scores = prototypes(F.normalize(head(torch.cat(c5)))).chunk(5)
    queue = [bank.keys @ method.prototypes.T for bank in method.banks] if bank else None
    theirs = losses.SwaVLoss()(scores[:2], scores[2:], queue)
    theirs.sum().backward()
    ours = method.loss(views)["loss"]
    ours.backward()
    torch.testing.assert_close(ours, theirs.squeeze(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(method.prototypes.grad, prototypes.heads[0].weight.grad, rtol=1e-4, atol=1e-6)
    for a, b in zip(method.encoder.parameters(), backbone.parameters(), strict=True):
        assert (a.grad - b.grad).norm() < 1e-4 * b.grad.norm()


def test_no_gradient_flows_through_the_codes(monkeypatch):
    """Constants of the same values in their place leave every gradient as it is."""
    method, given = built(), []
    views = views_of(method)
    monkeypatch.setattr(swav, "sinkhorn", lambda *args: given.append(sinkhorn(*args)) or given[-1])
    method.loss(views)["loss"].backward()
    gradients = [p.grad.clone() for p in method.parameters()]
    method.zero_grad()
    assert len(given) == 2 and not any(codes.requires_grad for codes in given)
    monkeypatch.setattr(swav, "sinkhorn", lambda *args: given.pop(0).detach().clone())
    method.loss(views)["loss"].backward()
    for p, before in zip(method.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, before)


@pytest.mark.parametrize("optimizer", [lambda p: torch.optim.SGD(p, 0.5, momentum=0.9, weight_decay=0.1),
                                       lambda p: LARS(p, 50.0, momentum=0.9, weight_decay=0.1)])
def test_prototypes_have_length_one_and_rest_in_the_beginning(optimizer):
    method = built(frozen=0.25)
    views, taken = views_of(method), optimizer(method.parameters())
    first, weight = method.prototypes.detach().clone(), method.encoder.conv1.weight.detach().clone()
    for progress in (0.0, 0.2, 0.25, 0.3):
        method.progress = progress
        taken.zero_grad()
        method.loss(views)["loss"].backward()
        assert method.prototypes.grad.any() == (progress >= 0.25)
        taken.step()
        method.after_step()
        torch.testing.assert_close(method.prototypes.norm(dim=1), torch.ones(7))
        moved = (method.prototypes - first).abs().max()
        assert moved < 1e-6 if progress < 0.25 else moved > 1e-3
        assert not torch.equal(method.encoder.conv1.weight, weight)


def test_banks_hold_each_global_views_features_and_take_part_from_their_time_on():
    method, without = built(), built(bank_size=0)
    views = views_of(method)
    without.load_state_dict({name: value for name, value in method.state_dict().items() if "banks" not in name})
    losses_at = []
    for progress in (0.49, 0.5):
        method.progress = progress
        losses_at.append(method.loss(views)["loss"].item())
    assert losses_at[0] == without.loss(views)["loss"].item() != losses_at[1]
    method, found = built(), []
    method.projector.register_forward_hook(lambda module, given, out: found.append(F.normalize(out).chunk(5)[:2]))
    for i in range(2):  # in parts
        method.loss({name: view.chunk(2)[i] for name, view in views.items()})
    method.after_step()
    for view, bank in enumerate(method.banks):
        assert bank.pointer == 6 and torch.equal(bank.keys[:6], torch.cat([part[view] for part in found]))
    method.loss(views)
    method.after_step()
    assert method.banks[1].pointer == 2 and torch.equal(method.banks[1].keys[6:], found[2][1][:4])


def _step(rank, ranks):
    """A step of a rank with its share of six images: codes, loss, gradients, banks."""
    method = built(bank_size=8)
    views = {name: rank_part(view) for name, view in views_of(method).items()}
    codes = sinkhorn(rank_part(cosines()), 0.05, 3)
    uneven = sinkhorn(cosines().split([8, 22])[rank] if ranks > 1 else cosines(), 0.05, 3)
    loss = synchronise_batch_norm(method, torch.device("cpu")).loss(views)["loss"]
    loss.backward()
    found = [loss.detach(), method.prototypes.grad, method.encoder.conv1.weight.grad]
    for tensor in found if ranks > 1 else []:
        distributed.all_reduce(tensor)
        tensor /= ranks
    method.after_step()
    return codes, uneven, found, [bank.keys for bank in method.banks]


@pytest.mark.slow
def test_two_ranks_with_half_a_batch_are_one_with_all_of_it(tmp_path):
    codes, uneven, found, banks = _step(0, 1)
    results = run_ranks(_step, 2, tmp_path)
    for i, whole in enumerate((codes, uneven)):
        torch.testing.assert_close(torch.cat([result[i] for result in results]), whole, rtol=0, atol=1e-6)
    for result in results:
        for a, b in zip(result[2], found):
            assert (a - b).norm() < 1e-3 * b.norm()
        for a, b in zip(result[3], banks):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_sizes_are_the_papers():
    method = engine.build(config.load_method("swav"), 1000)
    assert method.prototypes.shape == (3000, 128) and [bank.keys.shape[0] for bank in method.banks] == [3840, 3840]
    assert (method.projector[0].in_features, method.projector[0].out_features) == (2048, 2048)
    assert method.pixels_per_image == 2 * 224**2 + 6 * 96**2
    assert [view.area for view in method.view_specs.values()] == [(0.14, 1.0)] * 2 + [(0.05, 0.14)] * 6


def test_an_epsilon_that_float32_cannot_hold_is_refused():
    with pytest.raises(UserError, match="swav: epsilon 0.01: give 0.025 or more"):
        built(epsilon=0.01)
