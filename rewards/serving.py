"""What a process of `rewards.workers` does, and the frames in which it answers.

Everything it imports is charged to the start of each worker, so there is little. What it reads is a
pickle of the trainer's; what it writes is not: a judged text may have taken it over, so an answer
is a number in a frame of bounded size that bears the number of its question, which is random and
not known before.
"""

import math
import os
import pickle
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .supervision import fork_judge

OUT_OF_MEMORY = 99  # exit code
_QUESTION = struct.Struct("!QQ")  # number, bytes of the pickle that follows
_ANSWER = struct.Struct("!QBdHH")  # number, kind, score, bytes of the error and of its traceback
_SCORE, _NONE, _ERROR = range(3)  # kinds
_ERROR_BYTES, _TRACE_BYTES = 500, 4000  # at most
LONGEST = _ANSWER.size + _ERROR_BYTES + _TRACE_BYTES  # of an answer


class WorkerError(Exception):
    """What went wrong in a worker: the exception as text, its traceback as a note."""


class OutOfTime(TimeoutError):
    """A worker was killed because it was still busy when its time was over."""


class OutOfMemory(MemoryError):
    """A worker ended because it asked for more memory than it may have."""


class Outcome(NamedTuple):
    """What became of one item.

    Args:
        value: what the function returned: a number, or None.
        error: `OutOfTime`, `OutOfMemory`, or `WorkerError` if the function raised, its process died
            or answered what is no answer; or None.
        seconds: how long it took.
    """

    value: Any = None
    error: Exception | None = None
    seconds: float = 0.0

    @property
    def over_limit(self) -> bool:
        """Whether it ran out of time or memory."""
        return isinstance(self.error, OutOfTime | OutOfMemory)


def number_of(value: Any) -> float | None:
    """Return a score as a float; None stays None, and NaN is None.

    Numbers are what has a `__float__`: Python's, NumPy's and torch's scalars, `Decimal`, bools.

    Raises:
        TypeError: if it is no number, or a complex one.
        OverflowError: if no float holds it, as 10**400.
        ValueError: if it is infinite.
    """
    if value is None:
        return None
    shape = getattr(value, "shape", ())
    if shape == () and hasattr(value, "item"):
        value = value.item()  # otherwise a complex one would lose its imaginary part
    if shape != () or not hasattr(value, "__float__"):
        raise TypeError(f"the score is {value!r:.80}, expected a number or None")
    try:
        score = float(value)
    except OverflowError:
        raise OverflowError("the score is too large for a float, expected a number") from None
    if math.isinf(score):
        raise ValueError(f"the score is {score}, expected a finite number or None")
    return None if math.isnan(score) else score


# ---- frames -----------------------------------------------------------------------------------


def question(number: int, payload: bytes) -> bytes:
    """Return the frame of an item."""
    return _QUESTION.pack(number, len(payload)) + payload


def read_answer(frame: bytes | bytearray, number: int) -> Outcome | None:
    """Read what a worker wrote; None if more has to come.

    Raises:
        WorkerError: if it cannot become an answer to the question of that number.
    """
    if len(frame) < _ANSWER.size:
        return None
    found, kind, score, *lengths = _ANSWER.unpack_from(frame)
    size = _ANSWER.size + sum(lengths)
    if found != number or kind > _ERROR or size > LONGEST or len(frame) > size:
        raise WorkerError("its process wrote what is no answer")
    if len(frame) < size:
        return None
    if kind != _ERROR:
        return Outcome(score if kind == _SCORE else None)  # any float; who asked looks at it
    start = _ANSWER.size + lengths[0]
    error = WorkerError(_shown(frame[_ANSWER.size : start]))
    error.add_note(_shown(frame[start:]))
    return Outcome(error=error)


def _answer(number: int, score: float | None) -> bytes:
    if score is None:
        return _ANSWER.pack(number, _NONE, 0.0, 0, 0)
    return _ANSWER.pack(number, _SCORE, score, 0, 0)


def _failure(number: int, error: Exception) -> bytes:
    what = _bytes(f"{type(error).__name__}: {error}"[:_ERROR_BYTES])[:_ERROR_BYTES]
    trace = _bytes(traceback.format_exc())[-_TRACE_BYTES:]
    return _ANSWER.pack(number, _ERROR, 0.0, len(what), len(trace)) + what + trace


def _bytes(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def _shown(raw: bytes | bytearray) -> str:
    """Return a text that does nothing to a terminal."""
    text = raw.decode(errors="replace")
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


# ---- the process ------------------------------------------------------------------------------


def serve() -> None:
    """Be a worker: read the function from the connection, then answer until it is closed."""
    import socket

    handle = int(sys.argv[1])
    fork_judge(handle)
    os.set_inheritable(handle, False)
    with socket.socket(fileno=handle) as connection, connection.makefile("rb") as questions:
        number, boot = _asked(questions)
        function, setup, memory = pickle.loads(boot)
        if setup is not None:
            setup()
        if memory is not None:
            _limit_memory(memory)
        os.dup2(1, 2)  # what was printed so far stays in the log; from here on the user sees it
        connection.sendall(_answer(number, None))
        while True:
            number, payload = _asked(questions)
            connection.sendall(_judged(function, number, payload))


def _asked(questions: BinaryIO) -> tuple[int, bytes]:
    head = questions.read(_QUESTION.size)
    if len(head) < _QUESTION.size:
        sys.exit()  # the trainer hung up
    number, length = _QUESTION.unpack(head)
    return number, questions.read(length)


def _judged(function: Callable[..., Any], number: int, payload: bytes) -> bytes:
    try:
        return _answer(number, number_of(function(*pickle.loads(payload))))
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # nobody knows what the others would find missing
    except Exception as error:
        return _failure(number, error)


def _limit_memory(more: int) -> None:
    """Allow so many bytes more than there are now; macOS takes no notice."""
    import resource

    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[5]) if statm.exists() else 0  # private and writable
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
