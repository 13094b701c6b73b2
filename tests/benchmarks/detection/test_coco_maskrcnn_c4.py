"""coco_maskrcnn_c4: each fact of the protocol, checked on the resolved config and on the built detector."""
import copy
import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.detection import instances, modules  # noqa: F401  (before mmdet)
from benchmarks.detection.precise_bn import update_bn_stats
from benchmarks.task import load_task, resolve

register_all_modules(init_default_scope=True)
# pytest resets the filters that mmcv_ops.install() sets: mmdet picks positives by a byte mask
pytestmark = pytest.mark.filterwarnings("ignore:indexing with dtype torch.uint8")

TINY = {"data.short_sides": [128], "data.max_side": 128, "data.test_short_side": 128, "data.test_max_side": 128,
        "model.train_cfg.rpn_proposal.max_per_img": 100, "model.train_cfg.rcnn.sampler.num": 8,
        "model.test_cfg.rpn.max_per_img": 20, "model.test_cfg.rcnn.max_per_img": 10}


@pytest.fixture(scope="module")
def cfg():
    return resolve(load_task("coco_maskrcnn_c4"), "resnet50", 80)


@pytest.fixture(scope="module")
def model(cfg):
    init_default_scope("mmdet")
    return MODELS.build(cfg.model)


COMMON = "docs/protocols.md, common to all detectors: "
TABLE = "docs/protocols.md, tasks, coco_maskrcnn_c4: "
D2 = "detectron2 defaults, C4: "
ROI, RPN = "model.roi_head.", "model.rpn_head."
FACTS = [  # (source, key of the resolved config, value)
    (COMMON + "total batch 16", "data.total_batch", 16),
    (COMMON + "SGD", "optimizer.optimizer.type", "SGD"),
    (COMMON + "momentum 0.9", "optimizer.optimizer.momentum", 0.9),
    (COMMON + "weight decay 1e-4", "optimizer.optimizer.weight_decay", 1e-4),
    (TABLE + "base lr 0.02", "optimizer.optimizer.lr", 0.02),
    (COMMON + "linear warm-up, 1000 iterations from 0.001", "warmup", dict(iterations=1000, start_factor=0.001)),
    (COMMON + "step decay by 0.1", "lr_decay", 0.1),
    (TABLE + "12k: 9k, 11k", "schedules.12k", dict(iterations=12_000, milestones=[9_000, 11_000])),
    (TABLE + "1x 90k: 60k, 80k", "schedules.1x", dict(iterations=90_000, milestones=[60_000, 80_000])),
    (TABLE + "2x 180k: 120k, 160k", "schedules.2x", dict(iterations=180_000, milestones=[120_000, 160_000])),
    (COMMON + "RGB", "model.data_preprocessor.bgr_to_rgb", True),
    (COMMON + "stride in the 3x3", "model.backbone.style", "pytorch"),
    (COMMON + "stride in the 3x3", ROI + "shared_head.style", "pytorch"),
    (COMMON + "frozen_stages=-1", "model.backbone.frozen_stages", -1),
    (COMMON + "norm_eval=False", "model.backbone.norm_eval", False),
    (COMMON + "norm_eval=False", ROI + "shared_head.norm_eval", False),
    (COMMON + "precise BN over 200 iterations", "precise_bn.iterations", 200),
    (COMMON + "shorter side drawn from 640, 672, ... 800", "data.short_sides", [640, 672, 704, 736, 768, 800]),
    (COMMON + "longer side 1200 for C4", "train_pipeline.2.scales",
     [(1200, side) for side in (640, 672, 704, 736, 768, 800)]),
    (COMMON + "longer side 1200 for C4", "train_pipeline.2.keep_ratio", True),
    (COMMON + "horizontal flip", "train_pipeline.3", dict(type="RandomFlip", prob=0.5)),
    (COMMON + "test size 800/1333", "test_pipeline.1", dict(type="Resize", scale=(1333, 800), keep_ratio=True)),
    (TABLE + "Mask R-CNN", "model.type", "MaskRCNN"),
    (TABLE + "RoIAlign 14", ROI + "bbox_roi_extractor.roi_layer.output_size", 14),
    (D2 + "POOLER_SAMPLING_RATIO 0", ROI + "bbox_roi_extractor.roi_layer.sampling_ratio", 0),
    (D2 + "POOLER_TYPE ROIAlignV2", ROI + "bbox_roi_extractor.roi_layer.aligned", True),
    (TABLE + "res5 on each RoI, one extra BN", ROI + "shared_head.type", "Res5ExtraNorm"),
    (TABLE + "12000 proposals before NMS, training", "model.train_cfg.rpn_proposal.nms_pre", 12_000),
    (TABLE + "2000 proposals in training", "model.train_cfg.rpn_proposal.max_per_img", 2_000),
    (TABLE + "6000 proposals before NMS, test", "model.test_cfg.rpn.nms_pre", 6_000),
    (TABLE + "1000 proposals in test", "model.test_cfg.rpn.max_per_img", 1_000),
    (D2 + "RPN.NMS_THRESH 0.7", "model.train_cfg.rpn_proposal.nms.iou_threshold", 0.7),
    (D2 + "RPN.NMS_THRESH 0.7", "model.test_cfg.rpn.nms.iou_threshold", 0.7),
    (D2 + "RPN.IOU_THRESHOLDS", "model.train_cfg.rpn.assigner.pos_iou_thr", 0.7),
    (D2 + "RPN.IOU_THRESHOLDS", "model.train_cfg.rpn.assigner.neg_iou_thr", 0.3),
    (D2 + "allow_low_quality_matches", "model.train_cfg.rpn.assigner.match_low_quality", True),
    (D2 + "allow_low_quality_matches", "model.train_cfg.rpn.assigner.min_pos_iou", 0.0),
    (D2 + "RPN.BOUNDARY_THRESH -1", "model.train_cfg.rpn.allowed_border", -1),
    (D2 + "RPN.BATCH_SIZE_PER_IMAGE 256", "model.train_cfg.rpn.sampler.num", 256),
    (D2 + "RPN.POSITIVE_FRACTION 0.5", "model.train_cfg.rpn.sampler.pos_fraction", 0.5),
    (D2 + "RPN.SMOOTH_L1_BETA 0", RPN + "loss_bbox.type", "L1Loss"),
    (D2 + "RPN.BBOX_REG_WEIGHTS 1", RPN + "bbox_coder.target_stds", [1.0, 1.0, 1.0, 1.0]),
    (TABLE + "512 RoIs per image", "model.train_cfg.rcnn.sampler.num", 512),
    (TABLE + "25 % positive", "model.train_cfg.rcnn.sampler.pos_fraction", 0.25),
    (D2 + "PROPOSAL_APPEND_GT", "model.train_cfg.rcnn.sampler.add_gt_as_proposals", True),
    (D2 + "ROI_HEADS.IOU_THRESHOLDS 0.5", "model.train_cfg.rcnn.assigner.pos_iou_thr", 0.5),
    (D2 + "ROI_HEADS.IOU_THRESHOLDS 0.5", "model.train_cfg.rcnn.assigner.neg_iou_thr", 0.5),
    (D2 + "ROI_HEADS, no low-quality matches", "model.train_cfg.rcnn.assigner.match_low_quality", False),
    (D2 + "ROI_BOX_HEAD.SMOOTH_L1_BETA 0", ROI + "bbox_head.loss_bbox.type", "L1Loss"),
    (D2 + "ROI_BOX_HEAD.BBOX_REG_WEIGHTS 10, 5", ROI + "bbox_head.bbox_coder.target_stds", [0.1, 0.1, 0.2, 0.2]),
    (D2 + "mask targets 14 x 14", "model.train_cfg.rcnn.mask_size", 14),
    (D2 + "res5 shared by box and mask head", ROI + "mask_roi_extractor", None),
    (D2 + "SCORE_THRESH_TEST 0.05", "model.test_cfg.rcnn.score_thr", 0.05),
    (D2 + "NMS_THRESH_TEST 0.5", "model.test_cfg.rcnn.nms.iou_threshold", 0.5),
    (D2 + "DETECTIONS_PER_IMAGE 100", "model.test_cfg.rcnn.max_per_img", 100),
    (D2 + "mask threshold 0.5", "model.test_cfg.rcnn.mask_thr_binary", 0.5),
    (D2 + "FILTER_EMPTY_ANNOTATIONS", "data.filter_cfg.filter_empty_gt", True),
    (D2 + "ASPECT_RATIO_GROUPING", "data.batch_sampler.type", "AspectRatioBatchSampler"),
    (TABLE + "bbox and segm", "evaluator.metric", ["bbox", "segm"]),
]


@pytest.mark.parametrize("source, key, value", FACTS, ids=[f"{key}" for _, key, _ in FACTS])
def test_the_resolved_config_states_the_protocol(cfg, source, key, value):
    node = cfg
    for part in key.split("."):
        node = node[int(part) if part.isdigit() else part]
    assert node == value, source


def test_anchors(model):
    """docs/protocols.md: anchors 32 to 512 x 3 ratios; detectron2: offset 0, stride 16."""
    generator = model.rpn_head.prior_generator
    (anchors,) = generator.base_anchors
    size = anchors[:, 2:] - anchors[:, :2]
    areas = size.prod(1).sqrt().round().int().tolist()
    ratios = (size[:, 1] / size[:, 0]).tolist()
    assert sorted(areas) == sorted([32, 64, 128, 256, 512] * 3)
    assert sorted(ratios) == pytest.approx(sorted([0.5, 1, 2] * 5), rel=1e-4)
    assert not (anchors[:, :2] + anchors[:, 2:]).any() and generator.strides == [(16, 16)]


def test_shapes_of_the_built_detector(model):
    """docs/protocols.md: C4 features, res5 on each RoI, extra BN; detectron2: heads of C4."""
    model.train()
    roi = model.roi_head
    with torch.no_grad():
        (c4,) = model.extract_feat(torch.zeros(1, 3, 64, 96))
        res5 = roi.shared_head(torch.randn(2, 1024, 14, 14))
        masks = roi.mask_head(res5)
    assert c4.shape == (1, 1024, 4, 6) and res5.shape == (2, 2048, 7, 7) and masks.shape == (2, 80, 14, 14)
    assert (res5 < 0).any()  # the extra normalisation is last: nothing rectifies after it
    assert roi.shared_head.norm.num_features == 2048 and not hasattr(model.backbone, "layer4")
    assert roi.shared_head.layer4[0].conv2.stride == (2, 2)
    assert model.rpn_head.rpn_conv.weight.shape == (1024, 1024, 3, 3)
    assert roi.bbox_head.fc_cls.weight.shape == (81, 2048) and roi.bbox_head.fc_reg.weight.shape == (320, 2048)
    assert isinstance(roi.mask_head.upsample, nn.ConvTranspose2d) and roi.mask_head.upsample.out_channels == 256


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_load_rules_send_every_backbone_key_to_its_place(arch):
    """Torchvision's names, through the task's rules, are the detector's names with the same shapes."""
    import torchvision

    cfg = resolve(load_task("coco_maskrcnn_c4"), arch, 80)
    target = {k: v.shape for k, v in MODELS.build(cfg.model).state_dict().items()}
    mapped = {}
    for key, value in getattr(torchvision.models, arch)().state_dict().items():
        if not key.startswith("fc."):
            prefix, place = next(rule for rule in cfg.load if key.startswith(rule[0]))
            mapped[place + key.removeprefix(prefix)] = value.shape
    fresh = {key.rsplit(".", 1)[0] for key in target if key not in mapped}
    assert {key: target.get(key) for key in mapped} == mapped
    assert fresh == {"roi_head.shared_head.norm", "rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg",
                     "roi_head.bbox_head.fc_cls", "roi_head.bbox_head.fc_reg", "roi_head.mask_head.upsample",
                     "roi_head.mask_head.conv_logits"}


def test_task_names_overrides_and_placeholders_are_checked():
    with pytest.raises(ValueError, match="did you mean coco_maskrcnn_c4"):
        load_task("coco_maskrcnn_c5")
    task = load_task("coco_maskrcnn_c4")
    with pytest.raises(ValueError, match="model.train_cfg.rcnn.sampler.nmu"):
        resolve(task, "resnet18", 80, {"model.train_cfg.rcnn.sampler.nmu": 64})
    with pytest.raises(ValueError, match="resnet19"):
        resolve(task, "resnet19", 80)
    with pytest.raises(ValueError, match="{c6}"):
        resolve(task, "resnet18", 80, {"model.rpn_head.in_channels": "{c6}"})
    small = resolve(task, "resnet18", 3, TINY)
    assert small.train_pipeline[2].scales == [(128, 128)] and small.model.roi_head.bbox_head.in_channels == 512


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Six images of coloured rectangles with COCO annotations."""
    folder, draw = tmp_path_factory.mktemp("coco"), np.random.default_rng(0)
    images, annotations = [], []
    for i in range(6):
        image = draw.integers(0, 255, (128, 128, 3), dtype=np.uint8)
        images.append(dict(id=i, file_name=f"{i}.png", width=128, height=128))
        for _ in range(3):
            (x, y), (w, h) = draw.integers(0, 80, 2).tolist(), draw.integers(20, 48, 2).tolist()
            label = int(draw.integers(1, 3))
            image[y:y + h, x:x + w] = 255 * (label - 1)
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=label, bbox=[x, y, w, h],
                                    area=w * h, iscrowd=0, segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]))
        cv2.imwrite(str(folder / f"{i}.png"), image)
    categories = [dict(id=1, name="black"), dict(id=2, name="white")]
    (folder / "a.json").write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return folder


@pytest.fixture(scope="module")
def runner(coco):
    """A tiny ResNet-18 detector, after two iterations and its evaluation in mmengine's Runner."""
    cfg = resolve(load_task("coco_maskrcnn_c4"), "resnet18", 2, TINY)
    dataset = dict(type="InstanceDataset", data_root=str(coco), ann_file="a.json", data_prefix=dict(img=""),
                   metainfo=dict(classes=("black", "white")))
    runner = Runner.from_cfg(Config(dict(
        model=cfg.model, work_dir=str(coco / "run"), default_scope="mmdet", log_level="ERROR",
        randomness=dict(seed=0), experiment_name="test_coco_maskrcnn_c4",
        train_dataloader=dict(
            batch_size=2, num_workers=0, sampler=dict(type="InfiniteSampler"), batch_sampler=cfg.data.batch_sampler,
            dataset=dict(**dataset, filter_cfg=cfg.data.filter_cfg, pipeline=cfg.train_pipeline)),
        val_dataloader=dict(
            batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dict(**dataset, test_mode=True, indices=2, pipeline=cfg.test_pipeline)),
        val_evaluator=dict(**cfg.evaluator, ann_file=str(coco / "a.json")),
        train_cfg=dict(type="IterBasedTrainLoop", max_iters=2, val_interval=2), val_cfg=dict(),
        optim_wrapper=dict(type="OptimWrapper", **cfg.optimizer),
        custom_hooks=[dict(type="PreciseBNHook", iterations=2)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2)))))
    runner.train()
    return runner


def test_the_runner_trains_and_evaluates_boxes_and_masks(runner):
    scalars = runner.message_hub.log_scalars
    assert np.isfinite(scalars["train/loss"].data[0]).all()
    assert {"val/coco/bbox_mAP", "val/coco/bbox_mAP_75", "val/coco/segm_mAP_50"} <= set(scalars)
    # ln 2 within 10 %: the mask predictor starts small, as detectron2's
    assert scalars["train/loss_mask"].data[0][0] == pytest.approx(0.693, rel=0.1)


def test_every_parameter_receives_a_gradient(runner):
    model = runner.model.train()
    model.zero_grad()
    loader = runner.train_dataloader
    batch = model.data_preprocessor(loader.collate_fn([loader.dataset[i] for i in range(2)]), training=True)
    loss, _ = model.parse_losses(model(**batch, mode="loss"))
    loss.backward()
    assert torch.isfinite(loss)
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_precise_bn_can_be_repeated_and_is_what_was_saved(runner):
    (hook,) = (hook for hook in runner.hooks if type(hook).__name__ == "PreciseBNHook")
    saved = torch.load(f"{runner.work_dir}/iter_2.pth", weights_only=False)["state_dict"]  # our own, just written
    for module in runner.model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.num_batches_tracked.fill_(2)
    hook.run(runner)
    state = runner.model.state_dict()
    assert [key for key in state if not torch.equal(state[key], saved[key])] == []


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, "_BatchNormXd"])
def test_precise_bn_is_the_mean_of_torchs_own_batch_statistics(norm):
    """torch's batch norm of momentum 1 keeps a batch's mean and Bessel-corrected variance: fvcore took their means."""
    from mmengine.model.utils import _BatchNormXd

    torch.manual_seed(0)
    layer = nn.BatchNorm2d if norm is nn.BatchNorm2d else _BatchNormXd
    model = nn.Sequential(nn.Conv2d(3, 4, 3), layer(4), nn.ReLU(), nn.Conv2d(4, 5, 3), layer(5), layer(5)).train()
    model[5].eval()  # a frozen layer keeps what it has
    model.register_buffer("count", torch.zeros(()))
    batches = [torch.randn(2, 3, 6, 6) * (i + 1) + i for i in range(7)]
    reference, seen = copy.deepcopy(model), []
    for module in (reference[1], reference[4]):
        module.momentum = 1.0
    with torch.no_grad():
        for batch in batches[:5]:
            reference(batch)
            seen.append([b.clone() for i in (1, 4) for b in (reference[i].running_mean, reference[i].running_var)])
    frozen, weights = model[5].running_var.clone(), [p.clone() for p in model.parameters()]
    tracked = model[1].num_batches_tracked.clone()

    def forward(batch):
        model.count += 1  # other buffers are put back
        return model(batch)

    assert update_bn_stats(model, iter(batches), forward, iterations=5) == 5
    found = [b for i in (1, 4) for b in (model[i].running_mean, model[i].running_var)]
    for value, values in zip(found, zip(*seen)):
        torch.testing.assert_close(value, torch.stack(values).mean(0), atol=1e-5, rtol=1e-5)
    assert model[1].num_batches_tracked == tracked and model[1].momentum == 0.1 and model.count == 0
    assert torch.equal(model[5].running_var, frozen)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights))
    with pytest.raises(ValueError, match="no batch"):
        update_bn_stats(model, [], model)


def test_precise_bn_counts_iterations_and_pools_their_parts():
    """Parts of an iteration together have the mean and variance of their images, as synchronised ranks have."""
    norm = nn.BatchNorm2d(3).train()
    images = torch.randn(12, 3, 5, 5) * torch.arange(1, 13).view(-1, 1, 1, 1)
    drawn = iter(images.split(2))
    assert update_bn_stats(norm, drawn, norm, iterations=2, parts=2) == 2
    assert len(list(drawn)) == 2  # of six parts, four were taken
    iterations = [images[:4], images[4:8]]
    torch.testing.assert_close(norm.running_mean, torch.stack([i.mean((0, 2, 3)) for i in iterations]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([i.var((0, 2, 3)) for i in iterations]).mean(0))
