"""Rules that bear a paper's name against its own formula, written anew in the authors' order."""

import itertools
import random
import statistics
from dataclasses import replace

import pytest
import torch

from grpo_credit import Rollouts, compute_credit, resolve_credit

LIMIT = 9
SEEDS = range(6)


def sampled(seed, scale_rewards="group", shortest=1):
    """Give three groups of four short completions over two tokens, with rewards 0 or 1."""
    rng = random.Random(seed)
    tokens = [[rng.randint(1, 2) for _ in range(rng.randint(shortest, 6))] for _ in range(12)]
    rewards = [float(rng.random() < 0.5) for _ in tokens]
    return tokens, rewards, Rollouts.from_lists(
        [len(row) for row in tokens], rewards, num_generations=4, max_completion_length=LIMIT,
        completion_ids=tokens, scale_rewards=scale_rewards, dtype=torch.float64,
    )  # fmt: skip


def matrix(rows):
    width = max(1, *(len(row) for row in rows))
    padded = [[*row, *[0.0] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.float64)


# ---- aggregations -------------------------------------------------------------------------------


def verl(mode, losses, factor=LIMIT):
    """Aggregate lists of token losses as verl of January 2026 does, without a global batch size."""
    present = [row for row in losses if row]
    if mode == "token-mean":
        return sum(map(sum, losses)) / sum(map(len, losses))
    if mode == "seq-mean-token-sum":
        return sum(map(sum, present)) / len(present)
    if mode == "seq-mean-token-mean":
        return sum(sum(row) / (len(row) + 1e-8) for row in present) / len(present)
    return sum(map(sum, losses)) / factor  # seq-mean-token-sum-norm: no mean over completions


MODES = {
    "dapo": "token-mean",
    "seq": "seq-mean-token-sum",
    "length": "seq-mean-token-mean",
    "uniform": "seq-mean-token-sum-norm",
}


def aggregated(name, rollouts, losses):
    return float((resolve_credit(name).weights(rollouts) * matrix(losses)).sum())


@pytest.mark.parametrize("shortest", [1, 0])
@pytest.mark.parametrize(("name", "mode"), MODES.items())
def test_aggregations_are_verls_up_to_what_divides_the_sum(name, mode, shortest):
    """Verl leaves out of N the completions without a token, and `-norm` has no 1/N at all."""
    tokens, _, rollouts = sampled(5, shortest=shortest)
    rng = random.Random(1)
    losses = [[rng.gauss(0, 1) for _ in row] for row in tokens]
    present, n = sum(map(bool, tokens)), len(tokens)
    assert (present < n) == (shortest == 0)
    ours_over_verls = {"dapo": 1, "uniform": 1 / n}.get(name, present / n)
    expected = ours_over_verls * verl(mode, losses)
    assert aggregated(name, rollouts, losses) == pytest.approx(expected, rel=1e-7)  # verl's 1e-8


@pytest.mark.parametrize("alpha", [1.0, 0.75])
@pytest.mark.parametrize("seed", SEEDS)
def test_delta_l_is_its_authors_times_the_limit(alpha, seed):
    """They scale each advantage by its (L / mean L)^-α over the mean of those, then sum / (N M)."""
    tokens, _, rollouts = sampled(seed)
    lengths = [len(row) for row in tokens]
    inverse = [(n / statistics.fmean(lengths)) ** -alpha for n in lengths]
    scaled = [
        float(a) * r / statistics.fmean(inverse)
        for a, r in zip(rollouts.advantages, inverse, strict=True)
    ]
    theirs = matrix([[a / (len(tokens) * LIMIT)] * n for a, n in zip(scaled, lengths, strict=True)])
    found = compute_credit("delta_l", rollouts, alpha=alpha)
    torch.testing.assert_close(found, theirs * LIMIT, rtol=1e-12, atol=1e-15)


# ---- trees --------------------------------------------------------------------------------------


def shares(members, start=0):
    """Split (row, tokens) by their tokens from `start` on: 1 / members for each token of a row."""
    found = {}
    for _, like in itertools.groupby(
        sorted(members, key=lambda m: m[1][start : start + 1]), lambda m: m[1][start : start + 1]
    ):
        branch = list(like)
        going = [m for m in branch if len(m[1]) > start]
        below = shares(going, start + 1) if going else {}
        for row, tokens in branch:
            own = [1 / len(branch)] if len(tokens) > start else []
            found[row] = own + below.get(row, [])
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_prefix_tree_is_the_authors_tree(seed):
    tokens, _, rollouts = sampled(seed)
    members = [*enumerate(tokens)]
    found = [shares(members[first : first + 4]) for first in (0, 4, 8)]
    expected = matrix([found[row // 4][row] for row in range(12)])
    credit = compute_credit("prefix_tree/seq", rollouts) * 12
    torch.testing.assert_close(credit, rollouts.advantages[:, None] * expected)


@pytest.mark.parametrize("scale_rewards", ["group", "none"])
@pytest.mark.parametrize("seed", SEEDS)
def test_tempo_is_its_authors(seed, scale_rewards):
    """They narrow the branch token by token: (R - mean + mean of branch - of its parent) / std."""
    tokens, rewards, rollouts = sampled(seed, scale_rewards)
    rows = []
    for i, written in enumerate(tokens):
        group = range(i // 4 * 4, i // 4 * 4 + 4)
        mean = statistics.fmean(rewards[k] for k in group)
        std = statistics.stdev(rewards[k] for k in group) + 1e-4 if scale_rewards == "group" else 1
        parent, row = list(group), []
        for j, token in enumerate(written):
            branch = [k for k in parent if tokens[k][j : j + 1] == [token]]
            step = statistics.fmean(rewards[k] for k in branch)
            step -= statistics.fmean(rewards[k] for k in parent)
            row.append((rewards[i] - mean + step) / std)
            parent = branch
        rows.append(row)
    found = compute_credit("tempo/seq", rollouts) * 12
    torch.testing.assert_close(found, matrix(rows), rtol=1e-9, atol=1e-12)


# ---- traces -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "floor"), [("recent", 0.0), ("both", 0.0), ("recent", 0.3)])
def test_trace_is_the_gradient_of_the_traced_ratios_but_for_its_length(style, floor):
    """At the sampling policy: Σ_s A exp(Σ_{t ≤ s} e(s, t) (log π_t - log π_old,t))."""
    decay, n, advantage = 0.8, 7, -1.5
    logps = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logps.requires_grad_(True)
    total = torch.zeros((), dtype=torch.float64)
    for s in range(n):
        exponent = torch.zeros((), dtype=torch.float64)
        for t in range(s + 1):
            eligible = max(decay ** (s - t), floor, decay**t if style == "both" else 0)
            exponent = exponent + eligible * (logps[t] - logps[t].detach())
        total = total + advantage * exponent.exp()
    (theirs,) = torch.autograd.grad(total, logps)
    rollouts = Rollouts.from_lists(
        [n, 1], [0.0, 1.0], num_generations=2, max_completion_length=LIMIT,
        advantages=[advantage, 1.5], dtype=torch.float64,
    )  # fmt: skip
    options = {"decay": decay, "style": style, "floor": floor}
    found = 2 * compute_credit("trace/seq", rollouts, **options)[0]
    torch.testing.assert_close(found / found.sum(), theirs / theirs.sum())


# ---- token types --------------------------------------------------------------------------------

RIGHT = [[1, 2, 3, 4], [1, 2, 5], [1, 6, 3, 2], [7, 2, 3, 1]]
WRONG = [[1, 6, 6], [5, 6, 7, 6], [1, 7, 5, 4], [6, 5, 7, 7]]
# Of tokens 1 to 7, by the authors' code in float32. No token that counts has a table with p = 1.
KTAE = [0.3738697, 1.0000000, 1.0000000, 0.0000000, -0.3999223, -0.5851176, -0.5024128]


def test_ktae_has_the_values_of_its_authors_code():
    written = RIGHT + WRONG
    rollouts = Rollouts.from_lists(
        [len(row) for row in written], [1.0] * 4 + [0.0] * 4, num_generations=8,
        max_completion_length=4, completion_ids=written, dtype=torch.float64,
    )  # fmt: skip
    rollouts = replace(rollouts, truncated=torch.ones(8).bool())  # no token is an end
    found = 8 * compute_credit("ktae/seq", rollouts) - rollouts.advantages[:, None]
    expected = matrix([[KTAE[token - 1] for token in row] for row in written])
    torch.testing.assert_close(found * rollouts.mask, expected, rtol=0, atol=1e-6)
