"""How often 95 % intervals hold the truth, by simulation; docs/statistics.md prints what this finds."""
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from leaderboard.statistics import difference
from leaderboard.tables import render

PAGE = Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
TIMES, RESAMPLES = 2000, 400
SEEDS = [(1, 3), (1, 5), (3, 3), (5, 3), (3, 5), (5, 5)]  # pretrainings, transfers of each
SPREADS = [(1.0, 0.5), (0.3, 1.0)]  # standard deviations between pretrainings, and between transfers of one
SHARED = 0.5  # of what both methods' runs of one transfer seed have in common


def rows(method, scores):
    return [{"method": method, "seed": s, "pretrain_seed": p, "deterministic": False, "metrics": {"AP": float(value)}}
            for (p, s), value in np.ndenumerate(scores)]


def drawn(generator, pretrainings, transfers, between, within):
    """Scores [pretrainings, transfers] of two methods that are equally good, and what a test shall find: 0, or where
    one pretraining cannot tell of others, the difference of the two that there are."""
    shared, found, means = generator.normal(0, SHARED, transfers), [], []
    for _ in range(2):
        mean = generator.normal(0, between, (pretrainings, 1))
        found.append(mean + generator.normal(0, within, (pretrainings, transfers)) + shared)
        means.append(float(mean.mean()))
    return *found, 0.0 if pretrainings > 1 else means[0] - means[1]


def independent(a, b):
    """The t interval that takes all paired runs for independent."""
    d = (a - b).ravel()
    half = t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / np.sqrt(len(d))
    return d.mean() - half, d.mean() + half


def bootstrap(a, b, generator):
    """Percentiles of a bootstrap of both levels: each method's pretrainings, and the transfer seeds they share."""
    count, transfers = a.shape
    seeds = generator.integers(0, transfers, (RESAMPLES, 1, transfers))
    means = [scores[generator.integers(0, count, (RESAMPLES, count, 1)), seeds].mean((1, 2)) for scores in (a, b)]
    return np.percentile(means[0] - means[1], [2.5, 97.5])


@pytest.mark.slow
def test_the_boards_intervals_hold_the_truth_as_often_as_they_say():
    lines = []
    for seeds in SEEDS:
        for spreads in SPREADS:
            generator, held = np.random.default_rng(0), np.zeros(3)
            for _ in range(TIMES):
                a, b, truth = drawn(generator, *seeds, *spreads)
                ours = difference(rows("a", a), rows("b", b), "AP")
                for i, (low, high) in enumerate(((ours.low, ours.high), independent(a, b), bootstrap(a, b, generator))):
                    held[i] += low <= truth <= high
            share = held / TIMES
            assert 0.935 <= share[0] <= 0.985, (seeds, spreads, share)
            lines.append([*map(str, seeds), *map(str, spreads), *(f"{100 * value:.1f}" for value in share)])
    table = render(["pretrainings", "transfers of each", "spread between pretrainings", "within one", "the board's, %",
                    "all runs independent, %", "bootstrap of both, %"], lines, set())
    print(f"\n{table}")
    assert table in PAGE.read_text(encoding="utf-8"), "docs/statistics.md prints other figures"
