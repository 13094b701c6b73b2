"""The checkpoint format, and the doors to everybody else's."""
import pickle

import numpy as np
import pytest
import torch
import torchvision

from detco import checkpoint
from detco.checkpoint import CheckpointError
from detco.views import MEAN, STD


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).state_dict()


def without_fc(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_saved_is_what_is_loaded_with_its_metadata(weights, tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", without_fc(weights),
                           dict(arch="resnet18", method="detco", seed=3))
    loaded = checkpoint.load(path)
    assert same(loaded.state, without_fc(weights)) and not loaded.ignored
    assert loaded.metadata["channel_order"] == "RGB" and loaded.metadata["stride"] == "pytorch"
    assert (loaded.metadata["method"], loaded.metadata["seed"], loaded.metadata["parent"]) == ("detco", 3, None)


def test_a_checkpoint_is_known_by_its_weights_and_recipe_and_not_by_its_file(weights, tmp_path):
    state = without_fc(weights)
    files = [checkpoint.save(tmp_path / f"{hours}", dict(reversed(state.items())) if hours else state,
                             dict(recipe="a", budget=dict(device_hours=hours))) for hours in (0, 1)]
    assert files[0].read_bytes() != files[1].read_bytes()
    loaded = [checkpoint.load(path.rename(path.with_suffix(".safetensors"))).state for path in files]
    assert checkpoint.identity(loaded[0], "a") == checkpoint.identity(loaded[1], "a") == checkpoint.identity(state, "a")
    touched = {key: value.clone() for key, value in state.items()}
    touched["layer4.1.bn2.running_var"][7] += 1e-6
    renamed = {("bn1.bias" if key == "bn1.weight" else "bn1.weight" if key == "bn1.bias" else key): value
               for key, value in state.items()}
    reshaped = state | {"conv1.weight": state["conv1.weight"].transpose(2, 3).reshape(64, 3, 49)}
    half = state | {"bn1.bias": state["bn1.bias"].half()}
    others = {checkpoint.identity(s, "a") for s in (state, touched, renamed, reshaped, half)}
    assert len(others | {checkpoint.identity(state, "b"), checkpoint.identity(state, None)}) == 7


WRAPPERS = {
    "torchvision": lambda w: dict(w),
    "moco": lambda w: {"state_dict": {f"module.encoder_q.{k}": v for k, v in w.items()}
                       | {f"module.encoder_k.{k}": v + 1 for k, v in w.items()}
                       | {"module.queue": torch.zeros(4, 2)}},
    "lightly": lambda w: {"state_dict": {f"backbone.{k}": v for k, v in without_fc(w).items()}
                          | {f"backbone_momentum.{k}": v + 1 for k, v in without_fc(w).items()}
                          | {"projection_head.layers.0.weight": torch.zeros(2, 2)}},
    "mmpretrain": lambda w: {"state_dict": {f"backbone.{k}": v for k, v in without_fc(w).items()}
                             | {"head.fc.weight": torch.zeros(2, 2)}, "meta": {"epoch": 3}},
}


@pytest.mark.parametrize("style", WRAPPERS)
def test_others_state_dicts_are_read_and_what_is_left_aside_is_told(style, weights, tmp_path):
    tree = WRAPPERS[style](weights)
    torch.save(tree, tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert same(loaded.state, without_fc(weights))
    assert len(loaded.ignored) == len(tree.get("state_dict", tree)) - len(loaded.state)
    assert loaded.metadata["arch"] == "resnet18" and len(loaded.metadata["parent"]) == 64


def test_detectron2_names_are_its_own(weights, tmp_path):
    checkpoint.export(checkpoint.Checkpoint(without_fc(weights), {}), tmp_path / "b.pkl", "detectron2")
    names = pickle.loads((tmp_path / "b.pkl").read_bytes())["model"]
    assert {"stem.conv1.weight", "stem.conv1.norm.running_mean", "res2.0.conv1.norm.bias",
            "res4.0.shortcut.weight", "res4.0.shortcut.norm.weight"} <= set(names)
    assert all(isinstance(value, np.ndarray) for value in names.values())


@pytest.mark.parametrize("change, line", [
    (lambda w: w.pop("layer3.1.bn2.weight"), "1 keys of a resnet18 missing: layer3.1.bn2.weight"),
    (lambda w: w.update({"layer3.1.extra": torch.zeros(1)}), "not explained: layer3.1.extra"),
    (lambda w: w.update({"bn1.weight": torch.zeros(3)}), "another shape: bn1.weight"),
    (lambda w: [w.pop(k) for k in list(w) if k.startswith("layer4.1")], "blocks .2, 2, 2, 1. are none of"),
    (lambda w: w.pop("conv1.weight"), "no ResNet in it"),
])
def test_a_key_too_few_or_too_many_is_one_clear_line(change, line, weights, tmp_path):
    state = dict(weights)
    change(state)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=line) as error:
        checkpoint.load(tmp_path / "a.pth")
    assert "\n" not in str(error.value) and "a.pth" in str(error.value)


def test_truncated_absent_and_foreign_files_are_one_clear_line(weights, tmp_path, capsys):
    path = checkpoint.save(tmp_path / "a.safetensors", without_fc(weights), {})
    torch.save(weights, tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:100_000])
    (tmp_path / "b.pth").write_text("hello")
    torch.save([1, 2], tmp_path / "c.pth")
    for name in ("a.safetensors", "a.pth", "b.pth", "c.pth", "absent.pth"):
        assert checkpoint.main(["inspect", str(tmp_path / name)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and name in lines[0]
    assert path.exists()


def test_channel_order_and_scale_are_converted_exactly(weights, tmp_path):
    """A network trained on BGR in [0, 255] with std 1 (caffe's) sees the same first features in the protocol."""
    torch.save(weights, tmp_path / "a.pth")
    path = tmp_path / "a.pth"
    loaded = checkpoint.load(path, channel_order="BGR", mean=[MEAN[2], MEAN[1], MEAN[0]], std=[1 / 255] * 3)
    converted = checkpoint.to_protocol(loaded, path)["conv1.weight"]
    rgb = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    theirs = torch.conv2d(((rgb - mean) * 255).flip(1), weights["conv1.weight"])
    ours = torch.conv2d((rgb - mean) / std, converted)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_what_cannot_be_converted_is_refused(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="mean"):
        checkpoint.to_protocol(checkpoint.load(tmp_path / "a.pth", mean=[0.5] * 3), tmp_path / "a.pth")


def test_the_stride_in_the_1x1_convolution_keeps_weights_and_pixels(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    caffe = dict(stride="caffe", channel_order="BGR", mean=[0.5, 0.4, 0.3], std=[1 / 255] * 3)
    loaded = checkpoint.load(tmp_path / "a.pth", **caffe)
    assert same(checkpoint.to_protocol(loaded, tmp_path / "a.pth"), without_fc(weights))
    assert checkpoint.style_of(loaded.metadata) == caffe
    usual = dict(stride="pytorch", channel_order="RGB", mean=list(MEAN), std=list(STD))
    assert checkpoint.style_of(loaded.metadata | dict(stride="pytorch")) == usual  # `to_protocol` converts


def test_failed_write_leaves_the_old_file(weights, tmp_path, monkeypatch):
    path = checkpoint.save(tmp_path / "a.safetensors", without_fc(weights), dict(seed=1))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError):
        checkpoint.save(path, without_fc(weights), dict(seed=2))
    assert checkpoint.load(path).metadata["seed"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
