"""Batches of a task: what a rule may see of them, and the truth about each token."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.lab.process import Solved, Task, Walk, solve, walk
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.transformer import character_tokenizer
from grpo_credit.trainer.reward_annotations import NEEDS, Annotations

CPU = torch.device("cpu")
DECISIVE = 0.01  # of a reward of 1: what moves the expected reward by less decides nothing


@dataclass(frozen=True)
class Batch:
    """Completions of a task, and the truth about each token.

    Args:
        rollouts: what a rule may see, whole groups.
        advantage: Q(s, a) - V(s) of each token, in units of reward; 0 after the completion.
    """

    rollouts: Rollouts
    advantage: Float[Tensor, "B T"]

    @cached_property
    def decisive(self) -> Bool[Tensor, "B T"]:
        """The tokens that move the expected reward by more than `DECISIVE`."""
        return self.advantage.abs() > DECISIVE

    @cached_property
    def sign(self) -> Float[Tensor, "B T"]:
        """1 where a deciding token helped, -1 where it hurt, 0 elsewhere."""
        return self.advantage.sign() * self.decisive


def draw(task: Task, sampling: Sampling, number: int = 0) -> Batch:
    """Draw a batch: prompts, completions by the task's policy, and what each token was worth."""
    rng = random.Random(f"{task.name} {sampling.seed} {number}")
    starts = [task.start(rng) for _ in range(sampling.groups)]
    solved = solve(task, starts)
    rows = solved.starts.repeat_interleave(sampling.num_generations)
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    written = walk(solved, rows, task.length, generator)
    prompts = [task.prompt(start) for start in starts for _ in range(sampling.num_generations)]
    advantage = solved.advantages[written.states, written.tokens]
    return Batch(
        _rollouts(task, solved, written, prompts, sampling.num_generations),
        torch.where(written.mask, advantage, 0.0),
    )


def _rollouts(
    task: Task, solved: Solved, written: Walk, prompts: Sequence[str], size: int
) -> Rollouts:
    """Build what a trainer would: the reward is called, and tells what it does, by the texts."""
    tokens, states, mask = written.tokens, written.states, written.mask
    end = len(task.alphabet)
    ids = torch.where(mask, tokens, end)
    texts = ["".join(task.alphabet[i] for i in row if i < end) for row in ids.tolist()]
    rewards = torch.tensor(task.reward(completions=texts, prompts=prompts), dtype=torch.float64)
    rows = [row[:n] for row, n in zip(ids.tolist(), mask.sum(1).tolist(), strict=True)]
    annotated = Annotations(
        [(task.name, task.reward)], [1.0], texts, rows, task.length,
        character_tokenizer(task.alphabet), {"prompts": prompts},
    ).find(NEEDS, CPU)  # fmt: skip
    group = torch.arange(len(rows)) // size
    probs = solved.probs
    entropies, squares = torch.special.entr(probs).sum(1), probs.square().sum(1)
    return Rollouts(
        completion_ids=ids,
        mask=mask,
        advantages=group_advantages(rewards, group, "none"),
        rewards=rewards,
        rewards_per_func=rewards[:, None],
        reward_names=(task.name,),
        group=group,
        truncated=~(ids == end).any(1),
        max_completion_length=task.length,
        scale_rewards="none",
        old_logps=torch.where(mask, probs[states, tokens].log(), 0.0),
        entropies=torch.where(mask, entropies[states], 0.0),
        sum_sq_probs=torch.where(mask, squares[states], 1.0),
        **annotated,
    )
