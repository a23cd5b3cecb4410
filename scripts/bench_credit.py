"""Time every registered rule, and say how its time grows with the length of the completions.

    python scripts/bench_credit.py
    python scripts/bench_credit.py tree_td ktae --json bench.json

One thread, seconds of its processor, the least of several. Synthetic rollouts with every optional
field: groups of 8 that share beginnings, lengths log-normal with median T/3 and a longest of T. An
allocation is timed with `dapo`, an aggregation with `even`. To the credit is added what the rule
needs to be told: the tokens' texts, and a `RegexReward`'s answers about them; not what it needs of
the model. The exponent p is the slope of the straight line through (log T, log seconds), so that
seconds ~ T^p.
"""

import argparse
import functools
import json
import math
import statistics
import time
import timeit
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from grpo_credit import Rollouts, list_credit, resolve_credit
from grpo_credit.credit.turns import Turn
from grpo_credit.rewards import RegexReward, completion_text
from grpo_credit.trainer.reward_annotations import NEEDS, Annotations

GROUP = 8
WORDS = [*(f"w{i:03d} " for i in range(995)), "wait ", "but, ", "hence", "42, \n", "1+2= "]
CHARACTERS = 5  # of every word; a word is a token


def progress(rollouts: Rollouts) -> Tensor:
    """Return a potential: the share of the length limit that is used up."""
    return pad(rollouts.mask.cumsum(dim=1), (1, 0)) / rollouts.max_completion_length


# What a rule must be given because it has no default of its own.
OPTIONS: dict[str, dict[str, Any]] = {
    "potential": {"function": progress},
    "softmax_length": {"lam": 1.0},
    "lhts": {"tau": 0.5},
    "temper": {"tau": 0.5},
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
        "ref_logps": -entropies.sqrt(),
        "spans": {
            "reward/opening": mask & (rollouts.position < 5),
            "reward/answer": mask & (rollouts.position >= lengths - 10),
        },
        "decided": (lengths + 1) // 2,
        "states": place // 16,
        "step_rewards": torch.where(step_ends, entropies, torch.nan),
        "prefix_values": pad(torch.where(step_ends, entropies, torch.nan), (1, 0), value=torch.nan),
        "answer_logps": pad(-entropies, (1, 0), value=-1.0),
        "texts": tuple(
            "".join(WORDS[i] for i in row[:n])
            for row, n in zip(ids, lengths.flatten().tolist(), strict=True)
        ),
        "offsets": CHARACTERS * torch.stack([place[:, :-1], place[:, 1:]], dim=2),
        "turns": tuple(
            tuple(
                Turn(start, min(start + 50, n), start, "call", state=str(start % 7))
                for start in range(0, n, 50)
            )
            for n in lengths.flatten().tolist()
        ),
    }


class Teller(RegexReward):
    """Reward `42, ` at the end of a line, and every 50 tokens."""

    def __init__(self) -> None:
        super().__init__(r"42, \n", mode="search", name="reward")

    def steps(self, completions: list[str]) -> list[list[tuple[int, float]]]:
        """Reward each stretch of 50 tokens."""
        lengths = [len(completion_text(completion)) for completion in completions]
        width = 50 * CHARACTERS
        return [[(end, 0.1) for end in range(width, n + 1, width)] for n in lengths]


def tokenizer() -> PreTrainedTokenizerFast:
    """Make a byte-level tokenizer whose tokens are the words."""
    name_of = bytes_to_unicode()
    names = ["".join(name_of[byte] for byte in word.encode()) for word in WORDS]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, names[0]))
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def annotate(
    rollouts: Rollouts,
    ids: list[list[int]],
    needs: frozenset[str],
    words: PreTrainedTokenizerFast,
) -> None:
    """Ask a reward for what a rule needs, as the trainer does after scoring."""
    if not needs:
        return
    told = Annotations(
        [("reward", Teller())], [1.0], rollouts.texts or (), ids, rollouts.mask.size(1), words, {}
    )
    told.find(needs, rollouts.mask.device)


def shortest(work: Callable[[], Any], repeats: int) -> float:
    """Return the least processor time of several, in seconds, after one more to warm up."""
    _, *times = timeit.repeat(work, timer=time.process_time, number=1, repeat=repeats + 1)
    return min(times)


def exponent(sizes: list[int], times: list[float]) -> float:
    """Fit seconds ~ size^p."""
    logs = [[math.log(value) for value in values] for values in (sizes, times)]
    return statistics.linear_regression(*logs).slope


def measure(names: list[str], completions: int, sizes: list[int], repeats: int) -> dict[str, Any]:
    """Time strategies at every size, one size after the other."""
    strategies = {name: resolve_credit(name, **OPTIONS.get(name, {})) for name in names}
    found: dict[str, Any] = {name: {"seconds": {}, "told": {}} for name in names}
    words = tokenizer()
    for tokens in sizes:
        rollouts = synthetic(completions, tokens)
        lengths = rollouts.mask.sum(dim=1).tolist()
        ids = [row[:n] for row, n in zip(rollouts.completion_ids.tolist(), lengths, strict=True)]
        told = {
            needs: shortest(functools.partial(annotate, rollouts, ids, needs, words), repeats)
            for needs in {strategy.needs & NEEDS for strategy in strategies.values()}
        }
        for name, strategy in strategies.items():
            credit = shortest(functools.partial(strategy.credit, rollouts), repeats)
            found[name]["told"][tokens] = told[strategy.needs & NEEDS]
            found[name]["seconds"][tokens] = credit + found[name]["told"][tokens]
    for row in found.values():
        row["exponent"] = exponent(sizes, list(row["seconds"].values()))
    return found


def table(found: dict[str, Any], sizes: list[int]) -> pd.DataFrame:
    """Lay the times out, milliseconds."""
    rows = {
        name: {f"T={tokens}": 1000 * seconds for tokens, seconds in row["seconds"].items()}
        | {"of it told": 1000 * row["told"][sizes[-1]], "exponent": row["exponent"]}
        for name, row in found.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


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
    print(f"milliseconds, {asked.completions} completions")
    print(table(found, asked.tokens).to_string(float_format="{:.2f}".format))
    if asked.json:
        about = {"completions": asked.completions, "threads": 1, "torch": torch.__version__}
        asked.json.write_text(json.dumps({**about, "rules": found}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
