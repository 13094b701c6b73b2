"""Ranks: two or three gloo processes give what one process gives."""
import os
from functools import partial

import pytest
import torch
from torch import distributed, multiprocessing, nn

from baselines.densecl import DenseCL
from baselines.moco_v2 import MoCoV2
from detco import checkpoint, engine
from detco.batch_norm import SplitBatchNorm2d, SyncBatchNorm2d, split_batch_norm, synchronise_batch_norm
from detco.detco import DetCo
from detco.distributed import rank_part, shuffled, splits_here
from detco.errors import UserError
from detco.pool import MemoryPool
from tests.detco.test_engine import make_config, stopped_in_step

RANKS = 2


def _worker(rank, ranks, store, job, out):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    try:
        torch.save(job(rank, ranks), f"{out}.{rank}")
    finally:
        distributed.destroy_process_group()


def run_ranks(job, ranks, tmp_path):
    tmp_path.mkdir(exist_ok=True)
    out = tmp_path / "out"
    multiprocessing.start_processes(_worker, (ranks, tmp_path / "store", job, out), ranks, start_method="spawn")
    return [torch.load(f"{out}.{rank}") for rank in range(ranks)]


def _method(sync):
    torch.manual_seed(0)
    method = DetCo("resnet18", dict(size=32), dict(size=36, area=(0.6, 1.0), grid=3, patch=10), dim=8, bank_size=11,
                   momentum=0.5, batch_norm="sync" if sync else "shuffle")
    return synchronise_batch_norm(method, torch.device("cpu")) if sync else method


def _views(n):
    generator = torch.Generator().manual_seed(0)
    whole = {f"global_{k}": torch.randn(n, 3, 32, 32, generator=generator) for k in "qk"}
    return whole | {f"local_{k}": torch.randn(n, 9, 3, 10, 10, generator=generator) for k in "qk"}


def _steps(method, views, ranks):
    losses = []
    optimizer = torch.optim.SGD(method.encoder.parameters(), 0.05)
    for _ in range(3):
        loss = sum(method.loss(views).values())
        optimizer.zero_grad()
        loss.backward()
        for p in method.encoder.parameters():  # what DistributedDataParallel does
            if ranks > 1:
                distributed.all_reduce(p.grad)
                p.grad /= ranks
        optimizer.step()
        method.after_step()
        total = loss.detach().clone()
        if ranks > 1:
            distributed.all_reduce(total)
        losses.append(total / ranks)
    return torch.stack(losses), {name: bank.keys for name, bank in method.banks.items()}


def _split_batch(rank, ranks):
    views = {name: rank_part(view) for name, view in _views(6).items()}
    return _steps(_method(sync=True), views, ranks)


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_with_parts_of_a_batch_equal_one_rank_with_the_whole_under_sync_bn(ranks, tmp_path):
    alone_losses, alone_banks = _steps(_method(sync=True), _views(6), 1)
    results = run_ranks(_split_batch, ranks, tmp_path)
    for losses, banks in results:
        torch.testing.assert_close(losses, alone_losses, rtol=1e-3, atol=1e-4)
        for name, keys in banks.items():
            torch.testing.assert_close(keys, alone_banks[name], rtol=1e-2, atol=1e-3)
            assert torch.equal(keys, results[0][1][name])


def _virtual(parts, splits, rank, ranks):
    """Two steps of each method on this rank's share of 24 images, in so many parts of as many splits."""
    found = {}
    for name in ("detco", "moco", "densecl"):
        torch.manual_seed(0)
        if name == "detco":
            method = DetCo("resnet18", dict(size=32), dict(size=36, area=(0.6, 1.0), grid=3, patch=10), dim=8,
                           bank_size=21, momentum=0.5, bn_splits=parts * splits * ranks)
        else:
            kind = MoCoV2 if name == "moco" else DenseCL
            method = kind(arch="resnet18", global_view=dict(size=32), dim=8, bank_size=21, momentum=0.5,
                          bn_splits=parts * splits * ranks)
        method.double()
        shares = [{view: rank_part(images.double()).chunk(parts)[i] for view, images in _views(24).items()
                   if name == "detco" or view.startswith("global")} for i in range(parts)]
        optimizer, losses = torch.optim.SGD(method.encoder.parameters(), 0.005), []
        for step in range(2):
            method.seed_step(0, step, rank)
            method.begin_step(shares)
            assert {layer.splits for layer in method.modules() if isinstance(layer, SplitBatchNorm2d)} == {splits}
            optimizer.zero_grad()
            losses.append(torch.zeros(()))
            for share in shares:
                loss = sum(method.loss(share).values()) / (parts * ranks)
                loss.backward()
                losses[-1] += loss.detach()
            for tensor in (losses[-1], *(p.grad for p in method.encoder.parameters())):
                if ranks > 1:
                    distributed.all_reduce(tensor)
            optimizer.step()
            method.after_step()
        found[name] = torch.stack(losses), method.state_dict()
    return found


@pytest.fixture(scope="module")
def eight_virtual_ranks():
    return _virtual(1, 8, 0, 1)


@pytest.mark.parametrize("ranks, parts, splits", [
    pytest.param(8, 1, 1, marks=pytest.mark.slow), (2, 1, 4), (1, 2, 4), (2, 2, 2)])
def test_virtual_ranks_compute_what_real_ones_do(ranks, parts, splits, eight_virtual_ranks, tmp_path):
    """Losses, weights, banks; keys in the momentum encoder's statistics too. Parts move running statistics one after
    the other; without parts, those of virtual ranks are the mean of the real ones'."""
    job = partial(_virtual, parts, splits)
    results = run_ranks(job, ranks, tmp_path) if ranks > 1 else [job(0, 1)]
    for name, (losses, state) in eight_virtual_ranks.items():
        for result in results:
            torch.testing.assert_close(result[name][0], losses, rtol=1e-5, atol=1e-5)
        for key, value in state.items():
            mean = sum(result[name][1][key].double() for result in results) / ranks
            if "running" in key and parts > 1:
                continue
            if "num_batches_tracked" not in key:
                torch.testing.assert_close(mean, value.double(), rtol=1e-4, atol=1e-4, msg=f"{name} {key}")
                assert "running" in key or all(torch.equal(r[name][1][key], results[0][name][1][key]) for r in results)


def test_splits_are_normalised_by_themselves_and_shuffled_keys_by_others():
    """A query's statistics are its split's; its key's come from images drawn from the whole batch."""
    layer = nn.BatchNorm2d(3)
    split_batch_norm(layer, 4)
    x = torch.randn(8, 3, 5, 5) + torch.arange(8.0).view(-1, 1, 1, 1)
    expected = [nn.functional.batch_norm(part, None, None, training=True) for part in x.split(2)]
    torch.testing.assert_close(layer(x), torch.cat(expected))
    means = torch.stack([part.mean((0, 2, 3)) for part in x.split(2)])
    torch.testing.assert_close(layer.running_mean, 0.1 * means.mean(0))
    seen = []
    [keys] = shuffled(lambda images: [seen.append(images) or images * 10], list(torch.arange(8.0)[:, None].split(4)),
                      torch.Generator().manual_seed(5), 2)
    assert torch.equal(keys, torch.arange(8.0)[:, None] * 10)
    assert not torch.equal(torch.cat(seen), torch.arange(8.0)[:, None])


@pytest.mark.parametrize("splits, images, line", [
    (3, 8, "bn_splits: 3 splits of 8 images"), (8, 8, "bn_splits: 8 splits of 8 images")])
def test_splits_that_do_not_divide_a_batch_are_one_line(splits, images, line):
    method = MoCoV2("resnet18", dict(size=32), dim=8, bank_size=8, bn_splits=splits)
    with pytest.raises(UserError, match=line):
        method.loss({f"global_{k}": torch.zeros(images, 3, 32, 32) for k in "qk"})


def test_a_network_without_batch_norm_and_ranks_that_do_not_share_splits_out_are_one_line(monkeypatch):
    with pytest.raises(UserError, match="bn_splits 8: the network has no batch norm to split; give 1"):
        split_batch_norm(nn.Sequential(nn.Conv2d(3, 3, 1), nn.GroupNorm(1, 3)), 8)
    monkeypatch.setattr("detco.distributed.dist.get_world_size", lambda: 3)
    with pytest.raises(UserError, match="bn_splits 8 do not divide among 3 processes and 2 parts of each"):
        splits_here(8, 2)
    assert (splits_here(12, 2), splits_here(12, 1), splits_here(1, 4), splits_here(4, 4)) == (2, 4, 1, 1)


def _pool(rank):
    """Twenty images of two classes, on a process that believes torchrun started it."""
    os.environ["LOCAL_RANK"] = str(rank)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 40, 40), dtype=torch.uint8, generator=generator)
    return MemoryPool(images, torch.arange(20) % 2, ["a", "b"], "f" * 64)


def _pretrain(folder, rank, ranks):
    """A run of 7 steps on each rank, whole and in two sessions; this rank's weights, banks and momentum encoder of
    both."""
    pool = _pool(rank)
    built, build = [], engine.build
    engine.build = lambda *args: built.append(build(*args)) or built[-1]
    settings = make_config("detco", **{"method.bn_splits": 1})
    engine.pretrain(settings, pool, folder / "whole")
    with stopped_in_step(5):
        engine.pretrain(settings, pool, folder / "parts")
    engine.pretrain(settings, pool, folder / "parts")
    return built[0].state_dict(), built[2].state_dict()


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_train_one_network_and_resume_bit_identically(ranks, tmp_path):
    results = run_ranks(partial(_pretrain, tmp_path), ranks, tmp_path)
    for whole, parts in results:
        assert not [key for key in whole if not torch.equal(whole[key], parts[key]) and "running" not in key]
    # Running statistics are a rank's own; rank 0's are saved.
    first, *others = (whole for whole, _ in results)
    assert all(torch.equal(first[key], results[0][1][key]) for key in first)
    assert all(torch.equal(other[key], first[key]) for other in others for key in first if "running" not in key)
    assert first["banks.global_c5.pointer"] == 7 * 6 % 25
    saved = checkpoint.load(tmp_path / "whole" / "checkpoint.safetensors")
    assert saved.metadata["budget"]["images"] == 7 * 6
    assert torch.equal(saved.state["conv1.weight"], first["encoder.backbone.conv1.weight"])


def _accumulated(folder, rank, ranks):
    """A step whose batch of 16 goes through in four parts, over ranks and one after the other."""
    settings = make_config("supervised", **{"schedule.batch": 16, "schedule.epochs": 0.5, "optimizer.lr": 1.0})
    settings["schedule"]["accumulation"] = 4 // ranks
    engine.pretrain(settings, _pool(rank), folder / str(ranks))


def test_parts_of_a_batch_are_alike_on_ranks_and_one_after_the_other(tmp_path):
    for ranks in (1, 2):
        run_ranks(partial(_accumulated, tmp_path), ranks, tmp_path / f"{ranks} ranks")
    one, two = (checkpoint.load(tmp_path / n / "checkpoint.safetensors").state for n in "12")
    torch.manual_seed(0)
    start = engine.build(make_config("supervised"), 2).backbone().state_dict()
    for name in (name for name in one if name.endswith(("weight", "bias"))):
        step, other = one[name] - start[name], two[name] - start[name]
        assert step.norm() > 0 and (step - other).norm() < 1e-4 * step.norm(), name


def _first_session(folder, rank, ranks):
    with stopped_in_step(5):
        engine.pretrain(make_config("detco", **{"method.bn_splits": 2}), _pool(rank), folder)


def _second_session(folder, rank, ranks):
    engine.pretrain(make_config("detco", **{"method.bn_splits": 2}), _pool(rank), folder)


def test_another_number_of_ranks_goes_on_where_the_first_stopped_and_says_what_changes(tmp_path, capfd):
    run_ranks(partial(_first_session, tmp_path / "run"), 2, tmp_path / "first")
    capfd.readouterr()
    run_ranks(partial(_second_session, tmp_path / "run"), 1, tmp_path / "second")
    said = " ".join(capfd.readouterr().out.split())
    assert "resumed with 1 process after 2: batches, their order and the schedule stay" in said
    assert checkpoint.load(tmp_path / "run" / "checkpoint.safetensors").metadata["budget"]["images"] == 7 * 6


def _shuffle(rank, ranks):
    images = torch.arange(4.0)[:, None] + 4 * rank
    seen = []
    generator = torch.Generator().manual_seed(5)
    [keys] = shuffled(lambda x: [seen.append(x.clone()) or x * 10], [images], generator)
    return keys, seen[0]


@pytest.mark.parametrize("ranks", [2, 3])
def test_shuffled_keys_come_back_in_order_though_batches_were_mixed(ranks, tmp_path):
    results = run_ranks(_shuffle, ranks, tmp_path)
    everyone = torch.arange(4.0 * ranks)[:, None]
    for keys, _ in results:
        assert torch.equal(keys, everyone * 10)
    assert torch.equal(torch.cat([seen for _, seen in results]).sort(0).values, everyone)
    assert not torch.equal(results[0][1], everyone[:4])


def test_one_rank_shuffles_nothing_and_draws_nothing():
    generator = torch.Generator().manual_seed(5)
    state = generator.get_state()
    [keys] = shuffled(lambda x: [x], [torch.arange(4.0)], generator)
    assert torch.equal(keys, torch.arange(4.0)) and torch.equal(state, generator.get_state())


def _sync_bn(rank, ranks):
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4) * 3 + 1
    weight = torch.randn(6, 3, 4, 4)
    layer = SyncBatchNorm2d(3)
    mine = rank_part(x).clone().requires_grad_()
    out = layer(mine)
    (out * rank_part(weight)).sum().backward()
    return out.detach(), mine.grad, layer.running_mean, layer.running_var


def test_sync_batch_norm_is_batch_norm_over_the_whole_batch(tmp_path):
    torch.manual_seed(0)
    x = (torch.randn(6, 3, 4, 4) * 3 + 1).requires_grad_()
    weight = torch.randn(6, 3, 4, 4)
    layer = nn.BatchNorm2d(3)
    out = layer(x)
    (out * weight).sum().backward()
    results = run_ranks(_sync_bn, RANKS, tmp_path)
    for i, expected in enumerate((out.detach(), x.grad)):
        torch.testing.assert_close(torch.cat([r[i] for r in results]), expected, rtol=1e-4, atol=1e-5)
    for result in results:
        torch.testing.assert_close(result[2], layer.running_mean)
        torch.testing.assert_close(result[3], layer.running_var)


def _uneven_sync_bn(rank, ranks, affine):
    torch.manual_seed(0)
    x = (torch.randn(6, 3, 4, 4) * 3 + 1).split([2, 4])[rank].clone().requires_grad_()
    weight = torch.randn(6, 3, 4, 4).split([2, 4])[rank]
    layer = SyncBatchNorm2d(3, affine=affine)
    out = layer(x)
    (out * weight).sum().backward()
    return out.detach(), x.grad, layer.running_mean, layer.running_var


@pytest.mark.parametrize("affine", [True, False])
def test_sync_batch_norm_of_uneven_shares_is_batch_norm_over_the_whole_batch(affine, tmp_path):
    torch.manual_seed(0)
    x = (torch.randn(6, 3, 4, 4) * 3 + 1).requires_grad_()
    weight = torch.randn(6, 3, 4, 4)
    layer = nn.BatchNorm2d(3, affine=affine)
    out = layer(x)
    (out * weight).sum().backward()
    results = run_ranks(partial(_uneven_sync_bn, affine=affine), 2, tmp_path)
    for i, expected in enumerate((out.detach(), x.grad)):
        torch.testing.assert_close(torch.cat([r[i] for r in results]), expected, rtol=1e-4, atol=1e-5)
    for result in results:
        torch.testing.assert_close(result[2], layer.running_mean)
        torch.testing.assert_close(result[3], layer.running_var)


@pytest.mark.parametrize("environment, launcher", [
    ({}, None), ({"LOCAL_RANK": "0"}, "pytorch"), ({"SLURM_STEP_NUM_TASKS": "8"}, "slurm"),
    ({"SLURM_STEP_NUM_TASKS": "1"}, None), ({"LOCAL_RANK": "0", "SLURM_STEP_NUM_TASKS": "8"}, "pytorch")])
def test_join_takes_the_launcher_that_started_it(environment, launcher, monkeypatch):
    from detco import distributed

    started = []
    for name in ("LOCAL_RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.dist, "init_dist", started.append)
    distributed.join()
    assert started == ([launcher] if launcher else [])
