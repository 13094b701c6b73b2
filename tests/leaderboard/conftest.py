"""A record as the harness writes it, with what a test wants different, and a board to put it in."""
import copy
import hashlib

import pytest

from leaderboard.record import fingerprint, write, write_protocol

PROTOCOL = {"model": {"backbone": {"depth": 18, "frozen_stages": -1}, "train_cfg": {"rcnn": {"num": 64}}},
            "optimizer": {"lr": 0.02, "steps": [900, 1100]}}
BUDGETS = {"detco": (80_000, 13_900_000_000, 0.052), "moco_v2": (80_000, 8_030_000_000, 0.031),
           "supervised": (80_000, 4_010_000_000, 0.012), "random_init": (0, 0, 0.0)}


def make_recipe(method, **changes):
    """A method's recipe; `changes` are of its method part."""
    config = {"method": {"type": method, "bank_size": 256} | changes, "schedule": {"epochs": 4, "batch": 32}}
    return {"hash": fingerprint(config), "config": config, "pool": "a" * 64}


def make_record(method="detco", seed=0, pretrain_seed=0, **changes):
    """A valid record; `changes` replace whole fields. Scores differ by method and seeds."""
    images, pixels, hours = BUDGETS.get(method, (80_000, 8_000_000_000, 0.03))
    base = {"detco": 24.0, "moco_v2": 23.0, "supervised": 21.5}.get(method, 17.0)
    base += 0.3 * seed + 2 * (pretrain_seed or 0)
    metrics = {"segm_AP75": base - 3, "segm_AP50": base + 14, "segm_AP": base - 2,
               "bbox_AP75": base - 1, "bbox_AP50": base + 16, "bbox_AP": base}
    nothing = {"count": 0, "first": []}
    return {
        "schema": 2, "task": "coco_maskrcnn_c4", "task_version": 1, "main_metric": "bbox_AP", "scale": "mini",
        "schedule": "mini", "arch": "resnet18", "method": method, "seed": seed, "pretrain_seed": pretrain_seed,
        "deterministic": False, "metrics": metrics, "per_class": {"bbox": {"disc": 30.1, "star": None}},
        "load_report": {"loaded": 120, "missing": nothing, "unexpected": nothing, "ignored": nothing,
                        "fresh": {"count": 12, "first": ["rpn_head.rpn_conv"]}},
        "train_losses": {"train/loss": 2.2}, "detections": "e" * 64,
        "protocol_fingerprint": fingerprint(PROTOCOL), "data_fingerprint": "d" * 64,
        "data": {"source": "coco", "images": {"train": 600, "val": 148}}, "changes": {},
        "recipe": make_recipe(method),
        "checkpoint": {"hash": hashlib.sha256(f"{method}{pretrain_seed}".encode()).hexdigest(),
                       "metadata": {"arch": "resnet18", "method": method,
                                    "budget": {"images": images, "encoder_pixels": pixels, "device_hours": hours}}},
        "cost": {"wall_seconds": 84.0 + seed, "train_seconds": 70.0, "peak_memory_bytes": 1_500_000_000,
                 "device": "cpu", "device_count": 1, "world_size": 1, "workers": 0, "threads": 2, "accumulation": 1,
                 "precision": "float32", "resumed": False},
        "environment": {"versions": {"python": "3.11.9", "torch": "2.15.0", "mmdet": "3.3.0"}, "platform": "Linux",
                        "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "limit": None, "unreliable": None,
    } | changes


@pytest.fixture(autouse=True)
def no_recipes_of_today(monkeypatch, tmp_path):
    """The factory's recipes are nobody's: the package's file knows others under the same names."""
    monkeypatch.setattr("leaderboard.record.RECIPES", tmp_path / "no recipes")


@pytest.fixture
def make():
    """The record factory."""
    return make_record


@pytest.fixture
def recipe():
    """The recipe factory."""
    return make_recipe


@pytest.fixture
def protocol():
    """The resolved protocol of the factory's records."""
    return copy.deepcopy(PROTOCOL)


@pytest.fixture
def root(tmp_path):
    """The results folder of a board that knows the factory's protocol."""
    folder = tmp_path / "results"
    folder.mkdir()
    write_protocol(folder, PROTOCOL)
    return folder


@pytest.fixture
def results(root):
    """The same with four methods and three transfer seeds at the mini scale."""
    for method in ("random_init", "supervised", "moco_v2", "detco"):
        for seed in range(3):
            write(root, make_record(method, seed))
    return root
