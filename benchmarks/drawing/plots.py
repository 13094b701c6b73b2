"""Plots of what records hold: k-NN while pretraining ran, score over cost, which task foretells which."""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from detco.files import replacing

STYLE = {"svg.hashsalt": "detco-bench", "font.size": 9}  # the same bytes each time
Curves = Mapping[tuple[str, int | None], Sequence[Mapping[str, Any]]]  # (row's name, pretraining seed) -> its curve


def save(figure: Figure, folder: Path, name: str, forms: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a figure; where it lies."""
    paths = [folder / f"{name}.{form}" for form in forms]
    for path, form in zip(paths, forms):
        with replacing(path) as temporary, rc_context(STYLE):
            figure.savefig(temporary, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)
    return paths


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour a name, whatever else is drawn."""
    return {name: f"C{number}" for number, name in enumerate(sorted(names))}


def knn_curves(curves: Curves, shown: Mapping[str, str], over: str = "epoch") -> Figure:
    """Top-1 of k-NN while pretraining ran, a panel a level; later pretrainings of a name are fainter.

    Args:
        shown: row's name -> what the legend calls it.
        over: "epoch" or "encoder_pixels".
    """
    levels, colours = list(next(iter(curves.values()))[0]["knn"]), colours_of(list(shown))
    divisor, title = (1e9, "encoder Gpixel") if over == "encoder_pixels" else (1, "epochs")
    with rc_context(STYLE):
        figure = Figure(figsize=(3 * len(levels), 3.2), layout="constrained")
        handles: dict[str, Any] = {}
        for axis, level in zip(figure.subplots(1, len(levels), sharey=True, squeeze=False)[0], levels):
            for (name, seed), curve in curves.items():
                [drawn] = axis.plot([line[over] / divisor for line in curve], [line["knn"][level] for line in curve],
                                    ".-", color=colours[name], alpha=0.5 if seed else 1)
                handles.setdefault(shown[name], drawn)
            axis.set(title=level.upper(), xlabel=title)
        figure.axes[0].set_ylabel("k-NN top-1, %")
        figure.axes[0].legend(handles.values(), handles, fontsize="small")
    return figure


def series(found: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], title: str) -> Figure:
    """A panel a thing measured, a line a run.

    Args:
        found: run -> thing -> its points.
        title: of what runs to the right.
    """
    things, colours = list(dict.fromkeys(name for own in found.values() for name in own)), colours_of(list(found))
    across = max(1, min(3, len(things)))
    down = max(1, -(-len(things) // across))
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * across, 2.8 * down + 0.3 * len(found)), layout="constrained")
        axes, handles = figure.subplots(down, across, squeeze=False).ravel(), {}
        for axis, thing in zip(axes, things):
            for run, own in found.items():
                if points := own.get(thing):
                    x, y = zip(*points)
                    handles[run] = axis.plot(x, y, ".-" if len(x) < 40 else "-", color=colours[run], linewidth=1)[0]
            axis.set(title=thing, xlabel=title)
        for axis in axes[len(things):]:
            axis.set_axis_off()
        figure.legend(handles.values(), handles, loc="outside lower center", fontsize="small")
    return figure


def score_over_cost(panels: Mapping[str, tuple[str, Mapping[str, tuple[float, float, float]]]],
                    shown: Mapping[str, str]) -> Figure:
    """A panel a task, a point a row.

    Args:
        panels: task -> (its metric, row's name -> (encoder pixels, mean, half of its 95 % interval or NaN)).
        shown: row's name -> what the legend calls it.
    """
    colours, across = colours_of(list(shown)), min(4, len(panels))
    down = -(-len(panels) // across)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.2 * across, 3.0 * down), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        handles: dict[str, Any] = {}
        for axis, (task, (metric, points)) in zip(axes, panels.items()):
            for name, (pixels, mean, half) in points.items():
                handles[shown[name]] = axis.errorbar(pixels / 1e9, mean, [[half], [half]], fmt="o",
                                                     color=colours[name], capsize=3)
            axis.set(title=task, xlabel="encoder Gpixel", ylabel=metric)
        for axis in axes[len(panels):]:
            axis.set_axis_off()
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def counted(counts: Mapping[str, int], sides: Sequence[float], most: int = 40) -> Figure:
    """Objects by category, the most frequent ones, and by size.

    Args:
        sides: the root of each box's area, in pixels; 32 and 96 are COCO's bounds of small and large.
    """
    names = sorted(counts, key=lambda name: -counts[name])[:most]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, max(2.5, 0.2 * len(names) + 1)), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.barh(names[::-1], [counts[name] for name in reversed(names)])
        left.set(title="objects by category" + f", the first {most} of {len(counts)}" * (len(counts) > most))
        right.hist(sides, bins=30)
        for bound in (32, 96):
            right.axvline(bound, color="grey", linestyle=":")
        right.set(title="objects by size", xlabel="root of the box's area, pixels")
    return figure


def correlations(found: Mapping[tuple[str, str], tuple[float, float, float, int]]) -> Figure:
    """A matrix of rank correlations between tasks, as `leaderboard.overview.foretold` gives them."""
    import numpy as np

    names = sorted({name for pair in found for name in pair})
    values = np.eye(len(names))
    for (a, b), (r, *_) in found.items():
        values[names.index(a), names.index(b)] = values[names.index(b), names.index(a)] = r
    with rc_context(STYLE):
        figure = Figure(figsize=(2.5 + 0.6 * len(names), 2 + 0.6 * len(names)), layout="constrained")
        axis = figure.subplots()
        image = axis.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axis.set_yticks(range(len(names)), names)
        for i, j in np.ndindex(values.shape):
            axis.text(j, i, f"{values[i, j]:+.2f}", ha="center", va="center",
                      color="white" if abs(values[i, j]) > 0.6 else "black", fontsize=8)
        figure.colorbar(image, shrink=0.7, label="rank correlation over methods")
    return figure
