"""Every layout that checkpoints come in: the features of C2 to C5 are those of the network that the file came from."""
import argparse
import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from detco import checkpoint, formats
from detco.backbone import LEVELS, ResNetLevels
from detco.checkpoint import CheckpointError

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def network(arch, seed):
    """A torchvision ResNet whose batch norms count: no weight, bias or statistic has its initial value."""
    torch.manual_seed(seed)
    net = getattr(torchvision.models, arch)(weights=None).eval()
    randomise(net)
    return net


def randomise(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


@torch.no_grad()
def features_of(state, arch="resnet18", caffe=False):
    with torch.device("meta"):
        net = ResNetLevels(arch, "caffe" if caffe else "pytorch").eval()
    missing = net.load_state_dict(state, strict=False, assign=True)
    assert not missing.unexpected_keys and all("num_batches" in key for key in missing.missing_keys)
    return net(IMAGE)


def agree(ours, theirs):
    """Whether the maps of C2 to C5 are equal to 1e-5 of each map's largest value."""
    for level, b in zip(LEVELS, theirs.values() if isinstance(theirs, dict) else theirs, strict=True):
        assert float((ours[level] - b).abs().max() / b.abs().max()) < 1e-5


@pytest.fixture(scope="module")
def states():
    return network("resnet18", 0).state_dict(), network("resnet18", 1).state_dict()


@pytest.fixture(scope="module")
def expected(states):
    return [features_of(bare(state)) for state in states]


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def bare(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def sequential(state):
    numbers = dict(conv1=0, bn1=1, layer1=4, layer2=5, layer3=6, layer4=7)
    return {f"{numbers[key.split('.')[0]]}.{key.split('.', 1)[1]}": value for key, value in bare(state).items()}


def detectron2(state):
    return {checkpoint._detectron2_name(key): value for key, value in bare(state).items()}


HEAD = {"projector.0.weight": torch.zeros(2, 2)}
PREDICTOR = {"module.predictor.0.weight": torch.zeros(2, 2)}
PROTOTYPES = {"module.prototypes.weight": torch.zeros(2, 2), "module.projection_head.0.weight": torch.zeros(2, 2)}
LIGHTNING = {"pytorch-lightning_version": "2.0", "epoch": 1, "global_step": 5, "callbacks": {}}
# name of the layout -> (what the file holds, of the network to be read and of another; encoder -> which of the two)
FILES = {
    "torchvision": (lambda a, b: a, {}),
    "torchvision, reference training": (
        lambda a, b: {"model": b, "model_ema": under("module.", a) | {"n_averaged": torch.tensor(3)}, "epoch": 3,
                      "args": argparse.Namespace(lr=0.5)}, {"ema": "a", "raw": "b"}),
    "DDP": (lambda a, b: {"state_dict": under("module.", a)}, {}),
    "compile": (lambda a, b: under("_orig_mod.", a), {}),
    "compile within DDP": (lambda a, b: under("module._orig_mod.", a), {}),
    "averaged model": (lambda a, b: under("module.", a) | {"n_averaged": torch.tensor(3)}, {}),
    "MoCo v1, v2": (lambda a, b: {
        "epoch": 200, "arch": "r", "state_dict": under("module.encoder_q.", a) | under("module.encoder_k.", b) | {
            "module.queue": torch.zeros(4, 2), "module.queue_ptr": torch.zeros(1, dtype=torch.long)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}}}, {"query": "a", "momentum": "b", "key": "b"}),
    "MoCo v3": (lambda a, b: {"state_dict": under("module.base_encoder.", a) | PREDICTOR
                              | under("module.momentum_encoder.", b)}, {"query": "a", "momentum": "b"}),
    "SimSiam": (lambda a, b: {"state_dict": under("module.encoder.", a) | PREDICTOR}, {"query": "a"}),
    "BYOL (its modules)": (
        lambda a, b: under("net.", a) | under("online_encoder.net.", a) | under("target_encoder.net.", b)
        | {"online_predictor.net.0.weight": torch.zeros(2, 2)}, {"online": "a", "target": "b", "momentum": "b"}),
    "BYOL (two dicts)": (lambda a, b: {
        "online_network_state_dict": under("encoder.", sequential(a)),
        "target_network_state_dict": under("encoder.", sequential(b))}, {"online": "a", "target": "b"}),
    "SwAV": (lambda a, b: under("module.", a) | PROTOTYPES, {}),
    "DINO, in full": (lambda a, b: {
        "student": under("module.backbone.", b) | {"module.head.mlp.0.weight": torch.zeros(2, 2)},
        "teacher": under("backbone.", a) | {"head.mlp.0.weight": torch.zeros(2, 2)}, "epoch": 3,
        "args": argparse.Namespace(arch="resnet18"), "dino_loss": {"center": torch.zeros(1, 2)}},
        {"teacher": "a", "student": "b", "momentum": "a", "query": "b"}),
    "Barlow Twins, in full": (lambda a, b: {"epoch": 3, "model": under("module.backbone.", a) | {
        "module.projector.0.weight": torch.zeros(2, 2), "module.bn.running_mean": torch.zeros(2)}}, {}),
    "VICReg, in full": (lambda a, b: {"epoch": 3, "model": under("module.backbone.", a) | {
        "module.projector.0.weight": torch.zeros(2, 2)}, "optimizer": {}}, {}),
    "DenseCL, OpenSelfSup": (lambda a, b: {"meta": {"epoch": 3}, "state_dict": under("encoder_q.0.", a) | under(
        "backbone.", a) | under("encoder_k.0.", b) | {"queue2": torch.zeros(2, 2)}}, {"query": "a", "momentum": "b"}),
    "OpenSelfSup, extracted": (lambda a, b: {"state_dict": bare(a), "author": "OpenSelfSup"}, {}),
    "OpenSelfSup BYOL": (lambda a, b: {"state_dict": under("online_net.0.", a) | under("backbone.", a) | under(
        "target_net.0.", b)}, {"online": "a", "target": "b"}),
    "MMSelfSup 1": (lambda a, b: {"meta": {}, "state_dict": under("backbone.", a) | under("encoder_k.module.0.", b) | {
        "encoder_k.steps": torch.tensor(3)}}, {"query": "a", "momentum": "b"}),
    "MMPreTrain": (lambda a, b: {"meta": {"epoch": 3}, "state_dict": under("backbone.", bare(a)) | {
        "head.fc.weight": torch.zeros(2, 2)}}, {}),
    "VISSL": (lambda a, b: {"phase_idx": 3, "classy_state_dict": {"base_model": {"model": {
        "trunk": under("_feature_blocks.", bare(a)), "heads": {"0.clf.0.weight": torch.zeros(2, 2)}}}}}, {}),
    "lightly": (
        lambda a, b: LIGHTNING | {"state_dict": under("backbone.", bare(a)) | under("backbone_momentum.", bare(b)) | {
            "projection_head.layers.0.weight": torch.zeros(2, 2)}}, {"query": "a", "momentum": "b"}),
    "lightly, nn.Sequential": (
        lambda a, b: under("backbone.", sequential(a)) | under("backbone_momentum.", sequential(b)),
        {"query": "a", "momentum": "b"}),
    "lightly, DINO": (
        lambda a, b: under("student_backbone.", sequential(b)) | under("teacher_backbone.", sequential(a)),
        {"teacher": "a", "student": "b"}),
    "solo-learn": (lambda a, b: LIGHTNING | {
        "state_dict": under("backbone.", a) | under("momentum_backbone.", b) | HEAD, "hyper_parameters": {"lr": 1}},
        {"query": "a", "momentum": "b"}),
    "solo-learn, old": (
        lambda a, b: LIGHTNING | {"state_dict": under("encoder.", a) | under("momentum_encoder.", b) | HEAD},
        {"query": "a", "momentum": "b"}),
    "timm training": (lambda a, b: {"epoch": 3, "arch": "resnet18", "state_dict": b, "state_dict_ema": a,
                                    "args": argparse.Namespace(mean=None), "metric": np.float64(0.5)},
                      {"ema": "a", "raw": "b"}),
    "EMA beside the model": (lambda a, b: under("ema_model.", a) | under("online_model.", b), {"ema": "a", "raw": "b"}),
    "detectron2 backbone": (lambda a, b: {"model": {k: v.numpy() for k, v in detectron2(a).items()},
                                          "__author__": "MOCO", "matching_heuristics": True}, {}),
    "DetCo's release, .pth": (lambda a, b: {"state_dict": bare(a), "author": "x"}, {}),
    "a bare Sequential": (lambda a, b: sequential(a), {}),
    "any prefix": (lambda a, b: {"net": under("student.trunk.", a)}, {}),
    "whatever lies beside": (lambda a, b: dict(a) | {"acc1": torch.tensor(70.0), "queue": torch.zeros(3, 2)}, {}),
}


@pytest.mark.parametrize("name", FILES)
def test_features_are_the_sources(name, states, expected, tmp_path):
    build, encoders = FILES[name]
    torch.save(build(*states), tmp_path / "a.pth")
    agree(features_of(checkpoint.load(tmp_path / "a.pth").state), expected[0])
    for encoder, which in encoders.items():
        loaded = checkpoint.load(tmp_path / "a.pth", encoder=encoder)
        agree(features_of(loaded.state), expected["ab".index(which)])
        assert len(loaded.assumed["others"]) == len(set(encoders.values())) - 1


@pytest.mark.parametrize("name, layout", [
    ("MoCo v1, v2", "MoCo v1 or v2"), ("MoCo v3", "MoCo v3"), ("SimSiam", "SimSiam"), ("SwAV", "SwAV"),
    ("BYOL (two dicts)", "BYOL"), ("DINO, in full", "DINO"), ("VISSL", "VISSL"),
    ("Barlow Twins, in full", "Barlow Twins or VICReg"),
    ("DenseCL, OpenSelfSup", "OpenSelfSup, MMSelfSup, MMPreTrain or DenseCL"),
    ("lightly, nn.Sequential", "lightly or solo-learn"), ("timm training", "timm, with EMA"),
    ("MMPreTrain", "MMPreTrain, MMDetection or mmengine"), ("torchvision", "torchvision or timm")])
def test_the_layout_encoder_and_prefix_are_told(name, layout, states, tmp_path):
    torch.save(FILES[name][0](*states), tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert loaded.metadata["origin"] == {k: loaded.assumed[k] for k in ("layout", "prefix", "encoder")}
    assert loaded.assumed["layout"] == layout and loaded.assumed["mean"] == "the layout"
    line = loaded.described()
    assert "\n" not in line and f"layout of {layout}, encoder {loaded.assumed['encoder']} under" in line
    assert loaded.metadata["std"][0] == (0.228 if layout == "SwAV" else 0.229)


def test_a_layout_is_one_entry(states, tmp_path, monkeypatch):
    a, b = states
    torch.save({"left": under("trunk.", b), "right": under("trunk.", a)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"2 ResNets in it, in no known layout: left/trunk\., right/trunk\."):
        checkpoint.load(tmp_path / "a.pth")
    agree(features_of(checkpoint.load(tmp_path / "a.pth", encoder="right/trunk.").state), features_of(bare(a)))
    monkeypatch.setattr(formats, "LAYOUTS", [
        formats.Layout("Left and right", (("right", r"right/trunk\."), ("left", r"left/trunk\.")), std=(0.5, 0.5, 0.5)),
        *formats.LAYOUTS])
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert loaded.assumed["layout"] == "Left and right" and loaded.metadata["std"] == [0.5] * 3
    agree(features_of(loaded.state), features_of(bare(a)))


def test_an_encoder_that_is_not_there_is_refused(states, tmp_path):
    torch.save(FILES["MoCo v1, v2"][0](*states), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no encoder 'ema' in it, but: query \(state_dict/module.enc"):
        checkpoint.load(tmp_path / "a.pth", encoder="ema")


def test_two_different_networks_in_one_role_are_not_guessed_between(states, tmp_path):
    a, b = states
    torch.save(under("encoder_q.0.", a) | under("backbone.", b), tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="two different query encoders in it"):
        checkpoint.load(tmp_path / "a.pth")
    agree(features_of(checkpoint.load(tmp_path / "a.pth", encoder="backbone.").state), features_of(bare(b)))


def caffe2(state, statistics):
    """A torchvision state dict under Caffe2's names; batch norm folded to scale and shift unless `statistics`."""
    letters, found = dict(zip("123", "abc", strict=True)), {}
    for key, value in bare(state).items():
        if "num_batches" in key:
            continue
        parts, end = key.split("."), key.split(".")[-1]
        stage = {"conv1": "conv1", "bn1": "res_conv1_bn"}.get(parts[0])
        if stage is None:
            branch = "branch1" if parts[2] == "downsample" else f"branch2{letters[parts[2][-1]]}"
            norm = parts[2].startswith("bn") or parts[2:4] == ["downsample", "1"]
            stage = f"res{int(parts[0][-1]) + 1}_{parts[1]}_{branch}" + "_bn" * norm
        end = {"running_mean": "rm", "running_var": "riv"}.get(end, "b" if end == "bias" else
                                                               "s" if stage.endswith("bn") else "w")
        if statistics or end not in ("rm", "riv"):
            found[f"{stage}_{end}"] = value.numpy()
    return found | {"conv1_b": np.zeros(64, np.float32), "fc1000_w": np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize("protocol, arch", [*((protocol, "resnet18") for protocol in range(6)), (2, "resnet50")])
def test_caffe2_pickles_of_any_protocol(protocol, arch, tmp_path):
    net = network(arch, 0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # scale and shift alone, as the MSRA network is published
            module.running_mean.zero_(), module.running_var.fill_(1 - module.eps)
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": caffe2(net.state_dict(), False)}, protocol))
    loaded = checkpoint.load(tmp_path / "R-50.pkl")
    agree(features_of(loaded.state, arch, caffe=True), features_of(bare(net.state_dict()), arch, caffe=True))
    meta = loaded.metadata
    assert (meta["channel_order"], meta["stride"], meta["std"]) == ("BGR", "caffe", [1 / 255] * 3)
    assert meta["mean"] == [0.406, 0.456, 0.485]


def test_a_pickle_of_python_2_is_read(states, tmp_path):
    """Python 2 wrote arrays' bytes as text in protocols 0 to 2; the opcodes are written by hand."""
    state = caffe2(states[0], True)
    for text in (True, False):
        parts = [b"(d" if text else b"\x80\x02}"]
        for key, value in state.items():
            shape = b"(" + b"".join(b"I%d\n" % n for n in value.shape) + b"t"
            raw = value.tobytes()
            data = b"S" + repr(raw)[1:].encode() + b"\n" if text else b"T" + len(raw).to_bytes(4, "little") + raw
            parts.append(b"S'%s'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" % key.encode()
                         + b"(I1\n" + shape + b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
                         + data + b"tbs")
        (tmp_path / "a.pkl").write_bytes(b"".join(parts) + b".")
        expected = {k: v for k, v in bare(states[0]).items() if "num_batches" not in k}
        loaded = checkpoint.load(tmp_path / "a.pkl").state
        assert loaded.keys() == expected.keys() and all(torch.equal(loaded[k], expected[k]) for k in expected)


@pytest.mark.parametrize("prefix, last, mean, order, stride", [
    ("backbone.bottom_up.", "backbone.bottom_up.", (103.53, 116.28, 123.675), "BGR", "caffe"),
    ("backbone.", "roi_heads.", (123.675, 116.28, 103.53), "RGB", "pytorch"),
    ("backbone.", "roi_heads.", None, "BGR", "caffe")])
def test_a_detectron2_model_states_its_pixels(prefix, last, mean, order, stride, states, tmp_path):
    a, _ = states
    model = {(last if key.startswith("res5") else prefix) + key: value for key, value in detectron2(a).items()
             if "num_batches" not in key}
    std = [58.395, 57.12, 57.375] if order == "RGB" else [1.0] * 3
    if mean:
        model |= {"pixel_mean": torch.tensor(mean).view(3, 1, 1), "pixel_std": torch.tensor(std).view(3, 1, 1)}
    torch.save({"model": model, "iteration": 3, "optimizer": {}}, tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    agree(features_of(loaded.state), features_of(bare(a)))
    meta = loaded.metadata
    assert (meta["channel_order"], meta["stride"]) == (order, stride)
    assert meta["mean"] == pytest.approx([v / 255 for v in mean or (103.53, 116.28, 123.675)])
    assert meta["std"] == pytest.approx([v / 255 for v in std])
    assert loaded.assumed["mean"] == ("the file" if mean else "the layout")


def test_files_from_before_torch_1_6_and_tensors_pickled_plainly_are_read(states, tmp_path):
    torch.save({"state_dict": states[0]}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"model": states[0]}))
    torch.save({"state_dict": states[0]}, tmp_path / "c.pth", pickle_protocol=5)
    parameters = {k: nn.Parameter(v, False) if v.is_floating_point() else v for k, v in states[0].items()}
    torch.save({"state_dict": parameters}, tmp_path / "d.pth")
    net = network("resnet18", 0)
    torch.save(net, tmp_path / "e.pth")  # a module pickled whole: its class is not needed
    torch.save(net.to(memory_format=torch.channels_last).state_dict(), tmp_path / "f.pth")
    expected = bare(states[0])
    for name in ("a.pth", "b.pkl", "c.pth", "d.pth", "e.pth", "f.pth"):
        loaded = checkpoint.load(tmp_path / name).state
        assert loaded.keys() == expected.keys() and all(torch.equal(loaded[k], v) for k, v in expected.items()), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("style", checkpoint.STYLES)
def test_conversion_and_back_is_bit_exact(style, dtype, states, tmp_path):
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in bare(states[0]).items()}
    meta = dict(arch="resnet18", channel_order="BGR", mean=[0.1, 0.2, 0.3], method="mine", seed=3)
    path = checkpoint.save(tmp_path / "a.safetensors", state, meta)
    out, back = tmp_path / "out" / "b.bin", tmp_path / "c.safetensors"
    assert checkpoint.main(["convert", str(path), str(out), "--to", style]) == 0
    assert checkpoint.main(["convert", str(out), str(back), "--to", "safetensors"]) == 0
    assert back.read_bytes() == path.read_bytes()
    loaded = checkpoint.load(out)
    assert {k: v.dtype for k, v in loaded.state.items()} == {k: v.dtype for k, v in state.items()}
    assert loaded.assumed["mean"] == "the file"


def test_conversions_are_what_the_others_load(states, tmp_path):
    a = bare(states[0])
    source = checkpoint.Checkpoint(a, checkpoint.FOREIGN | {"arch": "resnet18"})
    files = {style: checkpoint.export(source, tmp_path / style, style) for style in checkpoint.STYLES}
    net = torchvision.models.resnet18(weights=None)
    net.fc = nn.Identity()
    net.load_state_dict(torch.load(files["torchvision"], weights_only=True))
    assert torch.equal(net.layer4[1].conv2.weight, a["layer4.1.conv2.weight"])
    model = pickle.loads(files["detectron2"].read_bytes())
    assert "__author__" in model and {"stem.conv1.weight", "res5.1.conv2.norm.running_var"} <= model["model"].keys()
    prefixed = torch.load(files["mmpretrain"], weights_only=True)["state_dict"]
    assert set(prefixed) == {f"backbone.{key}" for key in a}
    for style in ("mmdet", "timm"):
        assert torch.load(files[style], weights_only=True)["state_dict"].keys() == a.keys()


# Files that the projects' own code writes, and features that it gives.


def test_timm_writes_and_reads(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("resnet50", num_classes=3).eval()
    randomise(net)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    theirs = timm.create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    theirs.load_state_dict(net.state_dict(), strict=False)
    with torch.no_grad():
        agree(features_of(loaded.state, "resnet50"), theirs(IMAGE))
    # timm's loader takes what is written for it, whole
    out = checkpoint.export(loaded, tmp_path / "b.pth", "timm")
    again = timm.create_model("resnet50", num_classes=0, checkpoint_path=str(out))
    assert all(torch.equal(again.state_dict()[k], v) for k, v in loaded.state.items())


def test_timm_checkpoint_saver_with_ema(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.utils import CheckpointSaver, ModelEmaV3

    net = timm.create_model("resnet18", num_classes=3)
    randomise(net)
    ema = ModelEmaV3(net, decay=0)
    randomise(net)
    args = argparse.Namespace(model="resnet18", mean=None)
    saver = CheckpointSaver(net, torch.optim.SGD(net.parameters(), 0.1), args, ema, checkpoint_dir=str(tmp_path),
                            recovery_dir=str(tmp_path))
    saver.save_checkpoint(0, metric=0.5)
    path = next(tmp_path.glob("checkpoint-*.pth.tar"))
    for encoder, source in ((None, ema.module), ("ema", ema.module), ("raw", net)):
        state = source.state_dict()
        loaded = checkpoint.load(path, encoder=encoder).state
        assert all(torch.equal(loaded[k], state[k]) for k in loaded)


@pytest.mark.parametrize("arch, layer", [("resnet18", "basic"), ("resnet50", "bottleneck")])
def test_transformers_writes(arch, layer, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = dict(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]) if layer == "basic" else {}
    stages = [f"stage{i}" for i in range(1, 5)]
    config = transformers.ResNetConfig(layer_type=layer, num_labels=3, out_features=stages, **small)
    for kind in (transformers.ResNetForImageClassification, transformers.ResNetModel, transformers.ResNetBackbone):
        net = kind(config).eval()
        randomise(net)
        net.save_pretrained(tmp_path / kind.__name__)
        loaded = checkpoint.load(tmp_path / kind.__name__ / "model.safetensors")
        with torch.no_grad():
            agree(features_of(loaded.state, arch), net(IMAGE, output_hidden_states=True).hidden_states[1:])
        assert loaded.metadata["stride"] == "pytorch"


def test_transformers_with_the_stride_in_the_1x1_and_pixels_beside_it(tmp_path):
    transformers = pytest.importorskip("transformers")
    net = transformers.ResNetModel(transformers.ResNetConfig(downsample_in_bottleneck=True)).eval()
    randomise(net)
    net.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    loaded = checkpoint.load(tmp_path / "model.safetensors")
    assert (loaded.metadata["stride"], loaded.metadata["mean"]) == ("caffe", [0.5] * 3)
    assert loaded.assumed["mean"] == "the file"
    with torch.no_grad():
        theirs = net(IMAGE, output_hidden_states=True).hidden_states[1:]
    agree(features_of(loaded.state, "resnet50", caffe=True), theirs)


def test_lightly_and_lightning_write(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")
    pytest.importorskip("lightly")
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead

    class MoCo(lightning.LightningModule):  # as lightly's examples build it

        def __init__(self):
            super().__init__()
            resnet = network("resnet18", 0)
            self.backbone = nn.Sequential(*list(resnet.children())[:-1])
            self.projection_head = MoCoProjectionHead(512, 512, 128)
            self.backbone_momentum = copy.deepcopy(self.backbone)
            randomise(self.backbone_momentum)
            self.criterion = NTXentLoss(memory_bank_size=(8, 128))
            self.save_hyperparameters({"space": argparse.Namespace(lr=1)})

        def training_step(self, batch, index):
            return (self.backbone(batch).mean() - 1) ** 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0)

    model = MoCo()
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                                default_root_dir=tmp_path, callbacks=[lightning.callbacks.WeightAveraging()],
                                enable_checkpointing=False, enable_model_summary=False)
    trainer.fit(model, torch.utils.data.DataLoader(IMAGE.repeat(2, 1, 1, 1), 2))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    stored = torch.load(tmp_path / "a.ckpt", weights_only=False)
    for role, place in (("ema", "state_dict"), ("raw", "current_model_state")):
        net = MoCo().eval()
        net.load_state_dict(stored[place], strict=False)
        for prefix in ("backbone.", "backbone_momentum."):
            x, theirs = IMAGE, []
            with torch.no_grad():
                for i, part in enumerate(getattr(net, prefix[:-1])):
                    x = part(x)
                    theirs += [x] * (4 <= i <= 7)
            loaded = checkpoint.load(tmp_path / "a.ckpt", encoder=f"{place}/{prefix}")
            assert loaded.assumed["encoder"] == role
            agree(features_of(loaded.state), theirs)


def test_mmengine_writes_with_history_buffers_and_swapped_ema(tmp_path):
    pytest.importorskip("mmengine")
    from mmengine.hooks import EMAHook
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):

        def __init__(self):
            super().__init__()
            self.backbone = network("resnet18", 0)

        def forward(self, inputs, mode="tensor"):
            return {"loss": self.backbone(inputs).mean()}

    data = torch.utils.data.DataLoader([{"inputs": image} for image in IMAGE.repeat(2, 1, 1, 1)], 2)
    runner = Runner(
        Model(), str(tmp_path), train_dataloader=data, train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)), custom_hooks=[EMAHook(momentum=0.5)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2)), experiment_name=tmp_path.name,
        cfg=dict(data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True),
                 model=dict(backbone=dict(type="ResNet", depth=18, style="pytorch"))))
    runner.train()
    hook = next(h for h in runner.hooks if isinstance(h, EMAHook))
    raw, ema = runner.model.backbone.state_dict(), hook.ema_model.module.backbone.state_dict()
    assert not torch.equal(raw["conv1.weight"], ema["conv1.weight"])
    for encoder, state in ((None, ema), ("ema", ema), ("raw", raw)):
        loaded = checkpoint.load(tmp_path / "epoch_2.pth", encoder=encoder)
        agree(features_of(loaded.state), features_of(bare(state)))
        assert {loaded.assumed[k] for k in ("mean", "std", "channel_order")} == {"the file"}


def test_mmdetection_c4_with_caffes_pixels(tmp_path):
    pytest.importorskip("mmdet")
    from benchmarks.detection import mmcv_ops

    mmcv_ops.install()
    from mmdet.models.backbones import ResNet

    torch.manual_seed(0)
    net = ResNet(50, style="caffe")
    net.eval()
    randomise(net)
    moved = {("roi_head.shared_head." if k.startswith("layer4.") else "backbone.") + k: v
             for k, v in net.state_dict().items()}
    text = ("model = dict(backbone=dict(depth=50, style='caffe', type='ResNet'), "
            "data_preprocessor=dict(bgr_to_rgb=False, mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]))\n"
            "import_of = open('x')\n")
    torch.save({"meta": {"cfg": text, "epoch": 3}, "state_dict": OrderedDict(moved)}, tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    with torch.no_grad():
        agree(features_of(loaded.state, "resnet50", caffe=True), net(IMAGE))
    meta = loaded.metadata
    assert (meta["channel_order"], meta["stride"]) == ("BGR", "caffe")
    assert meta["mean"] == pytest.approx([0.406, 0.456, 0.485]) and meta["std"] == pytest.approx([1 / 255] * 3)
