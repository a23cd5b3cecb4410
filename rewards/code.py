"""Reward Python code that passes tests, run in processes that are limited and killed.

What a model writes is run. Processes, memory, time and files are limited, which stops accidents:
nothing here stops an attack. Run the training in a container without a network and without secrets.
"""

import contextlib
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contract import ColumnReward, Completion, Spans, is_nothing, one_span, texts_of
from .extraction import AfterThought, Extract, InFence

LONGEST = 100_000  # characters of a program, and of what one test may print


@dataclass(frozen=True)
class Limits:
    """What one test may use.

    Args:
        seconds: of wall clock, and of processor time.
        memory: bytes of address space.
        written: bytes of a file.
    """

    seconds: float = 5.0
    memory: int = 1 << 30
    written: int = 1 << 20


class CodeTests(ColumnReward):
    r"""Reward code by the tests that it passes, each in a process of its own.

        R = 1 if all tests pass, else 0             R = passed / tests with `partial`

    A test is one of:

    * `{"input": …, "output": …}`: the program is run with that standard input, prints that, blanks
      at the ends of lines and of the text aside, and ends without an error;
    * a text, such as `assert add(1, 2) == 3`: run after the program, in its namespace; it passes if
      it comes to its end. A program that leaves early (`sys.exit()`) does not pass.

    Tests of a completion stop at the first that fails, unless `partial` is set.

    Args:
        run_untrusted_code: must be True: code that a model wrote is run on this machine, with the
            rights of this user. Limited are the time, the memory of each process, the size of each
            file, and the life of its process group (a process that leaves the group stays); it sees
            none of this process's environment, and works in a folder that is deleted. It can read
            and write what this user can, and reach the network.
        column: the column with the tests of a prompt: a list, or one as a JSON text.
        extract: where the code is; by default the last block fenced as ```python or ```py, after
            the thought, if there is one.
        partial: whether passing some tests pays.
        limits: of one test, see `Limits`.
        processes: how many run at once; by default one for each processor that this one may use.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) a number in [0, 1], or None where there is no test; dimensionless.

    Raises:
        ValueError: if `run_untrusted_code` is not True; (when called) if the column is missing or
            holds no tests.
        NotImplementedError: on Windows.

    How it can be hacked: code that knows its few tests passes them. A text is a test in the
    program's own process, where a program that looks for it can meet it (by an `__eq__` of its own,
    or by writing the word that says that the test came to its end). Tests by input and output are
    compared here, where no program reaches: prefer them.

    Example:
        >>> reward = CodeTests(run_untrusted_code=True)
        >>> block = "```python\ndef double(x):\n    return {}\n```"
        >>> test = "assert double(3) == 6"
        >>> reward([block.format("2 * x"), block.format("x")], tests=[[test]] * 2)
        [1.0, 0.0]
    """

    def __init__(
        self,
        *,
        run_untrusted_code: bool = False,
        column: str = "tests",
        extract: Extract | None = None,
        partial: bool = False,
        limits: Limits | None = None,
        processes: int | None = None,
        name: str = "code_tests",
    ) -> None:
        if run_untrusted_code is not True:
            raise ValueError(
                "CodeTests runs what a model wrote, as this user; if that is what you want, on a "
                "machine without secrets, say CodeTests(run_untrusted_code=True)."
            )
        if not hasattr(os, "killpg"):
            raise NotImplementedError("processes that can be killed need Linux or macOS.")
        super().__init__(name, column)
        block = InFence(("python", "py", "python3"), unique=False)
        self.extract = extract or AfterThought(block, required=False)
        self.partial = partial
        self.limits = limits or Limits()
        self.processes = processes or _processors()

    def _scores(
        self, completions: Sequence[Completion], rows: Sequence[dict[str, Any]]
    ) -> list[float | None]:
        texts = texts_of(self, completions)
        spans = map(self.extract.in_time, texts)
        programs = [span and text[slice(*span)] for text, span in zip(texts, spans, strict=True)]
        tests = [self._gold_of(row) for row in rows]
        with ThreadPoolExecutor(self.processes) as pool:
            return list(pool.map(self._score, programs, tests))

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return where the code is in each completion, as `code`."""
        return one_span(self, "code", self.extract.in_time, completions)

    def _score(self, program: str | None, tests: Sequence[Any] | None) -> float | None:
        if tests is None:
            return None
        if program is None or len(program) > LONGEST:
            return 0.0
        passed = 0
        for test in tests:
            good = _passes(program, test, self.limits)
            passed += good
            if not good and not self.partial:
                return 0.0
        return passed / len(tests)

    def gold(self, value: Any) -> list[Any] | None:
        """Read the tests of a prompt; None if there are none."""
        if is_nothing(value):
            return None
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            found = 0
        several = found if isinstance(found, list | tuple) else [found]
        tests = [test for test in several if not is_nothing(test)]
        if not all(map(_is_test, tests)):
            raise ValueError(
                f"column {self.column!r} of reward {self.__name__!r} holds {value!r:.80}, expected "
                'a list of tests, each an assert as a text or {"input": …, "output": …}.'
            )
        return tests or None


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_test(test: Any) -> bool:
    if isinstance(test, Mapping):
        return all(isinstance(test.get(name), str) for name in ("input", "output"))
    return isinstance(test, str)


# The word that says that a test came to its end is read after program and test have run.
CHILD = """
import json, os, resource, sys
word, seconds, memory, written = map(int, sys.argv[1:])
for name, most in (("CPU", seconds), ("AS", memory), ("FSIZE", written), ("CORE", 0)):
    limit = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(limit)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    try:
        resource.setrlimit(limit, (most, most))
    except (ValueError, OSError):  # where a system does not have this limit
        pass
with open("program.json") as file:
    parts = json.load(file)
codes = [compile(part, "<program>", "exec") for part in parts]
names, sys.argv, flush = {"__name__": "__main__"}, ["program"], sys.stdout.flush
for code, run, read, write in [(code, exec, os.read, os.write) for code in codes]:
    run(code, names)
if len(codes) > 1:
    flush()
    write(1, read(word, 64))
"""


def _passes(program: str, test: Any, limits: Limits) -> bool:
    if isinstance(test, Mapping):
        printed, _, code = _run([program], test["input"], limits)
        return code == 0 and _lines(printed) == _lines(test["output"])
    printed, word, _ = _run([program, test], "", limits)
    return printed.endswith(word)


def _run(parts: list[str], given: str, limits: Limits) -> tuple[str, str, int | None]:
    """Run parts of a program one after the other in a new process, and kill its process group.

    Returns:
        What it printed, the word that ends it if several parts came to their end, and the exit code
        (None if it was killed, or printed too much).
    """
    word = secrets.token_hex(16)
    reading, writing = os.pipe()
    os.write(writing, word.encode())
    os.close(writing)
    folder = tempfile.mkdtemp(prefix="code-tests-")
    # Without names: a program can neither remove nor replace what is read here when it has ended.
    with tempfile.TemporaryFile() as standard_input, tempfile.TemporaryFile() as output:
        try:
            Path(folder, "program.json").write_text(json.dumps(parts), encoding="utf-8")
            standard_input.write(given.encode("utf-8", "surrogatepass"))
            standard_input.seek(0)
            code = _wait(folder, reading, limits, stdin=standard_input, stdout=output)
        finally:
            os.close(reading)
            # shutil.rmtree goes no deeper than Python's stack
            subprocess.run(["rm", "-rf", folder], stderr=subprocess.DEVNULL, check=False)
        output.seek(0)
        printed = output.read(LONGEST + 1)
    return printed.decode(errors="replace"), word, code if len(printed) <= LONGEST else None


def _wait(folder: str, word: int, limits: Limits, **streams: Any) -> int | None:
    numbers = (word, math.ceil(limits.seconds), limits.memory, limits.written)
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", CHILD, *map(str, numbers)],
        cwd=folder,
        env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, **_ONE_THREAD},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(word,),
        **streams,
    )
    try:
        return process.wait(limits.seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


_ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
