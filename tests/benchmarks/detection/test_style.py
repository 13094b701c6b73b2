"""Detectors take a checkpoint's style: pixels and strides, and the protocols' own without a change."""
import pytest
import torch
from torch import nn

from baselines import supervised_msra
from benchmarks.detection import runner
from benchmarks.protocol import protocol_of
from benchmarks.recipe import load_scale
from benchmarks.task import overrides_at, task_names
from detco import checkpoint as checkpoints
from detco.backbone import ResNetLevels

CAFFE = checkpoints.FOREIGN | supervised_msra.STYLE


def model_of(task, arch):
    return protocol_of(task, "mini", arch, ("a", "b"), overrides_at(task, load_scale("mini"))).config.get("model")


@pytest.mark.parametrize("task", task_names())
def test_the_usual_style_changes_nothing_and_another_every_stage(task):
    model = model_of(task, "resnet50")
    if model is None:
        pytest.skip("no detector")
    assert runner._styled(model, checkpoints.FOREIGN) is model
    styled = runner._styled(model, CAFFE)
    pixels = styled["data_preprocessor"]
    assert pixels["mean"] == pytest.approx([103.53, 116.28, 123.675]) and pixels["std"] == [1.0, 1.0, 1.0]
    assert pixels["bgr_to_rgb"] is False and pixels["type"] == model["data_preprocessor"]["type"]
    assert str(styled).count("'style': 'caffe'") == str(model).count("'style': 'pytorch'") > 0
    assert "'style': 'pytorch'" not in str(styled)


def test_a_detectors_features_are_the_checkpoints(tmp_path):
    """C4 and, of RoIs, C5: the strides of mmdetection's stages, on the pixels that its preprocessor makes."""
    from benchmarks.detection import anchors, modules  # noqa: F401, I001 - before mmdet, and register themselves

    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    init_default_scope("mmdet")
    task = "coco_maskrcnn_c4"
    protocol = protocol_of(task, "mini", "resnet50", ("a", "b"), overrides_at(task, load_scale("mini")))
    detector = MODELS.build(ConfigDict(runner._styled(protocol.config["model"], CAFFE))).eval()
    torch.manual_seed(0)
    backbone = ResNetLevels("resnet50", "caffe").eval()
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.8, 1.5)
    checkpoint = checkpoints.Checkpoint(backbone.state_dict(), CAFFE | {"arch": "resnet50"})
    checkpoints.load_into(detector, checkpoint, protocol.config["load"], tmp_path)
    read = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)  # BGR, as mmdetection reads images
    inputs = detector.data_preprocessor(dict(inputs=[read]), training=False)["inputs"]
    with torch.no_grad():
        theirs = backbone(read[None].float() - torch.tensor([103.53, 116.28, 123.675])[:, None, None])
        [c4] = detector.backbone(inputs)
        c5 = nn.Sequential(*detector.roi_head.shared_head.layer4)(c4)
    torch.testing.assert_close(c4, theirs["c4"], rtol=1e-4, atol=2e-3)
    torch.testing.assert_close(c5, theirs["c5"], rtol=1e-4, atol=2e-3)
