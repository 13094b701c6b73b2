"""COCO, VOC, Cityscapes and ImageNet in miniature: linked, converted, unpacked, checked; each bad input in one line."""
import hashlib
import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision.datasets import ImageFolder, imagenet

from benchmarks import prepare
from benchmarks.data import downloads
from benchmarks.data.coco import DataError
from benchmarks.data.sources import available, coco_for, pool_for

OBJECT = "<object><name>dog</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar",
            "devkit": "ILSVRC2012_devkit_t12.tar.gz"}
WNIDS = ("n02", "n01")  # by ILSVRC's numbers, which are not in the order of names


def picture(kind="JPEG", size=(32, 24)):
    code = io.BytesIO()
    Image.new("RGB", size, (90, 120, 30)).save(code, kind)
    return code.getvalue()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def run(root, *words):
    return prepare.main([*map(str, words), "--data-root", str(root)])


def refused(capsys, code, words):
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert words in error


def files(root):
    return {str(p.relative_to(root)): p.lstat().st_mtime_ns for p in root.rglob("*")}


def coco_file(numbers, kind="instances"):
    box = dict(category_id=1, bbox=[1, 1, 8, 8], area=64, iscrowd=0, segmentation=[[1, 1, 9, 1, 9, 9]])
    return json.dumps(dict(
        images=[dict(id=i, file_name=f"{i}.jpg", width=32, height=24) for i in numbers],
        categories=[dict(id=i + 1, name=f"kind {i}" if i else "person")
                    for i in range(80 if kind == "instances" else 1)],
        annotations=[dict(id=i, image_id=i, keypoints=[4, 4, 2] * 17, num_keypoints=17) | box for i in numbers]))


@pytest.fixture
def coco(tmp_path):
    """COCO's layout: two images to train, one to validate."""
    for split, numbers in (("train", (1, 2)), ("val", (3, ))):
        for i in numbers:
            put(tmp_path / f"COCO/{split}2017/{i}.jpg", picture())
        for kind in ("instances", "person_keypoints"):
            put(tmp_path / f"COCO/annotations/{kind}_{split}2017.json", coco_file(numbers, kind))
    return tmp_path / "COCO"


@pytest.fixture
def voc(tmp_path):
    text = f"<annotation><size><width>32</width><height>24</height></size>{OBJECT}</annotation>"
    for year, image_set, stem in (("2007", "trainval", "000001"), ("2007", "test", "000002"),
                                  ("2012", "trainval", "2008_000001")):
        folder = tmp_path / "kit" / f"VOC{year}"
        put(folder / f"ImageSets/Main/{image_set}.txt", f"{stem}\n")
        put(folder / f"Annotations/{stem}.xml", text)
        put(folder / f"JPEGImages/{stem}.jpg", picture())
    return tmp_path / "kit"


@pytest.fixture
def cityscapes(tmp_path):
    polygons = [dict(label="road", polygon=[[0, 0], [32, 0], [32, 24], [0, 24]]),
                dict(label="car", polygon=[[4, 4], [20, 4], [20, 20], [4, 20]])]
    for split in ("train", "val"):
        put(tmp_path / f"City/leftImg8bit/{split}/bonn/bonn_0_leftImg8bit.png", picture("PNG"))
        put(tmp_path / f"City/gtFine/{split}/bonn/bonn_0_gtFine_polygons.json",
            json.dumps(dict(imgWidth=32, imgHeight=24, objects=polygons)))
    return tmp_path / "City"


@pytest.fixture
def folders(tmp_path):
    """ImageNet's class folders: two images a class to train, one to validate."""
    for split, count in (("train", 2), ("val", 1)):
        for wnid in WNIDS:
            for i in range(count):
                put(tmp_path / f"ILSVRC/{split}/{wnid}/{wnid}_{i}.JPEG", picture())
    return tmp_path / "ILSVRC"


def tar(members, mode="w"):
    """The bytes of a tar file of {name: bytes}."""
    code = io.BytesIO()
    with tarfile.open(fileobj=code, mode=mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return code.getvalue()


@pytest.fixture
def tars(tmp_path, monkeypatch):
    """ImageNet's archives: a tar of classes' tars, images to validate side by side, and the devkit that sorts them."""
    nodes = np.array([(1, WNIDS[0], "two", "", 0), (2, WNIDS[1], "one", "", 0), (3, "n00", "both", "", 2)],
                     dtype=[("ILSVRC2012_ID", "i4"), *((name, "O") for name in ("WNID", "words", "gloss")),
                            ("num_children", "i4")])
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": nodes})
    contents = {
        "train": tar({f"{w}.tar": tar({f"{w}_{i}.JPEG": picture() for i in range(2)}) for w in WNIDS}),
        "val": tar({f"ILSVRC2012_val_0000000{i}.JPEG": picture() for i in (1, 2, 3)}),
        "devkit": tar({"ILSVRC2012_devkit_t12/data/meta.mat": meta.getvalue(),
                       "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n2\n"}, "w:gz")}
    for name, content in contents.items():
        put(tmp_path / "tars" / ARCHIVES[name], content)
        monkeypatch.setitem(imagenet.ARCHIVE_META, name, (ARCHIVES[name], hashlib.md5(content).hexdigest()))
    return tmp_path / "tars"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def test_a_link_is_made_once_and_never_in_the_place_of_anything(tmp_path):
    one, other, path = tmp_path / "one", tmp_path / "other", tmp_path / "data" / "set"
    one.mkdir(), other.mkdir()
    for _ in range(2):
        downloads.link(path, one)
        assert path.is_symlink() and path.resolve() == one
    downloads.link(one, one)
    assert not one.is_symlink()
    with pytest.raises(DataError, match=f"{path}: there is a link to {one}, not {other}; move it away"):
        downloads.link(path, other)
    with pytest.raises(DataError, match=f"{other}: there is something else, not {one}"):
        downloads.link(other, one)
    one.rmdir()  # the link leads nowhere now
    with pytest.raises(DataError, match=f"there is a link to {one}, not {other}"):
        downloads.link(path, other)


def test_a_relative_folder_is_linked_from_anywhere(coco, root, monkeypatch):
    monkeypatch.chdir(coco.parent)
    assert run("data", "coco", "--coco", "COCO") == 0
    assert (root / "coco").resolve() == coco


def test_coco_is_linked_checked_and_its_checksums_kept(coco, root, capsys):
    assert run(root, "coco", "--coco", coco) == 0
    out = capsys.readouterr().out
    assert "instances_train2017: 2 images, 2 annotations, 80 classes\n" in out
    assert "person_keypoints_train2017: 2 images, 2 annotations, 1 class\n" in out
    assert "warning: instances_train2017: 2 images, where the full set has 118,287" in out
    assert "warning: instances_val2017: 1 images, where the full set has 5,000" in out
    assert f"coco: all there in {root / 'coco'}" in out
    sums = json.loads((root / "coco-checksums.json").read_text())
    assert sums == {name: hashlib.sha256((coco / name).read_bytes()).hexdigest() for name in (
        f"annotations/{kind}_{split}2017.json" for kind in ("instances", "person_keypoints")
        for split in ("train", "val"))}
    assert len(coco_for("paper", "coco", root).classes) == 80
    assert coco_for("paper", "person", root).classes == ("person",)
    before = files(root)
    assert run(root, "coco", "--coco", coco) == run(root, "coco", "--coco", root / "coco") == 0
    assert files(root) == before


def test_a_full_count_is_no_warning(coco, root, capsys, monkeypatch):
    monkeypatch.setattr(downloads, "COCO_IMAGES", {"instances_train2017": 2, "instances_val2017": 1})
    assert run(root, "coco", "--coco", coco) == 0
    assert "warning" not in capsys.readouterr().out


def test_annotations_that_changed_since_the_first_check_are_named(coco, root, capsys):
    assert run(root, "coco", "--coco", coco) == 0
    record = (root / "coco-checksums.json").read_bytes()
    put(coco / "annotations/instances_val2017.json", coco_file((3, )) + "\n")
    refused(capsys, run(root, "coco", "--coco", coco), "1 file (annotations/instances_val2017.json) changed")
    assert (root / "coco-checksums.json").read_bytes() == record
    (root / "coco-checksums.json").unlink()
    assert run(root, "coco", "--coco", coco) == 0


@pytest.mark.parametrize("name, words", [
    ("val2017/3.jpg", "1 image (3.jpg) of instances_val2017.json missing"),
    ("annotations/person_keypoints_val2017.json", "1 part (annotations/person_keypoints_val2017.json) missing"),
    ("annotations/instances_train2017.json", "1 part (annotations/instances_train2017.json) missing"),
])
def test_what_coco_lacks_is_named(coco, root, capsys, name, words):
    (coco / name).unlink()
    refused(capsys, run(root, "coco", "--coco", coco), words)
    assert not (root / "coco-checksums.json").exists()


@pytest.mark.parametrize("name, words", [
    ("train2017/2.jpg", "1 image (2.jpg) of instances_train2017.json truncated or not decodable"),
    ("annotations/person_keypoints_train2017.json", "person_keypoints_train2017.json: not JSON, or truncated"),
])
def test_what_is_truncated_is_named_and_not_recorded(coco, root, capsys, name, words):
    put(coco / name, (coco / name).read_bytes()[:-40])
    refused(capsys, run(root, "coco", "--coco", coco), words)
    assert not (root / "coco-checksums.json").exists()


def test_another_category_list_is_refused(coco, root, capsys):
    put(coco / "annotations/instances_val2017.json", coco_file((3, ), "persons"))
    refused(capsys, run(root, "coco", "--coco", coco),
            "instances_val2017.json: its categories are 1, those of coco at the paper scale 80")
    with pytest.raises(DataError, match="instances_val2017.json: its categories are 1, those of coco"):
        coco_for("paper", "coco", root)


def test_a_visibility_that_is_none_is_refused(coco, root, capsys):
    put(coco / "annotations/person_keypoints_train2017.json",
        coco_file((1, 2), "person_keypoints").replace("4, 4, 2]", "4, 4, 7]", 1))
    refused(capsys, run(root, "coco", "--coco", coco),
            "person_keypoints_train2017.json: 1 annotation (1) with a visibility other than 0, 1 or 2")
    with pytest.raises(DataError, match="visibility other"):
        coco_for("paper", "person", root)


@pytest.mark.parametrize("name", ["coco", "voc", "cityscapes", "imagenet"])
def test_bad_folders_are_one_line(root, tmp_path, capsys, name):
    refused(capsys, run(root, name), f"{name}: give --{name} DIR")
    refused(capsys, run(root, name, f"--{name}", tmp_path / "nowhere"), f"{tmp_path / 'nowhere'}: no such folder; ")
    (tmp_path / "empty").mkdir()
    refused(capsys, run(root, name, f"--{name}", tmp_path / "empty"), "missing; ")
    assert not root.exists()


@pytest.mark.parametrize("name, place", [("coco", "coco"), ("voc", "voc/VOCdevkit"),
                                         ("cityscapes", "cityscapes/gtFine"), ("imagenet", "imagenet")])
def test_something_else_in_a_links_place_is_refused(coco, voc, cityscapes, folders, root, capsys, name, place):
    sources = dict(coco=coco, voc=voc, cityscapes=cityscapes, imagenet=folders)
    put(root / place / "mine.txt", "mine")
    refused(capsys, run(root, name, f"--{name}", sources[name]), f"{root / place}: there is something else, not ")
    assert (root / place / "mine.txt").read_text() == "mine"


def test_voc_is_linked_and_converted(voc, root, capsys):
    assert run(root, "voc", "--voc", voc) == 0
    out = capsys.readouterr().out
    assert (root / "voc" / "VOCdevkit").resolve() == voc
    assert "trainval0712: 2 images, 2 annotations, 20 classes" in out
    assert "test2007: 1 images, 1 annotations, 20 classes" in out
    assert "warning: trainval2007: 1 images, where the full set has 5,011" in out
    for source in ("voc", "voc07_labels"):
        assert len(coco_for("paper", source, root).classes) == 20
    before = files(root)
    assert run(root, "voc", "--voc", voc) == 0 and files(root) == before


def test_what_voc_lacks_is_named(voc, root, capsys):
    (voc / "VOC2007/ImageSets/Main/test.txt").unlink()
    refused(capsys, run(root, "voc", "--voc", voc), "1 part (VOC2007/ImageSets/Main/test.txt) missing")
    put(voc / "VOC2007/ImageSets/Main/test.txt", "000002\n")
    (voc / "VOC2007/JPEGImages/000002.jpg").unlink()
    refused(capsys, run(root, "voc", "--voc", voc), "1 image (VOC2007/JPEGImages/000002.jpg) of test2007.json missing")
    os.rename(voc / "VOC2012", voc / "VOC2011")
    refused(capsys, run(root, "voc", "--voc", voc), f"{voc}: 1 part (VOC2012) missing; unpack")


def test_cityscapes_is_linked_and_converted(cityscapes, root, capsys):
    assert run(root, "cityscapes", "--cityscapes", cityscapes) == 0
    out = capsys.readouterr().out
    for part in ("leftImg8bit", "gtFine"):
        assert (root / "cityscapes" / part).resolve() == cityscapes / part
    assert "instances_train: 1 images, 1 annotations, 8 classes" in out and "semantic/val: 1 maps" in out
    assert "warning: instances_val: 1 images, where the full set has 500" in out
    for source in ("cityscapes", "cityscapes_semantic"):
        coco_for("paper", source, root)
    before = files(root)
    assert run(root, "cityscapes", "--cityscapes", cityscapes) == 0 and files(root) == before
    assert sorted(p.name for p in cityscapes.iterdir()) == ["gtFine", "leftImg8bit"]


def test_what_cityscapes_lacks_is_named(cityscapes, root, capsys):
    os.rename(cityscapes / "gtFine" / "val", cityscapes / "gtFine" / "test")
    refused(capsys, run(root, "cityscapes", "--cityscapes", cityscapes), f"{cityscapes}: 1 part (gtFine/val) missing")
    assert not root.exists()


def test_what_was_converted_is_checked(cityscapes, root, capsys, monkeypatch):
    def lossy(source, out, **options):
        convert(source, out, **options)
        (out / "semantic/val/bonn/bonn_0_labelTrainIds.png").unlink()

    convert = downloads.cityscapes.convert
    monkeypatch.setattr(downloads.cityscapes, "convert", lossy)
    refused(capsys, run(root, "cityscapes", "--cityscapes", cityscapes),
            "1 file (bonn_0_leftImg8bit labelTrainIds) missing")


def test_class_folders_are_linked(folders, root, capsys):
    assert run(root, "imagenet", "--imagenet", folders) == 0
    out = capsys.readouterr().out
    assert (root / "imagenet").resolve() == folders
    assert "train: 4 images, 2 classes" in out and "val: 2 images, 2 classes" in out
    assert "warning: train: 4 images, where the full set has 1,281,167" in out
    assert "warning: val: 2 images, where the full set has 50,000" in out
    assert "2 classes, where the full set has 1,000" in out
    assert pool_for("paper", root, "val") == root / "imagenet" / "val"
    before = files(root)
    assert run(root, "imagenet", "--imagenet", folders) == 0 and files(root) == before


def test_bad_class_folders_are_named(folders, root, capsys):
    words = ("imagenet", "--imagenet", folders)
    os.rename(folders / "val" / "n02", folders / "val" / "n03")
    refused(capsys, run(root, *words), "2 class folders (n02, n03) in only one of train/ and val/")
    os.rename(folders / "val" / "n03", folders / "val" / "n02")
    for path in (folders / "train" / "n01").iterdir():
        path.rename(path.with_suffix(".txt"))  # no image
    refused(capsys, run(root, *words), f"{root / 'imagenet' / 'train'}: 1 class folder (n01) without images")
    for path in list((folders / "val").rglob("*.JPEG")):
        path.rename(folders / "val" / path.name)
    for wnid in WNIDS:
        (folders / "val" / wnid).rmdir()
        put(folders / "train" / wnid / "a.JPEG", picture())
    refused(capsys, run(root, *words), f"{root / 'imagenet' / 'val'}: no class folders in it")
    os.rename(folders / "val", folders / "test")
    refused(capsys, run(root, *words), f"{folders}: 1 part (val) missing; give class folders, or ILSVRC2012_")


def listed(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


UNPACKED = [*(f"train/{w}/{w}_{i}.JPEG" for w in ("n01", "n02") for i in (0, 1)),
            "val/n01/ILSVRC2012_val_00000001.JPEG", "val/n01/ILSVRC2012_val_00000003.JPEG",
            "val/n02/ILSVRC2012_val_00000002.JPEG"]


def test_the_archives_are_unpacked_into_class_folders_once(tars, root, capsys):
    assert run(root, "imagenet", "--imagenet", tars) == 0
    assert listed(root / "imagenet") == UNPACKED
    assert "val: 3 images, 2 classes" in capsys.readouterr().out
    assert ImageFolder(str(root / "imagenet" / "train")).classes == ["n01", "n02"]
    before = files(root)
    (tars / ARCHIVES["train"]).unlink()  # a part that is there needs no archive
    assert run(root, "imagenet", "--imagenet", tars) == 0 and files(root) == before
    assert listed(tars) == sorted([ARCHIVES["val"], ARCHIVES["devkit"]])  # nothing written beside them


@pytest.mark.parametrize("calls, whole", [(2, []), (5, ["train"])])
@pytest.mark.parametrize("killed", [False, True])
def test_a_half_unpacked_part_is_not_taken_as_whole(tars, root, monkeypatch, calls, whole, killed):
    """Stopped after some of its archives: train's has two inside, then come devkit's and val's."""
    extract, done = imagenet.extract_archive, []

    def stopping(*arguments, **options):
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(extract(*arguments, **options))

    with monkeypatch.context() as patch:
        patch.setattr(imagenet, "extract_archive", stopping)
        patch.setattr(shutil, "move", lambda *_: stopping())  # sorts val's images into classes
        if killed:
            rmtree = shutil.rmtree  # once killed, nothing is cleaned up
            patch.setattr(shutil, "rmtree", lambda *a, **o: None if len(done) == calls else rmtree(*a, **o))
        assert run(root, "imagenet", "--imagenet", tars) == 130
    folder = root / "imagenet"
    left = [p.name for p in folder.iterdir()]
    assert sorted(left) == sorted(whole + [".unpacking"] * killed)
    stamps = {p: p.stat().st_mtime_ns for p in folder.glob("train/*/*")}
    assert run(root, "imagenet", "--imagenet", tars) == 0
    assert listed(folder) == UNPACKED
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    assert sorted(p.name for p in folder.iterdir()) == ["train", "val"]


@pytest.mark.parametrize("name", ARCHIVES)
def test_bad_archives_are_named(tars, root, capsys, name):
    path = tars / ARCHIVES[name]
    content = path.read_bytes()
    path.write_bytes(content[:-600])
    refused(capsys, run(root, "imagenet", "--imagenet", tars), f"{path}: damaged, its md5 is not")
    assert [p.name for p in (root / "imagenet").iterdir()] == ["train"] * (name != "train")
    path.unlink()
    refused(capsys, run(root, "imagenet", "--imagenet", tars), f"{tars}: 1 part ({path.name}) missing; complete")


def test_archives_are_not_unpacked_through_a_link(tars, folders, root, capsys):
    assert run(root, "imagenet", "--imagenet", folders) == 0
    before = listed(folders)
    refused(capsys, run(root, "imagenet", "--imagenet", tars), f"{root / 'imagenet'}: there is a link to {folders}")
    assert listed(folders) == before


def test_all_four_make_the_paper_scale_available(coco, voc, cityscapes, folders, root):
    for name, source in dict(coco=coco, voc=voc, cityscapes=cityscapes, imagenet=folders).items():
        assert run(root, name, f"--{name}", source) == 0
    assert all(available(root)[what].ready for what in ("paper", "paper: VOC", "paper: Cityscapes"))
