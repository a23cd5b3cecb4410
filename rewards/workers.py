"""A pool of processes that can be killed: the only way to stop a function that hangs in C code.

A signal handler runs in the main thread alone and only between two bytecodes; a process can be
killed from any thread at any time. The workers are started as fresh interpreters, neither forked
(which copies locks and CUDA contexts) nor by running the user's script again. Nothing that they
send is unpickled, which is what the pools of pebble, loky and the standard library do: a judged
text may have taken a worker over. See `rewards.serving` for the frames and `rewards.supervision`
for how a worker ends.
"""

import math
import os
import pickle
import selectors
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO
from types import FunctionType
from typing import Any

from .process import Worker
from .serving import Outcome, OutOfMemory, OutOfTime, WorkerError


class Pool:
    """Run one function on many items in warm processes, each item under limits.

    Workers start at the first call, stay until `close`, the end of the program or its death, and
    are replaced when killed. Any thread may call; several take turns. A pool can be pickled: the
    copy starts its own workers.

    A worker has one item at a time. What it writes is taken only as the answer to that item; one
    that writes anything else, before, after or instead, is killed. An item in whose time a worker
    that had judged others breaks is tried again in a fresh one: what broke it may have been left
    behind. No more is done against a text that takes a worker over for good, and answers or holds
    up those that follow until it is killed: it does what the reward lets it do.

    Args:
        function: a picklable function that returns a number or None; equal items are computed once
            per call.
        size: how many processes.
        setup: called in each new worker before its clock starts.
        memory: GiB that a worker, and each process that it starts, may have on top of what it has
            when it is warm; None for no limit. It holds on Linux; macOS takes no notice.

    Raises:
        TypeError: if the function cannot be pickled or is defined in `__main__`.
        NotImplementedError: on Windows.

    Example:
        >>> from math import factorial
        >>> pool = Pool(factorial, size=1)
        >>> [outcome.value for outcome in pool.map([(3,), (4,)], timeout=60)]
        [6.0, 24.0]
        >>> pool.close()
    """

    def __init__(
        self,
        function: Callable[..., Any],
        size: int = 2,
        setup: Callable[[], Any] | None = None,
        memory: float | None = 4.0,
    ) -> None:
        if not hasattr(os, "killpg"):
            raise NotImplementedError("processes that can be killed need Linux or macOS.")
        if size < 1:
            raise ValueError(f"size is {size}, expected at least 1 process.")
        if memory is not None and not 0 < memory < math.inf:
            raise ValueError(f"memory is {memory}, expected GiB above 0, or None for no limit.")
        limit = None if memory is None else int(memory * 2**30)
        self._prepare(size, dumps((function, setup, limit)))

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "boot": self.boot}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._prepare(**state)

    def _prepare(self, size: int, boot: bytes) -> None:
        self.size = size
        self.boot = boot
        self._workers: list[Worker] = []
        self._start_anew()
        weakref.finalize(self, _kill_all, self._workers)
        _POOLS.add(self)

    def _start_anew(self) -> None:
        self._lock = threading.RLock()
        self._todo: deque[bytes] = deque()
        self._calling = self._close_after = False

    def map(self, items: Iterable[tuple[Any, ...]], timeout: float) -> list[Outcome]:
        """Call the function with each tuple of arguments.

        Args:
            items: the arguments.
            timeout: seconds of wall clock for each item.

        Returns:
            One outcome per item, in their order.

        Raises:
            RuntimeError: if a worker cannot start, with what it printed; if a signal handler calls
                in the middle of a call.
        """
        payloads = [dumps(item) for item in items]
        with self._lock:
            if self._calling:
                raise RuntimeError("a signal handler cannot use a pool that it has interrupted.")
            done = self._all_done(list(dict.fromkeys(payloads)), timeout)
        return [done[payload] for payload in payloads]

    def close(self) -> None:
        """Kill the workers; the next call starts new ones.

        On another thread it waits for a call to end; in a signal handler that has interrupted a
        call, the workers are killed at the end of that call.
        """
        with self._lock:
            self._close_after = self._calling
            if not self._calling:
                _kill_all(self._workers)

    def pids(self) -> list[int]:
        """Return the process ids of the workers' supervisors there are now."""
        return [worker.process.pid for worker in self._workers]

    def _all_done(self, payloads: list[bytes], timeout: float) -> dict[bytes, Outcome]:
        done: dict[bytes, Outcome] = {}
        for dead in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._remove(dead)  # between the calls
        self._todo.extend(payloads)
        self._calling = True
        try:
            while len(done) < len(payloads):
                self._feed(timeout)
                done.update(self._heard())
        except BaseException:
            self._close_after = True  # what still runs answers to nobody
            raise
        finally:
            self._todo.clear()
            self._calling = False
            if self._close_after:
                self.close()
        return done

    def _feed(self, timeout: float) -> None:
        for worker in self._workers:
            waiting = worker.own or self._todo
            if waiting and worker.idle:
                worker.give(waiting.popleft(), timeout)
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self.size - len(self._workers), len(self._todo) - starting)):
            self._workers.append(Worker(self.boot))

    def _heard(self) -> dict[bytes, Outcome]:
        """Wait until something happens, and return what is answered or given up by then."""
        done: dict[bytes, Outcome] = {}
        for worker in self._spoken():
            try:
                done.update(worker.receive())
            except (WorkerError, OutOfMemory) as error:
                done.update(self._replace(worker, error))
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline <= now]:
            overdue = OutOfTime(f"no result within {worker.limit:g} s")
            done.update(self._replace(worker, overdue))
        return done

    def _spoken(self) -> list[Worker]:
        """Wait for a worker to write, to read or to run out of time; return those that wrote."""
        left = min(worker.deadline for worker in self._workers) - time.monotonic()
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.connection, worker.events, worker)
            happened = selector.select(None if left == math.inf else max(0.0, left))
        for key, events in happened:
            if events & selectors.EVENT_WRITE:
                key.data.send()
        return [key.data for key, events in happened if events & selectors.EVENT_READ]

    def _replace(self, worker: Worker, why: Exception) -> dict[bytes, Outcome]:
        """Kill a worker; blame its item, or try that in a fresh one."""
        if not worker.ready:
            raise RuntimeError(f"a worker process could not start: {why}.\n{worker.printed()}")
        self._remove(worker)
        if worker.item is None:
            return {}
        if worker.judged and not isinstance(why, OutOfTime):
            self._workers.append(Worker(self.boot, worker.item))
            return {}
        return {worker.item: Outcome(error=why, seconds=worker.seconds)}

    def _remove(self, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.kill()

    def _forget(self) -> None:
        """Drop the workers without killing them: they belong to the process we were forked from."""
        for worker in self._workers:
            worker.drop()
            worker.process.returncode = 0  # nothing to wait for
        self._workers.clear()
        self._start_anew()


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


def _kill_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.drop()  # all end at the same time
    while workers:
        workers.pop().kill()


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in _POOLS:
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
