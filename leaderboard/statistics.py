"""What several runs say: mean, spread and what it was taken over, paired differences with their 95 % interval."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

from leaderboard.errors import RecordError

Run = tuple[int | None, int | None]  # pretraining seed and transfer seed, each None where runs are not told apart by it


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (n - 1), standard error of the mean, n; NaN where n is too small."""

    mean: float
    sd: float
    se: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a - b over the runs both have, its standard error and two-sided 95 % t interval (low, high).

    `n` counts the pairs; `unpaired` lists the runs that one side lacks or could not measure.
    """

    mean: float
    se: float
    low: float
    high: float
    n: int
    unpaired: tuple[Run, ...]

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out; never with fewer than two pairs."""
        return self.low > 0 or self.high < 0


def summarise(values: Iterable[float | None]) -> Summary:
    """Summary of `values`, leaving out None and NaN."""
    kept = [value for value in values if value is not None and not math.isnan(value)]
    sd = stdev(kept) if len(kept) > 1 else math.nan
    return Summary(fmean(kept) if kept else math.nan, sd, sd / math.sqrt(max(len(kept), 1)), len(kept))


def scores(rows: Sequence[dict[str, Any]], metric: str, pretrainings: bool = True) -> dict[Run, float | None]:
    """The values of one method's rows that chance could have made others, in percent; None where none was measured.

    A deterministic score repeated over transfer seeds is one value a pretraining: its repetitions say nothing.

    Args:
        pretrainings: False joins the pretrainings of a transfer seed to their mean.
    Raises:
        RecordError: two rows of one pretraining and transfer seed.
    """
    if len({(row["pretrain_seed"], row["seed"]) for row in rows}) != len(rows):
        raise RecordError(f"{rows[0]['method']}: two records of one seed cannot be paired")
    grouped: dict[Run, list[float | None]] = {}
    for row in rows:
        run = row["pretrain_seed"] if pretrainings else None, None if row["deterministic"] else row["seed"]
        grouped.setdefault(run, []).append(row["metrics"].get(metric))
    means = {run: summarise(values) for run, values in grouped.items()}
    return {run: over.mean if over.n else None for run, over in means.items()}


def taken_over(rows: Sequence[dict[str, Any]]) -> str:
    """What a spread over one method's rows was taken over: "pretrainings", "transfers", "both", or "" for one run."""
    runs = scores(rows, "").keys()
    pretrainings, transfers = ({run[i] for run in runs} for i in range(2))
    if len(pretrainings) > 1:
        return "both" if len(transfers) > 1 else "pretrainings"
    return "transfers" if len(transfers) > 1 else ""


def paired_difference(rows_a: Sequence[dict], rows_b: Sequence[dict], metric: str) -> PairedDifference:
    """The difference a - b of `metric` (percent) over records of two methods, paired by (pretrain_seed, seed).

    Where one side's pretraining seeds are unknown, runs are paired by their transfer seed alone, the other side's
    pretrainings joined. Raises RecordError when one side holds a run twice.
    """
    known = all(any(row["pretrain_seed"] is not None for row in rows) for rows in (rows_a, rows_b))
    a, b = scores(rows_a, metric, known), scores(rows_b, metric, known)
    paired = {run: x - y for run in a.keys() & b.keys() if (x := a[run]) is not None and (y := b[run]) is not None}
    difference = summarise(paired.values())
    half = mean_half_width(difference)
    left = (a.keys() | b.keys()) - paired.keys()
    unpaired = tuple(sorted(left, key=lambda run: [-1 if seed is None else seed for seed in run]))
    mean = difference.mean
    return PairedDifference(mean, difference.se, mean - half, mean + half, difference.n, unpaired)


def mean_half_width(over: Summary) -> float:
    """Half of the two-sided 95 % t interval of the mean of `over`; NaN for one value."""
    return _t975(over.n - 1) * over.se if over.n > 1 else math.nan


def prediction_half_width(over: Summary) -> float:
    """Half of the interval about the mean of `over` (n > 1) in which another run of the same kind falls in 95 %."""
    return _t975(over.n - 1) * over.sd * math.sqrt(1 + 1 / over.n)


@cache
def _t975(df: int) -> float:
    from scipy.stats import t  # late: half a second that only a page needs

    return float(t.ppf(0.975, df))
