"""Files of strangers: nothing in them executes, memory and time are bounded, and what is refused is refused truly."""
import argparse
import json
import os
import pickle
import struct
import sys
import tracemalloc
import types
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from detco import checkpoint, hub
from detco.checkpoint import CheckpointError
from detco.errors import UserError
from detco.views import MEAN, STD


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    state = torchvision.models.resnet18(weights=None).state_dict()
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def refusal(path, capsys, *options):
    """The one line with which a file is refused."""
    assert checkpoint.main(["inspect", str(path), *options]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1
    return err


class Bomb:
    """Runs code where a pickle is loaded as pickle loads it."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.BOMB = True",)


WRITERS = {
    "torch": lambda tree, path: torch.save(tree, path),
    "torch before 1.6": lambda tree, path: torch.save(tree, path, _use_new_zipfile_serialization=False),
    "pickle": lambda tree, path: path.write_bytes(pickle.dumps(tree)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_objects_beside_the_tensors_neither_run_nor_stand_in_the_way(writer, weights, tmp_path):
    class Local(dict):
        pass

    Local.__module__, Local.__qualname__ = "nosuchmodule", "Local"
    module = types.ModuleType("nosuchmodule")
    module.Local = Local
    sys.modules["nosuchmodule"] = module
    beside = dict(bomb=Bomb(), args=argparse.Namespace(lr=1, deep=argparse.Namespace(x=[1])), scalar=np.float64(0.5),
                  numbers={1, 2}, frozen=frozenset({3}), raw=bytearray(b"abc"), complex=1j, object=Local(a=1),
                  path=tmp_path, dtype=torch.float32, kind=np.dtype("f4"), objects=np.array([None, "a"], dtype=object))
    WRITERS[writer]({"state_dict": weights, **beside}, tmp_path / "a.pth")
    del sys.modules["nosuchmodule"]
    loaded = checkpoint.load(tmp_path / "a.pth").state
    assert all(torch.equal(loaded[key], weights[key]) for key in weights)
    import builtins

    assert not hasattr(builtins, "BOMB")


@pytest.mark.parametrize("writer", WRITERS)
def test_what_stands_in_a_tensors_place_is_named(writer, weights, tmp_path, capsys):
    for key in ("layer1.0.conv1.weight", "conv1.weight"):
        WRITERS[writer]({"model": weights | {key: Bomb()}}, tmp_path / "a.pth")
        line = refusal(tmp_path / "a.pth", capsys)
        assert f"model/{key} is a {'__builtin__' if 'torch' in writer else 'builtins'}.exec, not a tensor" in line


def nan(state):
    state["layer2.0.conv1.weight"][3, 0, 1, 1] = float("nan")


def infinite(state):
    state["layer4.1.bn2.bias"][3] = float("inf")


def negative(state):
    state["layer3.0.downsample.1.running_var"][5] = -0.1


def change(key, to):
    return lambda state: state.__setitem__(key, to(state[key]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("harm, words", [
    (nan, "1 tensor (x/layer2.0.conv1.weight) not finite"),
    (infinite, "1 tensor (x/layer4.1.bn2.bias) not finite"),
    (negative, "1 tensor (x/layer3.0.downsample.1.running_var) of negative variances"),
    (change("layer1.0.conv1.weight", lambda v: v.to(torch.int8)), "x/layer1.0.conv1.weight is of type int8"),
    (change("bn1.weight", lambda v: v.to(torch.complex64)), "x/bn1.weight is of type complex64"),
    (change("conv1.weight", lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8)),
     "x/conv1.weight is a quantised tensor, not a dense"),
    (change("layer1.0.conv2.weight", lambda v: v.to_sparse()), "x/layer1.0.conv2.weight is a sparse tensor"),
    (change("layer1.0.conv2.weight", lambda v: v.to("meta")), "x/layer1.0.conv2.weight is a meta tensor"),
    (change("layer4.0.bn1.bias", lambda v: v.to(torch.float8_e4m3fn)), "x/layer4.0.bn1.bias is "),
    (change("layer4.0.bn1.bias", lambda v: v[:1].expand(512)), "elements lie upon each other"),
    (change("layer4.0.bn1.bias", lambda v: "none"), "x/layer4.0.bn1.bias is a str, not a tensor"),
    (lambda state: state.update({"layer1.0.bn2.bias": state["layer1.0.bn1.bias"]}), "lie at one place"),
    (change("layer1.0.conv1.weight", lambda v: v[:, :, 0]), "of another shape: x/layer1.0.conv1.weight"),
    (change("conv1.weight", lambda v: v[..., 2:5, 2:5]), "x/conv1.weight, is 64x3x3x3, not torchvision's 64x3x7x7"),
], ids=lambda value: value if isinstance(value, str) else None)
def test_what_no_network_computes_with_is_refused_by_its_key(harm, words, weights, tmp_path):
    state = {key: value.clone() for key, value in weights.items()}
    harm(state)
    torch.save({"x": state}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as error:
        checkpoint.load(tmp_path / "a.pth")
    assert words.replace("its first convolution, x/", "") in str(error.value).replace("its first convolution, ", "x/")


def test_values_that_are_refused_are_shown(weights, tmp_path, capsys):
    state = {key: value.clone() for key, value in weights.items()}
    nan(state), negative(state)
    state["layer1.0.bn1.weight"][:7] = 0
    torch.save(state, tmp_path / "a.pth")
    assert checkpoint.main(["inspect", str(tmp_path / "a.pth")]) == 0
    shown = capsys.readouterr().out
    for words in ("no: 1 tensor (layer2.0.conv1.weight)", "negative in 1 tensor (layer3.0.downsample.1.running_var)",
                  "7 in layer1.0.bn1", "layout of torchvision or timm", "channels RGB (the layout)"):
        assert words in shown


def test_inspection_counts_and_measures(weights, tmp_path):
    path = checkpoint.save(tmp_path / "a.safetensors", weights, dict(arch="resnet18", recipe="r"))
    found = checkpoint.inspect(path)
    assert found["hash"] == checkpoint.identity(weights, "r") and not found["not_finite"] and not found["dead"]
    assert found["parameters"] == 11_176_512  # torchvision's ResNet-18 without its classifier
    stem = sum(float(weights[f"{name}"].double().square().sum()) for name in ("conv1.weight", "bn1.weight", "bn1.bias"))
    assert found["norms"]["stem"] == pytest.approx(stem ** 0.5)
    assert found["types"] == ["float32", "int64"] and found["tensors"] == len(weights)


# Numpy's types, built as a file likes, let it write to any address: none but plain numbers is made.


@pytest.mark.parametrize("name, words", [
    ("V4", "an array of type 'V4'"), ("O8", "an array of type 'O8'"), ("O", "an array of objects"),
    ("f4,f4", "an array of type 'f4,f4'"), ("M8", "an array of type 'M8'"), ("f16", "an array of type 'f16'"),
    ("(2,)f4", "an array of type '(2,)f4'"), ("i4", "is of type int32"), ("f8", "with")])
def test_a_file_builds_no_types_of_numpy(name, words, weights, tmp_path, capsys, monkeypatch):
    content = pickle.dumps({key: value.numpy() for key, value in weights.items()}, 2)
    kind = b"X\x02\x00\x00\x00f4"
    assert content.count(kind) == 1  # then referred to
    forged = content.replace(kind, b"X" + struct.pack("<I", len(name)) + name.encode())
    made = []
    monkeypatch.setattr(np, "dtype", lambda given, *rest, _d=np.dtype: (made.append(given), _d(given))[1])
    (tmp_path / "a.pkl").write_bytes(forged)
    assert words in refusal(tmp_path / "a.pkl", capsys)
    assert set(made) <= {"f4", "f8", "i4", "i8"}


def test_numpys_byte_order_and_column_order_are_heeded(weights, tmp_path):
    arrays = {key: value.numpy() for key, value in weights.items()}
    turned = {key: value.astype(value.dtype.newbyteorder(">"), order="F") for key, value in arrays.items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(turned))
    loaded = checkpoint.load(tmp_path / "a.pkl").state
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[key], weights[key]) for key in weights)


def repeated(body, times):
    return b"\x80\x04" + body * times + b"."


@pytest.mark.parametrize("content, words", [
    (b"\x80\x02Nr\x00\x00\x00\x10.", "a NoneType, not a state dict"),  # 9 bytes: number 2**28 of the memo
    (b"\x80\x02NT\x00\x00\x00\x10", "truncated"),  # a string of 2**28 bytes
    (b"\x80\x04\x8e" + struct.pack("<Q", 2**40), "truncated"),
    (b"\x80\x05\x96" + struct.pack("<Q", 2**40), "truncated"),
    (b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"N.", "truncated"),
    (b"\x80\x02N\x8b\xff\xff\xff\x7f", "truncated"),
    (b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "no tensor in it, but 1 key (a)"),  # a dict that holds itself
    (repeated(b"]", 100_000) + b"N.", "not a state dict"),
    (b"\x80\x02" + b"(" * 1000 + b"]" + b"l" * 1000 + b".", "a list, not a state dict"),
    (b"\x80\x02]" + b"\x85" * 200_000 + b".", "a tuple, not a state dict"),
    (b"\x80\x02}]" + b"}X\x01\x00\x00\x00a".join([b""] * 50_000) + b".", "not a state dict"),
    (b"\x80\x02})" + b"2\x86" * 60 + b"Ns.", "no tensor in it, but an empty dict"),  # hashing the key takes 2**60 steps
    (b"\x80\x02}(" + b"".join(b"\x8a\x0c" + (k * (2**61 - 1)).to_bytes(12, "little") + b"N" for k in range(20_000))
     + b"u.", "no tensor in it, but an empty dict"),  # keys of one hash
    (b"\x80\x02" + b"".join(b"Np%d\n0" % (k * (2**61 - 1)) for k in range(1000)) + b"N.", "a number of its memo"),
    (b"\x80\x02" + b"N0" * 600_000 + b"N.", "more than 1,000,000 operations"),
    (b"\x80\x02cbuiltins\nexec\nX\x01\x00\x00\x00x\x85R.", "it holds a builtins.exec, not a state dict"),
    (b"\x80\x02cposix\nsystem\n.", "it holds a Name, not a state dict"),
    (b"\x80\x02NNNN\xff.", "0xff is no operation"), (b"\x80\x02NNNh\x07.", "a damaged pickle"),
    (b"hello, world", "of no known format"), (b"", "empty"), (b"abc", "only 3 bytes"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    (b"<!DOCTYPE html><html>", "a web page"), (b"\x1f\x8b\x08" + bytes(20), "gzip"),
    (struct.pack("<Q", 10 * 2**30) + b'{"a":{}}', "truncated: its header claims 10,737,418,240 bytes"),
    (struct.pack("<Q", 30) + b'{"__metadata__":{"a":1}}      ', "safetensors"),
    (struct.pack("<Q", 90) + b'{"conv1.weight":{"dtype":"F32","shape":[64,3,7,7],"data_offsets":[0,37632]}}'.ljust(90),
     "truncated"),
    (b"PK\x03\x04" + bytes(100), "truncated: the list of contents"),
], ids=lambda value: None if isinstance(value, bytes) else value[:20])
def test_small_files_cost_little_and_are_told_truly(content, words, tmp_path, capsys):
    (tmp_path / "a.pth").write_bytes(content)
    tracemalloc.start()
    try:
        line = refusal(tmp_path / "a.pth", capsys)
        assert tracemalloc.get_traced_memory()[1] < 4e6 + 300 * len(content)
    finally:
        tracemalloc.stop()
    assert words in line


def test_a_zip_bomb_and_a_packed_folder_are_refused(weights, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    assert "compressed" in refusal(tmp_path / "bomb.pth", capsys)
    with zipfile.ZipFile(tmp_path / "folder.zip", "w") as archive:
        archive.writestr("model/weights.pth", b"")
    assert "not one that torch wrote" in refusal(tmp_path / "folder.zip", capsys)
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "script.pt")
    assert "a TorchScript program" in refusal(tmp_path / "script.pt", capsys)


@pytest.mark.parametrize("writer", [*WRITERS, "safetensors"])
def test_a_file_cut_short_anywhere_says_truncated(writer, weights, tmp_path, capsys):
    path = tmp_path / "a.pth"
    save_file(weights, path) if writer == "safetensors" else WRITERS[writer](weights, path)
    whole = path.read_bytes()
    for length in (9, 100, 5000, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:length])
        assert "truncated" in refusal(path, capsys), length


def test_a_flipped_bit_in_a_torch_file_is_noticed(weights, tmp_path, capsys):
    path = tmp_path / "a.pth"
    torch.save(weights, path)
    content = bytearray(path.read_bytes())
    position = content.find(weights["layer4.1.conv2.weight"].numpy().tobytes()[:64]) + 40
    content[position] ^= 1
    path.write_bytes(content)
    assert "does not have its checksum" in refusal(path, capsys)


def test_what_is_no_file_is_told(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert "no regular file" in refusal(tmp_path / "pipe", capsys)
    assert "a folder" in refusal(tmp_path, capsys)
    assert "no such file" in refusal(tmp_path / "absent", capsys)


@pytest.mark.parametrize("key", ["layer1.0.\x1b[31mred", "layer1.0.a\nb", "layer1.0.\u202eabc", "layer1.0.\udc80"])
def test_names_reach_the_terminal_without_control_characters(key, weights, tmp_path, capsys):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(weights | {key: torch.zeros(1)}))
    line = refusal(tmp_path / "a.pkl", capsys)
    assert "not explained: layer1.0." in line and line.removesuffix("\n").isprintable()
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({key: weights | {"conv1.weight": weights["conv1.weight"] * 1}}))
    assert checkpoint.main(["inspect", str(tmp_path / "b.pkl")]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.parametrize("change, words", [
    (dict(channel_order="GBR"), "channel order 'GBR', which is none of RGB, BGR"),
    (dict(mean=[1, 2]), "mean [1, 2]; it takes three numbers"),
    (dict(std=[0.1, 0.2, 0]), "above 0"), (dict(std=[10**400] * 3), "three numbers"), (dict(stride=3), "stride '3'"),
    (dict(mean="abc"), "mean abc")])
def test_damaged_metadata_are_refused(change, words, weights, tmp_path, capsys):
    path = checkpoint.save(tmp_path / "a.safetensors", weights, change)
    assert words in refusal(path, capsys)


def test_metadata_that_are_no_json_are_refused(weights, tmp_path, capsys):
    for text in ("{", "[]", "[" * 100_000, "3"):
        save_file(weights, tmp_path / "a.safetensors", metadata={"detco": text})
        assert "metadata are damaged" in refusal(tmp_path / "a.safetensors", capsys)


# Pixels: what the file states, what is given, what is assumed.


def test_the_files_own_statement_wins(weights, tmp_path, capsys):
    path = checkpoint.save(tmp_path / "a.safetensors", weights, dict(channel_order="BGR", mean=list(MEAN[::-1])))
    assert checkpoint.load(path, channel_order="BGR").metadata["channel_order"] == "BGR"
    assert "it states channel order BGR itself" in refusal(path, capsys, "--channel-order", "RGB")
    assert "it states mean" in refusal(path, capsys, "--pixel-mean", "0.5", "0.5", "0.5")
    assert checkpoint.main(["inspect", str(path), "--channel-order", "RGB", "--override"]) == 0
    assert "channels RGB (an option)" in capsys.readouterr().out


@pytest.mark.parametrize("options", [
    dict(channel_order="BGR"),
    dict(channel_order="BGR", mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395]),
    dict(channel_order="BGR", mean=[103.53, 116.28, 123.675], std=[1, 1, 1]),
    dict(std=[0.5, 0.25, 0.125])], ids=str)
def test_given_pixels_are_converted_exactly(options, weights, tmp_path):
    """The stem of the source network, on its own pixels, gives what the converted one gives on the protocols'."""
    torch.save(weights, tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth", **options)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()

    def stem(order, mean, std, weight):
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
        return torch.conv2d(((image.flip(1) if order == "BGR" else image) - mean) / std, weight.double(), padding=3)

    order, turned = options.get("channel_order", "RGB"), slice(None, None, -1 if "channel_order" in options else 1)
    scale = 255 if max(options.get("mean", [0])) > 1 else 1
    mean = [v / scale for v in options["mean"]] if "mean" in options else MEAN[turned]
    std = [v / scale for v in options["std"]] if "std" in options else STD[turned]
    theirs = stem(order, mean, std, weights["conv1.weight"])
    ours = stem("RGB", MEAN, STD, checkpoint.to_protocol(loaded, tmp_path / "a.pth")["conv1.weight"])
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-6


# Writing.


def test_nothing_is_written_onto_its_own_input_nor_in_a_style_there_is_not(weights, tmp_path, capsys):
    torch.save(weights, tmp_path / "a.pth")
    (tmp_path / "link.pth").symlink_to(tmp_path / "a.pth")
    before = (tmp_path / "a.pth").read_bytes()
    for out, style, words in (("a.pth", "timm", "onto itself"), ("link.pth", "timm", "onto itself"),
                              ("b.pth", "detectron", "unknown style 'detectron': did you mean detectron2"),
                              (".", "timm", "a folder")):
        assert checkpoint.main(["convert", str(tmp_path / "a.pth"), str(tmp_path / out), "--to", style]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    assert (tmp_path / "a.pth").read_bytes() == before and not (tmp_path / "b.pth").exists()
    with pytest.raises(CheckpointError, match="unknown style"):
        checkpoint.export(checkpoint.Checkpoint(weights, checkpoint.FOREIGN), tmp_path / "c", "caffe")


# By name.


def test_torchvision_by_name(weights, tmp_path, monkeypatch):
    torch.save(weights, tmp_path / "resnet18.pth")
    fetched = []

    def download(url, path, *rest):
        fetched.append(url)
        os.replace(tmp_path / "resnet18.pth", path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    loaded = checkpoint.load("torchvision:resnet18.IMAGENET1K_V1")
    assert all(torch.equal(loaded.state[key], weights[key]) for key in weights)
    assert loaded.assumed["mean"] == "the file" and loaded.metadata["mean"] == pytest.approx(list(MEAN))
    assert fetched == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert checkpoint.load("torchvision:resnet18").metadata["parent"] == loaded.metadata["parent"] and len(fetched) == 1


@pytest.mark.parametrize("name, words", [
    ("torchvision:resnet5", "unknown ResNet of torchvision 'resnet5': did you mean resnet50"),
    ("torchvision:resnet50.V3", "unknown weights of torchvision's resnet50 'V3'"),
    ("timm:vit_base", "unknown ResNet of timm"), ("https://127.0.0.1:9/a.pth", "cannot be fetched ("),
    ("hf:a/b", "cannot be fetched (")])
def test_names_that_give_no_file_are_one_line(name, words, tmp_path, monkeypatch, capsys):
    kind = name.split(":")[0]
    if kind in ("timm", "hf"):
        pytest.importorskip({"timm": "timm", "hf": "huggingface_hub"}[kind])
    if kind == "hf":
        import huggingface_hub

        def offline(*args, **kwargs):
            raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nsecond line")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert words in refusal(name, capsys)


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    for name, extra in (("timm:resnet50", "timm"), ("hf:a/b", "huggingface")):
        with pytest.raises(UserError, match=rf'is not installed: pip install -e "\.\[{extra}\]"'):
            hub.fetch(name)


def test_hugging_face_and_timm_by_name(weights, tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("timm")
    save_file(weights, tmp_path / "model.safetensors")
    config = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = []

    def download(owner, file, revision=None):
        asked.append((owner, file, revision))
        if not (tmp_path / file).exists():
            raise huggingface_hub.errors.RemoteEntryNotFoundError("404", response=argparse.Namespace(
                headers={}, request=None, status_code=404))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = checkpoint.load("hf:timm/some_resnet18@v1")
    assert loaded.metadata["mean"] == [0.5] * 3 and loaded.metadata["std"] == [0.25] * 3
    assert asked[-1] == ("timm/some_resnet18", "model.safetensors", "v1")
    (tmp_path / "config.json").unlink()
    loaded = checkpoint.load("timm:resnet18.a1_in1k")
    assert asked[-1] == ("timm/resnet18.a1_in1k", "model.safetensors", None)
    assert all(torch.equal(loaded.state[key], weights[key]) for key in weights)


def test_loading_warns_of_nothing(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checkpoint.load(tmp_path / "a.pth")
