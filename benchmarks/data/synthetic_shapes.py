"""Outlines and textures of the synthetic data: twelve silhouettes, the articulated figure, clutter.

Every outline is a list of polygons (float64 [n, 2], x right, y down, any scale) whose union
is the silhouette. Only sums, products and cosines rounded to six decimals are used, so that the
vertices, quantised before drawing, are the same on every platform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import cv2
import numpy as np

KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)
# COCO's own pairs, counted from one (person_keypoints_train2017.json, categories[0].skeleton).
SKELETON = (
    (16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9),
    (8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7),
)
_RAMP = np.arange(256, dtype=np.int32)[:, None]
_RULER = np.arange(65536, dtype=np.uint16)  # sixteen bits wrap round with the wave
_PALETTE = np.array([[230, 60, 50], [240, 200, 60], [80, 200, 90], [90, 150, 240], [200, 110, 220], [235, 235, 235]])
_CONTRAST = 110  # RGB distance between a fill and what lies behind it, of 441
_LEAN = 45  # everything stands within this many degrees of upright
_COS = np.round(np.cos(np.deg2rad(np.arange(360))), 6)  # rounded: libraries differ in the last bit


@dataclass(frozen=True)
class Outline:
    """A silhouette: `parts` are united; `marks` are painted on it; `keypoints` is [17, 2] or None."""

    parts: list[np.ndarray]
    marks: list[np.ndarray] = field(default_factory=list)
    keypoints: np.ndarray | None = None

    def points(self) -> np.ndarray:
        """Parts, marks and keypoints, one after the other: [n, 2]."""
        return np.concatenate(self._pieces())

    def moved(self, points: np.ndarray) -> Outline:
        """The outline with its `points()` replaced: [n, 2]."""
        ends = list(accumulate(len(p) for p in self._pieces()))
        pieces = [points[a:b] for a, b in zip([0, *ends], ends)]
        keypoints = None if self.keypoints is None else pieces.pop()
        return Outline(pieces[:len(self.parts)], pieces[len(self.parts):], keypoints)

    def _pieces(self) -> list[np.ndarray]:
        return [*self.parts, *self.marks] + ([] if self.keypoints is None else [self.keypoints])


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A float in [low, high), computed without a fused multiply-add (they differ by platform)."""
    return low + (high - low) * rng.random()


def cos_sin(degrees: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounded cosine and sine of whole degrees."""
    return _COS[np.asarray(degrees) % 360], _COS[(np.asarray(degrees) - 90) % 360]


def arc(start: int, stop: int, count: int, radius: float | np.ndarray = 1.0, centre=(0.0, 0.0)) -> np.ndarray:
    """`count` points on a circle from `start` to `stop` degrees, both included: [count, 2]."""
    points = np.empty((count, 2))
    points.T[:] = cos_sin(start + (stop - start) * np.arange(count) // (count - 1))
    return points * np.asarray(radius)[..., None] + centre


def annulus(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """One polygon between two closed loops ([n, 2] each, first point repeated), joined by a seam."""
    return np.concatenate([outer, inner[::-1]])


_CAP = arc(-90, 90, 7)


def capsules(starts: np.ndarray, ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Limbs: the points within radii [n] of segments [n, 2] to [n, 2], as polygons [n, 14, 2]."""
    delta = ends - starts
    length = np.sqrt(delta[:, 0] * delta[:, 0] + delta[:, 1] * delta[:, 1])
    along = (delta * (radii / length)[:, None])[:, None]
    half = _CAP[:, :1] * along + _CAP[:, 1:] * (along[..., ::-1] * (-1, 1))
    return np.concatenate([ends[:, None] + half, starts[:, None] - half], axis=1)


def _star(rng):
    radius = np.where(np.arange(11) % 2, uniform(rng, 0.36, 0.5), 1.0)
    return Outline([arc(0, 360, 11, radius)])


def _cross(rng):
    w = uniform(rng, 0.2, 0.34)
    quarter = np.array([(w, w), (1, w), (1, -w), (w, -w)])
    turns = [quarter, quarter[:, ::-1] * (1, -1), -quarter, quarter[:, ::-1] * (-1, 1)]
    return Outline([np.concatenate(turns)])


def _arrow(rng):
    w, neck, barb = uniform(rng, 0.12, 0.2), uniform(rng, 0.0, 0.3), uniform(rng, 0.5, 0.7)
    return Outline([np.array([(-1, -w), (neck, -w), (neck, -barb), (1, 0), (neck, barb), (neck, w), (-1, w)])])


def _ring(rng):
    return Outline([annulus(arc(0, 360, 33), arc(0, 360, 25, uniform(rng, 0.5, 0.7)))])


def _crescent(rng):
    tip = int(rng.integers(35, 56))
    outer, c = arc(tip, 360 - tip, 25), cos_sin(tip)[0]
    inner = np.stack([c + (outer[:, 0] - c) * uniform(rng, 0.4, 0.62), outer[:, 1]], axis=1)
    return Outline([np.concatenate([outer, inner[::-1]])])


def _heart(rng):
    t = np.arange(0, 360, 10)
    c, s = cos_sin(t)
    y = 13 * c - 5 * cos_sin(2 * t)[0] - 2 * cos_sin(3 * t)[0] - cos_sin(4 * t)[0]
    return Outline([np.stack([16 * s * s * s, -y * uniform(rng, 0.9, 1.15)], axis=1)])


def _key(rng):
    w, end = uniform(rng, 0.1, 0.15), uniform(rng, 1.7, 2.1)
    bow = annulus(arc(0, 360, 25, 0.6), arc(0, 360, 17, uniform(rng, 0.2, 0.32)))
    shaft = np.array([(0.5, -w), (end, -w), (end, w), (0.5, w)])
    teeth = [np.array([(x - 0.2, 0), (x, 0), (x, w + d), (x - 0.2, w + d)])
             for x, d in ((end, uniform(rng, 0.25, 0.4)), (end - 0.42, uniform(rng, 0.2, 0.35)))]
    return Outline([bow, shaft, *teeth])


def _fish(rng):
    body = arc(0, 360, 29) * (1.0, uniform(rng, 0.42, 0.58))
    fork = uniform(rng, -1.4, -1.15)
    tail = np.array([(-0.7, 0), (-1.65, -0.6), (fork, 0), (-1.65, 0.6)])
    fin = np.array([(0.3, -0.35), (-0.35, -uniform(rng, 0.75, 0.95)), (-0.45, -0.3)])
    return Outline([body, tail, fin])


def _house(rng):
    eave, door, top = uniform(rng, 0.95, 1.1), uniform(rng, 0.14, 0.22), uniform(rng, 0.1, 0.35)
    wall = np.array([(-0.8, 0), (-0.8, 1), (-door, 1), (-door, top), (door, top), (door, 1), (0.8, 1), (0.8, 0)])
    roof = np.array([(-eave, 0.02), (0, -uniform(rng, 0.7, 1.0)), (eave, 0.02)])
    chimney = np.array([(0.4, -1.0), (0.68, -1.0), (0.68, 0), (0.4, 0)])
    return Outline([wall, roof, chimney])


def _cup(rng):
    foot, inner = uniform(rng, 0.4, 0.62), uniform(rng, 0.2, 0.3)
    body = np.array([(-0.72, -0.9), (0.72, -0.9), (foot, 0.9), (-foot, 0.9)])
    handle = np.concatenate([arc(-90, 90, 15, 0.48, (0.55, -0.1)), arc(-90, 90, 11, inner, (0.55, -0.1))[::-1]])
    return Outline([body, handle])


def _bolt(rng):
    k = uniform(rng, 0.12, 0.24)
    lower = [(-0.55, 0.15), (-0.08, 0.15 - k / 3), (-0.3, 1)]
    return Outline([np.array([(0.15, -1), *lower, (0.5, -0.25), (0.05, -k), (0.6, -1)])])


def _gear(rng):
    teeth = int(rng.integers(7, 10))
    radius = np.where(np.arange(teeth * 4 + 1) % 4 < 2, 1.0, uniform(rng, 0.66, 0.74))
    return Outline([annulus(arc(0, 360, teeth * 4 + 1, radius), arc(0, 360, 17, uniform(rng, 0.22, 0.34)))])


SHAPES: dict[str, Callable[[np.random.Generator], Outline]] = {
    "star": _star, "cross": _cross, "arrow": _arrow, "ring": _ring, "crescent": _crescent, "heart": _heart,
    "key": _key, "fish": _fish, "house": _house, "cup": _cup, "bolt": _bolt, "gear": _gear,
}


# Segments of the figure by number in KEYPOINTS (17, 18: neck and head), and half their widths.
_LIMBS = np.array([(5, 7), (6, 8), (7, 9), (8, 10), (11, 13), (12, 14), (13, 15), (14, 16), (17, 18)])
_GIRTH = np.array([0.11, 0.11, 0.09, 0.09, 0.14, 0.14, 0.11, 0.11, 0.12])


def _limb(rng, root, side, swing, bend, lengths):
    """Joint and end of a limb hanging from `root`; angles in degrees from straight down, outwards."""
    upper = int(rng.integers(*swing))
    c, s = cos_sin(np.array([upper, upper + int(rng.integers(*bend))]))
    steps = np.stack([side * s * lengths, c * lengths], axis=1)
    return root + steps[0], root + steps[0] + steps[1]


def figure(rng: np.random.Generator) -> Outline:
    """A person facing the viewer (their left is at larger x) with random joint angles.

    Returns an outline with the 17 COCO keypoints in COCO's order and eyes and nose as marks.
    """
    face = np.array([(0, 0.06), (0.14, -0.06), (-0.14, -0.06), (0.3, 0.0), (-0.3, 0.0), (0, 0)]) - (0, 0.42)
    c, s = cos_sin(int(rng.integers(-20, 21)))  # the head tilts about the neck
    face = np.stack([c * face[:, 0] - s * face[:, 1], s * face[:, 0] + c * face[:, 1]], axis=1) - (0, 0.95)
    face, head_at = face[:5], face[5]
    shoulder, hip = np.array([0.32, -0.85]), np.array([0.18, 0.0])
    joints = {}
    for name, side in (("left", 1), ("right", -1)):
        a, b = shoulder * (side, 1), hip * (side, 1)
        elbow, wrist = _limb(rng, a, side, (5, 165), (-60, 75), np.array([0.5, 0.5]))
        knee, ankle = _limb(rng, b, side, (0, 55), (-50, 10), np.array([0.62, 0.6]))
        joints |= {f"{name}_{part}": point for part, point in
                   zip(("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), (a, elbow, wrist, b, knee, ankle))}
    points = np.concatenate([face, [joints[k] for k in KEYPOINTS[5:]], [(0.0, -0.8), head_at]])
    torso = np.array([(-0.4, -0.95), (0.4, -0.95), (0.28, 0.1), (-0.28, 0.1)])
    limbs = capsules(points[_LIMBS[:, 0]], points[_LIMBS[:, 1]], _GIRTH)
    parts = [torso, arc(0, 360, 21, 0.34, head_at), *limbs]
    marks = [arc(0, 360, 9, 0.06, p) for p in face[:3]]
    return Outline(parts, marks, points[:17])


def clutter(rng: np.random.Generator) -> Outline:
    """Something that is no object: a ragged blob, a line, a disc or a patch."""
    kind = int(rng.integers(4))
    if kind == 0:
        radius = 0.35 + 0.65 * rng.random(9)
        radius[-1] = radius[0]
        return Outline([arc(0, 360, 9, radius)])
    if kind == 1:
        return Outline(list(capsules(np.zeros((1, 2)), np.array([(1.0, 0.0)]), np.array([uniform(rng, 0.01, 0.06)]))))
    if kind == 2:
        return Outline([arc(0, 360, 17)])
    h = uniform(rng, 0.3, 1.0)
    return Outline([np.array([(-1, -h), (1, -h), (1, h), (-1, h)])])


def posed(rng: np.random.Generator, outline: Outline, extent: float) -> Outline:
    """The outline flipped, stretched, sheared, turned, its longer side `extent` pixels.

    Points become int32 sixteenths of a pixel and begin at (16, 16). Figures are not flipped: left
    and right stay theirs.
    """
    person = outline.keypoints is not None
    c, s = cos_sin(int(rng.integers(-_LEAN, _LEAN + 1)))
    flip = 1 if person or rng.random() < 0.5 else -1
    stretch, shear = flip * uniform(rng, 0.8, 1.25), uniform(rng, -0.2, 0.2)

    points = outline.points()
    x, y = points[:, 0] * stretch + points[:, 1] * shear, points[:, 1]
    turned = np.empty_like(points)
    turned[:, 0], turned[:, 1] = c * x - s * y, s * x + c * y
    body = turned[:sum(map(len, outline.parts))]
    low = body.min(0)
    scale = extent / (body.max(0) - low).max()
    return outline.moved(np.rint((turned - low) * (scale * 16) + 16).astype(np.int32))  # margin for the rim


def colours(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """A colour of the palette, the first of twelve draws that stands out from `behind` [3], and a relative: [2, 3].

    The palette is small and the two are close on purpose: many images share their colours and hardly differ in
    texture, so that telling images apart needs shape.
    """
    draws = _PALETTE[rng.integers(len(_PALETTE), size=12)] + rng.integers(-15, 16, (12, 3))
    apart = draws - behind
    distance = np.minimum(np.einsum("ij,ij->i", apart, apart), _CONTRAST**2)
    first = draws[np.argmax(distance)].clip(0, 255)
    return np.stack([first, (first + rng.integers(-20, 21)).clip(0, 255)]).astype(np.int32)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Solid, noise, gradient, stripes, checker or dots: how much of the second colour, 0 to 254: uint8 [h, w]."""
    kind = int(rng.integers(6))
    if kind == 0:
        return np.zeros((height, width), np.uint8)
    if kind == 1:
        cell = int(rng.integers(2, 9))
        grid = rng.integers(0, 255, (height // cell + 2, width // cell + 2), np.uint8)
        return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    c, s = cos_sin(int(rng.integers(360)))
    step = 65536 / (2 * max(height, width) if kind == 2 else uniform(rng, 6, 18))  # 65536 to a wave
    a, b, phase = (np.uint16(int(v) & 65535) for v in (c * step, s * step, rng.integers(65536)))
    x, y = _RULER[:width], _RULER[:height, None]
    u = (x * a + phase) + y * b
    if kind == 2:
        return np.minimum(np.abs((u >> 7).view(np.int16) - 256), 254).astype(np.uint8)
    if kind == 3:
        return (u >> 15).astype(np.uint8) * 254
    v = (phase - x * b) + y * a
    if kind == 4:
        return ((u ^ v) >> 15).astype(np.uint8) * 254
    u, v = (u >> 8) - 128, (v >> 8) - 128
    return (u * u + v * v < 80**2).view(np.uint8) * 254


def painted(weight: np.ndarray, pair: np.ndarray) -> np.ndarray:
    """RGB [h, w, 3] from weights [h, w]: a blend of the pair; 255 marks lines, opposite to the first colour."""
    table = (pair[0] * (254 - _RAMP) + pair[1] * _RAMP) // 254
    table[255] = (pair[0] + 128) % 256
    return cv2.applyColorMap(weight, table.astype(np.uint8)[:, None])
