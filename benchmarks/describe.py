"""A plan for the console: what runs, in how many steps, and about what it takes (`--dry-run`)."""
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tabulate import tabulate

from benchmarks.estimates import KEPT, detector_bytes, filed_cost, filed_hours, state_bytes
from benchmarks.plan import Plan, Pretraining
from detco.config import recipe_hash
from leaderboard.record import read_all

if TYPE_CHECKING:
    from benchmarks.measuring import Cost

UNKNOWN = "?"


def describe(plan: Plan, verbose: bool = False, measured: "Mapping[str, Cost] | None" = None) -> str:
    """The plan as a table, with every resolved config where `verbose`; reads no images.

    Args:
        measured: `benchmarks.measuring.measure`'s; comes before filed rows.
    """
    records = read_all(plan.folders.results) if plan.folders.results.is_dir() else []
    source = "of steps measured here, without the loading of images in pretraining; else " if measured else ""
    lines = [plan.note, "", _table(plan, records, measured or {}), "",
             f"time and memory: {source}medians of the rows filed here, of this device where there are such, else of "
             "any; ? where there is none"]
    if verbose:
        configs = {f"pretrain {p.row}": p.recipe for p in plan.pretrainings}
        configs |= {f"task {t.protocol.task}, fingerprint {t.protocol.fingerprint[:12]}": t.protocol.config
                    for t in plan.transfers}
        for title, resolved in configs.items():
            lines += ["", f"{title}:", json.dumps(resolved, indent=1)]
    return "\n".join(lines)


def _table(plan: Plan, records: list[dict], measured: "Mapping[str, Cost]") -> str:
    lines = [_pretraining(p, records, measured.get(p.row)) for p in plan.pretrainings]
    for transfer in plan.transfers:
        protocol = transfer.protocol
        alike = dict(scale=plan.scale, task=protocol.task, schedule=protocol.schedule)
        schedule = protocol.config["schedule"] or {}
        steps = f"{schedule['iterations']:,}" if "iterations" in schedule else \
            f"{schedule['epochs']:,} epochs" if "epochs" in schedule else "-"
        disk = KEPT * detector_bytes(protocol.config["arch"]) if protocol.kind == "detector" else 0
        here = measured.get(protocol.fingerprint)
        cost = [here.seconds, here.memory] if here else [
            filed_cost(records, key, **alike) for key in ("wall_seconds", "peak_memory_bytes")]
        for checkpoint in plan.checkpoints:
            seeds = f"seed {plan.seeds[0]}" if len(plan.seeds) == 1 else f"seeds {', '.join(map(str, plan.seeds))}"
            which = f", p{checkpoint.seed}" if isinstance(checkpoint, Pretraining) else ""
            lines.append([f"{protocol.task} {protocol.schedule}: {checkpoint.row}{which}, {seeds}", steps,
                          _time(cost[0] and cost[0] * len(plan.seeds)), _bytes(cost[1]), _bytes(disk)])
    return tabulate(lines, ("what", "steps", "time", "memory", "disk"), "simple", disable_numparse=True,
                    colalign=("left", "right", "right", "right", "right"))


def _pretraining(pretraining: Pretraining, records: list[dict], here: "Cost | None") -> list[str]:
    hours = here.seconds / 3600 if here else filed_hours(records, recipe_hash(pretraining.recipe))
    disk = KEPT * state_bytes(pretraining.recipe) if pretraining.steps else 0
    return [f"pretrain {pretraining.row}, p{pretraining.seed}", f"{pretraining.steps:,}",
            _time(hours and 3600 * hours), _bytes(here and here.memory) if pretraining.steps else "-", _bytes(disk)]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else \
        f"{seconds / 3600:.1f} h"


def _bytes(count: float | None) -> str:
    return UNKNOWN if count is None else "-" if not count else f"{count / 1e9:.1f} GB"
