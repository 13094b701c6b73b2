"""The harness: strict loading, one fingerprint a protocol, accumulation, and pycocotools' own figures."""
import json

import pytest
import torch

from benchmarks.cli import request_of
from benchmarks.data.coco import CocoData
from benchmarks.data.synthetic import SCENE_CLASSES
from benchmarks.detection import anchors, modules  # noqa: F401 - register themselves
from benchmarks.detection import runner as harness
from benchmarks.detection.evaluate import coco_metrics
from benchmarks.plan import make
from benchmarks.protocol import protocol_of
from benchmarks.recipe import load_scale
from benchmarks.task import overrides_at
from detco import checkpoint as checkpoints
from detco.backbone import ResNetLevels

CLASSES = ("person", "star")
OVERRIDES = overrides_at("coco_maskrcnn_c4", load_scale("mini"))


@pytest.fixture(scope="module")
def protocol():
    return protocol_of("coco_maskrcnn_c4", "mini", "resnet18", CLASSES, OVERRIDES)


@pytest.fixture(scope="module")
def detector(protocol):
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    return MODELS.build(ConfigDict(protocol.config["model"]))


def checkpoint(arch="resnet18"):
    torch.manual_seed(7)
    return checkpoints.Checkpoint(ResNetLevels(arch).state_dict(), checkpoints.FOREIGN | {"arch": arch})


def test_every_tensor_of_the_backbone_arrives_where_it_belongs(detector, protocol, tmp_path):
    source = checkpoint()
    report = checkpoints.load_into(detector, source, protocol.config["load"], tmp_path / "a")
    assert report["loaded"] == len(source.state) and not report["missing"] and not report["unexpected"]
    for key, value in source.state.items():
        part = detector.roi_head.shared_head if key.startswith("layer4.") else detector.backbone
        assert torch.equal(part.state_dict()[key], value)
    assert all(name.split(".")[0] in ("rpn_head", "roi_head") for name in report["fresh"])
    assert "roi_head.shared_head.norm" in report["fresh"]


@pytest.mark.parametrize("harm", [lambda s: s.pop("layer4.0.conv1.weight"),
                                  lambda s: s.update({"layer4.7.conv1.weight": torch.zeros(1)}),
                                  lambda s: s.update({"bn1.weight": torch.zeros(3)})])
def test_a_tensor_that_finds_no_place_or_leaves_one_empty_is_an_error(harm, detector, protocol, tmp_path):
    source = checkpoint()
    harm(source.state)
    with pytest.raises(checkpoints.CheckpointError, match="does not fit the model"):
        checkpoints.load_into(detector, source, protocol.config["load"], tmp_path / "a")


def test_fingerprint_holds_the_protocol_and_nothing_of_the_run(protocol, tmp_path):
    same, other = (make(request_of(["--method", "moco_v2", "--scale", "mini", "--seed", "5", "--workers", "2", *more,
                                    "--work-dir", str(tmp_path / "elsewhere")])).transfers[0].protocol
                   for more in ((), ("--set", "task.train_cfg.rcnn.sampler.num=8")))
    classes = SCENE_CLASSES
    assert same.fingerprint == protocol_of("coco_maskrcnn_c4", "mini", "resnet18", classes, OVERRIDES).fingerprint
    assert other.fingerprint != same.fingerprint != protocol.fingerprint  # of other categories
    assert other.schedule.startswith("mini+") and other.config["model"]["train_cfg"]["rcnn"]["sampler"]["num"] == 8
    assert json.loads(json.dumps(same.config))  # it can be filed


def test_total_batch_is_kept_on_any_number_of_processes(protocol, tmp_path):
    data = CocoData(tmp_path, tmp_path / "t.json", tmp_path, tmp_path / "v.json", CLASSES, "0" * 64)
    protocol.config["data"]["total_batch"] = 16
    schedule = protocol.config["schedule"]
    try:
        for processes, batch, accumulation in ((1, 4, 4), (2, 4, 2), (8, 2, 1)):
            config = harness.runner_config(protocol, data, 0, 0, processes, max_per_process=4)
            assert config["train_dataloader"]["batch_size"] == batch
            assert config["optim_wrapper"]["accumulative_counts"] == accumulation
            assert batch * accumulation * processes == 16
            assert config["train_cfg"]["max_iters"] == schedule["iterations"] * accumulation
            assert config["param_scheduler"][1]["milestones"] == schedule["milestones"]
            assert config["default_hooks"]["param_scheduler"]["parts"] == accumulation
            kinds = "SyncBN" in json.dumps(config["model"])
            assert kinds == (processes > 1)
        with pytest.raises(ValueError, match="does not divide"):
            harness.runner_config(protocol, data, 0, 0, 3)
        config = harness.runner_config(protocol, data, 0, 0, 1, max_per_process=3)  # parts are equal
        assert config["train_dataloader"]["batch_size"] == 2
    finally:
        protocol.config["data"]["total_batch"] = 2


def _truth(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in (1, 2)]
    boxes = [(1, 1, [10, 10, 40, 40]), (1, 2, [60, 60, 30, 30]), (2, 1, [20, 20, 50, 50])]
    annotations = [dict(id=i + 1, image_id=image, category_id=c, bbox=b, area=b[2] * b[3], iscrowd=0, segmentation=[
        [b[0], b[1], b[0] + b[2], b[1], b[0] + b[2], b[1] + b[3], b[0], b[1] + b[3]]])
        for i, (image, c, b) in enumerate(boxes)]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "star"}, {"id": 3, "name": "absent"}]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path, annotations


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_truth_as_detections_scores_100_and_a_miss_what_cocoeval_says(kind, tmp_path):
    from pycocotools import mask

    path, annotations = _truth(tmp_path)
    found = []
    for a in annotations:
        [rle] = mask.frPyObjects(a["segmentation"], 100, 100)
        found.append(dict(image_id=a["image_id"], category_id=a["category_id"], bbox=a["bbox"], score=0.9,
                          segmentation=rle | {"counts": rle["counts"].decode()}))
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found))
    metrics, per_class = coco_metrics(path, file, kind)
    assert [metrics[f"{kind}_{m}"] for m in ("AP", "AP50", "AP75", "AR100")] == pytest.approx([100] * 4)
    assert per_class == {"person": pytest.approx(100), "star": pytest.approx(100), "absent": None}
    file.write_text(json.dumps([f for f in found if f["image_id"] == 1]))
    metrics, per_class = coco_metrics(path, file, kind)
    half = 100 * 51 / 101  # one of two persons: precision 1 up to recall 0.5, on COCO's 101 recall points
    assert per_class["person"] == pytest.approx(half) and metrics[f"{kind}_AP"] == pytest.approx((half + 100) / 2)
    metrics, _ = coco_metrics(path, file, kind, images=1)
    assert metrics[f"{kind}_AP"] == pytest.approx(100)
    file.write_text("[]")
    assert coco_metrics(path, file, kind)[0][f"{kind}_AP"] == 0
