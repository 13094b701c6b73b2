"""What the converters must not take for whole: lists, objects and folders that are there, but wrong."""
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from benchmarks import prepare
from benchmarks.data import synthetic_sets
from benchmarks.data.synthetic import VERSION, write_scenes

SETS = (("2007", "trainval", "000001"), ("2007", "test", "000002"), ("2012", "trainval", "2008_000001"))


def dog(xmin, xmax, name="<name>dog</name>"):
    return (f"<object>{name}<bndbox><xmin>{xmin}</xmin><ymin>1</ymin><xmax>{xmax}</xmax><ymax>9</ymax></bndbox>"
            "</object>")


def annotate(devkit, objects, image="VOC2007/Annotations/000002"):
    """Let an image, by default the test's, show these objects."""
    (devkit / f"{image}.xml").write_text(
        f"<annotation><size><width>60</width><height>40</height></size>{objects}</annotation>")


@pytest.fixture
def devkit(tmp_path):
    """One image a list."""
    kit = tmp_path / "VOCdevkit"
    for year, image_set, stem in SETS:
        for folder in ("ImageSets/Main", "JPEGImages", "Annotations"):
            (kit / f"VOC{year}" / folder).mkdir(parents=True, exist_ok=True)
        (kit / f"VOC{year}/ImageSets/Main/{image_set}.txt").write_text(f"{stem}\n")
        Image.new("RGB", (60, 40)).save(kit / f"VOC{year}/JPEGImages/{stem}.jpg")
        annotate(kit, dog(1, 9), f"VOC{year}/Annotations/{stem}")
    return kit


def run(devkit):
    return prepare.main(["voc", "--voc", str(devkit), "--data-root", str(devkit.parent / "data")])


def refused(devkit, capsys, words):
    assert run(devkit) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not list((devkit.parent / "data").glob("error-*.log"))  # nobody's surprise


@pytest.mark.parametrize("objects, words", [
    (dog(1, 9, name=""), "no size, or an object without name or box"),
    (dog(1, 9, name="<name/>"), "no size, or an object without name or box"),
    (dog(1, 9, name="") + dog(1, 9, name="<name>yeti</name>"), "no size, or an object without name or box"),
    (dog(61, 61), "1 object (dog) with a box outside the image of 60 x 40 or without area"),  # nothing left when cut
    (dog(0, 0), "1 object (dog) with a box outside the image of 60 x 40 or without area"),
    (dog("nan", 9), "1 object (dog) with a box outside the image of 60 x 40 or without area"),
])
def test_an_object_that_names_or_shows_nothing_is_refused(devkit, capsys, objects, words):
    annotate(devkit, objects)
    refused(devkit, capsys, f"VOC2007/Annotations/000002.xml: {words}")


def test_a_box_of_one_pixel_at_the_border_has_area(devkit):
    annotate(devkit, dog(60, 60) + dog(1, 1))
    assert run(devkit) == 0
    made = json.loads((devkit.parent / "data/voc/annotations/test2007.json").read_text())
    assert [a["bbox"] for a in made["annotations"]] == [[59, 0, 1, 9], [0, 0, 1, 9]]


@pytest.mark.parametrize("text, words", [
    ("\n", "lists no image"), ("000002\n000002\n", "1 image (000002) listed more than once")])
def test_a_bad_image_set_is_refused_and_leaves_nothing_once_mended(devkit, capsys, text, words):
    path = devkit / "VOC2007/ImageSets/Main/test.txt"
    path.write_text(text)
    refused(devkit, capsys, f"VOC2007/ImageSets/Main/test.txt: {words}; unpack it again")
    path.write_text("000002\n")
    assert run(devkit) == 0


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("mini") / "scenes", train=4, val=2)


DRAWERS = pytest.mark.parametrize("draw, last", [
    (synthetic_sets.draw_voc, "annotations/test2007.json"),
    (synthetic_sets.draw_cityscapes, "annotations/instances_val.json")])


@DRAWERS
def test_drawing_leaves_a_users_folder_alone(scenes, tmp_path, draw, last):
    root = tmp_path / "set"
    root.mkdir()
    (root / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=f"{root}: not empty, but no synthetic scenes"):
        draw(scenes, root)
    assert [p.name for p in root.iterdir()] == ["mine.txt"] and not list(tmp_path.rglob(".*.tmp"))


@DRAWERS
def test_a_drawing_of_another_version_or_without_its_end_is_made_again(scenes, tmp_path, draw, last):
    root, mark = tmp_path / "set", f"drawn-v{VERSION}.txt"
    draw(scenes, root)
    content = (root / last).read_bytes()
    (root / last).unlink()
    draw(scenes, root)
    assert (root / last).read_bytes() == content
    (root / mark).rename(root / f"drawn-v{VERSION - 1}.txt")
    (root / last).write_text("old")
    draw(scenes, root)
    assert (root / last).read_bytes() == content and [p.name for p in root.glob("drawn-v*")] == [mark]


@DRAWERS
def test_of_several_that_draw_at_once_one_does(scenes, tmp_path, draw, last):
    root = tmp_path / "set"
    with ThreadPoolExecutor() as threads:
        made = [threads.submit(draw, scenes, root) for _ in range(3)]
    assert not any(each.exception() for each in made)
    assert (root / last).exists() and sorted(p.name for p in tmp_path.iterdir()) == [".set.lock", "set"]
