"""Semantic segmentation: maps in Cityscapes' folders, predictions at images' own size, mIoU against scikit-learn."""
import json

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.registry import init_default_scope
from PIL import Image
from sklearn.metrics import jaccard_score

from benchmarks.data.checks import check_maps
from benchmarks.data.coco import DataError
from benchmarks.detection import semantic
from benchmarks.detection.evaluate import score
from benchmarks.task import load_task, resolve

CLASSES = ("road", "car", "sky")


@pytest.fixture
def street(tmp_path):
    """Two images of different size in two cities, with label maps; a pixel in ten has no label."""
    draw = np.random.default_rng(0)
    for city, name, size in (("aachen", "a", (40, 64)), ("bonn", "b", (48, 56))):
        labels = draw.integers(0, 3, size, np.uint8)
        labels[draw.random(size) < 0.1] = 255
        for folder, suffix, pixels in (("images", "leftImg8bit", draw.integers(0, 256, (*size, 3), np.uint8)),
                                       ("maps", "labelTrainIds", labels)):
            (tmp_path / folder / city).mkdir(parents=True)
            Image.fromarray(pixels).save(tmp_path / folder / city / f"{name}_{suffix}.png")
    return tmp_path


def dataset(street, pipeline):
    init_default_scope("mmdet")
    return DATASETS.build(dict(
        type="SemanticDataset", ann_file=str(street / "maps"), data_prefix=dict(img=f"{street / 'images'}/"),
        metainfo=dict(classes=CLASSES), pipeline=pipeline, test_mode=True, backend_args=None))


@pytest.fixture(scope="module")
def config():
    return resolve(load_task("cityscapes_semseg_fcn"), "resnet18", 3,
                   {"data.crop_size": (33, 33), "data.image_size": (64, 48)})


def test_training_crops_have_one_size_and_filled_pixels_no_label(street, config):
    data = dataset(street, config.train_pipeline)
    seen = [data[i % 2] for i in range(12)]
    for item in seen:
        labels = item["data_samples"].gt_sem_seg.sem_seg
        assert item["inputs"].shape == (3, 33, 33) and labels.shape == (1, 33, 33)
        assert set(labels.unique().tolist()) <= {0, 1, 2, 255}
        filled = (item["inputs"] == torch.tensor([104, 116, 124]).view(3, 1, 1)).all(0)  # the mean pixel, BGR, rounded
        assert (labels[0][filled] == 255).float().mean() > 0.9 or not filled.any()


def test_the_whole_path_scores_what_scikit_learn_does(street, config, tmp_path):
    data = dataset(street, config.test_pipeline)
    model = MODELS.build(config.model).eval()
    metric = semantic.SemanticMetric(outfile_prefix=str(tmp_path / "detections"))
    metric.dataset_meta = dict(classes=CLASSES)
    truth, found = [], []
    for i in range(2):
        item = data[i]
        batch = model.data_preprocessor(dict(inputs=[item["inputs"]], data_samples=[item["data_samples"]]))
        with torch.no_grad():
            [sample] = model(**batch, mode="predict")
        metric.process({}, [sample.to_dict()])
        truth.append(item["data_samples"].gt_sem_seg.sem_seg.flatten())
        found.append(sample.pred_sem_seg.sem_seg.flatten())
        assert sample.pred_sem_seg.sem_seg.shape[1:] == sample.ori_shape
    metric.evaluate(2)
    metrics, per_class = score("mIoU", None, tmp_path)
    truth, found = torch.cat(truth).numpy(), torch.cat(found).numpy()
    kept = truth != 255
    expected = jaccard_score(truth[kept], found[kept], average=None, labels=[0, 1, 2])
    assert list(per_class.values()) == pytest.approx((100 * expected).tolist())
    assert metrics["mIoU"] == pytest.approx(100 * expected.mean())
    confusion = np.array(json.loads((tmp_path / "detections.mIoU.json").read_text())["confusion"])
    assert confusion.sum() == kept.sum()


def test_a_missing_or_cut_map_is_named(street):
    check_maps(street / "images", street / "maps")
    path = street / "maps" / "bonn" / "b_labelTrainIds.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"1 file \(b_leftImg8bit labelTrainIds\) truncated"):
        check_maps(street / "images", street / "maps")
    path.unlink()
    with pytest.raises(DataError, match=r"1 file .* missing; prepare them again"):
        check_maps(street / "images", street / "maps")
    with pytest.raises(DataError, match="no images named"):
        check_maps(street / "nowhere", street / "maps")
