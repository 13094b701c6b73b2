"""What several runs say: mean, spread and what it was taken over, differences with their interval and verdict."""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev
from typing import Any

from leaderboard.errors import RecordError

LEVEL = 0.05  # of verdicts, over all comparisons of a table together
Run = tuple[int | None, int | None]  # pretraining seed and transfer seed, each None where runs are not told apart by it


@dataclass(frozen=True)
class Summary:
    """Mean, sample standard deviation (n - 1), standard error of the mean, n; NaN where n is too small."""

    mean: float
    sd: float
    se: float
    n: int


@dataclass(frozen=True)
class Difference:
    """The mean difference a - b of two methods, its standard error, two-sided 95 % t interval (low, high) and p value.

    Attributes:
        n: values the interval was taken from: pairs of transfers, or pretrainings of both sides together.
        over: what chance it is about: "3 transfers" of one pretraining each, paired by seed, say nothing of other
            pretrainings; "2 + 3 pretrainings" do. Empty where there is nothing to take it from.
        unpaired: runs left aside, since the other side lacks theirs or could not measure it.
    """

    mean: float
    se: float
    low: float
    high: float
    p: float
    n: int
    over: str
    unpaired: tuple[Run, ...]


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


def difference(rows_a: Sequence[dict], rows_b: Sequence[dict], metric: str) -> Difference:
    """The difference a - b of `metric` (percent) over records of two methods.

    Chance has two levels: another pretraining, and another transfer of the same one. Where both sides have several
    pretrainings, the interval is Welch's of their means over the transfer seeds that both have; else the t interval of
    the differences of runs with the same pretraining and transfer seed, which tells of transfers alone. Taking all runs
    for independent covers the truth in 58 to 94 % of cases instead of 95, and a bootstrap of both levels in 75 to 98
    (docs/statistics.md).

    Where one side's pretraining seeds are unknown, runs are paired by their transfer seed alone, the other side's
    pretrainings joined. Raises RecordError when one side holds a run twice.
    """
    known = all(any(row["pretrain_seed"] is not None for row in rows) for rows in (rows_a, rows_b))
    sides = [scores(rows, metric, known) for rows in (rows_a, rows_b)]
    a, b = ({run: value for run, value in side.items() if value is not None} for side in sides)
    all_runs = sides[0].keys() | sides[1].keys()
    seeds = {seed for _, seed in a} & {seed for _, seed in b}
    means = [_by_pretraining(side, seeds) for side in (a, b)]
    if all(len(side) > 1 for side in means):
        over_a, over_b = map(summarise, means)
        used = {run for run in all_runs if run[1] in seeds and (run in a or run in b)}
        variance = over_a.se**2, over_b.se**2
        df = sum(variance)**2 / sum(v**2 / (o.n - 1) for v, o in zip(variance, (over_a, over_b))) if any(variance) \
            else over_a.n + over_b.n - 2
        found = over_a.mean - over_b.mean, math.sqrt(sum(variance)), df, over_a.n + over_b.n
        over = f"{over_a.n} + {over_b.n} pretrainings"
    else:
        paired = {run: a[run] - b[run] for run in a.keys() & b.keys()}
        of = summarise(paired.values())
        used, found = set(paired), (of.mean, of.se, of.n - 1, of.n)
        over = f"{of.n} transfer{'s' * (of.n > 1)}" if of.n and all(seed is not None for _, seed in paired) else ""
    left = tuple(sorted(all_runs - used, key=lambda run: [-1 if seed is None else seed for seed in run]))
    return _tested(*found, over, left)


def _by_pretraining(runs: dict[Run, float], seeds: set[int | None]) -> list[float]:
    """The mean of each pretraining's runs of some transfer seeds."""
    found: dict[int | None, list[float]] = {}
    for (pretraining, seed), value in runs.items():
        if seed in seeds:
            found.setdefault(pretraining, []).append(value)
    return [fmean(values) for values in found.values()]


def _tested(mean: float, se: float, df: float, n: int, over: str, unpaired: tuple[Run, ...]) -> Difference:
    if n < 2:
        return Difference(mean, math.nan, math.nan, math.nan, math.nan, n, over, unpaired)
    half = _t975(df) * se
    p = _two_sided(abs(mean) / se, df) if se else float(not mean)
    return Difference(mean, se, mean - half, mean + half, p, n, over, unpaired)


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for being several (Holm 1979); a NaN stays and does not count."""
    order = sorted((i for i, p in enumerate(values) if not math.isnan(p)), key=lambda i: values[i])
    corrected, least = list(values), 0.0
    for place, i in enumerate(order):
        least = corrected[i] = min(1.0, max(least, (len(order) - place) * values[i]))
    return corrected


def verdict(mean: float, p: float) -> str:
    """"better", "worse" or "not distinguishable" at `LEVEL`, of a difference and its corrected p; empty for NaN."""
    if math.isnan(p):
        return ""
    return "not distinguishable" if p > LEVEL else "better" if mean > 0 else "worse"


def mean_half_width(rows: Sequence[dict[str, Any]], metric: str) -> float:
    """Half of the two-sided 95 % t interval of one method's mean, over its pretrainings where it has several, else over
    their transfers; NaN for one value."""
    runs = {run: value for run, value in scores(rows, metric).items() if value is not None}
    means = _by_pretraining(runs, {seed for _, seed in runs})
    return t_half_width(summarise(means if len(means) > 1 else runs.values()))


def t_half_width(over: Summary) -> float:
    """Half of the two-sided 95 % t interval of the mean of independent values; NaN for one."""
    return _t975(over.n - 1) * over.se if over.n > 1 else math.nan


def prediction_half_width(over: Summary) -> float:
    """Half of the interval about the mean of `over` (n > 1) in which another run of the same kind falls in 95 %."""
    return _t975(over.n - 1) * over.sd * math.sqrt(1 + 1 / over.n)


@cache
def _t975(df: float) -> float:
    from scipy.stats import t  # late: half a second that only a page needs

    return float(t.ppf(0.975, df))


def _two_sided(t_value: float, df: float) -> float:
    from scipy.stats import t

    return float(2 * t.sf(t_value, df))
