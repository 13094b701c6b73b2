"""Keypoint R-CNN: against torchvision's own heads and pycocotools' OKS; data, transforms and a step of the detector."""
import copy
import json
from collections import OrderedDict
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmdet.structures.bbox import bbox2roi
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection import keypointrcnn_resnet50_fpn
from torchvision.models.detection.roi_heads import keypoints_to_heatmap

from benchmarks.data.checks import check_keypoints
from benchmarks.data.coco import DataError
from benchmarks.data.synthetic import draw_scenes
from benchmarks.detection import keypoints as kp  # before mmdet
from benchmarks.detection.evaluate import KEYPOINT_NAMES, NAMES, coco_metrics
from benchmarks.task import load_task, resolve

# pytest resets the filters that mmcv_ops.install() sets.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadKeypointAnnotations")]
PACK = [dict(type="PackKeypointInputs")]
FLIP = dict(type="RandomFlip", prob=1.0)
TINY = {"data.short_sides": [96], "data.max_side": 160, "data.test_short_side": 96, "data.test_max_side": 160,
        "model.train_cfg.rpn_proposal.max_per_img": 50, "model.train_cfg.rcnn.sampler.num": 16,
        "model.test_cfg.rpn.max_per_img": 10, "model.test_cfg.rcnn.max_per_img": 5,
        "model.roi_head.keypoint_head.channels": 32}


@pytest.fixture(scope="module", autouse=True)
def scope():
    init_default_scope("mmdet")


@pytest.fixture(scope="module")
def persons(tmp_path_factory):
    """A folder of eight synthetic scenes, and the annotations of their persons."""
    folder = tmp_path_factory.mktemp("persons")
    images, coco = draw_scenes(8)
    for image, entry in zip(images, coco["images"]):
        cv2.imwrite(str(folder / entry["file_name"]), image[..., ::-1])
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] == 1]
    coco["categories"] = coco["categories"][:1]
    return folder, coco


def dataset(folder, coco, transforms, **kwargs):
    """A KeypointDataset of the annotations, written to persons.json; all the images where it is not for training."""
    (folder / "persons.json").write_text(json.dumps(coco))
    return DATASETS.build(dict(
        type="KeypointDataset", ann_file=str(folder / "persons.json"), data_prefix=dict(img=f"{folder}/"),
        metainfo=dict(classes=("person",)), pipeline=transforms, **(dict(test_mode=True) | kwargs)))


def truth_of(coco, image):
    """[N, 17, 3] as annotated."""
    return np.float32([a["keypoints"] for a in coco["annotations"] if a["image_id"] == image]).reshape(-1, 17, 3)


def roi_head():
    model = resolve(load_task("coco_keypointrcnn_fpn"), "resnet50", 1).model
    return MODELS.build(model.roi_head | dict(train_cfg=model.train_cfg.rcnn, test_cfg=model.test_cfg.rcnn))


# ---- against torchvision


@pytest.fixture(scope="module")
def pair():
    """Our RoI head and torchvision's, with one set of keypoint weights and one RoIAlign; features of two images."""
    torch.manual_seed(0)
    ours, theirs = roi_head(), keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None).roi_heads
    theirs.keypoint_head.load_state_dict(ours.keypoint_head.convs.state_dict())
    theirs.keypoint_predictor.load_state_dict(ours.keypoint_head.predictor.state_dict())
    extractor = ours.keypoint_roi_extractor  # torchvision's samples at other points: aligned=False, two a bin
    theirs.keypoint_roi_pool.forward = lambda x, boxes, shapes: extractor(list(x.values()), bbox2roi(boxes))
    theirs.detections_per_img, theirs.nms_thresh = 4, 1.0
    features = [torch.randn(2, 256, 64 // 2**i, 64 // 2**i) for i in range(4)]
    return ours, theirs, features


def targets():
    """(boxes, proposals that overlap them, keypoints in and around them) of each image."""
    generator = torch.Generator().manual_seed(1)
    for count in (2, 3):
        corner = torch.rand(count, 2, generator=generator) * 100
        boxes = torch.cat([corner, corner + 60 + torch.rand(count, 2, generator=generator) * 60], 1)
        proposals = boxes + torch.randn(count, 4, generator=generator) * 4
        points = corner[:, None] - 10 + torch.rand(count, 17, 2, generator=generator) * 110
        visible = torch.randint(0, 3, (count, 17, 1), generator=generator).float()
        yield boxes, proposals, torch.cat([points, visible], 2)


def named(features):
    return OrderedDict((str(i), feature) for i, feature in enumerate(features))


def test_loss_and_gradients_are_torchvisions(pair):
    ours, theirs, features = pair
    boxes, proposals, points = zip(*targets())
    truth = [dict(boxes=b, keypoints=k, labels=torch.ones(len(b), dtype=torch.long)) for b, k in zip(boxes, points)]
    sampled, matched, labels, _ = theirs.train().select_training_samples(list(proposals), truth)
    assert sum(int((found > 0).sum()) for found in labels) == 10  # a proposal and its truth
    sampling = [SimpleNamespace(pos_priors=s[found > 0], pos_assigned_gt_inds=m[found > 0])
                for s, m, found in zip(sampled, matched, labels)]
    x = [feature.clone().requires_grad_() for feature in features]
    y = [feature.clone().requires_grad_() for feature in features]
    loss = ours.mask_loss(x, sampling, None, [InstanceData(keypoints=k) for k in points])["loss_mask"]["loss_keypoint"]
    reference = theirs(named(y), list(proposals), [(256, 256)] * 2, truth)[1]["loss_keypoint"]
    loss.backward()
    reference.backward()
    mine = [p.grad for p in (*x, *ours.keypoint_head.parameters())]
    their = [p.grad for p in (*y, *theirs.keypoint_head.parameters(), *theirs.keypoint_predictor.parameters())]
    largest = max(float((a - b).abs().max()) for a, b in zip(mine, their, strict=True))
    print(f"largest difference: loss {abs(loss.item() - reference.item())}, gradients {largest}")
    assert loss > 1 and abs(loss.item() - reference.item()) <= 1e-6 and largest <= 1e-6
    assert all(p.grad.abs().sum() > 0 for p in ours.keypoint_head.parameters())


def test_decoded_points_are_torchvisions_in_the_original_images_pixels(pair):
    ours, theirs, features = pair
    _, proposals, _ = zip(*targets())
    with torch.no_grad():
        reference, _ = theirs.eval()(named(features), list(proposals), [(256, 256)] * 2)
        found = [InstanceData(bboxes=r["boxes"], scores=r["scores"], labels=r["labels"]) for r in reference]
        metas = [dict(scale_factor=(2.0, 1.6)), dict(scale_factor=(0.5, 0.25))]
        network = ours.predict_mask(features, metas, copy.deepcopy(found), rescale=False)
        original = ours.predict_mask(features, metas, copy.deepcopy(found), rescale=True)
    differences = []
    for own, back, meta, result in zip(network, original, metas, reference):
        scale = torch.tensor(meta["scale_factor"])
        assert len(own) == len(result["boxes"]) > 1
        differences += [float((own.keypoints[..., :2] - result["keypoints"][..., :2]).abs().max()),
                        float((own.keypoints[..., 2] - result["keypoints_scores"]).abs().max())]
        torch.testing.assert_close(own.bboxes, result["boxes"])
        torch.testing.assert_close(back.keypoints[..., :2] * scale, own.keypoints[..., :2])
        torch.testing.assert_close(back.bboxes * scale.repeat(2), own.bboxes)
    print(f"largest difference: points and logits {max(differences)}")
    assert max(differences) <= 1e-6


def test_heat_maps_are_56_wide(pair):
    """docs/protocols.md: RoIAlign 14, 56 x 56 heat maps."""
    ours, _, features = pair
    with torch.no_grad():
        assert ours._mask_forward(features, torch.tensor([[1.0, 0, 0, 99, 99]]))["mask_preds"].shape == (1, 17, 56, 56)


def test_boxes_are_those_of_mmdets_head_without_keypoints(pair):
    ours, _, features = pair
    config = resolve(load_task("coco_keypointrcnn_fpn"), "resnet50", 1).model
    parts = {k: config.roi_head[k] for k in ("bbox_roi_extractor", "bbox_head")}
    plain = MODELS.build(dict(type="StandardRoIHead", test_cfg=config.test_cfg.rcnn, **parts))
    plain.load_state_dict({k: v for k, v in ours.state_dict().items() if not k.startswith("keypoint")})
    samples = [SimpleNamespace(metainfo=dict(img_shape=(256, 256), scale_factor=(2.0, 1.6)))] * 2
    boxes = [InstanceData(bboxes=proposals.clamp(0, 256)) for _, proposals, _ in targets()]
    with torch.no_grad():
        mine, others = (head.eval().predict(features, boxes, samples, rescale=True) for head in (ours, plain))
    for own, other in zip(mine, others):
        torch.testing.assert_close(own.bboxes, other.bboxes)
        torch.testing.assert_close(own.scores, other.scores)


def test_without_visible_keypoints_the_loss_is_zero_and_connected(pair):
    ours, _, features = pair
    for positives in (2, 0):
        ours.zero_grad()
        sampling = [SimpleNamespace(pos_priors=torch.tensor([[10.0, 10, 90, 90]]).repeat(positives, 1),
                                    pos_assigned_gt_inds=torch.zeros(positives, dtype=torch.long))]
        truth = [InstanceData(keypoints=torch.tensor([50.0, 50, 0]).repeat(1, 17, 1))]
        loss = ours.mask_loss(features, sampling, None, truth)["loss_mask"]["loss_keypoint"]
        loss.backward()
        assert loss == 0 and all(p.grad is not None for p in ours.keypoint_head.parameters())


# ---- the data set


def test_instances_keep_their_keypoints_though_flat_boxes_are_left_out(persons):
    folder, coco = persons[0], copy.deepcopy(persons[1])
    image = coco["annotations"][0]["image_id"]
    flat = coco["annotations"][0] | dict(id=10_000, bbox=[5, 5, 0, 9], keypoints=[9, 9, 2] * 17)
    coco["annotations"].insert(0, flat)
    [info] = [info for info in dataset(folder, coco, []) if info["img_id"] == image]
    expected = truth_of(coco, image)[1:] + [0.5, 0.5, 0]
    np.testing.assert_array_equal([instance["keypoints"] for instance in info["instances"]], expected)


def test_training_leaves_out_images_without_visible_keypoints_and_testing_does_not(persons):
    folder, coco = persons[0], copy.deepcopy(persons[1])
    images = sorted({a["image_id"] for a in coco["annotations"]})
    assert 2 < len(images) < 8  # some scenes have no person at all
    for annotation in coco["annotations"]:
        if annotation["image_id"] == images[0]:
            annotation |= dict(keypoints=[0] * 51, num_keypoints=0)
        if annotation["image_id"] == images[1]:
            annotation["iscrowd"] = 1
    trained = dataset(folder, coco, [], test_mode=False, filter_cfg=dict(filter_empty_gt=True))
    assert [trained.get_data_info(i)["img_id"] for i in range(len(trained))] == images[2:]
    assert len(dataset(folder, coco, [])) == 8


def test_crowds_are_left_out(persons):
    folder, coco = persons[0], copy.deepcopy(persons[1])
    first = coco["annotations"][0]
    coco["annotations"].append(first | dict(id=10_000, iscrowd=1, keypoints=[7, 7, 2] * 17))
    [sample] = [p["data_samples"] for p in dataset(folder, coco, LOAD + PACK)
                if p["data_samples"].img_id == first["image_id"]]
    assert len(sample.ignored_instances) == 0
    np.testing.assert_array_equal(sample.gt_instances.keypoints,
                                  truth_of(persons[1], first["image_id"]) + [0.5, 0.5, 0])


@pytest.mark.parametrize("change, message", [
    (dict(keypoints=[1, 1, 3] * 17), "with a visibility other than 0, 1 or 2"),
    (dict(keypoints=[1, 1, 0.5] * 17), "with a visibility other than 0, 1 or 2"),
    (dict(keypoints=[1, 1, 2] * 16), "whose keypoints are not 51 finite numbers"),
    (dict(keypoints=[float("nan"), 1, 2] * 17), "whose keypoints are not 51 finite numbers"),
    (dict(keypoints=["1", 1, 2] * 17), "whose keypoints are not 51 finite numbers"),
    (dict(keypoints=None), "whose keypoints are not 51 finite numbers"),
    (dict(num_keypoints="absent"), "without num_keypoints"),
])
def test_bad_keypoints_are_one_line_with_file_and_annotations(persons, tmp_path, change, message):
    coco = copy.deepcopy(persons[1])
    for annotation in coco["annotations"][1:3]:
        annotation |= change
        if annotation["num_keypoints"] == "absent":
            del annotation["num_keypoints"]
    ids = [a["id"] for a in coco["annotations"][1:3]]
    path = tmp_path / "persons.json"
    path.write_text(json.dumps(coco))
    with pytest.raises(DataError) as error:
        check_keypoints(path, coco["annotations"])
    assert str(error.value) == f"{path}: 2 annotations ({ids[0]}, {ids[1]}) {message}; remove or mend them"
    with pytest.raises(ValueError, match=f"{path}: .*{ids[0]}.*{message}"):
        dataset(tmp_path, coco, [])


def test_good_keypoints_pass(persons):
    dataset(*persons, [])
    check_keypoints(persons[0] / "persons.json", persons[1]["annotations"])


# ---- transforms


def packed(persons, *transforms):
    """(annotated keypoints [N, 17, 3], packed sample) of the first image with a person."""
    folder, coco = persons
    image = coco["annotations"][0]["image_id"]
    item = dataset(folder, coco, [*LOAD, *transforms, *PACK])[image - 1]
    assert item["data_samples"].img_id == image
    return truth_of(coco, image), item["data_samples"]


def test_names_pair_left_with_right():
    assert [kp.NAMES[i] for i in kp.MIRRORED[:3]] == ["nose", "right_eye", "left_eye"]
    assert kp.MIRRORED == [0] + [i + 1 if i % 2 else i - 1 for i in range(1, 17)]  # left is odd, right follows


@pytest.mark.parametrize("direction, swaps", [("horizontal", True), ("vertical", True), ("diagonal", False)])
def test_a_mirrored_person_swaps_left_and_right_and_a_turned_one_does_not(persons, direction, swaps):
    truth, sample = packed(persons, FLIP | dict(direction=direction))
    height, width = sample.img_shape
    expected = truth[:, [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]] if swaps else truth.copy()
    expected[..., :2] += 0.5
    if direction != "vertical":
        expected[..., 0] = width - expected[..., 0]
    if direction != "horizontal":
        expected[..., 1] = height - expected[..., 1]
    np.testing.assert_allclose(sample.gt_instances.keypoints, expected, atol=1e-4)


def test_a_second_flip_undoes_the_first(persons):
    truth, sample = packed(persons, FLIP, FLIP)
    np.testing.assert_allclose(sample.gt_instances.keypoints, truth + [0.5, 0.5, 0], atol=1e-4)


def test_keypoints_follow_the_image(persons, tmp_path):
    """A white pixel at each keypoint is found where the transforms say, to the pixel."""
    image = np.zeros((40, 60, 3), np.uint8)
    points = np.array([(5 + 3 * i, 8 + i) for i in range(17)])
    image[points[:, 1], points[:, 0]] = 255
    cv2.imwrite(str(tmp_path / "dots.png"), image)
    coco = persons[1] | dict(
        images=[dict(id=1, file_name="dots.png", width=60, height=40)],
        annotations=[dict(id=1, image_id=1, category_id=1, iscrowd=0, bbox=[2, 2, 56, 36], area=2016, num_keypoints=17,
                          keypoints=np.insert(points, 2, 2, axis=1).ravel().tolist())])
    for transforms in ([], [FLIP], [dict(type="RandomCrop", crop_size=(30, 30))],
                       [FLIP, dict(type="RandomCrop", crop_size=(30, 30)), FLIP | dict(direction="vertical")]):
        item = dataset(tmp_path, coco, [*LOAD, *transforms, *PACK])[0]
        found = item["data_samples"].gt_instances.keypoints[0]
        seen = found[found[:, 2] > 0].floor().long()
        assert 0 < len(seen) == (item["inputs"][0] > 0).sum()
        assert (item["inputs"][:, seen[:, 1], seen[:, 0]] == 255).all()


def test_a_resize_scales(persons):
    truth, sample = packed(persons, dict(type="Resize", scale=(333, 400), keep_ratio=False))
    np.testing.assert_allclose(sample.gt_instances.keypoints[..., :2],
                               (truth[..., :2] + 0.5) * sample.scale_factor, rtol=1e-5)
    np.testing.assert_array_equal(sample.gt_instances.keypoints[..., 2], truth[..., 2])
    assert sample.scale_factor[0] != sample.scale_factor[1] > 2


def test_a_crop_keeps_keypoints_with_their_boxes(persons):
    """Two persons far apart: a crop that holds one of them leaves that one's keypoints."""
    instances = [dict(bbox=[x, 10, x + 20, 30], bbox_label=0, ignore_flag=0,
                      keypoints=np.float32([[x + 10, 20, 2]] * 17)) for x in (0, 180)]
    crop = Compose([LOAD[1], dict(type="RandomCrop", crop_size=(40, 40)), *PACK])
    sides = []
    for seed in range(40):
        np.random.seed(seed)
        results = dict(img=np.zeros((40, 200, 3), np.uint8), img_shape=(40, 200), ori_shape=(40, 200), img_path="x",
                       instances=copy.deepcopy(instances))
        if (item := crop(results)) is not None:
            truth = item["data_samples"].gt_instances
            x = float(truth.keypoints[0, 0, 0])
            left = x < 20
            assert len(truth.keypoints) == len(truth.bboxes) == 1
            assert x == (truth.bboxes.tensor[0, 2] - 10 if left else truth.bboxes.tensor[0, 0] + 10)
            assert (truth.keypoints[0, :, 2] == (2 if 0 <= x <= 40 else 0)).all()
            sides.append(left)
    assert True in sides and False in sides


def test_keypoints_outside_the_image_lose_their_visibility():
    points = np.float32([[[10, 10, 2], [-1, 10, 1], [10, 21, 2], [30, 20, 1], [0, 0, 0]]])
    np.testing.assert_array_equal(kp.moved(points, np.eye(3, dtype=np.float32), (20, 30))[0, :, 2], [2, 0, 0, 1, 0])


def test_a_transform_that_drops_boxes_alone_is_refused(persons):
    with pytest.raises(ValueError, match="take out the transform that drops boxes alone"):
        packed(persons, dict(type="FilterAnnotations", min_gt_bbox_wh=(10_000, 1), keep_empty=False))


# ---- the results file and OKS


def evaluated(folder, data, keypoints_of, scores=None):
    """Write results through KeypointMetric; keypoints_of(sample) gives them in the original image, continuous."""
    metric = METRICS.build(dict(type="KeypointMetric", ann_file=data.ann_file, format_only=True,
                                outfile_prefix=str(folder / "detections")))
    metric.dataset_meta = data.metainfo
    for item in data:
        sample = item["data_samples"]
        points, count = keypoints_of(sample), len(sample.gt_instances)
        scale = torch.tensor(sample.scale_factor)
        sample.pred_instances = InstanceData(
            bboxes=sample.gt_instances.bboxes.tensor / scale.repeat(2), scores=torch.linspace(0.9, 0.8, count),
            labels=torch.zeros(count, dtype=torch.long), keypoints=points)
        metric.process({}, [sample.to_dict()])
    metric.evaluate(len(data))
    return folder / "detections.keypoints.json", folder / "detections.bbox.json"


def original(sample):
    return sample.gt_instances.keypoints / torch.tensor([*sample.scale_factor, 1])


def test_ground_truth_as_predictions_scores_100(persons, tmp_path):
    data = dataset(*persons, [*LOAD, dict(type="Resize", scale=(300, 250), keep_ratio=True), *PACK])
    keypoints, boxes = evaluated(tmp_path, data, original)
    for kind, file in (("keypoints", keypoints), ("bbox", boxes)):
        metrics, per_class = coco_metrics(data.ann_file, file, kind)
        names = KEYPOINT_NAMES if kind == "keypoints" else NAMES
        nothing = [name for name in names if metrics[f"{kind}_{name}"] is None]
        assert nothing == [name for name in names if name.endswith("l")]  # no person of the scenes is large
        some = [name for name in names if name not in (*nothing, "AR1", "AR10")]
        assert {name: metrics[f"{kind}_{name}"] for name in some} == pytest.approx(dict.fromkeys(some, 100.0)), kind
        assert per_class == {"person": pytest.approx(100.0)}
    found = json.loads(keypoints.read_text())
    truth = {(a["image_id"], i): a["keypoints"] for image in range(1, 9) for i, a in enumerate(
        a for a in persons[1]["annotations"] if a["image_id"] == image)}
    rank = {}
    for result in found:  # the annotations' own numbers come back, in their order
        i = rank[result["image_id"]] = rank.get(result["image_id"], -1) + 1
        np.testing.assert_allclose(result["keypoints"], truth[result["image_id"], i], atol=1e-3)
        assert sorted(result) == ["category_id", "image_id", "keypoints", "score"] and 0.8 <= result["score"] <= 0.9
    assert len(found) == len(truth)


def test_learned_targets_decode_to_what_was_annotated(persons, tmp_path):
    """Heat maps that are 1 at the loss's target cell, read by our head, give the annotation within a cell, unbiased."""
    head = roi_head()
    data = dataset(*persons, [*LOAD, dict(type="Resize", scale=(800, 640), keep_ratio=True), *PACK])

    def decoded(sample):
        truth = sample.gt_instances
        boxes = truth.bboxes.tensor
        cells, _ = keypoints_to_heatmap(truth.keypoints, boxes, 56)
        maps = torch.nn.functional.one_hot(cells, 56 * 56).float().view(-1, 17, 56, 56)
        head._mask_forward = lambda x, rois: dict(mask_preds=maps)
        [result] = head.predict_mask(None, [sample.metainfo], [InstanceData(bboxes=boxes)], rescale=True)
        return result.keypoints

    keypoints, _ = evaluated(tmp_path, data, decoded)
    assert coco_metrics(data.ann_file, keypoints, "keypoints")[0]["keypoints_AP75"] == pytest.approx(100)
    errors = []
    results = json.loads(keypoints.read_text())
    for image in {r["image_id"] for r in results}:
        found = np.reshape([r["keypoints"] for r in results if r["image_id"] == image], (-1, 17, 3))
        truth = truth_of(persons[1], image)
        boxes = np.float32([a["bbox"] for a in persons[1]["annotations"] if a["image_id"] == image])
        centre = truth[..., :2] + 0.5
        seen = (truth[..., 2] > 0) & ((centre > boxes[:, None, :2]) & (
            centre < boxes[:, None, :2] + boxes[:, None, 2:])).all(-1)
        errors.append((found - truth)[seen][:, :2])
    errors = np.concatenate(errors)
    assert len(errors) > 50 and np.abs(errors).max() < 2 and np.abs(errors.mean(0)).max() < 0.15


@pytest.mark.parametrize("shift", [0.0, 1.5, 3.0, 6.0])
def test_oks_of_handmade_cases(persons, tmp_path, shift):
    """OKS = mean over visible keypoints of exp(-d^2 / (2 area (2 sigma)^2)) (COCO's keypoint evaluation), by hand."""
    folder, coco = tmp_path, copy.deepcopy(persons[1])
    (tmp_path / "000001.png").write_bytes((persons[0] / "000001.png").read_bytes())
    coco["images"] = coco["images"][:1]
    visible = np.array([2, 1, 0, 2] + [1] * 13)
    points = np.stack([np.arange(17) * 3 + 20, np.arange(17) * 2 + 40, visible], 1)
    coco["annotations"] = [dict(id=1, image_id=1, category_id=1, iscrowd=0, bbox=[10, 30, 70, 60], area=2500,
                                num_keypoints=16, keypoints=points.ravel().tolist())]
    data = dataset(folder, coco, [*LOAD, dict(type="Resize", scale=(320, 320), keep_ratio=True), *PACK])
    sigmas = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    oks = np.exp(-shift**2 / (2 * 2500 * (2 * sigmas) ** 2))[visible > 0].mean()
    keypoints, _ = evaluated(tmp_path, data, lambda sample: original(sample) + torch.tensor([0, shift, 0]))
    truth = COCO(data.ann_file)
    evaluation = COCOeval(truth, truth.loadRes(str(keypoints)), "keypoints")
    evaluation.evaluate()
    assert evaluation.ious[1, 1].item() == pytest.approx(oks, abs=1e-5)
    steps = np.linspace(0.5, 0.95, 10)
    mean, half, most = (100 * np.mean(oks >= at) for at in (steps, 0.5, 0.75))  # of one person, recall is precision
    expected = dict(AP=mean, AP50=half, AP75=most, APm=mean, APl=None,
                    AR=mean, AR50=half, AR75=most, ARm=mean, ARl=None)
    metrics = coco_metrics(data.ann_file, keypoints, "keypoints")[0]
    assert metrics == {f"keypoints_{name}": value if value is None else pytest.approx(value)
                       for name, value in expected.items()}


# ---- the detector


@pytest.fixture(scope="module")
def tiny(persons):
    config = resolve(load_task("coco_keypointrcnn_fpn"), "resnet18", 1, TINY)
    torch.manual_seed(0)
    folder, coco = persons
    train = dataset(folder, coco, config.train_pipeline, test_mode=False, filter_cfg=config.data.filter_cfg)
    return MODELS.build(config.model), train, dataset(folder, coco, config.test_pipeline)


def test_a_training_step_is_finite_and_reaches_every_parameter(tiny):
    model, train, _ = tiny
    assert config_of(train) == ["LoadImage", "LoadKeypointAnnotations", "RandomChoiceResize", "RandomFlip",
                                "PackKeypointInputs"]
    batch = model.train().data_preprocessor(pseudo_collate([train[0], train[1]]), True)
    loss, logs = model.parse_losses(model(**batch, mode="loss"))
    loss.backward()
    assert {"loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox", "loss_keypoint"} <= set(logs)
    assert all(torch.isfinite(value) for value in logs.values())
    assert 5 < logs["loss_keypoint"] < 12  # chance is ln(56 * 56) = 8.05
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def config_of(data):
    return [type(transform).__name__ for transform in data.pipeline.transforms]


@pytest.mark.parametrize("threshold, found", [(0.0, True), (1.1, False)])
def test_predictions_are_finite_and_lie_in_their_boxes(tiny, threshold, found):
    model, _, test = tiny
    model.eval().roi_head.test_cfg.score_thr = threshold
    with torch.no_grad():
        samples = model.test_step(pseudo_collate([test[0], test[1]]))
    for sample in samples:
        result = sample.pred_instances
        assert result.keypoints.shape == (len(result), 17, 3) and bool(len(result)) == found
        assert torch.isfinite(result.keypoints).all()
        low, high = result.bboxes[:, None, :2], result.bboxes[:, None, 2:]
        high = torch.maximum(high, low + 1 / min(sample.scale_factor))  # thinner boxes are read as one pixel
        assert ((result.keypoints[..., :2] >= low) & (result.keypoints[..., :2] <= high)).all()
