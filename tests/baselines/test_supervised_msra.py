"""MSRA's ResNet-50: a file in Caffe2's names, run as Caffe ran it, against a network written out here."""
import json
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from baselines import supervised_msra
from benchmarks.image_level.features import PooledC5
from detco import checkpoint as checkpoints
from detco import config, engine
from detco.errors import UserError
from detco.pool import MemoryPool

BLOCKS = {2: 3, 3: 4, 4: 6, 5: 3}


def convolution(generator, out, into, side):
    return generator.normal(0, (2 / (into * side * side)) ** 0.5, (out, into, side, side)).astype(np.float32)


def norm(generator, name, width):
    return {f"{name}_bn_gamma": generator.uniform(0.5, 1, width), f"{name}_bn_beta": generator.normal(0, 0.1, width),
            f"{name}_bn_running_mean": generator.normal(0, 0.1, width),
            f"{name}_bn_running_var": generator.uniform(0.8, 1.2, width)}


def caffe2_weights():
    """A ResNet-50 under the names of detectron2's R-50.pkl, made up."""
    generator = np.random.default_rng(0)
    # Pixels are not divided by their deviation: the stem's weights are that much smaller.
    weights = {"conv1_w": convolution(generator, 64, 3, 7) / 58, "conv1_b": generator.normal(0, 1, 64)} \
        | norm(generator, "res_conv1", 64) \
        | {"fc1000_w": generator.normal(0, 0.01, (1000, 2048)), "fc1000_b": np.zeros(1000)}
    into = 64
    for stage, count in BLOCKS.items():
        inner, out = 16 << stage, 64 << stage
        for block in range(count):
            shapes = {"branch2a": (inner, into, 1), "branch2b": (inner, inner, 3), "branch2c": (out, inner, 1)}
            if block == 0:
                shapes["branch1"] = (out, into, 1)
            for branch, shape in shapes.items():
                name = f"res{stage}_{block}_{branch}"
                weights |= {f"{name}_w": convolution(generator, *shape)} | norm(generator, name, shape[0])
            into = out
    return {name: np.asarray(value, np.float32) for name, value in weights.items()}


def reference(weights, bgr):
    """C2 to C5 of BGR pixels [N, 3, H, W] in [0, 255], the halving stride in the first 1x1 convolution."""
    w = {name: torch.from_numpy(value) for name, value in weights.items()}

    def conv(x, name, stride=1, padding=0, bn=None):
        bn = f"{bn or name}_bn_"
        x = F.conv2d(x, w[f"{name}_w"], stride=stride, padding=padding)
        return F.batch_norm(x, w[bn + "running_mean"], w[bn + "running_var"], w[bn + "gamma"], w[bn + "beta"])

    x = bgr - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    x = F.max_pool2d(conv(x, "conv1", 2, 3, "res_conv1").relu(), 3, 2, 1)
    levels = {}
    for stage, count in BLOCKS.items():
        for block in range(count):
            name, stride = f"res{stage}_{block}_", 2 if stage > 2 and block == 0 else 1
            y = conv(conv(x, name + "branch2a", stride).relu(), name + "branch2b", padding=1).relu()
            y = conv(y, name + "branch2c")
            x = (y + (conv(x, name + "branch1", stride) if block == 0 else x)).relu()
        levels[f"c{stage}"] = x
    return levels


@pytest.fixture(scope="module")
def weights():
    return caffe2_weights()


@pytest.fixture
def hub(weights, tmp_path, monkeypatch):
    """Torch hub's folder, with the file in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "R-50.pkl").write_bytes(pickle.dumps({"model": weights, "__author__": "Caffe2"}))
    return folder


def test_the_checkpoint_runs_as_caffe_ran_it(weights, hub, tmp_path):
    pool = MemoryPool(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.long), ["a"], "f" * 64)
    path = engine.pretrain(config.load_method("supervised_msra"), pool, tmp_path / "work")
    loaded = checkpoints.load(path)
    metadata = loaded.metadata
    assert checkpoints.style_of(metadata) == dict(
        stride="caffe", channel_order="BGR", mean=[103.53 / 255, 116.28 / 255, 123.675 / 255], std=[1 / 255] * 3)
    assert (metadata["arch"], metadata["method"]) == ("resnet50", "supervised_msra")
    assert metadata["budget"] is None and metadata["pool"] is None and len(metadata["parent"]) == 64
    assert json.dumps(metadata["recipe_config"]["method"])
    model = PooledC5("resnet50", metadata)
    checkpoints.load_into(model, loaded, [("", "backbone.")], path)
    pixels = torch.randint(0, 256, (2, 3, 72, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = reference(weights, pixels.flip(1).float())
    ours = model.of_crops(pixels)
    torch.testing.assert_close(ours, theirs["c5"].mean((2, 3)), rtol=1e-3, atol=1e-3)
    assert ours.std() > 0.1  # not the same for any weights
    # As a checkpoint of the usual style it would be another network.
    other = PooledC5("resnet50", checkpoints.FOREIGN)
    checkpoints.load_into(other, loaded, [("", "backbone.")], path)
    assert (other.of_crops(pixels) - ours).abs().mean() > 0.1 * ours.abs().mean()


def test_levels_halve_where_caffe_halves(weights, hub):
    method = supervised_msra.SupervisedMSRA()
    pixels = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(1)).float()
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    with torch.no_grad():
        ours = method.eval().backbone()(pixels - mean)
    for level, theirs in reference(weights, pixels).items():
        torch.testing.assert_close(ours[level], theirs, rtol=1e-3, atol=1e-3)


def test_no_file_is_one_line_that_says_where_to_get_it(hub):
    (hub / "R-50.pkl").unlink()
    with pytest.raises(UserError, match=r"supervised_msra: .*R-50.pkl; fetch them: curl .*/MSRA/R-50.pkl$") as error:
        supervised_msra.SupervisedMSRA()
    assert "\n" not in str(error.value)
