"""From records to rows: one table per scale, task, version and schedule, checked to hold one protocol."""
from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from leaderboard.record import MAIN_METRICS, SCALES, main_metric
from leaderboard.statistics import PairedDifference, Summary, paired_difference, summarise

MISSING = "—"
SINGLE_SEED = "†"
UNRELIABLE = "‡"
_NBSP = "\u00a0"  # keeps "23.4 ± 0.5" on one line of a narrow cell
_SHORT = reprlib.Repr()  # a whole branch that one config lacks must not fill the screen
_SHORT.maxstring = 80
Record = dict[str, Any]
Table = tuple[str, str, int, str]  # scale, task, task_version, schedule


def tables(records: Sequence[Record]) -> dict[Table, list[Record]]:
    """Records by the table they belong to, in the order of the page; raises ValueError on mixed protocols."""
    grouped: dict[Table, list[Record]] = {}
    for record in records:
        key = (record["scale"], record["task"], record["task_version"], record["schedule"])
        grouped.setdefault(key, []).append(record)
    for rows in grouped.values():
        require_one_protocol(rows)
    return dict(sorted(grouped.items(), key=lambda item: (SCALES.index(item[0][0]), *item[0][1:])))


def require_one_protocol(rows: Sequence[Record]) -> None:
    """Raises ValueError, one line that names the field that differs, unless all rows ran one protocol."""
    first = rows[0]
    for row in rows[1:]:
        for field, part in (("protocol_fingerprint", "protocol"), ("data_fingerprint", "data")):
            if row[field] == first[field]:
                continue
            difference = (first_difference(first["config"].get(part), row["config"].get(part))
                          or f"{field} {first[field][:12]} != {row[field][:12]}")
            raise ValueError(f"{first['scale']} {first['task']}: {_run(first)} and {_run(row)} differ in "
                             f"{part}: {difference}; run one again or raise the task's version")


def first_difference(a: Any, b: Any, path: str = "") -> str | None:
    """The first field, in sorted order, in which two nested configs differ, or None.

    It reads `model.rpn.num: 512 != 64`; 1 and 1.0 differ, as they do in a fingerprint.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys(), key=str):
            here = f"{path}.{key}" if path else str(key)
            if key not in a or key not in b:
                left, right = (_SHORT.repr(side[key]) if key in side else "absent" for side in (a, b))
                return f"{here}: {left} != {right}"
            if found := first_difference(a[key], b[key], here):
                return found
        return None
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        found = (first_difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b)))
        return next((difference for difference in found if difference), None)
    return None if repr(a) == repr(b) else f"{path or 'config'}: {_SHORT.repr(a)} != {_SHORT.repr(b)}"


def metric_columns(rows: Sequence[Record]) -> list[str]:
    """Metric names of the rows: the main metric's family first (bbox_AP, bbox_AP50, ...), then by family."""
    names = {name for row in rows for name in row["metrics"]}
    families = [table_metric(rows), *MAIN_METRICS]

    def order(name: str) -> tuple[int, str]:
        family = (i for i, main in enumerate(families) if name.split("_")[0] == main.split("_")[0])
        return next(family, len(families)), name

    return sorted(names, key=order)


def table_metric(rows: Sequence[Record]) -> str:
    """The metric that orders the table of these rows."""
    named = next((row["main_metric"] for row in rows if row.get("main_metric")), None)
    return main_metric({"metrics": {name for row in rows for name in row["metrics"]}, "main_metric": named})


def by_method(rows: Sequence[Record]) -> dict[str, list[Record]]:
    """Records by method, best mean of the main metric first; methods without one come last, ties by name."""
    methods: dict[str, list[Record]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        methods.setdefault(row["method"], []).append(row)
    metric = table_metric(rows)

    def rank(item: tuple[str, list[Record]]) -> tuple[float, str]:
        mean = summary(item[1], metric).mean
        return (math.inf if math.isnan(mean) else -mean), item[0]

    return dict(sorted(methods.items(), key=rank))


def summary(rows: Sequence[Record], metric: str) -> Summary:
    """Summary of one metric over the seeds of one method."""
    return summarise(row["metrics"].get(metric) for row in rows)


def score_cell(rows: Sequence[Record], metric: str) -> str:
    """`23.4 ± 0.5`; one seed is marked, fewer values than seeds are counted, nothing measured is a dash."""
    over = summary(rows, metric)
    if over.n == 0:
        return MISSING
    spread = SINGLE_SEED if over.n == 1 else f"±{_NBSP}{over.sd:.1f}"
    count = "" if over.n == len(rows) else f"{_NBSP}(n={over.n})"
    return f"{over.mean:.1f}{_NBSP}{spread}{count}"


def difference_rows(rows: Sequence[Record], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of `method - baseline` for each headline metric, paired by seed, in the table's order.

    Raises ValueError when the baseline has no record among the rows.
    """
    methods = by_method(rows)
    if baseline not in methods:
        raise ValueError(f"no result of '{baseline}' to compare with; there are: {', '.join(methods)}")
    headline = [name for name in metric_columns(rows) if name in (table_metric(rows), *MAIN_METRICS)]
    lines = []
    for metric in headline:
        for method, own in methods.items():
            if method != baseline:
                difference = paired_difference(own, methods[baseline], metric)
                lines.append([metric, f"{method} - {baseline}", *_difference_cells(difference)])
    return ["metric", "difference", "mean", "SE", "95 % interval", "verdict", "pairs", "unpaired"], lines


def _difference_cells(difference: PairedDifference) -> list[str]:
    mean = f"{difference.mean:+.2f}" if difference.n else MISSING
    error = interval = MISSING
    if difference.n > 1:
        error = f"{difference.se:.2f}"
        interval = f"{difference.low:+.2f}{_NBSP}…{_NBSP}{difference.high:+.2f}"
    verdict = "clear" if difference.clear else "not clear"
    unpaired = ", ".join(map(str, difference.unpaired)) or MISSING
    return [mean, error, interval, verdict, str(difference.n), unpaired]


def format_rows(records: Sequence[Record], highlight: str | None = None) -> str:
    """The scores of one table for the console; the method `highlight` gets an arrow.

    Raises ValueError when the records belong to several tables or ran different protocols.
    """
    rows = _one_table(records)
    metrics = metric_columns(rows)
    lines = [[f"-> {method}" if method == highlight else method,
              *(score_cell(own, metric) for metric in metrics), str(len(own))]
             for method, own in by_method(rows).items()]
    return _console(["method", *metrics, "seeds"], lines, text_columns={0})


def format_comparison(records: Sequence[Record], baseline: str) -> str:
    """The paired differences to `baseline` for the console; raises ValueError as `format_rows` does."""
    header, lines = difference_rows(_one_table(records), baseline)
    if not lines:
        return f"nothing to compare yet: {baseline} is the only method with results"
    return _console(header, lines, text_columns={0, 1, 5})


def _one_table(records: Sequence[Record]) -> list[Record]:
    found = tables(records)
    if len(found) != 1:
        raise ValueError(f"expected records of one scale, task, version and schedule, not of {len(found)}")
    return next(iter(found.values()))


def _console(header: list[str], lines: list[list[str]], text_columns: set[int]) -> str:
    plain = [[cell.replace(_NBSP, " ") for cell in line] for line in lines]
    return render(header, plain, text_columns, "simple")


def render(header: list[str], lines: list[list[str]], text_columns: set[int], style: str = "pipe") -> str:
    """tabulate with every cell printed as it stands, numbers to the right; `pipe` is GitHub's markdown."""
    align = ["left" if i in text_columns else "right" for i in range(len(header))]
    return tabulate(lines, header, tablefmt=style, disable_numparse=True, colalign=align)


def _run(record: Record) -> str:
    return f"{record['method']} seed {record['seed']}"
