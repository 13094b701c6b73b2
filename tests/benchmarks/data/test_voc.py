"""VOC to COCO: boxes by hand, difficult objects, ids, bad input in one line; the synthetic devkit gives the scenes back."""
import json

import pytest
from PIL import Image

from benchmarks.data import synthetic_sets, voc
from benchmarks.data.checks import check_coco
from benchmarks.data.coco import DataError
from benchmarks.data.synthetic import SCENE_CLASSES, write_scenes

LISTS = (("2007", "trainval", "000001"), ("2007", "test", "000002"), ("2012", "trainval", "2007_000001"))
OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def xml(*objects):
    return f"<annotation><size><width>60</width><height>40</height></size>{''.join(objects)}</annotation>"


@pytest.fixture
def devkit(tmp_path):
    """One image a list; each shows a dog and a difficult cat."""
    kit = tmp_path / "VOCdevkit"
    for year, image_set, stem in LISTS:
        for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
            (kit / f"VOC{year}" / folder).mkdir(parents=True, exist_ok=True)
        (kit / f"VOC{year}/ImageSets/Main/{image_set}.txt").write_text(f"{stem}\n")
        Image.new("RGB", (60, 40)).save(kit / f"VOC{year}/JPEGImages/{stem}.jpg")
        (kit / f"VOC{year}/Annotations/{stem}.xml").write_text(
            xml(OBJECT.format("dog", 0, 1, 1, 60, 40), OBJECT.format("cat", 1, 11, 5, 20, 5)))
    return kit


def made(devkit, name):
    voc.convert(devkit, devkit.parent / "out")
    return json.loads((devkit.parent / "out" / f"{name}.json").read_text())


def test_boxes_categories_and_ids(devkit):
    content = made(devkit, "trainval0712")
    assert [a["bbox"] for a in content["annotations"][:2]] == [[0, 0, 60, 40], [10, 4, 10, 1]]
    assert [a["area"] for a in content["annotations"][:2]] == [2400, 10]
    assert [i["id"] for i in content["images"]] == [2007000001, 20122007000001]
    assert [i["file_name"] for i in content["images"]] == ["VOC2007/JPEGImages/000001.jpg",
                                                           "VOC2012/JPEGImages/2007_000001.jpg"]
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert len(names) == 20 and names[1] == "aeroplane" and names[20] == "tvmonitor"
    assert [names[a["category_id"]] for a in content["annotations"][:2]] == ["dog", "cat"]
    for name in voc.SETS:
        assert check_coco(devkit, devkit.parent / "out" / f"{name}.json") == voc.CLASSES


def test_difficult_objects_are_trained_on_and_ignored_in_the_test(devkit):
    for name, crowds in (("trainval0712", [0, 0, 0, 0]), ("trainval2007", [0, 0]), ("test2007", [0, 1])):
        annotations = made(devkit, name)["annotations"]
        assert [a["iscrowd"] for a in annotations] == crowds
        assert [a["difficult"] for a in annotations] == [0, 1] * (len(annotations) // 2)


def test_a_box_a_pixel_too_large_is_cut(devkit):
    (devkit / "VOC2007/Annotations/000002.xml").write_text(xml(OBJECT.format("dog", 0, 0, 1, 61, 40)))
    assert made(devkit, "test2007")["annotations"][0]["bbox"] == [0, 0, 60, 40]


def test_what_is_there_is_kept(devkit):
    made(devkit, "test2007")
    path = devkit.parent / "out" / "test2007.json"
    stamp = path.stat().st_mtime_ns
    made(devkit, "test2007")
    assert path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("text, words", [
    (xml(OBJECT.format("unicorn", 0, 1, 1, 2, 2)), r"1 name \(unicorn\) of no known class"),
    (xml(OBJECT.format("dog", 0, 5, 1, 80, 2)), r"1 object \(dog\) with a box outside the image of 60 x 40"),
    (xml(OBJECT.format("dog", 0, 5, 1, 4, 2)), "without area"),
    ("<annotation>\n<size>\n<annotation>", "not well formed, line 3"),
    (xml("<object><name>dog</name></object>"), "an object without name or box"),
    (None, "missing, but its image set lists it"),
])
def test_bad_annotations_are_one_line_that_names_the_file(devkit, text, words):
    path = devkit / "VOC2007/Annotations/000002.xml"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        made(devkit, "test2007")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_split_that_lacks_a_part_is_named(devkit):
    (devkit / "VOC2012/ImageSets/Main/trainval.txt").unlink()
    with pytest.raises(DataError, match=r"1 part \(VOC2012/ImageSets/Main/trainval.txt\) missing"):
        made(devkit, "test2007")


def test_the_drawn_devkit_gives_the_scenes_boxes_back(tmp_path):
    write_scenes(tmp_path / "scenes", train=6, val=4)
    synthetic_sets.draw("voc", tmp_path)
    for name, split, count in (("trainval0712", "train", 6), ("trainval2007", "train", 3), ("test2007", "val", 4)):
        path = tmp_path / "voc" / "annotations" / f"{name}.json"
        assert check_coco(tmp_path / "voc" / "VOCdevkit", path, decode=True) == SCENE_CLASSES
        content = json.loads(path.read_text())
        scenes = json.loads((tmp_path / "scenes" / "annotations" / f"instances_{split}.json").read_text())
        truth = {(a["image_id"], a["category_id"], *a["bbox"]) for a in scenes["annotations"]}
        number = {i["id"]: int(i["file_name"][-10:-4]) for i in content["images"]}
        found = {(number[a["image_id"]], a["category_id"], *a["bbox"]) for a in content["annotations"]}
        assert len(content["images"]) == count and found <= truth and (found == truth or count == 3)
    mark = next((tmp_path / "voc").glob("drawn-v*.txt"))
    stamp = mark.stat().st_mtime_ns
    synthetic_sets.draw("voc", tmp_path)
    assert mark.stat().st_mtime_ns == stamp


def test_the_persons_alone_keep_their_keypoints_and_every_image(tmp_path):
    write_scenes(tmp_path / "scenes", train=12, val=4)
    synthetic_sets.draw("person", tmp_path)
    scenes, persons = (json.loads((tmp_path / "scenes" / "annotations" / f"{kind}_train.json").read_text())
                       for kind in ("instances", "person_keypoints"))
    assert persons["images"] == scenes["images"] and [c["name"] for c in persons["categories"]] == ["person"]
    assert persons["annotations"] == [a for a in scenes["annotations"] if a["category_id"] == 1] != []
