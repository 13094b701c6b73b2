"""Cityscapes to COCO's form and semantic maps: masks by hand, groups, what is not painted; drawn scenes return."""
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from benchmarks.data import cityscapes, synthetic_sets
from benchmarks.data.checks import check_coco, check_maps
from benchmarks.data.cityscapes import LABELS, SEMANTIC_CLASSES, THINGS
from benchmarks.data.coco import DataError
from benchmarks.data.synthetic import SCENE_CLASSES, VERSION, write_scenes

WIDTH, HEIGHT = 60, 40
STEMS = {"train": ("aachen/aachen_000000_000019", "zurich/zurich_000001_000019"),
         "val": ("lindau/lindau_000000_000019",)}


def box(label, left, top, right, bottom, **more):
    """A rectangle whose last pixels are (right, bottom): PIL paints a polygon's outline too."""
    return dict(label=label, polygon=[[left, top], [right, top], [right, bottom], [left, bottom]], **more)


OBJECTS = (box("sky", -2, 0, WIDTH, 19), box("road", 0, 20, WIDTH, HEIGHT), box("car", 10, 10, 29, 29),
           box("license plate", 12, 22, 15, 23), box("person", 20, 5, 24, 34), box("cargroup", 40, 10, 49, 19),
           box("polegroup", 50, 0, 51, 9), box("caravan", 0, 0, 3, 9), box("car", 0, 30, 4, 34),
           box("truck", 0, 30, 4, 34), box("bus", 5, 35, 9, 39, deleted=1))


def write(root, split, stem, objects, size=(WIDTH, HEIGHT)):
    photo = root / "leftImg8bit" / split / f"{stem}_leftImg8bit.png"
    polygons = root / "gtFine" / split / f"{stem}_gtFine_polygons.json"
    for path in (photo, polygons):
        path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(noise).save(photo)
    polygons.write_text(json.dumps(dict(imgWidth=size[0], imgHeight=size[1], objects=objects)))
    return photo, polygons


@pytest.fixture
def city(tmp_path):
    """Two cities to train on and one to validate with, an image each, of the same objects."""
    root = tmp_path / "cityscapes"
    for split, stems in STEMS.items():
        for stem in stems:
            write(root, split, stem, OBJECTS)
    return root


def content(city, split="train"):
    return json.loads((city / "annotations" / f"instances_{split}.json").read_text())


def semantic(city, split="train", stem=STEMS["train"][0]):
    return np.asarray(Image.open(city / "semantic" / split / f"{stem}_labelTrainIds.png"))


def test_the_table_holds_the_official_train_ids():
    assert len(SEMANTIC_CLASSES) == 19 and len(LABELS) == 35
    assert [LABELS[name] for name in SEMANTIC_CLASSES] == [(i, i >= 11) for i in range(19)]
    assert THINGS == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert {LABELS[name] for name in set(LABELS) - set(SEMANTIC_CLASSES)} == {(255, False), (-1, False)}


def test_both_parts_pass_the_checks_the_tasks_run(city):
    cityscapes.convert(city, city)
    for split in STEMS:
        assert check_coco(city / "leftImg8bit" / split, city / "annotations" / f"instances_{split}.json",
                          decode=True).classes == THINGS
        check_maps(city / "leftImg8bit" / split, city / "semantic" / split)


def test_masks_are_what_remains_visible(city):
    cityscapes.convert(city, city)
    found = [a for a in content(city)["annotations"] if a["image_id"] == 1]
    # The first car without the person before it; the second lies wholly behind the truck; the bus is deleted.
    car = np.zeros((HEIGHT, WIDTH), bool)
    car[10:30, 10:30] = True
    car[10:30, 20:25] = False
    assert [(THINGS[a["category_id"] - 1], a["area"], a["bbox"]) for a in found] == [
        ("car", 300, [10, 10, 20, 20]), ("person", 150, [20, 5, 5, 30]), ("car", 100, [40, 10, 10, 10]),
        ("truck", 25, [0, 30, 5, 5])]
    assert np.array_equal(masks.decode(found[0]["segmentation"]), car)
    assert isinstance(found[0]["segmentation"]["counts"], str)


def test_a_group_is_a_crowd_and_a_label_that_ends_so_is_none(city):
    cityscapes.convert(city, city)
    assert [a["iscrowd"] for a in content(city)["annotations"]] == [0, 0, 1, 0] * 2


def test_images_and_annotations_are_numbered_in_the_order_of_names(city):
    cityscapes.convert(city, city)
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in content(city)["images"]] == [
        (n, f"{stem}_leftImg8bit.png", WIDTH, HEIGHT) for n, stem in enumerate(STEMS["train"], 1)]
    assert [(a["id"], a["image_id"]) for a in content(city)["annotations"]] == [(n, 1 + (n > 4)) for n in range(1, 9)]


def test_maps_hold_train_ids_and_255(city):
    cityscapes.convert(city, city)
    expected = np.full((HEIGHT, WIDTH), 10)
    expected[20:] = 0
    expected[10:30, 10:30] = 13  # the license plate on it is not painted
    expected[5:35, 20:25] = 11
    expected[10:20, 40:50] = 13
    expected[:10, 50:52] = expected[:10, :4] = 255
    expected[30:35, :5] = 14
    made = semantic(city)
    assert made.dtype == np.uint8 and np.array_equal(made, expected)
    write(city, "train", "bonn/bonn_000000_000019", [OBJECTS[2]])
    cityscapes.convert(city, city)
    assert set(np.unique(semantic(city, stem="bonn/bonn_000000_000019"))) == {13, 255}  # nothing labelled is 255


def stamps(root):
    return {path: path.stat().st_mtime_ns for part in ("annotations", "semantic")
            for path in (root / part).rglob("*.*") if path.suffix != ".sha256"}


def test_what_is_whole_is_kept_and_what_is_not_made_again(city):
    cityscapes.convert(city, city)
    first = stamps(city)
    assert len(first) == 5
    cityscapes.convert(city, city)
    assert stamps(city) == first
    broken, annotations = min((city / "semantic").rglob("*.png")), city / "annotations" / "instances_val.json"
    bytes_before = broken.read_bytes(), annotations.read_bytes()
    broken.write_bytes(bytes_before[0][:50])
    annotations.unlink()
    cityscapes.convert(city, city)
    assert (broken.read_bytes(), annotations.read_bytes()) == bytes_before
    assert {path for path, stamp in stamps(city).items() if stamp != first[path]} == {broken, annotations}


def test_a_label_file_mended_changes_its_map_and_its_splits_annotations_alone(city, tmp_path):
    cityscapes.convert(city, city, cache=tmp_path / "cache")
    first = stamps(city)
    write(city, "train", STEMS["train"][0], [OBJECTS[2]])
    cityscapes.convert(city, city, cache=tmp_path / "cache")
    assert set(np.unique(semantic(city))) == {13, 255}
    assert [a["area"] for a in content(city)["annotations"] if a["image_id"] == 1] == [400]
    assert {path.name for path, stamp in stamps(city).items() if stamp != first[path]} == {
        "instances_train.json", "aachen_000000_000019_labelTrainIds.png"}


def test_other_labels_make_everything_anew(city):
    cityscapes.convert(city, city)
    first = stamps(city)
    cityscapes.convert(city, city, LABELS | {"person": (255, False)})
    assert not stamps(city).items() & first.items() and 11 not in np.unique(semantic(city))


def refused(city):
    with pytest.raises(DataError) as caught:
        cityscapes.convert(city, city)
    message = str(caught.value)
    assert "\n" not in message and not (city / "annotations" / "instances_train.json").exists()
    return message


@pytest.mark.parametrize("objects, words", [
    ([box("tree", 0, 0, 9, 9), box("tree", 0, 0, 9, 9), box("group", 0, 0, 9, 9)], "2 labels (group, tree) unknown"),
    ([dict(label="car", polygon=[[0, 0], [9, 9]])], "1 polygon (car) with fewer than 3 points; mend it"),
    ([dict(label="car", polygon=[])], "1 polygon (car) with fewer than 3 points"),
    ([box("car", 61, 0, 70, 9), box("bus", 0, -9, 9, -1)], "2 polygons (car, bus) wholly outside the image of 60 x 40"),
    ([dict(label="car")], "or an object without label or polygon"),
    ([dict(label="car", polygon=[[0, 0], [1], [2, 2]])], "or an object without label or polygon"),
    ([dict(label="car", polygon=[[0, 0], [float("inf"), 1], [2, 2]])], "or an object without label or polygon"),
    ([None], "or an object without label or polygon"),
])
def test_bad_polygons_are_named(city, objects, words):
    polygons = write(city, "train", STEMS["train"][1], objects)[1]
    message = refused(city)
    assert message.startswith(str(polygons)) and words in message


def test_a_deleted_object_is_not_looked_at(city):
    write(city, "train", STEMS["train"][1], [dict(label="car", polygon=[], deleted=1), OBJECTS[0]])
    cityscapes.convert(city, city)
    assert {a["image_id"] for a in content(city)["annotations"]} == {1}


def test_broken_files_are_named(city):
    photo, polygons = write(city, "train", STEMS["train"][0], OBJECTS)
    text = polygons.read_text()
    polygons.write_text(text[:40])
    assert refused(city).startswith(f"{polygons}: not JSON, or truncated, at line 1 column 35")
    polygons.write_text("[]")
    assert refused(city).startswith(f"{polygons}: no imgWidth, imgHeight or objects")
    polygons.write_text(text.replace('"imgWidth": 60', '"imgWidth": 61'))
    assert refused(city) == (f"{photo}: of another size than the annotations say ({polygons.name}: 61 x 40 pixels); "
                             "unpack both again")
    polygons.write_text(text)
    photo.write_bytes(photo.read_bytes()[:500])
    assert refused(city).startswith(f"{photo}: truncated or not decodable")


def test_missing_parts_are_named_and_counted(city):
    lost = [write(city, "train", stem, OBJECTS)[1] for stem in STEMS["train"]]
    lost[1].unlink()
    assert "gtFine/train: 1 image (zurich_000001_000019_leftImg8bit) without *_gtFine_polygons" in refused(city)
    lost[0].unlink()
    assert "2 images (aachen_000000_000019_leftImg8bit, zurich_000001_000019_leftImg8bit) without" in refused(city)
    (city / "gtFine" / "val").rename(city / "val_gtFine")
    assert refused(city).startswith(f"{city}: 1 part (gtFine/val) missing; unpack")
    (city / "leftImg8bit").rename(city / "images")
    assert "3 parts (leftImg8bit/train, leftImg8bit/val, gtFine/val) missing" in refused(city)
    (city / "val_gtFine").rename(city / "gtFine" / "val")
    for split in STEMS:
        (city / "leftImg8bit" / split).mkdir(parents=True)
    assert "leftImg8bit/train: no images named *_leftImg8bit.png" in refused(city)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(the scenes, the scenes in Cityscapes' form)."""
    folder = tmp_path_factory.mktemp("mini")
    scenes = write_scenes(folder / "scenes", train=60, val=40)
    synthetic_sets.draw_cityscapes(scenes, folder / "cityscapes")
    return scenes, folder / "cityscapes"


def mask_in_scene(annotation, image):
    parts = masks.frPyObjects(annotation["segmentation"], image["height"], image["width"])
    return masks.decode(masks.merge(parts))


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_drawn_scenes_keep_each_instance_and_its_mask(drawn, split):
    scene, made = (json.loads((folder / "annotations" / f"instances_{split}.json").read_text()) for folder in drawn)
    key = [[(a["image_id"] - data["images"][0]["id"], a["category_id"]) for a in data["annotations"]]
           for data in (scene, made)]
    assert key[0] == key[1] and not any(a["iscrowd"] for a in made["annotations"])
    images = {image["id"]: image for image in scene["images"]}
    overlaps = []
    for old, new in zip(scene["annotations"], made["annotations"]):
        a, b = mask_in_scene(old, images[old["image_id"]]), masks.decode(new["segmentation"])
        overlaps.append((a & b).sum() / (a | b).sum())
    assert min(overlaps) >= 0.95 and np.mean(overlaps) >= 0.998
    assert max(len(a["segmentation"]) for a in scene["annotations"]) > 2  # some come in parts


def test_the_drawn_scenes_pass_the_checks_and_their_maps_hold_every_class(drawn):
    _, root = drawn
    for split in STEMS:
        images = root / "leftImg8bit" / split
        checked = check_coco(images, root / "annotations" / f"instances_{split}.json", decode=True)
        assert checked.classes == SCENE_CLASSES
        check_maps(images, root / "semantic" / split)
    maps = [np.unique(np.asarray(Image.open(path))) for path in (root / "semantic" / "train").rglob("*.png")]
    assert set(np.concatenate(maps)) == set(range(1 + len(SCENE_CLASSES)))
    assert synthetic_sets.SYNTHETIC_SEMANTIC_CLASSES == ("ground", *SCENE_CLASSES)


def test_drawing_again_keeps_this_version_and_replaces_another(drawn, tmp_path):
    scenes = write_scenes(tmp_path / "scenes", train=3, val=2)
    root = tmp_path / "cityscapes"
    synthetic_sets.draw_cityscapes(scenes, root)
    first = stamps(root)
    synthetic_sets.draw_cityscapes(scenes, root)
    assert stamps(root) == first and not list(tmp_path.rglob(".*.tmp"))
    (root / f"drawn-v{VERSION}.txt").rename(root / f"drawn-v{VERSION - 1}.txt")
    synthetic_sets.draw_cityscapes(scenes, root)
    assert stamps(root).keys() == first.keys() and not stamps(root).items() & first.items()
    assert [path.name for path in root.glob("drawn-v*")] == [f"drawn-v{VERSION}.txt"]


def test_drawing_leaves_a_folder_of_something_else_alone(city):
    with pytest.raises(DataError, match="not empty, but no synthetic scenes"):
        synthetic_sets.draw_cityscapes(city, city)
    assert (city / "leftImg8bit").is_dir()
