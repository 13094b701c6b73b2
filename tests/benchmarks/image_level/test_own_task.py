"""An image-level task is one function and one config: a nearest-class-mean classifier, written here and run."""
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from sklearn.neighbors import NearestCentroid

from benchmarks.image_level.features import extract, frozen
from benchmarks.image_level.probes import _features
from benchmarks.job import Job
from benchmarks.protocol import protocol_of
from benchmarks.recipe import load_scale
from benchmarks.task import overrides_at
from benchmarks.transfer import transfer
from detco import checkpoint as checkpoints
from detco import config
from detco.backbone import ResNetLevels
from detco.pool import MemoryPool

FUNCTION = """
import numpy as np
import torch

from benchmarks.image_level.features import extract, frozen


def measure(job):
    encoder, report = frozen(job)
    train, val = (torch.from_numpy(np.concatenate([np.load(path) for path in extract(job, encoder, part.images, name)]))
                  .float() for name, part in (("train", job.data.train), ("val", job.data.val)))
    labels = job.data.train.labels
    means = torch.stack([train[labels == i].mean(0) for i in range(len(job.data.classes))])
    hit = torch.cdist(val, means).argmin(1) == job.data.val.labels
    return dict(metrics=dict(top1=100 * hit.float().mean().item()), per_class={}, load_report=report, train_losses={},
                detections=None, deterministic=True, cost=dict(train_seconds=0.0, accumulation=1))
"""
CONFIG = """# The class whose mean is nearest.
task = dict(name="nearest_mean", version=1, kind="own_nearest_mean:measure", main_metric="top1", metrics=["top1"],
            source="Mensink et al., 2013")
data = dict(source="imagenet", resize=256, crop=224)
"""


def pool(seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(60) % 3
    images = torch.randint(0, 200, (60, 3, 60, 60), dtype=torch.uint8, generator=generator)
    images[torch.arange(60), labels] += torch.randint(0, 6, (60, 1, 1), dtype=torch.uint8, generator=generator)
    return MemoryPool(images, labels, ["a", "b", "c"], f"{seed}" * 64)


def test_a_task_is_a_function_and_a_config(tmp_path, monkeypatch):
    shutil.copytree(config.CONFIGS, tmp_path / "configs", ignore=shutil.ignore_patterns("*.txt", "__pycache__"))
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_nearest_mean.py").write_text(FUNCTION)
    (tmp_path / "configs" / "tasks" / "nearest_mean.py").write_text(CONFIG)
    overrides = overrides_at("nearest_mean", load_scale("mini"))
    protocol = protocol_of("nearest_mean", "mini", "resnet18", ("a", "b", "c"), overrides)
    assert protocol.config["data"] == dict(source="imagenet", resize=54, crop=48)  # the scale's, unasked
    torch.manual_seed(0)
    path = checkpoints.save(tmp_path / "a.safetensors", ResNetLevels("resnet18").state_dict(), {"arch": "resnet18"})
    data = SimpleNamespace(train=pool(1), val=pool(2), classes=("a", "b", "c"), fingerprint="d" * 64)
    job = Job(protocol, data, "imagenet", {}, "row", 0, None, path, checkpoints.load(path), "1" * 64,
              tmp_path / "work" / "row")
    record = transfer(job)
    sys.modules.pop("own_nearest_mean")
    encoder, _ = frozen(job)
    x, y = (_features(extract(job, encoder, part.images, name)).numpy()
            for name, part in (("train", job.data.train), ("val", job.data.val)))
    theirs = 100 * NearestCentroid().fit(x, job.data.train.labels).score(y, job.data.val.labels)
    assert record["metrics"]["top1"] == pytest.approx(theirs) and 40 < theirs < 100
    assert record["task"] == "nearest_mean" and record["deterministic"] and record["load_report"]["loaded"] == 120
    assert json.loads((tmp_path / "work" / "row" / "result.json").read_text()) == json.loads(json.dumps(record))
