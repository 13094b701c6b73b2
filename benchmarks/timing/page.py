"""docs/speed.md: every machine's figures, beside what they should be."""
import json
import math
from collections.abc import Callable
from pathlib import Path

from benchmarks.timing.measure import Settings
from benchmarks.timing.parts import PARTS

EPOCH = "scaling.md"  # beside FOLDER
SETTINGS = dict(arch="{}", batch="batch {}", bank="K {:,}", repeats="{} rounds")
# Of the settings, those that a part's figures depend on.
USED = dict.fromkeys(PARTS, tuple(SETTINGS)) | dict(
    few_pixels=("repeats",), memory=("bank",), loader=("repeats",), scaling=("bank", "repeats"))


def table(rows: list[dict]) -> str:
    """Rows for the console and the page, in markdown."""
    from tabulate import tabulate

    if "ratio" not in rows[0]:
        return tabulate(rows, headers="keys", tablefmt="pipe", floatfmt=".4g")
    lines = [(row["what"], 1000 * row["ours"], 1000 * row["other"], row["ratio"],
              f"{row['low']:.2f} to {row['high']:.2f}") for row in rows]
    return tabulate(lines, ("", "ours, ms", "other, ms", "other / ours", "quartiles"), "pipe",
                    floatfmt=("", ".1f", ".1f", ".3f", ""))


def _ratio(ending: str) -> Callable:
    """The ratio of the row whose name ends so."""
    return lambda rows: next((row["ratio"] for row in rows if row["what"].endswith(ending)), None)


def _growth(rows: list[dict]) -> float:
    """The power of size that cost grows with, from the least to the largest; that of the worst kind of size."""
    kinds = {row["against"]: [] for row in rows}
    for row in rows:
        kinds[row["against"]].append((row["value"], row["ms"]))
    return max(math.log(last[1] / first[1]) / math.log(last[0] / first[0]) for first, *_, last in kinds.values())


# (what, part, "most" or "least", target by device, its value in the part's rows)
TARGETS = (
    ("DetCo's step / bare encoder's, the worst precision", "encoder", "most", dict(cuda=1.05, cpu=1.1),
     lambda rows: max(1 / row["ratio"] for row in rows)),
    ("plain DetCo's step / ours, both in float32", "plain", "least", dict(cuda=1.5, cpu=1.3),
     _ratio("ours in float32")),
    ("plain DetCo's step in float32 / ours in bfloat16", "plain", "least", dict(cuda=3), _ratio("ours in bfloat16")),
    ("lightly's MoCo v2 step / ours, both in float32", "lightly", "least", dict(cuda=1, cpu=1),
     _ratio("in float32, ours in float32")),
    ("lightly's MoCo v2 step / ours, both in bfloat16", "lightly", "least", dict(cuda=1),
     _ratio("in bfloat16, ours in bfloat16")),
    ("lightly's MoCo v2 step in float32 / ours in bfloat16, each one's default", "lightly", "least", dict(cuda=1.5),
     _ratio("in float32, ours in bfloat16")),
    ("torch's convolution over a few pixels / ours, the least", "few_pixels", "least", dict(cpu=1.5),
     lambda rows: min(row["ratio"] for row in rows)),
    ("MB of banks and losses", "memory", "most", dict(cuda=450, cpu=450), lambda rows: rows[0]["MB in all"]),
    ("torchvision-PIL pipeline / ours, all of it on one core", "loader", "least", dict(cuda=1.5, cpu=1.5),
     lambda rows: rows[1]["ratio"]),
    ("growth of cost as a power of keys, batch and levels, 1 and noise; the worst", "scaling", "most",
     dict(cuda=1.05, cpu=1.05), _growth),
)


def targets(figures: dict) -> str:
    """What a machine's figures should be beside what they are, in markdown."""
    from tabulate import tabulate

    lines = []
    for what, part, bound, by_device, value_in in TARGETS:
        entry = figures.get(part)
        target = entry and by_device.get(entry["device"])
        if target and (value := value_in(entry["rows"])) is not None:
            met = value <= target if bound == "most" else value >= target
            lines.append((what, f"at {bound} {target:g}", f"{value:.3g}", "yes" if met else "no"))
    return tabulate(lines, ("", "target", "measured", "met"), "pipe", disable_numparse=True)


def store(settings: Settings, part: str, rows: list[dict], out: Path) -> None:
    """Write a part's figures into the machine's file, then the page and the plots anew from every file."""
    from benchmarks.environment import device_name, environment
    from benchmarks.timing import epoch
    from detco.files import replacing

    machine = device_name(settings.device.type)
    path = out / f"{'-'.join(''.join(c if c.isalnum() else ' ' for c in machine).lower().split())}.json"
    figures = json.loads(path.read_text()) if path.is_file() else {}
    used = {name: getattr(settings, name) for name in ("arch", "batch", "bank", "repeats")}
    figures[part] = dict(rows=rows, settings=used, machine=machine, device=settings.device.type,
                         environment=environment())
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=1))
    if part == "scaling":
        plot(rows, path.with_suffix(".png"))
    machines = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    for page_path, text in ((out.with_suffix(".md"), page(out)),
                            (out.with_name(EPOCH), epoch.page(machines))):
        with replacing(page_path) as temporary:
            temporary.write_text(text)


def page(folder: Path) -> str:
    """The page of every machine's figures, in markdown."""
    lines = ["# Speed of pretraining", "", "Written by `python benchmarks/speed.py`; do not edit. Ratios of sides that "
             "took turns in one process: medians over rounds, with quartiles. Times alone do not compare between "
             "machines.", ""]
    for path in sorted(folder.glob("*.json")):
        figures = json.loads(path.read_text())
        lines += [f"## {next(iter(figures.values()))['machine']}", "", targets(figures), ""]
        for part in (name for name in PARTS if name in figures):
            entry = figures[part]
            versions, commit = entry["environment"]["versions"], (entry["environment"]["commit"] or "none")[:12]
            commit += " with changes" * bool(entry["environment"]["dirty"])
            lines += [f"### {PARTS[part].__doc__.splitlines()[0]}", "", table(entry["rows"]), "",
                      ", ".join(SETTINGS[name].format(entry["settings"][name]) for name in USED[part]) + "; "
                      + "torch {torch}, torchvision {torchvision}, ".format(**versions) + f"commit {commit}.", ""]
            if part == "scaling":
                lines += [f"![time against keys, batch and levels]({folder.name}/{path.stem}.png)", ""]
    return "\n".join(lines)


def plot(rows: list[dict], path: Path) -> None:
    """Time against each size, on two logarithmic axes beside the straight line of proportional cost."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    from detco.files import replacing

    kinds = list(dict.fromkeys(row["against"] for row in rows))
    figure = Figure(figsize=(4 * len(kinds), 3.2), layout="constrained")
    for axis, kind in zip(figure.subplots(1, len(kinds)), kinds):
        x, y = zip(*((row["value"], row["ms"]) for row in rows if row["against"] == kind))
        axis.loglog(x, y, "o-", label="measured")
        axis.loglog(x, [y[-1] * value / x[-1] for value in x], ":", color="grey", label="proportional")
        axis.set(xlabel=kind, ylabel="ms a step", xticks=x,
                 xticklabels=[f"{value // 1024}k" if value >= 1024 else value for value in x])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.tick_params(axis="x", labelsize="x-small")
        axis.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
