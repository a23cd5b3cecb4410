"""Measure the rewards against TRL's on the same completions, side by side in one run.

    OMP_NUM_THREADS=1 python scripts/bench_rewards.py --json rewards.json

The two alternate, so that a busy machine slows both; figures are medians over rounds. Each round
of `bench_math` has new problems, as each step of a training run does: nothing is remembered that a
run would not remember. Needs math-verify (pip install 'grpo-credit[math]').
"""

import argparse
import functools
import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

GROUP = 8
PROMPTS = 32
FORMAT_BATCH = 256
FORMAT_CHARS = 2_000
FEW_WORDS = ["so", "we", "get", "the", "sum", "then", "divide", "by", "hence", "both", "sides"]


def seconds(function: Callable[[], Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def side_by_side(rounds: int, **contestants: Callable[[int], Any]) -> dict[str, list[float]]:
    """Time each contestant once per round, in turns, each round in another order."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(seconds(functools.partial(contestants[name], number)))
    return times


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
    """Return the median over rounds of how many times faster one is than the other."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


# ---- mathematics ------------------------------------------------------------------------------


def problem(rng: random.Random) -> tuple[str, list[str], list[str]]:
    """Return a right answer, other ways to write it, and wrong answers."""
    a, b, c = rng.randint(100, 9999), rng.randint(2, 99), rng.randint(2, 9)
    kinds = [
        (f"${a}$", [f"{a}", f"{a}.0"], [f"{a + 1}", f"-{a}"]),
        (rf"$\frac{{{a}}}{{{b}}}$", [rf"\frac{{{a * c}}}{{{b * c}}}"], [rf"\frac{{{b}}}{{{a}}}"]),
        (rf"${a}\sqrt{{{b}}}$", [rf"\sqrt{{{a * a * b}}}"], [rf"{a + 1}\sqrt{{{b}}}"]),
        (f"$x^2+{a + b}x+{a * b}$", [f"(x+{a})(x+{b})"], [f"(x+{a})(x-{b})"]),
        (f"$({a}, {b})$", [f"({a}, {b})"], [f"({b}, {a + b})"]),
        (rf"$[{c}, {a + c})$", [rf"[{c}, {a + c})"], [rf"({c}, {a + c})"]),
        (rf"$x = {a}$", [f"{a}", f"x={a}"], [f"{a - 1}"]),
    ]
    return rng.choice(kinds)


def math_batch(seed: int) -> tuple[list[Any], list[str]]:
    """Make groups of distinct completions, about half of them right, with their right answers."""
    rng = random.Random(seed)
    completions, solutions = [], []
    for _ in range(PROMPTS):
        gold, right, wrong = problem(rng)
        for _ in range(GROUP):
            prose = " ".join(rng.choice(FEW_WORDS) for _ in range(180))
            answer = rng.choice(rng.choice([right, wrong]))
            text = f"{prose} $x_1 = {rng.random():.6f}$. The answer is $\\boxed{{{answer}}}$."
            completions.append([{"role": "assistant", "content": text}])
            solutions.append(gold)
    return completions, solutions


def bench_math(rounds: int) -> dict[str, Any]:
    """Compare `MathAnswer` with TRL's `accuracy_reward`: completions per second."""
    from trl.rewards import accuracy_reward

    from grpo_credit.rewards import MathAnswer

    batches = [math_batch(seed) for seed in range(rounds)]
    two, one = MathAnswer(timeout=30), MathAnswer(timeout=30, processes=1)
    verdicts: dict[str, dict[int, list[Any]]] = {"trl": {}, "two": {}, "one": {}}

    def contestant(name: str, reward: Callable[..., list[Any]]) -> Callable[[int], None]:
        def call(number: int) -> None:
            completions, solutions = batches[number]
            verdicts[name][number] = reward(completions, solution=solutions)

        call_warm = math_batch(-1)
        reward(call_warm[0], solution=call_warm[1])
        return call

    rewards = {"trl": accuracy_reward, "two": two, "one": one}
    times = side_by_side(rounds, **{name: contestant(name, r) for name, r in rewards.items()})
    two.close()
    one.close()
    count = PROMPTS * GROUP
    return {
        "completions": count,
        "verdicts_equal": verdicts["trl"] == verdicts["two"] == verdicts["one"],
        "share_right": statistics.mean(v for batch in verdicts["trl"].values() for v in batch),
        "trl_per_s": count / statistics.median(times["trl"]),
        "two_processes_per_s": count / statistics.median(times["two"]),
        "one_process_per_s": count / statistics.median(times["one"]),
        "two_processes_times_trl": ratio(times, "trl", "two"),
        "one_process_times_trl": ratio(times, "trl", "one"),
    }


# ---- format -----------------------------------------------------------------------------------


def thought(chars: int, seed: int = 0) -> str:
    """Return an ordinary completion of that many characters, in TRL's format and ours."""
    rng = random.Random(seed)
    words = " ".join(rng.choice(FEW_WORDS) for _ in range(chars // 3))
    frame = "<think>{}</think>\nThe answer is 42."
    return frame.format(words[: chars - len(frame) + 2])


def bench_format(rounds: int) -> dict[str, Any]:
    """Compare `think_format` with TRL's `think_format_reward`: microseconds per completion."""
    from trl.rewards import think_format_reward

    from grpo_credit.rewards import think_format

    texts = [thought(FORMAT_CHARS, seed) for seed in range(FORMAT_BATCH)]
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    times = side_by_side(
        rounds, trl=lambda _: think_format_reward(chats), ours=lambda _: think_format(chats)
    )
    per_completion = 1e6 / FORMAT_BATCH
    return {
        "completions": FORMAT_BATCH,
        "characters": FORMAT_CHARS,
        "verdicts_equal": think_format_reward(chats) == think_format(chats),
        "trl_us": per_completion * statistics.median(times["trl"]),
        "ours_us": per_completion * statistics.median(times["ours"]),
        "ours_times_trl": ratio(times, "trl", "ours"),
    }


# ---- speed --------------------------------------------------------------------------------------

BATCH = 64  # completions
CHARS = (4_000, 32_000)  # between which the exponent is taken
UNITS = {
    "openers": "<think>", "answers' openers": "<answer>", "closers": "</think>", "brackets": "<",
    "blocks": "<think>a</think>", "answers": "<answer>1</answer>", "spaces": " ", "lines": "a\n",
    "line breaks": "\n", "no shape": "\u200b", "markers": "####", "boxes": "\\boxed{",
    "displays": "\\[", "digits": "1", "letters": "a", "Chinese": "所以我们得到",
}  # fmt: skip


def shapes() -> dict[str, Callable[[int], str]]:
    """Return ordinary text, a right form, and what a degenerate policy repeats to the limit."""
    return {
        "prose": lambda chars: " ".join(random.Random(0).choices(FEW_WORDS, k=chars // 3))[:chars],
        "form": lambda chars: thought(chars - 18) + "<answer>42</answer>",
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

    def timed() -> float:
        start = time.process_time()
        call(texts)
        return 1e3 * (time.process_time() - start)

    return min(timed() for _ in range(rounds))


def bench_speed(rounds: int) -> dict[str, Any]:
    """Time 64 completions of 32,000 characters: prose, the worst shape, and its exponent."""
    figures: dict[str, Any] = {}
    made = shapes()
    for name, call in contestants().items():
        call(["<think>a</think><answer>b</answer>", "x"])  # what is made once
        times = {shape: cpu_ms(call, text(CHARS[1]), 1) for shape, text in made.items()}
        worst = max(times, key=times.__getitem__)
        few = min(rounds, 3)
        long, short = (cpu_ms(call, made[worst](chars), few) for chars in reversed(CHARS))
        figures[f"{name}: prose, ms"] = times["prose"]
        figures[f"{name}: worst ({worst}), ms"] = long
        power = math.log(long / short) / math.log(CHARS[1] / CHARS[0])
        figures[f"{name}: exponent"] = power
        print(f"{name}: {times['prose']:.3g} ms, {worst} {long:.3g} ms, {power:.2f}", flush=True)
    return figures


# ---- report -----------------------------------------------------------------------------------


def report(results: dict[str, dict[str, Any]]) -> None:
    """Print one row per figure."""
    table = Table("benchmark", "figure", "value", title="rewards against TRL's, side by side")
    for name, figures in results.items():
        for figure, value in figures.items():
            shown = f"{value:.3g}" if isinstance(value, float) else str(value)
            table.add_row(name, figure, shown)
        table.add_section()
    Console().print(table)


def main() -> None:
    """Run the benchmarks that were asked for."""
    benchmarks = {"math": bench_math, "format": bench_format, "speed": bench_speed}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=benchmarks, help="run this one alone")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    chosen = [options.only] if options.only else list(benchmarks)
    results = {name: benchmarks[name](options.rounds) for name in chosen}
    report(results)
    if options.json:
        machine = {"python": platform.python_version(), "cores": os.cpu_count()}
        options.json.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
