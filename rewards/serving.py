"""What a process of `rewards.workers` does: answer items until its parent is gone.

Everything it imports is charged to the start of each worker, so there is little.
"""

import contextlib
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple


class WorkerError(Exception):
    """What went wrong in a worker: the exception as text, its traceback as a note."""


class OutOfTime(TimeoutError):
    """A worker was killed because it was still busy when its time was over."""


class Outcome(NamedTuple):
    """What became of one item.

    Args:
        value: what the function returned.
        error: `OutOfTime`, or `WorkerError` if the function raised or its process died, or None.
        seconds: how long it ran.
    """

    value: Any = None
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def timed_out(self) -> bool:
        """Whether it was stopped by the clock."""
        return isinstance(self.error, OutOfTime)


def serve() -> None:
    """Be a worker: read the function from the pipe, then answer items until the parent is gone."""
    from multiprocessing.connection import Connection

    handle = int(sys.argv[1])
    os.set_inheritable(handle, False)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    with Connection(handle) as parent:
        function = _started(parent.recv_bytes())
        os.dup2(1, 2)  # what was printed so far stays in the log; from here on the user sees it
        parent.send_bytes(b"ready")
        with contextlib.suppress(EOFError, OSError):
            while True:
                limit, payloads = pickle.loads(parent.recv_bytes())
                for payload in payloads:
                    parent.send_bytes(_limited(limit, function, payload))


def _started(boot: bytes) -> Callable[..., Any]:
    function, setup = pickle.loads(boot)
    if setup is not None:
        setup()
    return function


def _limited(limit: float, function: Callable[..., Any], payload: bytes) -> bytes:
    # The parent has the clock; this one, in the kernel, is for when the parent has died.
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        return _answer(function, payload)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(function: Callable[..., Any], payload: bytes) -> bytes:
    start = time.perf_counter()
    try:
        value = function(*pickle.loads(payload))
        return pickle.dumps(Outcome(value, seconds=time.perf_counter() - start))
    except Exception as error:
        failure = WorkerError(f"{type(error).__name__}: {error}"[:500])
        failure.add_note(traceback.format_exc()[-4000:])
        return pickle.dumps(Outcome(error=failure, seconds=time.perf_counter() - start))
