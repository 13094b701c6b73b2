"""Checkpoints by name: torchvision:resnet50, timm:resnet50.a1_in1k, hf:owner/name, or a URL -> a file on this machine.

Nothing is fetched unless such a name is given. Files land where the libraries keep theirs, and are found there again.
"""
import contextlib
import importlib.util
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from detco.backbone import ARCHS
from detco.errors import UserError, nearest

NAMED = re.compile(r"(torchvision|timm|hf):(?!/)|https?://")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a Hugging Face repository, with JSON beside them
PATIENCE = 30  # seconds without a byte


def is_named(source: str) -> bool:
    """Whether `source` names a checkpoint to fetch rather than a file."""
    return bool(NAMED.match(source))


def fetch(source: str) -> tuple[Path, dict]:
    """The file that a name stands for, fetched unless it is here, and the metadata that its publisher states.

    Raises:
        UserError: an unknown name, a library that is not installed, or no connection.
    """
    kind, _, name = source.partition(":")
    with _one_line(source):
        return {"torchvision": _torchvision, "timm": _timm, "hf": _hugging_face}.get(kind, _url)(
            name if kind in ("torchvision", "timm", "hf") else source)


def beside(path: Path) -> dict:
    """What config.json and preprocessor_config.json beside a Hugging Face file state of its pixels and strides."""
    if path.name not in WEIGHTS:
        return {}
    config, pixels = (_json(path.with_name(name)) for name in ("config.json", "preprocessor_config.json"))
    if isinstance(timm := config.get("pretrained_cfg"), dict):
        return {key: timm[key] for key in ("mean", "std") if key in timm}
    stated = {"stride": "caffe"} if config.get("downsample_in_bottleneck") is True else {}
    if pixels.get("do_normalize", True):
        stated |= {to: pixels[key] for key, to in (("image_mean", "mean"), ("image_std", "std")) if key in pixels}
    return stated


def _json(path: Path) -> dict:
    try:
        found = json.loads(path.read_text()) if path.stat().st_size < 1_000_000 else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def _one_line(source: str) -> Iterator[None]:
    """Turn what networks and hubs raise into a UserError; a connection that gives nothing for `PATIENCE` ends."""
    waited = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the libraries below raise those of three HTTP clients
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"checkpoint {source}: cannot be fetched ({reason}); without a connection, fetch the file "
                        "elsewhere and give its path") from None
    finally:
        socket.setdefaulttimeout(waited)


def _url(url: str) -> tuple[Path, dict]:
    import torch

    name = re.sub(r"[^\w.+-]", "_", Path(unquote(urlparse(url).path)).name) or "checkpoint"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        named = torch.hub.HASH_REGEX.search(name)  # resnet50-11ad3fa6.pth: the hash that its bytes must have
        torch.hub.download_url_to_file(url, str(path), named and named[1])
    return path, {}


def _torchvision(name: str) -> tuple[Path, dict]:
    import torchvision

    arch, _, tag = name.partition(".")
    _check_arch("torchvision", arch)
    known = torchvision.models.get_model_weights(arch)
    if tag and tag not in known.__members__:
        raise UserError(nearest(f"weights of torchvision's {arch}", tag, known.__members__))
    weights = known[tag] if tag else known.DEFAULT
    seen = weights.transforms()
    return _url(weights.url)[0], dict(mean=list(seen.mean), std=list(seen.std))


def _timm(name: str) -> tuple[Path, dict]:
    _require("timm", "timm")
    import timm

    arch = name.partition(".")[0]
    _check_arch("timm", arch)
    known = timm.list_pretrained(f"{arch}.*")
    if "." in name and name not in known:
        raise UserError(nearest("weights of timm", name, known))
    config: Any = timm.get_pretrained_cfg(name)
    path = _hugging_face(config.hf_hub_id)[0] if config.hf_hub_id else _url(config.url)[0]
    return path, dict(mean=list(config.mean), std=list(config.std))


def _hugging_face(name: str) -> tuple[Path, dict]:
    _require("huggingface_hub", "huggingface")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it tells of each of its five tries
    owner, _, revision = name.partition("@")
    found = {}
    for file in ("config.json", "preprocessor_config.json", *WEIGHTS):
        if WEIGHTS[0] not in found:
            try:
                found[file] = Path(hf_hub_download(owner, file, revision=revision or None))
            except LocalEntryNotFoundError:  # there is no connection, which is another thing than no such file
                raise
            except EntryNotFoundError:
                continue
    path = next((found[file] for file in WEIGHTS if file in found), None)
    if path is None:
        raise UserError(f"checkpoint hf:{name}: no {' or '.join(WEIGHTS)} in it")
    return path, beside(path)


def _check_arch(kind: str, arch: str) -> None:
    if arch not in ARCHS:
        raise UserError(nearest(f"ResNet of {kind}", arch, ARCHS))


def _require(module: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f'{module} is not installed: pip install -e ".[{extra}]"')
