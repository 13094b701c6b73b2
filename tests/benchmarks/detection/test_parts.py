"""--max-per-process: parts of equal size give what ranks give, but for what runner_config names."""
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, PARAM_SCHEDULERS, init_default_scope
from mmengine.structures import InstanceData
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.data.coco import CocoData
from benchmarks.detection import anchors, modules, runner  # noqa: F401 - register themselves
from benchmarks.detection.precise_bn import update_bn_stats
from benchmarks.protocol import protocol_of
from benchmarks.recipe import load_scale
from benchmarks.task import overrides_at
from tests.detco.test_distributed import run_ranks

CLASSES = ("a", "b", "c")
IMAGES = 2


def config_of(task, tmp_path, ranks=1, most=None):
    protocol = protocol_of(task, "mini", "resnet18", CLASSES, overrides_at(task, load_scale("mini"), {
        "data.total_batch": IMAGES, "optimizer.optimizer.lr": 0.01, "schedules.mini.iterations": 8,
        "schedules.mini.milestones": [6], "warmup.iterations": 3}))
    data = CocoData(tmp_path, tmp_path / "t.json", tmp_path, tmp_path / "v.json", CLASSES, "0" * 64)
    return runner.runner_config(protocol, data, 0, 0, ranks, max_per_process=most)


def batch_of(image):
    """An image of noise with objects, as the loader gives it."""
    draw = np.random.default_rng(image)
    corner = draw.uniform(0, 60, (2 + image, 2))
    boxes = np.concatenate([corner, corner + draw.uniform(10, 36, (2 + image, 2))], 1)
    sample = DetDataSample(metainfo=dict(img_shape=(96, 96), ori_shape=(96, 96), pad_shape=(96, 96),
                                         batch_input_shape=(96, 96), img_id=image))
    sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32),
                                       labels=torch.tensor(draw.integers(0, 3, 2 + image)))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return dict(inputs=[torch.tensor(draw.integers(0, 256, (3, 96, 96)), dtype=torch.uint8)], data_samples=[sample])


def trained(rank, ranks, config):
    """RetinaNet's state after three iterations, of whose images a rank takes its share one by one; lastly its start."""
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(config["model"])).train()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # ranks synchronise it, parts cannot
    wrapped = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True) if ranks > 1 else model
    optimizer = build_optim_wrapper(model, ConfigDict(config["optim_wrapper"]))
    for _ in range(3):
        for image in range(rank, IMAGES, ranks):
            batch = model.data_preprocessor(batch_of(image), training=True)
            optimizer.update_params(model.parse_losses(wrapped(**batch, mode="loss"))[0])
    return model.state_dict(), start


@pytest.mark.filterwarnings("ignore:torch.meshgrid")
def test_retinanets_weights_and_normalisers_are_those_of_ranks(tmp_path):
    parts, ranks = (config_of("coco_retinanet_fpn", tmp_path, n, most=1) for n in (1, IMAGES))
    assert parts["optim_wrapper"]["accumulative_counts"] == parts["model"]["bbox_head"]["parts"] == IMAGES
    assert ranks["optim_wrapper"]["accumulative_counts"] == ranks["model"]["bbox_head"]["parts"] == 1
    torch.set_num_threads(1)
    one, start = trained(0, 1, parts)
    [(several, _), *_] = run_ranks(partial(trained, config=ranks), IMAGES, tmp_path)
    torch.testing.assert_close(one["bbox_head.positives"].T, several["bbox_head.positives"])
    learnt = [name for name in one if name != "bbox_head.positives" and not torch.equal(one[name], start[name])]
    assert len(learnt) > 60
    for name in learnt:
        torch.testing.assert_close(one[name], several[name], atol=1e-6, rtol=1e-5)


def moments(rank, ranks):
    """A normalisation layer's precise statistics over three iterations of two images, of which a rank takes its share
    one by one."""
    norm = nn.BatchNorm2d(2).train()
    images = torch.arange(6 * 2 * 9, dtype=torch.float32).view(6, 2, 3, 3).cos() * torch.arange(1, 7).view(-1, 1, 1, 1)
    update_bn_stats(norm, images[rank::ranks].split(1), norm, iterations=3, parts=2 // ranks)
    return norm.running_mean, norm.running_var


def test_precise_bn_over_parts_is_that_over_ranks(tmp_path):
    alone = moments(0, 1)
    for own in run_ranks(moments, 2, tmp_path):
        for a, b in zip(alone, own):
            torch.testing.assert_close(a, b)


def test_rates_change_with_iterations_not_with_parts(tmp_path):
    """The rate of each optimiser step, in two parts and in one."""
    rates = {}
    for most, parts in ((None, 1), (1, 2)):
        config = config_of("coco_retinanet_fpn", tmp_path, 1, most)
        settings = config["default_hooks"]
        hook = HOOKS.build(settings["param_scheduler"])
        optimizer = build_optim_wrapper(nn.Linear(1, 1), ConfigDict(
            type="OptimWrapper", optimizer=dict(type="SGD", lr=0.5)))
        schedulers = [PARAM_SCHEDULERS.build(entry | dict(optimizer=optimizer)) for entry in config["param_scheduler"]]
        assert config["train_cfg"]["max_iters"] == 8 * parts and settings["checkpoint"]["interval"] % parts == 0
        rates[parts] = []
        for i in range(8 * parts):
            if (i + 1) % parts == 0:
                rates[parts].append(optimizer.get_lr()["lr"][0])
            hook.after_train_iter(SimpleNamespace(iter=i, param_schedulers=schedulers), i)
    assert rates[2] == rates[1] == pytest.approx([0.0005, 0.25025, 0.5, 0.5, 0.5, 0.5, 0.05, 0.05])
