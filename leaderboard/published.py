"""The paper's own figures, from the packaged copy: reported there, not measured here."""
from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from leaderboard.tables import MISSING, render

TABLES = Path(__file__).parent / "published" / "detco_paper_tables.csv"


def published_tables(tasks: Iterable[str]) -> dict[tuple[str, str], str]:
    """(task, schedule) -> markdown table: methods down, metrics across, values as the paper prints them."""
    wanted = set(tasks)
    grouped: dict[tuple[str, str], list[dict[str, str]]] = {}
    with TABLES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["task"] in wanted:
                grouped.setdefault((row["task"], row["schedule"]), []).append(row)
    return {key: _pivot(rows) for key, rows in sorted(grouped.items(), key=lambda item: item[0][0])}


def _pivot(rows: list[dict[str, str]]) -> str:
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        line = cells.setdefault((row["method"], row["pretrain_epochs"], row["table"]), {})
        line[row["metric"]] = row["value"]
    lines = [[method, epochs or MISSING, *(values.get(metric, MISSING) for metric in metrics), table]
             for (method, epochs, table), values in cells.items()]
    return render(["method", "pretraining epochs", *metrics, "table"], lines, text_columns={0})
