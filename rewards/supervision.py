"""The process between a trainer and a judge, which sees to it that nothing of the judge stays.

    trainer -> supervisor -> judge -> whatever a judged text may start

The supervisor holds one end of a pipe that the trainer holds the other end of: when the trainer
closes it or dies, and when the judge ends, the supervisor kills the judge's process group and, on
Linux, the descendants that left the group. It is no sandbox: what runs as the same user can kill
the supervisor, and what it then leaves behind stays (the judge itself goes with it, on Linux).
"""

import contextlib
import os
import signal
import threading
import time
from typing import NoReturn

_PDEATHSIG, _CHILD_SUBREAPER = 1, 36  # of Linux's prctl
SWEEP = 1.5  # seconds in which all descendants are to be killed


def fork_judge(handle: int) -> None:
    """Fork; return in the child, the judge, and watch it in the parent, which never returns.

    Args:
        handle: the judge's connection, which the supervisor closes.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or who ignores it cannot wait
    _prctl(_CHILD_SUBREAPER, 1)  # orphans become our children, in whatever session they are
    judge = os.fork()
    if judge:
        os.close(handle)
        _watch(judge)
    _prctl(_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the pipe is the supervisor's alone


def _watch(judge: int) -> NoReturn:
    threading.Thread(target=_kill_when_abandoned, args=(judge,), daemon=True).start()
    _, status = os.waitpid(judge, 0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(judge, signal.SIGKILL)
    _end_descendants()
    code = os.waitstatus_to_exitcode(status)
    if code < 0:  # end as the judge did
        with contextlib.suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(max(code, 0))


def _kill_when_abandoned(judge: int) -> None:
    os.read(0, 1)  # comes back when the trainer closes its end
    with contextlib.suppress(ProcessLookupError):
        os.kill(judge, signal.SIGKILL)


def _end_descendants() -> None:
    """Kill what is left and reap it; there is rarely anything."""
    if _reaped(0.02):
        return
    import psutil

    give_up = time.monotonic() + SWEEP
    while not _reaped(0.01) and time.monotonic() < give_up:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()


def _reaped(seconds: float) -> bool:
    """Reap children until none is left, or the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        if not pid:
            time.sleep(0.001)
    return False


def _prctl(option: int, value: int) -> None:
    import ctypes

    with contextlib.suppress(AttributeError):  # not on macOS
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
