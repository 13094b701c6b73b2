"""The main job: pretrain methods, transfer them to tasks, record the results, rebuild the leaderboard.

    python benchmarks/run.py --method detco --task coco_maskrcnn_c4
    python benchmarks/run.py --method all --seed 0 1 2 --compare moco_v2
    python benchmarks/run.py --checkpoint mine.pth --name mine --task coco_maskrcnn_c4
    torchrun --nproc_per_node 8 benchmarks/run.py --scale paper --method detco
"""
import argparse
import sys
from pathlib import Path

from benchmarks import plan as plans
from benchmarks.errors import ended
from detco.registry import METHODS


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = p.add_argument_group("what to run")
    what.add_argument("--method", nargs="+", default=[], metavar="M", help=f"{', '.join(METHODS)}, or all")
    what.add_argument("--task", nargs="+", default=["coco_maskrcnn_c4"], metavar="T",
                      help="tasks of configs/tasks, or all (default: coco_maskrcnn_c4)")
    what.add_argument("--scale", choices=plans.SCALES,
                      help="default: paper where COCO, ImageNet and a GPU are found, else mini")
    what.add_argument("--schedule", metavar="S",
                      help="paper scale: 12k, 1x, 2x, 3x or 24k (default: 1x, else the task's only one); of several "
                           "tasks, one that lacks it runs its default")
    what.add_argument("--share", type=int, choices=(1, 2, 5, 10), metavar="P",
                      help="semi-supervised tasks: percent of the training images, 1, 2, 5 or 10 (default: 10)")
    what.add_argument("--seed", nargs="+", type=int, default=[0], metavar="K", help="transfer seeds (default: 0)")
    what.add_argument("--pretrain-seed", type=int, default=0, metavar="K", help="seed of the pretraining (default: 0)")
    what.add_argument("--checkpoint", type=Path, metavar="FILE", help="evaluate a checkpoint of your own")
    what.add_argument("--name", help="the row's name for --checkpoint")
    what.add_argument("--channel-order", choices=("RGB", "BGR"), help="for --checkpoint, where the file does not say")
    what.add_argument("--stride", choices=("pytorch", "caffe"), help="for --checkpoint, where the file does not say")
    what.add_argument("--compare", metavar="M", help="print differences to this method, paired by seed")
    where = p.add_argument_group("where")
    where.add_argument("--data-root", type=Path, default=Path("data"), metavar="DIR", help="default: data")
    where.add_argument("--work-dir", type=Path, default=Path("work_dirs"), metavar="DIR", help="default: work_dirs")
    where.add_argument("--results", type=Path, default=plans.RESULTS, metavar="DIR", help="default: leaderboard/results")
    how = p.add_argument_group("how")
    how.add_argument("--list", action="store_true", help="show methods, tasks, scales and the data found")
    how.add_argument("--dry-run", action="store_true", help="print the resolved plan and configs, run nothing")
    how.add_argument("--resume", action=argparse.BooleanOptionalAction, default=True,
                     help="go on where an interrupted run stopped (default)")
    how.add_argument("--force", action="store_true", help="run again what has a result")
    how.add_argument("--limit", type=int, metavar="N",
                     help="shorten: N pool images, N pretraining steps, N training iterations, N evaluation images; "
                          "the result is shown but kept out of the leaderboard")
    how.add_argument("--pretrain-only", action="store_true", help="stop after pretraining")
    how.add_argument("--no-load", action="store_true",
                     help="leave the backbone as initialised: shows that loading matters; kept out of the leaderboard")
    how.add_argument("--workers", type=int, metavar="N", help="loader processes (default: none on CPU, else 4 a GPU)")
    how.add_argument("--accumulation", type=int, default=1, metavar="N",
                     help="pretraining: take a process's batch through the networks in N parts, for less memory")
    how.add_argument("--max-per-process", type=int, metavar="N",
                     help="detectors: take a process's share of the batch in equal parts of N images at most, for less "
                          "memory; batch norm sees the parts")
    how.add_argument("--compile", action="store_true",
                     help="pretraining: torch.compile the backbones; minutes at the start, needs a C++ compiler")
    how.add_argument("--report", action=argparse.BooleanOptionalAction, default=True,
                     help="print tables and rebuild the leaderboard's page (default); not for jobs side by side")
    how.add_argument("--tensorboard", action="store_true", help="write TensorBoard files of the pretraining too")
    many = p.add_argument_group("many jobs")
    many.add_argument("--executor", choices=("local", "ray"), default="local",
                      help="ray: pretrainings and rows as jobs on this machine, or on the cluster at RAY_ADDRESS")
    many.add_argument("--job-cpus", type=int, default=2, metavar="N", help="CPU cores a job of ray (default: 2)")
    many.add_argument("--job-gpus", type=int, default=0, metavar="N", help="GPUs a job of ray (default: 0, the CPU)")
    many.add_argument("--retries", type=int, default=2, metavar="N", help="new starts of a job that died (default: 2)")
    return p


def main(argv: list[str] | None = None) -> int:
    """Run; the exit status (`benchmarks.errors.ended`)."""
    arguments = parser().parse_args(argv)
    return ended(lambda: run(arguments), arguments.work_dir)


def run(arguments: argparse.Namespace) -> int:
    """What the command line asks for. Raises what its parts raise, each in one line."""
    if arguments.list:
        print(plans.listing(arguments.data_root))
        return 0
    plan = plans.make(arguments)
    if arguments.dry_run:
        print(plan.describe())
        return 0
    from benchmarks.execute import execute  # late: imports torch and mmdet

    if arguments.executor == "ray":
        from benchmarks.sweep import sweep

        sweep(plan)
        arguments.force, arguments.resume = False, True  # the jobs have run; what follows reads their results
    return execute(plan)


if __name__ == "__main__":
    sys.exit(main())
