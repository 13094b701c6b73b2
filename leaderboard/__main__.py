"""`python -m leaderboard`: writes LEADERBOARD.md; with --check it only says whether the page is stale."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from leaderboard.build import build
from leaderboard.errors import RecordError
from leaderboard.record import locked, write_text

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 written or fresh, 1 stale, 2 the records cannot be made into a page."""
    parser = argparse.ArgumentParser(prog="python -m leaderboard", description="write LEADERBOARD.md")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the records")
    parser.add_argument("--output", type=Path, default=HERE / "LEADERBOARD.md", help="page to write or check")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            with locked(options.results):
                write_text(options.output, build(options.results))
            print(f"wrote {options.output}")
            return 0
        page = build(options.results)
        if not options.output.is_file() or options.output.read_text(encoding="utf-8") != page:
            print(f"{options.output} is stale: run python -m leaderboard", file=sys.stderr)
            return 1
    except (RecordError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
