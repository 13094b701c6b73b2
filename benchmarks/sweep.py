"""A plan as jobs on Ray: a pretraining a method, then a job a row; each is `benchmarks/run.py` on its own.

A job that dies is started again and goes on from its last state; one that refuses its input is not. Nodes of a
cluster see the same folders: data, work folder and results are named by path.
"""
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

from benchmarks.cli import Request, words_of
from benchmarks.data.own import PARTS
from benchmarks.errors import REFUSED, STATUS_FILE
from benchmarks.plan import Plan
from detco.console import log, progress_bar, stop_if_asked
from detco.errors import UserError

PATIENCE = 60  # seconds a job has to end when it is told to
ONCE = ("--no-resume", "--force")  # what only a job's first start is told: later ones go on from where it died


class SweepError(UserError):
    """Jobs of a sweep that did not end well."""


class RefusedError(SweepError):
    """A job that said why it ends: another start would say the same."""


def jobs(request: Request, plan: Plan) -> tuple[dict[str, list[str]], dict[str, tuple[list[str], str | None]]]:
    """Name -> command line of every pretraining; name -> command line and pretraining of every row."""
    common = replace(
        request, scale=plan.scale, executor="local", report=False, compare=None, schedule=None, share=None,
        data_root=request.data_root.resolve(), work_dir=request.work_dir.resolve(), results=request.results.resolve(),
        checkpoint=_absolute(request.checkpoint), data=_absolute(request.data),
        images=tuple(path.resolve() for path in request.images),
        **{part: path.resolve() for part in PARTS if (path := getattr(request, part))})
    methods = {f"{p.row}-p{p.seed}": dict(methods=(p.recipe["name"],), pretrain_seeds=(p.seed,))
               for p in plan.pretrainings}
    first = {name: words_of(replace(common, pretrain_only=True, tasks=Request.tasks, seeds=Request.seeds, **fields))
             for name, fields in methods.items()}
    rows = {}
    for transfer in plan.transfers:
        for name, fields in (methods or {plan.foreign.row: {}}).items():
            for seed in plan.seeds:
                row = replace(common, tasks=(transfer.protocol.task,), seeds=(seed,), resume=True, **transfer.asked,
                              **fields)  # the pretraining is there
                rows[f"{name}-{transfer.protocol.task}-s{seed}"] = words_of(row), name if name in first else None
    return first, rows


def _absolute(words: str | None) -> str | None:
    """A file's whole path; a name stays."""
    return str(Path(words).resolve()) if words and Path(words).is_file() else words


def run_until_done(name: str, command: list[str], log_file: Path, gpus: int, retries: int, sweep: str) -> str | None:
    """Run a job, and start it again where it died; None, or why it failed.

    Args:
        sweep: this sweep's own name, noted beside the log: a start that finds it there is not the sweep's first, though
            it may be this function's, on another node.
    """
    note = log_file.with_suffix(".started")
    log_file.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(retries + 1):
        if note.exists() and note.read_text() == sweep:
            command = [word for word in command if word not in ONCE]
        note.write_text(sweep)
        try:
            return run_job(command, log_file, gpus)
        except SweepError as error:
            failure = f"{name}: {error} ({log_file})"
            if isinstance(error, RefusedError):
                break
    return failure


def run_job(command: list[str], log_file: Path, gpus: int) -> None:
    """Run one command line of run.py, its output added to a log in a folder that is there. Raises SweepError where it
    fails, RefusedError where it said why."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={gpus}"] if gpus > 1 else []
    status = log_file.with_suffix(".status")
    status.unlink(missing_ok=True)
    with open(log_file, "a") as file:
        process = subprocess.Popen([sys.executable, *launcher, "-m", "benchmarks.run", *command],
                                   stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                                   env=os.environ | {STATUS_FILE: str(status)}
                                   | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""}))
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
        code = int(status.read_text()) if status.exists() else process.returncode
        output = log_file.read_text().strip().splitlines() or ["no output"]
        last = next((line for line in reversed(output) if line.startswith("error: ")), output[-1])
        raise (RefusedError if code == REFUSED else SweepError)(f"exit status {code}: {last}")


def _check_room(nodes: list[dict], request: Request) -> None:
    """Raises SweepError where no node of the cluster could ever run a job, which Ray would wait for in silence."""
    if not any(node["Alive"] and node["Resources"].get("CPU", 0) >= request.job_cpus
               and node["Resources"].get("GPU", 0) >= request.job_gpus for node in nodes):
        raise SweepError(f"no node of the cluster has {request.job_cpus} cores and {request.job_gpus} GPUs for a "
                         "job: give fewer with --job-cpus and --job-gpus")


def sweep(request: Request, plan: Plan) -> Plan:
    """Run a plan's jobs on Ray, at `RAY_ADDRESS` or on this machine, with a progress bar; the plan that reads their
    results.

    Raises SweepError naming the jobs that failed, once all others are done.
    """
    import ray

    ray.init(address=os.environ.get("RAY_ADDRESS"), log_to_driver=False, logging_level="ERROR",
             include_dashboard=False if "RAY_ADDRESS" not in os.environ else None)
    logs, this = (request.work_dir / "sweep").resolve(), uuid.uuid4().hex

    @ray.remote(num_cpus=request.job_cpus, num_gpus=request.job_gpus, max_retries=request.retries)
    def start(name, command, failed):
        if failed:
            return f"{name}: not run, its pretraining failed"
        return run_until_done(name, command, logs / f"{name}.log", request.job_gpus, request.retries, this)

    first, rows = jobs(request, plan)
    waiting, failures = {}, []  # job -> name
    try:
        _check_room(ray.nodes(), request)
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
    return replace(plan, options=replace(plan.options, force=False, resume=True))
