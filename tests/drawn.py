"""Rollouts drawn by chance, to hold rules to slow loops."""

import random

import torch

from grpo_credit import Rollouts
from grpo_credit.credit.rollouts import group_advantages

NAN = float("nan")


def random_rollouts(seed, largest=6, tokens=2):
    """Give groups of 1 to `largest` in any order, with whatever may happen.

    Tool tokens, empty rows, abstentions, truncation, other windows, noise where there is padding.
    """
    rng, columns = random.Random(seed), 7
    group = [label for label in (7, -3, 40) for _ in range(rng.randint(1, largest))]
    rng.shuffle(group)
    rows, lengths = len(group), [rng.randint(0, columns) for _ in group]
    rewards = torch.tensor([rng.choice([0.0, 0.25, 1.0, NAN]) for _ in group]).double()
    kept = torch.tensor(lengths)[:, None].minimum(torch.arange(columns + 1))
    path = torch.tensor([[rng.choice([0, -5, 10**15]) for _ in range(columns + 1)] for _ in group])
    draw = torch.Generator().manual_seed(seed)
    pi, noise = torch.rand(2, rows, columns, dtype=torch.float64, generator=draw)
    return Rollouts(
        completion_ids=torch.randint(tokens, (rows, columns), generator=draw),
        mask=torch.tensor(
            [[t < n and rng.random() > 0.2 for t in range(columns)] for n in lengths]
        ),
        advantages=group_advantages(rewards, torch.tensor(group)),
        rewards=rewards,
        rewards_per_func=rewards[:, None],
        reward_names=("reward",),
        group=torch.tensor(group),
        truncated=torch.tensor([rng.random() > 0.5 for _ in group]),
        max_completion_length=columns,
        window_count=torch.tensor([rng.choice([0, 1, 1, 2]) for _ in group]),
        old_logps=pi.log(),
        sum_sq_probs=pi**2 + noise * (1 - pi) ** 2,
        states=path.gather(1, kept),
    )
