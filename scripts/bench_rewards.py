"""Time the rewards on what a degenerate policy repeats up to the length limit.

    OMP_NUM_THREADS=1 python scripts/bench_rewards.py --json rewards.json

Processor time of 64 completions of 32,000 characters, in ms: of ordinary prose, and of the shape
that takes longest; and p in its time, seconds ~ characters^p, from 4,000 characters on.
"""

import argparse
import math
import random
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

BATCH = 64  # completions
CHARS = (4_000, 32_000)  # between which the exponent is taken
UNITS = {
    "openers": "<think>", "answers' openers": "<answer>", "closers": "</think>", "brackets": "<",
    "blocks": "<think>a</think>", "answers": "<answer>1</answer>", "spaces": " ", "lines": "a\n",
    "line breaks": "\n", "no shape": "\u200b", "markers": "####", "boxes": "\\boxed{",
    "displays": "\\[", "digits": "1", "letters": "a", "Chinese": "所以我们得到",
}  # fmt: skip
FEW_WORDS = ["so", "we", "get", "the", "sum", "then", "divide", "by", "hence", "both", "sides"]


def prose(chars: int) -> str:
    """Return an ordinary completion of that many characters."""
    return " ".join(random.Random(0).choices(FEW_WORDS, k=chars // 3))[:chars]


def shapes() -> dict[str, Callable[[int], str]]:
    """Return ordinary text, a right form, and what a degenerate policy repeats to the limit."""
    return {
        "prose": prose,
        "form": lambda chars: f"<think>{prose(chars - 33)}</think><answer>42</answer>",
        **{
            name: lambda chars, unit=unit: (unit * (chars // len(unit) + 1))[:chars]
            for name, unit in UNITS.items()
        },
    }


def contestants() -> dict[str, Callable[[list[str]], Any]]:
    """Return what is timed: rewards, and what some say of places, by name."""
    from grpo_credit import rewards as r

    form = r"(?s)<think>.+</think>\s*<answer>.+</answer>"
    tempered = r"(?s)<think>(?:(?!</think>).)+</think>\s*<answer>.+</answer>"
    formats = {
        "RegexReward": r.RegexReward(form),
        "RegexReward search": r.RegexReward(form, mode="search"),
        "RegexReward look-ahead": r.RegexReward(tempered),
        "RegexReward nested": r.RegexReward(r"(?s)<think>(.*?\n)*</think>"),
        "RegexReward count": r.RegexReward("<answer>.*?</answer>", mode="count", limit=5),
        "TagFormat": r.think_answer_format,
        "TagFormat tail": r.think_format,
    }
    answers = {
        f"{type(reward).__name__} {type(reward.extract).__name__}": reward
        for reward in (
            r.ExactAnswer(), r.NumericAnswer(), r.ChoiceAnswer(), r.NumericAnswer(r.InBox()),
            r.NumericAnswer(r.AfterMarker()), r.NumericAnswer(r.WholeText()),
        )
    }  # fmt: skip
    others = {
        "RegexReward prefix": r.RegexReward(form, partial="prefix"),
        "RegexReward fuzzy": r.RegexReward(form, partial="fuzzy"),
        "Repetition 3": r.Repetition(3),
        "Repetition 20": r.Repetition(20),
        "gate": r.gate(r.NumericAnswer(), by=r.think_answer_format),
        "JsonAnswer": r.JsonAnswer(),
        "ToolCalls": r.ToolCalls([{"name": "clock"}]),
        "LanguageConsistency": r.LanguageConsistency("en"),
    }
    every = {**formats, **others, **answers}
    calls: dict[str, Any] = {
        name: lambda texts, reward=reward: reward(texts, answer=["42"] * len(texts))
        for name, reward in every.items()
    }
    calls |= {f"{name}: spans": reward.spans for name, reward in formats.items()}
    return calls | {
        f"{name}: decided": formats[name].decided for name in ("RegexReward", "TagFormat")
    }


def cpu_ms(call: Callable[[list[str]], Any], text: str, rounds: int) -> float:
    """Return the processor time of a batch of one text, in ms; the least of some rounds."""
    texts = [text[:-1] + chr(97 + row % 26) for row in range(BATCH)]
    timer = time.process_time
    return 1e3 * min(timeit.repeat(lambda: call(texts), timer=timer, number=1, repeat=rounds))


def measure(call: Callable[[list[str]], Any], rounds: int) -> dict[str, Any]:
    """Time what is called on prose and on every shape, the worst shape again at both lengths."""
    call(["<think>a</think><answer>b</answer>", "x"])  # what is made once
    made = shapes()
    times = {shape: cpu_ms(call, text(CHARS[1]), 1) for shape, text in made.items()}
    worst = max(times, key=times.__getitem__)
    short, long = (cpu_ms(call, made[worst](chars), rounds) for chars in CHARS)
    exponent = math.log(long / short) / math.log(CHARS[1] / CHARS[0])
    return {"prose": times["prose"], "worst": long, "shape": worst, "exponent": exponent}


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    asked = parser.parse_args()
    found = {}
    for name, call in contestants().items():
        found[name] = measure(call, asked.rounds)
        print(name, found[name], flush=True)
    figures = pd.DataFrame.from_dict(found, orient="index")
    print(figures.to_string(float_format="{:.3g}".format))
    if asked.json:
        figures.to_json(asked.json, orient="index", indent=2)


if __name__ == "__main__":
    main()
