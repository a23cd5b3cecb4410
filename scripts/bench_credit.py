"""Time every registered rule, and say how its time grows with the length of the completions.

    python scripts/bench_credit.py
    python scripts/bench_credit.py tree_td ktae --json bench.json

One thread. Synthetic rollouts with every optional field: groups of 8 that share beginnings, lengths
log-normal with median T/3 and a longest of T. An allocation is timed with `dapo`, an aggregation
with `even`. The exponent p is the slope of the straight line through (log T, log seconds), so that
seconds ~ T^p.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit import Rollouts, list_credit, resolve_credit
from grpo_credit.strategy import Strategy

GROUP = 8
WORDS = [*(f"w{i:03d} " for i in range(995)), "wait ", "but, ", "hence", "42, \n", "1+2= "]
CHARACTERS = 5  # of every word; a word is a token


def progress(rollouts: Rollouts) -> Tensor:
    """Give a potential: the share of the length limit that is used up."""
    return pad(rollouts.mask.cumsum(dim=1), (1, 0)) / rollouts.max_completion_length


# What a rule must be given because it has no default of its own.
OPTIONS: dict[str, dict[str, Any]] = {
    "potential": {"function": progress},
    "softmax_length": {"lam": 1.0},
}


def synthetic(completions: int, tokens: int) -> Rollouts:
    """Make rollouts with every optional field, the same ones every time."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randn(completions, generator=draw).mul(0.6).exp().mul(tokens / 3)
    lengths = lengths.long().clamp(1, tokens)
    lengths[0] = tokens
    ids = torch.randint(len(WORDS), (completions, tokens), generator=draw)
    shared = torch.rand(completions, 1, generator=draw) * lengths[:, None] / 2
    first_of_group = torch.arange(completions) // GROUP * GROUP
    ids = torch.where(torch.arange(tokens) < shared, ids[first_of_group], ids)
    rollouts = Rollouts.from_lists(
        lengths.tolist(),
        torch.randint(2, (completions,), generator=draw).tolist(),
        num_generations=GROUP,
        max_completion_length=tokens,
        completion_ids=[row[:n] for row, n in zip(ids.tolist(), lengths.tolist(), strict=True)],
    )
    return replace(rollouts, **optional_fields(rollouts, draw))


def optional_fields(rollouts: Rollouts, draw: torch.Generator) -> dict[str, Any]:
    """Fill the optional fields with plausible numbers."""
    mask, lengths = rollouts.mask, rollouts.mask.sum(dim=1, keepdim=True)
    entropies = torch.rand(mask.shape, generator=draw)
    place = torch.arange(mask.shape[1] + 1).minimum(lengths)
    ids = rollouts.completion_ids.tolist()
    step_ends = mask & (rollouts.position % 50 == 49)
    return {
        "old_logps": -entropies,
        "entropies": entropies,
        "sum_sq_probs": 1 - entropies / 2,
        "privileged_logps": -entropies.square(),
        "spans": {
            "reward/opening": mask & (rollouts.position < 5),
            "reward/answer": mask & (rollouts.position >= lengths - 10),
        },
        "decided": (lengths + 1) // 2,
        "states": place // 16,
        "step_rewards": torch.where(step_ends, entropies, torch.nan),
        "texts": tuple(
            "".join(WORDS[i] for i in row[:n])
            for row, n in zip(ids, lengths.flatten().tolist(), strict=True)
        ),
        "offsets": CHARACTERS * torch.stack([place[:, :-1], place[:, 1:]], dim=2),
    }


def seconds(strategy: Strategy, rollouts: Rollouts, repeats: int) -> float:
    """Return the shortest time of several, after one more to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        strategy.credit(rollouts)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def exponent(sizes: list[int], times: list[float]) -> float:
    """Fit seconds ~ size^p."""
    logs = [[math.log(value) for value in values] for values in (sizes, times)]
    return statistics.linear_regression(*logs).slope


def measure(names: list[str], completions: int, sizes: list[int], repeats: int) -> dict[str, Any]:
    """Time strategies at every size, one size after the other."""
    strategies = {name: resolve_credit(name, **OPTIONS.get(name, {})) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for tokens in sizes:
        rollouts = synthetic(completions, tokens)
        for name, strategy in strategies.items():
            times[name].append(seconds(strategy, rollouts, repeats))
    return {
        name: {"seconds": dict(zip(sizes, found, strict=True)), "exponent": exponent(sizes, found)}
        for name, found in times.items()
    }


def table(found: dict[str, Any], completions: int, sizes: list[int]) -> Table:
    """Lay the times out, milliseconds."""
    shown = Table(title=f"milliseconds, {completions} completions", title_justify="left")
    for column in ("rule", *(f"T={tokens}" for tokens in sizes), "exponent"):
        shown.add_column(column, justify="left" if column == "rule" else "right")
    for name, row in found.items():
        times = (f"{1000 * row['seconds'][tokens]:.1f}" for tokens in sizes)
        shown.add_row(name, *times, f"{row['exponent']:.2f}")
    return shown


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("rules", nargs="*", help="names (default: every registered rule)")
    parser.add_argument("--completions", type=int, default=1024, help="a multiple of 8")
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write seconds and exponents")
    asked = parser.parse_args()
    if len(set(asked.tokens)) < 2 or asked.completions % GROUP:
        parser.error("two lengths are needed for an exponent, and completions in groups of 8")
    torch.set_num_threads(1)
    names = asked.rules or [rule.name for rule in list_credit()]
    found = measure(names, asked.completions, asked.tokens, asked.repeats)
    Console().print(table(found, asked.completions, asked.tokens))
    if asked.json:
        about = {"completions": asked.completions, "threads": 1, "torch": torch.__version__}
        asked.json.write_text(json.dumps({**about, "rules": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
