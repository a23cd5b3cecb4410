"""One worker of a pool, as the trainer sees it."""

import contextlib
import math
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from .serving import (
    LONGEST,
    OUT_OF_MEMORY,
    Outcome,
    OutOfMemory,
    WorkerError,
    question,
    read_answer,
)

START_LIMIT = 60.0  # seconds for a worker to import what it needs
END_LIMIT = 2.0  # seconds for a worker's supervisor to end everything
PACKAGE = str(Path(__file__).parent)
BOOT = (  # by whatever name this package goes here, and from its own folder, whatever else has it
    "import importlib as i, importlib.util as u, sys; "
    f"name = {__package__!r}; handle, folder, *sys.path = sys.argv[1:]; "
    "init = folder + '/__init__.py'; "
    "spec = u.spec_from_file_location(name, init, submodule_search_locations=[folder]); "
    "sys.modules[name] = package = u.module_from_spec(spec); spec.loader.exec_module(package); "
    "i.import_module(name + '.serving').serve()"
)


class Worker:
    """A process, our ends of what leads to it, and what it has been given to do.

    Attributes:
        item: what it is busy with.
        own: what it alone is to be given, when it is ready.
        judged: how many items it has answered.
        deadline: when to kill it, on the monotonic clock.
    """

    def __init__(self, boot: bytes, *own: bytes) -> None:
        self.connection, theirs = socket.socketpair()
        self.connection.setblocking(False)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (the worker writes to it)
        path = [entry for entry in sys.path if isinstance(entry, str)]
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", BOOT, str(theirs.fileno()), PACKAGE, *path],
                stdin=subprocess.PIPE,  # when it is closed, everything ends
                stdout=2,
                stderr=self.log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # no Ctrl-C from the terminal
            )
        self.own = deque(own)
        self.judged = -1  # being ready is an answer, too
        self.item: bytes | None = None
        self._ask(boot, START_LIMIT)

    @property
    def ready(self) -> bool:
        """Whether it has begun to judge."""
        return self.judged >= 0

    @property
    def idle(self) -> bool:
        """Whether it waits for items."""
        return self.ready and self.item is None

    @property
    def events(self) -> int:
        """What to wait for: that it writes and, if there is more to send, that it reads."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)

    @property
    def seconds(self) -> float:
        """How long it has been busy."""
        return self.limit + time.monotonic() - self.deadline

    def give(self, item: bytes, timeout: float) -> None:
        """Send an item; its time starts."""
        self.item = item
        self._ask(item, timeout)

    def _ask(self, payload: bytes, limit: float) -> None:
        self._number = secrets.randbits(64)
        self._outbox = memoryview(question(self._number, payload))
        self._inbox = bytearray()
        self.limit = limit
        self.deadline = time.monotonic() + limit
        self.send()

    def send(self) -> None:
        """Send as much as it takes; it may be stopped, and then takes nothing."""
        try:
            self._outbox = self._outbox[self.connection.send(self._outbox) :]
        except BlockingIOError:
            pass
        except OSError:  # a process that died is noticed by its silence
            self._outbox = memoryview(b"")

    def receive(self) -> dict[bytes, Outcome]:
        """Read what it wrote: the outcome of its item, or nothing yet.

        Raises:
            WorkerError, OutOfMemory: if the process has died, or wrote what is no answer.
        """
        try:
            read = self.connection.recv(LONGEST + 1)
        except BlockingIOError:
            return {}
        except OSError:
            read = b""
        if not read:
            raise self.ending()
        if self.idle:
            raise WorkerError("its process wrote without being asked")
        self._inbox += read
        outcome = read_answer(self._inbox, self._number)
        if outcome is None:
            return {}
        outcome = outcome._replace(seconds=self.seconds)
        done = {} if self.item is None else {self.item: outcome}
        self.judged += 1
        self.item, self.deadline = None, math.inf
        return done

    def ending(self) -> Exception:
        """Return how a process that closed its end has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_LIMIT)
        code = self.process.returncode
        if code == OUT_OF_MEMORY:
            return OutOfMemory("its process ran out of memory")
        if code == -signal.SIGKILL:
            return OutOfMemory("its process was killed, as the system does to save memory")
        if code is None:
            return WorkerError("its process hung up")
        if code < 0:
            return WorkerError(f"its process was ended by {signal.Signals(-code).name}")
        return WorkerError(f"its process ended with exit code {code}")

    def printed(self) -> str:
        """Return the end of what the process printed before it was ready."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-2000:]

    def kill(self) -> None:
        """End the process and whatever it started, and leave no zombie."""
        self.drop()
        try:
            self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:  # stopped, or not started yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def drop(self) -> None:
        """Close our ends; the supervisor ends the rest once nobody holds the pipe."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.connection.close()
        self.log.close()
