"""`detco-bench COMMAND ...`, or `python -m benchmarks COMMAND ...`: the suite's commands under one name."""
import signal
import sys
from pkgutil import resolve_name

COMMANDS = {
    "run": ("benchmarks.run:main", "pretrain, transfer, record: the main job"),
    "compare": ("benchmarks.compare:main", "two methods on the same photos: intervals over images, kinds of errors"),
    "figures": ("benchmarks.figures:main", "draw curves, detections, where networks look, nearest neighbours"),
    "prepare": ("benchmarks.prepare:main", "make a scale's data, or check a public data set"),
    "leaderboard": ("leaderboard.__main__:main", "rebuild or check the leaderboard's page; add results from elsewhere"),
    "verify": ("benchmarks.verify:main", "score filed rows again from their kept detections"),
    "checkpoint": ("detco.checkpoint:main", "show or convert a checkpoint"),
    "speed": ("benchmarks.speed:main", "measure the speed of pretraining, side by side with others"),
}
USAGE = "usage: detco-bench COMMAND [--help | ...]\n\n" + "\n".join(
    f"  {name:<12} {what}" for name, (_, what) in COMMANDS.items())


def main(words: list[str] | None = None) -> int:
    """Run a command; its exit status, 2 for one that there is not."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    name, *rest = words
    if name not in COMMANDS:
        print(f"error: unknown command '{name}': known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command hears of a stop: no traceback
    sys.argv[0] = f"detco-bench {name}"  # what the command's own usage says
    return resolve_name(COMMANDS[name][0])(rest)


if __name__ == "__main__":
    sys.exit(main())
