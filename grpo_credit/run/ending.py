"""How a signal ends a recipe: with one line and the right code, whatever it was doing.

This module imports no torch, so that the handler is there before whatever takes its time. While
training, `callbacks.StopOnSignal` stands before it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

REPEAT_S = 1.0  # a signal within it is the same one: launchers pass on what the terminal sends, too
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


def say(text: str) -> None:
    """Write a line to stderr from a signal handler.

    Not `print`: the interrupted code may be inside the same buffered stream. And with its terminal
    gone a run has nobody to tell, but still a checkpoint to write.
    """
    with contextlib.suppress(OSError):
        os.write(2, f"\n{text}\n".encode(errors="backslashreplace"))


def is_program(script: str) -> bool:
    """Return whether a script is what Python was started with, and not called by something else."""
    program = getattr(sys.modules["__main__"], "__file__", None)
    return program is not None and os.path.realpath(program) == os.path.realpath(script)


class Ending:
    """Ends this process on SIGINT, SIGTERM or SIGHUP, if the script is its program.

    Use it as a context manager around all that the script does. The first signal says one line.
    Before there is anything to `keep` the process ends at once; afterwards KeyboardInterrupt is
    raised, so that what is open is closed, and comes out of the context as SystemExit with 128 +
    the signal. A second signal ends the process at once. A signal that was ignored before stays
    ignored, and a program that only calls the recipe keeps its own handlers.
    """

    def __init__(self, script: str) -> None:
        self.signum: int | None = None
        self._script, self._pid = script, os.getpid()
        self._what, self._careful, self._since = "nothing was begun", False, 0.0

    def keep(self, what: str) -> None:
        """Leave with care from here on, saying `what` is there then, for the user."""
        self._what, self._careful = what, True

    def __enter__(self) -> "Ending":
        """Install the handlers."""
        if self._handles():
            for signum in SIGNALS:
                if signal.getsignal(signum) not in (None, signal.SIG_IGN):
                    signal.signal(signum, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Turn what a signal raised, or made others raise, into the exit code."""
        if self._handles():  # Python takes a while to end: no traceback then
            for signum in SIGNALS:
                if signal.getsignal(signum) == self._handle:
                    signal.signal(signum, signal.SIG_DFL)
        if self.signum is not None and error is not None:
            raise SystemExit(128 + self.signum) from None

    def _handles(self) -> bool:
        return threading.current_thread() is threading.main_thread() and is_program(self._script)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child dies of it as it would without us
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif self.signum is None:
            self.signum, self._since = int(signum), time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                say(f"{signal.Signals(signum).name}: stopped; {self._what}")
            if not self._careful:
                os._exit(128 + signum)
            raise KeyboardInterrupt
        elif time.monotonic() - self._since > REPEAT_S:
            os._exit(128 + self.signum)
