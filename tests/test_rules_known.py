"""What automata tell of places and of time: `known`, the clock of `automaton`, and loops."""

from dataclasses import replace

import pytest
import torch
from drawn import close, one_group, random_rollouts, scored
from harness import ours
from rules import Teller

from grpo_credit import CreditError, compute_credit
from grpo_credit.credit.allocations.automaton import automaton, known
from grpo_credit.credit.diagnostics import loops
from grpo_credit.trainer import step_log

SEEDS = range(12)


def slow_known(rollouts, visits):
    paths, result = rollouts.states.tolist(), torch.zeros(rollouts.mask.shape).double()
    used = [j for j in scored(rollouts) if rollouts.window_count[j] > 0]
    for i, t in rollouts.mask.nonzero().tolist():
        ways = {
            j: {
                paths[j][s + 1]
                for s in range(rollouts.mask.shape[1])
                if rollouts.mask[j, s] and paths[j][s] == paths[i][t]
            }
            for j in used
            if j != i
        }
        left = [taken for taken in ways.values() if taken]
        forced = len(left) >= visits and len(set().union(*left)) == 1
        result[i, t] = 0.0 if forced else rollouts.advantages[i]
    return result


@pytest.mark.parametrize("visits", [1, 2, 4])
@pytest.mark.parametrize("seed", SEEDS)
def test_known_equals_its_loop(seed, visits):
    rollouts = random_rollouts(seed)
    close(known(rollouts, visits=visits), slow_known(rollouts, visits))


def test_a_place_is_forced_by_what_the_others_did_and_not_by_the_token_itself():
    """0 leads to 1 but for the last row, which alone left it for 2: forced for that row only."""
    states = torch.tensor([[0, 1, 3], [0, 1, 4], [0, 1, 3], [0, 2, 2]])
    rollouts = one_group([2] * 4, [1.0, 0.0, 1.0, 0.0], states=states)
    rollouts = replace(rollouts, advantages=torch.tensor([1.0, -1.0, 1.0, -1.0]).double())
    found = known(rollouts, visits=3)
    close(found[:3], [[1.0, 1.0], [-1.0, -1.0], [1.0, 1.0]])  # 1: only two others were there
    close(found[3], [0.0, -1.0])  # nobody else was in 2
    assert known(rollouts, visits=2)[0].tolist() == [1.0, 1.0]  # two ways out of 1


def test_where_nothing_moves_nothing_is_known():
    rollouts = one_group([3, 2, 1, 2], [1.0, 0.5, 0.0, 0.5])
    still = replace(rollouts, states=torch.full((4, 4), 7))
    assert torch.equal(known(still), rollouts.advantages[:, None] * rollouts.mask)


@pytest.mark.parametrize("clock", [1, 2, 3, 50])
@pytest.mark.parametrize("mode", ["baseline", "td"])
@pytest.mark.parametrize("seed", range(6))
def test_a_clock_makes_another_state_of_another_time(seed, mode, clock):
    rollouts = random_rollouts(seed)
    names, relabelled = {}, torch.zeros_like(rollouts.states)
    for i, row in enumerate(rollouts.states.tolist()):
        for t, state in enumerate(row):
            time = int(rollouts.mask[i, :t].sum()) // clock
            relabelled[i, t] = names.setdefault((state, time), len(names))
    expected = automaton(replace(rollouts, states=relabelled), mode=mode)
    close(automaton(rollouts, mode=mode, clock=clock), expected)


@pytest.mark.parametrize(
    ("credit", "options", "message"),
    [
        ("known", {"visits": 0}, "visits is 0, expected 1 or more completions"),
        ("automaton", {"clock": -1}, "clock is -1, expected a number of tokens >= 0"),
    ],
)
def test_a_number_that_is_none_is_refused(credit, options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit(credit, random_rollouts(0), **options)


# ---- loops ------------------------------------------------------------------------------------


def test_what_was_cut_off_in_a_loop_is_counted():
    states = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 2, 2], [0, 5, 5, 5], [0, 0, 0, 0]])
    rollouts = one_group([3, 3, 2, 3, 0], [0.0, 0.0, 1.0, 0.0, 0.0], states=states)
    cut = replace(rollouts, truncated=torch.tensor([True, False, True, True, True]))
    # the first; the second ended, the third was cut as it moved on from 1, nobody leaves 5, and
    # the last has no token
    assert loops(cut) == pytest.approx(1 / 5)
    assert loops(replace(cut, window_count=torch.tensor([2, 0, 1, 1, 0]))) == 0.5
    with pytest.raises(ValueError, match=r"rollouts\.states is None"):
        loops(replace(cut, states=None))


@pytest.mark.parametrize(("options", "warned"), [({"mode": "td"}, 1), ({}, 0)])
def test_the_trainer_warns_of_loops_where_staying_costs_nothing(monkeypatch, options, warned):
    told = []
    monkeypatch.setattr(step_log, "LOOPS", 0.05)  # of the 16 completions one is enough
    monkeypatch.setattr(step_log.logger, "warning_once", told.append)
    trace = ours(
        credit="automaton/seq", credit_kwargs=options, max_steps=1,
        arguments={"reward_funcs": Teller()},
    )  # fmt: skip
    assert len(told) == warned
    assert all("mode='td' does not see the limit come" in message for message in told)
    assert trace.logs[0]["credit/loops"] > step_log.LOOPS
