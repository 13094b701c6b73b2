"""Configs as plain data: load a file, override dotted keys, take what a scale says of them, hash what was resolved."""
import ast
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from detco.errors import UserError, nearest

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
NO_PART_OF_A_RECIPE = ("name", "workers", "max_broken", "monitor")
PLACEHOLDER = re.compile(r"\{(\w+)\}")  # a value that is filled in when a task is resolved

Rules = Sequence[tuple[str, dict[str, Any]]]


def names(kind: str) -> list[str]:
    """The configs of a kind, "pretrain", "tasks" or "scales", by file name."""
    return sorted(path.stem for path in (CONFIGS / kind).glob("*.py"))


def load(path: Path) -> dict[str, Any]:
    """Read a Python config (mmengine's syntax, `_base_` included) as a plain dict, without the helper variables,
    whose names begin with an underscore."""
    from mmengine.config import Config  # late: `--list` must answer without importing torch

    content = Config.fromfile(str(path), import_custom_modules=False).to_dict()
    return {key: value for key, value in content.items() if not key.startswith("_")}


def load_named(kind: str, name: str) -> dict[str, Any]:
    """A config of a kind ("pretrain", "tasks", "scales") as written. Raises UserError, with the nearest names, for one
    there is not."""
    if name not in names(kind):
        raise UserError(nearest({"pretrain": "method", "tasks": "task", "scales": "scale"}[kind], name, names(kind)))
    return load(CONFIGS / kind / f"{name}.py")


def load_method(name: str) -> dict[str, Any]:
    """A method's pretraining config with its name, at the paper's scale. Raises UserError as `load_named`."""
    written = load_named("pretrain", name)
    return {key: value for key, value in written.items() if key != "scales"} | {"name": name}


def preamble(path: Path) -> str:
    """A config's docstring, or its leading comment, without running it."""
    text = path.read_text(encoding="utf-8")
    comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return ast.get_docstring(ast.parse(text)) or "\n".join(line.lstrip("# ") for line in comment)


def headline(path: Path) -> str:
    """First line of a config's `preamble`, empty without one."""
    return next(iter(preamble(path).splitlines()), "")


def override(config: dict, changes: dict[str, Any]) -> dict:
    """A copy of `config` with dotted keys replaced, e.g. {"model.train_cfg.rcnn.sampler.num": 64}.

    List items are addressed by their number, a tuple is replaced whole. Raises UserError, with the nearest keys, where
    a key does not exist: a change that changes nothing is how a protocol silently drifts.
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
            raise UserError(_unknown_key(config, dotted)) from None
        if isinstance(node, tuple):
            raise UserError(f"'{dotted}' is an item of {node}: give '{dotted.rpartition('.')[0]}' as a whole")
        node[last] = deepcopy(value)
    return config


def _unknown_key(config: dict, dotted: str) -> str:
    """One line that refuses a key, with the nearest of those that end alike, else of those where it should stand."""
    *parents, last = dotted.split(".")
    if alike := [key for key in _keys(config) if key.split(".")[-1] == last]:
        return f"unknown key '{dotted}': did you mean {' or '.join(get_close_matches(dotted, alike, 3, 0))}?"
    while not (known := [f"{prefix}.{part}".lstrip(".") for prefix, node in _at(config, ".".join(parents))
                         for part, _ in _items(node)]):
        parents.pop()
    return nearest("key", dotted, known)


def _items(node: Any) -> Iterable[tuple[Any, Any]]:
    return node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key below a node."""
    for part, value in _items(node):
        yield f"{prefix}{part}"
        yield from _keys(value, f"{prefix}{part}.")


def _at(node: Any, pattern: str, prefix: str = "") -> list[tuple[str, Any]]:
    """The (dotted key, value) of every place that a dotted pattern names; `*` is each item of a list."""
    if not pattern:
        return [(prefix[:-1], node)]
    first, _, rest = pattern.partition(".")
    every = first == "*" and isinstance(node, (list, tuple))
    return [found for part, value in _items(node) if every or str(part) == first
            for found in _at(value, rest, f"{prefix}{part}.")]


def fitting(config: dict, rules: Rules) -> dict[str, Any]:
    """What of a scale's rules fits a config, as changes for `override`.

    A scale knows kinds of parts (a global view, a memory bank, a feature pyramid) and no method or task by its name, so
    new ones take its sizes unasked.

    Args:
        rules: (condition, changes), later ones over earlier ones. A condition is dotted keys that the config must have,
            other than None, or "key=value"; several are joined by " and ", and an empty one always holds. A change
            counts where the config has its key; `*` in a key is each item of a list.
    """
    changes: dict[str, Any] = {}
    for condition, values in rules:
        if all(_holds(config, part) for part in condition.split(" and ") if part):
            for pattern, value in values.items():
                changes |= {key: value for key, _ in _at(config, pattern)}
    return changes


def _holds(config: dict, condition: str) -> bool:
    key, _, value = condition.partition("=")
    return any(str(found) == value if value else found is not None for _, found in _at(config, key))


def changes_at(written: dict, rules: Rules, scale: str) -> dict[str, Any]:
    """A scale's changes to a config as written: what fits of its rules, then the config's own `scales[scale]`.

    Raises UserError where its `scales` names one there is not.
    """
    own = written.get("scales", {})
    for name in own:
        if name not in names("scales"):
            raise UserError(nearest("scale", name, names("scales")))
    return fitting({key: value for key, value in written.items() if key != "scales"}, rules) | own.get(scale, {})


def parse_change(words: str) -> tuple[str, Any]:
    """"optimizer.lr=0.06" -> ("optimizer.lr", 0.06): a Python literal, else a string.

    Raises UserError without "=", and for a value that JSON cannot hold: infinity, a set, bytes.
    """
    key, sign, text = (part.strip() for part in words.partition("="))
    if not (key and sign):
        raise UserError(f"'{words}' is no change: give key=value, for example optimizer.lr=0.06")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return key, text
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError):
        raise UserError(f"'{words}': give a finite number, True, False, None, a string, "
                        "or a list or dict of them") from None
    return key, value


def checked(config: dict, changes: dict[str, Any]) -> dict[str, Any]:
    """A user's changes, each of the kind that it replaces in `config`, for `override`.

    Numbers replace numbers; sequences sequences, whose type stays the old one; None whatever is no number and no
    switch; anything replaces None and a placeholder. Raises UserError for another kind, and for an unknown key.
    """
    fit = {}
    for dotted, value in changes.items():
        found = [at for key, at in _at(config, dotted) if key == dotted]
        if not found:
            raise UserError(_unknown_key(config, dotted))
        [old] = found
        if not _replaces(value, old):
            raise UserError(f"{dotted}={value!r}: the value there is {old!r}; give {_kind(old)}")
        fit[dotted] = type(old)(value) if isinstance(old, (list, tuple)) and value is not None else value
        config = override(config, {dotted: fit[dotted]})
    return fit


def apply_changes(config: dict, changes: dict[str, Any]) -> dict:
    """`override` for what a user asks, `checked` first."""
    return override(config, checked(config, changes))


def _replaces(new: Any, old: Any) -> bool:
    if old is None or (isinstance(old, str) and PLACEHOLDER.fullmatch(old)):
        return True
    if new is None:
        return not isinstance(old, (bool, int, float))
    if isinstance(old, (list, tuple)):
        return isinstance(new, (list, tuple)) and all(_replaces(item, old[0]) for item in new if old)
    return _kind(new) == _kind(old)


def _kind(value: Any) -> str:
    kinds = {bool: "True or False", int: "a number", float: "a number", list: "a list", tuple: "a list", dict: "a dict"}
    return kinds.get(type(value), "a string")


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def recipe(resolved: dict) -> dict:
    """A resolved pretraining config without what no weight depends on: the name, how many workers load, how many
    broken images are borne with, and what is measured on the way."""
    return {key: value for key, value in resolved.items() if key not in NO_PART_OF_A_RECIPE}


def recipe_hash(resolved: dict) -> str:
    """What a pretraining's recipe is known by, whatever its data and seed."""
    return digest(recipe(resolved))
