"""A record as the harness writes it, with what a test wants different."""
import copy
import hashlib
import json

import pytest

PROTOCOL = {"model": {"backbone": {"depth": 18, "frozen_stages": -1}, "train_cfg": {"rcnn": {"num": 64}}},
            "optimizer": {"lr": 0.02, "steps": [900, 1100]}}
BUDGETS = {"detco": (80_000, 13_900_000_000, 0.052), "moco_v2": (80_000, 8_030_000_000, 0.031),
           "supervised": (80_000, 4_010_000_000, 0.012), "random_init": (0, 0, 0.0)}


def make_record(method="detco", seed=0, **changes):
    """A valid record; `changes` replace whole fields. Scores differ by method and seed."""
    images, pixels, hours = BUDGETS.get(method, (80_000, 8_000_000_000, 0.03))
    base = {"detco": 24.0, "moco_v2": 23.0, "supervised": 21.5}.get(method, 17.0) + 0.3 * seed
    metrics = {"segm_AP75": base - 3, "segm_AP50": base + 14, "segm_AP": base - 2,
               "bbox_AP75": base - 1, "bbox_AP50": base + 16, "bbox_AP": base}
    record = {
        "schema": 1, "task": "coco_maskrcnn_c4", "task_version": 1, "scale": "mini", "schedule": "mini",
        "method": method, "seed": seed, "metrics": metrics,
        "per_class": {"bbox_AP": {"disc": 30.1, "star": None}},
        "load_report": {"loaded": 120, "missing": ["fc.weight"], "unexpected": []},
        "data_fingerprint": "d" * 64,
        "checkpoint": {"hash": hashlib.sha256(f"{method}{seed}".encode()).hexdigest(),
                       "metadata": {"arch": "resnet18", "method": method, "pool": "drawn", "seed": seed,
                                    "budget": {"images": images, "encoder_pixels": pixels,
                                               "device_hours": hours}}},
        "detections": "e" * 64,
        "cost": {"wall_seconds": 84.0 + seed, "peak_memory_bytes": 1_500_000_000, "device": "cpu"},
        "environment": {"versions": {"python": "3.11.9", "torch": "2.15.0", "mmdet": "3.3.0"},
                        "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "config": {"protocol": copy.deepcopy(PROTOCOL), "data": {"images": 600, "seed": 0}},
    }
    record.update(changes)
    protocol = json.dumps(record["config"].get("protocol"), sort_keys=True).encode()
    record.setdefault("protocol_fingerprint", hashlib.sha256(protocol).hexdigest())
    return record


@pytest.fixture
def make():
    """The record factory."""
    return make_record
