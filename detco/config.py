"""Configs as plain data: load a file, override dotted keys, hash what was resolved."""
import hashlib
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from detco.errors import UserError, nearest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def names(kind: str) -> list[str]:
    """The configs of a kind, "pretrain", "tasks" or "scales", by file name."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.py"))


def load(path: Path) -> dict[str, Any]:
    """Read a Python config (mmengine's syntax, `_base_` included) as a plain dict."""
    from mmengine.config import Config  # late: `--list` must answer without importing torch

    return Config.fromfile(str(path), import_custom_modules=False).to_dict()


def load_method(name: str) -> dict[str, Any]:
    """A method's pretraining config with its name. Raises UserError, with the nearest names, for one there is not."""
    if name not in names("pretrain"):
        raise UserError(nearest("method", name, names("pretrain")))
    return load(CONFIGS / "pretrain" / f"{name}.py") | {"name": name}


def override(config: dict, changes: dict[str, Any]) -> dict:
    """A copy of `config` with dotted keys replaced, e.g. {"model.train_cfg.rcnn.sampler.num": 64}.

    List items are addressed by their number. Raises UserError where a key does not exist: a change that
    changes nothing is how a protocol silently drifts.
    """
    config = deepcopy(config)
    for dotted, value in changes.items():
        *parents, last = (int(part) if part.isdigit() else part for part in dotted.split("."))
        node = config
        try:
            for part in parents:
                node = node[part]
            node[last]
        except (KeyError, IndexError, TypeError):
            raise UserError(f"override '{dotted}': the config has no such key") from None
        node[last] = deepcopy(value)
    return config


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
