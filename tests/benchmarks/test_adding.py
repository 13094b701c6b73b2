"""Adding to the suite, as CONTRIBUTING says: each kind by the files it names, in a copy of the configs, then run."""
import json
import shutil
import sys

import pytest

from benchmarks import plan as plans
from benchmarks import run
from benchmarks.cli import request_of
from benchmarks.data import synthetic
from detco import config

METHOD = '''
from torch import nn
from detco.backbone import ResNetLevels, pooled
from detco.method import Method
from detco.views import View


class Brightness(Method):
    """Predicts how bright a view is."""

    def __init__(self, arch, global_view):
        super().__init__()
        self.view_specs = {"image": View(**global_view)}
        self.encoder = ResNetLevels(arch)
        self.head = nn.Linear(self.encoder.channels["c5"], 1)

    def loss(self, views):
        guess = self.head(pooled(self.encoder(views["image"])["c5"]))[:, 0]
        return {"loss": (guess - views["image"].mean((1, 2, 3))).square().mean()}

    def backbone(self):
        return self.encoder
'''
METHOD_CONFIG = '''"""How bright is it?"""
method = dict(type="brightness_method:Brightness", arch="resnet50", global_view=dict(size=224))
optimizer = dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4)
schedule = dict(epochs=10, batch=256, policy="cosine")
amp = True
workers = 12
max_broken = 0.02
'''
MEASURE = '''
from benchmarks.image_level.features import extract, frozen


def images(job):
    """How many images have features, of all."""
    encoder, report = frozen(job)
    extract(job, encoder, job.data.val.images, "val")
    return dict(metrics=dict(top1=100.0), per_class={}, load_report=report, train_losses={}, detections=None,
                cost=dict(train_seconds=0.0, accumulation=1))
'''
IMAGE_TASK = '''"""Counts images."""
task = dict(name="counting", version=1, kind="counting_task:images", main_metric="top1", metrics=["top1"], source="")
data = dict(source="imagenet", resize=256, crop=224)
'''
DETECTION_TASK = '''# RetinaNet that trusts fewer anchors.
_base_ = ["./coco_retinanet_fpn.py"]
task = dict(name="coco_retinanet_strict", version=1)
model = dict(train_cfg=dict(assigner=dict(pos_iou_thr=0.6)))
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the configs in the place of the suite's, a folder to import from, and few synthetic images."""
    shutil.copytree(config.CONFIGS, tmp_path / "configs")
    monkeypatch.setattr(config, "CONFIGS", tmp_path / "configs")
    monkeypatch.syspath_prepend(tmp_path)
    synthetic.write_pool(tmp_path / "data" / "mini", 40)
    synthetic.write_pool(tmp_path / "data" / "mini", 20, "val")
    synthetic.write_scenes(tmp_path / "data" / "mini" / "scenes", train=8, val=4)
    yield tmp_path
    for name in ("brightness_method", "counting_task"):
        sys.modules.pop(name, None)


def words(folder, *more):
    return ["--data-root", str(folder / "data"), "--work-dir", str(folder / "work"), "--results",
            str(folder / "board" / "results"), *more]


def row(folder, capsys, *more):
    """The record of the one row that a command makes."""
    assert run.main(words(folder, *more)) == 0, capsys.readouterr().err
    [path] = folder.glob("work/transfer/**/result.json")
    return json.loads(path.read_text())


def test_a_method_is_a_class_and_a_config(folder, capsys):
    (folder / "brightness_method.py").write_text(METHOD)
    (folder / "configs" / "pretrain" / "brightness.py").write_text(METHOD_CONFIG)
    for scale, size, arch in (("mini", 48, "resnet18"), ("small", None, "resnet18"), ("paper", 224, "resnet50")):
        [pretraining] = plans.make(request_of(words(folder, "--method", "brightness", "--scale", scale))).pretrainings
        method = pretraining.recipe["method"]
        assert method["arch"] == arch and (size is None or method["global_view"]["size"] == size)
    record = row(folder, capsys, "--method", "brightness", "--scale", "mini", "--task", "knn", "--limit", "2")
    assert record["method"] == "brightness" and record["metrics"]["top1"] is not None


def test_an_image_level_task_is_a_function_and_a_config(folder, capsys):
    (folder / "counting_task.py").write_text(MEASURE)
    (folder / "configs" / "tasks" / "counting.py").write_text(IMAGE_TASK)
    record = row(folder, capsys, "--method", "random_init", "--scale", "mini", "--task", "counting", "--limit", "2")
    assert record["task"] == "counting" and record["metrics"] == {"top1": 100.0}


def test_a_detection_task_is_a_config(folder, capsys):
    (folder / "configs" / "tasks" / "coco_retinanet_strict.py").write_text(DETECTION_TASK)
    for scale in ("mini", "small", "paper"):
        [transfer] = plans.make(request_of(words(folder, "--method", "detco", "--scale", scale, "--task",
                                                 "coco_retinanet_strict"))).transfers
        assert transfer.protocol.config["model"]["train_cfg"]["assigner"]["pos_iou_thr"] == 0.6
    record = row(folder, capsys, "--method", "random_init", "--scale", "mini", "--task", "coco_retinanet_strict",
                 "--limit", "1")
    assert record["task"] == "coco_retinanet_strict" and "bbox_AP" in record["metrics"]


def test_a_scale_is_a_file(folder, capsys):
    scales = folder / "configs" / "scales"
    (scales / "half.py").write_text((scales / "mini.py").read_text().replace("epochs=4", "epochs=2"))
    [pretraining] = plans.make(request_of(words(folder, "--method", "detco", "--scale", "half"))).pretrainings
    assert pretraining.recipe["schedule"]["epochs"] == 2 and pretraining.recipe["method"]["global_view"]["size"] == 48
    record = row(folder, capsys, "--method", "moco_v2", "--scale", "half", "--task", "knn")
    assert record["scale"] == "half"
    [filed] = folder.glob("board/results/half/knn/**/*.json")
    assert "half" in (folder / "board" / "LEADERBOARD.md").read_text() and json.loads(filed.read_text()) == record
