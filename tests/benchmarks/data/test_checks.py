"""Annotations and photos as people have them: each comes out right, or ends in a line that says which and how many."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from benchmarks.data import annotations as annotations_room
from benchmarks.data import coco as coco_form
from benchmarks.data.annotations import inside
from benchmarks.data.checks import check_coco, check_maps
from benchmarks.data.coco import DataError
from benchmarks.data.sources import coco_for
from benchmarks.detection.evaluate import coco_metrics

WIDTH, HEIGHT = 64, 48
POLYGON = [10, 10, 30, 10, 30, 26, 10, 26]


def photo(path, size=(WIDTH, HEIGHT), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path, **options)


def entry(number, image=1, **changes):
    made = dict(id=number, image_id=image, category_id=1, bbox=[10, 10, 20, 16], area=320.0, iscrowd=0,
                segmentation=[POLYGON]) | changes
    return {key: value for key, value in made.items() if value != "absent"}


def content(objects, images=(1, 2)):
    return dict(images=[dict(id=i, file_name=f"{i}.jpg", width=WIDTH, height=HEIGHT) for i in images],
                categories=[dict(id=1, name="dog"), dict(id=2, name="cat")], annotations=objects)


class Data:
    """Two photos, an annotation file, and the check of both."""

    def __init__(self, root):
        self.photos, self.file, self.cache = root / "photos", root / "some.json", root / ".checked"
        self.cache.mkdir()
        for i in (1, 2):
            photo(self.photos / f"{i}.jpg", seed=i)

    def check(self, objects=None, change=None, **options):
        if objects is not None:
            data = content(objects)
            if change:
                change(data)
            self.file.write_text(json.dumps(data))
        return check_coco(self.photos, self.file, cache=self.cache, **options)

    def refused(self, *arguments, **options):
        with pytest.raises(DataError) as caught:
            self.check(*arguments, **options)
        message = str(caught.value)
        assert "\n" not in message
        return message

    def cleaned(self, *arguments, **options):
        """(the check, the cleaned file's annotations)."""
        checked = self.check(*arguments, **options)
        assert checked.annotations != self.file
        return checked, json.loads(checked.annotations.read_text())["annotations"]


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def perfect(file, path, kind):
    """AP of a file's own annotations as detections."""
    held = json.loads(file.read_text())
    found = []
    for a in held["annotations"]:
        result = dict(image_id=a["image_id"], category_id=a["category_id"], score=0.9, bbox=a["bbox"])
        if kind == "segm":
            rle = masks.merge(masks.frPyObjects(a["segmentation"], HEIGHT, WIDTH))
            result["segmentation"] = rle | dict(counts=rle["counts"].decode())
        found.append(result)
    path.write_text(json.dumps(found))
    return coco_metrics(file, path, kind)[0][f"{kind}_AP"]


# ---- numbers that must be whole, unique and not 0


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_perfect_detections_score_100_where_annotation_ids_start_at_0(data, tmp_path, kind):
    objects = [entry(i, 1 + i % 2, bbox=[10, 10, 20, 16]) for i in range(2)]
    checked, held = data.cleaned(objects)
    assert perfect(data.file, tmp_path / "found.json", kind) < 100  # pycocotools takes number 0 for no match
    assert perfect(checked.annotations, tmp_path / "found.json", kind) == pytest.approx(100)
    assert [a["id"] for a in held] == [1, 2]
    assert checked.notes == (f"{data.file}: 1 annotation (0) is numbered 0; all are numbered anew from 1",)


def test_an_image_and_a_category_numbered_0_are_no_trouble(data, tmp_path):
    def zero(content):
        content["images"][0]["id"] = content["categories"][0]["id"] = 0

    checked = data.check([entry(5, 0, category_id=0), entry(6, 2, category_id=0)], zero)
    assert checked.annotations == data.file and not checked.notes
    assert perfect(data.file, tmp_path / "found.json", "bbox") == pytest.approx(100)


@pytest.mark.parametrize("change, line", [
    (lambda d: d["annotations"].append(entry(7, 2)), "1 annotation id (7) given more than once; number"),
    (lambda d: d["images"].append(dict(d["images"][0], file_name="3.jpg")), "1 image id (1) given more than once"),
    (lambda d: d["categories"].append(dict(id=2, name="cow")), "1 category id (2) given more than once"),
    (lambda d: d["categories"].append(dict(id=3, name="cat")), "1 category name (cat) given more than once"),
    (lambda d: d["annotations"][0].update(id="a7"), "1 annotation (a7) whose id is no whole number"),
    (lambda d: d["annotations"][0].update(id=7.5), "1 annotation (7.5) whose id is no whole number"),
    (lambda d: d["annotations"][0].update(id=[7]), "1 annotation ([7]) whose id is no whole number"),
    (lambda d: d["annotations"][0].update(id=10**30), "whose id is no whole number"),
    (lambda d: d["annotations"][0].update(image_id="1"), "1 annotation (7) pointing to no image"),
    (lambda d: d["annotations"][0].update(category_id=True), "1 annotation (7) of an unknown category"),
    (lambda d: d["images"][1].update(id="2"), "1 image (2) whose id is no whole number"),
    (lambda d: d["images"][1].update(width=64.5), "1 image (2) whose width or height is no whole number of pixels"),
    (lambda d: d["images"][1].update(height=0), "1 image (2) whose width or height is no whole number of pixels"),
    (lambda d: d["categories"][1].update(id=None), "1 category (None) whose id is no whole number"),
    (lambda d: d["categories"][1].update(name=7), "1 category (2) whose name is no text"),
    (lambda d: d["annotations"][0].update(iscrowd="0"), "1 annotation (7) whose iscrowd is neither 0 nor 1"),
    (lambda d: d["annotations"][0].update(ignore="no"), "1 annotation (7) whose ignore is neither 0 nor 1"),
    (lambda d: d["annotations"][0].update(difficult=2), "1 annotation (7) whose difficult is neither 0 nor 1"),
    (lambda d: d["annotations"][0].update(bbox=[0, 0, 10**400, 5]), "(7) whose box is not four finite numbers"),
])
def test_what_tools_would_confuse_is_refused_with_its_ids(data, change, line):
    assert line in data.refused([entry(7), entry(8, 2)], change)


def test_of_several_kinds_of_trouble_all_are_named(data):
    message = data.refused([entry(7, 9), entry(8, category_id=5)])
    assert message == (f"{data.file}: 1 annotation (7) pointing to no image; remove or mend them; also 1 annotation "
                       "(8) of an unknown category; remove or mend them")


# ---- fields that tools read though they are optional


def test_areas_are_taken_from_the_mask_or_else_from_the_box(data):
    triangle = [10, 10, 30, 10, 10, 26]
    covered = int(masks.area(masks.frPyObjects([triangle], HEIGHT, WIDTH))[0])
    objects = [entry(1, area="absent", segmentation=[triangle]), entry(2, area=0, segmentation=[triangle]),
               entry(3, area=-5), entry(4, area=None), entry(5, area="320"), entry(6, area=7.5),
               entry(7, area=float("nan"))]
    checked, held = data.cleaned(objects)
    whole = int(masks.area(masks.frPyObjects([POLYGON], HEIGHT, WIDTH))[0])
    assert [a["area"] for a in held] == [covered, covered, whole, whole, whole, 7.5, whole]
    assert checked.notes == (
        f"{data.file}: 6 annotations (1, 2, 3, 4, 5, ...) without an area above 0; taken from mask or box",)
    boxes = [entry(1, area="absent", segmentation="absent"), entry(2, area=0, segmentation="absent")]
    assert [a["area"] for a in data.cleaned(boxes)[1]] == [320, 320]


def test_the_rest_that_evaluation_reads_is_filled_in_and_counted(data, tmp_path):
    points = [12, 12, 2] * 3 + [0, 0, 0] * 14
    objects = [entry(1, iscrowd="absent", keypoints=points),
               entry(2, 2, iscrowd=None, keypoints=points, num_keypoints=9)]
    checked, held = data.cleaned(objects, keypoints=True)
    assert [(a["iscrowd"], a["num_keypoints"], a["keypoints"]) for a in held] == [(0, 3, points)] * 2
    assert [note.split("; ")[0] for note in checked.notes] == [
        f"{data.file}: 2 annotations (1, 2) without iscrowd",
        f"{data.file}: 2 annotations (1, 2) without the count of its keypoints (num_keypoints), or with a wrong one"]
    assert perfect(checked.annotations, tmp_path / "found.json", "bbox") == pytest.approx(100)


def test_difficult_is_filled_in_where_a_task_reads_it(data):
    objects = [entry(1, difficult=1), entry(2, 2), entry(3, difficult=None)]
    checked, held = data.cleaned(objects, difficult=True)
    assert [a["difficult"] for a in held] == [1, 0, 0]
    assert checked.notes == (f"{data.file}: 2 annotations (2, 3) without difficult; taken for none",)
    assert data.check(objects).annotations == data.file


def test_a_file_that_needs_no_mending_is_used_as_it_is(data):
    checked = data.check([entry(1), entry(2, 2)])
    assert checked.annotations == data.file and checked.notes == () and not list(data.cache.glob("*.json.*"))
    assert (checked.images, checked.objects, checked.classes) == (2, 2, ("dog", "cat"))


# ---- boxes that the loader drops


def test_boxes_that_training_leaves_out_are_counted_by_reason(data):
    objects = [entry(1), entry(2, bbox=[1, 2, 0, 4]), entry(3, bbox=[1, 2, 3, -4]), entry(4, bbox=[70, 2, 5, 5]),
               entry(5, bbox=[1, 2, 0.5, 9]), entry(6, bbox=[1, 2, 9, 0.9]), entry(7, 2, ignore=1)]
    checked, held = data.cleaned(objects, masks=False)
    assert checked.notes == (
        f"{data.file}: 3 annotations (2, 3, 4) with a box without area, or outside its photo; left out of training",
        f"{data.file}: 2 annotations (5, 6) with a box under a pixel wide or high; used as they are",
        f"{data.file}: 1 annotation (7) marked `ignore`; left out of training, and of evaluation as crowds are")
    assert [a["iscrowd"] for a in held] == [0] * 6 + [1]


@pytest.mark.parametrize("changes, reason", [
    (dict(bbox=[70, 2, 5, 5]), "outside its photo"), (dict(bbox=[1, 2, 0, 9]), "without area"),
    (dict(ignore=1), "marked `ignore`"), (dict(iscrowd=1), "all are crowds")])
def test_a_file_without_an_object_to_learn_from_is_refused_with_the_reasons(data, changes, reason):
    message = data.refused([entry(1, **changes), entry(2, 2, **changes)], masks=False)
    assert "none of 2 annotations (1, 2) is an object to learn from: " in message and reason in message


@pytest.mark.parametrize("box, words", [
    ([0.1, 0.2, 0.5, 0.4], "2 annotations (1, 2) whose box lies within 0 and 1, as if in shares of the photo"),
    ([40, 30, 60, 46], "2 annotations (1, 2) whose box leaves its photo, but would not as two corners; give left"),
])
def test_boxes_in_other_units_are_refused(data, box, words):
    assert words in data.refused([entry(1, bbox=box), entry(2, 2, bbox=box)], masks=False)


def test_a_box_that_leaves_its_photo_is_told(data):
    checked = data.check([entry(1, bbox=[-9, 10, 40, 16]), *(entry(i) for i in range(2, 20))], masks=False)
    assert checked.notes == (f"{data.file}: 1 annotation (1) whose box leaves its photo by more than a pixel; used as "
                             "they are",)


# ---- masks


def runs(text=None, size=(HEIGHT, WIDTH), counts=None):
    if counts is None:
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[10:26, 10:30] = 1
        counts = text if text is not None else masks.encode(np.asfortranarray(mask))["counts"].decode()
    return dict(size=list(size), counts=counts)


FILLED = [10 * HEIGHT + 10, *([16, HEIGHT - 16] * 20), 34 * HEIGHT - 10]  # as `runs` encodes


@pytest.mark.parametrize("shape", [runs(), runs(counts=FILLED), [POLYGON], [POLYGON, [1, 1, 2, 2, 3, 1]]])
def test_masks_of_every_form_pass(data, shape):
    if shape == runs(counts=FILLED):
        assert sum(FILLED) == WIDTH * HEIGHT
    checked = data.check([entry(1, segmentation=shape), entry(2, 2)], masks=True)
    assert checked.annotations == data.file and not checked.notes


@pytest.mark.parametrize("shape, line", [
    ("absent", "without a mask"), (None, "without a mask"), ([], "without a mask: no polygon of three points or more"),
    ([[]], "without a mask: no polygon"), ([[1, 1, 5, 5]], "without a mask: no polygon of three points or more"),
    ([POLYGON + [4]], "with a polygon of an odd number of coordinates"),
    (POLYGON, "whose polygons are not lists of finite numbers"),
    ([[[10, 10], [30, 10], [30, 26]]], "whose polygons are not lists of finite numbers"),
    ([["10", 10, 30, 10, 30, 26]], "whose polygons are not lists of finite numbers"),
    ([[None, 10, 30, 10, 30, 26]], "whose polygons are not lists of finite numbers"),
    ([[float("nan"), 10, 30, 10, 30, 26]], "whose polygons are not lists of finite numbers"),
    ([[1e300, 10, 30, 10, 30, 26]], "whose polygons are not lists of finite numbers"),
    ("mask.png", "without a mask"), (7, "without a mask"),
    (runs(size=(WIDTH, HEIGHT)), "whose mask is of another size than its photo, or has its sides swapped"),
    (runs(size=(24, 32)), "whose mask is of another size than its photo"),
    (runs(text=""), "whose mask's runs (counts) do not fill its size"),
    (runs()["counts"], "without a mask"),
    (runs(text=runs()["counts"][:-3]), "whose mask's runs (counts) do not fill its size"),
    (runs(text="o" * 50), "whose mask's runs (counts) do not fill its size"),
    (runs(text="é"), "whose mask's runs (counts) do not fill its size"),
    (runs(counts=[5, 7]), "whose mask's runs (counts) do not fill its size"),
    (runs(counts=[-5, WIDTH * HEIGHT + 5]), "whose mask's runs (counts) do not fill its size"),
    (runs(counts=["3072"]), "whose mask's runs (counts) do not fill its size"),
    (runs(counts={}), "whose mask's runs (counts) do not fill its size"),
    (dict(counts=runs()["counts"]), "whose mask's runs (counts) do not fill its size"),
])
def test_an_object_without_a_mask_that_can_be_used_is_refused_where_masks_are_learned(data, shape, line):
    objects = [entry(1), entry(2, 2, segmentation=shape)]
    message = data.refused(objects, masks=True)
    assert f"{data.file}: 1 annotation (2) {line}" in message
    assert data.refused(objects) == message  # the other object has one: a task that reads masks would meet both
    checked = data.check(objects, masks=False)  # boxes alone do not need it, but must not trip over it
    if shape in ("absent", None, []):
        assert checked.notes == () and checked.annotations == data.file
    else:
        assert "1 annotation (2) with a mask that cannot be used; this task reads boxes alone" in checked.notes[0]
        held = json.loads(checked.annotations.read_text())["annotations"]
        assert ["segmentation" in a for a in held] == [True, False]


@pytest.mark.parametrize("nothing", ["absent", None, []])
def test_a_file_of_boxes_alone_is_no_file_of_masks(data, nothing):
    objects = [entry(1, segmentation=nothing), entry(2, 2, segmentation=nothing)]
    assert data.check(objects).notes == ()
    assert "2 annotations (1, 2) without a mask" in data.refused(masks=True)


def test_a_polygon_of_two_points_beside_others_is_left_out(data):
    checked, held = data.cleaned([entry(1, segmentation=[[1, 1, 5, 5], POLYGON]), entry(2, 2)], masks=True)
    assert [a["segmentation"] for a in held] == [[POLYGON], [POLYGON]]
    assert checked.notes == (f"{data.file}: 1 annotation (1) with a polygon of fewer than three points beside others; "
                             "it is left out",)


def test_masks_that_do_not_lie_where_their_boxes_do(data):
    shares = [[0.2, 0.2, 0.5, 0.2, 0.5, 0.5]]
    message = data.refused([entry(1, segmentation=shares), entry(2, 2, segmentation=shares)], masks=True)
    assert "2 annotations (1, 2) whose mask lies outside its box; give both in pixels of the photo" in message
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[30:40, 40:50] = 1
    far = runs(text=masks.encode(np.asfortranarray(mask))["counts"].decode())
    notes = data.check([entry(1), entry(2, 2), entry(3, 2, segmentation=far)], masks=True).notes
    assert notes == (f"{data.file}: 1 annotation (3) whose mask lies outside its box; used as they are",)


def test_masks_that_cover_no_pixel_are_told(data):
    objects = [entry(1), entry(2), entry(3, segmentation=[[10, 10, 20, 10, 30, 10]]),
               entry(4, 2, segmentation=runs(counts=[WIDTH * HEIGHT]))]
    assert data.check(objects, masks=True).notes[0] == (
        f"{data.file}: 2 annotations (3, 4) whose mask covers no pixel; used as they are")


def test_compressed_runs_are_read_as_pycocotools_reads_them():
    rng = np.random.default_rng(0)
    for i in range(50):
        mask = np.asfortranarray(rng.random((37, 53)) < rng.random(), dtype=np.uint8)
        mask[:, :rng.integers(53)] = i % 2  # long runs too
        text = masks.encode(mask)["counts"].decode()
        flat = mask.ravel(order="F")
        changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
        expected = np.diff([0, *changes, flat.size])
        assert np.array_equal(annotations_room._runs_of_text(text), expected)


# ---- photos


def test_a_photo_of_another_size_than_its_entry_is_refused(data):
    photo(data.photos / "2.jpg", (HEIGHT, WIDTH))
    line = f"{data.photos}: 1 image (2.jpg) of some.json of another size than the annotations say"
    assert data.refused([entry(1), entry(2, 2)]).startswith(line)


def turned(path, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(path, size, exif=exif)


def test_a_photo_with_an_exif_orientation_is_read_as_stored(data):
    turned(data.photos / "2.jpg", (WIDTH, HEIGHT), 6)
    assert data.check([entry(1), entry(2, 2)]).notes == (
        f"{data.photos}: 1 image (2.jpg) of some.json with an EXIF orientation; read as stored, which the boxes must "
        "fit",)
    turned(data.photos / "2.jpg", (HEIGHT, WIDTH), 6)
    assert "1 image (2.jpg) of some.json annotated upright but stored turned (EXIF orientation)" in data.refused()
    turned(data.photos / "2.jpg", (HEIGHT, WIDTH), 3)
    assert "of another size than the annotations say" in data.refused()


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.jpg", "a/../../secret.jpg", "", None, 7, "a\x00b", "a\nb",
                                  "."])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(data, name):
    assert not inside(name)
    message = data.refused([entry(1), entry(2, 2)], lambda d: d["images"][1].update(file_name=name))
    assert "1 file name (" in message and "that leads out of the folder of images" in message


def test_devices_pipes_and_folders_are_no_photos(data):
    (data.photos / "2.jpg").unlink()
    for make in (lambda path: path.symlink_to("/dev/zero"), os.mkfifo, os.mkdir):
        make(data.photos / "2.jpg")
        message = data.refused([entry(1), entry(2, 2)])
        assert "1 image (2.jpg) of some.json no files, but folders, devices or pipes" in message
        (data.photos / "2.jpg").rmdir() if make is os.mkdir else (data.photos / "2.jpg").unlink()
    photo(data.photos / "elsewhere.jpg")
    (data.photos / "2.jpg").symlink_to("elsewhere.jpg")
    data.check([entry(1), entry(2, 2)])


def test_a_photo_listed_twice_is_told(data):
    notes = data.check([entry(1), entry(2, 2)], lambda d: d["images"][1].update(file_name="1.jpg")).notes
    assert notes == (f"{data.file}: 1 photo (1.jpg) listed more than once: what is annotated of one entry is "
                     "background in the other",)


# ---- known by content


def test_a_photo_replaced_under_its_name_is_another_fingerprint(data):
    first = data.check([entry(1), entry(2, 2)]).fingerprint
    assert data.check().fingerprint == first
    code, status = (data.photos / "2.jpg").read_bytes(), os.stat(data.photos / "2.jpg")
    changed = code[:700] + bytes([code[700] ^ 1]) + code[701:]
    (data.photos / "2.jpg").write_bytes(changed)
    os.utime(data.photos / "2.jpg", ns=(status.st_atime_ns, status.st_mtime_ns))  # as `cp -p` and rsync leave it
    assert data.check().fingerprint != first
    (data.photos / "2.jpg").write_bytes(code)
    assert data.check().fingerprint == first


def test_a_second_check_reads_nothing_again(data, monkeypatch):
    objects = [entry(0), entry(2, 2)]
    first = data.check(objects)
    monkeypatch.setattr(coco_form, "_bytes", lambda path: pytest.fail(f"read {path}"))
    monkeypatch.setattr("benchmarks.data.checks.header", lambda path: pytest.fail(f"read {path}"))
    assert data.check() == first


def test_a_cleaned_file_or_findings_that_were_damaged_are_made_again(data):
    checked, held = data.cleaned([entry(0), entry(2, 2)])
    checked.annotations.write_text("[]")
    assert data.cleaned() == (checked, held)
    [findings] = data.cache.glob("*.findings")
    for text in ("", "{}", findings.read_text().replace("cleaned", "clean")):
        findings.write_text(text)
        assert data.cleaned() == (checked, held)
    for table in data.cache.glob("photo-*.json"):
        table.write_text("[")
    assert data.cleaned() == (checked, held)


def test_an_annotation_file_mended_is_looked_at_again(data):
    assert "pointing to no image" in data.refused([entry(1, 9), entry(2, 2)])
    assert data.check([entry(1), entry(2, 2)]).notes == ()


def test_a_photo_in_both_splits_is_told(tmp_path, capsys):
    base = tmp_path / "small" / "coco"
    for split, names in (("train", ("a", "b")), ("val", ("c", "d"))):
        for seed, name in enumerate(names):
            photo(base / "photos" / f"{name}.jpg", seed=seed if name in "ac" else ord(name))
        data = content([entry(1), entry(2, 2)])
        for image, name in zip(data["images"], names):
            image["file_name"] = f"{name}.jpg"
        data["categories"] = [dict(id=1, name="person")]
        file = base / "annotations" / f"person_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(data))
    coco_for("small", "coco", tmp_path, show=True)
    assert "person_val.json: 1 image (c.jpg) trained on too, by content" in capsys.readouterr().out


# ---- files as other programs write them


def test_a_byte_order_mark_and_numbers_that_are_none_do_not_stand_in_the_way(data):
    text = json.dumps(content([entry(1, score=float("nan")), entry(2, 2)]))
    data.file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    checked, held = data.cleaned()
    assert len(held) == 2 and "begins with a byte order mark" in checked.notes[0]


def test_an_annotation_file_is_read_in_little_more_than_its_own_size(tmp_path):
    """Python's objects take nine times as much. In a process of its own, since a peak cannot be forgotten."""
    file, polygon = tmp_path / "large.json", np.random.default_rng(0).uniform(10, 29, 400).round(2).tolist()
    file.write_text(json.dumps(content([entry(i, segmentation=[polygon]) for i in range(1, 16_001)])))
    code = ("import resource, sys; from pathlib import Path; from benchmarks.data.coco import read\n"
            "from benchmarks.data.annotations import examine; import pycocotools.mask\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "examine(read(Path(sys.argv[1])), masks=True)\n"
            "print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))")
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    grown = int(done.stdout)
    # A chunk of 8192 polygons becomes numbers at once: a part of this file, a small one of a large file.
    assert file.stat().st_size > 40e6 and grown < 6 * file.stat().st_size


# ---- label maps


@pytest.fixture
def street(tmp_path):
    for i, name in enumerate(("a", "b")):
        photo(tmp_path / "images" / "bonn" / f"{name}_leftImg8bit.png", seed=i)
        path = tmp_path / "maps" / "bonn" / f"{name}_labelTrainIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        labels = np.full((HEIGHT, WIDTH), 255, np.uint8)
        labels[:10] = i
        Image.fromarray(labels).save(path)
    (tmp_path / ".checked").mkdir()
    return tmp_path


def maps_refused(street, change):
    path = street / "maps" / "bonn" / "b_labelTrainIds.png"
    with Image.open(path) as image:
        change(image.copy()).save(path)
    with pytest.raises(DataError) as caught:
        check_maps(street / "images", street / "maps", 2, street / ".checked")
    return str(caught.value)


@pytest.mark.parametrize("change, line", [
    (lambda image: image.point(lambda v: 2 if v == 1 else v), "with a label other than 0 to 1 and 255"),
    (lambda image: image.resize((HEIGHT, WIDTH)), "of another size than its image"),
    (lambda image: image.convert("RGB"), "of more than one channel of 8 bits"),
    (lambda image: image.convert("P"), "of more than one channel of 8 bits"),
])
def test_maps_that_training_would_trip_over_are_refused(street, change, line):
    first = check_maps(street / "images", street / "maps", 2, street / ".checked")
    assert check_maps(street / "images", street / "maps", 2, street / ".checked") == first
    assert f"1 file (b_leftImg8bit labelTrainIds) {line}; prepare them again" in maps_refused(street, change)
