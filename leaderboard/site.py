"""The board as one static page, `site/index.html`: no server, no network; sorted, filtered and compared in the browser.

Everything it shows stands in it as JSON, made of the same records, by the same statistics, as the markdown. The
browser's part (`assets/script.js`) only writes text nodes, so that no field can become markup.
"""
from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboard.analyses import mean_errors
from leaderboard.checks import AMP, Record, Table, arch_apart, is_todays, run_of
from leaderboard.overview import curves, fixed, foretold, newest
from leaderboard.published import TABLES
from leaderboard.record import protocol_path, result_path
from leaderboard.statistics import mean_half_width, scores, summarise, taken_over, verdict
from leaderboard.tables import BASELINES, budget, by_method, differences, metric_columns, summary, table_metric

ASSETS = Path(__file__).parent / "assets"
ALL_PAIRS = 20  # methods of a table up to which any two are compared; beyond, only with a baseline


def page(tables: Mapping[Table, Sequence[Record]], today: Mapping[str, Mapping[str, str]],
         kept: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of a board's tables.

    Args:
        today: scale -> method -> hash of today's recipe.
        kept: what is kept of detections and data, by their hashes (`leaderboard.analyses`).
    """
    measured = [_table(key, rows, today, kept) | _photos(rows, kept) for key, rows in tables.items()]
    content = dict(tables=measured, reported=_reported({key[2] for key in tables}), curves=_curves(tables),
                   foretold=_foretold(tables))
    # "<" as an escape, so that no string of it can end the script element.
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False).replace("<", "\\u003c")
    html = (ASSETS / "page.html").read_text(encoding="utf-8")
    for name in ("style.css", "script.js"):
        html = html.replace(f"/* {name} */", (ASSETS / name).read_text(encoding="utf-8").strip())
    return html.replace("/* data */", text)


def _table(key: Table, rows: Sequence[Record], today: Mapping[str, Mapping[str, str]],
           kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    scale, _, task, version, schedule = key
    methods, first = by_method(rows), rows[0]
    return dict(
        scale=scale, task=task, version=version, schedule=schedule, main=table_metric(rows),
        metrics=[*metric_columns(rows), *metric_columns(rows, details=True)],
        protocol=_link(protocol_path("results", first["protocol_fingerprint"])), arch=first["arch"],
        data=first["data_fingerprint"][:12], rows=[_row(name, own, today, kept) for name, own in methods.items()],
        differences=_differences(methods, rows))


def _photos(rows: Sequence[Record], kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The photos of a table's data, and what the first run of each method that was looked at found on them."""
    shown = kept.get(rows[0]["data_fingerprint"])
    first = {method: next((row for row in own if row["detections"] in kept), None)
             for method, own in by_method(rows).items()}
    found = {method: dict(run=run_of(row), boxes=kept[row["detections"]]["found"]) for method, row in first.items()
             if row}
    return dict(photos=shown["photos"], found=found) if shown and found else {}


def _link(path: Path) -> str:
    """A path beside `results/` as seen from `site/`."""
    return f"../{path.as_posix()}"


def _row(method: str, rows: Sequence[Record], today: Mapping[str, Mapping[str, str]],
         kept: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    cost = {name: _number(summarise(budget(row).get(name) for row in rows).mean)
            for name in ("images", "encoder_pixels", "device_hours")}
    return dict(
        method=method, runs=len(scores(rows, "")), over=taken_over(rows),
        scores={name: _score(rows, name) for name in sorted({name for row in rows for name in row["metrics"]})},
        cost=cost | dict(transfer_minutes=_number(summarise(row["cost"]["wall_seconds"] for row in rows).mean, 60)),
        device="; ".join(sorted({row["cost"]["device"] or "" for row in rows})),
        errors=[[*key, _number(value)] for key, value in sorted(mean_errors(rows, kept).items())],
        outdated=method in today.get(first["scale"], {}) and not is_todays(first, today),
        unreliable=sorted({row["unreliable"] for row in rows if row["unreliable"]}),
        records=[_link(result_path("results", row)) for row in rows], command=_command(method, rows))


def _score(rows: Sequence[Record], metric: str) -> dict[str, float | int | None]:
    over = summary(rows, metric)
    return dict(mean=_number(over.mean), sd=_number(over.sd), half=_number(mean_half_width(rows, metric)), n=over.n)


def _number(value: float, divisor: float = 1) -> float | None:
    """JSON has no NaN; six digits are more than anybody reads."""
    return None if math.isnan(value) else float(f"{value / divisor:.6g}")


def _command(method: str, rows: Sequence[Record]) -> str:
    """The command that runs the rows again."""
    first, seeds = rows[0], sorted({row["seed"] for row in rows})
    words = ["python benchmarks/run.py", f"--scale {first['scale']}", f"--task {first['task']}"]
    schedule, *added = first["schedule"].split("+")
    if schedule != first["scale"] and {*added} <= {arch_apart(first), AMP} and not schedule.endswith("%"):
        words.append(f"--schedule {schedule}")
    if arch_apart(first):
        words.append(f"--arch {first['arch']}")
    if AMP in added:
        words.append("--amp")
    if first["recipe"]["hash"] is None or first["pretrain_seed"] is None:
        words.append(f"--checkpoint FILE --name {method}")
    else:
        pretrainings = sorted({row["pretrain_seed"] for row in rows if row["pretrain_seed"] is not None})
        words.append(f"--method {method.partition('+')[0]} --pretrain-seed {' '.join(map(str, pretrainings))}")
    words.append(f"--seed {' '.join(map(str, seeds))}")
    words += [f"--set task.{key}={value}" for key, value in sorted(first["changes"].items())]
    if first["data"]["source"] in added:
        words.append(f"--data {first['data']['source']}.yml")
    if search := first.get("tuning"):
        tried = {key: dict.fromkeys(str(trial["values"][key]) for trial in search["trials"])
                 for key in sorted(search["chosen"])}
        words += [f"--tune task.{key}={','.join(values)}" for key, values in tried.items()]
    return " ".join(words)


def _differences(methods: Mapping[str, Sequence[Record]], rows: Sequence[Record]) -> list[dict[str, Any]]:
    """Of any two methods, or of each with the baselines, as on the page."""
    baselines = methods if len(methods) <= ALL_PAIRS else [name for name in BASELINES if name in methods]
    return [dict(metric=metric, a=a, b=b, mean=_number(over.mean), low=_number(over.low), high=_number(over.high),
                 p=_number(p), over=over.over, verdict=verdict(over.mean, p))
            for b in baselines for (metric, a), (over, p) in differences(rows, b).items() if over.n]


def _reported(tasks: set[str]) -> list[dict[str, str]]:
    """The paper's figures for the tasks, one a line."""
    with TABLES.open(encoding="utf-8", newline="") as file:
        return [{key: row[key] for key in ("task", "schedule", "method", "pretrain_epochs", "metric", "value", "table")}
                for row in csv.DictReader(file) if row["task"] in tasks]


def _curves(tables: Mapping[Table, Sequence[Record]]) -> list[dict[str, Any]]:
    """What was measured while pretrainings ran, each once."""
    found = {}
    for table, rows in tables.items():
        for (method, seed), lines in curves(rows).items():
            found[_part(table), method, seed] = [{key: line[key] for key in ("epoch", "encoder_pixels", "knn")}
                                                 for line in lines]
    return [dict(scale=scale, method=method, seed=seed, points=points)
            for (scale, method, seed), points in sorted(found.items(), key=str)]


def _part(table: Table) -> str:
    """A table's scale, with the architecture where it is not the scale's."""
    return " · ".join(filter(None, table[:2]))


def _foretold(tables: Mapping[Table, Sequence[Record]]) -> list[dict[str, Any]]:
    """Rank correlations between the tasks of each scale that has enough methods."""
    scales = {_part(one): {key: rows for key, rows in tables.items() if _part(key) == _part(one)} for one in tables}
    return [dict(scale=scale, a=a, b=b, r=_number(r), low=_number(low), high=_number(high), n=n)
            for scale, own in scales.items() for (a, b), (r, low, high, n) in foretold(fixed(newest(own))).items()]
