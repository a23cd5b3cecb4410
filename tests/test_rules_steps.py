"""Rewards of steps and turns, and a potential of prefixes."""

import itertools
import math
import statistics
from dataclasses import replace

import pytest
import torch
from drawn import (
    NAN,
    close,
    double,
    one_group,
    random_rollouts,
    scored,
    slow_above_others,
)

from grpo_credit import CreditError, Rollouts, compute_credit
from grpo_credit.credit.allocations.potential import potential
from grpo_credit.credit.allocations.steps import steps, to_go, turn_deltas, turns


def normalised(value, group, everywhere, scale_rewards):
    """Write (value - mean) / (std + 1e-4) in plain Python."""
    centred = value - statistics.fmean(group)
    pool = {"group": group, "batch": everywhere, "none": []}[scale_rewards]
    std = statistics.stdev(pool) if len(pool) > 1 else 0.0
    return centred if scale_rewards == "none" else centred / (std + 1e-4)


def soft_minimum(own, rewards, temperature):
    """Write softmax(-r / T) of a step among those of its completion; T = 0 is its limit."""
    if temperature is None:
        return 1.0
    if not temperature:
        return (own == min(rewards)) / rewards.count(min(rewards))
    return math.exp(-own / temperature) / sum(math.exp(-r / temperature) for r in rewards)


def slow_steps(rollouts, temperature=None):
    found = {
        (i, t): r
        for i in scored(rollouts)
        for t, r in enumerate(rollouts.step_rewards[i].tolist())
        if r == r
    }
    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for (i, end), reward in found.items():
        mine = [r for (j, _), r in found.items() if rollouts.group[j] == rollouts.group[i]]
        own = normalised(reward, mine, list(found.values()), rollouts.scale_rewards)
        own *= soft_minimum(reward, [r for (j, _), r in found.items() if j == i], temperature)
        for t in range(end + 1):
            credit[i, t] += own * bool(rollouts.mask[i, t])
    return credit


def slow_turns(rollouts, coef):
    rows, columns = rollouts.mask.shape
    turn_of, earned = {}, {}
    for i in scored(rollouts):
        turn, before = 0, False
        for t in range(columns):
            counted = bool(rollouts.mask[i, t])
            turn += counted and not before
            before = counted
            turn_of[i, t] = turn
            reward = float(rollouts.step_rewards[i, t])
            if reward == reward:
                earned[i, turn] = earned.get((i, turn), 0.0) + reward

    def return_from(i, m):
        return sum(r for (j, n), r in earned.items() if j == i and n >= m)

    credit = torch.zeros(rows, columns, dtype=torch.float64)
    for (i, t), m in turn_of.items():
        every = {j: return_from(j, m) for j in scored(rollouts)}
        mine = [g for j, g in every.items() if rollouts.group[j] == rollouts.group[i]]
        extra = normalised(every[i], mine, list(every.values()), rollouts.scale_rewards)
        credit[i, t] = (rollouts.advantages[i] + coef * extra) * bool(rollouts.mask[i, t])
    return credit


def slow_to_go(rollouts):
    earned = rollouts.step_rewards.nan_to_num().tolist()
    extra = slow_above_others(rollouts, earned, scored(rollouts))
    return (rollouts.advantages[:, None] + extra) * rollouts.mask


def slow_potential(rollouts, phi, gamma=1.0, immediate=False):
    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i in scored(rollouts):
        counted = rollouts.mask[i].nonzero().flatten().tolist()
        values = [float(phi[i, t]) for t in counted] + [0.0]  # before each token; 0 at the end
        shaping = [gamma * after - now for now, after in itertools.pairwise(values)]
        for n, t in enumerate(counted):
            to_go = sum(gamma ** (k - n) * shaping[k] for k in range(n, len(counted)))
            extra = shaping[n] if immediate else to_go + float(phi[i, 0])
            credit[i, t] = rollouts.advantages[i] + extra
    return credit


def on_counted(rollouts, credit):
    return torch.where(rollouts.mask, credit, 0.0)


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_steps_turns_and_to_go_equal_their_loops(seed, scale_rewards):
    rollouts = random_rollouts(seed, scale_rewards)
    for temperature in (None, 0.0, 0.1, 3.0):
        found = steps(rollouts, temperature=temperature)
        close(on_counted(rollouts, found), slow_steps(rollouts, temperature))
    close(on_counted(rollouts, turns(rollouts, coef=0.7)), slow_turns(rollouts, 0.7))
    close(to_go(rollouts), slow_to_go(rollouts))


@pytest.mark.parametrize("options", [{}, {"immediate": True}, {"immediate": True, "gamma": 0.9}])
@pytest.mark.parametrize("seed", range(5))
def test_potential_equals_its_loop(seed, options):
    rollouts = random_rollouts(seed)
    rows, columns = rollouts.mask.shape
    draw = torch.Generator().manual_seed(seed)
    phi = torch.randn(rows, columns + 1, generator=draw, dtype=torch.float64)
    found = potential(rollouts, function=lambda _: phi, **options)
    close(on_counted(rollouts, found), slow_potential(rollouts, phi, **options))


def half_per_token(rollouts):
    return torch.nn.functional.pad(rollouts.mask.cumsum(dim=1), (1, 0)) / 2


# ---- steps ------------------------------------------------------------------------------------


def pair(**change):
    """Make one group of two, four columns; the first has a tool's output at columns 1 and 2."""
    mask = torch.tensor([[1, 0, 0, 1], [1, 1, 0, 0]]).bool()
    given = {"mask": mask, "advantages": double(0.5, -0.5), "scale_rewards": "none"}
    return one_group([4, 2], [1.0, 0.0], **given | change)


def test_the_worst_step_decides_by_hand():
    rollouts = pair(step_rewards=double([NAN, 1.0, NAN, 5.0], [0.0, 2.0, NAN, NAN]))
    # mean of 1, 5, 0, 2 is 2. The worst of row 0 ends in the tool's output: -1 up to there
    found = steps(rollouts, temperature=0.0)
    close(on_counted(rollouts, found), [[-1, 0, 0, 0], [-2, 0, 0, 0]])
    # T = 4 / log 3: the worst of row 0 weighs 3/4, in row 1 √3 : 1
    worse = 3**0.5 / (1 + 3**0.5)
    found = steps(rollouts, temperature=4 / math.log(3))
    close(on_counted(rollouts, found), [[-3 / 4 + 3 / 4, 0, 0, 3 / 4], [-2 * worse, 0, 0, 0]])


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 0.1])
def test_more_good_steps_make_up_for_no_bad_one(temperature):
    """Row 0 has one bad step, row 1 the same and twenty good ones; the sum tells them apart."""
    rewards = torch.full((2, 21), NAN).double()
    rewards[:, 0], rewards[1, 1:] = -1.0, 1.0
    rollouts = one_group([21, 21], [1.0, 0.0], step_rewards=rewards, scale_rewards="none")
    first = steps(rollouts, temperature=temperature)[:, 0]
    assert float((first[1] - first[0]).abs()) < 1e-6
    summed = steps(rollouts)[:, 0]
    assert float(summed[1] - summed[0]) > 1


@pytest.mark.parametrize("temperature", [-0.1, NAN, math.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(CreditError, match=f"temperature is {temperature:g}, expected a finite"):
        compute_credit("steps", random_rollouts(0), temperature=temperature)


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_one_step_at_the_end_that_earns_the_reward_is_even(scale_rewards):
    rollouts = random_rollouts(3, scale_rewards)
    last = rollouts.mask & (rollouts.position == rollouts.lengths[:, None] - 1)
    last[:, -1] |= ~rollouts.mask.any(dim=1)  # an empty row has a reward too
    rollouts = replace(rollouts, step_rewards=rollouts.rewards[:, None].where(last, NAN))
    close(compute_credit("steps/seq", rollouts), compute_credit("even/seq", rollouts))


def test_equal_steps_leave_no_rounding_noise():
    rollouts = Rollouts.from_lists([7] * 2, [1.0, 0.0], num_generations=2, max_completion_length=7)
    equal = torch.full((2, 7), 0.1)
    assert float(equal.mean() - 0.1) != 0  # float32 is off
    assert not steps(replace(rollouts, step_rewards=equal)).any()


# ---- turns ------------------------------------------------------------------------------------


def test_turns_without_rewards_are_even():
    rollouts = random_rollouts(2)
    rollouts = replace(rollouts, step_rewards=torch.full_like(rollouts.step_rewards, NAN))
    even = on_counted(rollouts, rollouts.advantages[:, None])
    assert torch.equal(on_counted(rollouts, turns(rollouts)), even)


def test_rewards_in_the_first_turn_stay_there_as_in_the_paper():
    first = double([3.0, NAN, NAN, NAN], [NAN] * 4)
    rollouts = pair(scale_rewards="group", step_rewards=first)
    # one of two has 3, the other nothing: ±1.5 over the standard deviation 3/√2 (+ 1e-4)
    extra = 1.5 / (3 / 2**0.5 + 1e-4)
    expected = [[0.5 + extra, 0, 0, 0.5], [-0.5 - extra, -0.5 - extra, 0, 0]]
    close(on_counted(rollouts, turns(rollouts)), expected)


# ---- turn_deltas ------------------------------------------------------------------------------


def slow_turn_deltas(rollouts, gamma, coef):
    credit = on_counted(rollouts, rollouts.advantages[:, None]).clone()
    for i in scored(rollouts):
        turn, before, scores, turn_of = 0, False, {}, {}
        for t in range(rollouts.mask.shape[1]):
            counted = bool(rollouts.mask[i, t])
            turn += counted and not before
            before = counted
            turn_of[t] = turn
            score = float(rollouts.step_rewards[i, t])
            if score == score:
                scores[turn] = score
        for (_, earlier), (s, later) in itertools.pairwise(sorted(scores.items())):
            shares = {m: gamma ** (s - m) for m in range(1, s + 1)}
            for t, m in turn_of.items():
                share = shares.get(m, 0.0) / sum(shares.values())
                credit[i, t] += coef * share * (later - earlier) * bool(rollouts.mask[i, t])
    return credit


@pytest.mark.parametrize(("gamma", "coef"), [(0.9, 1.0), (0.0, 1.0), (1.0, -0.5), (0.4, 2.0)])
def test_turn_deltas_equal_their_loop(gamma, coef):
    for seed in range(5):
        rollouts = random_rollouts(seed)
        found = turn_deltas(rollouts, gamma=gamma, coef=coef)
        close(found, slow_turn_deltas(rollouts, gamma, coef))


def test_turn_deltas_by_hand():
    # turn 1 of row 0 leaves 4 (the tool's output), turn 2 leaves 1: -3, shared as 1 : 2
    rollouts = pair(step_rewards=double([NAN, NAN, 4.0, 1.0], [3.0, 2.0, NAN, NAN]))
    found = turn_deltas(rollouts, gamma=0.5)
    close(found, [[0.5 - 1, 0, 0, 0.5 - 2], [-0.5, -0.5, 0, 0]])  # row 1 has one score, of turn 1


def test_a_rise_that_is_lost_again_nets_zero():
    mask = torch.tensor([[1, 0, 1, 0, 1, 0, 1]]).bool()
    scores = double([1.0, NAN, 9.0, NAN, NAN, NAN, 1.0])
    rollouts = one_group([7], [1.0], mask=mask, step_rewards=scores, advantages=double(0.0))
    found = turn_deltas(rollouts)
    assert found.any()
    close(found.sum(), 0.0)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, NAN])
def test_a_spread_out_of_range_is_refused(gamma):
    with pytest.raises(CreditError, match=f"gamma is {gamma:g}, expected 0 to 1"):
        compute_credit("turn_deltas", random_rollouts(0), gamma=gamma)


# ---- to go ------------------------------------------------------------------------------------


def test_to_go_by_hand():
    rollouts = pair(step_rewards=double([1.0, NAN, 4.0, 3.0], [NAN, 2.0, NAN, NAN]))
    # G at the counted places: row 0: 8, 3; row 1: 2, 2. Half of G - the other's:
    expected = [[0.5 + 3, 0, 0, 0.5 + 0.5], [-0.5 - 3, -0.5 - 0.5, 0, 0]]
    close(on_counted(rollouts, to_go(rollouts)), expected)
    alone = replace(rollouts, mask=rollouts.mask & torch.tensor([[True], [False]]))
    close(on_counted(alone, to_go(alone)), [[0.5, 0, 0, 0.5], [0, 0, 0, 0]])


def test_the_last_one_keeps_the_baseline_of_where_it_was_not_alone():
    rollouts = one_group([3, 1], [0.0, 0.0], step_rewards=double([1.0, 1.0, 1.0], [5.0, NAN, NAN]))
    close(to_go(rollouts), [[(3 - 5) / 2, (2 - 5) / 2, (1 - 5) / 2], [(5 - 3) / 2, 0, 0]])


# ---- what a potential may be ------------------------------------------------------------------


def test_a_potential_is_imported_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_potentials.py").write_text(
        "import torch\n"
        "limit = 3\n"
        "def per_token(rollouts):\n"
        "    return torch.arange(rollouts.mask.shape[1] + 1).expand(len(rollouts.mask), -1)\n"
    )
    monkeypatch.chdir(tmp_path)
    rollouts = pair()
    found = compute_credit("potential/seq", rollouts, function="my_potentials:per_token")
    # A_i minus 0, 3 and 0, 1; over N = 2
    close(found, [[0.25, 0, 0, -1.25], [-0.25, -0.75, 0, 0]])
    with pytest.raises(CreditError, match="my_potentials:limit is a int, expected a function"):
        compute_credit("potential", rollouts, function="my_potentials:limit")
    with pytest.raises(CreditError, match=r"has no 'per_tokn'.*per_token"):
        compute_credit("potential", rollouts, function="my_potentials:per_tokn")


def test_a_potential_of_padding_need_not_be_finite():
    phi = torch.zeros(2, 5)
    phi[1, 2:] = NAN
    phi[0, 2] = torch.inf  # in the tool's output
    rollouts = pair()
    for immediate in (False, True):
        found = potential(rollouts, function=lambda _: phi, immediate=immediate)
        even = rollouts.advantages[:, None].expand(2, 4)
        assert torch.equal(on_counted(rollouts, found), on_counted(rollouts, even))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the option 'function'"),
        ({"function": 3}, r"option 'function' of 'potential' is 3 \(int\)"),
        ({"function": "nowhere_at_all:phi"}, "no module 'nowhere_at_all'"),
        ({"function": half_per_token, "gamma": 1.5, "immediate": True}, "gamma is 1.5, expected 0"),
        ({"function": half_per_token, "gamma": 0.9}, "gamma is 0.9, but the shaping's return"),
        ({"function": lambda r: 1.0}, "returned float, expected a tensor of shape"),
        (
            {"function": lambda r: r.mask.float()},
            r"<lambda> returned \(2, 4\), expected a tensor of shape \(2, 5\)",
        ),
        (
            {"function": lambda r: half_per_token(r).log()},
            "gave -inf before token 0 of completion 0, expected a finite number",
        ),
    ],
)
def test_a_wrong_potential_is_refused(options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit("potential/seq", pair(), **options)


def test_a_potential_that_learns_is_a_constant_here():
    weight = torch.ones((), requires_grad=True)
    found = potential(pair(), function=lambda r: weight * half_per_token(r))
    assert not found.requires_grad
