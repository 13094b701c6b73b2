"""The result record: one JSON file per run, checked when written and when read; filed once, and never lost.

The contract is `schema.json`, in words docs/records.md. A board is a folder: `results/` with the records, `protocols/`
with each resolved protocol once, and the page made of them. `root` is always the board's `results/`.
"""
from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import reprlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from leaderboard.checks import (
    Record,
    fingerprint,
    first_difference,
    recipe_difference,
    recipe_of,
    require_one_protocol,
    split_recipes,
    table_of,
    two_recipes,
)
from leaderboard.errors import RecordError
from leaderboard.statistics import prediction_half_width, summarise

HERE = Path(__file__).parent
SCHEMA = 2
RECIPES = HERE / "recipes.json"  # today's recipes: {scale: {method: hash}}
SUMS = "SHA256SUMS"  # in the results folder: the records as they were filed
LARGEST = 4_000_000  # bytes of a record or a protocol
NAMES_KEPT = 8  # of those that a load report lists
# Where two runs of one key may differ and still have measured the same; of the data the fingerprint tells more.
_INCIDENTAL = ("cost", "environment", "checkpoint", "data")
_SHORT = reprlib.Repr()
_SHORT.maxstring = 60


def result_path(root: str | Path, record: Record) -> Path:
    """Where a record lies: `<root>/<scale>/<task>/<method>-p<pretrain seed>-s<seed>.json`.

    A schedule that is not simply the scale's own is a folder under the task's; there is no `-p` part where the
    pretraining seed is unknown.
    """
    folder = Path(root) / record["scale"] / record["task"]
    if record["schedule"] != record["scale"]:
        folder /= record["schedule"]
    pretraining = "" if record["pretrain_seed"] is None else f"-p{record['pretrain_seed']}"
    return folder / f"{record['method']}{pretraining}-s{record['seed']}.json"


def protocol_path(root: str | Path, protocol_fingerprint: str) -> Path:
    """Where a resolved protocol lies: `protocols/` beside `root`, by the first 16 digits of its fingerprint."""
    return Path(root).parent / "protocols" / f"{protocol_fingerprint[:16]}.json"


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator, validators  # late: --help needs none

    # JSON Schema takes 1.0 for an integer; as a seed it would make another file name.
    integers = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    kind = validators.extend(Draft202012Validator, type_checker=integers)
    return kind(json.loads((HERE / "schema.json").read_text(encoding="utf-8")))


@cache
def _quick() -> Any:
    from jsonschema_rs import validator_for

    return validator_for(json.loads((HERE / "schema.json").read_text(encoding="utf-8")))


@cache
def _integers() -> tuple[tuple[str, ...], ...]:
    """Where the schema wants an integer, for which JSON Schema takes 1.0 too."""
    schema = json.loads((HERE / "schema.json").read_text(encoding="utf-8"))

    def walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        kinds = node.get("type", [])
        if "integer" in kinds and "number" not in kinds:
            yield path
        for name, inner in node.get("properties", {}).items():
            yield from walk(inner, (*path, name))

    return tuple(walk(schema, ()))


def _whole(record: Any, paths: Iterable[tuple[str, ...]]) -> bool:
    """Whether a valid record has no fraction, not even of zero, where integers belong."""
    for path in paths:
        value = record
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, float):
            return False
    return True


def validate(record: Any) -> None:
    """Raises RecordError, one line that names the field, unless `record` (JSON values) keeps the contract."""
    from jsonschema.exceptions import best_match

    if isinstance(record, dict) and type(record.get("schema")) is int and record["schema"] != SCHEMA:
        raise RecordError(f"field 'schema' is {record['schema']}; this version reads schema {SCHEMA}")
    if not (_quick().is_valid(record) and _whole(record, _integers())):  # 25 microseconds instead of 1,200
        if error := best_match(_validator().iter_errors(record)):
            raise RecordError(_in_words(error))
        raise RecordError("one validator of JSON Schema takes it and another does not")
    if record["main_metric"] not in record["metrics"]:
        raise RecordError(f"field 'main_metric' is '{record['main_metric']}', which 'metrics' does not hold")
    config, stated = record["recipe"]["config"], record["recipe"]["hash"]
    if config is not None and fingerprint(config) != stated:
        raise RecordError(f"field 'recipe.hash' is {stated}; that of 'recipe.config' is {fingerprint(config)}")


def _in_words(error: Any) -> str:
    """One line from a jsonschema error."""
    field = ".".join(map(str, error.absolute_path)) or "(the whole record)"
    if error.validator == "required":
        missing = next(name for name in error.validator_value if name not in error.instance)
        return f"field '{'.'.join([*map(str, error.absolute_path), missing])}' is missing"
    if error.validator == "additionalProperties":
        unknown = next(name for name in error.instance if name not in error.schema["properties"])
        return f"field '{field}' holds {_SHORT.repr(unknown)}, which docs/records.md does not know"
    if error.validator == "type":
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return f"field '{field}' is {_SHORT.repr(error.instance)}; it must be {' or '.join(kinds)}"
    subject = f"a name in '{field}'" if "propertyNames" in error.absolute_schema_path else f"field '{field}'"
    expected = {"minimum": "at least {}", "maximum": "at most {}", "const": "{}"}.get(error.validator)
    expected = expected.format(error.validator_value) if expected else error.schema["description"]
    return f"{subject} is {_SHORT.repr(error.instance)}; it must be {expected}"


def brief_report(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A load report as records hold it: counts, and the first names of each list. None where nothing was loaded."""
    if not report:
        return None
    names = {key: list(report[key]) for key in ("missing", "unexpected", "ignored", "fresh")}
    return {"loaded": report["loaded"]} | {key: {"count": len(all_), "first": all_[:NAMES_KEPT]}
                                           for key, all_ in names.items()}


def write(root: str | Path, record: Record) -> Path:
    """Checks `record` and writes it to `result_path(root, record)`, in one step or not at all.

    NaN and infinity (a class without ground truth, a diverged run) become null: JSON has no word for them.
    Raises RecordError for a record that breaks the contract or holds what JSON cannot, OSError from the disk.
    """
    record = as_json(record)
    path, text = result_path(root, record), _text(record)
    write_text(path, text)
    sums = read_sums(root) | {path.relative_to(root).as_posix(): hashlib.sha256(text.encode()).hexdigest()}
    write_text(Path(root) / SUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())))
    return path


def read_sums(root: str | Path) -> dict[str, str]:
    """What the board's SHA256SUMS, in the form of `sha256sum`, states: name under `root` -> sha256. Empty without one.
    """
    try:
        lines = (Path(root) / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def edited(root: str | Path) -> list[str]:
    """What of a board was changed by hand, a line each: records edited since they were filed, or never filed."""
    stated, found = read_sums(root), []
    for path in sorted(Path(root).rglob("*.json")):
        name = path.relative_to(root).as_posix()
        if stated.pop(name, None) != hashlib.sha256(path.read_bytes()).hexdigest():
            found.append(f"{path}: not as it was filed; restore it, or file it by `python -m leaderboard add`")
    return found + [f"{Path(root) / name}: filed, but no longer there; restore it, or take its line out of {SUMS}"
                    for name in sorted(stated)]


def as_json(record: Record) -> Record:
    """A checked copy of `record` as it will be read again. Raises RecordError as `write` does."""
    try:
        copy = json.loads(json.dumps(_without_nan(record), allow_nan=False))
    except TypeError as error:
        raise RecordError(f"{record.get('method')} s{record.get('seed')} is not JSON: {error}") from error
    validate(copy)
    return copy


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` to a temporary name beside `path` and renames it: readers see the old file or the new."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` when the block ends well, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(root: str | Path) -> Iterator[None]:
    """Be the one process that files in a board or makes its page, by a lock file beside `root`; wait for others. What
    killed processes left of a page under temporary names is removed. Raises RecordError where there is no such folder.
    """
    if not Path(root).is_dir():
        raise RecordError(f"{root}: no such results folder")
    board = Path(root).parent
    with FileLock(board / ".lock"):
        for left in board.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        yield


@dataclass(frozen=True)
class Outcome:
    """What became of a record.

    Attributes:
        status: "filed": written, as a new key or in place of a filed row; "same": its key is filed with the same
            result; "reproduced", "differs": with another one, that the filed runs' spread explains or does not. The
            last three write nothing.
        path: of the filed record.
        line: the same for the user.
    """

    status: str
    path: Path
    line: str


def file(root: str | Path, record: Record, protocol: Mapping[str, Any], replace: bool = False,
         recipes: str | Path | None = None) -> Outcome:
    """Enter a finished run in the board: a new key is filed, a filed one is compared with and left as it is.

    Args:
        protocol: the resolved protocol that the record's `protocol_fingerprint` is of.
        replace: file it in place of what its key holds.
        recipes: today's recipes, as for `read_recipes`.
    Raises:
        RecordError: a record or protocol that breaks the contract, a shortened run, or a row that may not stand beside
            those filed: another protocol, data set or architecture than its table, another recipe than its name.
    """
    record = as_json(record)
    if record["limit"] is not None:
        raise RecordError(f"{record['method']} s{record['seed']}: field 'limit' is set: a shortened run is not filed")
    if fingerprint(protocol) != record["protocol_fingerprint"]:
        raise RecordError(f"field 'protocol_fingerprint' is {record['protocol_fingerprint']}; that of the protocol is "
                          f"{fingerprint(protocol)}")
    Path(root).mkdir(parents=True, exist_ok=True)
    with locked(root):
        return _filed(root, record, protocol, replace, recipes)


def _filed(root: str | Path, record: Record, protocol: Mapping[str, Any], replace: bool,
           recipes: str | Path | None) -> Outcome:
    """`file` for a checked record, by the one process that files."""
    path = result_path(root, record)
    for left in path.parent.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    here, filed = Path(root) / record["scale"], []
    for other in sorted(here.rglob("*.json")):
        if other.parent == path.parent or other.name.startswith(f"{record['method']}-"):
            filed.append(read(root, other))
    known = next((row for row in filed if result_path(root, row) == path), None)
    if known and not replace:
        runs = [row for row in filed if row["method"] == known["method"] and table_of(row) == table_of(known)]
        return _compared(path, record, known, runs)
    others = [row for row in filed if row is not known]
    beside = [row for row in others if table_of(row) == table_of(record)][:1]  # those filed agree with each other
    protocols = {row["protocol_fingerprint"]: filed_protocol(root, row) for row in beside}
    require_one_protocol([*beside, record], protocols | {record["protocol_fingerprint"]: protocol})
    same = [row for row in others if row["method"] == record["method"]]
    current, _ = split_recipes([*same, record], read_recipes(recipes))
    if record not in current and recipe_of(record) not in map(recipe_of, same):  # neither today's nor one from before
        raise two_recipes(current[0], record)
    write_protocol(root, protocol)
    write(root, record)
    return Outcome("filed", path, f"{'replaces' if known else 'filed as'} {path}")


def _compared(path: Path, record: Record, known: Record, runs: list[Record]) -> Outcome:
    """What a run says of the row that its key is filed with; `runs` are that row's in its table."""
    a, b = ({key: row[key] for key in row if key not in _INCIDENTAL} for row in (record, known))
    if first_difference(a, b) is None:
        return Outcome("same", path, f"the filed row has the same result: {path}")
    metric = record["main_metric"]
    score, stored = record["metrics"][metric], known["metrics"].get(metric)
    over = summarise(row["metrics"].get(metric) for row in runs)
    notes = [f"its {part} differs: {str(known[field])[:12]} != {str(record[field])[:12]}" for field, part in (
        ("task_version", "version"), ("protocol_fingerprint", "protocol"), ("data_fingerprint", "data"))
        if known[field] != record[field]]
    if recipe_of(known) != recipe_of(record):
        notes.append(f"its recipe differs: {recipe_difference(known, record)}")
    explained = over.n > 1 and score is not None and abs(score - over.mean) <= prediction_half_width(over)
    agrees = not notes and (explained or score == stored)
    shown = ["nothing" if value is None or math.isnan(value) else f"{value:.1f}" for value in (score, over.mean)]
    spread = f" ± {over.sd:.1f} ({over.n} runs)" if over.n > 1 else " (one run: no spread to judge by)"
    verdict = "reproduces" if agrees else "differs from"
    line = f"{verdict} the filed row: {metric} {shown[0]} against {shown[1]}{spread}"
    return Outcome("reproduced" if agrees else "differs", path, "; ".join([line, *notes]))


def write_protocol(root: str | Path, config: Mapping[str, Any]) -> Path:
    """Files a resolved protocol, once, and returns where."""
    stated = fingerprint(config)
    path = protocol_path(root, stated)
    if not path.is_file():
        write_text(path, _text({"fingerprint": stated, "config": config}))
    return path


def filed_protocol(root: str | Path, record: Record) -> Any:
    """The resolved protocol of a record, from its board. Raises RecordError for one that is missing or another."""
    path = protocol_path(root, record["protocol_fingerprint"])
    stored = load(path)
    if not (isinstance(stored, dict) and set(stored) == {"fingerprint", "config"} and stored["fingerprint"]
            == record["protocol_fingerprint"] == fingerprint(stored["config"])):
        raise RecordError(f"{path}: not the protocol of {result_path(root, record)}; restore one of them")
    return stored["config"]


def read_protocols(root: str | Path, records: Iterable[Record]) -> dict[str, Any]:
    """The resolved protocols of records, by fingerprint. Raises RecordError for one that is missing or another."""
    first = {record["protocol_fingerprint"]: record for record in reversed(list(records))}
    return {stated: filed_protocol(root, record) for stated, record in first.items()}


def read_recipes(path: str | Path | None = None) -> dict[str, dict[str, str]]:
    """Today's recipes, scale -> method -> hash, from the package's file or another; empty where there is none.

    Raises RecordError for a file that holds something else.
    """
    path = Path(path or RECIPES)
    if not path.is_file():
        return {}
    recipes = load(path)
    if not isinstance(recipes, dict) or not all(
            isinstance(own, dict) and all(isinstance(digest, str) for digest in own.values())
            for own in recipes.values()):
        raise RecordError(f"{path}: expected {{scale: {{method: hash}}}}; write it anew")
    return recipes


def read(root: str | Path, path: Path) -> Record:
    """One record of a board, checked. Raises RecordError, one line that names file and field."""
    record = load(path)
    try:
        validate(record)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from error
    if record["limit"] is not None:
        raise RecordError(f"{path}: field 'limit' is set: a shortened run, remove the file")
    if path != result_path(root, record):
        raise RecordError(f"{path}: its fields say it is {result_path(root, record).relative_to(root)}")
    return record


def read_all(root: str | Path) -> list[Record]:
    """Every record under `root`, in the order of their paths.

    Raises RecordError where there is no such folder, and as `read` does.
    """
    root = Path(root)
    if not root.is_dir():
        raise RecordError(f"{root}: no such results folder")
    return [read(root, path) for path in sorted(root.rglob("*.json"))]


def load(path: Path) -> Any:
    """A file's JSON, without doubled keys and numbers that are not finite. Raises RecordError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise RecordError("a folder, pipe or device, not a file; remove it")
        if status.st_size > LARGEST:
            raise RecordError(f"{status.st_size / 1e6:.0f} MB, where the largest may have {LARGEST / 1e6:.0f}; remove "
                              "it")
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant,
                          parse_float=_finite)
    except FileNotFoundError:
        raise RecordError(f"{path}: no such file") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error.strerror}); remove it") from None
    except (ValueError, RecursionError) as error:  # json and unicode errors are ValueErrors too
        raise RecordError(f"{path}: {error}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise RecordError(f"field {_SHORT.repr(next(n for n in names if names.count(n) > 1))} stands twice")
    return found


def _refuse_constant(word: str) -> Any:
    raise RecordError(f"{word} is no JSON number; write null")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RecordError(f"{_SHORT.repr(digits)} is beyond any number; write null")
    return number


def required_of_name(text: str) -> str:
    """What a row's name must be where `text` is not, empty where it is: names become file names and table cells."""
    rule = _validator().schema["$defs"]["row"]
    return "" if _validator().evolve(schema=rule).is_valid(text) else rule["description"]
