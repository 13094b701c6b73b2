"""Photos and annotations as detectors get them: boxes lie on their objects, whatever the file says of orientation."""
import json
import subprocess
import sys

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.registry import DefaultScope
from PIL import Image

from benchmarks.data import synthetic
from benchmarks.data.checks import check_coco
from benchmarks.data.coco import Annotation
from benchmarks.detection.instances import InstanceDataset
from benchmarks.detection.loading import CompactCOCO, LoadImage
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


@pytest.fixture
def scenes(tmp_path):
    folder = synthetic.write_scenes(tmp_path / "scenes", train=6, val=2)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0] |= dict(iscrowd=1, segmentation=dict(size=[4, 4], counts=[0, 16]))
    content["annotations"][1] |= dict(difficult=1, keypoints=[1.5, 2, 2] * 17, num_keypoints=17)
    path.write_text(json.dumps(content))
    return path


def test_the_compact_index_holds_what_mmdets_does(scenes):
    whole, compact = COCO(str(scenes)), CompactCOCO(str(scenes))
    for each in compact.dataset["annotations"]:
        if isinstance(each.get("segmentation"), list):
            each["segmentation"] = [polygon.tolist() for polygon in each["segmentation"]]
    known = set(Annotation.__struct_fields__)
    assert compact.dataset["annotations"] == [{k: v for k, v in a.items() if k in known}
                                              for a in whole.dataset["annotations"]]
    assert [(i["id"], i["file_name"]) for i in compact.dataset["images"]] == [
        (i["id"], i["file_name"]) for i in whole.dataset["images"]]
    assert compact.get_cat_ids() == whole.get_cat_ids() and compact.cat_img_map == whole.cat_img_map
    assert CocoDataset.COCOAPI is CompactCOCO


PEAK = """
import sys
from benchmarks.detection import mmcv_ops
from benchmarks.detection.loading import COCO, CompactCOCO

def memory(name):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(name))

before = memory("VmRSS")
index = {"COCO": COCO, "CompactCOCO": CompactCOCO}[sys.argv[1]](sys.argv[2])
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
def test_an_annotation_file_takes_a_few_times_its_size(tmp_path):
    """Objects as COCO's: half a kilobyte, most of it a polygon of 25 points."""
    draw, path = np.random.default_rng(0), tmp_path / "many.json"
    objects = [dict(id=i, image_id=i // 7 + 1, category_id=1, bbox=[1.5, 2.5, 30.25, 40.75], area=1234.5, iscrowd=0,
                    segmentation=[draw.uniform(0, 640, 50).round(2).tolist()]) for i in range(1, 200_000)]
    images = [dict(id=i, file_name=f"{i:012d}.jpg", width=640, height=480) for i in range(1, 200_000 // 7 + 2)]
    path.write_text(json.dumps(dict(images=images, annotations=objects, categories=[dict(id=1, name="a")])))
    times = {}
    for kind in ("COCO", "CompactCOCO"):
        done = subprocess.run([sys.executable, "-c", PEAK, kind, path], capture_output=True, text=True, check=True)
        times[kind] = int(done.stdout.splitlines()[-1]) / path.stat().st_size
    print(times)
    assert times["CompactCOCO"] < 4 < times["COCO"]
