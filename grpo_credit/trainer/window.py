"""One optimizer step, the *window*: which rows of which generation batches it trains on."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.rollouts import Rollouts


@dataclass(frozen=True)
class Generation:
    """One generation batch over all ranks: what strategies see of it, and its texts.

    Args:
        rollouts: of all ranks.
        advantages: (B, 1), or (B, T) where a subclass has one per token.
        prompts: as the data set has them, one per row of `rollouts`.
        completions: texts or messages, likewise.
        prompt_ids: token ids of the prompts; empty unless the rollouts are to be saved.
    """

    rollouts: Rollouts
    advantages: Float[Tensor, "B _"]
    prompts: list[Any]
    completions: list[Any]
    prompt_ids: list[list[int]]


@dataclass(frozen=True)
class Window:
    """The generations that an optimizer step draws on.

    Args:
        rollouts: all their completions, with `window_count` set.
        advantages: of each, (B, 1) or (B, T).
        prompts: as the data set has them, one per row of `rollouts`.
        completions: texts or messages, likewise.
        prompt_ids: token ids of the prompts, likewise; empty where they were not kept.
    """

    rollouts: Rollouts
    advantages: Float[Tensor, "B _"]
    prompts: list[Any]
    completions: list[Any]
    prompt_ids: list[list[int]]

    @classmethod
    def join(cls, generations: list[Generation], used: Tensor) -> "Window":
        """Join generations; `used` holds the row numbers of every micro-batch of every rank."""
        joined = Rollouts.cat([generation.rollouts for generation in generations])
        columns = max(generation.advantages.size(1) for generation in generations)
        return cls(
            replace(joined, window_count=torch.bincount(used, minlength=len(joined.advantages))),
            torch.cat([_widened(generation.advantages, columns) for generation in generations]),
            [prompt for generation in generations for prompt in generation.prompts],
            [completion for generation in generations for completion in generation.completions],
            [ids for generation in generations for ids in generation.prompt_ids]
            if all(generation.prompt_ids for generation in generations)
            else [],
        )


def _widened(advantages: Float[Tensor, "b _"], columns: int) -> Float[Tensor, "b columns"]:
    if advantages.size(1) == 1:
        return advantages.expand(-1, columns)
    return pad(advantages, (0, columns - advantages.size(1)))


def first_rows(generations: dict[int, Generation]) -> dict[int, int]:
    """Return where each generation's rows begin once they are joined in order."""
    ends = accumulate(len(g.rollouts.advantages) for g in generations.values())
    return dict(zip(generations, [0, *ends], strict=False))


def token_texts(rollouts: Rollouts, tokenizer: Any) -> list[list[str]]:
    """Return the text of each token of each completion, up to the last counted one."""
    text_of = {i: tokenizer.decode([i]) for i in rollouts.completion_ids.unique().tolist()}
    ends = (rollouts.mask.flip(1).cumsum(dim=1) > 0).sum(dim=1).tolist()
    ids = rollouts.completion_ids.tolist()
    return [[text_of[i] for i in row[:end]] for row, end in zip(ids, ends, strict=True)]
