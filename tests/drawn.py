"""Rollouts drawn by chance and made by hand, to hold rules to slow loops and to arithmetic."""

import random
import statistics
from dataclasses import replace
from itertools import accumulate, pairwise

import torch

from grpo_credit import Rollouts, resolve_credit
from grpo_credit.credit import conformance
from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.turns import Turn

NAN = float("nan")
COLUMNS = 7
STATES = ["", "x", "y"]  # of turns; the first is unknown
REWARDS = {"tag": 1.0, "logged": 0.0, "tags": 2.0}  # and their weights


def random_rollouts(seed, scale_rewards="group", largest=6, tokens=2, with_turns=False):
    """Give groups of 1 to `largest` in any order, every field, and whatever may happen.

    Tool tokens, empty rows, abstentions of one function and of all, ties, truncation, other
    windows, steps that end in a tool's output, noise where there is padding.
    """
    rng, draw = random.Random(seed), torch.Generator().manual_seed(seed)
    group = [label for label in (7, -3, 40) for _ in range(rng.randint(1, largest))]
    rng.shuffle(group)
    lengths = [rng.randint(0, COLUMNS) for _ in group]
    inside = torch.tensor(lengths)[:, None] > torch.arange(COLUMNS)

    def per_token(draw_one):
        return torch.tensor([[draw_one() for _ in range(COLUMNS)] for _ in group])

    def noise(*size):
        return torch.rand(*size, len(group), COLUMNS, dtype=torch.float64, generator=draw)

    scores = [[rng.choice([0.0, 0.25, 1.0, NAN]) for _ in REWARDS] for _ in group]
    scores = [row if rng.random() > 0.2 else [NAN] * 3 for row in scores]
    rewards, total = torch.tensor(scores).double(), _total(scores)
    pieces = [[rng.choice(["", "a", "b ", "Wait", "wait,\n", "bb"]) for _ in range(n)]
              for n in lengths]  # fmt: skip
    path = torch.tensor([[rng.choice([0, -5, 10**15]) for _ in range(COLUMNS + 1)] for _ in group])
    kept = torch.tensor(lengths)[:, None].minimum(torch.arange(COLUMNS + 1))
    pi, spread, steps, privileged = noise(4)
    return Rollouts(
        completion_ids=torch.randint(tokens, inside.shape, generator=draw),
        mask=inside & (noise() > 0.2),
        advantages=group_advantages(total, torch.tensor(group), scale_rewards),
        rewards=total,
        rewards_per_func=rewards,
        reward_names=tuple(REWARDS),
        reward_weights=tuple(REWARDS.values()),
        group=torch.tensor(group),
        truncated=torch.tensor([rng.random() > 0.5 for _ in group]),
        max_completion_length=COLUMNS,
        window_count=torch.tensor([rng.choice([0, 1, 1, 2]) for _ in group]),
        scale_rewards=scale_rewards,
        old_logps=pi.log(),
        sum_sq_probs=pi**2 + spread * (1 - pi) ** 2,
        entropies=per_token(lambda: rng.choice([0.0, 0.25, 0.5, 2 * rng.random()])).double(),
        privileged_logps=torch.where(privileged < 0.1, -800.0, -2 * privileged),
        spans=dict(zip(("tag/open", "tag/close", "tags/all"), noise(3) < 0.2, strict=True)),
        decided=torch.tensor([[rng.randint(0, max(n, 1)) for _ in REWARDS] for n in lengths]),
        states=path.gather(1, kept),
        step_rewards=steps.where(inside & (noise() < 0.4), NAN),
        answer_logps=torch.cat([-2 * privileged, -pi[:, :1]], 1).where(path != -5, NAN),
        prefix_values=torch.cat([privileged, pi[:, :1]], 1).where(path != 0, NAN),
        texts=tuple(map("".join, pieces)),
        offsets=characters(pieces),
        ref_logps=3 * noise().log(),
        turns=tuple(_turns(rng, n) for n in lengths) if with_turns else None,
    )


def _turns(rng, length):
    """Cut a completion into turns: some touch, others are apart; of few states, some unknown."""
    places = sorted(rng.sample(range(length + 1), 2 * rng.randint(0, (length + 1) // 2)))
    touching = [(a, b) for a, b in pairwise(places) if rng.random() < 0.7]
    return tuple(
        Turn(a, b, rng.randint(a, b), rng.choice(["call", "answer"]), state=rng.choice(STATES))
        for a, b in touching
    )


def _total(scores):
    """Add what the functions give, by their weights; NaN where all abstain."""
    rewards = torch.tensor(scores).double()
    total = (rewards * torch.tensor([*REWARDS.values()])).nansum(dim=1)
    return total.masked_fill(rewards.isnan().all(dim=1), NAN)


def characters(pieces, columns=COLUMNS):
    """Return the half-open ranges of characters of the tokens with these texts."""
    ends = [[*accumulate(map(len, row), initial=0)] for row in pieces]
    padded = [row + row[-1:] * (columns + 1 - len(row)) for row in ends]
    return torch.tensor([[*pairwise(row)] for row in padded])


def one_group(completions, rewards, **changes):
    """Make one group in float64 of completions that are given by their tokens or their lengths."""
    tokens = [row if isinstance(row, list) else [*range(row)] for row in completions]
    lengths = [*map(len, tokens)]
    made = Rollouts.from_lists(
        lengths, rewards, num_generations=len(lengths), completion_ids=tokens,
        max_completion_length=max(9, *lengths), dtype=torch.float64,
    )  # fmt: skip
    return replace(made, **changes)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def close(found, expected):
    """Compare numbers of size one up to the rounding of float64."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def scored(rollouts):
    """List the rows that a function scored."""
    return [i for i, reward in enumerate(rollouts.rewards.tolist()) if reward == reward]


def broken(credit, **options):
    """Return the laws that a strategy is held to and breaks, and the counterexamples."""
    strategy = resolve_credit(credit, **options)
    binding = [law for law, promised, _ in conformance._laws(strategy) if promised]
    found = {law.__name__: conformance.counterexample(law, strategy) for law in binding}
    return {law: example for law, example in found.items() if example}


def slow_above_others(rollouts, earned, pool):
    """Write the to-go of `earned` less the mean of the others', times 1 - 1/n, in plain Python."""
    counted = {i: rollouts.mask[i].nonzero().flatten().tolist() for i in pool}

    def return_from(i, place):
        return sum(earned[i][counted[i][place] :])

    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i in pool:
        members = [j for j in pool if rollouts.group[j] == rollouts.group[i]]
        longest = max((len(counted[j]) for j in members if j != i), default=0)
        for place, t in enumerate(counted[i] if longest else []):
            there = min(place, longest - 1)
            others = [j for j in members if j != i and len(counted[j]) > there]
            baseline = statistics.fmean(return_from(j, there) for j in others)
            credit[i, t] = (1 - 1 / len(members)) * (return_from(i, place) - baseline)
    return credit
