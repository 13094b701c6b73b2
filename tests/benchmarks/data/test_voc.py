"""VOC to COCO: boxes by hand, difficult objects, ids, bad input in one line; a drawn devkit gives the scenes back."""
import json

import pytest
from PIL import Image

from benchmarks.data import synthetic_sets, voc
from benchmarks.data.checks import check_coco
from benchmarks.data.coco import DataError
from benchmarks.data.synthetic import SCENE_CLASSES, write_scenes

LISTS = (("2007", "trainval", "000001"), ("2007", "test", "000002"), ("2012", "trainval", "2007_000001"))
OBJECT = ("<object><name>{}</name><difficult>{}</difficult>"
          "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>")


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
        assert check_coco(devkit, devkit.parent / "out" / f"{name}.json").classes == voc.CLASSES


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


def test_a_label_file_mended_is_read_again_and_the_others_kept(devkit):
    made(devkit, "test2007")
    stamps = {name: (devkit.parent / "out" / f"{name}.json").stat().st_mtime_ns for name in voc.SETS}
    (devkit / "VOC2007/Annotations/000002.xml").write_text(xml(OBJECT.format("dog", 0, 5, 5, 9, 9)))
    assert [a["bbox"] for a in made(devkit, "test2007")["annotations"]] == [[4, 4, 5, 5]]
    now = {name: (devkit.parent / "out" / f"{name}.json").stat().st_mtime_ns for name in voc.SETS}
    assert {name for name in voc.SETS if now[name] != stamps[name]} == {"test2007"}
    (devkit / "VOC2007/ImageSets/Main/test.txt").write_text("000001\n")
    assert [i["id"] for i in made(devkit, "test2007")["images"]] == [2007000001]


@pytest.mark.parametrize("stem", ["IMG-4711 b", "фото", "a.b", "²"])
def test_names_that_are_no_numbers_are_numbered_by_their_places(devkit, stem):
    folder = devkit / "VOC2007"
    (folder / "JPEGImages/000002.jpg").rename(folder / f"JPEGImages/{stem}.jpg")
    (folder / "Annotations/000002.xml").rename(folder / f"Annotations/{stem}.xml")
    (folder / "ImageSets/Main/test.txt").write_text(f"{stem}\n000001\n")
    content = made(devkit, "test2007")
    assert [(i["id"], i["file_name"]) for i in content["images"]] == [
        (1, f"VOC2007/JPEGImages/{stem}.jpg"), (2, "VOC2007/JPEGImages/000001.jpg")]
    assert [a["image_id"] for a in content["annotations"]] == [1, 1, 2, 2]
    check_coco(devkit, devkit.parent / "out" / "test2007.json")
    assert [i["id"] for i in made(devkit, "trainval2007")["images"]] == [2007000001]


def test_names_that_give_the_same_number_are_numbered_by_their_places(devkit):
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        path = devkit / "VOC2007" / folder / f"000002.{suffix}"
        path.with_stem("000_002").write_bytes(path.read_bytes())
    (devkit / "VOC2007/ImageSets/Main/test.txt").write_text("000002\n000_002\n")
    assert [i["id"] for i in made(devkit, "test2007")["images"]] == [1, 2]


@pytest.mark.parametrize("encoding", ["utf-8", "iso-8859-1", "windows-1252", "utf-16", "gb18030", "shift_jis", "UTF8"])
def test_xml_in_any_declared_encoding_is_read(devkit, encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + xml(OBJECT.format("dog", 0, 1, 1, 9, 9))
    text = text.replace("<annotation>", "<annotation><owner>" + ("ü" if encoding[0] in "iw" else "猫") + "</owner>")
    (devkit / "VOC2007/Annotations/000002.xml").write_bytes(text.encode(encoding))
    assert [a["bbox"] for a in made(devkit, "test2007")["annotations"]] == [[0, 0, 9, 9]]


@pytest.mark.parametrize("text, words", [
    (b'<?xml version="1.0" encoding="klingon"?>\n<annotation/>', "line 1 declares the unknown encoding 'klingon';"),
    (b'<?xml version="1.0" encoding="gb18030"?>\n<annotation>\n\xff\xff</annotation>', "line 3 is not in gb18030"),
    ("<annotation>\nü</annotation>".encode("iso-8859-1"), "line 2, or is not in utf-8"),
    (xml(OBJECT.format("dog", 0, "1,5", 1, 9, 9)).encode(), "the xmin of a dog is '1,5', no number"),
    (xml(OBJECT.format("dog", "Unspecified", 1, 1, 9, 9)).encode(), "the difficult of a dog is 'Unspecified', no"),
    (xml(OBJECT.format("dog", 2, 1, 1, 9, 9)).encode(), r"1 object \(dog\) whose difficult is neither 0 nor 1"),
    (xml().replace("60", "wide").encode(), "the width of the image is 'wide', no number"),
    (xml().replace("60", "0").encode(), "a size of 0 x 40 pixels"),
])
def test_the_reason_given_is_the_true_one(devkit, text, words):
    path = devkit / "VOC2007/Annotations/000002.xml"
    path.write_bytes(text)
    with pytest.raises(DataError, match=words) as caught:
        made(devkit, "test2007")
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, words", [
    (b"000002\n../../secret\n", r"1 name \(../../secret\) leading out of its folder"),
    ("ü\n".encode("iso-8859-1"), "test.txt: not UTF-8 at byte 0"),
])
def test_bad_names_in_a_list_are_refused(devkit, text, words):
    (devkit / "VOC2007/ImageSets/Main/test.txt").write_bytes(text)
    with pytest.raises(DataError, match=words):
        made(devkit, "test2007")


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
        assert check_coco(tmp_path / "voc" / "VOCdevkit", path, decode=True).classes == SCENE_CLASSES
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
