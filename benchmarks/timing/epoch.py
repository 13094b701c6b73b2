"""docs/scaling.md: an epoch of ImageNet on eight GPUs, by arithmetic from the figures of `benchmarks/speed.py`."""
import math
from functools import cache

from tabulate import tabulate

from detco import config, engine

IMAGES = 1_281_167  # ILSVRC 2012's training images
BATCH, GPUS, CORES = 256, 8, 12  # the paper's total batch; processes; loader workers of each
FABRIC = {"NVLink, 100 GB/s": 100e9, "network, 200 Gbit/s": 25e9}  # assumed: bytes a second a GPU sends
BUS = 20e9  # assumed: bytes a second from pinned memory to a GPU, PCIe 4.0 x16
DISK = 1e9  # assumed: bytes a second that a state is written with
METHODS = ("detco", "moco_v2")
STEP = dict(arch="resnet50", batch=BATCH // GPUS, bank=65536)  # settings under which a step is the paper's


@cache
def counts(name: str) -> dict[str, int]:
    """Bytes a GPU sends or receives in a step of the paper's configuration: "gradients" (a ring's all-reduce),
    "views" (shuffle-BN's images to the ranks that encode them), "keys" (to every rank), "crops" (from the host); and of
    a "state" to resume from: weights, momentum encoder, banks and the optimiser's momenta."""
    method = engine.build(config.load_method(name), 1)
    away, own = (GPUS - 1) / GPUS, BATCH // GPUS
    specs = method.view_specs
    parameters = sum(p.numel() for p in method.encoder.parameters())
    banks = [module for module in method.modules() if hasattr(module, "enqueue")]
    return dict(
        gradients=round(2 * away * parameters * 4),
        views=round(away * own * 12 * sum(view.pixels for key, view in specs.items() if key.endswith("_k"))),
        keys=round(away * BATCH * 4 * sum(bank.keys.shape[1] for bank in banks)),
        state=4 * (parameters + sum(value.numel() for value in method.state_dict().values())),
        crops=own * 3 * sum(view.size**2 for view in specs.values()))


def page(machines: list[dict]) -> str:
    """The page in markdown, given every machine's figures as `benchmarks/speed.py` stores them."""
    steps, sent = math.ceil(IMAGES / BATCH), {name: counts(name) for name in METHODS}
    moved = {"gradients, all-reduced in a ring": "gradients",
             "views to the GPU that encodes them (shuffle-BN)": "views",
             "keys to every GPU": "keys", "crops from the host, as uint8": "crops"}
    lines = ["# An epoch of ImageNet on eight GPUs", "",
             "Written by `python benchmarks/speed.py`; do not edit. Counted: from the paper's configurations as they "
             "are built. Assumed: the bandwidths named here. Measured: on one device, see [speed.md](speed.md).", "",
             f"{IMAGES:,} images in batches of {BATCH} are {steps:,} steps an epoch, {BATCH // GPUS} images a GPU "
             "and step.", "", "## Counted: what a GPU moves in a step", "",
             *_table(("MB", *METHODS), [(what, *(f"{sent[m][key] / 1e6:.1f}" for m in METHODS))
                                        for what, key in moved.items()]),
             "## Assumed: how long that takes", "",
             *_table(("ms a step", *METHODS),
                     [(f"gradients, views and keys over {fabric}",
                       *(f"{1e3 * wire(sent[m], speed):.1f}" for m in METHODS)) for fabric, speed in FABRIC.items()]
                     + [(f"crops over a bus of {BUS / 1e9:.0f} GB/s",
                         *(f"{1e3 * sent[m]['crops'] / BUS:.1f}" for m in METHODS))]),
             f"A state to resume from is written every {engine.save_every(10**9):,} steps, "
             + " and ".join(f"{sent[m]['state'] / 1e9:.1f} GB ({m})" for m in METHODS)
             + f": at an assumed {DISK / 1e9:.0f} GB a second "
             + " and ".join(f"{1e3 * sent[m]['state'] / DISK / engine.save_every(10**9):.1f}" for m in METHODS)
             + " ms a step, not counted below.", "",
             "The gradients travel while the backward pass goes on: what traffic adds to a step lies between nothing "
             "and these. Crops are copied from pinned memory on the stream that computes; one of their own would save "
             "the last line at most, so there is none.", "", "## Measured, and what follows", ""]
    for figures in machines:
        lines += _epoch(figures, sent, steps)
    if not any(_on_cuda(figures) for figures in machines):
        lines += ["**No GPU has been measured yet.** `python benchmarks/speed.py step loader` on one adds it.", ""]
    return "\n".join(lines)


def wire(sent: dict[str, int], speed: float) -> float:
    """Seconds of a step's traffic between GPUs at so many bytes a second, none of it hidden."""
    return (sent["gradients"] + sent["views"] + sent["keys"]) / speed


def _on_cuda(figures: dict) -> bool:
    return "step" in figures and figures["step"]["device"] == "cuda"


def _epoch(figures: dict, sent: dict, steps: int) -> list[str]:
    """A machine's section; nothing without the figures of the paper's step."""
    if "step" not in figures or any(figures["step"]["settings"][name] != value for name, value in STEP.items()):
        return []
    # The last precision is the fastest of those that run without being asked for.
    rows = {row["method"]: row for row in figures["step"]["rows"] if "compiled" not in row["precision"]}
    images = BATCH // GPUS
    step = {m: images / rows[m]["images a second"] for m in METHODS}
    step = {m: step[m] + sent[m]["crops"] / BUS for m in METHODS}
    slowest = {m: step[m] + wire(sent[m], min(FABRIC.values())) for m in METHODS}
    table = [("precision", *(rows[m]["precision"] for m in METHODS)),
             (f"step of {images} images, views drawn, crops copied, ms", *(f"{1e3 * step[m]:,.0f}" for m in METHODS)),
             ("images a second, eight devices", *(f"{GPUS * images / step[m]:,.0f}" for m in METHODS)),
             *((what, *(f"{steps * step[m] / unit:{form}} to {steps * slowest[m] / unit:{form}}" for m in METHODS))
               for what, unit, form in (("an epoch, minutes", 60, ",.0f"), ("200 epochs, days", 86400 / 200, ",.1f")))]
    if "loader" in figures:
        rate = 1 / figures["loader"]["rows"][0]["ours"]
        table.append(("images a second that a device takes in", *(f"{images / step[m]:,.0f}" for m in METHODS)))
        table.append((f"images a second that {CORES} workers give it", *[f"{CORES * rate:,.0f}"] * len(METHODS)))
    return [f"### Eight of: {figures['step']['machine']}", "", *_table(("", *METHODS), table)]


def _table(head: tuple, rows: list[tuple]) -> list[str]:
    return [tabulate(rows, head, "pipe", disable_numparse=True, colalign=("left", *["right"] * len(METHODS))), ""]
