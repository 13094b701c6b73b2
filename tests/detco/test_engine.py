"""The engine: exact resume, the stream of images, non-finite losses, the cache."""
import contextlib
import json
import multiprocessing
import time

import pytest
import torch

from detco import checkpoint, config, engine
from detco.console import STOP, stop
from detco.pool import FolderPool, MemoryPool, PoolError
from detco.runner import DivergedError, state_of

SMALL = {"method.arch": "resnet18", "schedule.epochs": 2, "schedule.batch": 6}
VIEW = dict(size=32, area=(0.2, 1.0), blur_sigma=(0.1, 0.5))
CHANGES = {
    "detco": SMALL | {"method.global_view": VIEW, "method.bank_size": 25, "method.dim": 8, "method.local_view":
                      dict(size=36, area=(0.6, 1.0), grid=3, patch=10, blur_sigma=(0.1, 0.5))},
    "moco_v2": SMALL | {"method.global_view": VIEW, "method.bank_size": 25},
    "supervised": SMALL | {"method.global_view": VIEW},
    "random_init": {"method.arch": "resnet18"},
}


def make_config(name, **changes):
    return config.override(config.load(config.CONFIGS / "pretrain" / f"{name}.py"), CHANGES[name] | changes)


@pytest.fixture
def pool():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 40, 40), dtype=torch.uint8, generator=generator)
    return MemoryPool(images, torch.arange(20) % 3, ["a", "b", "c"], "f" * 64)


@pytest.fixture
def built(monkeypatch):
    """The methods the engine builds, so that a test sees banks and twins too."""
    methods, build = [], engine.build
    monkeypatch.setattr(engine, "build", lambda *args: methods.append(build(*args)) or methods[-1])
    return methods


@pytest.mark.parametrize("name", ["detco", "moco_v2", "supervised"])
def test_stop_and_resume_is_bit_identical(name, pool, built, tmp_path, monkeypatch):
    engine.pretrain(make_config(name), pool, tmp_path / "whole", seed=1)
    after = engine.MethodHook.after_train_iter

    def stop(self, runner, *args, **kwargs):
        if runner.iter == 4:
            raise KeyboardInterrupt
        after(self, runner, *args, **kwargs)

    with monkeypatch.context() as context:
        context.setattr(engine.MethodHook, "after_train_iter", stop)
        with pytest.raises(KeyboardInterrupt):
            engine.pretrain(make_config(name), pool, tmp_path / "parts", seed=1)
    assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()
    steps = []
    monkeypatch.setattr(engine.MethodHook, "after_train_iter",
                        lambda self, runner, *a, **k: steps.append(runner.iter) or after(self, runner, *a, **k))
    engine.pretrain(make_config(name), pool, tmp_path / "parts", seed=1)
    assert steps == [4, 5, 6]  # 7 steps of 6 images: two epochs of 20, the last batch whole
    whole, _, resumed = (method.state_dict() for method in built)
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


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
    assert state_of(tmp_path).endswith("iter_1.pth")


def _run(work_dir):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 40, 40), dtype=torch.uint8, generator=generator)
    pool = MemoryPool(images, torch.arange(20) % 3, ["a", "b", "c"], "f" * 64)
    torch.set_num_threads(1)
    engine.pretrain(make_config("moco_v2", **{"schedule.epochs": 6}), pool, work_dir)


def test_killed_at_any_moment_resumes_bit_identically(tmp_path):
    context = multiprocessing.get_context("spawn")
    whole = context.Process(target=_run, args=(tmp_path / "whole",))
    whole.start()
    whole.join()
    for steps in (4, 10):
        victim = context.Process(target=_run, args=(tmp_path / "parts",))
        victim.start()
        while victim.is_alive() and not (tmp_path / "parts" / f"iter_{steps}.pth").exists():
            time.sleep(0.002)
        victim.kill()
        victim.join()
        assert not (tmp_path / "parts" / "checkpoint.safetensors").exists()
    last = context.Process(target=_run, args=(tmp_path / "parts",))
    last.start()
    last.join()
    a, b = (checkpoint.load(tmp_path / part / "checkpoint.safetensors").state for part in ("whole", "parts"))
    assert all(torch.equal(a[key], b[key]) for key in a)


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
    assert [sum((parts[r][i] for r in range(3)), []) for i in range(5)] == whole
    with pytest.raises(ValueError, match="batch of 7"):
        engine.Stream(10, 7, 0)


def test_a_loss_that_is_not_finite_stops_with_step_and_last_state(pool, tmp_path):
    with pytest.raises(DivergedError, match=r"loss is not finite at step \d+.*iter_\d+\.pth"):
        engine.pretrain(make_config("supervised", **{"optimizer.lr": 1e30, "schedule.epochs": 5}), pool, tmp_path)


def test_finished_run_is_reused_and_its_metadata_tells_the_budget(pool, tmp_path, monkeypatch):
    path = engine.pretrain(make_config("detco"), pool, tmp_path, seed=2)
    monkeypatch.setattr(engine, "_train", lambda *args: pytest.fail("trained again"))
    assert engine.pretrain(make_config("detco"), pool, tmp_path, seed=2) == path
    meta = checkpoint.load(path).metadata
    assert meta["budget"]["images"] == 42
    assert meta["budget"]["encoder_pixels"] == 42 * (2 * 32**2 + 18 * 10**2)
    assert meta["budget"]["device_hours"] > 0
    assert (meta["method"], meta["seed"], meta["arch"]) == ("detco", 2, "resnet18")
    assert json.loads((tmp_path / "config.json").read_text())["method"]["bank_size"] == 25


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


def test_folder_of_images_trains_with_workers_and_names_a_broken_one(tmp_path):
    from torchvision.io import write_jpeg

    for i in range(8):
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        image = torch.randint(0, 256, (3, 40 + i, 60), dtype=torch.uint8)
        write_jpeg(image, str(tmp_path / "images" / "ab"[i % 2] / f"{i}.jpg"))
    settings = make_config("moco_v2", **{"workers": 2, "schedule.batch": 4, "schedule.epochs": 1})
    views = engine.build(settings, 1).view_specs
    folder = FolderPool.load(tmp_path / "images").cropped(views, seed=0)
    first = folder[3, 11]["images"]["global_q"]
    assert torch.equal(first, folder[3, 11]["images"]["global_q"]) and first.shape == (3, 32, 32)
    assert not torch.equal(first, folder[3, 12]["images"]["global_q"])
    assert engine.pretrain(settings, folder, tmp_path / "run").is_file()
    (tmp_path / "images" / "a" / "0.jpg").write_bytes(b"broken")
    with pytest.raises(PoolError, match="a/0.jpg"):
        folder[0, 0]
    with pytest.raises(PoolError):
        FolderPool.load(tmp_path / "nowhere")


def test_truncated_pool_is_refused(tmp_path):
    (tmp_path / "pool.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(PoolError, match="prepare it again"):
        MemoryPool.load(tmp_path / "pool.safetensors")
