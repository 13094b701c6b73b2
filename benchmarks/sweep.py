"""A plan as jobs on Ray: a pretraining a method, then a job a row; each is `benchmarks/run.py` on its own.

A job that dies is started again and goes on from its last state; one that refuses its input is not. Nodes of a
cluster see the same folders: data, work folder and results are named by path.
"""
import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

from benchmarks.plan import Plan
from benchmarks.run import parser
from detco.console import log, progress_bar, stop_if_asked
from detco.errors import UserError

PATIENCE = 60  # seconds a job has to end when it is told to
ONCE = ("--no-resume", "--force")  # what only a job's first start is told: later ones go on from where it died


class SweepError(UserError):
    """Jobs of a sweep that did not end well."""


class RefusedError(SweepError):
    """A job that said why it ends: another start would say the same."""


def flags(arguments: argparse.Namespace) -> list[str]:
    """The command line that parses to `arguments`."""
    words = []
    for action in parser()._actions:
        value = getattr(arguments, action.dest, action.default)
        if value != action.default:
            values = [] if action.nargs == 0 else value if isinstance(value, list) else [value]
            words += [action.option_strings[-1], *map(str, values)]
    return words


def jobs(plan: Plan) -> tuple[dict[str, list[str]], dict[str, tuple[list[str], str | None]]]:
    """Name -> command line of every pretraining; name -> command line and pretraining of every row."""
    common = vars(plan.arguments) | dict(
        scale=plan.scale, executor="local", report=False, compare=None, task=None, seed=None, schedule=None, share=None,
        data_root=plan.arguments.data_root.resolve(), work_dir=plan.arguments.work_dir.resolve(),
        results=plan.arguments.results.resolve())
    if common["checkpoint"]:
        common["checkpoint"] = common["checkpoint"].resolve()

    def command(**own) -> list[str]:
        return flags(argparse.Namespace(**common | own))

    defaults = dict(task=parser().get_default("task"), seed=parser().get_default("seed"))
    first = {method: command(method=[method], pretrain_only=True, **defaults) for method in plan.methods}
    rows = {f"{row}-{task}-seed{seed}": (
                command(method=[row] if row in first else [], task=[task], seed=[seed], **plan.asked(task),
                        resume=True), row if row in first else None)  # the pretraining is there
            for task in plan.tasks if not plan.arguments.pretrain_only
            for row in (plan.methods or [plan.arguments.name]) for seed in plan.arguments.seed}
    return first, rows


def run_until_done(name: str, command: list[str], log: Path, gpus: int, retries: int, sweep: str) -> str | None:
    """Run a job, and start it again where it died; None, or why it failed.

    Args:
        sweep: this sweep's own name, noted beside the log: a start that finds it there is not the sweep's first, though
            it may be this function's, on another node.
    """
    note = log.with_suffix(".started")
    log.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(retries + 1):
        if note.exists() and note.read_text() == sweep:
            command = [word for word in command if word not in ONCE]
        note.write_text(sweep)
        try:
            return run_job(command, log, gpus)
        except SweepError as error:
            failure = f"{name}: {error} ({log})"
            if isinstance(error, RefusedError):
                break
    return failure


def run_job(command: list[str], log: Path, gpus: int) -> None:
    """Run one command line of run.py, its output added to a log in a folder that is there. Raises SweepError where it
    fails, RefusedError where it said why."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}"] if gpus > 1 else []
    before = len(log.read_text()) if log.exists() else 0
    with open(log, "a") as file:
        process = subprocess.Popen([sys.executable, *launcher, "-m", "benchmarks.run", *command],
                                   stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                                   env=os.environ | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""}))
        try:
            while process.poll() is None:  # a wait without end would not hear that the sweep was stopped
                time.sleep(0.2)
        except BaseException:
            try:
                process.terminate()  # it keeps what it has, as after Ctrl-C
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(PATIENCE)
            finally:
                if process.poll() is None:  # it waits for another rank, or will not hear
                    os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        output = log.read_text()[before:].strip().splitlines()
        said = [line for line in output if line.startswith("error: ")]  # torchrun writes on below it
        kind = RefusedError if said and "(details in " not in said[-1] else SweepError
        raise kind(f"exit status {process.returncode}: {(said or output or ['no output'])[-1]}")


def _check_room(nodes: list[dict], arguments: argparse.Namespace) -> None:
    """Raises SweepError where no node of the cluster could ever run a job, which Ray would wait for in silence."""
    if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= arguments.job_cpus
               and node["Resources"].get("GPU", 0) >= arguments.job_gpus for node in nodes):
        raise SweepError(f"no node of the cluster has {arguments.job_cpus} cores and {arguments.job_gpus} GPUs for a "
                         "job: give fewer with --job-cpus and --job-gpus")


def sweep(plan: Plan) -> None:
    """Run a plan's jobs on Ray, at `RAY_ADDRESS` or on this machine, with a progress bar.

    Raises SweepError naming the jobs that failed, once all others are done.
    """
    try:
        import ray
    except ImportError:
        raise SweepError('--executor ray: Ray is not installed: pip install "detco-bench[ray]"') from None
    arguments = plan.arguments
    ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="ERROR",
             include_dashboard=False if "RAY_ADDRESS" not in os.environ else None)
    logs, this = (arguments.work_dir / "sweep").resolve(), uuid.uuid4().hex

    @ray.remote(num_cpus=arguments.job_cpus, num_gpus=arguments.job_gpus, max_retries=arguments.retries)
    def start(name, command, failed):
        if failed:
            return f"{name}: not run, its pretraining failed"
        return run_until_done(name, command, logs / f"{name}.log", arguments.job_gpus, arguments.retries, this)

    first, rows = jobs(plan)
    waiting, failures = {}, []  # job -> name
    try:
        _check_room(ray.nodes(), arguments)
        pretrained = {name: start.remote(f"pretrain-{name}", command, None) for name, command in first.items()}
        waiting |= {job: f"pretrain-{name}" for name, job in pretrained.items()}
        waiting |= {start.remote(name, command, pretrained.get(method)): name
                    for name, (command, method) in rows.items()}
        with progress_bar() as bar:
            task = bar.add_task("jobs", total=len(waiting))
            while waiting:
                stop_if_asked()
                for job in ray.wait(list(waiting), timeout=1)[0]:
                    name = waiting.pop(job)
                    try:
                        failures += filter(None, [ray.get(job)])
                    except ray.exceptions.RayError as error:  # its process or its node is gone, again and again
                        failures.append(f"{name}: {str(error).strip().splitlines()[0]}")
                    bar.update(task, advance=1)
    except KeyboardInterrupt:
        for job in waiting:
            ray.cancel(job)
        ray.wait(list(waiting), num_returns=len(waiting), timeout=PATIENCE + 15)
        raise
    finally:
        ray.shutdown()
    log(f"logs of the jobs  {logs}")
    if failures:
        raise SweepError(f"{len(failures)} of {len(first) + len(rows)} jobs failed; the same command runs them again: "
                         + "; ".join(failures))
