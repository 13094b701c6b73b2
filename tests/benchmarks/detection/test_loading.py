"""Photos and annotations as detectors get them: boxes lie on their objects, whatever the file says of orientation."""
import json

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import DefaultScope
from PIL import Image

from benchmarks.data.checks import check_coco
from benchmarks.detection.instances import InstanceDataset
from benchmarks.detection.loading import LoadImage
from benchmarks.image_level.features import Squares
from detco.images import decode

BOX = (10, 4, 30, 20)  # left, top, right, bottom; red on grey


@pytest.fixture
def photo(tmp_path):
    """A function that saves a photo of a red box."""
    def save(orientation=1, kind="JPEG"):
        pixels = np.full((48, 64, 3), 128, np.uint8)
        left, top, right, bottom = BOX
        pixels[top:bottom, left:right] = (255, 0, 0)
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{kind.lower()}"
        Image.fromarray(pixels).save(path, kind, exif=exif, quality=95)
        return path
    return save


def red_box(rgb):
    """Where an image [H, W, 3] is red."""
    rows, columns = np.nonzero(rgb[..., 0].astype(int) - rgb[..., 1] > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_boxes_lie_on_their_objects_in_every_path(photo, orientation, kind):
    path = photo(orientation, kind)
    detector = LoadImage().transform(dict(img_path=str(path)))
    assert detector["img_shape"] == detector["ori_shape"] == (48, 64) and detector["img"].flags.c_contiguous
    assert red_box(detector["img"][..., ::-1]) == BOX
    assert red_box(decode(path).permute(1, 2, 0).numpy()) == BOX  # pretraining
    crop = Squares([path], dict(resize=48, crop=48))[[0]][0].permute(1, 2, 0).numpy()  # features: columns 8 to 56
    assert red_box(crop) == (BOX[0] - 8, BOX[1], BOX[2] - 8, BOX[3])


def test_other_photos_are_as_mmcv_reads_them(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for name, image in (("a.jpg", noise), ("b.png", noise), ("c.jpg", noise[..., 0])):
        Image.fromarray(image).save(tmp_path / name)
        results = dict(img_path=str(tmp_path / name))
        expected = LoadImageFromFile().transform(dict(results))
        found = LoadImage().transform(dict(results))
        assert found.keys() == expected.keys() and found["img_shape"] == expected["img_shape"]
        assert found["img"].dtype == np.uint8 and np.array_equal(found["img"], expected["img"])


def test_a_detector_trains_on_every_object_of_a_cleaned_file(photo, tmp_path):
    photo()
    left, top, right, bottom = BOX
    box, corners = [left, top, right - left, bottom - top], [left, top, right, top, right, bottom]
    objects = [dict(id=i, image_id=0, category_id=3, bbox=box, segmentation=[[1, 1, 2, 2], corners]) for i in range(3)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(dict(images=[dict(id=0, file_name="1.jpeg", width=64, height=48)],
                                    categories=[dict(id=3, name="box")], annotations=objects)))
    (tmp_path / "cache").mkdir()
    checked = check_coco(tmp_path, file, masks=True, cache=tmp_path / "cache")
    pipeline = [dict(type="LoadImage"), dict(type="LoadInstances", with_bbox=True, with_mask=True),
                dict(type="PackDetInputs", meta_keys=("img_id",))]
    with DefaultScope.overwrite_default_scope("mmdet"):
        data = InstanceDataset(ann_file=str(checked.annotations), data_prefix=dict(img=f"{tmp_path}/"),
                               metainfo=dict(classes=checked.classes), pipeline=pipeline, backend_args=None,
                               filter_cfg=dict(filter_empty_gt=True))
        truth = data[0]["data_samples"].gt_instances
    assert truth.bboxes.tensor.tolist() == [[*map(float, BOX)]] * 3
    assert [mask[0].tolist() for mask in truth.masks.masks] == [corners] * 3
