"""What several seeds say: mean, spread, and differences paired by seed with their 95 % interval."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (n - 1), standard error of the mean, n; NaN where n is too small."""

    mean: float
    sd: float
    se: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the seeds both have, its standard error and two-sided 95 % t interval (low, high).

    `n` counts the pairs; `unpaired` lists the seeds that one side lacks or could not measure.
    """

    mean: float
    se: float
    low: float
    high: float
    n: int
    unpaired: tuple[int, ...]

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out; never with fewer than two pairs."""
        return self.low > 0 or self.high < 0


def summarise(values: Iterable[float | None]) -> Summary:
    """Summary of `values`, leaving out None and NaN."""
    kept = [value for value in values if _measured(value)]
    sd = stdev(kept) if len(kept) > 1 else math.nan
    return Summary(fmean(kept) if kept else math.nan, sd, sd / math.sqrt(max(len(kept), 1)), len(kept))


def paired_difference(rows_a: Sequence[dict], rows_b: Sequence[dict], metric: str) -> PairedDifference:
    """The difference a - b of `metric` (percent) over records of two methods, paired by their seed.

    Raises ValueError when one side holds a seed twice.
    """
    a, b = _by_seed(rows_a, metric), _by_seed(rows_b, metric)
    paired = sorted(seed for seed in a.keys() & b.keys() if _measured(a[seed]) and _measured(b[seed]))
    difference = summarise(a[seed] - b[seed] for seed in paired)
    half = t_quantile(difference.n - 1) * difference.se if difference.n > 1 else math.nan
    unpaired = tuple(sorted((a.keys() | b.keys()) - set(paired)))
    mean = difference.mean
    return PairedDifference(mean, difference.se, mean - half, mean + half, difference.n, unpaired)


def t_quantile(df: int, coverage: float = 0.95) -> float:
    """The t with P(|T| < t) = `coverage` for Student's T of `df` degrees of freedom."""
    if df < 1 or not 0 < coverage < 1:
        raise ValueError(f"t_quantile needs df >= 1 and 0 < coverage < 1, not {df} and {coverage}")
    low, high = 0.0, math.pi / 2  # bisection over the angle atan(t / sqrt(df)), which is bounded
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _coverage(middle, df) < coverage else (low, middle)
    return math.sqrt(df) * math.tan((low + high) / 2)


def _coverage(angle: float, df: int) -> float:
    """P(|T| < sqrt(df) tan(angle)): Abramowitz and Stegun's sums, 26.7.3 (odd df) and 26.7.4 (even)."""
    odd = df % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(odd + 2, df + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _measured(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _by_seed(rows: Sequence[dict], metric: str) -> dict[int, float | None]:
    values = {row["seed"]: row["metrics"].get(metric) for row in rows}
    if len(values) != len(rows):
        raise ValueError(f"{rows[0]['method']}: two records of one seed cannot be paired")
    return values
