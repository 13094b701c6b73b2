"""MoCo v2 and v1 against lightly's parts, which nobody here wrote."""
import pytest
import torch
from torch.nn import functional as F

from baselines.moco_v2 import MoCoV2
from baselines.supervised import Supervised
from detco import config, engine
from detco.errors import UserError
from detco.loss import info_nce

lightly_loss = pytest.importorskip("lightly.loss")
lightly_utils = pytest.importorskip("lightly.models.utils")


def test_loss_and_gradient_are_lightlys():
    torch.manual_seed(0)
    theirs = lightly_loss.NTXentLoss(temperature=0.2, memory_bank_size=(30, 16))
    key, bank_batch = F.normalize(torch.randn(6, 16)), F.normalize(torch.randn(30, 16))
    theirs(F.normalize(torch.randn(30, 16)), bank_batch)  # fills their bank
    query_a = torch.randn(6, 16).requires_grad_()  # they normalise inside, so both do
    query_b = query_a.detach().clone().requires_grad_()
    bank = theirs.memory_bank.bank
    bank = (bank.T if bank.shape[0] == 16 else bank).clone()
    a = info_nce(F.normalize(query_a), key, bank, 0.2).mean()
    b = theirs(query_b, key)
    a.backward()
    b.backward()
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(query_a.grad, query_b.grad, rtol=1e-4, atol=1e-6)


def test_momentum_encoder_follows_as_lightlys_update_momentum():
    torch.manual_seed(0)
    method = MoCoV2("resnet18", bank_size=8, dim=8, momentum=0.99)
    with torch.no_grad():
        for p in method.encoder.parameters():
            p.add_(torch.randn_like(p))
    theirs = MoCoV2("resnet18", bank_size=8, dim=8).momentum_encoder.module
    theirs.load_state_dict(method.momentum_encoder.module.state_dict())
    lightly_utils.update_momentum(method.encoder, theirs, m=0.99)
    method.momentum_encoder.update(method.encoder)
    for a, b in zip(method.momentum_encoder.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_projector_is_2048_2048_128():
    linear = [m for m in MoCoV2("resnet50", bank_size=8).encoder.head if hasattr(m, "in_features")]
    assert [(m.in_features, m.out_features) for m in linear] == [(2048, 2048), (2048, 128)]


def test_moco_v1_is_a_linear_layer_colder_jittered_always_and_blurred_never():
    method = engine.build(config.load_method("moco_v1"), 10)
    assert [(m.in_features, m.out_features) for m in method.encoder.modules() if hasattr(m, "in_features")] == [
        (2048, 128)]
    assert method.temperature == 0.07 and len(method.bank.keys) == 65536
    for view in method.view_specs.values():
        assert (view.jitter, view.jitter_p, view.grey_p, view.blur_p) == ((0.4, 0.4, 0.4, 0.4), 1.0, 0.2, 0.0)
    images = {name: torch.randn(2, 3, 32, 32) for name in ("global_q", "global_k")}
    small = MoCoV2("resnet18", bank_size=5, dim=8, temperature=0.07, bn_splits=1, head="linear")
    query, key = (F.normalize(F.linear(net.backbone(images[name])["c5"].mean((2, 3)), net.head.weight, net.head.bias))
                  for net, name in ((small.encoder, "global_q"), (small.momentum_encoder.module, "global_k")))
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ small.bank.keys.T], 1) / 0.07
    torch.testing.assert_close(small.loss(images)["loss"], F.cross_entropy(logits, torch.zeros(2, dtype=torch.long)),
                               rtol=1e-5, atol=1e-5)


def test_another_head_is_one_line():
    with pytest.raises(UserError, match="unknown head 'liner': did you mean linear"):
        MoCoV2("resnet18", head="liner")


def test_supervised_learns_a_colour_in_a_few_steps():
    torch.manual_seed(0)
    method = Supervised(2, "resnet18", dict(size=32, jitter_p=0, grey_p=0, blur_p=0))
    labels = torch.arange(16) % 2
    images = torch.zeros(16, 3, 40, 40, dtype=torch.uint8)
    images[labels == 1, 0] = 255
    optimizer = torch.optim.SGD(method.parameters(), 0.01, 0.9)
    for number in range(8):
        method.seed_step(0, number, 0)
        losses = method.loss(method.views({"images": images, "labels": labels}))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["top1"] == 100
