"""Which task foretells which, and the overall ranks, against scipy's own figures."""
import math

import pytest
from scipy.stats import spearmanr

from leaderboard import overview

SCORES = {"detco": (5, 9, 1), "moco_v2": (4, 7, 2), "supervised": (3, 8, 3), "random_init": (1, 1, 4),
          "other": (2, 2, 5)}


@pytest.fixture
def tasks(make):
    return {f"task{i}": [make(method, task=f"task{i}", metrics={"bbox_AP": float(values[i])})
                         for method, values in SCORES.items()] for i in range(3)}


def test_correlations_are_spearmans_with_bonett_and_wrights_interval(tasks):
    found = overview.foretold(tasks)
    assert set(found) == {("task0", "task1"), ("task0", "task2"), ("task1", "task2")}
    for (a, b), (r, low, high, n) in found.items():
        sides = [[values[int(name[-1])] for values in SCORES.values()] for name in (a, b)]
        assert r == pytest.approx(spearmanr(*sides).statistic) and n == 5 and low <= r <= high
        half = 1.959964 * math.sqrt((1 + r**2 / 2) / 2)
        assert math.atanh(high) - math.atanh(low) == pytest.approx(2 * half, rel=1e-3) or abs(r) > 0.99
    assert overview.foretold({name: rows[:4] for name, rows in tasks.items()}) == {}  # of four methods nothing follows


def test_ranks_are_of_methods_that_have_every_task(tasks):
    ranks = overview.ranks(tasks | {"task1": tasks["task1"][:4]})
    assert "other" not in ranks and ranks["detco"][0] == pytest.approx((1 + 1 + 4) / 3)
    assert overview.ranks({name: tasks[name] for name in ("task0", "task1")}) == {}


def test_tuned_and_changed_tasks_others_data_and_bfloat16_count_in_neither(tasks):
    for row in tasks["task0"]:
        row["changes"] = {"optimizer.lr": 0.1}
    for row in tasks["task1"]:
        row["tuning"] = {"chosen": {}, "held_out": 20, "trials": []}
    for schedule, arch in (("mini+bf16", "resnet18"), ("mini+resnet50", "resnet50"), ("mini+resnet50+bf16", "resnet50"),
                           ("mini+orchard", "resnet18")):
        tasks[schedule] = [row | dict(schedule=schedule, arch=arch) for row in tasks["task2"]]
    assert list(overview.fixed(tasks)) == ["task2", "mini+resnet50"]


def test_both_pages_have_the_matrix(tasks, root):
    from leaderboard import build
    from leaderboard.record import write

    for rows in tasks.values():
        for row in rows:
            write(root, row)
    markdown, site = build.pages(root).values()
    assert "Which task foretells which: rank correlations over methods" in markdown
    assert '"foretold":[{"a":"task0","b":"task1"' in site
