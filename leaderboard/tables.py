"""From records to rows: one table per scale, architecture, task, version and schedule, checked to hold one protocol."""
from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from leaderboard.checks import Record, Table, require_one_protocol, split_recipes, table_of
from leaderboard.errors import RecordError
from leaderboard.record import read_recipes
from leaderboard.statistics import (
    Difference,
    Run,
    Summary,
    difference,
    holm,
    scores,
    summarise,
    taken_over,
    verdict,
)

SCALES = ("paper", "one_gpu", "small", "mini")  # in the order the leaderboard shows them; others follow by name
# The metrics that differences are taken of, and the order of the families of columns after the main metric's.
HEADLINES = ("densepose_AP", "keypoints_AP", "voc_AP", "cityscapes_AP", "bbox_AP", "segm_AP", "mIoU", "top1", "mAP")
# AP by object size, and average recall: of a table of their own, so that the first can be read.
DETAIL = re.compile(r"_(AP[sml]|AR\w*)$")
BASELINES = ("moco_v2", "random_init")  # the first that a table holds is what its methods are compared with
DIFFERENCE_HEADER = ("metric", "difference", "mean", "95 % interval", "p, corrected", "verdict", "over", "left aside")
DIFFERENCE_TEXT = {0, 1, 5, 6, 7}  # which of these columns are words
MISSING = "—"
SINGLE_RUN = "†"
UNRELIABLE = "‡"
NBSP = "\u00a0"  # keeps "23.4 ± 0.5" on one line of a narrow cell


def tables(records: Sequence[Record], protocols: Mapping[str, Any] | None = None) -> dict[Table, list[Record]]:
    """Records by the table they belong to, in the order of the page.

    Args:
        protocols: fingerprint -> resolved protocol, to name the field in which two differ.
    Raises:
        RecordError: rows of one table ran different protocols, data sets or architectures.
    """
    grouped: dict[Table, list[Record]] = {}
    for record in records:
        grouped.setdefault(table_of(record), []).append(record)
    for rows in grouped.values():
        require_one_protocol(rows, protocols)
    order = {scale: number for number, scale in enumerate(SCALES)}
    return dict(sorted(grouped.items(), key=lambda item: (order.get(item[0][0], len(order)), *item[0])))


def metric_columns(rows: Sequence[Record], details: bool = False) -> list[str]:
    """Metric names of the rows, those of DETAIL or the others: the main metric's family first (bbox_AP, bbox_AP50,
    ...), then by family."""
    names = {name for row in rows for name in row["metrics"] if bool(DETAIL.search(name)) is details}
    families = [table_metric(rows), *HEADLINES]

    def order(name: str) -> tuple[int, str]:
        family = (i for i, main in enumerate(families) if name.split("_")[0] == main.split("_")[0])
        return next(family, len(families)), name

    return sorted(names, key=order)


def table_metric(rows: Sequence[Record]) -> str:
    """The metric that orders the table of these rows."""
    return rows[0]["main_metric"]


def budget(row: Record) -> dict[str, Any]:
    """What a row's pretraining cost; empty where nobody knows."""
    return row["checkpoint"]["metadata"].get("budget") or {}


def by_method(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by method, best mean of the main metric first; methods without one come last, ties by name."""
    methods: dict[str, list[Record]] = {}
    for row in sorted(rows, key=lambda row: (row["pretrain_seed"] or 0, row["seed"])):
        methods.setdefault(row["method"], []).append(row)
    metric = table_metric(rows)

    def rank(item: tuple[str, list[Record]]) -> tuple[float, str]:
        mean = summary(item[1], metric).mean
        return (math.inf if math.isnan(mean) else -mean), item[0]

    return dict(sorted(methods.items(), key=rank))


def summary(rows: Sequence[Record], metric: str) -> Summary:
    """Summary of one metric over the runs of one method."""
    return summarise(scores(rows, metric).values())


def score_cell(rows: Sequence[Record], metric: str) -> str:
    """`23.4 ± 0.5`; one run is marked, fewer values than runs are counted, nothing measured is a dash."""
    values = scores(rows, metric)
    over = summarise(values.values())
    if over.n == 0:
        return MISSING
    spread = SINGLE_RUN if over.n == 1 else f"±{NBSP}{over.sd:.1f}"
    count = "" if over.n == len(values) else f"{NBSP}(n={over.n})"
    return f"{over.mean:.1f}{NBSP}{spread}{count}"


def run_cells(rows: Sequence[Record]) -> list[str]:
    """How many runs of one method differ by chance, and over what: cells of the columns "runs" and "spread over"."""
    return [str(len(scores(rows, ""))), taken_over(rows) or MISSING]


def difference_rows(rows: Sequence[Record], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `method - baseline` for each headline metric, in the table's order.

    Raises RecordError when the baseline has no record among the rows.
    """
    methods = by_method(rows)
    if baseline not in methods:
        raise RecordError(f"no result of '{baseline}' to compare with; there are: {', '.join(methods)}")
    found = differences(rows, baseline)
    return [*DIFFERENCE_HEADER], [[metric, f"{method} - {baseline}", *difference_cells(over, p)]
                                  for (metric, method), (over, p) in found.items()]


def difference_table(rows: Sequence[Record], baseline: str) -> str:
    """`difference_rows` in markdown; empty where there is no other method. Raises as it does."""
    header, lines = difference_rows(rows, baseline)
    return render(header, [[*map(escaped, line[:2]), *line[2:]] for line in lines], DIFFERENCE_TEXT) if lines else ""


def differences(rows: Sequence[Record], baseline: str) -> dict[tuple[str, str], tuple[Difference, float]]:
    """(headline metric, method) -> its difference to the baseline and its p, corrected over all of these (Holm); NaN
    for one value. Rows are of one table."""
    methods = by_method(rows)
    headline = [name for name in metric_columns(rows) if name in (table_metric(rows), *HEADLINES)]
    found = {(metric, method): difference(own, methods[baseline], metric)
             for metric in headline for method, own in methods.items() if method != baseline}
    return {key: (over, p) for (key, over), p in zip(found.items(), holm([over.p for over in found.values()]))}


def difference_cells(over: Difference, p: float) -> list[str]:
    """A difference's cells of DIFFERENCE_HEADER from "mean" on."""
    mean = f"{over.mean:+.2f}" if over.n else MISSING
    interval = shown = MISSING
    if over.n > 1:
        interval = f"{over.low:+.2f}{NBSP}…{NBSP}{over.high:+.2f}"
        shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
    return [mean, interval, shown, verdict(over.mean, p) or MISSING, over.over or MISSING,
            ", ".join(map(_run, over.unpaired)) or MISSING]


def _run(run: Run) -> str:
    return " ".join(f"{letter}{seed}" for letter, seed in zip("ps", run) if seed is not None) or "the only one"


def format_rows(records: Sequence[Record], highlight: str | None = None) -> str:
    """The scores of one table for the console, without superseded recipes; the method `highlight` gets an arrow.

    Raises RecordError when the records belong to several tables, or ran different protocols or recipes.
    """
    rows = _one_table(records)
    metrics = metric_columns(rows)
    lines = [[f"-> {method}" if method == highlight else method,
              *(score_cell(own, metric) for metric in metrics), *run_cells(own)]
             for method, own in by_method(rows).items()]
    return _console(["method", *metrics, "runs", "spread over"], lines, text_columns={0, len(metrics) + 2})


def format_comparison(records: Sequence[Record], baseline: str) -> str:
    """The paired differences to `baseline` for the console; raises RecordError as `format_rows` does."""
    header, lines = difference_rows(_one_table(records), baseline)
    if not lines:
        return f"nothing to compare yet: {baseline} is the only method with results"
    return _console(header, lines, DIFFERENCE_TEXT)


def _one_table(records: Sequence[Record]) -> list[Record]:
    found = tables(records)
    if len(found) != 1:
        raise RecordError(f"expected records of one scale, task, version and schedule, not of {len(found)}")
    [rows] = found.values()
    return split_recipes(rows, read_recipes())[0]


def _console(header: list[str], lines: list[list[str]], text_columns: set[int]) -> str:
    plain = [[cell.replace(NBSP, " ") for cell in line] for line in lines]
    return render(header, plain, text_columns, "simple")


def escaped(text: str) -> str:
    """`text` as GitHub's markdown shows it, on one line: no markup, link or mention is made of it."""
    markup = r"([\\`*\[\]<>|~&#@$]|_(?![A-Za-z0-9])|(?<![A-Za-z0-9])_|(?<=www)\.|:(?=//))"
    return re.sub(markup, r"\\\1", " ".join(text.split()))


def render(header: list[str], lines: list[list[str]], text_columns: set[int], style: str = "pipe") -> str:
    """tabulate with every cell printed as it stands, numbers to the right; `pipe` is GitHub's markdown."""
    align = ["left" if i in text_columns else "right" for i in range(len(header))]
    return tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=align)
