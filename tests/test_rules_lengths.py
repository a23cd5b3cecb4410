"""Aggregations by length, prompt and sign: by hand, by slow loops, identities."""

import math
import statistics
from dataclasses import replace

import pytest
import torch
from drawn import NAN, close, one_group, random_rollouts

from grpo_credit import CreditError, compute_credit, resolve_credit

RULES = [
    ("prompt", {}),
    ("delta_l", {}),
    ("delta_l", {"alpha": 0.75}),
    ("delta_l", {"alpha": 0.0}),
    ("balanced", {}),
    ("softmax_length", {"lam": 1.0}),
    ("softmax_length", {"lam": -5.0}),
    ("softmax_length", {"lam": 7.0}),
]


def of_lengths(lengths, rewards=None, **changes):
    return one_group(lengths, rewards or [i % 2 for i in range(len(lengths))], **changes)


def weights(rule, rollouts, **options):
    return resolve_credit(rule, **options).weights(rollouts).flatten()


# ---- slow loops: every completion is repeated as often as the window trains on it ---------------


def window(rollouts):
    """List (group, sign of the advantage, length) of every completion of the window."""
    rows = zip(
        rollouts.group.tolist(),
        rollouts.advantages.sign().tolist(),
        [sum(row) for row in rollouts.mask.tolist()],
        rollouts.window_count.tolist(),
        strict=True,
    )
    return [(g, s, n) for g, s, n, count in rows for _ in range(count)]


def slow_prompt(g, s, n, everyone):
    prompts = len({other for other, _, _ in everyone})
    return 1 / (prompts * sum(length for other, _, length in everyone if other == g))


def slow_delta_l(g, s, n, everyone, alpha=1.0):
    return n**-alpha / sum(length**-alpha for _, _, length in everyone if length)


def slow_balanced(g, s, n, everyone):
    prompts = len({other for other, _, _ in everyone})
    group = [(sign, length) for other, sign, length in everyone if other == g]
    same = [length for sign, length in group if sign == s]
    return len(same) / len(group) / sum(same) / prompts


def slow_softmax_length(g, s, n, everyone, lam):
    lengths = [length for other, _, length in everyone if other == g and length]
    std = statistics.stdev(lengths) if len(lengths) > 1 else 0.0

    def power(length):
        z = (length - statistics.fmean(lengths)) / std if std else 0.0
        return (1 + z / 9) ** lam

    share = math.exp(power(n)) / sum(math.exp(power(length)) for length in lengths)
    return len(lengths) * share / sum(length for _, _, length in everyone)


SLOW = {
    "prompt": slow_prompt,
    "delta_l": slow_delta_l,
    "balanced": slow_balanced,
    "softmax_length": slow_softmax_length,
}


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("seed", range(12))
def test_the_weights_equal_their_loop(rule, options, seed):
    rollouts = random_rollouts(seed)
    found, everyone = weights(rule, rollouts, **options), window(rollouts)
    compared = 0
    for row, count in enumerate(rollouts.window_count.tolist()):
        n = int(rollouts.lengths[row])
        if count and n:
            g, s = int(rollouts.group[row]), float(rollouts.advantages[row].sign())
            expected = SLOW[rule](g, s, n, everyone, **options)
            assert float(found[row]) == pytest.approx(expected, rel=1e-12)
            compared += 1
    assert compared


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("window_count", [[0, 0], [1, 0], [1, 1]])
def test_a_window_without_tokens_has_finite_weights(rule, options, window_count):
    rollouts = of_lengths([0, 4], window_count=torch.tensor(window_count))
    found = weights(rule, rollouts, **options)
    assert found.isfinite().all()


# ---- by hand ------------------------------------------------------------------------------------

# A known group: net mass Σ C of its advantages ±0.9129 (three of six right, unbiased std).
KNOWN = {"lengths": [4, 4, 9, 3, 5, 8], "rewards": [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]}
NET_MASS = [  # 13 tokens right, 20 wrong
    ("prompt", {}, 0.9129 * -7 / 33),
    ("dapo", {}, 0.9129 * -7 / 33),
    ("seq", {}, 0.9129 * -7 / 6),
    ("balanced", {}, 0.0),
    ("delta_l", {}, 0.0),
    ("delta_l", {"alpha": 0.75}, -0.20),
]


@pytest.mark.parametrize(("rule", "options", "expected"), NET_MASS)
def test_the_net_mass_of_a_known_group(rule, options, expected):
    found = float(compute_credit(rule, of_lengths(**KNOWN), **options).sum())
    assert found == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("lam", "factors"),
    [(-5.0, [1.99, 0.61, 0.94, 0.47]), (0.0, [1, 1, 1, 1]), (5.0, [0.49, 1.01, 0.66, 1.85])],
)
def test_softmax_length_has_the_published_factors(lam, factors):
    found = 24 * weights("softmax_length", of_lengths([3, 7, 5, 9]), lam=lam)
    assert found.tolist() == pytest.approx(factors, abs=0.006)


# ---- identities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_one_prompt_in_the_window_makes_prompt_dapo(seed):
    rollouts = random_rollouts(seed)
    single = replace(rollouts, group=torch.zeros_like(rollouts.group))
    close(weights("prompt", single), weights("dapo", single))


def test_delta_l_between_seq_and_length():
    rollouts = of_lengths([2, 3, 6])
    close(weights("delta_l", rollouts, alpha=0.0), weights("seq", rollouts))
    # harmonic mean: 3 / (1/2 + 1/3 + 1/6) = 3
    close(weights("delta_l", rollouts, alpha=1.0), 3 * weights("length", rollouts))
    same = of_lengths([5, 5, 5])
    close(weights("delta_l", same, alpha=0.6), weights("seq", same))


@pytest.mark.parametrize("seed", range(6))
def test_balanced_weighs_a_prompt_as_prompt_does(seed):
    """Its tokens weigh 1/P together, and a group without signal is weighed alike."""
    rollouts = random_rollouts(seed)
    rollouts = replace(rollouts, mask=rollouts.mask | (rollouts.position == 0))  # no empty rows
    mass = weights("balanced", rollouts) * rollouts.lengths * rollouts.window_count
    for group in rollouts.group[rollouts.window_count > 0].unique():
        assert float(mass[rollouts.group == group].sum() * rollouts.num_prompts) == pytest.approx(1)
    dead = replace(rollouts, advantages=0 * rollouts.advantages)
    here = rollouts.window_count > 0
    close(weights("balanced", dead)[here], weights("prompt", dead)[here])


@pytest.mark.parametrize("right", [1, 3, 5])
def test_balanced_has_no_net_mass_where_both_signs_are_present(right):
    rewards = [1.0] * right + [0.0] * (6 - right)
    credit = compute_credit("balanced", of_lengths([9, 1, 4, 6, 2, 7], rewards))
    assert float(credit.sum()) == pytest.approx(0, abs=1e-12)
    assert float(credit.clamp(min=0).sum()) > 0.1


def test_balanced_looks_at_the_signs():
    rollouts = of_lengths([1, 2, 3, 4])
    other = replace(rollouts, advantages=-rollouts.advantages.abs())
    assert not torch.allclose(weights("balanced", rollouts), weights("balanced", other))


def test_softmax_length_of_equal_lengths_is_dapo():
    rollouts = of_lengths([6, 6, 6, 0])
    close(weights("softmax_length", rollouts, lam=9.0)[:3], weights("dapo", rollouts)[:3])


@pytest.mark.parametrize("lam", [-100.0, 0.5, 100.0])
def test_softmax_length_stays_finite_at_its_limits(lam):
    for lengths in ([1] * 99 + [5000], [5000] * 99 + [1]):
        rollouts = of_lengths(lengths)
        factors = weights("softmax_length", rollouts, lam=lam) * rollouts.num_tokens
        assert float(factors.sum()) == pytest.approx(100)


def test_a_masked_row_does_not_shrink_the_others():
    rollouts = of_lengths([100, 100, 0])
    close(weights("delta_l", rollouts), [1 / 2, 1 / 2, 0])


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("delta_l", {"alpha": -0.1}, "alpha is -0.1, expected 0 to 10"),
        ("delta_l", {"alpha": NAN}, "alpha is nan, expected 0 to 10"),
        ("delta_l", {"alpha": 11.0}, "alpha is 11, expected 0 to 10"),
        ("softmax_length", {"lam": math.inf}, "lam is inf, expected -100 to 100"),
        ("softmax_length", {"lam": -101.0}, "lam is -101, expected -100 to 100"),
        ("softmax_length", {}, "'softmax_length' needs the option 'lam'"),
    ],
)
def test_options_out_of_range_are_refused(rule, options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit(rule, of_lengths([1, 2]), **options)
