"""The small scale from miniature archives and miniature public downloads: made, checked, reused, refused. The mini."""
import io
import itertools
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks
from safetensors import SafetensorError
from safetensors.numpy import load_file

from benchmarks import prepare
from benchmarks.data import small, small_originals
from benchmarks.data.checks import check_coco
from benchmarks.data.small_definition import SETS, Definition, digests
from benchmarks.data.sources import POOLS, coco_for

NAMES = {"train": ["n01/ILSVRC2012_val_00000001", "n01/n01_2", "n02/n02_3"], "val": ["n02/n02_9"]}
IDS = {"person_train": {11: [101, 102], 12: [900100000012]}, "person_val": {21: [201]},
       "objects_train": {11: [101, 111], 13: [131]}, "objects_val": {21: [201]}}
SIZES = {11: (640, 480), 12: (426, 640), 13: (512, 512), 21: (640, 427)}  # of the public photos
IN_VAL2017 = (11, 21)


def picture(width, height, seed=0):
    """Smooth in both directions, so that resizing keeps its values: red grows to the right, green downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, np.full_like(red, 40 * seed % 256)], -1).astype(np.uint8))


def jpeg(image):
    code = io.BytesIO()
    image.save(code, "JPEG", quality=95)
    return code.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def crowd(width, height):
    """An uncompressed COCO RLE: the left half of the photo, all columns whole."""
    return {"size": [height, width], "counts": [0, height * (width // 2), height * (width - width // 2)]}


def annotation(number, image, keypoints, known):
    width, height = known[image]
    iscrowd = int(number > 900_000_000_000)
    entry = {"id": number, "image_id": image, "category_id": 1, "iscrowd": iscrowd, "area": 100.0,
             "bbox": [width / 4, height / 4, width / 2, height / 2],
             "segmentation": crowd(width, height) if iscrowd else [[10, 20, width, 20, width, height]]}
    return entry | ({"keypoints": [width / 2, height / 2, 2] + [0, 0, 0] * 16, "num_keypoints": 1} if keypoints else {})


def coco(ids, keypoints, known=SIZES):
    return {"info": {}, "licenses": [{"id": 1}], "categories": [{"id": 1, "name": "person"}],
            "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": known[i][0], "height": known[i][1],
                        "license": 1, "flickr_url": "f", "coco_url": "c", "date_captured": "d"} for i in ids],
            "annotations": [annotation(n, i, keypoints, known) for i, numbers in ids.items() for n in numbers]}


@pytest.fixture
def definition(tmp_path):
    folder = tmp_path / "definition"
    folder.mkdir()
    for split, names in NAMES.items():
        (folder / f"imagenette_{split}.txt").write_text("\n".join(names) + "\n")
    for name, ids in IDS.items():
        (folder / f"{name}.txt").write_text("".join(f"{i} {' '.join(map(str, n))}\n" for i, n in ids.items()))
    put(folder / "fingerprint.json", digests(NAMES, IDS))
    return folder


@pytest.fixture
def archives(tmp_path):
    folder = tmp_path / "archives"
    folder.mkdir()
    for split, names in NAMES.items():
        with zipfile.ZipFile(folder / f"imagenette_128_{split}.zip", "w") as archive:
            for seed, name in enumerate(names):
                archive.writestr(f"imagenette_128_{split}/{name}.jpg", jpeg(picture(128, 128, seed)))
    small = {i: small_originals.scaled_size(*size, 256) for i, size in SIZES.items()}
    with zipfile.ZipFile(folder / "coco_photos_256.zip", "w") as archive:
        for i, size in small.items():
            archive.writestr(f"coco_photos_256/{i:012d}.jpg", jpeg(picture(*size)))
        for name, ids in IDS.items():
            archive.writestr(f"annotations/{name}.json", json.dumps(coco(ids, "person" in name, small)),
                             zipfile.ZIP_DEFLATED)
    return folder


@pytest.fixture
def public(tmp_path):
    """(COCO, Imagenette) in their public layouts, with images and annotations besides those listed."""
    base, nette = tmp_path / "coco", tmp_path / "imagenette2-320"
    for split, names in NAMES.items():
        for seed, name in enumerate(names):
            put(nette / split / f"{name}.JPEG", jpeg(picture(640, 320, seed)))
    for i, size in SIZES.items():
        put(base / ("val2017" if i in IN_VAL2017 else "train2017") / f"{i:012d}.jpg", jpeg(picture(*size)))
    merged = {kind: {} for kind in ("person", "objects")}
    for name, ids in IDS.items():
        for i, numbers in ids.items():
            merged[name.split("_")[0]][i] = [*numbers, 1000 + i]
    for prefix, kind in small_originals.KINDS.items():
        for split in POOLS:
            ids = {i: n for i, n in merged[prefix].items() if (i in IN_VAL2017) == (split == "val")}
            put(base / "annotations" / f"{kind}_{split}2017.json", coco(ids, prefix == "person"))
    return base, nette


def run(root, definition, *words):
    return prepare.main(["small", "--data-root", str(root), "--definition", str(definition), *map(str, words)])


def refused(capsys, code, words):
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert words in error
    return error


def files(root):
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*")
            if p.is_file() and ".checked" not in p.parts and p.suffix not in (".sha256", ".lock")}


def test_archives_become_the_small_scale(archives, definition, tmp_path, capsys):
    assert run(tmp_path / "data", definition, "--from-archives", archives) == 0
    assert str(tmp_path / "data" / "small") in capsys.readouterr().out
    made = tmp_path / "data" / "small"
    assert sorted(p.name for p in made.iterdir() if p.suffix != ".sha256") == [
        "coco", "pool.safetensors", "pool_val.safetensors"]
    assert sorted(p.name for p in (made / "coco" / "photos").iterdir()) == [f"{i:012d}.jpg" for i in sorted(SIZES)]
    data = coco_for("small", "person", tmp_path / "data")
    assert data.classes == ("person",)
    for name in SETS:
        check_coco(made / "coco" / "photos", made / "coco" / "annotations" / f"{name}.json", decode=True)


def test_the_pool_holds_the_archives_pixels_in_the_order_of_the_list(archives, definition, tmp_path):
    from detco.pool import MemoryPool

    assert run(tmp_path / "data", definition, "--from-archives", archives) == 0
    for split, names in NAMES.items():
        tensors = load_file(tmp_path / "data" / "small" / POOLS[split])
        assert tensors["images"].dtype == np.uint8 and tensors["labels"].dtype == np.int64
        with zipfile.ZipFile(archives / f"imagenette_128_{split}.zip") as archive:
            for image, name in zip(tensors["images"], names, strict=True):
                photo = Image.open(io.BytesIO(archive.read(f"imagenette_128_{split}/{name}.jpg")))
                assert np.array_equal(image, np.asarray(photo).transpose(2, 0, 1))
    pool = MemoryPool.load(tmp_path / "data" / "small" / "pool.safetensors")
    assert pool.classes == ["n01", "n02"] and pool.labels.tolist() == [0, 0, 1]


def test_public_downloads_become_the_small_scale(public, definition, tmp_path):
    base, nette = public
    assert run(tmp_path / "data", definition, "--coco", base, "--imagenette", nette) == 0
    made = tmp_path / "data" / "small"
    person = json.loads((made / "coco" / "annotations" / "person_train.json").read_text())
    assert [(i["id"], i["width"], i["height"]) for i in person["images"]] == [(11, 341, 256), (12, 256, 385)]
    assert {i["id"]: i["coco_url"] for i in person["images"]} == {11: "c", 12: "c"}
    assert sorted(a["id"] for a in person["annotations"]) == [101, 102, 900100000012]
    one = next(a for a in person["annotations"] if a["id"] == 101)
    assert one["bbox"] == [85.25, 64.0, 170.5, 128.0]
    assert one["segmentation"] == [[5.33, 10.67, 341.0, 10.67, 341.0, 256.0]]
    assert one["area"] == round(100 * 341 / 640 * 256 / 480, 2)
    assert one["keypoints"] == [170.5, 128.0, 2] + [0, 0, 0] * 16
    objects = json.loads((made / "coco" / "annotations" / "objects_train.json").read_text())
    assert sorted(a["id"] for a in objects["annotations"]) == [101, 111, 131]
    assert "keypoints" not in objects["annotations"][0]


def test_public_photos_are_resized_and_the_pools_are_centre_crops(public, definition, tmp_path):
    base, nette = public
    assert run(tmp_path / "data", definition, "--coco", base, "--imagenette", nette) == 0
    photo = Image.open(tmp_path / "data" / "small" / "coco" / "photos" / "000000000012.jpg")
    assert photo.size == (256, 385)
    assert np.abs(np.asarray(photo).astype(int) - np.asarray(picture(256, 385))).mean() < 2
    image = load_file(tmp_path / "data" / "small" / "pool.safetensors")["images"][0].astype(float)
    # The centre's 7/8 of the shorter side: of a 640 x 320 ramp, columns 180 to 460 and rows 20 to 300.
    expected = [255 * 320 / 640, 255 * 0.5]
    assert [image[c].mean() for c in (0, 1)] == pytest.approx(expected, abs=2)
    spread = [image[0].mean(0)[-1] - image[0].mean(0)[0], image[1].mean(1)[-1] - image[1].mean(1)[0]]
    assert spread == pytest.approx([255 * 280 / 640, 255 * 280 / 320], abs=3)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_crowd_is_decoded_resized_and_encoded(compressed):
    mask = (np.random.default_rng(0).random((60, 90)) < 0.5).astype(np.uint8)
    mask[0, 0] = 0  # counts begin with zeros
    rle = {"size": [60, 90], "counts": [len(list(run)) for _, run in itertools.groupby(mask.T.ravel())]}
    if compressed:
        rle["counts"] = masks.frPyObjects(rle, 60, 90)["counts"].decode()
    small = small_originals.resized_rle(rle, (30, 20))
    assert json.loads(json.dumps(small)) == small and small["size"] == [20, 30]
    assert np.array_equal(masks.decode(small), mask[1::3, 1::3])  # the centre of each three by three


def test_a_second_run_reuses_what_is_whole_and_remakes_what_is_not(archives, definition, tmp_path):
    root = tmp_path / "data"
    words = ("--from-archives", archives)
    assert run(root, definition, *words) == 0
    before, fingerprint = files(root), coco_for("small", "person", root).fingerprint
    assert run(root, definition, *words) == 0
    assert files(root) == before
    pool, photo = root / "small" / "pool.safetensors", root / "small" / "coco" / "photos" / "000000000012.jpg"
    images, picture_bytes = load_file(pool)["images"], photo.read_bytes()
    pool.write_bytes(pool.read_bytes()[:-100])
    photo.write_bytes(picture_bytes[:500])
    os.remove(root / "small" / "coco" / "annotations" / "person_val.json")
    assert run(root, definition, *words) == 0
    assert np.array_equal(load_file(pool)["images"], images) and photo.read_bytes() == picture_bytes
    assert coco_for("small", "person", root).fingerprint == fingerprint
    assert {k for k, v in files(root).items() if before[k] != v} == {
        "small/pool.safetensors", "small/coco/photos/000000000012.jpg", "small/coco/annotations/person_val.json"}


@pytest.mark.parametrize("stage", ["pool", "photos", "annotations"])
def test_a_stop_leaves_no_half_file(archives, definition, tmp_path, monkeypatch, stage, capsys):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    root = tmp_path / "data"
    with monkeypatch.context() as patch:
        if stage == "pool":
            def half(tensors, path, metadata):
                path.write_bytes(b"half")
                stop()
            patch.setattr(small, "save_file", half)
        else:
            patch.setattr(small_originals.Archives, {"photos": "photo"}.get(stage, stage), stop)
        assert run(root, definition, "--from-archives", archives) == 130
    assert "goes on from what was saved" in capsys.readouterr().err
    assert not list(root.rglob(".*.tmp")) and not (root / "small" / "coco" / "annotations").exists()
    assert (root / "small" / "pool.safetensors").exists() == (stage != "pool")
    assert run(root, definition, "--from-archives", archives) == 0
    assert not list(root.rglob(".*.tmp"))


def drop(archive, lost):
    with zipfile.ZipFile(archive) as source:
        kept = {name: source.read(name) for name in source.namelist() if name not in lost}
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in kept.items():
            target.writestr(name, content)


def test_gaps_in_archives_are_named_before_anything_is_made(archives, definition, tmp_path, capsys):
    drop(archives / "coco_photos_256.zip", ["coco_photos_256/000000000012.jpg", "annotations/objects_val.json"])
    drop(archives / "imagenette_128_train.zip", ["imagenette_128_train/n01/n01_2.jpg"])
    error = refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives),
                    "imagenette_128_train.zip: 1 file (n01/n01_2.jpg) missing")
    assert "coco_photos_256.zip: 2 files (000000000012.jpg, annotations/objects_val.json) missing" in error
    assert not (tmp_path / "data").exists()


def test_broken_archives_are_named(archives, definition, tmp_path, capsys):
    path = archives / "imagenette_128_val.zip"
    path.write_bytes(path.read_bytes()[:200])
    refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives), f"{path}: no zip file, or trunc")
    path.unlink()
    refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives), f"{path}: no such archive")


def test_photos_of_another_size_than_their_annotations_are_refused(archives, definition, tmp_path, capsys):
    path = archives / "coco_photos_256.zip"
    drop(path, ["coco_photos_256/000000000012.jpg"])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("coco_photos_256/000000000012.jpg", jpeg(picture(*SIZES[12])))
    refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives),
            "1 image (000000000012.jpg) of person_train.json of another size than the annotations say")


@pytest.mark.parametrize("name, member", [("imagenette_128_train", "imagenette_128_train/n01/n01_2.jpg"),
                                          ("coco_photos_256", "annotations/person_val.json")])
def test_a_damaged_member_is_named(archives, definition, tmp_path, capsys, name, member):
    path = archives / f"{name}.zip"
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo(member).header_offset + 30 + len(member)
    content = bytearray(path.read_bytes())
    content[start + 20:start + 60] = bytes(b ^ 0xFF for b in content[start + 20:start + 60])
    path.write_bytes(content)
    refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives), f"{member} is damaged")


def test_gaps_in_public_downloads_are_named_before_anything_is_made(public, definition, tmp_path, capsys):
    base, nette = public
    (nette / "train" / "n01" / "n01_2.JPEG").unlink()
    (base / "val2017" / "000000000021.jpg").unlink()
    (base / "annotations" / "person_keypoints_val2017.json").unlink()
    error = refused(capsys, run(tmp_path / "data", definition, "--coco", base, "--imagenette", nette),
                    f"{nette / 'train'}: 1 file (n01/n01_2.JPEG) missing")
    assert "1 file (annotations/person_keypoints_val2017.json) missing" in error
    assert "{train,val}2017: 1 file (000000000021.jpg) missing" in error
    assert not (tmp_path / "data").exists()


def test_broken_public_files_are_named(public, definition, tmp_path, capsys):
    base, nette = public
    words = ("--coco", base, "--imagenette", nette)
    photo = nette / "val" / "n02" / "n02_9.JPEG"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:-900])
    refused(capsys, run(tmp_path / "data", definition, *words), "Imagenette val/n02/n02_9: truncated or not decodable")
    photo.write_bytes(whole)
    file = base / "annotations" / "instances_val2017.json"
    data = json.loads(file.read_text())
    put(file, data | {"annotations": [a for a in data["annotations"] if a["id"] != 111]})
    refused(capsys, run(tmp_path / "data", definition, *words), "1 annotation (111) of objects_train not in instances_")
    put(file, {"images": []})
    refused(capsys, run(tmp_path / "data", definition, *words), f"{file}: no images and no categories and no annot")
    put(file, data)
    file.write_bytes(file.read_bytes()[:-50])
    refused(capsys, run(tmp_path / "data", definition, *words), f"{file}: not JSON, or truncated, at line 1 column")


def test_annotations_that_are_not_the_definitions_are_refused(archives, definition, tmp_path, capsys):
    assert run(tmp_path / "data", definition, "--from-archives", archives) == 0
    file = tmp_path / "data" / "small" / "coco" / "annotations" / "person_train.json"
    data = json.loads(file.read_text())
    put(file, data | {"annotations": data["annotations"][1:]})
    refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives),
            f"{file}: not the images and annotations of the definition")


@pytest.mark.parametrize("name, text, words", [
    ("person_val", "21 202\n", "person_val.txt: not the list fingerprint.json was taken of"),
    ("person_val", "21 x\n", "a list of ids holds something else"),
    ("imagenette_val", None, "imagenette_val.txt: this list of the definition is missing"),
])
def test_a_changed_definition_is_refused(archives, definition, tmp_path, capsys, name, text, words):
    file = definition / f"{name}.txt"
    file.unlink() if text is None else file.write_text(text)
    refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives), words)


@pytest.mark.parametrize("words", [(), ("--coco", "a"), ("--coco", "a", "--imagenette", "b", "--from-archives", "c")])
def test_half_given_sources_are_refused(definition, tmp_path, capsys, words):
    refused(capsys, run(tmp_path / "data", definition, *words), "give either --coco DIR and --imagenette DIR, or")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"),
                                   SafetensorError("Error while serializing: No space left on device (os error 28)")])
def test_a_full_disk_is_one_line(archives, definition, tmp_path, monkeypatch, capsys, error):
    def full(*arguments):
        raise error

    monkeypatch.setattr(small, "save_file", full)
    refused(capsys, run(tmp_path / "data", definition, "--from-archives", archives), "the disk is full")


def test_the_pools_fingerprint_follows_the_source_files(archives, public, definition, tmp_path):
    from detco.pool import MemoryPool

    base, nette = public
    assert run(tmp_path / "a", definition, "--from-archives", archives) == 0
    assert run(tmp_path / "b", definition, "--from-archives", archives) == 0
    assert run(tmp_path / "c", definition, "--coco", base, "--imagenette", nette) == 0
    put(nette / "train" / "n01" / "n01_2.JPEG", jpeg(picture(640, 320, 5)))
    assert run(tmp_path / "d", definition, "--coco", base, "--imagenette", nette) == 0
    of = {r: MemoryPool.load(tmp_path / r / "small" / "pool.safetensors").fingerprint for r in "abcd"}
    assert of["a"] == of["b"] and len(set(of.values())) == 3


def test_lists_are_read_into_a_definition(definition):
    read = Definition.load(definition)
    assert read.pools == NAMES and read.sets == IDS and read.photos == [11, 12, 13, 21]


def test_mini_is_everything_the_package_draws(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(prepare, "draw_all", drawn.append)
    assert prepare.main(["mini", "--data-root", str(tmp_path)]) == 0
    assert drawn == [tmp_path / "mini"] and "mini: all there" in capsys.readouterr().out
