"""Every task's protocol, fact by fact, on the resolved config and the built model; each fact names its source."""
import functools

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.detection import anchors, instances, keypoints, modules, runner, semantic  # noqa: F401 (before mmdet)
from benchmarks.protocol import kind_of
from benchmarks.task import load_task, resolve, task_names

CLASSES = {"coco_keypointrcnn_fpn": 1, "voc_fasterrcnn_c4": 20, "cityscapes_maskrcnn_fpn": 8,
           "cityscapes_semseg_fcn": 19}
SEMISUP = ("coco_semisup_maskrcnn_fpn", "coco_semisup_retinanet_fpn")
DETECTORS = [name for name in task_names() if kind_of(load_task(name)) == "detector"]
INSTANCES = [name for name in DETECTORS if name != "cityscapes_semseg_fcn"]
C4 = ("coco_maskrcnn_c4", "voc_fasterrcnn_c4")
MASK_FPN = ("coco_maskrcnn_fpn", "coco_maskrcnn_fpn_4conv1fc", "cityscapes_maskrcnn_fpn", "coco_semisup_maskrcnn_fpn")
RCNN_FPN = (*MASK_FPN, "coco_keypointrcnn_fpn")
RCNN = (*C4, *RCNN_FPN)
RETINANET = ("coco_retinanet_fpn", "coco_semisup_retinanet_fpn")

COMMON = "docs/protocols.md, common to all detectors: "
TABLE = "docs/protocols.md, tasks: "
D2 = "detectron2 "
MOCO = "MoCo, appendix: "
SPARSE = "Sparse R-CNN, its configuration: "
SIDES = [640, 672, 704, 736, 768, 800]
WIDE_SIDES = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
ROI, RPN, TRAIN, TEST = "model.roi_head.", "model.rpn_head.", "model.train_cfg.", "model.test_cfg."
SCHEDULES = {"12k": dict(iterations=12_000, milestones=[9_000, 11_000]),
             "1x": dict(iterations=90_000, milestones=[60_000, 80_000]),
             "2x": dict(iterations=180_000, milestones=[120_000, 160_000])}
SGD_TASKS = [name for name in INSTANCES if name != "coco_sparsercnn"]


def but(names, *out):
    return [name for name in names if name not in out]


FACTS = [  # (tasks, source, key of the resolved config, value)
    (DETECTORS, COMMON + "RGB", "model.data_preprocessor.bgr_to_rgb", True),
    (DETECTORS, COMMON + "ImageNet mean, RGB", "model.data_preprocessor.mean", [123.675, 116.28, 103.53]),
    (DETECTORS, COMMON + "ImageNet standard deviation, RGB", "model.data_preprocessor.std", [58.395, 57.12, 57.375]),
    (DETECTORS, COMMON + "stride in the 3x3", "model.backbone.style", "pytorch"),
    (DETECTORS, COMMON + "frozen_stages=-1", "model.backbone.frozen_stages", -1),
    (DETECTORS, COMMON + "norm_eval=False", "model.backbone.norm_eval", False),
    (DETECTORS, COMMON + "BN, SyncBN over processes", "model.backbone.norm_cfg", dict(type="BN", requires_grad=True)),
    (INSTANCES, COMMON + "precise BN over 200 iterations", "precise_bn.iterations", 200),
    (DETECTORS, COMMON + "step decay by 0.1", "lr_decay", 0.1),
    (DETECTORS, COMMON + "weight decay 1e-4", "optimizer.optimizer.weight_decay", 1e-4),
    (SGD_TASKS, COMMON + "weight decay 0 on norms", "optimizer.paramwise_cfg.norm_decay_mult", 0.0),
    ([*SGD_TASKS, "cityscapes_semseg_fcn"], COMMON + "SGD", "optimizer.optimizer.type", "SGD"),
    ([*SGD_TASKS, "cityscapes_semseg_fcn"], COMMON + "momentum 0.9", "optimizer.optimizer.momentum", 0.9),
    (but(SGD_TASKS, "voc_fasterrcnn_c4"), COMMON + "warm-up 1000 iterations from 0.001", "warmup",
     dict(iterations=1000, start_factor=0.001)),
    (but(DETECTORS, "cityscapes_maskrcnn_fpn"), COMMON + "total batch 16", "data.total_batch", 16),
    (INSTANCES, D2 + "ASPECT_RATIO_GROUPING", "data.batch_sampler.type", "AspectRatioBatchSampler"),
    (but(INSTANCES, "voc_fasterrcnn_c4", "coco_sparsercnn", "cityscapes_maskrcnn_fpn"),
     COMMON + "shorter side drawn from 640, 672, ... 800", "data.short_sides", SIDES),
    (but(INSTANCES, "coco_maskrcnn_c4", "cityscapes_maskrcnn_fpn"), COMMON + "longer side at most 1333",
     "data.max_side", 1333),
    (but(INSTANCES, "cityscapes_maskrcnn_fpn"), COMMON + "test size 800/1333", "test_pipeline.1",
     dict(type="Resize", scale=(1333, 800), keep_ratio=True)),
    (but(RCNN_FPN, "cityscapes_maskrcnn_fpn") + ["voc_fasterrcnn_c4"], TABLE + "base lr 0.02",
     "optimizer.optimizer.lr", 0.02),
    (["coco_maskrcnn_fpn", "coco_maskrcnn_fpn_4conv1fc", "coco_retinanet_fpn"], TABLE + "12k, 1x, 2x",
     "schedules", SCHEDULES),
    (["coco_keypointrcnn_fpn"], TABLE + "1x, 2x", "schedules", {k: SCHEDULES[k] for k in ("1x", "2x")}),
    (SEMISUP, TABLE + "1, 2, 5, 10 % of train2017", "schedules",
     {f"{s}%": dict(iterations=12_000, milestones=[9_000, 11_000], share=s) for s in (10, 5, 2, 1)}),
    # C4 on VOC
    (["voc_fasterrcnn_c4"], TABLE + "without masks", "model.type", "FasterRCNN"),
    (["voc_fasterrcnn_c4"], TABLE + "24k: 18k, 22k", "schedules",
     {"24k": dict(iterations=24_000, milestones=[18_000, 22_000])}),
    (["voc_fasterrcnn_c4"], COMMON + "warm-up on VOC 100", "warmup", dict(iterations=100, start_factor=0.001)),
    (["voc_fasterrcnn_c4"], TABLE + "shorter side 480 to 800", "data.short_sides", WIDE_SIDES),
    (["voc_fasterrcnn_c4"], TABLE + "VOC07+12 trainval, VOC07 test", "data.source", "voc"),
    (["voc_fasterrcnn_c4"], TABLE + "AP, AP50, AP75, VOC's and COCO's", "task.metrics", ["voc", "bbox"]),
    (C4, TABLE + "res5 on each RoI, one extra BN", ROI + "shared_head.type", "Res5ExtraNorm"),
    (C4, TABLE + "12000/2000 proposals in training", TRAIN + "rpn_proposal.nms_pre", 12_000),
    (C4, TABLE + "12000/2000 proposals in training", TRAIN + "rpn_proposal.max_per_img", 2_000),
    (C4, TABLE + "6000/1000 in test", TEST + "rpn.nms_pre", 6_000),
    (C4, TABLE + "6000/1000 in test", TEST + "rpn.max_per_img", 1_000),
    (C4, TABLE + "RoIAlign 14", ROI + "bbox_roi_extractor.roi_layer.output_size", 14),
    (C4, TABLE + "512 RoIs an image", TRAIN + "rcnn.sampler.num", 512),
    (C4, TABLE + "25 % positive", TRAIN + "rcnn.sampler.pos_fraction", 0.25),
    # Region proposals, C4 and FPN
    (RCNN, TABLE + "3 ratios", RPN + "anchor_generator.ratios", [0.5, 1.0, 2.0]),
    (RCNN, D2 + "RPN.IOU_THRESHOLDS 0.3, 0.7", TRAIN + "rpn.assigner.pos_iou_thr", 0.7),
    (RCNN, D2 + "RPN.IOU_THRESHOLDS 0.3, 0.7", TRAIN + "rpn.assigner.neg_iou_thr", 0.3),
    (RCNN, D2 + "RPN.BATCH_SIZE_PER_IMAGE 256", TRAIN + "rpn.sampler.num", 256),
    (RCNN, D2 + "RPN.NMS_THRESH 0.7", TRAIN + "rpn_proposal.nms.iou_threshold", 0.7),
    (RCNN, D2 + "RPN.NMS_THRESH 0.7", TEST + "rpn.nms.iou_threshold", 0.7),
    (RCNN, D2 + "ROI_HEADS.IOU_THRESHOLDS 0.5", TRAIN + "rcnn.assigner.pos_iou_thr", 0.5),
    # FPN
    (RCNN_FPN, COMMON + "SyncBN on the FPN too", "model.neck.norm_cfg", dict(type="BN", requires_grad=True)),
    (RCNN_FPN, D2 + "FPN, P6 by subsampling", "model.neck.num_outs", 5),
    (RCNN_FPN, D2 + "size divisibility 32", "model.data_preprocessor.pad_size_divisor", 32),
    (RCNN_FPN, D2 + "anchors 32 to 512, one size a level", RPN + "anchor_generator.scales", [8]),
    (RCNN_FPN, D2 + "anchors 32 to 512, one size a level", RPN + "anchor_generator.strides", [4, 8, 16, 32, 64]),
    (RCNN_FPN, D2 + "PRE_NMS_TOPK_TRAIN 2000", TRAIN + "rpn_proposal.nms_pre", 2000),
    (MASK_FPN, D2 + "POST_NMS_TOPK_TRAIN 1000", TRAIN + "rpn_proposal.max_per_img", 1000),
    (RCNN_FPN, D2 + "PRE_NMS_TOPK_TEST 1000", TEST + "rpn.nms_pre", 1000),
    (RCNN_FPN, D2 + "POST_NMS_TOPK_TEST 1000", TEST + "rpn.max_per_img", 1000),
    (RCNN_FPN, D2 + "box RoIAlign 7", ROI + "bbox_roi_extractor.roi_layer.output_size", 7),
    (RCNN_FPN, D2 + "POOLER_SAMPLING_RATIO 0", ROI + "bbox_roi_extractor.roi_layer.sampling_ratio", 0),
    (RCNN_FPN, D2 + "ROIAlignV2", ROI + "bbox_roi_extractor.roi_layer.aligned", True),
    (RCNN_FPN, D2 + "levels P2 to P5", ROI + "bbox_roi_extractor.featmap_strides", [4, 8, 16, 32]),
    (RCNN_FPN, TABLE + "512 RoIs an image", TRAIN + "rcnn.sampler.num", 512),
    (RCNN_FPN, TABLE + "25 % positive", TRAIN + "rcnn.sampler.pos_fraction", 0.25),
    (but(RCNN_FPN, "coco_maskrcnn_fpn_4conv1fc"), TABLE + "2-fc box head", ROI + "bbox_head.type", "Shared2FCBBoxHead"),
    (RCNN_FPN, D2 + "fc of 1024", ROI + "bbox_head.fc_out_channels", 1024),
    (MASK_FPN, D2 + "SMOOTH_L1_BETA 0", ROI + "bbox_head.loss_bbox.type", "L1Loss"),
    (MASK_FPN, D2 + "mask RoIAlign 14", ROI + "mask_roi_extractor.roi_layer.output_size", 14),
    (MASK_FPN, TABLE + "4-conv mask head", ROI + "mask_head.num_convs", 4),
    (MASK_FPN, D2 + "mask targets 28", TRAIN + "rcnn.mask_size", 28),
    (but(MASK_FPN, "cityscapes_maskrcnn_fpn"), TABLE + "bbox, segm", "task.metrics", ["bbox", "segm"]),
    ([*RCNN_FPN, "voc_fasterrcnn_c4"], D2 + "SCORE_THRESH_TEST 0.05", TEST + "rcnn.score_thr", 0.05),
    ([*RCNN_FPN, "voc_fasterrcnn_c4"], D2 + "NMS_THRESH_TEST 0.5", TEST + "rcnn.nms.iou_threshold", 0.5),
    ([*RCNN_FPN, "voc_fasterrcnn_c4"], D2 + "DETECTIONS_PER_IMAGE 100", TEST + "rcnn.max_per_img", 100),
    (["coco_maskrcnn_fpn_4conv1fc"], TABLE + "4-conv-1-fc box head", ROI + "bbox_head.type", "Shared4Conv1FCBBoxHead"),
    (["coco_maskrcnn_fpn_4conv1fc"], TABLE + "with SyncBN", ROI + "bbox_head.norm_cfg",
     dict(type="BN", requires_grad=True)),
    (["coco_maskrcnn_fpn_4conv1fc"], D2 + "ROI_MASK_HEAD.NORM", ROI + "mask_head.norm_cfg",
     dict(type="BN", requires_grad=True)),
    # Keypoints
    (["coco_keypointrcnn_fpn"], TABLE + "1500 proposals in training", TRAIN + "rpn_proposal.max_per_img", 1500),
    (["coco_keypointrcnn_fpn"], TABLE + "smooth-L1 beta 0.5", ROI + "bbox_head.loss_bbox.beta", 0.5),
    (["coco_keypointrcnn_fpn"], TABLE + "keypoint AP and person AP", "task.metrics", ["keypoints", "bbox"]),
    # RetinaNet
    (RETINANET, TABLE + "base lr 0.01", "optimizer.optimizer.lr", 0.01),
    (RETINANET, TABLE + "P3 to P7", "model.bbox_head.anchor_generator.strides", [8, 16, 32, 64, 128]),
    (RETINANET, D2 + "RetinaNet: three octaves from 4", "model.bbox_head.anchor_generator.octave_base_scale", 4),
    (RETINANET, D2 + "RetinaNet: three octaves from 4", "model.bbox_head.anchor_generator.scales_per_octave", 3),
    (RETINANET, D2 + "FOCAL_LOSS_GAMMA", "model.bbox_head.loss_cls.gamma", 2.0),
    (RETINANET, D2 + "FOCAL_LOSS_ALPHA", "model.bbox_head.loss_cls.alpha", 0.25),
    (RETINANET, D2 + "Base-RetinaNet, SMOOTH_L1_LOSS_BETA 0.0", "model.bbox_head.loss_bbox",
     dict(type="L1Loss", loss_weight=1.0)),
    (RETINANET, D2 + "DETECTIONS_PER_IMAGE 100", TEST + "max_per_img", 100),
    (RETINANET, D2 + "IOU_THRESHOLDS 0.4, 0.5", TRAIN + "assigner.pos_iou_thr", 0.5),
    (RETINANET, D2 + "IOU_THRESHOLDS 0.4, 0.5", TRAIN + "assigner.neg_iou_thr", 0.4),
    (RETINANET, D2 + "TOPK_CANDIDATES_TEST 1000", TEST + "nms_pre", 1000),
    (RETINANET, D2 + "SCORE_THRESH_TEST 0.05", TEST + "score_thr", 0.05),
    (RETINANET, D2 + "NMS_THRESH_TEST 0.5", TEST + "nms.iou_threshold", 0.5),
    (RETINANET, TABLE + "bbox", "evaluator.metric", ["bbox"]),
    # Sparse R-CNN
    (["coco_sparsercnn"], TABLE + "300 proposals", RPN + "num_proposals", 300),
    (["coco_sparsercnn"], TABLE + "AdamW 2.5e-5", "optimizer.optimizer",
     dict(type="AdamW", lr=2.5e-5, weight_decay=1e-4)),
    (["coco_sparsercnn"], SPARSE + "gradients clipped at 1", "optimizer.clip_grad", dict(max_norm=1.0, norm_type=2)),
    (["coco_sparsercnn"], TABLE + "3x", "schedules.3x", dict(iterations=270_000, milestones=[210_000, 250_000])),
    (["coco_sparsercnn"], "Sparse R-CNN, its supervised row", "schedules.3x-frozen",
     dict(iterations=270_000, milestones=[210_000, 250_000], frozen=True)),
    (["coco_sparsercnn"], TABLE + "multi-scale", "data.short_sides", WIDE_SIDES),
    (["coco_sparsercnn"], TABLE + "random crop", "train_pipeline.3.transforms.1.1.crop_size", (384, 600)),
    (["coco_sparsercnn"], SPARSE + "photos to crop of 400 to 600, however long",
     "train_pipeline.3.transforms.1.0.scales", [(10**6, 400), (10**6, 500), (10**6, 600)]),
    (["coco_sparsercnn"], SPARSE + "FILTER_EMPTY_ANNOTATIONS False", "data.filter_cfg.filter_empty_gt", False),
    (["coco_sparsercnn"], SPARSE + "NUM_CLS 1, NUM_REG 3", ROI + "bbox_head.0.num_reg_fcs", 3),
    (["coco_sparsercnn"], SPARSE + "DIM_DYNAMIC 64", ROI + "bbox_head.0.dynamic_conv_cfg.feat_channels", 64),
    (["coco_sparsercnn"], SPARSE + "DIM_FEEDFORWARD 2048", ROI + "bbox_head.0.feedforward_channels", 2048),
    (["coco_sparsercnn"], SPARSE + "CLASS_WEIGHT 2", ROI + "bbox_head.0.loss_cls.loss_weight", 2.0),
    (["coco_sparsercnn"], SPARSE + "GIOU_WEIGHT 2", ROI + "bbox_head.0.loss_iou.loss_weight", 2.0),
    (["coco_sparsercnn"], SPARSE + "L1_WEIGHT 5", ROI + "bbox_head.0.loss_bbox.loss_weight", 5.0),
    (["coco_sparsercnn"], SPARSE + "six stages", ROI + "num_stages", 6),
    (["coco_sparsercnn"], SPARSE + "warm-up 1000 from 0.01", "warmup", dict(iterations=1000, start_factor=0.01)),
    # Cityscapes
    (["cityscapes_maskrcnn_fpn"], TABLE + "batch 8", "data.total_batch", 8),
    (["cityscapes_maskrcnn_fpn"], TABLE + "shorter side 800 to 1024", "data.short_sides", list(range(800, 1025, 32))),
    (["cityscapes_maskrcnn_fpn"], TABLE + "longer 2048", "data.max_side", 2048),
    (["cityscapes_maskrcnn_fpn"], D2 + "Cityscapes, test 1024/2048", "test_pipeline.1.scale", (2048, 1024)),
    (["cityscapes_maskrcnn_fpn"], TABLE + "lr 0.01", "optimizer.optimizer.lr", 0.01),
    (["cityscapes_maskrcnn_fpn"], TABLE + "24k: 18k", "schedules",
     {"24k": dict(iterations=24_000, milestones=[18_000])}),
    (["cityscapes_maskrcnn_fpn"], TABLE + "segm AP, AP50", "task.main_metric", "segm_AP"),
    (["cityscapes_maskrcnn_fpn"], D2 + "Cityscapes' own score too", "task.metrics", ["bbox", "segm", "cityscapes"]),
    (["cityscapes_semseg_fcn"], TABLE + "90k", "schedules.90k.iterations", 90_000),
    (["cityscapes_semseg_fcn"], MOCO + "lr x 0.1 at 70 and 90 %", "schedules.90k.milestones", [63_000, 81_000]),
    (["cityscapes_semseg_fcn"], TABLE + "lr 0.01", "optimizer.optimizer.lr", 0.01),
    (["cityscapes_semseg_fcn"], MOCO + "crop 769", "train_pipeline.3.crop_size", (769, 769)),
    (["cityscapes_semseg_fcn"], MOCO + "scales 0.5 to 2", "train_pipeline.2.ratio_range", (0.5, 2.0)),
    (["cityscapes_semseg_fcn"], TABLE + "dilation 2 in C5", "model.backbone.dilations", (1, 1, 1, 2)),
    (["cityscapes_semseg_fcn"], TABLE + "stride 16", "model.backbone.strides", (1, 2, 2, 1)),
    (["cityscapes_semseg_fcn"], TABLE + "two 3x3 convolutions", "model.head.num_convs", 2),
    (["cityscapes_semseg_fcn"], TABLE + "of 256", "model.head.channels", 256),
    (["cityscapes_semseg_fcn"], TABLE + "dilation 6", "model.head.dilation", 6),
    # Image level
    (["imagenet_linear"], TABLE + "100 epochs, steps 60, 80", "schedules",
     {"100ep": dict(epochs=100, milestones=[60, 80])}),
    (["imagenet_linear"], TABLE + "lr 30, no weight decay", "optimizer",
     dict(lr=30.0, momentum=0.9, weight_decay=0.0)),
    (["imagenet_linear"], TABLE + "batch 256", "data.total_batch", 256),
    (["knn"], TABLE + "k 200", "knn.k", 200),
    (["knn"], TABLE + "temperature 0.07", "knn.temperature", 0.07),
]
ROWS = [(task, *fact) for tasks, *fact in FACTS for task in tasks]


@functools.cache
def resolved(task):
    return resolve(load_task(task), "resnet50", CLASSES.get(task, 80))


@pytest.mark.parametrize("task, source, key, value", ROWS, ids=[f"{task}:{key}" for task, _, key, _ in ROWS])
def test_the_resolved_config_states_the_protocol(task, source, key, value):
    node = resolved(task)
    for part in key.split("."):
        node = node[int(part) if part.isdigit() else part]
    assert node == value, source


@pytest.fixture(scope="module", params=DETECTORS)
def built(request):
    """(task, config, model) of ResNet-50 at the paper scale; semi-supervised tasks build their full tasks' models."""
    if request.param in SEMISUP:
        pytest.skip("the same model as its task on the whole of COCO")
    init_default_scope("mmdet")
    config = resolved(request.param)
    return request.param, config, MODELS.build(config.model)


def test_semi_supervised_tasks_differ_in_schedule_alone():
    for name in SEMISUP:
        part, whole = load_task(name), load_task(name.replace("semisup_", ""))
        assert {k for k in whole if part[k] != whole[k]} == {"task", "schedules"}


def test_nothing_is_frozen_and_every_norm_trains(built):
    """docs/protocols.md: every layer trains; SyncBN with norm_eval=True is inert."""
    task, _, model = built
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.eval()
    model.train()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    # ResNet-50 has 53. C4: one after res5. FPN: four laterals and four outputs; RetinaNet three each, P6 and P7 none;
    # Sparse R-CNN none.
    more = {"coco_maskrcnn_c4": 1, "voc_fasterrcnn_c4": 1, "coco_retinanet_fpn": 6, "cityscapes_semseg_fcn": 2,
            "coco_maskrcnn_fpn_4conv1fc": 8 + 4 + 4, "coco_sparsercnn": 0}
    assert len(norms) == 53 + more.get(task, 8) and all(norm.training and norm.track_running_stats for norm in norms)


@pytest.mark.parametrize("task", DETECTORS)
def test_images_are_flipped_half_of_the_time(task):
    """docs/protocols.md, common to all detectors: horizontal flip."""
    [flip] = [step for step in resolved(task).train_pipeline if step.type.endswith("RandomFlip")]
    assert flip.prob == 0.5 and flip.get("direction", "horizontal") == "horizontal"


def test_heads_have_their_shapes(built):
    """The table's heads, as their parameters' shapes: detectron2's, and Sparse R-CNN's (arXiv 2011.12450)."""
    task, _, model = built
    box, mask = ("shared_fcs.0.weight", (1024, 256 * 49)), ("conv_logits.weight", (80, 256, 1, 1))
    expected = {
        "coco_maskrcnn_c4": {"bbox_head": [("fc_cls.weight", (81, 2048)), ("fc_reg.weight", (320, 2048))],
                             "mask_head": [("upsample.weight", (2048, 256, 2, 2)), mask]},
        "voc_fasterrcnn_c4": {"bbox_head": [("fc_cls.weight", (21, 2048)), ("fc_reg.weight", (80, 2048))]},
        "coco_maskrcnn_fpn": {"bbox_head": [box, ("shared_fcs.1.weight", (1024, 1024)), ("fc_cls.weight", (81, 1024))],
                              "mask_head": [("convs.3.conv.weight", (256, 256, 3, 3)), mask]},
        "coco_maskrcnn_fpn_4conv1fc": {"bbox_head": [("shared_convs.3.conv.weight", (256, 256, 3, 3)), box],
                                       "mask_head": [("convs.3.conv.weight", (256, 256, 3, 3)), mask]},
        "coco_keypointrcnn_fpn": {"bbox_head": [box, ("fc_cls.weight", (2, 1024))]},
        "cityscapes_maskrcnn_fpn": {"bbox_head": [box, ("fc_cls.weight", (9, 1024))],
                                    "mask_head": [("conv_logits.weight", (8, 256, 1, 1))]},
        "coco_sparsercnn": {"bbox_head.5": [("fc_cls.weight", (80, 256)), ("fc_reg.weight", (4, 256)),
                                            ("instance_interactive_conv.dynamic_layer.weight", (2 * 64 * 256, 256))]},
    }.get(task, {})
    for head, shapes in expected.items():
        own = model.roi_head.get_submodule(head).state_dict()
        assert {name: tuple(own[name].shape) for name, _ in shapes} == dict(shapes)
    if task == "coco_retinanet_fpn":
        assert model.bbox_head.retina_cls.weight.shape == (9 * 80, 256, 3, 3) and len(model.bbox_head.cls_convs) == 4
        assert model.bbox_head.retina_reg.weight.shape == (9 * 4, 256, 3, 3) and len(model.bbox_head.reg_convs) == 4


def test_input_is_rgb_with_imagenet_statistics(built):
    """docs/protocols.md: RGB, ImageNet mean and standard deviation in [0, 255]."""
    bgr = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1).expand(3, 32, 32)
    red = bgr + torch.tensor([0, 0, 58.395]).view(3, 1, 1)  # BGR: one deviation more red
    (inputs,) = built[2].data_preprocessor({"inputs": [red], "data_samples": None})["inputs"]
    torch.testing.assert_close(inputs[:, 0, 0], torch.tensor([1.0, 0, 0]), atol=1e-4, rtol=0)


def test_weight_decay_spares_normalisation_only(built):
    """docs/protocols.md: weight decay 1e-4, 0 on normalisation layers, which Sparse R-CNN's authors did not spare,
    nor does MoCo's appendix for the FCN; read from the built optimiser."""
    task, config, model = built
    groups = build_optim_wrapper(model, dict(type="OptimWrapper", **config.optimizer)).optimizer.param_groups
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    norm = {id(p) for m in model.modules() if isinstance(m, (_BatchNorm, nn.LayerNorm))
            for p in m.parameters(recurse=False)}
    spared = 1e-4 if task in ("coco_sparsercnn", "cityscapes_semseg_fcn") else 0.0
    assert decay == {id(p): spared if id(p) in norm else 1e-4 for p in model.parameters()}
    assert {group["lr"] for group in groups} == {config.optimizer.optimizer.lr}


def test_every_backbone_key_has_its_place(built):
    """Torchvision's names, through the task's rules, are the model's names with the same shapes."""
    import torchvision

    _, config, model = built
    own = {key: value.shape for key, value in model.state_dict().items()}
    for key, value in torchvision.models.resnet50().state_dict().items():
        if not key.startswith("fc."):
            prefix, place = next(rule for rule in config.load if key.startswith(rule[0]))
            assert own[place + key.removeprefix(prefix)] == value.shape


def test_retinanet_focuses_from_a_prior_of_one_percent_and_its_top_is_plain():
    """RetinaNet (arXiv 1708.02002), section 4; detectron2: no normalisation on P6 and P7."""
    init_default_scope("mmdet")
    model = MODELS.build(resolved("coco_retinanet_fpn").model)
    model.init_weights()
    assert model.bbox_head.retina_cls.bias.sigmoid().mean().item() == pytest.approx(0.01, rel=1e-3)
    assert [hasattr(level, "bn") for level in model.neck.fpn_convs] == [True, True, True, False, False]
    levels = model.extract_feat(torch.zeros(1, 3, 256, 256))
    assert [tuple(level.shape[1:]) for level in levels] == [(256, s, s) for s in (32, 16, 8, 4, 2)]
    sizes = [(a[:, 2:] - a[:, :2]).prod(1).sqrt() for a in model.bbox_head.prior_generator.base_anchors]
    assert [round(float(s.min())) for s in sizes] == [32, 64, 128, 256, 512] and all(len(s) == 9 for s in sizes)


def test_fcn_trains_by_what_mocos_appendix_names():
    """MoCo, appendix: no warm-up, no precise BN."""
    assert not {"warmup", "precise_bn"} & set(resolved("cityscapes_semseg_fcn"))
    assert {"warmup", "precise_bn"} <= set(resolved("cityscapes_maskrcnn_fpn"))


def test_fcn_has_stride_16_and_pixels_without_label_do_not_count():
    """docs/protocols.md: stride 16; MoCo, appendix."""
    init_default_scope("mmdet")
    model = MODELS.build(resolve(load_task("cityscapes_semseg_fcn"), "resnet18", 19).model).eval()
    with torch.no_grad():
        features = model.extract_feat(torch.zeros(1, 3, 97, 97))
        assert model.head(features).shape == (1, 19, 7, 7)
        labels = torch.zeros(1, 97, 97, dtype=torch.long)
        whole = model.head.loss(features, labels)["loss_seg"]
        labels[:, :, 48:] = 255
        half = model.head.loss(features, labels)["loss_seg"]
        none = model.head.loss(features, torch.full_like(labels, 255))["loss_seg"]
    assert none == 0 and torch.isfinite(whole) and half == pytest.approx(float(whole), rel=0.2)
