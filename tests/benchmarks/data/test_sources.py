"""Bad data ends in one line that names the file, what is wrong and how much of it; good data in a fingerprint."""
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.data import coco as coco_form
from benchmarks.data import small_definition, sources
from benchmarks.data.checks import check_coco
from benchmarks.data.coco import CocoData, DataError
from benchmarks.data.small_definition import Definition
from benchmarks.data.sources import POOLS, available, coco_for, pool_for
from detco.files import replacing


def photo(path, size=(48, 32), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path, quality=85)


def content():
    return {
        "images": [{"id": i, "file_name": f"{i}.{end}", "width": 48, "height": 32}
                   for i, end in ((1, "jpg"), (2, "png"), (3, "jpg"))],
        "annotations": [{"id": 10 + i, "image_id": i, "category_id": 7, "bbox": [1, 2, 30, 20.5]} for i in (1, 2, 3)],
        "categories": [{"id": 7, "name": "person"}, {"id": 9, "name": "kite"}],
    }


@pytest.fixture
def coco(tmp_path):
    """(folder of images, annotation file, a function that rewrites the latter)."""
    for entry in content()["images"]:
        photo(tmp_path / "photos" / entry["file_name"], seed=entry["id"])
    file = tmp_path / "some_train.json"

    def write(change=lambda data: None):
        data = content()
        change(data)
        file.write_text(json.dumps(data))
    write()
    return tmp_path / "photos", file, write


def refused(images, file, **options):
    with pytest.raises(DataError) as caught:
        check_coco(images, file, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_good_data_gives_its_categories(coco):
    images, file, _ = coco
    assert check_coco(images, file).classes == check_coco(images, file, decode=True).classes == ("person", "kite")


@pytest.mark.parametrize("text, words", [
    (None, "no such file"),
    ("", "line 1 column 1"),
    ('{\n"images": [\n{"id": 1, "file_na', "line 3 column 11"),
    ("[]", "no images and no categories and no annotations"),
    ('{"images": [{}], "categories": [{}]}', "no annotations in it"),
    ('{"images": [], "categories": [{}], "annotations": [{}]}', "no images in it"),
    (b"\x89PNG\r\n", "not text at byte 0"),
])
def test_a_file_that_is_no_annotation_file(coco, text, words):
    images, file, _ = coco
    file.unlink()
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused(images, file)
    assert message.startswith(str(file)) and words in message


def test_a_file_cut_anywhere_is_refused(coco):
    images, file, _ = coco
    whole = file.read_bytes()
    for size in range(0, len(whole) - 1, 37):
        file.write_bytes(whole[:size])
        assert "line 1 column" in refused(images, file)


@pytest.mark.parametrize("change, words", [
    (lambda d: d["annotations"][1].update(image_id=99), "1 annotation (12) pointing to no image"),
    (lambda d: d["annotations"].extend(dict(d["annotations"][0], id=50 + i, image_id=99) for i in range(7)),
     "7 annotations (50, 51, 52, 53, 54, ...) pointing to no image"),
    (lambda d: d["annotations"][2].update(category_id=8), "1 annotation (13) of an unknown category"),
    (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "1 annotation (11) whose box is not four finite numbers"),
    (lambda d: d["annotations"][0].update(bbox=[1, 2, float("nan"), 4]), "(11) whose box is not four finite numbers"),
    (lambda d: d["annotations"][0].update(bbox=[1, 2, float("inf"), 4]), "(11) whose box is not four finite numbers"),
    (lambda d: d["annotations"][0].update(bbox=["1", 2, 3, 4]), "(11) whose box is not four finite numbers"),
    (lambda d: d["annotations"][0].update(bbox=None), "(11) whose box is not four finite numbers"),
    (lambda d: d["annotations"][1].pop("bbox"), "1 entry (1) of 'annotations', counted from 0, without 'bbox'"),
    (lambda d: [i.pop("file_name") for i in d["images"][:2]], "2 entries (0, 1) of 'images', counted from 0, without"),
    (lambda d: d["categories"].append(None), "1 entry (2) of 'categories', counted from 0, without 'id'"),
])
def test_bad_annotations_are_named(coco, change, words):
    images, file, write = coco
    write(change)
    message = refused(images, file)
    assert message.startswith(str(file)) and words in message


@pytest.mark.parametrize("name", ["1.jpg", "2.png"])
def test_images_missing_empty_or_cut(coco, name):
    images, file, _ = coco
    whole = (images / name).read_bytes()
    for keep in (0, 10, len(whole) // 2, len(whole) - 200):
        (images / name).write_bytes(whole[:keep])
        message = refused(images, file)
        assert message.startswith(str(images)) and f"1 image ({name}) of some_train.json truncated or not" in message
    (images / name).unlink()
    assert f"1 image ({name}) of some_train.json missing" in refused(images, file)


def test_an_image_that_ends_oddly_but_decodes_is_taken(coco):
    images, file, _ = coco
    with open(images / "1.jpg", "ab") as image:
        image.write(bytes(range(200)))
    assert check_coco(images, file).classes == ("person", "kite")


def test_decoding_finds_what_both_ends_hide(coco):
    images, file, _ = coco
    code = (images / "2.png").read_bytes()
    (images / "2.png").write_bytes(code[:1000] + code[-12:])
    check_coco(images, file)
    assert "1 image (2.png) of some_train.json truncated or not decodable" in refused(images, file, decode=True)
    (images / "2.png").write_bytes(code)
    photo(images / "1.jpg", (96, 64))
    assert "1 image (1.jpg) of some_train.json of another size" in refused(images, file)


@pytest.fixture
def small(tmp_path):
    """A data root with a small scale of two photos a split."""
    base = tmp_path / "small"
    for split, ids in (("train", (1, 2)), ("val", (3, 4))):
        data = {"images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 48, "height": 32} for i in ids],
                "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 9, 9]} for i in ids],
                "categories": [{"id": 1, "name": "person"}]}
        for entry in data["images"]:
            photo(base / "coco" / "photos" / entry["file_name"], seed=entry["id"])
        file = base / "coco" / "annotations" / f"person_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(data))
    (base / "pool.safetensors").touch()
    return tmp_path


def test_the_fingerprint_follows_annotations_and_images(small):
    first = coco_for("small", "coco", small)
    assert first.classes == ("person",)
    assert coco_for("small", "coco", small).fingerprint == first.fingerprint
    file = small / "small" / "coco" / "annotations" / "person_val.json"
    text = file.read_text()
    file.write_text(text.replace("9, 9]", "9, 8]", 1))
    second = coco_for("small", "coco", small).fingerprint
    file.write_text(text)
    with open(first.train_images / "000000000002.jpg", "ab") as image:
        image.write(b"\0")
    third = coco_for("small", "coco", small).fingerprint
    assert len({first.fingerprint, second, third}) == 3


def test_splits_with_different_categories_are_refused(small):
    file = small / "small" / "coco" / "annotations" / "person_val.json"
    file.write_text(file.read_text().replace('"person"', '"dog"'))
    with pytest.raises(DataError, match="person_val.json: its categories are not those of person_train.json"):
        coco_for("small", "coco", small)


def test_available_says_what_is_there_and_what_is_missing(small):
    found = available(small)
    assert found["small"].ready and found["mini"].ready and not found["paper"].ready
    assert str(small / "coco" / "annotations" / "instances_val2017.json") in str(found["paper"])
    os.remove(pool_for("small", small))
    found = available(small)["small"]
    assert not found.ready and str(found).endswith(f"missing {small / 'small' / 'pool.safetensors'}")
    with pytest.raises(DataError, match="no pool of images at .*prepare.py small"):
        pool_for("small", small)


def test_the_module_imports_nothing_heavy():
    code = ("import sys; import benchmarks.data.sources; "
            "print([m for m in ('torch', 'mmdet', 'mmengine', 'pycocotools', 'PIL') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_definition_holds_what_the_lists_say():
    definition = Definition.load()
    counts = {name: tuple(v for k, v in entry.items() if k != "sha256") for name, entry in definition.digests.items()}
    assert counts == {
        "imagenette_train": (9469,), "imagenette_val": (3925,), "person_train": (1069, 2459), "person_val": (356, 847),
        "objects_train": (396, 3504), "objects_val": (148, 1256)}
    assert not set(definition.pools["train"]) & set(definition.pools["val"])
    train = set(definition.sets["person_train"]) | set(definition.sets["objects_train"])
    assert not train & (set(definition.sets["person_val"]) | set(definition.sets["objects_val"]))
    assert len({name.split("/")[0] for name in definition.pools["train"]}) == 10


def test_digests_ignore_order_and_see_every_id():
    def of(sets):
        return small_definition.digests({}, {"person_val": sets})["person_val"]

    assert of({1: [5, 6], 2: []}) == of({2: [], 1: [6, 5]})
    assert of({1: [5, 6], 2: []})["sha256"] != of({1: [5], 2: [6]})["sha256"]


def sharing(coco, share, seed, folder, least=1):
    images, file, write = coco
    write(lambda d: d.update(images=[dict(id=i, file_name="1.jpg", width=48, height=32) for i in range(1, 201)],
                             annotations=[dict(id=i, image_id=i, category_id=7, bbox=[1, 2, 3, 4])
                                          for i in range(1, 201)]))
    data = CocoData(images, file, images, file, ("person", "kite"), "f" * 64)
    part = coco_form.subset(data, share, seed, least, folder)
    assert part.fingerprint == data.fingerprint and part.val_annotations == file
    content = json.loads(part.train_annotations.read_text())
    ids = {image["id"] for image in content["images"]}
    assert {a["image_id"] for a in content["annotations"]} == ids
    return ids, part.train_annotations


def test_a_share_is_drawn_by_seed_alone_written_down_and_part_of_a_larger_one(coco, tmp_path):
    ids, file = sharing(coco, 10, 0, tmp_path / "a")
    assert len(ids) == 20 and file.name.endswith("-10pct-seed0.json")
    assert sharing(coco, 10, 0, tmp_path / "b")[0] == ids != sharing(coco, 10, 1, tmp_path / "a")[0]
    assert sharing(coco, 5, 0, tmp_path / "a")[0] < ids
    stamp = file.stat().st_mtime_ns
    assert sharing(coco, 10, 0, tmp_path / "a")[1].stat().st_mtime_ns == stamp  # kept, not drawn again


def test_a_share_too_small_for_a_batch_is_refused(coco, tmp_path):
    with pytest.raises(DataError, match="1 % of its 200 images are 2, fewer than a batch of 16; take a larger share"):
        sharing(coco, 1, 0, tmp_path / "a", least=16)


def test_supercategories_pool_the_categories_in_their_order(coco, tmp_path):
    images, file, write = coco
    write(lambda d: (d.update(categories=[dict(id=7, name="cat", supercategory="animal"),
                                          dict(id=8, name="car", supercategory="vehicle"),
                                          dict(id=9, name="dog", supercategory="animal")]),
                     d["annotations"][0].update(category_id=9), d["annotations"][1].update(category_id=8)))
    coco_form.pool_categories(file, tmp_path / "out.json")
    assert check_coco(images, tmp_path / "out.json").classes == ("animal", "vehicle")
    pooled = json.loads((tmp_path / "out.json").read_text())
    assert [a["category_id"] for a in pooled["annotations"]] == [1, 2, 1]


def test_what_is_pooled_follows_the_file_it_was_made_of(coco, tmp_path):
    _, file, write = coco
    write(lambda d: [c.update(supercategory="s") for c in d["categories"]])
    coco_form.pool_categories(file, tmp_path / "out.json")
    stamp = (tmp_path / "out.json").stat().st_mtime_ns
    coco_form.pool_categories(file, tmp_path / "out.json")
    assert (tmp_path / "out.json").stat().st_mtime_ns == stamp
    write(lambda d: d["categories"][1].update(supercategory="toy"))
    coco_form.pool_categories(file, tmp_path / "out.json")
    assert [c["name"] for c in json.loads((tmp_path / "out.json").read_text())["categories"]] == ["person", "toy"]


def test_what_was_found_out_is_kept_in_the_data_folder_or_else_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert sources.cache_of(tmp_path / "nowhere") is None and not (tmp_path / "user").exists()
    (tmp_path / "data").mkdir()
    assert sources.cache_of(tmp_path / "data") == tmp_path / "data" / ".checked"
    (tmp_path / "data" / ".checked").rmdir()
    (tmp_path / "data" / ".checked").touch()  # no folder can be made there
    assert sources.cache_of(tmp_path / "data").parent == tmp_path / "user" / "detco-bench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "data" / ".checked"))
    with pytest.raises(DataError, match="can be written, where cleaned annotations go; set XDG_CACHE_HOME"):
        sources.cache_of(tmp_path / "data")


def test_data_that_is_plainly_not_there_is_named_before_anything_runs(tmp_path):
    with pytest.raises(DataError, match="scale paper: no voc data, .*VOCdevkit missing"):
        sources.require("paper", "voc", tmp_path)
    with pytest.raises(DataError, match="pool_val.safetensors missing"):
        sources.require("small", "imagenet", tmp_path)
    with pytest.raises(DataError, match="the small scale has no cityscapes data"):
        sources.require("small", "cityscapes", tmp_path)
    sources.require("mini", "cityscapes", tmp_path)


def test_classes_that_are_planned_with_are_the_pools(tmp_path):
    from benchmarks.execute import load_pool

    names = ["n01", "n02", "n10"]
    for split, name in POOLS.items():
        (tmp_path / "small").mkdir(exist_ok=True)
        with replacing(tmp_path / "small" / name, sealed=True) as path:
            save_file({"images": torch.zeros(3, 3, 8, 8, dtype=torch.uint8), "labels": torch.arange(3)}, path,
                      {"classes": json.dumps(names), "fingerprint": split})
        for folder in names:
            photo(tmp_path / "imagenet" / split / folder / "a.jpg")
    for scale in ("small", "paper"):
        assert sources.classes_of(scale, "imagenet", tmp_path) == tuple(load_pool(scale, tmp_path, "val").classes) \
            == tuple(names)
    assert sources.classes_of("small", "imagenet", tmp_path / "elsewhere")[:2] == ("category 1", "category 2")
