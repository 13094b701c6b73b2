"""The names users type and the class behind each: one line a method. Imports nothing heavy."""
import difflib
import importlib

METHODS = {
    "detco": "detco.detco:DetCo",
    "moco_v2": "baselines.moco_v2:MoCoV2",
    "supervised": "baselines.supervised:Supervised",
    "random_init": "baselines.random_init:RandomInit",
}


def nearest(kind: str, name: str, known) -> str:
    """One line that refuses `name` and offers the nearest of the `known` names."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"
    return f"unknown {kind} '{name}': {hint}"


def method_class(name: str):
    """The class registered under `name`. Raises ValueError with the nearest names otherwise."""
    if name not in METHODS:
        raise ValueError(nearest("method", name, METHODS))
    module, attribute = METHODS[name].split(":")
    return getattr(importlib.import_module(module), attribute)
