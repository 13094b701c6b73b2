"""Pictures of photos: objects and detections on them, where a network looks, and what it takes for alike."""
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.drawing.plots import STYLE

SIDE = 1.7  # inches of a photo


def grid(columns: Sequence[Sequence[Any]], titles: Sequence[str], draw: Callable[[Any, Any], None],
         across: bool = False, ratio: float = 1.0) -> Figure:
    """A row a photo, a column a method, or the other way round.

    Args:
        columns: what `draw(axis, each)` is given; nothing is drawn of None.
        across: photos from left to right, methods below each other.
        ratio: of the photos' height to their width, about.
    """
    rows = len(columns[0])
    shape = (len(columns), rows) if across else (rows, len(columns))
    with rc_context(STYLE):
        figure = Figure(figsize=(SIDE * shape[1], SIDE * ratio * shape[0]), layout="constrained")
        axes = figure.subplots(*shape, squeeze=False)
        for i, (column, title) in enumerate(zip(columns, titles)):
            for j, each in enumerate(column):
                axis = axes[i, j] if across else axes[j, i]
                if each is None:
                    axis.set_axis_off()
                    continue
                draw(axis, each)
                axis.set(xticks=[], yticks=[])
            axis = axes[i, 0] if across else axes[0, i]
            (axis.set_ylabel if across else axis.set_title)(title, fontsize=8)
    return figure


def ratio_of(shown: Sequence[Mapping[str, Any]]) -> float:
    """The mean ratio of height to width of photos."""
    return fmean(photo["height"] / photo["width"] for photo in shown)


def boxes(axis, photo: Mapping[str, Any]) -> None:
    """A photo, or its outline, with boxes, the fainter the lower their score.

    Args:
        photo: width, height; image, uint8 [height, width, 3] or None; boxes, [category, left, top, width, height] or
            with a score as well; masks, bool [height, width] each, or none; colour; several, whether categories are
            told.
    """
    if photo.get("image") is not None:
        shown = photo["image"]
        for mask in photo.get("masks", ()):
            shown = np.where(mask[..., None], 0.55 * shown + 0.45 * 255 * np.array(to_rgb(photo["colour"])), shown)
        axis.imshow(shown.astype(np.uint8))
    else:
        axis.add_patch(Rectangle((0, 0), photo["width"], photo["height"], facecolor="#f4f6f8"))
    for category, x, y, width, height, *score in photo["boxes"]:
        alpha = 0.3 + 0.7 * score[0] if score else 1
        axis.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=photo["colour"], alpha=alpha))
        text = " ".join([category] * photo["several"] + [f"{value:.2f}" for value in score])
        axis.text(x + 2, y + 2, text, fontsize=5, va="top", alpha=alpha, color=photo["colour"], clip_on=True)
    axis.set(xlim=(0, photo["width"]), ylim=(photo["height"], 0), aspect="equal")


def overlaid(axis, found: tuple[np.ndarray, np.ndarray | None]) -> None:
    """An image uint8 [H, W, 3], and where it is looked at, [H, W] within 0 and 1, or None."""
    image, heat = found
    axis.imshow(image)
    if heat is not None:
        axis.imshow(heat, cmap="jet", alpha=0.5, vmin=0, vmax=1)


def framed(axis, found: tuple[np.ndarray, str, bool | None]) -> None:
    """An image uint8 [H, W, 3] with its class, in a green frame where that is right, in a red one where it is not."""
    image, name, right = found
    axis.imshow(image)
    axis.set_xlabel(name[:24], fontsize=6, labelpad=1)
    for spine in axis.spines.values():
        spine.set(color="black" if right is None else "tab:green" if right else "tab:red", linewidth=2)
