"""Rules that read turns: by hand, against slow loops, and the worked example of MT-GRPO."""

import math
from dataclasses import replace

import pytest
import torch
from drawn import NAN, close, double, one_group, random_rollouts, scored
from test_rules_steps import normalised, on_counted

from grpo_credit import CreditError, compute_credit, resolve_credit
from grpo_credit.credit.allocations.anchors import gigpo, roles
from grpo_credit.credit.allocations.even import even
from grpo_credit.credit.allocations.gain import igpo
from grpo_credit.credit.allocations.steps import turns
from grpo_credit.credit.diagnostics import mass_by_role, mass_by_turn, summary
from grpo_credit.credit.needs import check_loop
from grpo_credit.credit.turns import Turn, check_turns
from grpo_credit.trainer.config import teaches_alone

SCALES = ["group", "batch", "none"]


def of_turns(*lengths, gap=1, states=()):
    """Make turns of these lengths, with some columns of a tool's between them."""
    made, start = [], 0
    for n, length in enumerate(lengths):
        role = "answer" if n == len(lengths) - 1 else "call"
        made.append(Turn(start, start + length, start, role, state="".join(states[n : n + 1])))
        start += length + gap
    return tuple(made)


def counted(made, columns):
    mask = torch.zeros(len(made), columns).bool()
    for row, own in enumerate(made):
        for turn in own:
            mask[row, turn.start : turn.end] = True
    return mask


# ---- MT-GRPO ----------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [0, 1])
def test_three_turns_by_hand(gap):
    """Two members of three turns; A = ±1/2; rewards 1, 0, 2 and 0, 3, 0 of the turns."""
    made = (of_turns(2, 1, 1, gap=gap),) * 2
    columns = made[0][-1].end
    rewards = torch.full((2, columns), NAN, dtype=torch.float64)
    for row, earned in enumerate([(1.0, 0.0, 2.0), (0.0, 3.0, 0.0)]):
        for turn, reward in zip(made[row], earned, strict=True):
            rewards[row, turn.end - 1] = reward
    two = one_group([columns] * 2, [1.0, 0.0], scale_rewards="none", step_rewards=rewards,
                    advantages=double(0.5, -0.5), turns=made,
                    mask=counted(made, columns))  # fmt: skip
    credit = turns(two)
    found = [[float(credit[row, t.start]) for t in made[row]] for row in range(2)]
    # returns: 3, 2, 2 and 3, 3, 0; so what a turn has over the mean: 0, -1/2, 1 and 0, 1/2, -1
    close(double(*found), [[0.5, 0.0, 1.5], [-0.5, 0.0, -1.5]])
    assert (credit[~two.mask] == 0).all()
    # with a reward in the first turn only, A + coef · A_turn there and A elsewhere: the paper's
    first = torch.full_like(rewards, NAN)
    first[:, 1] = double(1.0, 0.0)
    credit = turns(replace(two, step_rewards=first), coef=0.2)
    found = [[float(credit[row, t.start]) for t in made[row]] for row in range(2)]
    close(double(*found), [[0.6, 0.5, 0.5], [-0.6, -0.5, -0.5]])


# ---- GiGPO ------------------------------------------------------------------------------------


def test_gigpo_by_hand():
    """Three members begin at the door; two come to the hall, one of them twice."""
    made = (
        of_turns(1, 1, 1, states=("door", "hall", "hall")),
        of_turns(1, 1, states=("door", "hall")),
        of_turns(1, 1, states=("door", "attic")),
    )
    three = one_group([5] * 3, [1.0, 0.0, 1.0], scale_rewards="none", turns=made,
                      advantages=double(1, -2, 1) / 3, mask=counted(made, 5))  # fmt: skip
    credit = gigpo(three, gamma=0.5, weight=2.0)
    found = [[float(credit[r, t.start]) for t in own] for r, own in enumerate(made)]
    # at the door 1/4, 0, 1/2: mean 1/4; in the hall 1/2, 1, 0: mean 1/2; the attic alone
    expected = [[1 / 3 + 0, 1 / 3 + 0, 1 / 3 + 1], [-2 / 3 - 0.5, -2 / 3 - 1], [1 / 3 + 0.5, 1 / 3]]
    for row, own in enumerate(expected):
        close(double(*found[row]), own)
    hits = summary(compute_credit("gigpo/seq", three), three)["anchor_hits"]
    assert hits == 6 / 7

    rewards = torch.full((3, 5), NAN, dtype=torch.float64)
    rewards[1, 0] = 4.0  # of the first turn: G = 4 + 0
    extra = gigpo(replace(three, step_rewards=rewards), gamma=0.5) - three.advantages[:, None]
    close(extra[:, 0], [0.25 - 4.75 / 3, 4 - 4.75 / 3, 0.5 - 4.75 / 3])


def test_credit_is_told_by_turn_and_by_role():
    one = (Turn(0, 2, 1, "call"), Turn(3, 5, 3, "answer"))  # a thought, a call; an answer
    two = tuple(Turn(n, n + 1, n, "call") for n in range(5))
    batch = one_group([5, 5], [1.0, 0.0], turns=(one, two), mask=counted((one, two), 5))
    credit = double([1, -2, 9, 3, 0], [1, 1, 1, -1, 0])
    told = summary(credit, batch)  # the 9 is the environment's
    assert [told[f"role_{role}"] for role in ("think", "call", "answer")] == [0.1, 0.6, 0.3]
    assert [told[f"turn_{n}"] for n in (1, 2, 3, 4)] == [0.4, 0.4, 0.1, 0.1]
    assert mass_by_turn(torch.zeros(2, 5), batch) == [0.0] * 4
    with pytest.raises(ValueError, match=r"rollouts\.turns is None"):
        mass_by_role(credit, replace(batch, turns=None))


def slow_gigpo(rollouts, weight, gamma):
    scores = {}
    for i in scored(rollouts):
        own = rollouts.turns[i]
        bounds = [turn.start for turn in own] + [rollouts.mask.shape[1]]
        for m in range(len(own)):
            total = gamma ** (len(own) - 1 - m) * float(rollouts.rewards[i])
            for k in range(m, len(own)):
                steps = rollouts.step_rewards[i, bounds[k] : bounds[k + 1]].tolist()
                total += gamma ** (k - m) * sum(r for r in steps if r == r)
            scores[i, m] = total
    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i in scored(rollouts):
        credit[i] = rollouts.advantages[i]
        for m, turn in enumerate(rollouts.turns[i]):
            alike = [
                scores[j, n]
                for j, n in scores
                if turn.state
                and rollouts.group[j] == rollouts.group[i]
                and rollouts.turns[j][n].state == turn.state
            ]
            own = rollouts.turns[i]
            end = own[m + 1].start if m + 1 < len(own) else rollouts.mask.shape[1]
            if len(alike) > 1:
                every = list(scores.values())
                extra = normalised(scores[i, m], alike, every, rollouts.scale_rewards)
                credit[i, turn.start : end] += weight * extra
    return on_counted(rollouts, credit)


@pytest.mark.parametrize("scale_rewards", SCALES)
@pytest.mark.parametrize("seed", range(6))
def test_gigpo_equals_its_loop(seed, scale_rewards):
    rollouts = random_rollouts(seed, scale_rewards, with_turns=True)
    found = gigpo(rollouts, weight=0.7, gamma=0.9)
    close(on_counted(rollouts, found), slow_gigpo(rollouts, 0.7, 0.9))


def test_states_that_nobody_shares_add_nothing():
    made = (of_turns(2, states=("a",)), of_turns(2, states=("b",)))
    two = one_group([2, 2], [1.0, 0.0], turns=made)
    close(gigpo(two), two.advantages[:, None].expand(2, 2))
    unknown = replace(two, turns=(of_turns(2), of_turns(2)))
    close(gigpo(unknown), two.advantages[:, None].expand(2, 2))


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_discount_out_of_range_is_refused(gamma):
    with pytest.raises(CreditError, match=r"gamma is .*, expected 0 to 1"):
        gigpo(random_rollouts(0, with_turns=True), gamma=gamma)


# ---- roles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_roles_weigh_each_token_by_its_role(seed):
    rollouts = random_rollouts(seed, with_turns=True)
    weights, expected = (
        {"think": 0.5, "call": 2.0, "answer": -1.0},
        torch.zeros(rollouts.mask.shape),
    )
    for row, own in enumerate(rollouts.turns):
        for turn in own:
            for t in range(turn.start, turn.end):
                expected[row, t] = weights["think" if t < turn.thought else turn.role]
    found = roles(rollouts, **weights)
    close(found, expected * rollouts.mask * rollouts.advantages[:, None])


# ---- what is refused --------------------------------------------------------------------------


def test_rules_of_turns_are_refused_where_a_completion_is_one():
    for credit in ("gigpo/seq", "turns+roles/seq"):
        with pytest.raises(
            CreditError, match=r"needs turns, and without tools, environment_factory"
        ):
            check_loop(resolve_credit(credit), {"tools": None})
        check_loop(resolve_credit(credit), {"rollout_func": len})
    check_loop(resolve_credit("turns/seq"), {})


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ([Turn(0, 0, 0, "call")], "turn 0 of completion 0 is from 0 to 0"),
        ([Turn(0, 3, 0, "call"), Turn(2, 4, 2, "call")], "turn 1 of completion 0 is from 2 to 4"),
        ([Turn(0, 6, 0, "call")], "in order, from 0 to 5"),
        ([Turn(1, 2, 0, "call")], "its thought to 0"),
        ([Turn(0, 2, 0, "think")], "the role 'think', expected 'call' or"),
    ],
)
def test_turns_that_cannot_be_are_refused(own, why):
    with pytest.raises(ValueError, match=why):
        check_turns([own], 5)
    with pytest.raises(ValueError, match="1 turns for 2 completions"):
        one_group([2, 2], [1.0, 0.0], turns=(of_turns(2),))


# ---- IGPO -------------------------------------------------------------------------------------


def slow_igpo(rollouts, gamma):
    gains = {}
    for i in scored(rollouts):
        own = rollouts.turns[i]
        p = [math.exp(float(rollouts.answer_logps[i, turn.start])) for turn in own]
        for m in range(len(own)):
            gains[i, m] = p[m + 1] - p[m] if m + 1 < len(own) else float(rollouts.rewards[i])
    known = {place: gain for place, gain in gains.items() if gain == gain}
    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i in scored(rollouts):
        among = [gain for (j, _), gain in known.items() if rollouts.group[j] == rollouts.group[i]]
        own = rollouts.turns[i]
        for m, turn in enumerate(own):
            end = own[m + 1].start if m + 1 < len(own) else rollouts.mask.shape[1]
            for k in range(m, len(own)):
                if (i, k) in known and len(among) > 1:
                    every = [*known.values()]
                    value = normalised(known[i, k], among, every, rollouts.scale_rewards)
                    credit[i, turn.start : end] += gamma ** (k - m) * value
    return on_counted(rollouts, credit)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_igpo_equals_its_loop(scale, gamma):
    for seed in range(12):
        rollouts = random_rollouts(seed, scale_rewards=scale, with_turns=True)
        close(igpo(rollouts, gamma=gamma), slow_igpo(rollouts, gamma))


def test_igpo_by_hand():
    """Both answers are wrong; one search made the right one likelier, and had to be followed up."""
    made = (of_turns(1, 1, 1), of_turns(1, 1))
    two = one_group([5] * 2, [0.0, 0.0], scale_rewards="none", turns=made,
                    mask=counted(made, 5))  # fmt: skip
    p = double([0.25, NAN, 0.25, NAN, 0.75, NAN], [0.25, NAN, 0.0, NAN, NAN, NAN])
    credit = igpo(replace(two, answer_logps=p.log()), gamma=0.5)
    # gains 0, 1/2, 0 (the reward) and -1/4, 0; their mean 1/20
    close(credit[0, [0, 2, 4]], [-0.05 + 0.45 / 2 - 0.05 / 4, 0.45 - 0.05 / 2, -0.05])
    close(credit[1, [0, 2]], [-0.3 - 0.05 / 2, -0.05])


@pytest.mark.parametrize("scale", SCALES)
def test_igpo_of_single_turns_is_even(scale):
    rollouts = random_rollouts(1, scale_rewards=scale)
    last = rollouts.mask.shape[1]
    whole = tuple((Turn(0, last, 0, "answer"),) for _ in rollouts.mask)
    close(igpo(replace(rollouts, turns=whole)), even(rollouts) * rollouts.mask)


def test_igpo_teaches_where_all_rewards_are_equal():
    assert teaches_alone(resolve_credit("igpo/seq"))


def test_igpo_refuses_a_discount_out_of_range():
    with pytest.raises(CreditError, match=r"gamma is 1\.5, expected 0 to 1"):
        igpo(random_rollouts(0, with_turns=True), gamma=1.5)
