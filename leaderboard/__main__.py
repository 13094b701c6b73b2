"""`python -m leaderboard`: writes LEADERBOARD.md and site/index.html, or says what of them is stale or edited.

    python -m leaderboard                       write the pages
    python -m leaderboard --check               exit with 1 when one is stale, or a record is not as it was filed
    python -m leaderboard add FILE [FILE ...]   file results from elsewhere: result.json of a work folder, whole
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from leaderboard import build, detections
from leaderboard.errors import RecordError
from leaderboard.record import edited, file, filed_protocol, load, protocol_path, validate

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 written or fresh, 1 stale or edited, 2 the records cannot be made into a page, or one not added.
    """
    parser = argparse.ArgumentParser(prog="python -m leaderboard", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=("add",), help="add: file results from elsewhere")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE",
                        help="a run's result.json, with protocol.json and its detections beside it")
    parser.add_argument("--replace", action="store_true", help="add: in the place of rows filed under the same keys")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the records")
    parser.add_argument("--output", type=Path, default=HERE / "LEADERBOARD.md",
                        help="page to write or check; site/index.html goes beside it")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when something is stale or edited")
    options = parser.parse_args(arguments)
    try:
        if options.command:
            if not options.files:
                raise RecordError("add: give the result.json of one run or more")
            for path in options.files:
                print(f"{path}: {add(options.results, path, options.replace)}")
        if options.check:
            return _check(options.results, options.output)
        print(f"wrote {' and '.join(map(str, build.write(options.results, options.output)))}")
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def add(root: Path, path: Path, replace: bool = False) -> str:
    """File a result from elsewhere, its protocol and its detections; what became of it.

    The protocol is the board's, or stands in `protocol.json` beside the result. Raises RecordError for whatever the
    board would not take: a field out of its bounds, a protocol or detections that are not those it states, a row that
    may not stand beside those filed.
    """
    record = load(path)
    try:
        validate(record)
        known = protocol_path(root, record["protocol_fingerprint"]).is_file()
        protocol = filed_protocol(root, record) if known else load(path.with_name("protocol.json"))
        files = detections.beside(path, record["detections"]) if record["detections"] else []
        outcome = file(root, record, protocol, replace)
    except RecordError as error:
        raise RecordError(str(error) if str(path.parent) in str(error) else f"{path}: {error}") from None
    if files and outcome.status in ("filed", "same"):
        detections.keep(root, record["detections"], files)
    return outcome.line


def _check(root: Path, page: Path) -> int:
    found = edited(root) + [f"{path} is stale: run python -m leaderboard"
                            for path, fresh in build.pages(root, page).items()
                            if not path.is_file() or path.read_text(encoding="utf-8") != fresh]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
