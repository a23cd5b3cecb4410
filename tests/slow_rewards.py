"""Functions and rewards that hang, die or fail: importable, so that worker processes find them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from rewards.contract import TextReward


def double(number):
    return 2 * number


def work(what):
    """Do what the text says; "hang" never leaves C code and never lets go of the GIL."""
    actions = {
        "hang": lambda: re.match(r"(a+)+b", "a" * 60),
        "exit": lambda: os._exit(3),
        "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
        "raise": lambda: 1 / 0,
        "print": lambda: print("noise"),
        "complain": lambda: print("trouble", file=sys.stderr),
        "function": lambda: lambda: None,
        "nothing": lambda: None,
        "memory": lambda: len(bytearray(100 * 2**30)),
        "huge": lambda: 10**400,
        "escape": lambda: int("\x1b[31m"),
    }
    return actions[what]() if what in actions else worth(what)


def worth(what):
    """Return a number that tells texts apart by their first bytes."""
    return float(int.from_bytes(what.encode(errors="surrogatepass")[:6], "big"))


def run_code(code):
    """Do what a verifier must not: run what it judges, and take a number from there."""
    scope = {"question": sys._getframe(1).f_locals["number"]}
    exec(code, scope)
    return scope["score"]


def supervisor(_):
    return os.getppid()


def note(path, line):
    """Leave a trace in a file that all processes share."""
    with open(path, "a") as file:
        file.write(line)


def child_of(marker):
    """Start a process that outlives its parent unless killed with it, then hang."""
    code = (
        f"import time; open({marker!r}, 'w').write(str(__import__('os').getpid())); time.sleep(600)"
    )
    subprocess.Popen([sys.executable, "-c", code])
    while not Path(marker).exists() or not Path(marker).read_text():
        time.sleep(0.01)
    work("hang")


def fail_to_start():
    raise FileNotFoundError("no licence for the checker")


def slow_start():
    time.sleep(1.5)


def length_reward(completions, **_):
    return [float(len(completion)) for completion in completions]


def work_reward(completions, **_):
    return [len(completion) if work(completion) else None for completion in completions]


def verdict_reward(completions, **_):
    """Score 1 for "4" and 0 for anything else; do what the text says."""
    return [float(text == "4") for text in completions if work(text)]


def data_reward(completions, answer, **_):
    return [float(work(each) == work(text)) for text, each in zip(completions, answer, strict=True)]


def allocates(completions, **_):
    return [len(bytearray(int(float(text) * 2**30))) / 2**30 for text in completions]


def column_reward(completions, answer, **_):
    return [
        float(completion == right) for completion, right in zip(completions, answer, strict=True)
    ]


def seen_reward(completions, **columns):
    """Name the columns that arrive by their number."""
    return [float(len(columns)) for _ in completions]


async def async_reward(completions, **_):
    return [0.0 for _ in completions]


class AsyncReward:
    async def __call__(self, completions, **_):
        return [0.0 for _ in completions]


class ReturnsReward:
    """Return what it was made with, whatever the completions."""

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, completions, **_):
        return self.scores


class PromptReward(TextReward):
    """Declare no column, and score whether a completion repeats its prompt."""

    def __init__(self):
        super().__init__("prompt_reward")

    def __call__(self, completions, *, prompts=None, **_):
        return [float(each == prompt) for each, prompt in zip(completions, prompts, strict=True)]


class ScoreReward:
    """Return the Python value of each completion as its score."""

    def __call__(self, completions, **_):
        values = {"nan": float("nan"), "inf": float("inf"), "text": "yes", "none": None}
        values["huge"] = 10**400
        return [values.get(completion, 0.5) for completion in completions]


class SpannedReward:
    """Declare a column, report spans, and score how many columns arrive, 10 more when warm."""

    __name__ = "spanned"
    columns = ("answer",)
    warm = False

    def __call__(self, completions, **columns):
        return [len(columns) + 10.0 * self.warm for _ in completions]

    def spans(self, completions):
        return [{"all": [(0, len(completion))]} for completion in completions]

    def warm_up(self):
        slow_start()
        self.warm = True
