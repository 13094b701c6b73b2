"""The checkpoint format between pretraining and transfer, and the doors to everybody else's.

One file: safetensors with torchvision's ResNet names and one metadata entry, JSON with
    arch, channel_order ("RGB"/"BGR"), mean and std (of images in [0, 1], in channel order), stride ("pytorch":
    in the 3x3 convolution, "caffe": in the 1x1), seal (sha256 of the tensors and all other metadata, looked at by
    whoever reads it), method, pool, seed, budget (images, encoder_pixels,
    device_hours), recipe (hash of the resolved pretraining config), recipe_config (that config), config (hash of it
    with the pool and the seed), parent (sha256 of the file it was made from), origin (of a foreign file: its layout,
    prefix and encoder).
`detco.formats` has the table of the others' layouts; docs/checkpoints.md says what each is taken for.
"""
import argparse
import functools
import hashlib
import json
import math
import os
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detco import containers, formats, hub
from detco.errors import UserError, nearest, several
from detco.files import replacing, sha256
from detco.unpickle import FormatError, Lazy
from detco.views import MEAN, STD

KEY = "detco"
PIXELS = dict(channel_order="RGB", mean=list(MEAN), std=list(STD), stride="pytorch")  # as the protocols see them
STYLE = tuple(PIXELS)  # how a network takes images in
FOREIGN = PIXELS | dict(method=None, pool=None, seed=None, budget=None, recipe=None, recipe_config=None, config=None,
                        parent=None, origin=None, monitor=None)
BFLOAT16 = "bfloat16"  # metadata of files that cannot hold the type: names of what had it
SEAL = "seal"
STYLES = ("detectron2", "torchvision", "mmdet", "timm", "mmpretrain", "safetensors")


class CheckpointError(UserError):
    """A checkpoint that cannot be used, in one line without control characters (names come from files)."""

    def __init__(self, line: str):
        super().__init__(printable(line))


def printable(text: str) -> str:
    """Text as a terminal may show it: what is not printable is written as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


@dataclass
class Checkpoint:
    """A backbone's weights under torchvision's names, their metadata, and what of the file was left aside.

    Attributes:
        assumed: how the file was understood: layout, encoder, prefix, the encoders not taken, and for channel_order,
            mean, std and stride who says so ("the file", "an option" or "the layout").
    """

    state: dict[str, Tensor]
    metadata: dict
    ignored: dict[str, str] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)

    def described(self) -> str:
        """What was read and assumed, in one line; of a checkpoint that `load` gave."""
        meta, said = self.metadata, self.assumed

        def numbers(name: str) -> str:
            return " ".join(f"{value:.4g}" for value in meta[name])

        others = "".join(f"; not taken: {role} ({address})" for role, address in list(said["others"].items())[:6])
        return printable(
            f"a {meta['arch']} in the layout of {said['layout']}, encoder {said['encoder']} under '{said['prefix']}'"
            f"{others}; channels {meta['channel_order']} ({said['channel_order']}), mean {numbers('mean')} "
            f"({said['mean']}) and std {numbers('std')} ({said['std']}) of pixels in [0, 1], stride {meta['stride']} "
            f"({said['stride']})")


def save(path: Path, state: dict[str, Tensor], metadata: dict) -> Path:
    """Write a checkpoint atomically. `state` has torchvision's names; heads do not belong in it."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={KEY: _sealed(tensors, metadata)})
    return Path(path)


def _sealed(state: dict[str, Tensor], metadata: dict, **more: Any) -> str:
    """Metadata as a file holds them, with their seal and `more`, which it is not of."""
    whole = json.loads(json.dumps(FOREIGN | metadata))
    return json.dumps(whole | {SEAL: _seal(state, whole)} | more, sort_keys=True)


def _seal(state: dict[str, Tensor], metadata: dict) -> str:
    """sha256 of tensors and metadata; of these what a seal is not of is left out."""
    kept = {key: value for key, value in metadata.items() if key not in (SEAL, BFLOAT16)}
    return identity(state, json.dumps(kept, sort_keys=True))


def load(source: Path | str, *, encoder: str | None = None, override: bool = False, **options) -> Checkpoint:
    """Read a checkpoint of ours or of anybody's.

    Args:
        source: a file in one of the layouts of `detco.formats`, or a name that `detco.hub` fetches.
        encoder: which, where the file holds several (`detco.formats.find`).
        override: let options contradict what the file states.
        options: metadata, such as channel_order="BGR" or mean=[103.53, 116.28, 123.675] (in channel order; given of
            [0, 255] where a number of mean or std is above 1).
    Raises:
        CheckpointError: it cannot be read or fetched, holds no ResNet, keys missing or unexplained, values that are not
            finite, or options that contradict the file.
    """
    found, metadata, own = _find(source, encoder, override, options)
    state = _values(found, source)
    if own and SEAL in own and own[SEAL] != _seal(state, own):
        raise CheckpointError(f"checkpoint {source}: its bytes changed since it was written; take it again from where "
                              "it came, or delete it and pretrain again")
    bad, negative = _bad_values(found, state)
    for what, keys in (("not finite; its training diverged, take an earlier one", bad),
                       ("of negative variances", negative)):
        if keys:
            raise CheckpointError(f"checkpoint {source}: {several(keys, 'tensor')} {what}")
    return Checkpoint(state, metadata, {printable(k): v for k, v in found.ignored.items()}, found.assumed)


def _find(source: Path | str, encoder: str | None, override: bool,
          options: dict) -> tuple[formats.Found, dict, dict | None]:
    """The ResNet in a file, not read yet, its metadata, and those that are this suite's as they stand there."""
    path = Path(source)
    try:
        if not os.path.exists(path) and hub.is_named(str(source)):
            path, stated = hub.fetch(str(source))
        else:
            stated = hub.beside(path)
        _, tree, header = containers.read(path)
        found = formats.find(tree, encoder)
        own = _own_metadata(tree, header)
        halves = own.get(BFLOAT16) if own else None
        for name in (halves if isinstance(halves, list) else ()):
            if not isinstance(name, str) or name not in found.tensors:
                raise FormatError(f"its metadata are damaged ({BFLOAT16})")
            lazy = found.tensors[name]
            found.tensors[name] = Lazy(lazy.shape, torch.bfloat16, functools.partial(_bfloat16, lazy), lazy.place)
        known = own and {key: value for key, value in own.items() if key in FOREIGN}
        metadata, found.assumed = _resolve(known, stated | found.stated, found, override, options)
    except FormatError as error:
        raise CheckpointError(f"checkpoint {source}: {error}") from None
    if own is None:
        metadata["parent"] = sha256(path)
        metadata["origin"] = dict(layout=found.layout.name, prefix=found.prefix, encoder=found.role)
    return found, metadata | {"arch": found.arch}, own


def _bfloat16(lazy: Lazy) -> Tensor:
    return lazy.value().bfloat16()


def _values(found: formats.Found, source: Path | str) -> dict[str, Tensor]:
    try:
        return {name: lazy.value() for name, lazy in found.tensors.items()}
    except FormatError as error:
        raise CheckpointError(f"checkpoint {source}: {error}") from None


def _bad_values(found: formats.Found, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
    """The file's keys of what is not finite, and of negative variances."""
    keys = {name: found.keys.get(name, name) for name in state}
    return ([keys[name] for name, value in state.items() if not value.isfinite().all()],
            [keys[name] for name, value in state.items() if name.endswith("running_var") and (value < 0).any()])


def _own_metadata(tree: Any, header: str | None) -> dict | None:
    """This suite's metadata in a file of its own or that it exported; None in anybody's else."""
    attributes = getattr(tree, "state", None)
    inner = attributes.get("_metadata") if isinstance(attributes, dict) else None
    text = next((place[KEY] for place in (tree, inner) if isinstance(place, dict) and isinstance(place.get(KEY), str)),
                header)
    if text is None:
        return None
    try:
        own = json.loads(text)
    except (ValueError, RecursionError):
        own = None
    if not isinstance(own, dict):
        raise FormatError("its metadata are damaged (no JSON object)")
    return own


def _resolve(own: dict | None, stated: dict, found: formats.Found, override: bool, options: dict) -> tuple[dict, dict]:
    """Metadata, and who says what of the pixels: the file, else an option, else the layout."""
    options = {key: value for key, value in options.items() if value is not None}
    if unknown := set(options) - set(FOREIGN):
        raise FormatError(f"no such metadata: {', '.join(sorted(unknown))}")
    stated = _checked(stated if own is None else own, "it states")
    options = _checked(options, "given")
    for key in PIXELS.keys() & options.keys() & stated.keys():
        if not _equal(options[key], stated[key]) and not override:
            raise FormatError(f"it states {key.replace('_', ' ')} {stated[key]} itself, where {options[key]} is given; "
                              "leave the option out, or insist with --override")
    known = stated | options
    layout = {key: getattr(found.layout, key) for key in PIXELS}
    if known.get("channel_order", layout["channel_order"]) != layout["channel_order"]:  # the defaults turn with it
        layout |= dict(channel_order=known["channel_order"], mean=layout["mean"][::-1], std=layout["std"][::-1])
    pixels = {key: known.get(key, list(value) if isinstance(value, tuple) else value) for key, value in layout.items()}
    who = {key: "an option" if key in options else "the file" if key in stated else "the layout" for key in PIXELS}
    assumed = dict(layout=found.layout.name if own is None else "this suite", encoder=found.role, prefix=found.prefix,
                   others=found.others) | who
    return FOREIGN | known | pixels, assumed


def _checked(given: dict, said: str) -> dict:
    """Metadata whose pixels are of the right form, mean and std of pixels in [0, 1]."""
    for key, known in (("channel_order", ("RGB", "BGR")), ("stride", ("pytorch", "caffe"))):
        if key in given and given[key] not in known:
            raise FormatError(f"{said} {key.replace('_', ' ')} {str(given[key])[:40]!r}, which is none of "
                              f"{', '.join(known)}")
    for key in ("mean", "std"):
        value = given.get(key, [0.5] * 3)
        if not (isinstance(value, list | tuple) and len(value) == 3 and all(
                type(x) in (int, float) and abs(x) < 1e6 and (x > 0 or key == "mean") for x in value)):
            raise FormatError(f"{said} {key} {str(value)[:80]}; it takes three numbers" + ", above 0" * (key == "std"))
    mean, std = formats.unit(given.get("mean"), given.get("std"))
    return given | {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}


def _equal(a: Any, b: Any) -> bool:
    return a == b if isinstance(a, str) else all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(a, b, strict=True))


def inspect(source: Path | str, **options) -> dict[str, Any]:
    """What a file is and how healthy it looks, for files that `load` refuses for their values too.

    Returns:
        metadata; assumed; hash (sha256 of weights and recipe); tensors, types and parameters; ignored (how many);
        not_finite and negative_variance (keys); dead (batch norm -> channels whose scale is 0, that give a constant);
        norms (stage -> Euclidean norm of its weights).
    Raises:
        CheckpointError: as `load`, but for values.
    """
    found, metadata, _ = _find(source, options.pop("encoder", None), options.pop("override", False), options)
    state = _values(found, source)
    bad, negative = _bad_values(found, state)
    squares, dead, parameters = dict.fromkeys(("stem", "layer1", "layer2", "layer3", "layer4"), 0.0), {}, 0
    for name, value in state.items():
        if name.endswith(("weight", "bias")):
            parameters += value.numel()
            squares[name.split(".")[0] if name.startswith("layer") else "stem"] += float(value.double().square().sum())
            if value.dim() == 1 and name.endswith("weight") and (zeros := int((value == 0).sum())):
                dead[name.removesuffix(".weight")] = zeros
    return dict(
        metadata=metadata, assumed=found.assumed, hash=identity(state, metadata["recipe"]), tensors=len(state),
        types=sorted({str(v.dtype).removeprefix("torch.") for v in state.values()}), parameters=parameters,
        ignored=len(found.ignored), not_finite=bad, negative_variance=negative, dead=dead,
        norms={stage: math.sqrt(square) for stage, square in squares.items()})


def to_protocol(checkpoint: Checkpoint, path: Path) -> dict[str, Tensor]:
    """The weights for a model of the checkpoint's `style_of`: with the stride in the 3x3 convolution for RGB input with
    ImageNet mean and std, converted, or refused.

    A first convolution trained on BGR or on another scale of pixels is rewritten exactly; another mean cannot be, and
    raises CheckpointError. With the stride in the 1x1 convolution a model takes the weights, and pixels, as they are.
    """
    state, meta = dict(checkpoint.state), checkpoint.metadata
    if meta["stride"] == "caffe":
        return state
    mean, std = (torch.tensor(meta[key], dtype=torch.float64) for key in ("mean", "std"))
    weight = state["conv1.weight"]
    if meta["channel_order"] == "BGR":
        mean, std, weight = mean.flip(0), std.flip(0), weight.flip(1)
    # Zeros that pad an image are pixels of the mean colour: no change of the weights makes up for those of another.
    if not torch.allclose(mean, torch.tensor(MEAN, dtype=torch.float64), rtol=0, atol=1e-4):
        raise CheckpointError(f"checkpoint {path}: pixel mean {meta['mean']}: the protocols subtract ImageNet's")
    scale = torch.tensor(STD, dtype=torch.float64) / std
    if not torch.allclose(scale, torch.ones_like(scale), rtol=0, atol=1e-6):
        weight = (weight.double() * scale[None, :, None, None]).float()
    state["conv1.weight"] = weight.contiguous()
    return state


def style_of(metadata: dict) -> dict:
    """How a model must be built that takes a checkpoint in: the stride, and channel_order, mean and std of its pixels.

    The protocols' own, to which `to_protocol` converts. A network with the stride in the 1x1 convolution is another and
    cannot be converted: it runs with its own pixels too, as the papers' supervised rows (MSRA's ResNet-50) did.
    """
    return {key: (metadata if metadata["stride"] == "caffe" else PIXELS)[key] for key in PIXELS}


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
    """Write for others, bit for bit; read again, the metadata come back too.

    Args:
        style: "detectron2" (a .pkl for MODEL.WEIGHTS), "torchvision" (a state dict), "mmdet" and "mmpretrain" (for
            init_cfg and load_from), "timm" (for checkpoint_path), or "safetensors" (this suite's own).
    Raises:
        CheckpointError: no such style.
    """
    if style not in STYLES:
        raise CheckpointError(nearest("style", style, STYLES))
    if style == "safetensors":
        return save(path, checkpoint.state, checkpoint.metadata)
    state, more = checkpoint.state, {}
    if style == "detectron2":  # numpy has no bfloat16: float32 holds its values
        more[BFLOAT16] = [n for n, v in state.items() if v.dtype == torch.bfloat16]
    metadata = _sealed(state, checkpoint.metadata, **more)
    with replacing(path) as temporary:
        if style == "torchvision":
            plain = OrderedDict(state)
            vars(plain)["_metadata"] = {KEY: metadata}  # beside modules' versions: no key too many for load_state_dict
            torch.save(plain, temporary)
        elif style == "detectron2":
            names = {_detectron2_name(n): (v.float() if n in more[BFLOAT16] else v).numpy() for n, v in state.items()}
            with open(temporary, "wb") as file:
                pickle.dump({"model": names, "__author__": "DetCo Bench", "matching_heuristics": True, KEY: metadata},
                            file)
        else:
            prefix = "backbone." if style == "mmpretrain" else ""
            beside = dict(arch=checkpoint.metadata["arch"]) if style == "timm" else dict(meta={})
            torch.save({"state_dict": {prefix + n: v for n, v in state.items()}, KEY: metadata} | beside, temporary)
    return Path(path)


def how_to_load(path: Path, style: str, metadata: dict) -> str:
    """The lines with which another project loads what `export` wrote; pixels are told where the project asks for them.
    """
    depth = metadata["arch"].removeprefix("resnet")
    mean, std = ([round(value * 255, 3) for value in metadata[key]] for key in ("mean", "std"))
    rgb = metadata["channel_order"] == "RGB"
    init = f"init_cfg=dict(type='Pretrained', checkpoint='{path}')"
    return {
        "mmdet": f"model = dict(\n    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb={rgb}),\n"
                 f"    backbone=dict(depth={depth}, style='{metadata['stride']}', {init}))",
        "mmpretrain": f"model = dict(backbone=dict(depth={depth}, style='{metadata['stride']}'), {init})",
        "torchvision": f"model = torchvision.models.{metadata['arch']}(); "
                       f"model.load_state_dict(torch.load('{path}'), strict=False)",
        "timm": f"model = timm.create_model('{metadata['arch']}', checkpoint_path='{path}', num_classes=0)",
        "detectron2": f"MODEL.WEIGHTS {path} MODEL.RESNETS.DEPTH {depth} MODEL.RESNETS.STRIDE_IN_1X1 "
                      f"{metadata['stride'] == 'caffe'} MODEL.PIXEL_MEAN {mean} MODEL.PIXEL_STD {std} INPUT.FORMAT "
                      f"{metadata['channel_order']}",
        "safetensors": f"python benchmarks/run.py --checkpoint {path} --name NAME"}[style]


def _detectron2_name(name: str) -> str:
    name = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    return name if name.startswith("res") else f"stem.{name}"


def add_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """The options that say how a checkpoint is to be read; `options_of` gathers them for `load`."""
    parser.add_argument("--encoder", metavar="E",
                        help="of several in the file: query, momentum, raw, ema, or its prefix (default: the one that "
                             "the layout's authors evaluate)")
    parser.add_argument("--channel-order", choices=("RGB", "BGR"),
                        help="where the file does not say (default: the layout's)")
    for name, what in (("mean", "subtracted from"), ("std", "that divides")):
        parser.add_argument(f"--pixel-{name}", nargs=3, type=float, metavar="X",
                            help=f"{what} pixels, in channel order; of [0, 255] where a number is above 1, else of "
                                 "[0, 1]")
    parser.add_argument("--stride", choices=("pytorch", "caffe"), help="in the 3x3 convolution, or in the 1x1")
    parser.add_argument("--override", action="store_true", help="let these options contradict what the file states")


def options_of(arguments: Any) -> dict[str, Any]:
    """`load`'s keyword arguments from what `add_options` parsed."""
    return dict(encoder=arguments.encoder, override=arguments.override, channel_order=arguments.channel_order,
                mean=arguments.pixel_mean, std=arguments.pixel_std, stride=arguments.stride)


def main(argv: Sequence[str] | None = None) -> int:
    """Say what a checkpoint is, or convert it. FILE may be a name: torchvision:resnet50, timm:resnet50.a1_in1k,
    hf:owner/name, or a URL."""
    parser = argparse.ArgumentParser(prog="python -m detco.checkpoint", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("inspect", help="layout, arch, pixels, hash, finite or not, dead channels, norms")
    written = commands.add_parser("convert", help="write a backbone for another project, bit for bit")
    for command in (shown, written):
        command.add_argument("file", metavar="FILE")
        add_options(command)
    written.add_argument("out", type=Path, metavar="OUT")
    written.add_argument("--to", required=True, metavar="STYLE", help=", ".join(STYLES))
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "inspect":
            _show(arguments.file, inspect(arguments.file, **options_of(arguments)))
        else:
            _convert(arguments)
    except UserError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {printable(str(arguments.file))}: {printable(str(error))}", file=sys.stderr)
        return 2
    return 0


def _convert(arguments: argparse.Namespace) -> None:
    if arguments.to not in STYLES:
        raise CheckpointError(nearest("style", arguments.to, STYLES))
    source = Path(arguments.file)
    if source.exists() and arguments.out.exists() and source.samefile(arguments.out):
        raise CheckpointError(f"checkpoint {source}: it would be written onto itself; give another OUT")
    if arguments.out.is_dir():
        raise CheckpointError(f"{arguments.out}: a folder; give a file")
    checkpoint = load(arguments.file, **options_of(arguments))
    print(f"read: {checkpoint.described()}")
    print(f"{len(checkpoint.state)} tensors of the backbone, {len(checkpoint.ignored)} others left aside")
    print(f"written: {printable(str(export(checkpoint, arguments.out, arguments.to)))}")


def _show(file: str, found: dict[str, Any]) -> None:
    print(printable(f"{file}: {Checkpoint({}, found['metadata'], {}, found['assumed']).described()}"))
    lines = dict(
        hash=found["hash"],
        tensors=f"{found['tensors']} of {', '.join(found['types'])}, {found['parameters']:,} parameters; "
                f"{found['ignored']} others left aside",
        finite="yes" if not found["not_finite"] else f"no: {several(found['not_finite'], 'tensor')}",
        variances="0 or above" if not found["negative_variance"]
                  else f"negative in {several(found['negative_variance'], 'tensor')}",
        dead=", ".join(f"{count} in {name}" for name, count in found["dead"].items()) or "no channel",
        norms=", ".join(f"{stage} {value:.4g}" for stage, value in found["norms"].items()))
    for name, line in lines.items():
        print(printable(f"  {name:<10} {line}"))
    for name, value in found["metadata"].items():
        if name not in PIXELS and value is not None:
            print(printable(f"  {name:<10} {json.dumps(value)}"))


if __name__ == "__main__":
    sys.exit(main())
