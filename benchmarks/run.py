"""The main job; `--help` says what it does (`benchmarks.cli`)."""
import signal
import sys

if __name__ == "__main__":  # until `ended` hears of a stop there is nothing to keep: end at once, without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from benchmarks import cli
from benchmarks.cli import Request
from benchmarks.errors import ended


def main(words: list[str] | None = None) -> int:
    """Run; the exit status (`benchmarks.errors.ended`)."""
    request = cli.request_of(words)
    return ended(lambda: run(request), request.work_dir)


def run(request: Request) -> int:
    """What a request asks for. Raises what its parts raise, each in one line."""
    from benchmarks import plan as plans

    if request.list:
        print(plans.listing(request.data_root))
        return 0
    plan = plans.make(request)
    if request.dry_run:
        from benchmarks.describe import describe

        measured = {}
        if request.measure:
            from benchmarks.measuring import measure

            measured = measure(plan)
        print(describe(plan, request.verbose, measured))
        plans.require_data(plan)
        return 0
    plans.require_data(plan)
    from benchmarks.execute import execute  # late: imports torch and mmdet

    if request.executor == "ray":
        from benchmarks.sweep import sweep

        plan = sweep(request, plan)
    return execute(plan)


if __name__ == "__main__":
    sys.exit(main())
