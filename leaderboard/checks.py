"""What rows must share: one protocol, data set and architecture a table, one recipe a name."""
from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.errors import RecordError

Record = dict[str, Any]
Table = tuple[str, str, str, int, str]  # scale, `arch_apart`, task, task_version, schedule
AMP = "bf16"  # in a schedule's name: a detector that ran in bfloat16
ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
_SHORT = reprlib.Repr()  # a whole branch that one config lacks must not fill the screen
_SHORT.maxstring = 80


def table_of(record: Record) -> Table:
    """The table a record belongs to."""
    return record["scale"], arch_apart(record), record["task"], record["task_version"], record["schedule"]


def arch_apart(record: Record) -> str:
    """The architecture of a row that has another than its scale's: its schedule names it, `mini+resnet50`. Else empty.
    """
    return record["arch"] if record["arch"] in record["schedule"].split("+")[1:] else ""


def fingerprint(config: Any) -> str:
    """sha256 of a resolved config as JSON with sorted keys: what protocols and recipes are known by."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def run_of(record: Record) -> str:
    """A run as messages name it: `detco p0 s1`, without `p0` where the pretraining seed is unknown."""
    pretraining = "" if record["pretrain_seed"] is None else f" p{record['pretrain_seed']}"
    return f"{record['method']}{pretraining} s{record['seed']}"


def require_one_protocol(rows: Sequence[Record], protocols: Mapping[str, Any] | None = None) -> None:
    """Refuse rows that may not share a table.

    Args:
        protocols: fingerprint -> resolved protocol, to name the field that differs.
    Raises:
        RecordError: two of them ran different protocols, data sets or architectures.
    """
    first = rows[0]
    for row in rows[1:]:
        for field in ("protocol_fingerprint", "data_fingerprint", "arch"):
            if row[field] == first[field]:
                continue
            a, b = (r["data"] if field == "data_fingerprint" else (protocols or {}).get(r[field]) for r in (first, row))
            difference = first_difference(a, b) or f"{field} {first[field][:12]} != {row[field][:12]}"
            raise RecordError(f"{first['scale']} {first['task']}: {run_of(first)} and {run_of(row)} differ in "
                              f"{field.removesuffix('_fingerprint')}: {difference}; run one again or raise the task's "
                              "version")


def recipe_of(record: Record) -> tuple[str, str | None]:
    """What a row's name stands for: the recipe's hash and pool; of a checkpoint made elsewhere, the checkpoint."""
    recipe = record["recipe"]
    return (recipe["hash"], recipe["pool"]) if recipe["hash"] else (record["checkpoint"]["hash"], None)


def recipe_difference(a: Record, b: Record) -> str:
    """The first field in which the recipes of two rows differ, which they do."""
    left, right = a["recipe"], b["recipe"]
    if left["hash"] and right["hash"] and left["config"] and right["config"]:
        a, b = ({key: side[key] for key in ("config", "pool")} for side in (left, right))
        return first_difference(a, b) or ""
    names = [f"{'recipe' if r['recipe']['hash'] else 'checkpoint'} {recipe_of(r)[0][:12]}" for r in (a, b)]
    return f"{names[0]} != {names[1]}"


def two_recipes(a: Record, b: Record) -> RecordError:
    """What refuses two rows of one name whose recipes differ."""
    return RecordError(f"{a['scale']}: '{a['method']}' stands for two recipes: {a['task']} {run_of(a)} and {b['task']} "
                       f"{run_of(b)} differ in {recipe_difference(a, b)}; give one a name of its own")


def split_recipes(records: Sequence[Record],
                  today: Mapping[str, Mapping[str, str]]) -> tuple[list[Record], list[Record]]:
    """The rows of the scales' pages, and those superseded: of a name that has rows of today's recipe, the others; where
    these are of several recipes, their names end in "@" and their recipe's hash.

    Args:
        today: scale -> method -> hash of today's recipe; what it lacks has none.
    Raises:
        RecordError: a name stands for several recipes in one scale and architecture, and today's does not tell which is
            meant.
    """
    found: dict[tuple[str, str, str], dict[tuple[str, str | None], Record]] = {}
    for record in records:
        found.setdefault(name_of(record), {}).setdefault(recipe_of(record), record)
    kept = {}
    for name, recipes in found.items():
        todays = [recipe for recipe in recipes if is_todays(recipes[recipe], today)]
        if len(clash := todays or list(recipes)) > 1:
            raise two_recipes(recipes[clash[0]], recipes[clash[1]])
        [kept[name]] = clash
    current, superseded = [], []
    for record in records:
        name = name_of(record)
        if (own := recipe_of(record)) == kept[name]:
            current.append(record)
        else:
            several = len(found[name]) > 2
            superseded.append(record | {"method": f"{record['method']}@{own[0][:8]}"} if several else record)
    return current, superseded


def name_of(record: Record) -> tuple[str, str, str]:
    """Scale, `arch_apart` and name of a row: what stands for one recipe."""
    return record["scale"], arch_apart(record), record["method"]


def is_todays(record: Record, today: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether a row was pretrained under today's recipe of its name, but for an architecture that is not the scale's;
    never where its name has none."""
    recipe, wanted = record["recipe"], today.get(record["scale"], {}).get(record["method"])
    if recipe["hash"] is None or wanted is None:
        return False
    hashes = [recipe["hash"]]
    if arch_apart(record) and "arch" in (recipe["config"] or {}).get("method", {}):
        hashes += [fingerprint(recipe["config"] | {"method": recipe["config"]["method"] | {"arch": arch}})
                   for arch in ARCHS]
    return wanted in hashes


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
        items = (first_difference(x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b)))
        return next(filter(None, items), None)
    return None if repr(a) == repr(b) else f"{path or 'config'}: {_SHORT.repr(a)} != {_SHORT.repr(b)}"
