"""One optimizer step: which rows of which generation batches it trains on, and its credit table."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.rollouts import Rollouts


@dataclass(frozen=True)
class Generation:
    """One generation batch over all ranks: what strategies see of it, and its texts."""

    rollouts: Rollouts
    prompts: list[Any]
    completions: list[Any]


@dataclass(frozen=True)
class Window:
    """The generations that an optimizer step draws on.

    Args:
        rollouts: all their completions, with `window_count` set.
        prompts: as the data set has them, one per row of `rollouts`.
        completions: texts or messages, likewise.
    """

    rollouts: Rollouts
    prompts: list[Any]
    completions: list[Any]

    @classmethod
    def join(cls, generations: list[Generation], used: Tensor) -> "Window":
        """Join generations; `used` holds the row numbers of every micro-batch of every rank."""
        joined = Rollouts.cat([generation.rollouts for generation in generations])
        return cls(
            replace(joined, window_count=torch.bincount(used, minlength=len(joined.advantages))),
            [prompt for generation in generations for prompt in generation.prompts],
            [completion for generation in generations for completion in generation.completions],
        )


def first_rows(generations: dict[int, Generation]) -> dict[int, int]:
    """Say where each generation's rows begin once they are joined in order."""
    ends = accumulate(len(g.rollouts.advantages) for g in generations.values())
    return dict(zip(generations, [0, *ends], strict=False))


def credit_table(
    window: Window, credit: Float[Tensor, "B T"], tokenizer: Any, step: int
) -> pd.DataFrame:
    """Lay out the credit that an optimizer step was trained on, one completion a row.

    Columns: step, row (in the generation batches, all ranks), times (used in this step), group,
    prompt, completion, reward, advantage (before credit), and per token up to the last counted one:
    token_ids, tokens (text), counted, credit.
    """
    rollouts = window.rollouts
    text_of = {i: tokenizer.decode([i]) for i in rollouts.completion_ids.unique().tolist()}
    lines = []
    for row in (rollouts.window_count > 0).nonzero().flatten().tolist():
        places = rollouts.mask[row].nonzero().flatten()
        end = int(places[-1]) + 1 if places.numel() else 0
        ids = rollouts.completion_ids[row, :end].tolist()
        lines.append(
            {
                "step": step,
                "row": row,
                "times": int(rollouts.window_count[row]),
                "group": int(rollouts.group[row]),
                "prompt": window.prompts[row],
                "completion": window.completions[row],
                "reward": float(rollouts.rewards[row]),
                "advantage": float(rollouts.advantages[row]),
                "token_ids": ids,
                "tokens": [text_of[i] for i in ids],
                "counted": rollouts.mask[row, :end].tolist(),
                "credit": credit[row, :end].tolist(),
            }
        )
    return pd.DataFrame(lines)
