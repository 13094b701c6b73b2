"""The parts of `benchmarks/speed.py`: a function each, from settings to rows of figures."""
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.timing.measure import Settings, against, compared, interleaved, method_and_views, own_step, variants
from detco.console import CONSOLE

BANKS = 8
SHOWN = 12  # operators of what remains


def step(settings: Settings) -> list[dict]:
    """A whole step: views drawn from crops on the device, networks, losses, optimiser, banks and momentum encoder"""
    import torch

    rows = []
    for name in ("detco", "moco_v2"):
        method, views = method_and_views(name, settings)
        crops = {key: torch.randint(0, 256, (settings.batch, 3, view.size, view.size), dtype=torch.uint8,
                                    device=settings.device) for key, view in method.view_specs.items()}
        for precision, amp, _ in variants(method, settings):
            seconds = {side: statistics.median(rounds) for side, rounds in interleaved(
                {"views": partial(method.views, {"images": crops}), "step": own_step(method, views, amp)},
                settings).items()}
            rows.append({"method": name, "precision": precision, "views, ms": 1e3 * seconds["views"],
                         "the rest, ms": 1e3 * seconds["step"],
                         "images a second": settings.batch / sum(seconds.values())})
    return rows


def loop(settings: Settings) -> list[dict]:
    """A step as the engine takes it, its loop, hooks and logging included, and the same by hand"""
    import torch
    from mmengine.hooks import Hook

    from detco import config, engine
    from detco.pool import MemoryPool
    from detco.runner import CHECK_EVERY, quiet

    method, views = method_and_views("detco", settings)
    n = 2 * settings.batch
    images = torch.randint(0, 256, (n, 3, 256, 256), dtype=torch.uint8)
    pool = MemoryPool(images, torch.zeros(n, dtype=torch.long), ["a"], "")
    there, on_cuda = pool.to(settings.device), settings.device.type == "cuda"
    index = torch.arange(settings.batch, device=settings.device)
    taken = own_step(method, views, on_cuda)
    count = CHECK_EVERY if on_cuda else 1  # a round has every hook's rarest work in it, where that could tell

    def by_hand():
        views.update(method.views(there.batch(index)))
        taken()

    def repeated(step):
        def steps():
            for _ in range(count):
                step()
        return steps

    class Measure(Hook):
        priority = "LOWEST"  # what a step needs is there

        def before_train_epoch(self, runner):
            loop = runner.train_loop
            seconds = interleaved({"ours": repeated(lambda: loop.run_iter(next(loop.dataloader_iterator))),
                                   "other": repeated(by_hand)}, settings)
            self.seconds = {name: [s / count for s in rounds] for name, rounds in seconds.items()}
            loop._max_iters = loop._iter

    measure = Measure()
    recipe = config.load_method("detco")
    recipe["schedule"]["batch"] = settings.batch
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder) / "run.log"):
        runner = engine.runner_of(method, pool, recipe, 1_000_000, Path(folder), 0, "engine")
        runner.register_hook(measure)
        CONSOLE.quiet = True  # its bar would count to a million
        try:
            runner.train()
        finally:
            CONSOLE.quiet = False
    return [compared(f"DetCo by hand in {'bfloat16' if on_cuda else 'float32'}", measure.seconds, "ours", "other")]


def encoder(settings: Settings) -> list[dict]:
    """DetCo's step and the bare encoder: the same passes on the same pixels and a trivial loss"""
    from benchmarks.timing.rivals import bare_step

    method, views = method_and_views("detco", settings)
    return against({"bare encoder, both in {ours}": lambda amp, compiled: bare_step(
        settings.arch, views, settings.device, amp, compiled)}, method, views, settings)


def remains(settings: Settings) -> list[dict]:
    """What is left between DetCo's step and the bare encoder: operators' own time, by torch's profiler"""
    import torch

    from benchmarks.timing.rivals import bare_step

    method, views = method_and_views("detco", settings)
    on_cuda = settings.device.type == "cuda"
    sides = {"step": own_step(method, views, on_cuda),
             "bare": bare_step(settings.arch, views, settings.device, on_cuda)}
    kind = "device" if on_cuda else "cpu"
    activities = [getattr(torch.profiler.ProfilerActivity, name) for name in ("CPU", "CUDA")[:1 + on_cuda]]
    spent = {}
    for number in range(-2, settings.repeats):
        for name, taken in sides.items():
            with torch.profiler.profile(activities=activities) as profiler:
                taken()
            for event in profiler.key_averages() if number >= 0 else ():
                if event.device_type == torch.autograd.DeviceType.CPU:  # kernels count with what starts them
                    both = spent.setdefault(event.key.removeprefix("aten::"), dict.fromkeys(sides, 0.0))
                    both[name] += getattr(event, f"self_{kind}_time_total") / 1000 / settings.repeats
    rows = [{"operator": key, "step, ms": both["step"], "bare, ms": both["bare"],
             "more, ms": both["step"] - both["bare"]} for key, both in spent.items()]
    rows.sort(key=lambda row: -abs(row["more, ms"]))

    def total(title, part):
        return {"operator": title} | {name: sum(row[name] for row in part) for name in list(rows[0])[1:]}

    return [*rows[:SHOWN], total("all others", rows[SHOWN:]), total("together", rows)]


def plain(settings: Settings) -> list[dict]:
    """DetCo's step and a plain implementation in float32"""
    from benchmarks.timing.rivals import PlainDetCo

    method, views = method_and_views("detco", settings)
    step = PlainDetCo(method)
    return against({"plain DetCo in float32, ours in {ours}": lambda *_: lambda: step(views)}, method, views, settings)


def lightly(settings: Settings) -> list[dict]:
    """MoCo v2's step and lightly's, whose default is float32"""
    from benchmarks.timing.rivals import LightlyMoCoV2

    method, views = method_and_views("moco_v2", settings)
    step = LightlyMoCoV2(settings.arch, settings.bank, method.temperature, method.momentum_encoder.momentum)
    step.to(settings.device)
    return against({"lightly's MoCo v2 in float32, ours in {ours}": lambda *_: lambda: step(views),
                    "lightly's MoCo v2 in {precision}, ours in {ours}": lambda amp, _: lambda: step(views, amp)},
                   method, views, settings)


def few_pixels(settings: Settings) -> list[dict]:
    """Convolutions over maps of a few pixels, forward and backward on the CPU: matrix products, and torch's"""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from detco import convolution

    rows = []
    # Of ResNet-18 on 128 images of 64 pixels and on their nine patches of 18.
    for count, inputs, outputs, size, stride in ((128, 256, 512, 4, 2), (128, 512, 512, 2, 1), (1152, 256, 256, 2, 1),
                                                 (1152, 256, 512, 2, 2), (1152, 512, 512, 1, 1)):
        layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False).to(memory_format=torch.channels_last)
        convolution.few_pixels(layer)
        images = torch.randn(count, inputs, size, size).to(memory_format=torch.channels_last).requires_grad_()
        grad = torch.randn_like(layer(images))
        sides = {name: partial(lambda f, images, grad: f(images).backward(grad), function, images, grad)
                 for name, function in (("ours", layer), ("other", partial(
                     F.conv2d, weight=layer.weight, stride=stride, padding=1)))}
        rows.append(compared(f"{count} maps of {size} x {size}, {inputs} to {outputs} channels, stride {stride}",
                             interleaved(sides, settings), "ours", "other"))
    return rows


def memory(settings: Settings) -> list[dict]:
    """Memory of eight banks and their losses, forward and backward, above everything else, at batch 256"""
    import torch
    from torch import multiprocessing

    if settings.device.type == "cuda":
        banks_and_losses(8, 64, settings.device)  # the products' workspace
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        banks_and_losses(256, settings.bank, settings.device)
        extra = torch.cuda.max_memory_allocated() - before
    else:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process whose peak is its own
            extra = pool.apply(_peak_of_banks_and_losses, (256, settings.bank))
    banks = BANKS * settings.bank * 128 * 4
    return [{"MB in all": extra / 1e6, "MB of banks": banks / 1e6, "MB of losses": (extra - banks) / 1e6}]


def _peak_of_banks_and_losses(batch: int, size: int) -> int:
    import torch

    from benchmarks.environment import process_peak

    banks_and_losses(8, 64, torch.device("cpu"))  # libraries load and make their buffers
    before = process_peak()
    banks_and_losses(batch, size, torch.device("cpu"))
    return process_peak() - before


def banks_and_losses(batch: int, size: int, device, levels: int = 4) -> None:
    """DetCo's banks and one step's losses, gradients and new keys on random unit vectors."""
    contrast(make_banks(size, device, levels), batch)


def make_banks(size: int, device, levels: int = 4) -> list:
    """DetCo's banks of so many keys, a global and a local one a level."""
    from detco.memory_bank import MemoryBank

    return [MemoryBank(size, 128).to(device) for _ in range(2 * levels)]


def contrast(banks: list, batch: int) -> None:
    """Losses, gradients and new keys of a step: two queries a key against global banks, one against local ones."""
    import torch
    from torch.nn.functional import normalize

    from detco.loss import info_nce

    device = banks[0].keys.device
    for number, bank in enumerate(banks):
        stacked = 2 - number % 2
        query = normalize(torch.randn(stacked * batch, 128, device=device)).requires_grad_()
        keys = normalize(torch.randn(batch, 128, device=device))
        info_nce(query, keys.repeat(stacked, 1), bank.keys, 0.2).mean().backward()
        bank.enqueue(keys)


def loader(settings: Settings) -> list[dict]:
    """A photo's four views, 2 x 224 and 18 x 64 pixels, on one core; torchvision's transforms of PIL images"""
    import torch
    from torchvision.datasets.folder import default_loader

    from benchmarks.timing import epoch
    from benchmarks.timing.rivals import PilViews
    from detco.pool import FolderPool

    method, _ = method_and_views("detco", settings)
    with tempfile.TemporaryDirectory() as folder:
        pool = FolderPool.load(settings.images or _synthetic_photos(Path(folder))).cropped(method.view_specs, seed=0)
        count, threads = min(64, len(pool)), torch.get_num_threads()
        pool = replace(pool, samples=pool.samples * (epoch.IMAGES // len(pool)))  # as many as ImageNet's
        torch.set_num_threads(1)
        other = PilViews(method.view_specs)
        sides = {
            "crops": lambda: [pool[i, i] for i in range(count)],
            "views": lambda: method.views(torch.utils.data.default_collate([pool[i, i] for i in range(count)])),
            "PIL": lambda: torch.utils.data.default_collate([other(default_loader(path))
                                                             for path, _ in pool.samples[:count]]),
        }
        try:
            seconds = {name: [s / count for s in rounds] for name, rounds in interleaved(
                sides, replace(settings, device=torch.device("cpu"))).items()}
        finally:
            torch.set_num_threads(threads)
    rate = {name: f"{1 / statistics.median(values):.0f} images a second" for name, values in seconds.items()}
    return [compared(f"a worker's part ({rate['crops']}; PIL {rate['PIL']})", seconds, "crops", "PIL"),
            compared(f"all of it on the core ({rate['views']})", seconds, "views", "PIL")]


def _synthetic_photos(folder: Path) -> Path:
    """Drawn scenes of ImageNet's usual size as JPEGs, in a class folder."""
    from PIL import Image

    from benchmarks.data.synthetic import draw_scenes

    (folder / "scenes").mkdir()
    for i, image in enumerate(draw_scenes(64, 500)[0]):
        Image.fromarray(image[:375]).save(folder / "scenes" / f"{i:02d}.jpg", quality=90)
    return folder


def scaling(settings: Settings) -> list[dict]:
    """Losses and banks, time against keys a bank, batch and levels"""
    rows = []
    for what, values, sizes in (
            ("keys a bank", [1024 << i for i in range(0, 9)], lambda v: (v, 64, 4)),
            ("batch", [32 << i for i in range(0, 6)], lambda v: (16384, v, 4)),
            ("levels", [1, 2, 3, 4], lambda v: (settings.bank, 64, v))):
        sides = {}
        for value in values:
            size, batch, levels = sizes(value)
            banks = make_banks(size, settings.device, levels)
            sides[str(value)] = lambda banks=banks, batch=batch: contrast(banks, batch)
        for value, seconds in interleaved(sides, settings).items():
            rows.append({"against": what, "value": int(value), "ms": 1000 * statistics.median(seconds)})
    return rows


PARTS = {part.__name__: part for part in (
    step, loop, encoder, remains, plain, lightly, few_pixels, memory, loader, scaling)}
