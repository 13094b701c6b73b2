"""Choices in which mmdet and detectron2 differ: ours against naive readings of what detectron2 documents."""
import json
from types import SimpleNamespace

import cv2
import numpy as np
import pycocotools.mask as coco_masks
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.nn import functional as F
from torchvision.ops import box_iou, generalized_box_iou, sigmoid_focal_loss

from benchmarks.detection import anchors, instances, keypoints, modules, runner  # noqa: F401 - register themselves
from benchmarks.task import load_task, resolve

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


@pytest.fixture(scope="module", autouse=True)
def scope():
    init_default_scope("mmdet")


def model_of(task, arch="resnet18", classes=3):
    return resolve(load_task(task), arch, classes).model


def boxes_of(draw, count, size=100):
    corner = draw.uniform(0, size * 0.7, (count, 2))
    return torch.tensor(np.concatenate([corner, corner + draw.uniform(5, size * 0.3, (count, 2))], 1)).float()


# ---- anchors and matching


def test_anchors_beyond_an_images_padding_are_background_like_others():
    """Two images of one batch, 128 x 96 pixels: the smaller one's anchors in the larger one's area count too."""
    model = model_of("coco_maskrcnn_c4")
    head = MODELS.build(model.rpn_head | dict(train_cfg=model.train_cfg.rpn, test_cfg=model.test_cfg.rpn))
    metas = [dict(img_shape=shape, pad_shape=shape, batch_input_shape=(128, 96)) for shape in ((128, 96), (64, 40))]
    everywhere, flags = head.get_anchors([(8, 6)], metas, device="cpu")
    assert [int(flag.sum()) for [flag] in flags] == [8 * 6 * 15] * 2
    truth = [InstanceData(bboxes=torch.tensor([[4.0, 4, 36, 36]]), labels=torch.tensor([0])) for _ in metas]
    head.sampler.num = 10_000  # all that count are sampled
    [_, weights, *_] = head.get_targets(everywhere, flags, truth, metas)
    ious = box_iou(truth[0].bboxes, everywhere[0][0]).max(0).values
    counted = (ious < 0.3) | (ious >= 0.7) | (ious == ious.max())
    assert weights[0].tolist() == [counted.float().tolist()] * 2


def naive_match(overlaps, low, high, low_quality):
    """1 + the object of each box, 0 for background, -1 for neither: detectron2's Matcher, box by box."""
    found = []
    for box in overlaps.T.tolist():
        best = max(range(len(box)), key=lambda i: box[i])  # the first of equals
        found.append(1 + best if box[best] >= high else 0 if box[best] < low else -1)
    if low_quality:
        for row in overlaps.tolist():
            for i, overlap in enumerate(row):
                if overlap == max(row):
                    column = overlaps[:, i].tolist()
                    found[i] = 1 + column.index(max(column))
    return found


@pytest.mark.parametrize("low, high, low_quality", [(0.3, 0.7, True), (0.4, 0.5, True), (0.5, 0.5, False)])
def test_matches_are_detectron2s(low, high, low_quality):
    assigner = anchors.BestMatchAssigner(high, low, min_pos_iou=0.0 if low_quality else high,
                                         match_low_quality=low_quality)
    draw, overwritten = np.random.default_rng(0), 0
    for _ in range(200):
        overlaps = torch.tensor(draw.integers(0, 11, (draw.integers(1, 5), 12)) / 10)  # ties, zeros
        labels = torch.tensor(draw.integers(0, 9, len(overlaps)))
        found = assigner.assign_wrt_overlaps(overlaps, labels)
        expected = naive_match(overlaps, low, high, low_quality)
        assert found.gt_inds.tolist() == expected
        assert found.labels.tolist() == [int(labels[i - 1]) if i > 0 else -1 for i in expected]
        mmdets = super(anchors.BestMatchAssigner, assigner).assign_wrt_overlaps(overlaps, labels)
        overwritten += mmdets.gt_inds.tolist() != expected
    assert (overwritten > 50) == low_quality and assigner.match_low_quality == low_quality
    none = assigner.assign_wrt_overlaps(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert none.gt_inds.tolist() == [0] * 5


@pytest.mark.parametrize("growth, expected", [(1000 / 16, 62.5), (100000 / 16, 6250)])
def test_boxes_may_grow_so_far_and_shrink_without_end(growth, expected):
    coder = anchors.DeltaCoder(target_stds=[0.1, 0.1, 0.2, 0.2], growth=growth, clip_border=False)
    box = torch.tensor([[10.0, 20, 30, 60]])
    centre = torch.tensor([20.0, 40])
    for delta, width in ((50.0, 20 * expected), (-50.0, 20 * np.exp(-10)), (1.0, 20 * np.exp(0.2))):
        decoded = coder.decode(box, torch.tensor([[0.5, -1.0, delta, 0]]))[0]
        middle = centre + torch.tensor([0.05 * 20, -0.1 * 40])
        half = torch.tensor([float(width) / 2, 20])
        torch.testing.assert_close(decoded, torch.cat([middle - half, middle + half]), rtol=1e-4, atol=1e-4)
    draw = np.random.default_rng(0)
    a, b = boxes_of(draw, 20), boxes_of(draw, 20)
    torch.testing.assert_close(coder.decode(a, coder.encode(a, b)), b)
    clipped = anchors.DeltaCoder().decode(box, torch.tensor([[0.0, 0, 9, 9] * 2]), max_shape=(50, 40))
    assert clipped.tolist() == [[0, 0, 40, 50] * 2]


# ---- RetinaNet's normaliser


def retina(parts=1):
    model = model_of("coco_retinanet_fpn")
    torch.manual_seed(0)
    return MODELS.build(model.bbox_head | dict(parts=parts, feat_channels=8, in_channels=8, stacked_convs=1,
                                               train_cfg=model.train_cfg, test_cfg=model.test_cfg))


def retina_batch(draw, images):
    """Predictions of two images of 64 x 64 pixels, and objects."""
    levels = [8, 4, 2, 1, 1]
    scores = [torch.tensor(draw.normal(0, 1, (images, 27, s, s)), dtype=torch.float32) for s in levels]
    deltas = [torch.tensor(draw.normal(0, 1, (images, 36, s, s)), dtype=torch.float32) for s in levels]
    truth = [InstanceData(bboxes=boxes_of(draw, n := int(draw.integers(1, 4)), 64),
                          labels=torch.tensor(draw.integers(0, 3, n))) for _ in range(images)]
    return scores, deltas, truth


def sums(head, scores, deltas, truth):
    """Focal and L1 losses over a batch, undivided, and its positives, as detectron2's RetinaNet computes them."""
    priors = torch.cat(head.prior_generator.grid_priors([s.shape[-2:] for s in scores], device="cpu"))
    focal, distance, positives = 0.0, 0.0, 0
    for i, objects in enumerate(truth):
        logits = torch.cat([s[i].permute(1, 2, 0).reshape(-1, 3) for s in scores])
        found = torch.cat([d[i].permute(1, 2, 0).reshape(-1, 4) for d in deltas])
        of = torch.tensor(naive_match(box_iou(objects.bboxes, priors), 0.4, 0.5, True))
        target = F.one_hot(torch.where(of > 0, objects.labels[of.clamp(min=1) - 1], 3), 4)[:, :3].float()
        focal += sigmoid_focal_loss(logits, target, 0.25, 2, reduction="none")[of >= 0].sum().item()
        wanted = head.bbox_coder.encode(priors[of > 0], objects.bboxes[of[of > 0] - 1])
        distance += (found[of > 0] - wanted).abs().sum().item()
        positives += int((of > 0).sum())
    return focal, distance, positives


def losses_of(head, scores, deltas, truth):
    metas = [dict(img_shape=(64, 64), pad_shape=(64, 64))] * len(truth)
    losses = head.loss_by_feat(scores, deltas, truth, metas)
    return [sum(losses[name]).item() for name in ("loss_cls", "loss_bbox")]


def test_retinanets_losses_are_divided_by_a_moving_average_from_100():
    head, draw, average = retina(), np.random.default_rng(0), 100
    for _ in range(4):
        batch = retina_batch(draw, 2)
        focal, distance, positives = sums(head, *batch)
        average = 0.9 * average + 0.1 * max(positives, 1)
        assert losses_of(head, *batch) == pytest.approx([focal / average, distance / average], rel=1e-5)
    scores, deltas, _ = batch
    nothing = [InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))] * 2
    found = losses_of(head, scores, deltas, nothing)
    average = 0.9 * average + 0.1
    every = torch.cat([s.flatten() for s in scores])
    expected = sigmoid_focal_loss(every, torch.zeros_like(every), 0.25, 2, reduction="sum").item() / average
    assert found == pytest.approx([expected, 0], rel=1e-5)


def test_parts_that_take_turns_have_averages_of_their_own():
    whole, alone, draw = retina(parts=2), [retina(), retina()], np.random.default_rng(1)
    for i in range(6):
        batch = retina_batch(draw, 1)
        assert losses_of(whole, *batch) == losses_of(alone[i % 2], *batch)
    averages = [float(head.positives) for head in alone]
    assert whole.positives.tolist() == [averages] and averages[0] != averages[1]
    resumed = retina(parts=4)  # the same images in other parts: as many positives in all
    resumed.load_state_dict(whole.state_dict())
    torch.testing.assert_close(resumed.positives, torch.full((1, 4), sum(averages) / 4))


# ---- masks


def naive_target(polygons, box, size):
    """detectron2's rasterisation: polygons in the box's own coordinates, drawn at the target's size."""
    width, height = max(box[2] - box[0], 0.1), max(box[3] - box[1], 0.1)
    moved = []
    for polygon in polygons:
        points = [((x - box[0]) * size / width, (y - box[1]) * size / height)
                  for x, y in zip(polygon[::2], polygon[1::2])]
        moved.append([float(v) for point in points for v in point])
    return coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(moved, size, size)))


def test_mask_targets_are_drawn_from_polygons():
    draw = np.random.default_rng(0)
    angles = np.sort(draw.uniform(0, 2 * np.pi, (6, 9)), 1)
    polygons = [np.stack([30 + draw.uniform(5, 25) * np.cos(a), 30 + draw.uniform(5, 25) * np.sin(a)], 1).ravel()
                for a in angles]
    masks = [polygons[:1], polygons[1:3], polygons[3:]]
    boxes = torch.cat([boxes_of(draw, 7, 60), torch.tensor([[20.0, 20, 20.02, 40]])])
    of = torch.tensor(draw.integers(0, 3, 8))
    model = model_of("coco_maskrcnn_fpn")
    head = MODELS.build(model.roi_head.mask_head)
    sampled = SimpleNamespace(pos_priors=boxes, pos_assigned_gt_inds=of)
    empty = SimpleNamespace(pos_priors=boxes[:0], pos_assigned_gt_inds=of[:0])
    truth = InstanceData(masks=PolygonMasks(masks, 64, 64))
    targets = head.get_targets([sampled, empty], [truth, truth], model.train_cfg.rcnn)
    expected = [naive_target(masks[i], box, 28) for i, box in zip(of.tolist(), boxes.double().tolist())]
    np.testing.assert_array_equal(targets, expected)
    assert 0.05 < targets.mean() < 0.95

    bitmaps = np.stack([coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(
        [p.tolist() for p in mask], 64, 64))) for mask in masks])
    truth = InstanceData(masks=BitmapMasks(bitmaps, 64, 64))
    drawn, cut = targets[:7], head.get_targets([sampled], [truth], model.train_cfg.rcnn)[:7]
    assert 0 < (drawn != cut).float().mean() < 0.1


def test_a_rectangles_target_is_its_half_of_the_box():
    half = modules.drawn_within([np.array([10.0, 0, 30, 0, 30, 20, 10, 20])], np.array([20.0, 0, 40, 20]), 28)
    assert half[:, :14].all() and not half[:, 14:].any()


# ---- what is trained on

SQUARE = [[2, 2, 30, 2, 30, 30, 2, 30]]
OBJECTS = {  # name -> annotation; those of detectron2's choice begin with "kept"
    "kept": dict(bbox=[2, 2, 28, 28], segmentation=SQUARE),
    "kept, thinner than a pixel": dict(bbox=[5, 5, 0.4, 20], segmentation=SQUARE),
    "kept, partly outside": dict(bbox=[90, 70, 30, 30], segmentation=SQUARE),
    "kept, one good polygon of two": dict(bbox=[3, 3, 9, 9], segmentation=[[1, 1, 2, 2], *SQUARE]),
    "without area": dict(bbox=[5, 5, 0, 20], segmentation=SQUARE),
    "outside": dict(bbox=[101, 5, 20, 20], segmentation=SQUARE),
    "outside but for a trace": dict(bbox=[100 - 1e-6, 5, 20, 20], segmentation=SQUARE),
    "crowd": dict(bbox=[2, 2, 50, 50], iscrowd=1, segmentation=dict(size=[80, 100], counts=[8000])),
    "of two points": dict(bbox=[2, 2, 28, 28], segmentation=[[1, 1, 2, 2]]),
}


def dataset(folder, images, pipeline=(), kind="InstanceDataset", **kwargs):
    """A data set of images of 100 x 80 pixels, each a list of annotations."""
    entries = [dict(id=i, file_name=f"{i}.png", width=100, height=80) for i in range(len(images))]
    annotations = [dict(iscrowd=0, category_id=1, area=100, image_id=i) | annotation
                   for i, image in enumerate(images) for annotation in image]
    annotations = [annotation | dict(id=n + 1) for n, annotation in enumerate(annotations)]
    (folder / "a.json").write_text(json.dumps(dict(images=entries, annotations=annotations,
                                                   categories=[dict(id=1, name="thing")])))
    for entry in entries:
        cv2.imwrite(str(folder / entry["file_name"]), np.zeros((80, 100, 3), np.uint8))
    return DATASETS.build(dict(type=kind, ann_file=str(folder / "a.json"), data_prefix=dict(img=f"{folder}/"),
                               metainfo=dict(classes=("thing",)), pipeline=list(pipeline), **kwargs))


def test_objects_are_those_that_detectron2_keeps(tmp_path):
    data = dataset(tmp_path, [list(OBJECTS.values())])
    kept = [value for name, value in OBJECTS.items() if name.startswith("kept")]
    found = data.get_data_info(0)["instances"]
    assert [o["bbox"] for o in found] == [[x, y, x + w, y + h] for x, y, w, h in (o["bbox"] for o in kept)]
    assert [[np.asarray(polygon).tolist() for polygon in o["mask"]] for o in found] == [SQUARE] * 4


def test_images_without_objects_or_with_crowds_alone_are_left_out_of_training(tmp_path):
    images = [[OBJECTS["kept"]], [], [OBJECTS["crowd"]], [OBJECTS["without area"]], [OBJECTS["of two points"]]]
    kept = [info["img_id"] for info in dataset(tmp_path, images, filter_cfg=dict(filter_empty_gt=True))]
    assert kept == [0, 3]  # detectron2 looks for crowds before it looks for boxes without area
    assert len(dataset(tmp_path, images, filter_cfg=dict(filter_empty_gt=False))) == 5
    assert len(dataset(tmp_path, images, test_mode=True, filter_cfg=dict(filter_empty_gt=True))) == 5


def test_polygons_follow_the_image_and_rle_masks_are_bitmaps(tmp_path):
    steps = [dict(type="LoadImageFromFile"), dict(type="LoadInstances", with_bbox=True, with_mask=True),
             dict(type="RandomChoiceResize", scales=[(200, 120)], keep_ratio=True), dict(type="RandomFlip", prob=1.0),
             dict(type="PackDetInputs")]
    rle = coco_masks.encode(np.asfortranarray(np.pad(np.ones((20, 30), np.uint8), ((10, 50), (5, 65)))))
    images = [[OBJECTS["kept"], OBJECTS["kept, one good polygon of two"], OBJECTS["crowd"]],
              [OBJECTS["kept"], dict(bbox=[5, 10, 30, 20], segmentation=rle | dict(counts=rle["counts"].decode()))],
              [OBJECTS["crowd"]]]
    data = dataset(tmp_path, images, steps)
    drawn, mixed, none = (data[i]["data_samples"].gt_instances for i in range(3))
    expected = np.array(SQUARE[0], float).reshape(-1, 2) * 1.5  # 100 x 80 to 150 x 120
    expected[:, 0] = 150 - expected[:, 0]
    assert isinstance(drawn.masks, PolygonMasks) and (drawn.masks.height, drawn.masks.width) == (120, 150)
    for mask in drawn.masks.masks:
        [polygon] = mask
        np.testing.assert_allclose(polygon, expected.ravel())
    assert isinstance(mixed.masks, BitmapMasks)
    assert mixed.masks.masks.sum((1, 2)).tolist() == [42 * 42, 45 * 30]
    assert len(none.masks) == 0 and isinstance(none.masks, PolygonMasks)


def test_crops_leave_boxes_with_area_and_images_without_any(tmp_path):
    """Sparse R-CNN's crops: a crop may miss every object, and what it cuts off leaves no empty box."""
    steps = resolve(load_task("coco_sparsercnn"), "resnet18", 1, {
        "data.short_sides": [60, 80], "data.max_side": 120, "data.crop_sides": [70, 90], "data.crop_size": (30, 60)})
    boxes = [dict(bbox=[5, 5, 10, 10]), dict(bbox=[90, 70, 20, 20])]
    data = dataset(tmp_path, [boxes], steps.train_pipeline)
    np.random.seed(0)
    counts = []
    for _ in range(60):
        sample = data[0]["data_samples"]
        found = sample.gt_instances.bboxes.tensor
        height, width = sample.img_shape
        assert ((found[:, 2:] - found[:, :2]) > 1e-5).all()
        assert (found >= 0).all() and (found <= torch.tensor([width, height] * 2)).all()
        counts.append(len(found))
    assert set(counts) == {0, 1, 2}


# ---- initial weights


@pytest.mark.parametrize("task", ["coco_maskrcnn_fpn", "coco_keypointrcnn_fpn", "coco_maskrcnn_fpn_4conv1fc",
                                  "coco_retinanet_fpn", "coco_sparsercnn"])
def test_xavier_goes_by_inputs_alone(task):
    """detectron2's c2_xavier_fill: kaiming_uniform_ with a = 1, so a bound of sqrt(3 / inputs)."""
    model = MODELS.build(model_of(task, "resnet50"))
    model.neck.init_weights()
    layers = dict(model.neck.named_parameters(prefix="neck"))
    if task not in ("coco_retinanet_fpn", "coco_sparsercnn"):
        model.roi_head.bbox_head.init_weights()
        layers |= dict(model.roi_head.bbox_head.shared_fcs.named_parameters(prefix="fc"))
        assert model.roi_head.bbox_head.fc_cls.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert model.roi_head.bbox_head.fc_reg.weight.std().item() == pytest.approx(0.001, rel=0.05)
    weights = {name: p.detach() for name, p in layers.items() if p.dim() > 1}
    assert len(weights) >= 8
    for name, weight in weights.items():
        bound = (3 / weight[0].numel()) ** 0.5
        assert weight.abs().max() <= bound and weight.abs().max() > 0.99 * bound, name
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02), name
    assert not any(p.any() for name, p in layers.items() if p.dim() == 1 and name.endswith("bias"))


# ---- Sparse R-CNN


def sparse():
    model = model_of("coco_sparsercnn")
    torch.manual_seed(0)
    return MODELS.build(model.roi_head | dict(train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn)), model


@pytest.mark.parametrize("objects", [0, 1, 3])
def test_sparse_losses_are_divided_by_the_boxes_and_at_least_by_one(objects):
    """Two images of four proposals, the first `objects` matched: the authors' focal, L1 and GIoU losses."""
    head, draw = sparse()[0].bbox_head[0], np.random.default_rng(0)
    logits, boxes, truth = torch.randn(8, 3), boxes_of(draw, 8), boxes_of(draw, objects)
    sides = torch.tensor([100.0, 80, 100, 80]).expand(2, 4, 4)
    sampling = []
    for start in (0, 4):
        of = torch.arange(start, min(objects, start + 4)) if start < objects else torch.zeros(0, dtype=torch.long)
        rest = torch.tensor([i for i in range(4) if i + start >= objects], dtype=torch.long)
        sampling.append(SimpleNamespace(
            pos_inds=of - start, neg_inds=rest, pos_priors=boxes[of], neg_priors=boxes[rest + start],
            pos_gt_bboxes=truth[of], pos_gt_labels=torch.ones(len(of), dtype=torch.long)))
    losses = head.loss_and_target(logits, boxes, sampling, model_of("coco_sparsercnn").train_cfg.rcnn[0],
                                  imgs_whwh=sides)["loss_bbox"]
    target = torch.zeros(8, 3)
    target[:objects, 1] = 1
    count = max(objects, 1)
    assert losses["loss_cls"].item() == pytest.approx(
        2 * sigmoid_focal_loss(logits, target, 0.25, 2, reduction="sum").item() / count, rel=1e-5)
    distance = ((boxes[:objects] - truth) / torch.tensor([100.0, 80, 100, 80])).abs().sum().item()
    assert losses["loss_bbox"].item() == pytest.approx(5 * distance / count, rel=1e-5)
    giou = (1 - generalized_box_iou(boxes[:objects], truth).diag()).sum().item()
    assert losses["loss_iou"].item() == pytest.approx(2 * giou / count, rel=1e-5)


def test_sparse_detections_end_at_the_border_and_proposals_between_stages_do_not(monkeypatch):
    head, model = sparse()
    coders = [stage.bbox_coder for stage in head.bbox_head]
    assert all(not c.clip_border and c.box_coder.bbox_xform_clip == pytest.approx(np.log(100000 / 16)) for c in coders)
    meta = dict(img_shape=(80, 100), ori_shape=(40, 50), scale_factor=(2.0, 2.0))
    found = torch.tensor([[-10.0, 10, 30, 200], [10, 10, 20, 20], [120, 10, 130, 20]])

    def forward(self, *args):
        return dict(cls_score=torch.eye(3)[None] * 9, object_feats=None, detached_proposals=[found])

    monkeypatch.setattr(type(head), "_bbox_forward", forward)
    head.test_cfg.max_per_img = 3
    for rescale, expected in ((True, [[0, 5, 15, 40], [5, 5, 10, 10]]), (False, [[0, 10, 30, 80], [10, 10, 20, 20]])):
        proposals = [InstanceData(bboxes=found, features=torch.zeros(3, 256))]
        [result] = head.predict_bbox((torch.zeros(1),), [meta], proposals, model.test_cfg.rcnn, rescale)
        assert sorted(result.bboxes.tolist()) == sorted(expected) and sorted(result.labels.tolist()) == [0, 1]


def test_a_frozen_schedule_freezes_norms_and_first_stage():
    """detectron2's defaults, which the published supervised row ran with: FrozenBN, FREEZE_AT 2 (stem and res2)."""
    task = resolve(load_task("coco_sparsercnn"), "resnet18", 3)
    frozen = runner._model(task.model.to_dict(), task.schedules["3x-frozen"]["frozen"], 1, False)
    backbone = MODELS.build(frozen["backbone"])
    backbone.train()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training or m.weight.requires_grad or m.bias.requires_grad for m in norms)
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    plain = MODELS.build(runner._model(task.model.to_dict(), False, 1, False)["backbone"])
    assert all(p.requires_grad for p in plain.parameters())
