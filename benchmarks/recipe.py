"""Scales, and what a method's pretraining config is at one of them. Light: imports no torch."""
from typing import Any

from detco import config


def scale_names() -> list[str]:
    """The scales there are, by file name."""
    return config.names("scales")


def load_scale(name: str) -> dict[str, Any]:
    """configs/scales/NAME.py: `data`, `arch`, and the rules `pretrain` and `tasks` (`detco.config.fitting`), with its
    `name` and `description`. Raises UserError, with the nearest names, for one there is not."""
    loaded = config.load_named("scales", name)
    return loaded | dict(name=name, description=config.headline(config.CONFIGS / "scales" / f"{name}.py"))


def with_arch(scale: dict[str, Any], arch: str) -> dict[str, Any]:
    """A scale (`load_scale`) with another backbone; sizes that depend on it are placeholders in the tasks."""
    return scale | dict(arch=arch, pretrain=[*scale["pretrain"], ("", {"method.arch": arch})])


def arch_of(recipe: dict[str, Any]) -> str:
    """The backbone of a resolved recipe: its method's; of weights that somebody else trained, theirs at every scale."""
    return recipe.get("arch") or recipe["method"]["arch"]


def resolve_recipe(name: str, scale: dict[str, Any], changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """A method's pretraining config at a scale, with its `name`: what fits of the scale's rules, then the method's own
    `scales`, then `changes`, which a user asks for.

    Args:
        scale: `load_scale`'s.
        changes: dotted, checked by `detco.config.apply_changes`.
    Raises:
        UserError: unknown method, or a change that does not fit.
    """
    written = config.load_named("pretrain", name)
    overrides = config.changes_at(written, scale["pretrain"], scale["name"])
    written.pop("scales", None)
    return config.apply_changes(config.override(written, overrides), changes or {}) | {"name": name}
