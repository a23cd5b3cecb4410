"""The process of a cell: started, watched, and measured; the same under every engine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from grpo_credit.experiments.study import child

TICK_S = 0.1
_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True)
class Job:
    """What is to be run, and where.

    Args:
        command: program and arguments.
        log: file that stdout and stderr are appended to.
        lock: file that the process holds locked while it lives.
        folder: working directory.
        env: variables added to the environment of whoever starts it.
    """

    command: Sequence[str]
    log: Path
    lock: Path
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Args:
        exit_code: negative for a signal, None if nobody knows.
        seconds: from its start.
        peak_memory_bytes: largest resident memory, None if unknown.
        error: what an engine has to say beyond that.
    """

    exit_code: int | None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    error: str = ""


class Process:
    """A running job, in a session of its own: a terminal's Ctrl-C reaches the runner alone.

    Start it from a thread that stays: on Linux the process gets SIGTERM when that thread ends.
    """

    def __init__(self, job: Job) -> None:
        wrapper = [sys.executable, "-I", "-S", child.__file__, str(job.lock), str(os.getpid())]
        self._started = time.monotonic()
        with job.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrapper, *job.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=job.folder,
                env={**os.environ, **job.env},
                start_new_session=True,
            )

    def poll(self) -> Ended | None:
        """Return how the process ended, None while it is at work; to be called until then."""
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if pid == 0:
            return None
        self._process.returncode = os.waitstatus_to_exitcode(status)
        seconds = round(time.monotonic() - self._started, 3)
        return Ended(self._process.returncode, seconds, usage.ru_maxrss * _BYTES)

    @property
    def reaped(self) -> bool:
        """Whether `poll` has told how it ended."""
        return self._process.returncode is not None

    def stop(self) -> None:
        """Ask the process to make a checkpoint and end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End the process now."""
        self._send(signal.SIGKILL)

    def _send(self, signum: int) -> None:
        """Signal the process; until `poll` has reaped it, its number is nobody else's.

        Not `Popen.send_signal`: it would reap the process, and its memory would stay unknown.
        """
        if not self.reaped:
            os.kill(self._process.pid, signum)


def run_to_end(job: Job) -> Ended:
    """Run a job and wait for it; what the workers of a cluster do, in their main thread.

    A KeyboardInterrupt, by which engines cancel, lets the job make a checkpoint first.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # its cluster may have ignored it
    process, stopping = Process(job), False
    while True:
        try:
            ended = process.poll()
            if ended is not None:
                return ended
            time.sleep(TICK_S)
        except KeyboardInterrupt:
            if stopping:
                process.kill()
            else:
                process.stop()
            stopping = True


def ignore(signum: int, frame: FrameType | None) -> None:
    """Do nothing about a signal."""


def ignore_alone() -> None:
    """Let what this process starts be stopped by a signal that this process itself ignores.

    Shells start background jobs with SIGINT ignored, and `exec` hands that on: engines could not
    interrupt their workers, nor would a cell end with its runner. A handler is not handed on.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, ignore)
