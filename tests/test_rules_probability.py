"""Weights from the probability of each token: by hand, by slow loops, identities."""

import math
import statistics
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from drawn import NAN, close, double, one_group, random_rollouts

from grpo_credit import CreditError, Rollouts, compute_credit, resolve_credit

SEEDS = range(8)


def landed(rule, rollouts, **options):
    return resolve_credit(rule, **options).allocation(rollouts)


def likely(*rows, advantages, **changes):
    """Make one group whose tokens have these probabilities."""
    made = one_group([len(row) for row in rows], [0.0] * len(rows), advantages=double(*advantages))
    wide = [[*row, *[1.0] * (made.mask.shape[1] - len(row))] for row in rows]
    return replace(made, old_logps=torch.tensor(wide).double().log(), **changes)


def by_loop(rollouts, value):
    result = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i, t in rollouts.mask.nonzero().tolist():
        result[i, t] = value(i, t)
    return result


# ---- clip_cov -----------------------------------------------------------------------------------


def slow_clip_cov(r, share, lower, upper):
    """List every token as often as the window trains on it."""
    places = r.mask.nonzero().tolist()
    times = r.window_count.tolist()
    tokens = [(i, t) for i, t in places for _ in range(times[i])]
    if not tokens:
        return by_loop(r, lambda i, t: float(r.advantages[i]))
    mean_a = statistics.fmean(float(r.advantages[i]) for i, _ in tokens)
    mean_logp = statistics.fmean(float(r.old_logps[i, t]) for i, t in tokens)

    def inside(i, t):
        covariance = (float(r.advantages[i]) - mean_a) * (float(r.old_logps[i, t]) - mean_logp)
        return times[i] > 0 and lower < covariance < upper

    band = sum(inside(i, t) for i, t in tokens)
    dropped = min(band, max(1, math.floor(Fraction(str(share)) * len(tokens))))

    def value(i, t):
        left = 1 - dropped / max(band, 1) if inside(i, t) else 1.0
        return float(r.advantages[i]) * left

    return by_loop(r, value)


@pytest.mark.parametrize(
    "band", [(0.05, 0.0, 0.5), (0.2, -0.3, 5.0), (1.0, 0.1, 0.4), (2e-4, 0.0, 9.0)]
)
def test_clip_cov_equals_its_loop(band):
    share, lower, upper = band
    thinned = 0
    for seed in SEEDS:
        rollouts = random_rollouts(seed)
        found = landed("clip_cov", rollouts, share=share, lower=lower, upper=upper)
        close(found, slow_clip_cov(rollouts, share, lower, upper))
        thinned += not torch.equal(found, landed("even", rollouts))
    assert thinned >= 4


def test_clip_cov_by_hand():
    e = math.exp
    rollouts = likely([1.0, e(-4)], [e(-4), 1.0], advantages=[2.0, -2.0])
    # means 0 and -2: cov = 2·2, 2·(-2), (-2)·(-2), (-2)·2; of the two in the band half of two go
    found = landed("clip_cov", rollouts, share=0.25)
    close(found, [[1, 2], [-1, -2]])
    close(landed("clip_cov", rollouts, share=0.5), [[0, 2], [0, -2]])
    close(landed("clip_cov", rollouts, upper=3.9), landed("even", rollouts))
    # a row of another window changes nothing; one used twice moves both means
    apart = Rollouts.cat([rollouts, replace(rollouts, window_count=torch.tensor([0, 0]))])
    close(landed("clip_cov", apart, share=0.25)[:2], [[1, 2], [-1, -2]])


def test_clip_cov_leaves_on_average_what_the_draw_leaves():
    """Of five in the band two go: ten draws, each as likely."""
    rollouts = likely([0.9] * 5 + [0.1] * 5, [0.1] * 10, advantages=[1.0, -1.0])
    found = landed("clip_cov", rollouts, share=0.1)
    close(found[0], [0.6] * 5 + [1.0] * 5)


# ---- prob_mask, prob_weight, spurious -----------------------------------------------------------


def slow_prob_mask(r, i, t, below=0.9):
    return float(r.advantages[i]) * (math.exp(r.old_logps[i, t]) < below)


def slow_prob_weight(r, i, t, alpha=0.2):
    return float(r.advantages[i]) * (alpha * math.exp(r.old_logps[i, t]) + 1 - alpha)


def slow_spurious(r, i, t, below=0.002, share=0.2):
    everyone = r.entropies[r.mask].tolist()

    def kept(j, s):
        more = sum(h > float(r.entropies[j, s]) for h in everyone)
        uncertain = Fraction(more, len(everyone)) < Fraction(str(share))
        slip = float(r.advantages[j]) > 0 and math.exp(r.old_logps[j, s]) < below
        return uncertain or not slip

    times = r.window_count.tolist()
    tokens = [(j, s) for j, s in r.mask.nonzero().tolist() for _ in range(times[j])]
    total = sum(kept(j, s) for j, s in tokens)
    return float(r.advantages[i]) * kept(i, t) * max(len(tokens), 1) / max(total, 1)


SLOW = {"prob_mask": slow_prob_mask, "prob_weight": slow_prob_weight, "spurious": slow_spurious}


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("prob_mask", {}),
        ("prob_mask", {"below": 0.4}),
        ("prob_weight", {}),
        ("prob_weight", {"alpha": 1.0}),
        ("spurious", {"below": 0.5}),
        ("spurious", {"below": 0.8, "share": 0.6}),
    ],
)
def test_weights_by_probability_equal_their_loops(rule, options):
    changed = 0
    for seed in SEEDS:
        rollouts = random_rollouts(seed)
        found = landed(rule, rollouts, **options)
        close(found, by_loop(rollouts, lambda i, t, r=rollouts: SLOW[rule](r, i, t, **options)))
        changed += not torch.equal(found, landed("even", rollouts))
    assert changed >= 4


def test_prob_mask_and_prob_weight_by_hand():
    rollouts = likely([0.5, 0.75], [0.25], advantages=[4.0, -8.0])
    close(landed("prob_mask", rollouts, below=0.6), [[4, 0], [-8, 0]])
    close(landed("prob_weight", rollouts, alpha=0.5), [[3, 3.5], [-5, 0]])


def test_slips_are_silenced_by_hand():
    rollouts = likely([0.125, 0.125, 0.5], [0.125], advantages=[3.0, -3.0])
    rollouts = replace(rollouts, entropies=double([0.1, 0.9, 0.2], [0.3, 0.0, 0.0]))
    # only the first is unlikely, good and sure; the other three of four tokens get 4/3
    close(landed("spurious", rollouts, below=0.25), [[0, 4, 4], [-4, 0, 0]])
    close(landed("spurious", rollouts, below=0.25, share=1.0), landed("even", rollouts))


@pytest.mark.parametrize(
    ("rule", "options"),
    [("prob_mask", {"below": 1.5}), ("prob_weight", {"alpha": 0.0}), ("spurious", {"below": 0.0})],
)
def test_some_options_make_it_even(rule, options):
    for seed in range(4):
        rollouts = random_rollouts(seed)
        assert torch.equal(landed(rule, rollouts, **options), landed("even", rollouts))


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("clip_cov", {"share": 0.0}, "share is 0, expected above 0, to 1"),
        ("clip_cov", {"share": NAN}, "share is nan, expected above 0, to 1"),
        ("prob_mask", {"below": 0.0}, "below is 0, expected above 0"),
        ("prob_weight", {"alpha": 1.5}, "alpha is 1.5, expected 0 to 1"),
        ("spurious", {"below": -0.1}, "below is -0.1, expected 0 or more"),
        ("spurious", {"share": 0.0}, "share is 0, expected above 0, to 1"),
        ("clip_cov", {"lower": 5.0}, "the band is 5 to 5; expected lower below upper"),
    ],
)
def test_options_out_of_range_are_refused(rule, options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit(rule, random_rollouts(0), **options)


# ---- implicit rewards -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_implicit_equals_its_loop(seed):
    rollouts = random_rollouts(seed)
    rewards = rollouts.rewards.tolist()
    kept = [i for i, reward in enumerate(rewards) if reward == reward]
    counted = {i: rollouts.mask[i].nonzero().flatten().tolist() for i in kept}
    ratio = rollouts.old_logps - rollouts.ref_logps
    cumulative = {
        (i, n): math.fsum(float(ratio[i, u]) for u in counted[i][: n + 1])
        for i in kept
        for n in range(len(counted[i]))
    }
    expected = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i, n in cumulative:
        like = [c for (j, m), c in cumulative.items()
                if m == n and rollouts.group[j] == rollouts.group[i]]  # fmt: skip
        above = cumulative[i, n] - math.fsum(like) / len(like)
        expected[i, counted[i][n]] = float(rollouts.advantages[i]) + 0.5 * above
    close(landed("implicit", rollouts, beta=0.5), expected)


def test_implicit_is_even_where_the_policy_is_the_reference():
    rollouts = random_rollouts(0)
    rollouts = replace(rollouts, ref_logps=rollouts.old_logps)
    seen = ~rollouts.rewards.isnan()[:, None] & rollouts.mask
    close(landed("implicit", rollouts), rollouts.advantages[:, None] * seen)


@pytest.mark.parametrize("beta", [-0.1, math.inf, math.nan])
def test_implicit_refuses_a_weight_that_is_none(beta):
    with pytest.raises(CreditError, match=r"beta is .*, expected a finite number, 0 or more"):
        landed("implicit", random_rollouts(0), beta=beta)
