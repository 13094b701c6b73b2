"""The engine: exact resume, the stream of images, non-finite losses, the cache."""
import contextlib
import json
import math
import multiprocessing
import random
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.io import write_jpeg
from torchvision.transforms.v2 import functional as F

from detco import checkpoint, config, engine
from detco.backbone import ResNetLevels
from detco.console import STOP, stop
from detco.errors import UserError
from detco.pool import FolderPool, MemoryPool, PoolError, decode
from detco.runner import DivergedError, states_of
from detco.views import MEAN, STD

SMALL = {"method.arch": "resnet18", "schedule.epochs": 2, "schedule.batch": 6}
VIEW = dict(size=32, area=(0.2, 1.0), blur_sigma=(0.1, 0.5))
CHANGES = {
    "detco": SMALL | {"method.global_view": VIEW, "method.bank_size": 25, "method.dim": 8, "method.local_view":
                      dict(size=36, area=(0.6, 1.0), grid=3, patch=10, blur_sigma=(0.1, 0.5)), "method.bn_splits": 3},
    "moco_v2": SMALL | {"method.global_view": VIEW, "method.bank_size": 25, "method.bn_splits": 3},
    "densecl": SMALL | {"method.global_view": VIEW, "method.bank_size": 25, "method.dim": 8, "method.bn_splits": 3},
    "byol": SMALL | {"method.global_view": VIEW, "method.dim": 8, "method.hidden": 16, "schedule.warmup": 0,
                     "optimizer": dict(lr=0.02, momentum=0.9)},
    "supervised": SMALL | {"method.global_view": VIEW},
    "random_init": {"method.arch": "resnet18"},
}


def make_config(name, **changes):
    return config.override(config.load_method(name), CHANGES[name] | changes)


@pytest.fixture
def pool():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 40, 40), dtype=torch.uint8, generator=generator)
    return MemoryPool(images, torch.arange(20) % 3, ["a", "b", "c"], "f" * 64)


@pytest.fixture
def built(monkeypatch):
    """The methods the engine builds, so that a test sees banks and momentum encoders too."""
    methods, build = [], engine.build
    monkeypatch.setattr(engine, "build", lambda *args: methods.append(build(*args)) or methods[-1])
    return methods


@contextlib.contextmanager
def stopped_in_step(number):
    """Ctrl-C in this step, before its state is saved."""
    after = engine.MethodHook.after_train_iter

    def stop(self, runner, *args, **kwargs):
        if runner.iter + 1 == number:
            raise KeyboardInterrupt
        after(self, runner, *args, **kwargs)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(engine.MethodHook, "after_train_iter", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture
def steps(monkeypatch):
    """The steps that are taken."""
    taken, after = [], engine.MethodHook.after_train_iter
    monkeypatch.setattr(engine.MethodHook, "after_train_iter",
                        lambda self, runner, *a, **k: taken.append(runner.iter + 1) or after(self, runner, *a, **k))
    return taken


def same(whole, resumed):
    whole, resumed = whole.state_dict(), resumed.state_dict()
    return all(torch.equal(whole[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("name, accumulation", [
    ("detco", 1), ("moco_v2", 1), ("supervised", 1), ("moco_v2", 3), ("densecl", 3), ("byol", 1)])
def test_stop_and_resume_is_bit_identical(name, accumulation, pool, built, steps, tmp_path):
    settings = make_config(name)
    settings["schedule"]["accumulation"] = accumulation
    engine.pretrain(settings, pool, tmp_path / "whole", seed=1)
    with stopped_in_step(5):
        engine.pretrain(settings, pool, tmp_path / "parts", seed=1)
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()
    steps.clear()
    engine.pretrain(settings, pool, tmp_path / "parts", seed=1)
    assert steps == [5, 6, 7]  # 7 steps of 6 images: two epochs of 20, the last batch whole
    assert same(built[0], built[2])


@pytest.mark.parametrize("damaged, first", [((4,), 4), ((3, 4), 1)])
def test_a_damaged_state_is_told_and_the_one_before_it_used(damaged, first, pool, built, steps, tmp_path, capsys):
    engine.pretrain(make_config("moco_v2"), pool, tmp_path / "whole", seed=1)
    with stopped_in_step(5):
        engine.pretrain(make_config("moco_v2"), pool, tmp_path / "parts", seed=1)
    for step in damaged:
        state = tmp_path / "parts" / f"iter_{step}.pth"
        state.write_bytes(state.read_bytes()[:-1000])
    steps.clear()
    capsys.readouterr()
    engine.pretrain(make_config("moco_v2"), pool, tmp_path / "parts", seed=1)
    output = capsys.readouterr().out
    told = [line for line in output.splitlines() if "cannot be read" in line]
    assert [f"iter_{step}.pth: cannot be read" in line for step, line in zip(reversed(damaged), told, strict=True)]
    assert ("starting over" in output) == (first == 1)
    assert steps == list(range(first, 8)) and same(built[0], built[2])


def flipped(whole):
    """One bit of some weight, which no reader would stumble over."""
    place = len(whole) // 2
    return whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:]


@pytest.mark.parametrize("damage", [
    lambda whole: b"", lambda whole: whole[:100], lambda whole: whole[:4000], lambda whole: whole[:20_000],
    lambda whole: whole[:50_000], lambda whole: whole[:len(whole) // 2], lambda whole: bytes(len(whole)),
    lambda whole: whole[:len(whole) // 2] + bytes(len(whole) // 2), flipped, lambda whole: b"some text\n" * 1000])
def test_a_state_damaged_in_any_way_is_not_gone_on_from(damage, pool, tmp_path, capsys):
    with stopped_in_step(5):
        engine.pretrain(make_config("moco_v2"), pool, tmp_path, seed=1)
    newest, older = states_of(tmp_path)
    newest.write_bytes(damage(newest.read_bytes()))
    runner = SimpleNamespace(work_dir=tmp_path)
    assert engine.Runner._newest_state(runner) == str(older)
    assert f"{newest}: cannot be read (" in capsys.readouterr().out


def test_a_state_that_may_not_be_read_is_an_error_and_not_passed_over(pool, tmp_path, monkeypatch):
    torch.save({}, tmp_path / "iter_3.pth")

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(PermissionError):
        engine.Runner._newest_state(SimpleNamespace(work_dir=tmp_path))


def test_what_a_killed_process_was_writing_is_removed(pool, tmp_path):
    with stopped_in_step(5):
        engine.pretrain(make_config("moco_v2"), pool, tmp_path, seed=1)
    (tmp_path / ".iter_6.pth.123.tmp").write_bytes(b"half")
    engine.pretrain(make_config("moco_v2"), pool, tmp_path, seed=1)
    assert not list(tmp_path.glob(".*.tmp"))


def test_scalars_remember_a_part_of_a_long_run(pool, tmp_path, monkeypatch):
    """mmengine copies what a scalar remembers at every step, a million values by default."""
    runners, train = [], engine.Runner.train
    monkeypatch.setattr("detco.runner.REMEMBERED", 12)
    monkeypatch.setattr(engine.Runner, "train", lambda self: runners.append(self) or train(self))
    engine.pretrain(make_config("moco_v2", **{"schedule.epochs": 12}), pool, tmp_path)
    scalars = runners[0].message_hub.log_scalars
    assert {"train/loss", "train/time", "train/data_time"} <= set(scalars)
    assert all(len(scalar.data[0]) <= 22 for scalar in scalars.values())  # until the next look, ten steps later


def test_a_wish_to_stop_that_a_library_swallowed_stops_after_the_step(pool, tmp_path, monkeypatch):
    after = engine.MethodHook.after_train_iter

    def swallowing(self, runner, *args, **kwargs):
        after(self, runner, *args, **kwargs)
        with contextlib.suppress(KeyboardInterrupt):
            stop(None, None)

    monkeypatch.setattr(engine.MethodHook, "after_train_iter", swallowing)
    with pytest.raises(KeyboardInterrupt):
        engine.pretrain(make_config("moco_v2"), pool, tmp_path, seed=1)
    STOP.clear()
    assert [state.name for state in states_of(tmp_path)] == ["iter_1.pth"]


def _run(work_dir, epochs):
    """A run in a process of its own, which keeps a state every other step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 40, 40), dtype=torch.uint8, generator=generator)
    pool = MemoryPool(images, torch.arange(20) % 3, ["a", "b", "c"], "f" * 64)
    torch.set_num_threads(1)
    engine.save_every = lambda steps: 2
    engine.pretrain(make_config("moco_v2", **{"schedule.epochs": epochs}), pool, work_dir)


def killed_and_resumed(folder, epochs, kills, moment):
    """The weights of an uninterrupted run and of one killed so often, each time `moment` (a function that waits, of
    the process and the work folder) has passed."""
    def start(part):
        process = multiprocessing.get_context("spawn").Process(target=_run, args=(folder / part, epochs))
        process.start()
        return process

    start("whole").join()
    for _ in range(kills):
        victim = start("parts")
        moment(victim, folder / "parts")
        victim.kill()
        victim.join()
        assert not (folder / "parts" / "checkpoint.safetensors").exists()
    start("parts").join()
    return (checkpoint.load(folder / part / "checkpoint.safetensors").state for part in ("whole", "parts"))


def test_killed_while_it_trains_resumes_bit_identically(tmp_path):
    wanted = iter((4, 10))

    def moment(victim, folder):
        state = folder / f"iter_{next(wanted)}.pth"
        while victim.is_alive() and not state.exists():
            time.sleep(0.002)

    whole, parts = killed_and_resumed(tmp_path, epochs=6, kills=2, moment=moment)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.slow
def test_compiled_backbones_compute_what_they_did(pool):
    """torch.compile takes a minute; one step's losses and gradients, and what the momentum encoder's batch norm has
    seen."""
    batch = {"images": pool.images[:6], "labels": pool.labels[:6]}
    settings, found = make_config("detco"), []
    for compiled in (False, True):
        torch.manual_seed(0)
        method = engine.build(settings, 1)
        if compiled:
            engine.compile_backbones(method)
        losses = method.loss(method.views(batch))
        sum(losses.values()).backward()
        found.append((losses, {name: p.grad for name, p in method.encoder.named_parameters()},
                      dict(method.momentum_encoder.named_buffers())))
    for whole, compiled in zip(*found):
        for name in whole:  # batch norm over few pixels magnifies rounding
            difference = (compiled[name].double() - whole[name].double()).norm()
            assert difference <= 0.01 * whole[name].double().norm(), name


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments_resumes_bit_identically(tmp_path):
    draw = random.Random(0)

    def moment(victim, folder):
        log = folder / "run.log"
        before = log.stat().st_size if log.exists() else 0
        while victim.is_alive() and not (log.exists() and log.stat().st_size > before):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 2))  # building, resuming, training, saving: whatever it is at

    whole, parts = killed_and_resumed(tmp_path, epochs=200, kills=20, moment=moment)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_fused_optimiser_on_channels_last_weights_takes_sgds_steps(pool, tmp_path, monkeypatch):
    """Beside torch's own unfused SGD on copies laid out channels first, given the same gradients."""
    build, steps = engine.Runner.build_optim_wrapper, []

    def watched(self, wrapper):
        built = build(self, wrapper)
        fused, = built.optimizer.param_groups
        params = [p for p in fused["params"] if p.requires_grad]  # the momentum encoder follows its own rule
        assert fused["fused"] and not all(p.is_contiguous() for p in params)
        copies = [p.detach().clone(memory_format=torch.contiguous_format) for p in params]
        plain = torch.optim.SGD(copies, **{key: fused[key] for key in ("lr", "momentum", "weight_decay")})

        def before(optimizer, *_):
            plain.param_groups[0]["lr"] = fused["lr"]
            for copy, p in zip(copies, params, strict=True):
                copy.grad = p.grad.clone(memory_format=torch.contiguous_format)
            plain.step()

        def after(optimizer, *_):
            torch.testing.assert_close([p.detach() for p in params], copies)
            steps.append(optimizer)

        built.optimizer.register_step_pre_hook(before)
        built.optimizer.register_step_post_hook(after)
        return built

    monkeypatch.setattr(engine.Runner, "build_optim_wrapper", watched)
    engine.pretrain(make_config("detco", **{"schedule.epochs": 1}), pool, tmp_path)
    assert len(steps) == 4  # from the second on with momentum


def test_a_batch_in_parts_takes_one_step_and_draws_as_ranks_do(pool, built, tmp_path, monkeypatch):
    """Without batch norm's statistics, parts of one process are ranks of several: one step, the mean gradient."""
    settings = make_config("moco_v2", **{"schedule.epochs": 0.3})
    settings["schedule"]["accumulation"] = 3
    taken, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *a, **k: taken.append(1) or step(*a, **k))
    draws, seed_step = [], engine.Method.seed_step
    monkeypatch.setattr(engine.Method, "seed_step", lambda self, *key: draws.append(key) or seed_step(self, *key))
    engine.pretrain(settings, pool, tmp_path)
    assert len(taken) == 1 and draws[1:] == 2 * [(0, 0, part) for part in range(3)]  # its views, then its loss
    assert int(built[0].bank.pointer) == 6
    settings["schedule"]["accumulation"] = 4
    with pytest.raises(ValueError, match="a batch of 6 does not divide among 1 processes and 4 parts of each"):
        engine.pretrain(settings, pool, tmp_path / "odd")


def test_stream_visits_each_image_once_an_epoch_and_starts_anywhere():
    stream = engine.Stream(10, 4, seed=3)
    batches = [batch for batch, _ in zip(stream, range(10))]
    images = [image for batch in batches for image, _ in batch]
    assert all(sorted(images[e * 10:e * 10 + 10]) == list(range(10)) for e in range(4))
    assert images[:10] != images[10:20]
    stream.start = 7
    assert next(iter(stream)) == batches[7]


def test_ranks_parts_in_order_are_the_single_process_batch(monkeypatch):
    whole = [batch for batch, _ in zip(engine.Stream(10, 6, 0), range(5))]
    parts = []
    for rank in range(3):
        monkeypatch.setattr(engine.dist, "get_world_size", lambda: 3)
        monkeypatch.setattr(engine.dist, "get_rank", lambda rank=rank: rank)
        parts.append([batch for batch, _ in zip(engine.Stream(10, 6, 0), range(5))])
    assert [[*parts[0][i], *parts[1][i], *parts[2][i]] for i in range(5)] == whole
    with pytest.raises(ValueError, match="batch of 7"):
        engine.Stream(10, 7, 0)


@pytest.mark.parametrize("term, interval", [("loss_c4_l2l", 1), ("loss_c5_g2g", 50)])
def test_a_loss_that_is_not_finite_stops_with_step_term_and_last_state(term, interval, pool, tmp_path, monkeypatch):
    loss = engine.PretrainModel.forward

    def spoilt(self, *args, **kwargs):
        losses = loss(self, *args, **kwargs)
        if self.method._step[1] == 12:  # the thirteenth
            losses[term] = losses[term] * float("inf")
        return losses

    monkeypatch.setattr(engine.PretrainModel, "forward", spoilt)
    monkeypatch.setattr(engine, "save_every", lambda steps: interval)
    with pytest.raises(DivergedError) as error:
        engine.pretrain(make_config("detco", **{"schedule.epochs": 5}), pool, tmp_path)
    last = tmp_path / "iter_12.pth" if interval == 1 else "none"
    assert str(error.value) == f"pretrain detco: {term} is not finite at step 13; the last good state is {last}"
    assert not list(tmp_path.glob("iter_1[3-9].pth"))


def test_a_state_with_a_weight_that_is_not_finite_is_not_saved(pool, tmp_path, monkeypatch):
    after = engine.MethodHook.after_train_iter

    def poison(self, runner, *args, **kwargs):
        after(self, runner, *args, **kwargs)
        if runner.iter == 4:
            engine.method_of(runner).encoder.conv1.weight.data[0, 0] = float("inf")

    monkeypatch.setattr(engine.MethodHook, "after_train_iter", poison)
    with pytest.raises(DivergedError, match=r"a weight is not finite after step 5; the last good state is .*iter_4"):
        engine.pretrain(make_config("supervised"), pool, tmp_path)
    assert [state.name for state in states_of(tmp_path)] == ["iter_4.pth"]


def test_resumed_with_another_number_of_processes_says_what_changes(pool, tmp_path, capsys):
    with stopped_in_step(5):
        engine.pretrain(make_config("moco_v2"), pool, tmp_path)
    state = torch.load(tmp_path / "iter_4.pth", weights_only=False)
    state["message_hub"]["runtime_info"]["world_size"] = 4
    torch.save(state, tmp_path / "iter_4.pth")
    engine.pretrain(make_config("moco_v2"), pool, tmp_path)
    assert "resumed with 1 process after 4: " in capsys.readouterr().out


def test_finished_run_is_reused_and_its_metadata_tells_the_budget(pool, tmp_path, monkeypatch):
    path = engine.pretrain(make_config("detco"), pool, tmp_path, seed=2)
    monkeypatch.setattr(engine, "_train", lambda *args: pytest.fail("trained again"))
    assert engine.pretrain(make_config("detco"), pool, tmp_path, seed=2) == path
    meta = checkpoint.load(path).metadata
    assert meta["budget"]["images"] == 42
    assert meta["budget"]["encoder_pixels"] == 42 * (2 * 32**2 + 18 * 10**2)
    assert meta["budget"]["device_hours"] > 0
    assert (meta["method"], meta["seed"], meta["arch"]) == ("detco", 2, "resnet18")
    assert meta["recipe"] == config.recipe_hash(make_config("detco", workers=3) | {"name": "another"})
    assert meta["recipe_config"]["method"]["bank_size"] == 25 and "workers" not in meta["recipe_config"]
    assert config.recipe_hash(meta["recipe_config"]) == meta["recipe"]
    assert json.loads((tmp_path / "config.json").read_text())["method"]["bank_size"] == 25


MONITOR = dict(knn_every=0.5, resize=36, crop=32, k=5)


def test_a_monitor_measures_on_the_way_and_changes_no_weight(pool, built, tmp_path):
    asked = MemoryPool(pool.images[:8].flip(0), pool.labels[:8].flip(0), pool.classes, "e" * 64)
    settings = make_config("detco", **{"method.statistics": "global_only"})
    engine.pretrain(settings, pool, tmp_path / "without", seed=1)
    watched = settings | {"monitor": MONITOR}
    path = engine.pretrain(watched, pool, tmp_path / "with", seed=1, monitor=(pool, asked))
    assert same(built[0], built[1]) and engine.recipe_hash(watched) == engine.recipe_hash(settings)
    written = (tmp_path / "with/monitor.jsonl").read_text()
    lines = [json.loads(line) for line in written.splitlines()]
    assert [(line["step"], line["images"], line["epoch"]) for line in lines] == [
        (2, 12, 0.6), (4, 24, 1.2), (5, 30, 1.5), (7, 42, 2.1)]  # an epoch is 3 1/3 steps
    assert lines[1]["encoder_pixels"] == 24 * (2 * 32**2 + 18 * 10**2)
    assert checkpoint.load(path).metadata["monitor"] == lines
    # The last line is the checkpoint's own: asked images are among those that vote, but not alone.
    backbone = ResNetLevels("resnet18").to(memory_format=torch.channels_last)  # as it was: cosines lie close
    backbone.load_state_dict(checkpoint.load(path).state)
    backbone.eval()
    crops = [F.center_crop(F.resize(p.images, [36], antialias=True), [32]).float() / 255 for p in (pool, asked)]
    with torch.no_grad():
        train, tested = (backbone(F.normalize(c, MEAN, STD)) for c in crops)
    for level in ("c2", "c5"):
        a, b = (torch.nn.functional.normalize(maps[level].mean((2, 3))) for maps in (train, tested))
        cosine = b @ a.T
        votes = torch.zeros(8, 3)
        for q in range(8):
            for i in cosine[q].argsort(descending=True)[:5]:
                votes[q, pool.labels[i]] += (cosine[q, i] / 0.07).exp()
        assert lines[-1]["knn"][level] == 100 * (votes.argmax(1) == asked.labels).float().mean()
    with stopped_in_step(6):  # states of steps 1 to 5, of which the last two are kept
        engine.pretrain(watched, pool, tmp_path / "parts", seed=1, monitor=(pool, asked))
    (tmp_path / "parts/iter_5.pth").unlink()
    engine.pretrain(watched, pool, tmp_path / "parts", seed=1, monitor=(pool, asked))
    assert (tmp_path / "parts/monitor.jsonl").read_text() == written


def test_a_monitor_of_pools_of_other_classes_is_refused(pool, tmp_path):
    other = MemoryPool(pool.images, pool.labels, ["a", "b", "d"], "e" * 64)
    with pytest.raises(UserError, match="monitor: the pool that votes and the one that is asked have other classes"):
        engine.pretrain(make_config("moco_v2") | {"monitor": MONITOR}, pool, tmp_path, monitor=(pool, other))


def test_states_of_other_splits_are_not_gone_on_from(pool, tmp_path):
    with stopped_in_step(3):
        engine.pretrain(make_config("moco_v2"), pool, tmp_path)
    with pytest.raises(UserError, match="holds states of another recipe: method.bn_splits was 3, is 1 now"):
        engine.pretrain(make_config("moco_v2", **{"method.bn_splits": 1}), pool, tmp_path)
    engine.pretrain(make_config("moco_v2", **{"method.bn_splits": 1}), pool, tmp_path, resume=False)


@pytest.mark.parametrize("changes, processes, line", [
    ({"schedule.batch": 7}, 2, "a batch of 7 does not divide among 2 processes"),
    ({"method.bn_splits": 4}, 1, "bn_splits: 4 splits of 6 images"),
    ({"method.bn_splits": 6}, 1, "bn_splits: 6 splits of 6 images"),
    ({"method.bn_splits": 0}, 1, "bn_splits 0 do not divide among 1 processes"),
    ({"method.bn_splits": 3}, 2, "bn_splits 3 do not divide among 2 processes")])
def test_a_batch_that_does_not_come_out_even_is_refused_before_any_work(changes, processes, line):
    with pytest.raises(UserError, match=line):
        engine.check_batch(make_config("moco_v2", **changes), processes)
    engine.check_batch(make_config("moco_v2"), 3)
    engine.check_batch(make_config("detco", **{"method.bn_splits": 4, "method.batch_norm": "sync"}))


def test_random_init_is_torchvisions_initialisation_and_costs_nothing(pool, tmp_path):
    import torchvision

    path = engine.pretrain(make_config("random_init"), pool, tmp_path, seed=5)
    torch.manual_seed(5)
    theirs = torchvision.models.resnet18(weights=None).state_dict()
    loaded = checkpoint.load(path)
    assert all(torch.equal(value, theirs[key]) for key, value in loaded.state.items())
    assert loaded.metadata["budget"] == dict(images=0, encoder_pixels=0, device_hours=0.0)


def test_identity_changes_with_config_data_and_seed():
    base = make_config("detco")
    identities = {engine.identity(base, "a", 0), engine.identity(base, "b", 0), engine.identity(base, "a", 1),
                  engine.identity(make_config("detco", **{"method.temperature": 0.1}), "a", 0)}
    assert len(identities) == 4
    assert engine.identity(make_config("detco"), "a", 0) in identities


OWN_METHOD = """
import math

import torch
from torch import nn
from torch.nn import functional as F

from detco.backbone import ResNetLevels, pooled
from detco.method import Method
from detco.momentum_encoder import MomentumEncoder
from detco.views import View


class Siamese(Method):
    def __init__(self, arch, global_view, momentum):
        super().__init__()
        self.view_specs = {"one": View(**global_view), "two": View(**global_view)}
        self.encoder = ResNetLevels(arch)
        self.predictor = nn.Linear(512, 512)
        self.target = MomentumEncoder(self.encoder, momentum)
        self.base, self.seen = momentum, []

    def parameter_groups(self):
        weights = [p for p in self.encoder.parameters() if p.ndim > 1]
        others = [p for p in self.encoder.parameters() if p.ndim < 2]
        return [{"params": weights}, {"params": others, "weight_decay": 0.0},
                {"params": list(self.predictor.parameters()), "fixed_lr": True}]

    def loss(self, views):
        target = pooled(self.target(views["two"])["c5"])
        guess = self.predictor(pooled(self.encoder(views["one"])["c5"]))
        return {"loss": -F.cosine_similarity(guess, target).mean()}

    def after_step(self):
        self.target.momentum = 1 - (1 - self.base) * (math.cos(math.pi * self.progress) + 1) / 2
        self.seen.append(self.target.momentum)
        self.target.update(self.encoder)

    def backbone(self):
        return self.encoder


class Layerwise(torch.optim.SGD):
    rates = []

    def step(self, closure=None):
        self.rates.append([(group["lr"], group["weight_decay"]) for group in self.param_groups])
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(p.norm() / (p.grad.norm() + 1e-9))
        return super().step(closure)
"""


def test_a_method_brings_its_optimiser_groups_and_schedules(pool, built, tmp_path, monkeypatch):
    """SimSiam's predictor at a fixed rate, BYOL's momentum, layer-wise steps with warm-up: one file, one config."""
    (tmp_path / "own_method.py").write_text(OWN_METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    settings = dict(
        name="siamese", method=dict(type="own_method:Siamese", arch="resnet18", global_view=VIEW, momentum=0.9),
        optimizer=dict(type="own_method:Layerwise", lr=0.4, momentum=0.9, weight_decay=1e-3, fused=False),
        schedule=dict(epochs=3, batch=6, policy="cosine", warmup=1.2), amp=False)
    engine.pretrain(settings, pool, tmp_path / "whole", seed=1)
    import own_method

    rates, seen = list(own_method.Layerwise.rates), built[0].seen
    rise, fall = [0.1, 0.2, 0.3, 0.4], [0.2 * (1 + math.cos(math.pi * t / 6)) for t in range(6)]
    assert [groups[0] for groups in rates] == [(pytest.approx(lr), 1e-3) for lr in rise + fall]
    assert [groups[1] for groups in rates] == [(pytest.approx(lr), 0.0) for lr in rise + fall]
    assert [groups[2] for groups in rates] == [(0.4, 1e-3)] * 10
    assert seen == pytest.approx([1 - 0.05 * (1 + math.cos(math.pi * t / 10)) for t in range(10)])
    own_method.Layerwise.rates.clear()
    with stopped_in_step(3):
        engine.pretrain(settings, pool, tmp_path / "parts", seed=1)
    engine.pretrain(settings, pool, tmp_path / "parts", seed=1)
    assert own_method.Layerwise.rates[3:] == rates[2:]  # the step that was stopped is taken again
    assert same(built[0], built[2])


@pytest.mark.parametrize("changes, line", [
    (dict(optimizer=dict(type="SDG", lr=1.0)), "unknown optimizer.type 'SDG': did you mean SGD"),
    (dict(optimizer=dict(type="nowhere:LARS", lr=1.0)), "optimizer 'nowhere:LARS': No module named 'nowhere'"),
    (dict(optimizer=dict(lr=1.0, momentums=0.9)), "optimizer 'SGD': .*unexpected keyword argument 'momentums'"),
    (dict(optimizer=dict(lr=-1.0)), "optimizer 'SGD': Invalid learning rate: -1.0"),
    (dict(schedule=dict(epochs=2, batch=6, policy="cosin")), "unknown schedule.policy 'cosin': did you mean cosine"),
    (dict(schedule=dict(epochs=2, batch=6, policy="cosine", warmup=2)), "a warm-up of 7 steps leaves none of 7")])
def test_an_optimiser_or_schedule_that_is_none_is_one_line(changes, line, pool, tmp_path):
    with pytest.raises(UserError, match=line) as error:
        engine.pretrain(make_config("moco_v2") | changes, pool, tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def photos(tmp_path):
    """A function that makes a folder of JPEGs in two classes, some of them broken."""
    def make(n, broken=()):
        for i in range(n):
            path = tmp_path / "images" / "ab"[i % 2] / f"{i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jpeg(torch.randint(0, 256, (3, 40 + i % 9, 60), dtype=torch.uint8), str(path))
            if i in broken:
                path.write_bytes(path.read_bytes()[:100])
        return FolderPool.load(tmp_path / "images")
    return make


FOLDER = {"schedule.batch": 4, "schedule.epochs": 1, "method.bn_splits": 2}


def test_a_folder_of_images_trains_alike_with_any_number_of_workers(photos, tmp_path):
    pool = photos(8)
    folder = pool.cropped(engine.build(make_config("moco_v2"), 1).view_specs, seed=0)
    first = folder[3, 11]["images"]["global_q"]
    assert torch.equal(first, folder[3, 11]["images"]["global_q"]) and first.shape == (3, 32, 32)
    assert not torch.equal(first, folder[3, 12]["images"]["global_q"])
    settings = [make_config("moco_v2", **FOLDER, workers=workers) for workers in (0, 2)]
    a, b = (checkpoint.load(engine.pretrain(s, pool, tmp_path / str(i))).state for i, s in enumerate(settings))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert len({engine.identity(s, pool.fingerprint, 0) for s in settings}) == 1
    with stopped_in_step(2):
        engine.pretrain(settings[1] | {"workers": 1}, pool, tmp_path / "2")
    c = checkpoint.load(engine.pretrain(settings[1], pool, tmp_path / "2")).state  # with two workers after one
    assert all(torch.equal(a[key], c[key]) for key in a)
    with pytest.raises(PoolError):
        FolderPool.load(tmp_path / "nowhere")


def test_broken_images_are_counted_listed_and_replaced_and_too_many_stop_the_run(photos, tmp_path, capsys):
    pool, lost = photos(40, broken=(4, 38)), ["images/a/004.jpg", "images/a/038.jpg"]
    asked = {name: i for i, name in enumerate(str(Path(path).relative_to(tmp_path)) for path in pool.images)}
    folder = pool.cropped(engine.build(make_config("moco_v2"), 1).view_specs, seed=0)
    numbers = [asked[name] for name in lost]
    assert [folder[i, 0]["broken"] for i in numbers] == numbers and folder[0, 0]["broken"] == -1
    assert folder[numbers[1], 5]["labels"] == 1  # the class of the image after it
    settings = make_config("moco_v2", **FOLDER, workers=2, max_broken=0.05)
    engine.pretrain(settings, pool, tmp_path / "run")
    listed = sorted(tmp_path.joinpath("run/broken_images.txt").read_text().splitlines())
    assert listed == [str(tmp_path / name) for name in lost]
    assert "2 of 40 images could not be decoded" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(PoolError, match=r"2 images cannot be decoded, more than 4% of 40: .*broken_images.txt"):
        engine.pretrain(settings | {"max_broken": 0.04}, pool, tmp_path / "strict")
    assert [path.name for path in states_of(tmp_path / "strict")]  # nothing computed is lost
    with pytest.raises(PoolError, match="2 images cannot be decoded"):
        engine.pretrain(settings | {"max_broken": 0.04}, pool, tmp_path / "strict")
    for name in lost:
        (tmp_path / name).write_bytes((tmp_path / "images/a/000.jpg").read_bytes())  # fetched again
    engine.pretrain(settings | {"max_broken": 0.04}, pool, tmp_path / "strict")
    assert not (tmp_path / "strict/broken_images.txt").read_text()


@pytest.mark.parametrize("mode, suffix", [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("P", "gif"),
                                          ("RGB", "webp")])
def test_images_are_decoded_as_pil_does(mode, suffix, tmp_path):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray((np.arange(60 * 40 * 3) % 251).astype(np.uint8).reshape(40, 60, 3)).convert(mode).save(path)
    with Image.open(path) as image:
        assert torch.equal(decode(str(path)), torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1))


def test_an_image_that_is_not_there_or_is_no_file_is_an_error_of_the_system(tmp_path):
    for path in (tmp_path / "nowhere.jpg", tmp_path):
        with pytest.raises(OSError):
            decode(str(path))


def test_a_png_with_a_wrong_byte_is_an_error_and_not_the_processs_end(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray((np.arange(60 * 40 * 3) % 251).astype(np.uint8).reshape(40, 60, 3)).save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1:])
        with contextlib.suppress(OSError):
            assert decode(str(path)).shape[0] == 3


def test_a_folder_without_one_whole_image_is_refused(photos):
    with pytest.raises(PoolError, match="none of 3 images can be decoded"):
        photos(3, broken=(0, 1, 2)).cropped({}, 0)[1, 0]


def test_truncated_pool_is_refused(tmp_path):
    (tmp_path / "pool.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(PoolError, match="prepare it again"):
        MemoryPool.load(tmp_path / "pool.safetensors")
