"""The layouts that checkpoints come in, in one table, and how a ResNet is found in a file by it.

Words: a file's tensors have addresses, the keys of the dicts around them and their own name, such as
"state_dict/module.encoder_q.conv1.weight". What stands before a ResNet's own names is its prefix; a file may hold
several ResNets, its encoders.
"""
import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from detco.backbone import ARCHS, ResNetLevels
from detco.errors import several
from detco.unpickle import FormatError, Lazy, Record
from detco.views import MEAN, STD

DEPTH = 12  # of dicts within dicts in which weights are looked for; VISSL's lie five deep
LONGEST = 1000  # characters of a key that may matter
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
OWN = re.compile(r"(?:conv1|bn1|layer\d+)\.")
# Detectors of the C4 kind keep the last stage beside the backbone.
ELSEWHERE = re.compile(r"(?:roi_heads|roi_head\.shared_head)\.(?=(?:res5|layer4)\.)")
ROLES = dict(student="query", online="query", key="momentum", teacher="momentum", target="momentum")

# How a ResNet's parts are called: its first convolution, its first block's, and what is renamed to torchvision's names.
Names = tuple[str, str, tuple[tuple[str, Any], ...]]
TORCHVISION: Names = ("conv1.weight", "layer1.0.conv1.weight", ())
SEQUENTIAL: Names = ("0.weight", "4.0.conv1.weight", (
    (r"^0\.", "conv1."), (r"^1\.", "bn1."), (r"^([4-7])\.", lambda m: f"layer{int(m[1]) - 3}.")))
DETECTRON2: Names = ("stem.conv1.weight", "res2.0.conv1.weight", (
    (r"^stem\.", ""), (r"^res(\d)\.", lambda m: f"layer{int(m[1]) - 1}."), (r"(^|\.)conv(\d)\.norm\.", r"\1bn\2."),
    (r"\.shortcut\.norm\.", ".downsample.1."), (r"\.shortcut\.(?=weight|bias)", ".downsample.0.")))
CAFFE2: Names = ("conv1_w", "res2_0_branch2a_w", (
    (r"^(?:res_)?conv1_bn_", "bn1_"), (r"^res(\d)_(\d+)_", lambda m: f"layer{int(m[1]) - 1}.{m[2]}."),
    (r"branch2([abc])_bn_", lambda m: f"bn{'abc'.index(m[1]) + 1}_"),
    (r"branch2([abc])_", lambda m: f"conv{'abc'.index(m[1]) + 1}_"), (r"branch1_bn_", "downsample.1_"),
    (r"branch1_", "downsample.0_"), (r"_(?:w|s|gamma)$", ".weight"), (r"_(?:b|beta)$", ".bias"),
    (r"_(?:rm|running_mean)$", ".running_mean"), (r"_(?:riv|running_var)$", ".running_var")))
HUGGING_FACE: Names = ("embedder.embedder.convolution.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight", (
    (r"^embedder\.embedder\.convolution\.", "conv1."), (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."), (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}.")))
NAMES: tuple[Names, ...] = (CAFFE2, HUGGING_FACE, DETECTRON2, TORCHVISION, SEQUENTIAL)


@dataclass(frozen=True)
class Layout:
    """One way in which a ResNet lies in a file, and how its authors feed it.

    Attributes:
        encoders: (role, pattern of the prefix, without wrappers as DDP's), the one that is taken unasked first: the one
            that the authors evaluate. Roles: "query", "momentum", "raw", "ema". A pattern begins at a dict or at the
            file's begin and covers the rest of the prefix.
        names: how the ResNet's own parts are called.
        marks: pattern that one of the file's addresses or outermost keys has, for layouts that share a prefix.
        channel_order, mean, std, stride: as in `detco.checkpoint`; of a pixel in [0, 1], in channel order.
    """

    name: str
    encoders: tuple[tuple[str, str], ...]
    names: tuple[Names, ...] = (TORCHVISION,)
    marks: str = ""
    channel_order: str = "RGB"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    stride: str = "pytorch"


# Caffe's pixels: BGR in [0, 255] less ImageNet's mean, and the stride in the 1x1 convolution (MSRA's networks).
CAFFE: dict[str, Any] = dict(channel_order="BGR", mean=MEAN[::-1], std=(1 / 255,) * 3, stride="caffe")
# The first that fits all encoders of a file counts.
LAYOUTS = [
    Layout("Caffe2 (Detectron)", (("raw", ""),), (CAFFE2,), **CAFFE),
    Layout("Hugging Face", (("raw", r"(resnet\.|model\.|backbone\.)*"),), (HUGGING_FACE,)),
    # Backbones converted for it are torchvision's in all but their names; models that it trained begin with MSRA's.
    Layout("detectron2 backbone (MoCo's, DetCo's and OpenSelfSup's releases)", (("raw", ""),), (DETECTRON2,)),
    Layout("detectron2 model", (("raw", r"backbone\.(bottom_up\.)?"),), (DETECTRON2,), **CAFFE),
    Layout("VISSL", (("raw", r"_feature_blocks\."),)),
    Layout("DINO", (("momentum", r"teacher/(backbone\.)?"), ("query", r"student/(backbone\.)?"))),
    Layout("MoCo v3", (("query", r"base_encoder\."), ("momentum", r"momentum_encoder\.")), marks=r"base_encoder\."),
    Layout("OpenSelfSup, MMSelfSup, MMPreTrain or DenseCL", (
        ("query", r"(encoder_q\.0|online_net\.0|backbone)\."),
        ("momentum", r"(encoder_k|target_net|momentum_encoder)\.0\.")),
        marks=r"(^|/)(module\.)?(encoder_[qk]|online_net|target_net|momentum_encoder)\.(module\.)?0\."),
    Layout("MoCo v1 or v2", (("query", r"encoder_q\."), ("momentum", r"encoder_k\."))),
    Layout("PixPro", (("query", r"encoder\."), ("momentum", r"encoder_k\.")), marks=r"encoder_k\."),
    Layout("BYOL", (
        ("query", r"((online_encoder|learner\.online_encoder)\.net\.|(learner\.)?net\."
                  r"|online_(network|encoder)(_state_dict)?[/.](encoder\.|features\.|backbone\.)?)"),
        ("momentum", r"((learner\.)?target_encoder\.net\."
                     r"|target_(network|encoder)(_state_dict)?[/.](encoder\.|features\.|backbone\.)?)")),
        (TORCHVISION, SEQUENTIAL), marks=r"(online|target)_(network|encoder)"),
    Layout("lightly (DINO)", (("momentum", r"(teacher_)?backbone\."), ("query", r"student_backbone\.")),
           (TORCHVISION, SEQUENTIAL), marks=r"student_(backbone|head|projection_head)\."),
    Layout("timm, with EMA", (("ema", "state_dict_ema/"), ("raw", "state_dict/")), marks="^state_dict_ema/"),
    # mmengine and Lightning swap the two before they write.
    Layout("mmengine, with EMA", (("ema", r"state_dict/(backbone\.)?"), ("raw", r"ema_state_dict/(backbone\.)?")),
           (TORCHVISION,), marks="^ema_state_dict/"),
    Layout("Lightning, with an average", (("ema", r"state_dict/(\w+\.)*"), ("raw", r"current_model_state/(\w+\.)*")),
           (TORCHVISION, SEQUENTIAL), marks="^current_model_state/"),
    Layout("a model and its EMA", (("ema", r"(model_ema|ema|ema_model|ema_model\.)[/.]?(backbone\.)?"),
                                   ("raw", r"(model|state_dict|online_model\.)[/.]?(backbone\.)?")),
           marks=r"(^|/)(model_ema|ema|ema_model)[/.]"),
    # Its authors divide by 0.228, not 0.229 (src/multicropdataset.py).
    Layout("SwAV", (("raw", ""),), marks=r"(^|[./])prototypes", std=(0.228, 0.224, 0.225)),
    Layout("Barlow Twins or VICReg", (("raw", r"model/backbone\."),), marks=r"projector\."),
    Layout("SimSiam", (("query", r"encoder\."),), marks=r"predictor\."),
    Layout("MMPreTrain, MMDetection or mmengine", (("raw", r"backbone\."),), marks="^(meta|message_hub)$"),
    Layout("lightly or solo-learn", (
        ("query", r"(backbone|encoder)\."), ("momentum", r"(backbone_momentum|momentum_backbone|momentum_encoder)\.")),
        (TORCHVISION, SEQUENTIAL)),
    Layout("nn.Sequential of a torchvision ResNet", (("raw", r"(features\.|model\.)?"),), (SEQUENTIAL,)),
    Layout("torchvision or timm", (("raw", ""),)),
]


@dataclass(frozen=True, eq=False)
class Encoder:
    """A ResNet in a file: the dict it lies in, at `path`, and its prefix there."""

    path: tuple[str, ...]
    tensors: dict[str, Any]
    prefix: str
    names: Names

    @property
    def address(self) -> str:
        return "".join(f"{part}/" for part in self.path) + self.prefix

    @property
    def bare(self) -> str:
        """The address without wrappers."""
        return "".join(f"{part}/" for part in self.path) + WRAPPERS.sub("", self.prefix)


@dataclass
class Found:
    """The ResNet that was chosen of a file, not read yet.

    Attributes:
        tensors: by torchvision's names.
        keys: torchvision's name -> the address in the file.
        ignored: address -> why it was left aside.
        stated: metadata that the file itself states.
        others: the encoders not taken, role or address -> address.
        assumed: filled by `detco.checkpoint`.
    """

    layout: Layout
    role: str
    prefix: str
    arch: str
    tensors: dict[str, Lazy]
    keys: dict[str, str]
    ignored: dict[str, str]
    stated: dict[str, Any] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)


def find(tree: Any, encoder: str | None = None) -> Found:
    """The ResNet in what a file holds (`detco.containers.read`).

    Args:
        encoder: which, where there are several: "query", "momentum", "raw", "ema" (or "student", "online", "teacher",
            "target", "key"), or its prefix. Default: the one that the layout's authors evaluate.
    Raises:
        FormatError: no ResNet in it, several that no layout explains, or keys missing, doubled or unexplained.
    """
    groups = list(_groups(tree))
    encoders = [found for path, tensors in groups for found in _encoders(path, tensors)]
    if not encoders:
        raise FormatError(_nothing_found(tree, groups))
    outermost = [k for k in tree if isinstance(k, str)] if isinstance(tree, dict) else []
    addresses = ["".join(f"{part}/" for part in path) + key for path, tensors in groups
                 for key, value in tensors.items() if isinstance(value, Lazy)]
    layout, roles = _layout_of(encoders, outermost + addresses)
    (role, chosen), *same = _chosen(layout, roles, encoder)
    tensors, keys, ignored = _own_tensors(chosen, addresses)
    arch = _arch_of(tensors)
    _check(tensors, keys, ignored, arch)
    others = {r if r != role else e.address: e.address for r, e in roles if e is not chosen and (r, e) not in same}
    return Found(layout, role, chosen.address, arch, tensors, keys, ignored, _stated(tree, chosen, layout), others)


def _groups(tree: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The dicts that hold tensors, outermost first, each once however often it is referred to; of a whole pickled
    module, its state dict."""
    level: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    seen: set[int] = set()
    for _ in range(DEPTH):
        deeper: list[tuple[tuple[str, ...], Any]] = []
        for path, node in level:
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, Record) and isinstance(node.state, dict) and "_modules" in node.state:
                if module := _state_dict_of(node):
                    yield path, module
                continue
            items: Iterable[tuple[Any, Any]] = node.items() if isinstance(node, dict) else enumerate(
                node if isinstance(node, list | tuple) else ())
            if isinstance(node, dict) and any(isinstance(value, Lazy) for value in node.values()):
                yield path, node
            deeper += [((*path, str(key)), value) for key, value in items
                       if isinstance(value, dict | list | tuple) and len(str(key)) < LONGEST]
            if isinstance(node, Record) and isinstance(node.state, dict):
                deeper.append((path, node.state))
        level = deeper


def _state_dict_of(module: Record) -> dict[str, Any]:
    """The state dict of a module that was pickled whole: its attributes, without its class."""
    found: dict[str, Any] = {}
    level: list[tuple[str, Any]] = [("", module)]
    seen: set[int] = set()
    for _ in range(DEPTH):
        deeper: list[tuple[str, Any]] = []
        for prefix, node in level:
            state = node.state if isinstance(node, Record) else None
            if not isinstance(state, dict) or id(node) in seen:
                continue
            seen.add(id(node))
            for part in ("_parameters", "_buffers"):
                if isinstance(state.get(part), dict):
                    found |= {prefix + k: v for k, v in state[part].items() if isinstance(v, Lazy)}
            if isinstance(state.get("_modules"), dict):
                deeper += [(f"{prefix}{k}.", v) for k, v in state["_modules"].items()]
        level = deeper
    return found


def _encoders(path: tuple[str, ...], tensors: dict[str, Any]) -> Iterator[Encoder]:
    for key, value in tensors.items():
        if len(key) > LONGEST:
            continue
        whole = isinstance(value, Lazy) and value.shape == (64, 3, 7, 7)
        if not whole and isinstance(value, Lazy) and isinstance(value.dtype, torch.dtype):
            continue
        for names in NAMES:
            prefix = key.removesuffix(names[0])
            # "0.weight" may be any convolution, and what is no tensor has no shape (`_check` refuses it): there a block
            # must follow.
            if prefix != key and (not prefix or prefix.endswith(".")) and (
                    (whole and names is not SEQUENTIAL) or prefix + names[1] in tensors):
                yield Encoder(path, tensors, prefix, names)
                break


def _nothing_found(tree: Any, groups: list) -> str:
    """Why there is no encoder, as far as can be told."""
    tensors = {key: value for _, group in groups for key, value in group.items() if isinstance(value, Lazy)}
    for key, value in tensors.items():
        if len(value.shape) == 4 and value.shape[1] == 3:
            size = "x".join(map(str, value.shape))
            return (f"no ResNet in it: its first convolution, {key[:80]}, is {size}, not torchvision's 64x3x7x7 (a "
                    "stem for small images, a deep stem, or no ResNet)")
    if tensors:
        return f"no ResNet in it (no 7x7 'conv1.weight'), but {several([key[:80] for key in tensors], 'tensor')}"
    if isinstance(tree, dict) and (tree or type(tree) is dict):
        return f"no tensor in it, but {several([key[:80] for key in tree], 'key') if tree else 'an empty dict'}"
    return f"it holds a {tree.name[:80] if isinstance(tree, Record) else type(tree).__name__}, not a state dict"


def _layout_of(encoders: list[Encoder], addresses: list[str]) -> tuple[Layout, list[tuple[str, Encoder]]]:
    """The layout, and the encoders with their roles; for one that no layout explains, the address is the role."""
    for layout in LAYOUTS:
        roles = [(next((role for role, pattern in layout.encoders if e.names in layout.names
                        and re.fullmatch(f"(?:.*/)?{pattern}", e.bare)), ""), e) for e in encoders]
        if all(role for role, _ in roles) and (not layout.marks or any(re.search(layout.marks, a) for a in addresses)):
            order = [role for role, _ in layout.encoders]
            return layout, sorted(roles, key=lambda pair: order.index(pair[0]))
    return Layout("a ResNet under a prefix", ()), [(e.address if len(encoders) > 1 else "raw", e) for e in encoders]


def _chosen(layout: Layout, roles: list[tuple[str, Encoder]], asked: str | None) -> list[tuple[str, Encoder]]:
    """The encoder asked for, then those that are the same network under other names."""
    offered = ", ".join(f"{role[:80]} ({e.address[:80]})" if role != e.address else role[:80] for role, e in roles[:6])
    if asked is None:
        wanted = [pair for pair in roles if pair[0] == roles[0][0]]
        if not layout.encoders and len(roles) > 1:
            raise FormatError(f"{len(roles)} ResNets in it, in no known layout: {offered}; choose with --encoder "
                              "PREFIX")
    else:
        names = {asked, ROLES.get(asked, asked)}
        wanted = [(r, e) for r, e in roles if names & {r, e.address, e.bare, e.prefix, e.address.rstrip("./")}]
        if not wanted:
            raise FormatError(f"no encoder '{asked}' in it, but: {offered}")
    role, chosen = wanted[0]
    for _, other in wanted[1:]:  # one network under two names is written so by OpenSelfSup
        a, b = (e.tensors[e.prefix + e.names[0]] for e in (chosen, other))  # first convolutions
        if a is not b and not (all(isinstance(x, Lazy) and x.read for x in (a, b)) and torch.equal(a.read(), b.read())):
            raise FormatError(f"two different {role[:80]} encoders in it: {chosen.address[:80]}, {other.address[:80]}; "
                              "choose with --encoder PREFIX")
    return wanted


def _own_tensors(chosen: Encoder, addresses: list[str]) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """The chosen ResNet's tensors by torchvision's names, their addresses, and what was left aside."""
    before = "".join(f"{part}/" for part in chosen.path)
    tensors: dict[str, Any] = {}
    keys: dict[str, str] = {}
    ignored: dict[str, str] = {}
    last = f"{chosen.prefix}{'res5' if chosen.names is DETECTRON2 else 'layer4'}."
    elsewhere = not any(key.startswith(last) for key in chosen.tensors)
    for key, value in chosen.tensors.items():
        inside = key.startswith(chosen.prefix)
        own = key.removeprefix(chosen.prefix) if inside else ""
        bare = WRAPPERS.sub("", key)
        if elsewhere and (match := ELSEWHERE.match(bare)):
            inside, own = True, bare[match.end():]
        name = WRAPPERS.sub("", own)
        for pattern, replacement in chosen.names[2]:
            name = re.sub(pattern, replacement, name)
        if not (inside and OWN.match(name)):
            if isinstance(value, Lazy):
                ignored[before + key] = "no part of the backbone" if inside else f"outside '{chosen.prefix}'"
        elif chosen.names is CAFFE2 and name == "conv1.bias":
            ignored[before + key] = "a bias before batch norm, which detectron2 leaves aside too"
        elif name in tensors:
            raise FormatError(f"two keys for {name[:80]}: {keys[name][:80]} and {(before + key)[:80]}")
        else:
            tensors[name], keys[name] = value, before + key
    taken = ignored.keys() | set(keys.values())
    ignored |= {address: "another part of the file" for address in addresses if address not in taken}
    if chosen.names is CAFFE2 and not any(name.endswith("running_mean") for name in tensors):
        _add_statistics(tensors)
    return tensors, keys, ignored


def _add_statistics(tensors: dict[str, Any]) -> None:
    """Caffe2's classifiers keep of batch norm a scale and shift alone: mean 0, variance 1 less torch's epsilon."""
    for name in [n for n in tensors if re.search(r"(bn\d|downsample\.1)\.weight$", n)]:
        shape = getattr(tensors[name], "shape", ())
        for part, value in (("running_mean", 0.0), ("running_var", 1 - 1e-5)):
            tensors[name.replace("weight", part)] = Lazy(shape, torch.float32, partial(torch.full, shape, value))


def _arch_of(tensors: dict[str, Any]) -> str:
    """The torchvision ResNet with these blocks."""
    blocks = tuple(len({k.split(".")[1] for k in tensors if k.startswith(f"layer{i}.")}) for i in range(1, 5))
    known: dict[tuple[tuple[int, ...], bool], str] = {
        ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34", ((3, 4, 6, 3), True): "resnet50",
        ((3, 4, 23, 3), True): "resnet101", ((3, 8, 36, 3), True): "resnet152"}
    arch = known.get((blocks, "layer1.0.conv3.weight" in tensors))
    if arch is None:
        raise FormatError(f"blocks {blocks} are none of {', '.join(ARCHS)}")
    return arch


def _check(tensors: dict[str, Any], keys: dict[str, str], ignored: dict[str, str], arch: str) -> None:
    """Every parameter and statistic there, nothing else, each dense, of real numbers and of the right shape; before any
    is read. Counters of batches are kept where they are what torch writes, and biases of zero are left aside."""
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in ResNetLevels(arch).state_dict().items()}
    for name in list(tensors):
        value, counter = tensors[name], name.endswith("num_batches_tracked")
        if counter and not (isinstance(value, Lazy) and value.read and (value.dtype, value.shape) == (torch.int64, ())):
            ignored[keys[name]] = "no counter of batches"
            del tensors[name]
        elif name not in wanted and _zero_bias(name, value, wanted):
            ignored[keys[name]] = "a bias of zero before batch norm"
            del tensors[name]
    for name, value in tensors.items():
        key = keys.get(name, name)[:120]
        if not isinstance(value, Lazy):
            what = f"a {value.name[:80]}" if isinstance(value, Record) else f"a {type(value).__name__}"
            raise FormatError(f"{key} is {what}, not a tensor")
        if not isinstance(value.dtype, torch.dtype) or value.read is None:
            raise FormatError(f"{key} is {value.dtype}, not a dense tensor of real numbers")
        if not name.endswith("num_batches_tracked") and value.dtype not in (
                torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise FormatError(f"{key} is of type {str(value.dtype).removeprefix('torch.')}, not of real numbers")
    missing = [k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")]
    unexpected = [keys[k][:120] for k in tensors if k not in wanted]
    misshaped = [keys.get(k, k)[:120] for k in tensors if k in wanted and tensors[k].shape != wanted[k]]
    for what, names in (("missing", missing), ("not explained", unexpected), ("of another shape", misshaped)):
        if names:
            raise FormatError(f"{len(names)} keys of a {arch} {what}: {', '.join(names[:3])}"
                              + (", ..." if len(names) > 3 else ""))
    places: dict[Any, str] = {}
    for name, value in tensors.items():
        if value.place is not None and not name.endswith("num_batches_tracked"):
            if value.place in places:
                raise FormatError(f"{keys[places[value.place]][:120]} and {keys[name][:120]} lie at one place: damaged "
                                  "or saved wrongly")
            places[value.place] = name


def _zero_bias(name: str, value: Any, wanted: dict[str, tuple]) -> bool:
    """Whether a tensor is the bias of one of the ResNet's convolutions, zero throughout, as in Caffe's files."""
    shape = wanted.get(f"{name.removesuffix('bias')}weight", ()) if name.endswith(".bias") else ()
    return (len(shape) == 4 and isinstance(value, Lazy) and value.shape == shape[:1] and value.read is not None
            and not value.value().any())


def _stated(tree: Any, chosen: Encoder, layout: Layout) -> dict[str, Any]:
    """Channel order, mean, std and stride as far as the file itself states them."""
    meta = tree.get("meta") if isinstance(tree, dict) else None
    text = meta.get("cfg", meta.get("config")) if isinstance(meta, dict) else None
    stated = _of_config(text) if isinstance(text, str) and len(text) < 1_000_000 else {}
    for part in ("mean", "std"):
        value = next((v for k, v in chosen.tensors.items() if re.search(rf"(^|\.)pixel_{part}$", k)), None)
        if isinstance(value, Lazy) and value.read and value.shape in ((3,), (3, 1, 1), (1, 3, 1, 1)):
            stated[part] = value.read().double().flatten().tolist()
    if "mean" in stated and "channel_order" not in stated:
        seen = unit(stated["mean"], None)[0] or []
        for order, known in (("RGB", MEAN), ("BGR", MEAN[::-1])):
            if max(abs(a - b) for a, b in zip(seen, known, strict=True)) < 0.01:
                stated["channel_order"] = order
        # A detectron2 model that sees RGB began with torchvision's network, whose stride is in the 3x3 convolution.
        if layout.stride == "caffe" and stated.get("channel_order") == "RGB":
            stated["stride"] = "pytorch"
    if "mean" in stated or "std" in stated:
        mean, std = unit(stated.get("mean"), stated.get("std"))
        stated |= {k: v for k, v in (("mean", mean), ("std", std)) if v is not None}
    return stated


def unit(mean: list[float] | None, std: list[float] | None) -> tuple[list[float] | None, list[float] | None]:
    """Pixel mean and deviation of pixels in [0, 1]; given of [0, 255] where a number of either is above 1."""
    scale = 255.0 if max([*(mean or ()), *(std or ())], default=0.0) > 1 else 1.0
    return (None if mean is None else [v / scale for v in mean], None if std is None else [v / scale for v in std])


def _of_config(text: str) -> dict[str, Any]:
    """What an OpenMMLab config states of pixels and stride. It is parsed, never run."""
    try:
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and not node.args]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    stated: dict[str, Any] = {}
    for call in calls:
        fields = {}
        for keyword in call.keywords:
            try:
                fields[keyword.arg] = ast.literal_eval(keyword.value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
        mean, std = fields.get("mean", ()), fields.get("std", ())
        if "mean" not in stated and all(isinstance(v, list | tuple) and len(v) == 3 and all(
                isinstance(x, int | float) for x in v) for v in (mean, std)):
            stated |= dict(mean=list(map(float, mean)), std=list(map(float, std)))
            turned = fields.get("to_rgb", fields.get("bgr_to_rgb"))
            # OpenCV decodes to BGR unless told; configs with pixels in [0, 1] decode with PIL.
            stated["channel_order"] = "RGB" if turned or (turned is None and max(mean) <= 1) else "BGR"
        if "depth" in fields and fields.get("style") in ("pytorch", "caffe"):
            stated.setdefault("stride", fields["style"])
    return stated
