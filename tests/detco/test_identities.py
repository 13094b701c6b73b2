"""The identities of DetCo: against MoCo v2, across ranks, for the loss, the banks and the momentum encoder."""
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from baselines.moco_v2 import MoCoV2
from detco.backbone import pooled
from detco.detco import DetCo
from detco.loss import info_nce
from detco.memory_bank import MemoryBank
from detco.momentum_encoder import MomentumEncoder

GLOBAL, LOCAL = dict(size=32, blur_sigma=(0.1, 0.5)), dict(size=36, area=(0.6, 1.0), grid=3, patch=10)


def images(n=4, size=40, seed=0):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def detco(**kwargs):
    return DetCo("resnet18", GLOBAL, LOCAL, **{"bank_size": 20, "dim": 16, "momentum": 0.9, "bn_splits": 2} | kwargs)


def step(method, optimizer, number, n=4):
    method.seed_step(0, number, 0)
    losses = method.loss(method.views({"images": images(n, seed=number)}))
    optimizer.zero_grad()
    total = sum(value for name, value in losses.items() if name.startswith("loss"))
    total.backward()
    gradient = [p.grad.clone() for p in method.encoder.parameters()]
    optimizer.step()
    method.after_step()
    return total.detach(), gradient


def test_detco_of_c5_and_g2g_alone_is_moco_v2_step_after_step():
    torch.manual_seed(3)
    one = detco(weights=(0, 0, 0, 1), terms=("g2g",))
    torch.manual_seed(3)
    two = MoCoV2("resnet18", GLOBAL, dim=16, bank_size=20, momentum=0.9, bn_splits=2)
    optimizers = [torch.optim.SGD(m.encoder.parameters(), 0.05, 0.9, weight_decay=1e-4) for m in (one, two)]
    for number in range(7):  # 28 keys: the banks of 20 wrap around
        (loss_a, grad_a), (loss_b, grad_b) = (step(m, o, number) for m, o in zip((one, two), optimizers))
        assert torch.equal(loss_a, loss_b)
        assert all(torch.equal(a, b) for a, b in zip(grad_a, grad_b, strict=True))
    assert torch.equal(one.banks["global_c5"].keys, two.bank.keys)


@pytest.mark.parametrize("chunk", [3, 64])
def test_fused_loss_is_cross_entropy_over_the_concatenated_logits(monkeypatch, chunk):
    monkeypatch.setattr("detco.loss.CHUNK", chunk)
    torch.manual_seed(0)
    query, key, bank = (F.normalize(torch.randn(n, 8, dtype=torch.float64)) for n in (5, 5, 11))
    fused, naive = query.clone().requires_grad_(), query.clone().requires_grad_()
    weights = torch.rand(5, dtype=torch.float64)
    a = info_nce(fused, key, bank, 0.2)
    logits = torch.cat([(naive * key).sum(1, keepdim=True), naive @ bank.T], 1) / 0.2
    b = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long), reduction="none")
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused.grad, naive.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature, dtype", [(0.025, torch.float32), (0.024, torch.float64), (0.003, torch.float64)])
def test_the_coldest_temperatures_neither_overflow_nor_vanish(temperature, dtype):
    """Every key the query's opposite, the positive too; then one that is the query itself."""
    query = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    for key, bank in ((-query, -query.repeat(4, 1)), (query, query.repeat(4, 1)), (-query, query.repeat(4, 1))):
        fused, naive = query.clone().requires_grad_(), query.double().requires_grad_()
        a = info_nce(fused, key, bank, temperature)
        logits = torch.cat([(naive * key).sum(1, keepdim=True), naive @ bank.double().T], 1) / temperature
        b = F.cross_entropy(logits, torch.zeros(3, dtype=torch.long), reduction="none")
        a.sum().backward()
        b.sum().backward()
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(fused.grad.double(), naive.grad, rtol=1e-3, atol=1e-3)


def test_a_temperature_at_which_keys_would_vanish_is_refused():
    with pytest.raises(ValueError, match="temperature 0.001: InfoNCE takes 0.003 or more"):
        info_nce(*(F.normalize(torch.randn(3, 8)) for _ in range(3)), 0.001)


def test_patches_are_permuted_whichever_terms_count():
    for terms in (("g2g",), ("g2l",), ("g2g", "l2l", "g2l")):
        method = detco(permute=True, terms=terms)
        views = method.views({"images": images()})
        method.permute = False
        before = method.views({"images": images()})
        for name in (name for name in views if name.startswith("local")):
            ours, theirs = (v[name].flatten(2).sort(1).values for v in (views, before))
            assert torch.equal(ours, theirs) and not torch.equal(views[name], before[name])


def test_pooled_is_the_mean_and_its_gradient_takes_no_memory():
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pooled, features) and torch.equal(pooled(features), features.mean((2, 3)))
    seen = []
    features.register_hook(lambda gradient: seen.append(gradient.stride()))
    pooled(features).sum().backward()
    assert seen[0][2:] == (0, 0)


def test_detco_loss_equals_its_definition_term_by_term():
    torch.manual_seed(1)
    method = detco(weights=(0.1, 0.4, 0.7, 1.0), bn_splits=1)
    views = method.views({"images": images()})
    for bank in method.banks.values():  # not the initial ones, and each different
        bank.enqueue(F.normalize(torch.randn(7, 16)))
    banks = {name: bank.keys.clone() for name, bank in method.banks.items()}
    losses = method.loss(views)
    keys = {k: method.momentum_encoder.module(views[f"{k}_k"]) for k in ("global", "local")}
    queries = {k: method.encoder(views[f"{k}_q"]) for k in ("global", "local")}
    assert len(losses) == 12 and len(method.banks) == 8
    for i, (level, weight) in enumerate(zip(("c2", "c3", "c4", "c5"), (0.1, 0.4, 0.7, 1.0))):
        for term, q, k in (("g2g", "global", "global"), ("l2l", "local", "local"), ("g2l", "local", "global")):
            logits = torch.cat([(queries[q][i] * keys[k][i]).sum(1, keepdim=True),
                                queries[q][i] @ banks[f"{k}_{level}"].T], 1) / 0.2
            expected = weight * F.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
            torch.testing.assert_close(losses[f"loss_{level}_{term}"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batches", [[3] * 9, [10, 10, 10], [4, 9, 2, 7], [23], [5, 31]])
def test_bank_holds_exactly_the_last_keys_oldest_overwritten_first(batches):
    bank = MemoryBank(10, 2)
    start = bank.keys.clone()
    stream = torch.arange(sum(batches), dtype=torch.float32)[:, None].expand(-1, 2)
    for chunk in stream.split(batches):
        bank.enqueue(chunk)
    seen = torch.cat([start, stream])
    slot = torch.arange(len(seen)) % 10  # the ring's slot of every key ever, the initial ones first
    expected = torch.stack([seen[slot == i][-1] for i in range(10)])
    assert torch.equal(bank.keys, expected)
    assert int(bank.pointer) == sum(batches) % 10


def test_negatives_are_the_banks_before_this_steps_keys_enter():
    torch.manual_seed(0)
    method = detco()
    before = {name: bank.keys.clone() for name, bank in method.banks.items()}
    method.loss(method.views({"images": images()}))
    assert all(torch.equal(before[n], b.keys) for n, b in method.banks.items())
    method.after_step()
    assert all((before[n] != b.keys).any(1).sum() == 4 for n, b in method.banks.items())


def test_momentum_encoder_never_has_a_gradient_and_follows_by_m():
    torch.manual_seed(0)
    method = detco(momentum=0.75)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1)
    old = [p.clone() for p in method.momentum_encoder.parameters()]
    step(method, optimizer, 0)
    new, query = list(method.momentum_encoder.parameters()), list(method.encoder.parameters())
    assert all(p.grad is None and not p.requires_grad for p in new)
    assert any((a != b).any() for a, b in zip(new, old))
    for follower, before, follows in zip(new, old, query, strict=True):
        torch.testing.assert_close(follower, 0.75 * before + 0.25 * follows.detach(), rtol=1e-5, atol=1e-7)


def test_a_batch_in_parts_is_the_whole_batch():
    """Under fixed statistics: gradients add up, negatives stay the same for every part, keys enter in order."""
    torch.manual_seed(0)
    whole = detco(bn_splits=3).eval()
    parts = deepcopy(whole)
    views = whole.views({"images": images(6)})
    (sum(whole.loss(views).values())).backward()
    divided = [{name: view.chunk(3)[i] for name, view in views.items()} for i in range(3)]
    parts.begin_step(divided)
    for part in divided:
        (sum(parts.loss(part).values()) / 3).backward()
    for a, b in zip(whole.encoder.parameters(), parts.encoder.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5)
    whole.after_step()
    parts.after_step()
    for name, bank in whole.banks.items():
        torch.testing.assert_close(parts.banks[name].keys, bank.keys)
        assert parts.banks[name].pointer == bank.pointer == 6


def test_momentum_encoder_keeps_batch_statistics_of_its_own():
    encoder = nn.BatchNorm1d(3)
    momentum_encoder = MomentumEncoder(encoder, 0.9)
    encoder(torch.randn(8, 3) + 5)
    momentum_encoder.update(encoder)
    assert torch.equal(momentum_encoder.module.running_mean, torch.zeros(3))


def test_eight_projectors_with_nine_patches_side_by_side():
    method = detco()
    for i, level in enumerate(("c2", "c3", "c4", "c5")):
        assert method.encoder.projectors[f"global_{level}"][0].in_features == 64 << i
        assert method.encoder.projectors[f"local_{level}"][0].in_features == 9 * 64 << i
    method.eval()
    views = method.views({"images": images(2)})
    with torch.no_grad():
        maps = method.encoder.backbone(views["local_q"].reshape(-1, 3, 10, 10))["c5"].mean((2, 3))
        by_hand = torch.stack([torch.cat(list(maps[n * 9:n * 9 + 9])) for n in range(2)])
        expected = F.normalize(method.encoder.projectors["local_c5"](by_hand))
        torch.testing.assert_close(method.encoder(views["local_q"])[3], expected)


@pytest.mark.parametrize("bad", [dict(terms=("g2x",)), dict(batch_norm="group"), dict(weights=(1.0, 1.0)),
                                 dict(statistics="globe"), dict(statistics="global", terms=("l2l",))])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError):
        detco(**bad)


def test_hidden_layers_of_local_projectors_are_as_wide_as_asked():
    for local_hidden in (1, 9):
        projectors = detco(local_hidden=local_hidden).encoder.projectors
        assert [projectors[f"local_{level}"][0].out_features for level in ("c2", "c5")] == [64 * local_hidden,
                                                                                            512 * local_hidden]
        assert projectors["global_c5"][0].out_features == 512


@pytest.mark.parametrize("bn_splits", [1, 2])
def test_patches_have_a_say_in_running_statistics_or_none(bn_splits):
    """In neither case does it change what the step computes."""
    found = {}
    for statistics in ("trained", "global_only"):
        torch.manual_seed(0)
        method = detco(statistics=statistics, bn_splits=bn_splits)
        method.seed_step(0, 0, 0)
        views = method.views({"images": images()})
        found[statistics] = method.loss(views), [
            {k: v for k, v in net.backbone.state_dict().items() if "running" in k}
            for net in (method.encoder, method.momentum_encoder.module)]
    for name, value in found["trained"][0].items():
        assert torch.equal(value, found["global_only"][0][name])
    torch.manual_seed(0)
    alone = detco(bn_splits=bn_splits)
    alone.encoder(views["global_q"])
    seen = found["global_only"][1][0]
    assert all(torch.equal(v, alone.encoder.backbone.state_dict()[k]) for k, v in seen.items())
    assert not torch.equal(seen["bn1.running_mean"], found["trained"][1][0]["bn1.running_mean"])
    assert not torch.equal(found["global_only"][1][1]["bn1.running_mean"], torch.zeros(64))


def test_global_statistics_are_the_mean_of_whole_batches_under_final_weights(monkeypatch):
    monkeypatch.setattr("detco.batch_norm.ESTIMATED_ON", 12)
    method = detco(statistics="global")
    method.loss(method.views({"images": images()}))
    batches = [method.views({"images": images(seed=seed)}) for seed in range(4)]
    method.finish(iter(batches))
    stems = torch.stack([method.backbone().conv1(views["global_q"]) for views in batches[:3]])
    statistics = method.backbone().state_dict()
    torch.testing.assert_close(statistics["bn1.running_mean"], stems.mean((0, 1, 3, 4)))
    torch.testing.assert_close(statistics["bn1.running_var"], torch.stack([s.var((0, 2, 3)) for s in stems]).mean(0))
    assert statistics["bn1.num_batches_tracked"] == 3 and method.backbone().bn1.momentum == 0.1


def test_published_size_of_an_image_is_173_percent_of_moco_v2():
    ours = DetCo("resnet18", weights=(0, 0, 0, 1), bank_size=8)  # the paper's views
    theirs = MoCoV2("resnet18", bank_size=8)
    assert ours.pixels_per_image == 2 * 224**2 + 18 * 64**2
    assert round(ours.pixels_per_image / theirs.pixels_per_image, 2) == 1.73
