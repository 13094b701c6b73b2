"""Pretraining on photos of one's own, from the command line to another project's model."""
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import plan, run
from benchmarks.cli import request_of
from detco import checkpoint as checkpoints


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty photos of noise, a half in each of two folders; none at the top."""
    root, draw = tmp_path_factory.mktemp("mine") / "Holiday 2024", np.random.default_rng(0)
    for i in range(40):
        path = root / ("sea", "hills")[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (60, 80, 3), np.uint8)).save(path)
    return root


SMALL = ("--set", "pretrain.schedule.batch=8", "--set", "pretrain.method.bank_size=16", "--set",
         "pretrain.method.bn_splits=2")


def words(photos, folder, *more, method="moco_v2"):
    return list(map(str, ["--images", photos, "--scale", "mini", "--method", method, "--pretrain-only", "--work-dir",
                          folder, "--data-root", folder / "no data", *more]))


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    assert run.main(words(photos, folder, *SMALL, "--epochs", 1, "--export", folder / "mine.pth")) == 0
    [path] = folder.glob("pretrain/mini/moco_v2+Holiday-2024+*/checkpoint.safetensors")
    return path, folder / "mine.pth"


def test_it_pretrains_as_long_as_was_asked_and_needs_no_other_data(exported):
    metadata = checkpoints.load(exported[0]).metadata
    assert metadata["budget"]["images"] == 40 and metadata["recipe_config"]["schedule"]["epochs"] == 1.0
    assert metadata["pool"] and metadata["monitor"] is None


def test_mmdets_and_torchvisions_own_models_have_its_features(exported, capsys):
    own, other = exported
    loaded = checkpoints.load(own)
    lines: dict = {}
    exec(checkpoints.how_to_load(other, "mmdet", loaded.metadata), {}, lines)  # the lines that were printed
    from benchmarks.detection import mmcv_ops

    mmcv_ops.install()
    from mmdet.models.backbones import ResNet

    theirs = ResNet(**lines["model"]["backbone"])
    theirs.init_weights()
    pre = lines["model"]["data_preprocessor"]
    assert pre["bgr_to_rgb"] and np.allclose(pre["mean"], 255 * np.array(loaded.metadata["mean"]), atol=1e-3)
    import torchvision

    scope = dict(torchvision=torchvision, torch=torch)
    vision = checkpoints.export(loaded, other.with_name("vision.pth"), "torchvision")
    exec(checkpoints.how_to_load(vision, "torchvision", loaded.metadata), scope)
    from benchmarks.image_level.features import PooledC5

    ours = PooledC5(loaded.metadata["arch"], loaded.metadata)
    checkpoints.load_into(ours, loaded, [("", "backbone.")], own)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs.eval()  # returns nothing
        levels, found = ours.levels(images), theirs(images)
        tv = scope["model"].eval()
        x = tv.maxpool(tv.relu(tv.bn1(tv.conv1(images))))
        for i, name in enumerate(("c2", "c3", "c4", "c5")):
            x = getattr(tv, f"layer{i + 1}")(x)
            assert torch.allclose(levels[name], found[i], atol=1e-6) and torch.allclose(levels[name], x, atol=1e-6)


def test_labels_of_the_folders_serve_supervised(photos, tmp_path):
    assert run.main(words(photos, tmp_path, "--set", "pretrain.schedule.batch=8", "--images-seen", 16, "--name", "mine",
                          method="supervised")) == 0
    assert list(tmp_path.glob("pretrain/mini/supervised+mine+*/checkpoint.safetensors"))


@pytest.mark.parametrize("seen, epochs", [("2M", 50_000.0), ("80", 2.0), ("4k", 100.0), ("0.5k", 12.5)])
def test_images_seen_are_epochs_of_these_photos(seen, epochs, photos, tmp_path):
    made = plan.make(request_of(words(photos, tmp_path, *SMALL, "--images-seen", seen)))
    assert made.pretrainings[0].recipe["schedule"]["epochs"] == epochs
    assert made.pretrainings[0].steps == math.ceil(epochs * 40 / 8)


@pytest.mark.parametrize("more, said", [
    ((), "a memory bank of 256 keys of 40 photos would hold the queries' own; give more photos, or --set "
         "pretrain.method.bank_size=32"),
    (("--set", "pretrain.schedule.batch=64"), "a batch of 64 of 40 photos; give more, or --set "
                                              "pretrain.schedule.batch=10"),
    ((*SMALL, "--images-seen", "many"), "--images-seen many: give a number of images"),
    ((*SMALL, "--images-seen", "-5"), "--images-seen -5: give a number"),
    ((*SMALL, "--epochs", "0"), "epochs"), ((*SMALL, "--epochs", "nan"), "epochs"),
    ((*SMALL, "--name", "a b"), "--name 'a b': give"),
    ((*SMALL, "--export", "x.pth", "--to", "tensorflow"), "unknown --to 'tensorflow'"),
    ((*SMALL, "--export", "."), "--export .: a folder; give a file")])
def test_what_does_not_fit_is_one_line_before_the_work(more, said, photos, tmp_path, capsys):
    assert run.main(words(photos, tmp_path, *more)) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and not (tmp_path / "pretrain").exists()


def test_a_method_that_learns_from_labels_says_so(photos, tmp_path, capsys):
    assert run.main(words(photos / "sea", tmp_path, *SMALL[:2], method="supervised")) == 2
    assert "supervised: learns from labels, and these photos have none" in capsys.readouterr().err


def test_a_method_that_learns_nothing_stands_beside_the_others(photos, tmp_path):
    made = plan.make(request_of(words(photos, tmp_path, "--epochs", 3, method="random_init")))
    assert made.pretrainings[0].row == "random_init+Holiday-2024" and made.pretrainings[0].steps == 0
    assert run.main(words(photos, tmp_path, method="random_init")) == 0


def test_rows_of_own_photos_have_a_name_of_their_own(photos, tmp_path):
    request = request_of([*words(photos, tmp_path, *SMALL), "--dry-run"])
    [pretraining] = plan.make(request).pretrainings
    assert pretraining.row.startswith("moco_v2+Holiday-2024+") and json.dumps(pretraining.recipe["monitor"]) == "null"
