"""Baselines other than the group's mean: by hand, by slow loops, identities, exact gradients."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from drawn import close, one_group, random_rollouts, scored

from grpo_credit import CreditError, compute_credit
from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.allocations.automaton import automaton
from grpo_credit.credit.allocations.baselines import asymre, loo, opo, token_baseline, wreinforce

SEEDS = range(12)


def members(rollouts, i):
    return [j for j in scored(rollouts) if rollouts.group[j] == rollouts.group[i]]


def by_loop(rollouts, value):
    """Fill the counted tokens of scored completions with value(i, t), all else with 0."""
    result = torch.zeros_like(rollouts.mask, dtype=torch.float64)
    for i, t in rollouts.mask.nonzero().tolist():
        if i in scored(rollouts):
            result[i, t] = value(i, t)
    return result


def equal(found, expected, rollouts):
    close(found * rollouts.mask, expected)


# ---- loo, opo ---------------------------------------------------------------------------------


def test_leave_one_out_is_the_unscaled_advantage_times_g_over_g_minus_1():
    rewards = torch.tensor([0.3, 0.9, 0.1, 0.4, 1.0, 0.2]).double()
    group = torch.tensor([0, 1, 0, 1, 1, 0])
    rollouts = one_group([2] * 6, rewards.tolist(), group=group)
    close(loo(rollouts)[:, 0], group_advantages(rewards, group, "none") * 3 / 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_loo_equals_its_loop(seed):
    rollouts = random_rollouts(seed)
    reward = rollouts.rewards.tolist()

    def value(i, _):
        others = [reward[j] for j in members(rollouts, i) if j != i]
        return reward[i] - sum(others) / len(others) if others else 0.0

    equal(loo(rollouts), by_loop(rollouts, value), rollouts)


@pytest.mark.parametrize("seed", SEEDS)
def test_opo_equals_its_loop(seed):
    rollouts = random_rollouts(seed)
    reward, length = rollouts.rewards.tolist(), rollouts.lengths.tolist()

    def value(i, _):
        group = members(rollouts, i)
        return reward[i] - sum(length[j] * reward[j] for j in group) / sum(length[j] for j in group)

    equal(opo(rollouts), by_loop(rollouts, value), rollouts)


# ---- asymre, wreinforce -----------------------------------------------------------------------


def test_the_shifted_baseline_by_hand():
    # the mean is 1/2; the abstention is in none
    rollouts = one_group([1, 2, 1, 2], [1.0, 0.0, 0.5, None])
    close(asymre(rollouts, shift=-0.25)[:, 0], [0.75, -0.25, 0.25, 0.0])
    assert torch.equal(
        asymre(rollouts, shift=0.0)[:, 0], torch.tensor([0.5, -0.5, 0.0, 0.0]).double()
    )


def test_right_and_wrong_are_weighed_apart_by_hand():
    rollouts = one_group([1, 2, 1, 2], [1.0, 0.0, 0.5, None])  # 0.5 is not above 0.5
    close(wreinforce(rollouts)[:, 0], [0.1, -1.0, -1.0, 0.0])
    close(wreinforce(rollouts, positive=0.0, above=0.25)[:, 0], [0.0, -1.0, 0.0, 0.0])


@pytest.mark.parametrize("seed", SEEDS)
def test_asymre_and_wreinforce_equal_their_loops(seed):
    rollouts = random_rollouts(seed)
    reward = rollouts.rewards.tolist()

    def shifted(i, _):
        group = members(rollouts, i)
        return reward[i] - (sum(reward[j] for j in group) / len(group) + 0.3)

    equal(asymre(rollouts, shift=0.3), by_loop(rollouts, shifted), rollouts)
    signs = by_loop(rollouts, lambda i, _: 0.7 if reward[i] > 1.0 else -1.0)
    equal(wreinforce(rollouts, positive=0.7, above=1.0), signs, rollouts)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("asymre", {"shift": math.nan}, "shift is nan, expected a finite number"),
        ("wreinforce", {"positive": -0.1}, r"positive is -0\.1, expected a finite number, 0 or"),
        ("wreinforce", {"positive": math.inf}, "positive is inf, expected a finite number"),
    ],
)
def test_a_weight_that_is_none_is_refused(rule, options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit(rule, random_rollouts(0), **options)


# ---- token_baseline ---------------------------------------------------------------------------


def energy(rollouts):
    """Sum 1 - 2π + Σπ² over the counted tokens so far, one list per completion."""
    result = []
    for i, row in enumerate(rollouts.mask.tolist()):
        counted = [t for t, m in enumerate(row) if m]
        terms = [
            1 - 2 * math.exp(rollouts.old_logps[i, t]) + rollouts.sum_sq_probs[i, t].item()
            for t in counted
        ]
        result.append(list(itertools.accumulate(terms)))
    return result


def slow_token_baseline(rollouts):
    weights, reward = energy(rollouts), rollouts.rewards.tolist()

    def baseline(i, place):
        there = [j for j in members(rollouts, i) if len(weights[j]) > place]
        if len(there) < 2:
            return baseline(i, place - 1) if place else reward[i]
        total = sum(weights[j][place] for j in there)
        return sum(weights[j][place] * reward[j] for j in there) / total

    position = rollouts.position.tolist()
    return by_loop(rollouts, lambda i, t: reward[i] - baseline(i, position[i][t]))


@pytest.mark.parametrize("seed", SEEDS)
def test_token_baseline_equals_its_loop(seed):
    rollouts = random_rollouts(seed)
    equal(token_baseline(rollouts), slow_token_baseline(rollouts), rollouts)


@pytest.mark.parametrize("seed", SEEDS)
def test_weighted_advantages_cancel_wherever_two_members_are_left(seed):
    rollouts = random_rollouts(seed)
    weights, found = energy(rollouts), token_baseline(rollouts)
    for first in rollouts.group.unique().tolist():
        group = members(rollouts, rollouts.group.tolist().index(first))
        for place in range(rollouts.mask.shape[1]):
            there = [j for j in group if len(weights[j]) > place]
            column = {j: rollouts.mask[j].nonzero().flatten().tolist() for j in there}
            total = sum(weights[j][place] * found[j, column[j][place]].item() for j in there)
            if len(there) >= 2:
                assert total == pytest.approx(0, abs=1e-12)


def test_where_nobody_was_uncertain_the_baseline_is_the_mean():
    sure = {"old_logps": torch.zeros(2, 2).double(), "sum_sq_probs": torch.ones(2, 2).double()}
    rollouts = one_group([2, 1], [1.0, 0.0], **sure)
    assert token_baseline(rollouts).tolist() == [[0.5, 0.5], [-0.5, 0.0]]


@pytest.mark.parametrize("rule", [loo, opo, token_baseline])
def test_a_lone_scored_member_and_an_unscored_one_get_nothing(rule):
    extra = {"old_logps": torch.zeros(3, 3).double() - 1, "sum_sq_probs": torch.ones(3, 3).double()}
    rollouts = one_group([3, 2, 1], [0.5, None, None], **extra)
    assert (rule(rollouts) == 0).all()


# ---- automaton --------------------------------------------------------------------------------


def slow_state_value(rollouts, i, state, shrinkage):
    reward, paths = rollouts.rewards.tolist(), rollouts.states.tolist()
    others = [j for j in scored(rollouts) if j != i and rollouts.window_count[j] > 0]
    mean = sum(reward[j] for j in others) / len(others) if others else reward[i]
    visitors = [j for j in others if state in paths[j]]
    weight = len(visitors) + shrinkage
    return (sum(reward[j] for j in visitors) + shrinkage * mean) / weight if weight else mean


def slow_automaton(rollouts, mode, shrinkage):
    paths, reward = rollouts.states.tolist(), rollouts.rewards.tolist()

    def after(i, t):
        if not rollouts.mask[i, t + 1 :].any():
            return reward[i]
        return slow_state_value(rollouts, i, paths[i][t + 1], shrinkage)

    def value(i, t):
        if mode == "baseline":
            return reward[i] - slow_state_value(rollouts, i, paths[i][t], shrinkage)
        return after(i, t) - slow_state_value(rollouts, i, paths[i][t], shrinkage)

    return by_loop(rollouts, value)


@pytest.mark.parametrize("shrinkage", [0.0, 1.0, 3.5])
@pytest.mark.parametrize("mode", ["baseline", "td"])
@pytest.mark.parametrize("seed", SEEDS)
def test_automaton_equals_its_loop(seed, mode, shrinkage):
    rollouts = random_rollouts(seed)
    found = automaton(rollouts, mode=mode, shrinkage=shrinkage)
    equal(found, slow_automaton(rollouts, mode, shrinkage), rollouts)


THREE = torch.tensor([[0, 4, 4, 9], [0, 4, 4, 4], [0, 0, 4, 4]])


def test_the_state_baseline_by_hand():
    # for row 0: others' mean 1/4; state 0: (0.5 + 0 + 1/4) / 3; 4, once each: the same; 9: only 1/4
    rollouts = one_group([3, 3, 3], [1.0, 0.5, 0.0], states=THREE)
    assert automaton(rollouts)[0].tolist() == [0.75, 0.75, 0.75]
    last = replace(rollouts, states=torch.tensor([[0, 4, 9, 9], [0, 4, 4, 4], [0, 0, 0, 0]]))
    # 4: (0.5 + 1/4) / 2; 9: nobody else, so 1/4
    assert automaton(last)[0].tolist() == [0.75, 1 - 0.375, 0.75]


def test_the_token_that_breaks_the_format_pays():
    # 7 is the dead state: V there is 0, else the others' rewards; the end settles R
    states = torch.tensor([[0, 0, 7, 7], [0, 0, 7, 7], [0, 0, 0, 0], [0, 0, 0, 0]])
    rollouts = one_group([3, 3, 3, 3], [0.0, 0.0, 1.0, 1.0], states=states)
    found = automaton(rollouts, mode="td", shrinkage=0.0)
    close(found[0], [0.0, -2 / 3, 0.0])
    close(found[2], [0.0, 0.0, 2 / 3])


@pytest.mark.parametrize("seed", SEEDS)
def test_differences_sum_to_the_reward_less_the_value_of_the_start(seed):
    rollouts = random_rollouts(seed)
    moved = rollouts.states.diff(dim=1) != 0
    still = ~(moved & ~rollouts.mask).any(dim=1)  # what moves it elsewhere is nobody's
    total = (automaton(rollouts, mode="td") * rollouts.mask).sum(dim=1)
    for i, reward in enumerate(rollouts.rewards.tolist()):
        if reward == reward and rollouts.mask[i].any() and still[i]:
            start = slow_state_value(rollouts, i, rollouts.states[i, 0].item(), 1.0)
            assert total[i].item() == pytest.approx(reward - start, abs=1e-12)


def test_without_an_automaton_it_is_leave_one_out_over_the_batch():
    rollouts = one_group([3, 2, 1, 2], [1.0, 0.5, 0.0, None])
    rollouts = replace(rollouts, states=torch.zeros(4, 4).long(), group=torch.tensor([0, 0, 1, 1]))
    batch = replace(rollouts, group=torch.zeros(4).long())
    close(automaton(rollouts), loo(batch))


@pytest.mark.parametrize("mode", ["baseline", "td"])
def test_a_lone_scored_completion_gets_nothing(mode):
    rollouts = one_group([3, 3, 3], [1.0, None, None], states=THREE)
    assert (automaton(rollouts, mode=mode) == 0).all()


def negative_first(rollouts):
    """Weigh right and wrong apart where a reward of 1 alone is right."""
    return wreinforce(rollouts, positive=0.25, above=0.75) / 1.25


@pytest.mark.parametrize(
    ("rule", "factor", "reward"),
    [
        (loo, 1, {(0,): 0.2, (1, 0): 1.0, (1, 1): 0.5}),
        (automaton, 1, {(0,): 0.2, (1, 0): 1.0, (1, 1): 0.5}),
        (asymre, 2 / 3, {(0,): 0.2, (1, 0): 1.0, (1, 1): 0.5}),
        (negative_first, 1, {(0,): 0.0, (1, 0): 1.0, (1, 1): 0.0}),
    ],
)
def test_the_expected_gradient_is_that_of_the_expected_reward(rule, factor, reward):
    # All batches of three completions of at most two tokens, 0 ends; one logit per prefix.
    logit = {(): 0.4, (1,): -0.7}
    chance = {prefix: 1 / (1 + math.exp(-x)) for prefix, x in logit.items()}  # of writing 1

    def probability(tokens):
        return math.prod(
            chance[tokens[:t]] if token else 1 - chance[tokens[:t]]
            for t, token in enumerate(tokens)
        )

    def score(tokens, credit):  # Σ_t credit_t · d log π(token_t) / d logit of its prefix
        total = dict.fromkeys(logit, 0.0)
        for t, token in enumerate(tokens):
            total[tokens[:t]] += credit[t] * (token - chance[tokens[:t]])
        return torch.tensor(list(total.values()), dtype=torch.float64)

    exact = sum(probability(o) * reward[o] * score(o, [1.0, 1.0]) for o in reward)
    expected = torch.zeros(2).double()
    for batch in itertools.product(reward, repeat=3):
        path = [[0, *o, *[o[-1]] * (2 - len(o))] for o in batch]  # the state is the last token
        rollouts = one_group([*map(list, batch)], [reward[o] for o in batch]).padded(2)
        rollouts = replace(rollouts, states=torch.tensor(path))
        credit = rule(rollouts).tolist()
        weight = math.prod(map(probability, batch)) / 3
        expected += weight * sum(map(score, batch, credit))
    close(expected, factor * exact)


def test_negative_shrinkage_is_refused():
    with pytest.raises(CreditError, match=r"shrinkage is -1\.0, expected .* >= 0"):
        compute_credit("automaton", random_rollouts(0), shrinkage=-1.0)
