"""DenseCL against lightly's parts, which nobody here wrote, and its paper's definitions, naively."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from baselines.densecl import DenseCL, correspondence
from detco.backbone import pooled
from detco.batch_norm import split_batch_norm

heads = pytest.importorskip("lightly.models.modules.heads")
lightly_loss = pytest.importorskip("lightly.loss")
lightly_utils = pytest.importorskip("lightly.models.utils")


def densecl(**changes):
    torch.manual_seed(0)
    return DenseCL(arch="resnet18", global_view=dict(size=96), dim=8, bank_size=20, **dict(bn_splits=1) | changes)


def views(n=4):
    draw = torch.Generator().manual_seed(0)
    return {f"global_{k}": torch.randn(n, 3, 96, 96, generator=draw) for k in "qk"}


def test_a_permuted_and_a_shifted_map_are_found_again():
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(3, 16, 32, generator=draw)
    order = torch.rand(3, 16, generator=draw).argsort(1)
    keys = features.take_along_dim(order[:, :, None], 1) * torch.rand(3, 16, 1, generator=draw).add(0.1)
    assert torch.equal(correspondence(features, keys), order.argsort(1))  # whatever the keys' lengths
    shifted = features.unflatten(1, (4, 4)).roll((1, 2), (1, 2)).flatten(1, 2)
    y, x = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    assert torch.equal(correspondence(features, shifted), ((y + 1) % 4 * 4 + (x + 2) % 4).flatten().expand(3, -1))


def test_corresponding_keys_are_those_lightly_selects():
    draw = torch.Generator().manual_seed(0)
    queries, keys, values = (torch.randn(3, 9, c, generator=draw) for c in (16, 16, 5))
    found = values.take_along_dim(correspondence(queries, keys)[:, :, None], 1)
    theirs = lightly_utils.select_most_similar(F.normalize(queries, dim=2), F.normalize(keys, dim=2), values)
    assert torch.equal(found, theirs)


def test_loss_is_its_definition_position_by_position():
    """InfoNCE of every position against its key and the bank of pooled dense keys; and MoCo v2's, a half each."""
    method, images = densecl(temperature=0.3, dense_weight=0.25), views()
    losses = method.loss(images)
    query, key = method.encoder, method.momentum_encoder.module
    q_map, k_map = (net.backbone(images[name])["c5"] for net, name in ((query, "global_q"), (key, "global_k")))
    assert q_map.shape == (4, 512, 3, 3)

    def dense(net, c5, n, y, x):
        return F.normalize(net.dense_head(c5[n, :, y, x]), dim=0)

    def nce(q, k, bank):
        logits = torch.cat([(q @ k)[None], bank @ q]) / 0.3
        return logits.logsumexp(0) - logits[0]

    of_images, of_positions, cells = [], [], [(y, x) for y in range(3) for x in range(3)]
    for n in range(4):
        q, k = (F.normalize(net.head(c5[n].mean((1, 2))), dim=0) for net, c5 in ((query, q_map), (key, k_map)))
        of_images.append(nce(q, k, method.bank.keys))
        for y, x in cells:
            cosines = [F.cosine_similarity(q_map[n, :, y, x], k_map[n, :, v, u], dim=0) for v, u in cells]
            nearest = cells[int(torch.stack(cosines).argmax())]
            of_positions.append(nce(dense(query, q_map, n, y, x), dense(key, k_map, n, *nearest),
                                    method.dense_bank.keys))
    torch.testing.assert_close(losses["loss_global"], 0.75 * torch.stack(of_images).mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["loss_dense"], 0.25 * torch.stack(of_positions).mean(), rtol=1e-5, atol=1e-5)


def test_dense_head_and_its_loss_are_lightlys_in_value_and_gradient():
    method, images = densecl(dense_weight=1.0), views()
    theirs = heads.DenseCLProjectionHead(512, 512, 8)
    for a, b in zip([m for m in method.encoder.dense_head if isinstance(m, nn.Linear)],
                    [m for m in theirs.modules() if isinstance(m, nn.Linear)], strict=True):
        b.load_state_dict(a.state_dict())
    backbone, key_head = copy.deepcopy(method.encoder.backbone), copy.deepcopy(theirs)
    q, k = (backbone(images[name])["c5"].flatten(2).mT for name in ("global_q", "global_k"))
    with torch.no_grad():
        positive = lightly_utils.select_most_similar(F.normalize(q, dim=2), F.normalize(k, dim=2), key_head(k))
    criterion = lightly_loss.NTXentLoss(temperature=0.2, memory_bank_size=(20, 8))
    criterion(torch.zeros(20, 8), torch.zeros(20, 8))  # draws their bank
    bank = criterion.memory_bank.bank
    method.dense_bank.keys.copy_(bank.T if bank.shape[0] == 8 else bank)
    expected = criterion(theirs(q).flatten(0, 1), positive.flatten(0, 1))
    expected.backward()
    ours = method.loss(images)["loss_dense"]
    ours.backward()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    for a, b in zip([*method.encoder.dense_head.parameters(), *method.encoder.backbone.parameters()],
                    [*theirs.parameters(), *backbone.parameters()], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


def test_both_banks_take_a_key_an_image_and_the_dense_one_the_mean_of_its_positions():
    method, images = densecl(), views()
    before = method.dense_bank.keys.clone()
    method.loss(images)
    method.after_step()
    with torch.no_grad():
        c5 = copy.deepcopy(method.momentum_encoder.module.backbone)(images["global_k"])["c5"]
    key = densecl().encoder  # as both were before the step
    torch.testing.assert_close(method.bank.keys[:4], F.normalize(key.head(pooled(c5))), rtol=1e-5, atol=1e-5)
    dense = F.adaptive_avg_pool2d(key.dense_head(c5.movedim(1, 3)).movedim(3, 1), 1)
    torch.testing.assert_close(method.dense_bank.keys[:4], F.normalize(dense.flatten(1)), rtol=1e-5, atol=1e-5)
    assert torch.equal(method.dense_bank.keys[4:], before[4:]) and method.dense_bank.pointer == 4


def test_no_gradient_reaches_the_keys_nor_comes_by_the_correspondence():
    method = densecl()
    sum(method.loss(views()).values()).backward()
    assert all(p.grad is None for p in method.momentum_encoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in method.encoder.parameters())


def test_parts_of_a_batch_are_as_virtual_ranks():
    """Losses and banks of eight images in four splits, whole and in two parts of two splits each."""
    found = []
    for count in (1, 2):
        method, images = densecl(bn_splits=4), views(8)
        split_batch_norm(method, 4)
        parts = [{name: view.chunk(count)[i] for name, view in images.items()} for i in range(count)]
        method.begin_step(parts)
        losses = [method.loss(part) for part in parts]
        method.after_step()
        found.append([*(sum(part[name] for part in losses) / count for name in ("loss_global", "loss_dense")),
                      method.bank.keys, method.dense_bank.keys])
    for whole, parts in zip(*found):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)


def test_sizes_are_the_papers():
    encoder = DenseCL(arch="resnet50", bank_size=8).encoder
    for head in (encoder.head, encoder.dense_head):
        assert [(m.in_features, m.out_features) for m in head if isinstance(m, nn.Linear)] == [
            (2048, 2048), (2048, 128)]
