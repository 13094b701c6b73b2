"""A scale at one glance: every method's number in every task, overall ranks, and which task foretells which."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from leaderboard.checks import Record, Table, arch_apart, first_difference
from leaderboard.statistics import (
    Difference,
    difference,
    holm,
    mean_half_width,
    summarise,
    t_half_width,
    verdict,
)
from leaderboard.tables import (
    BASELINES,
    MISSING,
    NBSP,
    SINGLE_RUN,
    budget,
    by_method,
    difference_cells,
    differences,
    escaped,
    render,
    summary,
    table_metric,
)

AGAINST = BASELINES[0]
MARKS = {"better": "▲", "worse": "▼", "not distinguishable": "≈", "": ""}
EQUAL = 1.05  # ratio of encoder pixels up to which they are taken for the same
FORETELLS = 5  # methods that a correlation between tasks is taken of, at least
Found = Mapping[Table, Sequence[Record]]

INTRO = f"""\
One number a task, its main metric: mean ± half of its 95 % interval, over pretrainings where there are several, else
over transfers of one. Against {AGAINST}, at 5 %, corrected for all comparisons of the task's table:
{MARKS["better"]} better, {MARKS["worse"]} worse, {MARKS["not distinguishable"]} not distinguishable.
{SINGLE_RUN} one run, of which nothing follows."""


def newest(found: Found) -> dict[str, Sequence[Record]]:
    """Name -> rows of each task of one scale and architecture, of its newest version; the schedule is named where a
    task has several."""
    last: dict[tuple[str, str], Table] = {}
    for table in found:
        *_, task, version, schedule = table
        if (task, schedule) not in last or last[task, schedule][3] < version:
            last[task, schedule] = table
    tasks = [task for task, _ in last]
    return {task if tasks.count(task) == 1 else f"{task} · {schedule}": found[table]
            for (task, schedule), table in last.items()}


def fixed(tasks: Mapping[str, Sequence[Record]]) -> dict[str, Sequence[Record]]:
    """Those of the tasks whose protocol is the suite's: nothing of it changed or tuned, on its data, in its precision.
    Ranks and correlations are of these."""
    return {name: rows for name, rows in tasks.items() if not rows[0]["changes"] and not rows[0].get("tuning")
            and "+" not in rows[0]["schedule"].removesuffix(f"+{arch_apart(rows[0])}")}


def matrix(found: Found) -> str:
    """Tasks by methods in markdown, the longer side downwards, with mean ranks; of one scale's tables."""
    tasks = newest(found)
    ranked = ranks(fixed(tasks))
    cells = {name: task_cells(rows) for name, rows in tasks.items()}
    methods = sorted({method for row in cells.values() for method in row}, key=lambda m: (ranked.get(m, (99.0,)), m))
    if ranked:
        cells["mean rank"] = {method: f"{mean:.1f}{NBSP}±{NBSP}{half:.1f}" for method, (mean, half) in ranked.items()}
    if len(cells) >= len(methods):
        header, lines = ["task", *methods], [[name, *(own.get(m, MISSING) for m in methods)]
                                             for name, own in cells.items()]
    else:
        header, lines = ["method", *cells], [[m, *(own.get(m, MISSING) for own in cells.values())] for m in methods]
    shown = [[escaped(first), *rest] for first, *rest in lines]
    parts = [INTRO, render([escaped(name) for name in header], shown, {0})]
    if ranked:
        parts.append("Mean rank: of the methods that have every task, with its 95 % interval over tasks.")
    return "\n\n".join([*parts, *_equal(tasks), *_foretelling(fixed(tasks))])


def task_cells(rows: Sequence[Record]) -> dict[str, str]:
    """Method -> its cell in the matrix."""
    metric, methods = table_metric(rows), by_method(rows)
    against = differences(rows, AGAINST) if AGAINST in methods else {}
    found = {}
    for method, own in methods.items():
        over, half = summary(own, metric), mean_half_width(own, metric)
        if not over.n:
            continue
        spread = SINGLE_RUN if math.isnan(half) else f"±{NBSP}{half:.1f}"
        difference, p = against.get((metric, method), (None, math.nan))
        mark = MARKS[verdict(difference.mean, p)] if difference else ""
        found[method] = NBSP.join(filter(None, [f"{over.mean:.1f}", spread, mark]))
    return found


def means(rows: Sequence[Record]) -> dict[str, float]:
    """Method -> mean of the main metric, where one was measured."""
    found = {method: summary(own, table_metric(rows)).mean for method, own in by_method(rows).items()}
    return {method: mean for method, mean in found.items() if not math.isnan(mean)}


def curves(rows: Sequence[Record]) -> dict[tuple[str, int | None], list[dict[str, Any]]]:
    """(row's name, pretraining seed) -> what was measured while it was pretrained, of checkpoints that were watched."""
    return {(row["method"], row["pretrain_seed"]): lines for row in rows
            if (lines := row["checkpoint"]["metadata"].get("monitor"))}


def costed(rows: Sequence[Record]) -> dict[str, tuple[float, float, float]]:
    """Method -> (pixels that pretraining took through its encoders, mean of the main metric, half of its 95 % interval
    or NaN), where both are known; of one table."""
    found = {}
    for method, own in by_method(rows).items():
        pixels = summarise(budget(row).get("encoder_pixels") for row in own)
        over = summary(own, table_metric(rows))
        if pixels.n and over.n:
            found[method] = pixels.mean, over.mean, mean_half_width(own, table_metric(rows))
    return found


def panels(tasks: Mapping[str, Sequence[Record]]) -> dict[str, tuple[str, dict[str, tuple[float, float, float]]]]:
    """Task -> its metric and `costed`, where something is known."""
    found = {name: (table_metric(rows), costed(rows)) for name, rows in tasks.items()}
    return {name: panel for name, panel in found.items() if panel[1]}


def labels(rows: Sequence[Record]) -> dict[str, str]:
    """What each row's name is shown as: a changed recipe by its first difference from the method's own."""
    own = {row["method"]: row["recipe"]["config"] for row in rows}
    found = {}
    for name, recipe in own.items():
        base = name.partition("+")[0]
        difference = recipe and own.get(base) and first_difference(recipe, own[base])
        found[name] = f"{base}, {difference.split(' != ')[0].replace(': ', ' ')}" if difference else name
    return found


def on_the_way(rows: Sequence[Record], against: str) -> dict[tuple[str, int | None], tuple[dict, dict]]:
    """(method, pretraining seed) -> a point of its curve and one of the curve of `against` with the same seed, both the
    last before the pixels that either had taken when it ended."""
    found, measured = {}, curves(rows)
    for (method, seed), curve in measured.items():
        if method != against and (other := measured.get((against, seed))):
            most = min(curve[-1]["encoder_pixels"], other[-1]["encoder_pixels"])
            points = [[line for line in own if line["encoder_pixels"] <= most] for own in (curve, other)]
            if all(points):
                found[method, seed] = points[0][-1], points[1][-1]
    return found


def at_equal_pixels(tasks: Mapping[str, Sequence[Record]]) -> dict[tuple[str, str, str], tuple[float, Difference]]:
    """(task, method, other method) -> the pixels that both took through their encoders, within a twentieth, and the
    difference of the main metric; the other is AGAINST, or that under a changed recipe."""
    found: dict[tuple[str, str, str], tuple[float, Difference]] = {}
    for task, rows in tasks.items():
        methods, costs = by_method(rows), costed(rows)
        for other in [name for name in costs if name.partition("+")[0] == AGAINST]:
            for method in costs:
                pixels = costs[method][0], costs[other][0]
                if method.partition("+")[0] != AGAINST and min(pixels) and max(pixels) / min(pixels) <= EQUAL:
                    over = difference(methods[method], methods[other], table_metric(rows))
                    found |= {(task, method, other): (pixels[0], over)} if over.n else {}
    return found


def ranks(tasks: Mapping[str, Sequence[Record]]) -> dict[str, tuple[float, float]]:
    """Method -> mean rank over tasks and half of its 95 % interval, of methods that have every task; empty where they
    are fewer than two, or the tasks fewer than three."""
    scored = [means(rows) for rows in tasks.values()]
    whole = sorted(set.intersection(*map(set, scored))) if len(scored) > 2 else []
    if len(whole) < 2:
        return {}
    from scipy.stats import rankdata  # late: half a second that only a page needs

    placed = rankdata([[-own[method] for method in whole] for own in scored], axis=1).T.tolist()
    return {method: (fmean(places), t_half_width(summarise(places))) for method, places in zip(whole, placed)}


def foretold(tasks: Mapping[str, Sequence[Record]]) -> dict[tuple[str, str], tuple[float, float, float, int]]:
    """Two tasks -> Spearman's correlation of the methods' means in both, its 95 % interval (Bonett and Wright 2000) and
    how many methods it was taken of, from `FORETELLS` on."""
    from scipy.stats import spearmanr

    found = {}
    scored = {name: means(rows) for name, rows in tasks.items()}
    for a, b in combinations(scored, 2):
        shared = sorted(scored[a].keys() & scored[b].keys())
        sides = [[own[method] for method in shared] for own in (scored[a], scored[b])]
        if len(shared) >= FORETELLS and all(len(set(side)) > 1 for side in sides):
            r = float(spearmanr(*sides).statistic)
            half = 1.96 * math.sqrt((1 + r**2 / 2) / (len(shared) - 3))
            z = math.atanh(max(-0.999999, min(0.999999, r)))
            found[a, b] = r, math.tanh(z - half), math.tanh(z + half), len(shared)
    return found


def _equal(tasks: Mapping[str, Sequence[Record]]) -> list[str]:
    """Who is better at the same cost: rows, and k-NN while pretraining ran; empty where nothing is known."""
    rows = [row for own in tasks.values() for row in own]
    shown, lines = labels(rows), []
    found = at_equal_pixels(tasks)
    corrected = holm([over.p for _, over in found.values()])
    for ((task, method, other), (pixels, over)), p in zip(found.items(), corrected):
        mean, interval, _, said, chance, _ = difference_cells(over, p)
        lines.append([escaped(task), escaped(f"{shown[method]} - {shown[other]}"), f"{pixels / 1e9:.2f}", mean,
                      interval, said, chance])
    for (method, seed), (ours, theirs) in sorted(on_the_way(rows, AGAINST).items(), key=str):
        taken = " / ".join(f"{point['encoder_pixels'] / 1e9:.2f}" for point in (ours, theirs))
        name = f"{shown[method]} - {AGAINST}" + f", p{seed}" * (seed is not None)
        lines += [[f"k-NN of {level.upper()} on the way", escaped(name), taken, f"{value - theirs['knn'][level]:+.2f}",
                   MISSING, MISSING, "one pretraining"]
                  for level, value in ours["knn"].items() if level in theirs["knn"]]
    if not lines:
        return []
    table = render(["what", "difference", "encoder Gpixel", "mean", "95 % interval", "verdict", "over"], lines,
                   {0, 1, 5, 6})
    return [f"<details><summary>Who is better at the same encoder pixels</summary>\n\n{table}\n\n</details>"]


def _foretelling(tasks: Mapping[str, Sequence[Record]]) -> list[str]:
    if not (found := foretold(tasks)):
        return []
    lines = [[escaped(a), escaped(b), f"{r:+.2f}", f"{low:+.2f}{NBSP}…{NBSP}{high:+.2f}", str(n)]
             for (a, b), (r, low, high, n) in sorted(found.items(), key=lambda item: -item[1][0])]
    table = render(["task", "and", "rank correlation", "95 % interval", "methods"], lines, {0, 1})
    return [f"<details><summary>Which task foretells which: rank correlations over methods</summary>\n\n{table}\n\n"
            "</details>"]
