"""The checkpoint format between pretraining and transfer, and the doors to everybody else's.

One file: safetensors with torchvision's ResNet names and one metadata entry, JSON with
    arch, channel_order ("RGB"/"BGR"), mean and std (of images in [0, 1], in channel order), stride ("pytorch":
    in the 3x3 convolution, "caffe": in the 1x1), method, pool, seed, budget (images, encoder_pixels,
    device_hours), recipe (hash of the resolved pretraining config), recipe_config (that config), config (hash of it
    with the pool and the seed), parent (sha256 of the file it was made from).
"""
import argparse
import hashlib
import json
import pickle
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detco.backbone import ARCHS, ResNetLevels
from detco.errors import UserError
from detco.files import replacing, sha256
from detco.views import MEAN, STD

KEY = "detco"
FOREIGN = dict(channel_order="RGB", mean=list(MEAN), std=list(STD), stride="pytorch", method=None, pool=None,
               seed=None, budget=None, recipe=None, recipe_config=None, config=None, parent=None)
STYLE = ("stride", "channel_order", "mean", "std")  # how a network takes images in
# What pretraining leaves beside a backbone: classifiers, projectors, predictors, prototypes.
HEADS = re.compile(r"(fc|classifier|head|heads|projector|projection_head|predictor|prototypes|mlp)(\.|$)")
MOMENTUM = re.compile(r"(encoder_k|_k\.|momentum|teacher|twin|target|ema)")


class CheckpointError(UserError):
    """A checkpoint that cannot be used, in one line."""


@dataclass
class Checkpoint:
    """A backbone's weights under torchvision's names, their metadata, and what of the file was left aside."""

    state: dict[str, Tensor]
    metadata: dict
    ignored: dict[str, str] = field(default_factory=dict)


def save(path: Path, state: dict[str, Tensor], metadata: dict) -> Path:
    """Write a checkpoint atomically. `state` has torchvision's names; heads do not belong in it."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: json.dumps(FOREIGN | metadata, sort_keys=True)})
    return Path(path)


def load(path: Path, **overrides) -> Checkpoint:
    """Read a checkpoint of ours or of anybody's.

    Understood: this format; state dicts (.pth, .pt, .tar, .safetensors) of torchvision, timm, MoCo, lightly,
    mmpretrain and others that wrap a ResNet in a prefix; detectron2's names and pickles of arrays.

    Args:
        path: the file.
        overrides: metadata that the file does not carry, such as channel_order="BGR".
    Raises:
        CheckpointError: no such file, truncated, no ResNet in it, keys missing, or keys nothing explains.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    try:
        raw, metadata = _read(path)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, safetensors.SafetensorError, ValueError,
            KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"checkpoint {path}: cannot be read, truncated or of no known format "
                              f"({reason})") from None
    state, ignored = _backbone_of(raw, path)
    arch = _arch_of(state, path)
    unknown = set(overrides) - set(FOREIGN)
    if unknown:
        raise CheckpointError(f"checkpoint {path}: no such metadata: {', '.join(sorted(unknown))}")
    metadata = FOREIGN | (metadata or {"parent": sha256(path)}) | overrides | {"arch": arch}
    _check_keys(state, arch, path)
    return Checkpoint(state, metadata, ignored)


def _read(path: Path) -> tuple[dict[str, Tensor], dict | None]:
    """Tensors by name, and our metadata if the file is ours."""
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(KEY)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata and json.loads(metadata)  # noqa: SIM118
    if path.suffix == ".pkl":
        with open(path, "rb") as file:
            tree = _ArrayUnpickler(file).load()
    else:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    while isinstance(tree, dict) and not any(isinstance(v, (Tensor, np.ndarray)) for v in tree.values()):
        inner = [tree[k] for k in ("state_dict", "model", "model_state", "teacher", "student") if k in tree]
        if not inner:
            break
        tree = inner[0]
    if not isinstance(tree, dict):
        raise UserError(f"it holds a {type(tree).__name__}, not a state dict")
    return {k: torch.as_tensor(v) for k, v in tree.items() if isinstance(v, (Tensor, np.ndarray))}, None


class _ArrayUnpickler(pickle.Unpickler):
    """Admits numpy arrays and nothing else, so that a stranger's file runs no code."""

    ALLOWED = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}

    def find_class(self, module, name):
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"refused to load {module}.{name}: only arrays are admitted")


DETECTRON2 = ((r"^stem\.conv1\.norm\.", "bn1."), (r"^stem\.", ""), (r"^res(\d)\.", lambda m: f"layer{int(m[1]) - 1}."),
              (r"\.conv(\d)\.norm\.", r".bn\1."), (r"\.shortcut\.norm\.", ".downsample.1."),
              (r"\.shortcut\.", ".downsample.0."))


def _backbone_of(raw: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The ResNet inside `raw` under torchvision's names, and the keys left aside with the reason."""
    stems = [k for k, v in raw.items() if k.endswith("conv1.weight") and v.dim() == 4 and v.shape[1:] == (3, 7, 7)]
    if not stems:
        raise CheckpointError(f"checkpoint {path}: no ResNet in it (no 7x7 'conv1.weight'); its {len(raw)} keys begin "
                              f"{', '.join(list(raw)[:3]) or 'nowhere'}")
    stem = min(stems, key=lambda k: (bool(MOMENTUM.search(k)), len(k)))
    detectron2 = stem.endswith("stem.conv1.weight")
    prefix = stem.removesuffix("stem.conv1.weight" if detectron2 else "conv1.weight")
    state, ignored = {}, {}
    for key, value in raw.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix):
            ignored[key] = f"outside '{prefix}'"
        elif HEADS.match(name):
            ignored[key] = "a head"
        else:
            if detectron2:
                for pattern, replacement in DETECTRON2:
                    name = re.sub(pattern, replacement, name)
            state[name] = value
    return state, ignored


def _arch_of(state: dict[str, Tensor], path: Path) -> str:
    """The torchvision ResNet with these blocks."""
    blocks = tuple(len({k.split(".")[1] for k in state if k.startswith(f"layer{i}.")}) for i in range(1, 5))
    known: dict[tuple[tuple[int, ...], bool], str] = {
        ((2, 2, 2, 2), False): "resnet18", ((3, 4, 6, 3), False): "resnet34", ((3, 4, 6, 3), True): "resnet50",
             ((3, 4, 23, 3), True): "resnet101", ((3, 8, 36, 3), True): "resnet152"}
    arch = known.get((blocks, "layer1.0.conv3.weight" in state))
    if arch is None:
        raise CheckpointError(f"checkpoint {path}: blocks {blocks} are none of {', '.join(ARCHS)}")
    return arch


def _check_keys(state: dict[str, Tensor], arch: str, path: Path) -> None:
    """Every parameter and statistic there, nothing else, each of the right shape."""
    with torch.device("meta"):
        wanted = {k: v.shape for k, v in ResNetLevels(arch).state_dict().items()}
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in wanted]
    misshaped = [k for k in state if k in wanted and state[k].shape != wanted[k]]
    for what, keys in (("missing", missing), ("not explained", unexpected), ("of another shape", misshaped)):
        if keys:
            raise CheckpointError(f"checkpoint {path}: {len(keys)} keys of a {arch} {what}: {', '.join(keys[:3])}"
                                  + (", ..." if len(keys) > 3 else ""))


def to_protocol(checkpoint: Checkpoint, path: Path) -> dict[str, Tensor]:
    """The weights for a model of the checkpoint's `style_of`: with the stride in the 3x3 convolution for RGB input with
    ImageNet mean and std, converted, or refused.

    A first convolution trained on BGR or on another scale of pixels is rewritten exactly; another mean cannot be, and
    raises CheckpointError. With the stride in the 1x1 convolution a model takes the weights, and pixels, as they are.
    """
    state, meta = dict(checkpoint.state), checkpoint.metadata
    if meta["stride"] == "caffe":
        return state
    mean, std = torch.tensor(meta["mean"]), torch.tensor(meta["std"])
    weight = state["conv1.weight"]
    if meta["channel_order"] == "BGR":
        mean, std, weight = mean.flip(0), std.flip(0), weight.flip(1)
    if not torch.allclose(mean, torch.tensor(MEAN), atol=2e-3):
        raise CheckpointError(f"checkpoint {path}: pixel mean {meta['mean']}: the protocols subtract ImageNet's")
    scale = torch.tensor(STD) / std
    if not torch.allclose(scale, torch.ones(3), atol=1e-3):
        weight = weight * scale[None, :, None, None]
    state["conv1.weight"] = weight.contiguous()
    return state


def style_of(metadata: dict) -> dict:
    """How a model must be built that takes a checkpoint in: the stride, and channel_order, mean and std of its pixels.

    The protocols' own, to which `to_protocol` converts. A network with the stride in the 1x1 convolution is another and
    cannot be converted: it runs with its own pixels too, as the papers' supervised rows (MSRA's ResNet-50) did.
    """
    own = metadata if metadata["stride"] == "caffe" else FOREIGN
    return {key: own[key] for key in STYLE}


def identity(state: dict[str, Tensor], recipe: str | None) -> str:
    """What a checkpoint is known by: sha256 of its tensors (names, types, shapes, values) and its recipe's hash. Files
    whose other metadata differ, such as the hours it took, have the same."""
    found = hashlib.sha256(repr(recipe).encode())
    for name, value in sorted(state.items()):
        found.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def load_into(model: nn.Module, checkpoint: Checkpoint, rules: list[tuple[str, str]], path: Path) -> dict:
    """Load a checkpoint into a model of its style (`style_of`) whose backbone stands under other names.

    Args:
        rules: (prefix in the checkpoint, prefix in the model); the first that fits a name counts.
        path: the file, for errors.
    Returns:
        the load report: `loaded` (how many), `missing`, `unexpected`, `ignored`, `fresh` (modules left as initialised).
    Raises:
        CheckpointError: a key that finds no place, or a place under the rules' prefixes that stays empty.
    """
    state = to_protocol(checkpoint, path)
    renamed = {}
    for key, value in state.items():
        source, target = next((s, t) for s, t in rules if key.startswith(s))
        renamed[target + key.removeprefix(source)] = value
    own = model.state_dict()
    unexpected = [k for k, v in renamed.items() if k not in own or own[k].shape != v.shape]
    targets = tuple(target for _, target in rules)
    missing = [k for k in own if k.startswith(targets) and k not in renamed and not k.endswith("num_batches_tracked")]
    if unexpected or missing:
        raise CheckpointError(
            f"checkpoint {path}: a {checkpoint.metadata['arch']} does not fit the model: "
            f"{len(unexpected)} keys without a place ({', '.join(unexpected[:3])}), {len(missing)} empty places "
            f"({', '.join(missing[:3])})")
    model.load_state_dict(renamed, strict=False)
    fresh = sorted({k.rsplit(".", 1)[0] for k in own if k not in renamed and not k.endswith("num_batches_tracked")})
    return dict(loaded=len(renamed), missing=missing, unexpected=unexpected, ignored=checkpoint.ignored, fresh=fresh)


def export(checkpoint: Checkpoint, path: Path, style: str) -> Path:
    """Write for others: "torchvision" (a .pth state dict; mmdet and timm read it too) or "detectron2" (.pkl)."""
    with replacing(path) as temporary:
        if style == "torchvision":
            torch.save(checkpoint.state, temporary)
        else:
            names = {_detectron2_name(k): v.numpy() for k, v in checkpoint.state.items() if "num_batches" not in k}
            with open(temporary, "wb") as file:
                pickle.dump({"model": names, "__author__": "DetCo Bench", "matching_heuristics": True}, file)
    return Path(path)


def _detectron2_name(name: str) -> str:
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    return name if name.startswith("res") else f"stem.{name}"


def main(argv: list[str] | None = None) -> int:
    """Show or convert a checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m detco.checkpoint", description=main.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--export", type=Path, metavar="OUT", help="write the backbone to OUT for other projects")
    parser.add_argument("--style", choices=("torchvision", "detectron2"), default="torchvision")
    arguments = parser.parse_args(argv)
    try:
        checkpoint = load(arguments.file)
        print(json.dumps(checkpoint.metadata, indent=1))
        print(f"{len(checkpoint.state)} tensors of the backbone, {len(checkpoint.ignored)} others left aside")
        if arguments.export:
            print(f"written: {export(checkpoint, arguments.export, arguments.style)}")
    except (CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
