"""Words of the command line -> `Request`, and back. The only place of the main command that knows argparse."""
import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detco import config
from detco.errors import UserError
from leaderboard.checks import ARCHS

SOURCE = config.CONFIGS.parent  # the checkout, or site-packages
# In a checkout results are filed on its leaderboard; installed, under the folder that the command runs in.
RESULTS = (SOURCE if (SOURCE / "setup.cfg").is_file() else Path()) / "leaderboard" / "results"
DESCRIPTION = """The main job: pretrain methods, transfer them to tasks, record the results, rebuild the leaderboard.

    python benchmarks/run.py --method detco --task coco_maskrcnn_c4
    python benchmarks/run.py --method all --seed 0 1 2 --compare moco_v2
    python benchmarks/run.py --checkpoint mine.pth --name mine --task coco_maskrcnn_c4
    torchrun --nproc_per_node 8 benchmarks/run.py --scale paper --method detco

`detco-bench run` is the same command. Exit status: 0 done, 2 refused (one line says why), 70 a fault of the suite (its
traceback is in a file), 130 stopped.
"""


@dataclass(frozen=True)
class Request:
    """What the command line asks for, as typed: nothing resolved or checked. Fields are those of `--help`."""

    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("coco_maskrcnn_c4",)
    scale: str | None = None
    arch: str | None = None
    schedule: str | None = None
    share: int | None = None
    seeds: tuple[int, ...] = (0,)
    pretrain_seeds: tuple[int, ...] = (0,)
    checkpoint: str | None = None
    name: str | None = None
    encoder: str | None = None
    channel_order: str | None = None
    pixel_mean: tuple[float, ...] | None = None
    pixel_std: tuple[float, ...] | None = None
    stride: str | None = None
    override: bool = False
    changes: tuple[str, ...] = ()  # "key=value" of --set
    data: str | None = None
    train_json: Path | None = None
    train_images: Path | None = None
    val_json: Path | None = None
    val_images: Path | None = None
    images: tuple[Path, ...] = ()
    epochs: float | None = None
    images_seen: str | None = None
    export: Path | None = None
    export_style: str = "mmdet"
    tune: tuple[str, ...] = ()  # "key=value,value" of --tune
    compare: str | None = None
    data_root: Path = Path("data")
    work_dir: Path = Path("work_dirs")
    results: Path = RESULTS
    list: bool = False
    dry_run: bool = False
    measure: bool = False
    verbose: bool = False
    resume: bool = True
    force: bool = False
    replace: bool = False
    limit: int | None = None
    pretrain_only: bool = False
    no_load: bool = False
    workers: int | None = None
    accumulation: int = 1
    max_per_process: int | None = None
    amp: bool = False
    compile: bool = False
    report: bool = True
    tensorboard: bool = False
    executor: str = "local"
    job_cpus: int = 2
    job_gpus: int = 0
    retries: int = 2


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str):
        self.exit(2, f"error: {message}; --help shows the options\n")


def parser() -> argparse.ArgumentParser:
    """The command line; its defaults are those of `Request`."""
    p = _Parser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = p.add_argument_group("what to run")
    what.add_argument("--method", dest="methods", nargs="+", metavar="M",
                      help=f"{', '.join(config.names('pretrain'))}, or all")
    what.add_argument("--task", dest="tasks", nargs="+", metavar="T",
                      help="tasks of configs/tasks, or all (default: coco_maskrcnn_c4)")
    what.add_argument("--scale", choices=config.names("scales"),
                      help="default: paper where COCO, ImageNet and a GPU are found, else mini")
    what.add_argument("--arch", choices=ARCHS,
                      help="backbone (default: the scale's, or the checkpoint's own); rows of another than the scale's "
                           "have tables of their own")
    what.add_argument("--schedule", metavar="S",
                      help="paper scale: 12k, 1x, 2x, 3x or 24k (default: 1x, else the task's only one); small: long, "
                           "four times as many iterations; of several tasks, one that lacks it runs its default")
    what.add_argument("--share", type=int, choices=(1, 2, 5, 10), metavar="P",
                      help="semi-supervised tasks: percent of the training images, 1, 2, 5 or 10 (default: 10)")
    what.add_argument("--seed", dest="seeds", nargs="+", type=int, metavar="K", help="transfer seeds (default: 0)")
    what.add_argument("--pretrain-seed", dest="pretrain_seeds", nargs="+", type=int, metavar="K",
                      help="pretraining seeds (default: 0)")
    what.add_argument("--checkpoint", metavar="FILE",
                      help="evaluate a checkpoint of your own, or a published one: torchvision:resnet50, "
                           "timm:resnet50.a1_in1k, hf:owner/name, or a URL")
    what.add_argument("--name", help="the row's name for --checkpoint; what --images are called in the rows' names "
                                     "(default: the first one's name)")
    what.add_argument("--images", nargs="+", type=Path, metavar="PATH",
                      help="pretrain on photos of your own instead of the scale's: folders, flat or nested, lists of "
                           "paths (.txt) or archives (.zip, .tar); no labels needed")
    what.add_argument("--data", metavar="NAME",
                      help="transfer to a detection set of your own in COCO's form, any categories, with the four "
                           "options that follow; or a YAML file that names them (docs/data.md)")
    for split, does in (("train", "learn from"), ("val", "be tested on")):
        what.add_argument(f"--{split}-json", type=Path, metavar="FILE", help=f"its annotations to {does}")
        what.add_argument(f"--{split}-images", type=Path, metavar="DIR", help=f"its images to {does}")
    length = what.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, metavar="E", help="of pretraining (default: the scale's)")
    length.add_argument("--images-seen", metavar="N", help="the same as a number of images: 500000, 500k or 2M")
    what.add_argument("--set", dest="changes", action="append", metavar="KEY=VALUE",
                      help="change a field of the pretraining (pretrain.optimizer.lr=0.06) or of the tasks "
                           "(task.train_cfg.rcnn.sampler.num=256); repeatable; recorded, and the row mixes with none")
    what.add_argument("--tune", action="append", metavar="KEY=V,V",
                      help="choose a field of the tasks for each row (task.optimizer.optimizer.lr=0.01,0.02) by trials "
                           "on a fifth of the training images, held out; repeatable, for all combinations; recorded, "
                           "and such rows have tables of their own")
    what.add_argument("--compare", metavar="M", help="print differences to this method, paired by seeds")
    what.add_argument("--export", type=Path, metavar="FILE",
                      help="with --pretrain-only: write the backbone for other projects, too, and say how to load it")
    what.add_argument("--to", dest="export_style", default="mmdet", metavar="STYLE",
                      help="of --export: mmdet (default), mmpretrain, torchvision, timm, detectron2 or safetensors")
    read = p.add_argument_group("how --checkpoint is read, where the file does not say (docs/checkpoints.md)")
    read.add_argument("--encoder", metavar="E",
                      help="of several in the file: query, momentum, raw, ema, or its prefix (default: the one that "
                           "the layout's authors evaluate)")
    read.add_argument("--channel-order", choices=("RGB", "BGR"), help="default: the layout's")
    read.add_argument("--pixel-mean", nargs=3, type=float, metavar="X",
                      help="in channel order; of [0, 255] where a number is above 1, else of [0, 1]")
    read.add_argument("--pixel-std", nargs=3, type=float, metavar="X", help="likewise")
    read.add_argument("--stride", choices=("pytorch", "caffe"), help="in the 3x3 convolution, or in the 1x1")
    read.add_argument("--override", action="store_true", help="let these options contradict what the file states")
    where = p.add_argument_group("where")
    where.add_argument("--data-root", type=Path, metavar="DIR", help="default: data")
    where.add_argument("--work-dir", type=Path, metavar="DIR", help="default: work_dirs")
    where.add_argument("--results", type=Path, metavar="DIR",
                       help="default: leaderboard/results, of the checkout or of the current folder")
    how = p.add_argument_group("how")
    how.add_argument("--list", action="store_true", help="show methods, tasks, scales and the data found")
    how.add_argument("--dry-run", action="store_true",
                     help="check everything, show what would run and what it takes, run nothing")
    how.add_argument("--measure", action="store_true",
                     help="with --dry-run: time a few steps of each pretraining and detector here, for its hours")
    how.add_argument("--verbose", action="store_true", help="with --dry-run: every config, resolved")
    how.add_argument("--resume", action=argparse.BooleanOptionalAction,
                     help="go on where an interrupted run stopped (default)")
    how.add_argument("--force", action="store_true",
                     help="measure rows anew: their results, detectors' states and frozen features are not used")
    how.add_argument("--replace", action="store_true",
                     help="file a result in the place of one filed under the same key; else the two are compared")
    how.add_argument("--limit", type=int, metavar="N",
                     help="shorten: N pool images, N pretraining steps, N training iterations, N evaluation images; "
                          "the result is shown but kept out of the leaderboard")
    how.add_argument("--pretrain-only", action="store_true", help="stop after pretraining")
    how.add_argument("--no-load", action="store_true",
                     help="leave the backbone as initialised: shows that loading matters; kept out of the leaderboard")
    how.add_argument("--workers", type=int, metavar="N", help="loader processes (default: none on CPU, else 4 a GPU)")
    how.add_argument("--accumulation", type=int, metavar="N",
                     help="pretraining: take a process's batch through the networks in N parts, for less memory")
    how.add_argument("--max-per-process", type=int, metavar="N",
                     help="detectors: take a process's share of the batch in equal parts of N images at most, for less "
                          "memory; batch norm sees the parts")
    how.add_argument("--amp", action="store_true",
                     help="detectors: train and test in bfloat16, coordinates and losses in float32; another protocol, "
                          "with tables of its own")
    how.add_argument("--compile", action="store_true",
                     help="pretraining: torch.compile the backbones; minutes at the start, needs a C++ compiler")
    how.add_argument("--report", action=argparse.BooleanOptionalAction,
                     help="print tables and rebuild the leaderboard's page (default); not for jobs side by side")
    how.add_argument("--tensorboard", action="store_true", help="write TensorBoard files of the pretraining too")
    many = p.add_argument_group("many jobs")
    many.add_argument("--executor", choices=("local", "ray"),
                      help="ray: pretrainings and rows as jobs on this machine, or on the cluster at RAY_ADDRESS")
    many.add_argument("--job-cpus", type=int, metavar="N", help="CPU cores a job of ray (default: 2)")
    many.add_argument("--job-gpus", type=int, metavar="N", help="GPUs a job of ray (default: 0, the CPU)")
    many.add_argument("--retries", type=int, metavar="N", help="new starts of a job that died (default: 2)")
    p.set_defaults(**vars(Request()) | {"changes": [], "tune": []})  # a list to append to
    return p


def request_of(words: Sequence[str] | None = None) -> Request:
    """The request that a command line (default: this process's) makes. Exits as argparse does."""
    given = parser().parse_args(words)
    return Request(**{key: tuple(value) if isinstance(value, list) else value for key, value in vars(given).items()})


def words_of(request: Request) -> list[str]:
    """The command line that makes a request."""
    words = []
    for action in parser()._actions:
        value = getattr(request, action.dest, None)
        if action.dest == "help" or value == getattr(Request, action.dest):
            continue
        if isinstance(action, argparse._AppendAction):
            words += [word for item in value for word in (action.option_strings[0], item)]
        elif action.nargs == 0:
            words.append(action.option_strings[-1])
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [action.option_strings[0], *map(str, values)]
    return words


def change_of(words: str, option: str) -> tuple[str, str, Any]:
    """"pretrain.optimizer.lr=0.06" -> ("pretrain", "optimizer.lr", 0.06). Raises UserError for another form.

    Args:
        option: whose words they are.
    """
    part, dot, field = words.strip().partition(".")
    if not dot or part not in ("pretrain", "task"):
        raise UserError(f"--{option} {words}: give pretrain.FIELD=VALUE or task.FIELD=VALUE, such as "
                        "pretrain.optimizer.lr=0.06")
    return part, *config.parse_change(field)
