"""A pool of processes that can be killed: the only way to stop a function that hangs in C code.

A signal handler runs in the main thread alone and only between two bytecodes; a process can be
killed from any thread at any time. The workers are started as fresh interpreters, neither forked
(which copies locks and CUDA contexts) nor by running the user's script again.
"""

import contextlib
import math
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any

from .serving import Outcome, OutOfTime, WorkerError

START_LIMIT = 60.0  # seconds for a worker to import what it needs
ORPHAN_GRACE = 10.0  # seconds past an item's limit after which a worker ends itself
CHUNK = 32  # items given to a worker at once, at most
PACKAGE = str(Path(__file__).parent)
BOOT = (  # by whatever name this package goes here, and from its own folder, whatever else has it
    "import importlib as i, importlib.util as u, sys; "
    f"name = {__package__!r}; handle, folder, *sys.path = sys.argv[1:]; "
    "init = folder + '/__init__.py'; "
    "spec = u.spec_from_file_location(name, init, submodule_search_locations=[folder]); "
    "sys.modules[name] = package = u.module_from_spec(spec); spec.loader.exec_module(package); "
    "i.import_module(name + '.serving').serve()"
)


class Pool:
    """Run one function on many items in warm processes, each item under a wall-clock limit.

    Workers start at the first call, stay until `close`, the end of the program or its death, and
    are replaced when killed. Any thread may call; several take turns. A pool can be pickled: the
    copy starts its own workers.

    Args:
        function: a picklable function; equal items are computed once per call.
        size: how many processes.
        setup: called in each new worker before its clock starts.

    Raises:
        TypeError: if the function cannot be pickled or is defined in `__main__`.
        NotImplementedError: on Windows.

    Example:
        >>> from math import factorial
        >>> pool = Pool(factorial, size=1)
        >>> [outcome.value for outcome in pool.map([(3,), (4,)], timeout=60)]
        [6, 24]
        >>> pool.close()
    """

    def __init__(
        self,
        function: Callable[..., Any],
        size: int = 2,
        setup: Callable[[], Any] | None = None,
    ) -> None:
        if not hasattr(os, "killpg"):
            raise NotImplementedError("processes that can be killed need Linux or macOS.")
        if size < 1:
            raise ValueError(f"size is {size}, expected at least 1 process.")
        self._prepare(size, dumps((function, setup)))

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "boot": self.boot}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._prepare(**state)

    def _prepare(self, size: int, boot: bytes) -> None:
        self.size = size
        self.boot = boot
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        weakref.finalize(self, _kill_all, self._workers)
        _POOLS.add(self)

    def map(self, items: Iterable[tuple[Any, ...]], timeout: float) -> list[Outcome]:
        """Call the function with each tuple of arguments.

        Args:
            items: the arguments.
            timeout: seconds of wall clock for each item.

        Returns:
            One outcome per item, in their order.

        Raises:
            RuntimeError: if a worker cannot start, with what it printed.
        """
        payloads = [dumps(item) for item in items]
        with self._lock:
            try:
                done = self._run(deque(dict.fromkeys(payloads)), timeout)
            except BaseException:
                self.close()  # what still runs answers to nobody
                raise
        return [done[payload] for payload in payloads]

    def close(self) -> None:
        """Kill the workers; the next call starts new ones."""
        _kill_all(self._workers)

    def pids(self) -> list[int]:
        """Return the process ids of the workers there are now."""
        return [worker.process.pid for worker in self._workers]

    def _run(self, todo: deque[bytes], timeout: float) -> dict[bytes, Outcome]:
        done: dict[bytes, Outcome] = {}
        count = len(todo)
        for dead in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._remove(dead)
        while len(done) < count:
            self._feed(todo, timeout)
            heard, late = self._wait()
            for worker in heard:
                message = worker.receive()
                if message is None:
                    done.update(self._replace(worker, todo, WorkerError(worker.ending())))
                else:
                    done.update(worker.read(message))
            for worker in late:
                overdue = OutOfTime(f"no result within {worker.limit:g} s")
                done.update(self._replace(worker, todo, overdue))
        return done

    def _replace(
        self, worker: "_Worker", todo: deque[bytes], why: Exception
    ) -> dict[bytes, Outcome]:
        """Kill a worker, blame the item that it was busy with, and give the others back."""
        if not worker.ready:
            raise RuntimeError(f"a worker process could not start: {why}.\n{worker.printed()}")
        self._remove(worker)
        blamed = worker.chunk.popleft() if worker.chunk else None
        todo.extendleft(reversed(worker.chunk))
        seconds = worker.limit + time.monotonic() - worker.deadline
        return {} if blamed is None else {blamed: Outcome(error=why, seconds=seconds)}

    def _remove(self, worker: "_Worker") -> None:
        worker.kill()
        self._workers.remove(worker)

    def _feed(self, todo: deque[bytes], timeout: float) -> None:
        for worker in self._workers:
            if todo and worker.idle:
                share = min(CHUNK, math.ceil(len(todo) / (2 * self.size)))
                worker.give([todo.popleft() for _ in range(share)], timeout)
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self.size - len(self._workers), len(todo) - starting)):
            self._workers.append(_Worker(self.boot))

    def _wait(self) -> tuple[list["_Worker"], list["_Worker"]]:
        """Return the workers that have sent something or died, and those that are out of time."""
        from multiprocessing.connection import wait

        left = min(worker.deadline for worker in self._workers) - time.monotonic()
        speaking = wait([worker.connection for worker in self._workers], max(0.0, left))
        now = time.monotonic()
        heard = [worker for worker in self._workers if worker.connection in speaking]
        late = [w for w in self._workers if w not in heard and w.deadline <= now]
        return heard, late

    def _forget(self) -> None:
        """Drop the workers without killing them: they belong to the process we were forked from."""
        for worker in self._workers:
            worker.drop()
            worker.process.returncode = 0  # nothing to wait for
        self._workers.clear()
        self._lock = threading.Lock()


class _Worker:
    """A process, our end of its pipe, and what it has been given to do.

    Attributes:
        chunk: the items it was given and has not answered; it is busy with the first.
        deadline: when to kill it, on the monotonic clock.
    """

    def __init__(self, boot: bytes) -> None:
        from multiprocessing.connection import Pipe

        self.connection, theirs = Pipe()
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (the worker writes to it)
        path = [entry for entry in sys.path if isinstance(entry, str)]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", BOOT, str(theirs.fileno()), PACKAGE, *path],
                stdin=subprocess.DEVNULL,
                stdout=2,
                stderr=self.log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # no Ctrl-C from the terminal; killed with its children
            )
        self.ready = False
        self.chunk: deque[bytes] = deque()
        self._start_clock(START_LIMIT)
        self._send(boot)

    @property
    def idle(self) -> bool:
        """Whether it waits for items."""
        return self.ready and not self.chunk

    def give(self, payloads: Sequence[bytes], timeout: float) -> None:
        """Send items, of which the first starts at once."""
        self.chunk = deque(payloads)
        self._start_clock(timeout)
        self._send(pickle.dumps((timeout + ORPHAN_GRACE, payloads)))

    def receive(self) -> bytes | None:
        """Take one message off the pipe; None if the process has died."""
        try:
            return self.connection.recv_bytes()
        except (EOFError, OSError):
            return None

    def read(self, message: bytes) -> dict[bytes, Outcome]:
        """Return the outcome in a message; the first message says only that it is ready."""
        done = {self.chunk.popleft(): _outcome(message)} if self.ready else {}
        self.ready = True
        self._start_clock(self.limit if self.chunk else math.inf)
        return done

    def ending(self) -> str:
        """Say how a process that closed its end has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1.0)
        code = self.process.returncode
        if code is None or code >= 0:
            return f"its process ended with exit code {code}"
        return f"its process was ended by {signal.Signals(-code).name}"

    def printed(self) -> str:
        """Return the end of what the process printed before it was ready."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def kill(self) -> None:
        """End the process and whatever it started, and leave no zombie."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.drop()

    def drop(self) -> None:
        """Close our ends."""
        self.connection.close()
        self.log.close()

    def _start_clock(self, limit: float) -> None:
        self.limit = limit
        self.deadline = time.monotonic() + limit

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # a process that died is noticed by its silence
            self.connection.send_bytes(message)


def _outcome(message: bytes) -> Outcome:
    try:
        return pickle.loads(message)
    except Exception as error:
        what = f"{type(error).__name__}: {error}"[:500]
        return Outcome(error=WorkerError(f"its result cannot be read back: {what}"))


def dumps(thing: Any) -> bytes:
    """Pickle for a worker, which imports everything anew but cannot import `__main__`.

    Raises:
        TypeError: if something in it cannot be pickled or is defined in `__main__`.
    """
    buffer = BytesIO()
    try:
        _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(thing)
    except Exception as error:
        raise TypeError(
            f"cannot be sent to a worker process: {error}. Define it at the top level of a module "
            "that can be imported."
        ) from error
    return buffer.getvalue()


class _Pickler(pickle.Pickler):
    def reducer_override(self, thing: Any) -> Any:
        module = getattr(thing, "__module__", None)
        if isinstance(thing, type | FunctionType) and module in ("__main__", "__mp_main__"):
            raise pickle.PicklingError(f"{thing.__qualname__!r} is defined in __main__")
        return NotImplemented


def _kill_all(workers: list[_Worker]) -> None:
    while workers:
        workers.pop().kill()


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in _POOLS:
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
