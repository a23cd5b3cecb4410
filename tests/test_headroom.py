"""How much credit can help: the equations, against enumeration and a linear program."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from grpo_credit.credit.headroom import effective_tokens, even_stakes, least_stakes

PREFIXES = [prefix for length in range(3) for prefix in product((0, 1), repeat=length)]
WHOLE = list(product((0, 1), repeat=3))


def uncertain(*rows):
    """Rows of one prompt's completions, (1, G, T)."""
    return torch.tensor([rows], dtype=torch.float64)


def counted_out(seed):
    """A policy in quarters, each completion as often as it comes in 64; and a reward of each."""
    rng = np.random.default_rng(seed)
    ones = {prefix: int(rng.integers(1, 4)) for prefix in PREFIXES}  # quarters of a 1
    worth = dict(zip(WHOLE, rng.integers(0, 3, len(WHOLE)) / 2.0, strict=True))

    def quarters(whole, t):
        return ones[whole[:t]] if whole[t] else 4 - ones[whole[:t]]

    times = [math.prod(quarters(whole, t) for t in range(3)) for whole in WHOLE]
    return ones, worth, [whole for whole, n in zip(WHOLE, times, strict=True) for _ in range(n)]


def value(rows, worth, prefix):
    through = [worth[row] for row in rows if row[: len(prefix)] == prefix]
    return sum(through) / len(through)


@pytest.mark.parametrize("seed", range(20))
def test_no_reward_leaves_more_headroom_than_the_bound(seed):
    ones, worth, rows = counted_out(seed)
    h = [[1 - (p**2 + (1 - p) ** 2) for t in range(3) for p in [ones[row[:t]] / 4]] for row in rows]
    true = [
        [(value(rows, worth, row[: t + 1]) - value(rows, worth, row[:t])) ** 2 for t in range(3)]
        for row in rows
    ]
    rewards = torch.tensor([worth[row] for row in rows], dtype=torch.float64)
    chances = torch.full_like(rewards, 1 / 64)
    variance, spread = rewards.var(correction=0), float(rewards.max() - rewards.min())
    assert float(chances @ torch.tensor(true).double().sum(1)) == pytest.approx(float(variance))
    open_to, deviation = uncertain(*h), rewards - rewards.mean()
    least = least_stakes(variance[None], open_to, spread)

    def tokens(stakes):
        return effective_tokens(chances, deviation, open_to[0], stakes)

    assert tokens(torch.tensor(true).double()) <= tokens(least[0]) * (1 + 1e-9)
    assert float(least.sum()) / 64 == pytest.approx(float(variance))


@pytest.mark.parametrize("seed", range(5))
def test_the_least_stakes_solve_the_linear_program(seed):
    rng = np.random.default_rng(seed)
    h = uncertain(*rng.random((3, 4)).round(2))
    variance = float(rng.random() / 4)
    found = linprog(
        h.flatten().numpy(), A_eq=np.ones((1, 12)), b_eq=[3 * variance],
        bounds=[(0, 2.0 * x) for x in h.flatten().tolist()],  # a range of 2: 2² / 2
    )  # fmt: skip
    least = least_stakes(torch.tensor([variance]).double(), h, 2.0)
    assert float((h * least).sum()) == pytest.approx(found.fun)


def test_equally_uncertain_tokens_count_one_each_and_forced_ones_nothing():
    h = uncertain([0.5, 0.0, 0.5, 0.5], [0.5, 0.5, 0.0, 0.5])
    variance, deviation = torch.tensor([0.5]).double(), torch.tensor([0.5, -0.5]).double()
    stakes = even_stakes(variance, h)
    assert float(stakes.sum(-1).mean()) == pytest.approx(0.5)  # they sum to the variance
    chances = torch.tensor([0.5, 0.5]).double()
    # Var R of the two is a quarter, twice of it at stake; 3 tokens: 0.25 · 1.5 / (0.5 · 0.5)
    assert effective_tokens(chances, deviation, h[0], stakes[0]) == pytest.approx(1.5)
    assert not even_stakes(variance, torch.zeros_like(h)).any()
