"""Where the processes of a study run: here, on a Ray cluster, or on a SLURM one.

An engine starts a `Job` and gives a handle to it. The work is left to subprocess, Ray and submitit;
on a cluster the directory of the study must be on a file system that all machines share.
"""

import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from grpo_credit.experiments.study.process import Ended, Job, Process, run_to_end

QUEUE = sys.maxsize  # a cluster has a queue of its own: hand over everything


class Handle(Protocol):
    """A job that was started."""

    def poll(self) -> Ended | None:
        """Return how it ended, None while it has not; to be called until then."""
        ...

    def stop(self) -> None:
        """Ask for a checkpoint and the end."""
        ...

    def kill(self) -> None:
        """End it now."""
        ...


class Engine(Protocol):
    """Starts jobs, up to `slots` at a time."""

    @property
    def slots(self) -> int:
        """How many at a time."""
        ...

    def threads(self, at_once: int) -> int | None:
        """Return how many of the CPU are for each of so many jobs; None if it does not know."""
        ...

    def start(self, job: Job) -> Handle:
        """Start a job."""
        ...


class LocalEngine:
    """Processes of this machine: one for each GPU, else one for each core.

    Args:
        jobs: how many at once.
        options: none are known.
        out: directory of the study.
    """

    def __init__(self, jobs: int | None, options: Mapping[str, Any], out: Path) -> None:
        if options:
            raise ValueError(f"--engine local takes no --engine_options; got {dict(options)}.")
        self._devices = visible_gpus()
        linux = sys.platform == "linux"
        self._cores = len(os.sched_getaffinity(0)) if linux else os.cpu_count() or 1
        self.slots = jobs or len(self._devices) or self._cores
        self._running: list[tuple[str, Process]] = []

    def threads(self, at_once: int) -> int:
        """Divide the cores among the jobs."""
        return max(1, self._cores // at_once)

    def start(self, job: Job) -> Handle:
        """Start a process, on the GPU that has the fewest."""
        if not self._devices:
            return Process(job)
        self._running = [(device, p) for device, p in self._running if not p.reaped]
        busy = Counter(device for device, _ in self._running)
        device = min(self._devices, key=lambda device: busy[device])
        process = Process(replace(job, env={**job.env, "CUDA_VISIBLE_DEVICES": device}))
        self._running.append((device, process))
        return process


def visible_gpus() -> list[str]:
    """List the NVIDIA GPUs that this process may use, without importing torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device for device in chosen.split(",") if device.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.split() if answer.returncode == 0 else []


class RayEngine:
    """Tasks of a Ray cluster: of `$RAY_ADDRESS`, or one that is started on this machine.

    Args:
        jobs: how many at once; by default Ray's queue gets all of them.
        options: of `ray.remote`, such as {"num_cpus": 4, "num_gpus": 1}.
        out: directory of the study.
    """

    def __init__(self, jobs: int | None, options: Mapping[str, Any], out: Path) -> None:
        self._ray = needed("ray", "ray")
        self.slots = jobs or QUEUE
        self._threads = max(1, int(options.get("num_cpus", 1)))
        if not self._ray.is_initialized():
            self._ray.init(log_to_driver=False, include_dashboard=False)
        chosen = {"num_cpus": 1, "max_retries": 0, **options}
        self._run = self._ray.remote(**chosen)(run_to_end)

    def threads(self, at_once: int) -> int:
        """Return the CPUs that Ray reserves for a task."""
        return self._threads

    def start(self, job: Job) -> Handle:
        """Submit a task."""
        return _RayHandle(self._ray, self._run.remote(job))


class _RayHandle:
    def __init__(self, ray: ModuleType, reference: object) -> None:
        self._ray, self._reference = ray, reference

    def poll(self) -> Ended | None:
        done, _ = self._ray.wait([self._reference], timeout=0)
        if not done:
            return None
        return ended_by(lambda: self._ray.get(self._reference))

    def stop(self) -> None:
        self._ray.cancel(self._reference, force=False)

    def kill(self) -> None:
        self._ray.cancel(self._reference, force=True)


class SlurmEngine:
    """Jobs of SLURM, through submitit.

    Args:
        jobs: how many at once; by default SLURM's queue gets all of them.
        options: of submitit's executor, such as {"timeout_min": 600, "slurm_partition": "gpu"};
            "cluster" may name another of its executors, such as "local".
        out: directory of the study; submitit's files go into OUT/.slurm.
    """

    def __init__(self, jobs: int | None, options: Mapping[str, Any], out: Path) -> None:
        submitit = needed("submitit", "slurm")
        self.slots = jobs or QUEUE
        settings = dict(options)
        cluster = settings.pop("cluster", "slurm")
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise ValueError("--engine slurm needs SLURM's `sbatch`, which is not on the PATH.")
        self._threads = settings.get("cpus_per_task")
        self._executor = submitit.AutoExecutor(str((out / ".slurm").absolute()), cluster=cluster)
        self._executor.update_parameters(**settings)

    def threads(self, at_once: int) -> int | None:
        """Return the CPUs that SLURM reserves for a job, if that was said."""
        return self._threads

    def start(self, job: Job) -> Handle:
        """Submit a job."""
        return _SlurmHandle(self._executor.submit(run_to_end, job))


class _SlurmHandle:
    def __init__(self, job: Any) -> None:
        self._job = job

    def poll(self) -> Ended | None:
        return ended_by(self._job.result) if self._job.done() else None

    def stop(self) -> None:
        self._job.cancel(check=False)

    kill = stop


def ended_by(result: Callable[[], Ended]) -> Ended:
    """Take what a worker returned; what went wrong with the worker itself becomes its error."""
    try:
        return result()
    except Exception as error:  # of whatever kind a cluster has
        first = next(iter(str(error).strip().splitlines()), "")
        return Ended(None, error=f"{type(error).__name__}: {first}")


def needed(module: str, extra: str) -> ModuleType:
    """Import what an extra brings.

    Raises:
        ImportError: with the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"--engine {extra} needs {module!r} ({error}); install it with "
            f"pip install 'grpo-credit[{extra}]'."
        ) from None


def make_engine(name: str, jobs: int | None, options: Mapping[str, Any], out: Path) -> Engine:
    """Make an engine.

    Raises:
        ValueError: an option that it does not know.
        ImportError: what it needs is not installed; with the line that installs it.
    """
    try:
        return ENGINES[name](jobs, options, out)
    except (TypeError, NameError) as error:
        raise ValueError(f"--engine_options of {name}: {error}") from None


ENGINES: dict[str, Callable[[int | None, Mapping[str, Any], Path], Engine]] = {
    "local": LocalEngine,
    "ray": RayEngine,
    "slurm": SlurmEngine,
}
