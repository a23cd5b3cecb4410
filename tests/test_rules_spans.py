"""Each reward's own advantage on the tokens it names."""

import statistics
from dataclasses import replace

import pytest
import torch
from drawn import close, one_group, random_rollouts

from grpo_credit import Rollouts, compute_credit
from grpo_credit.credit.allocations.spans import spans


def advantage(rewards, group, row, scale_rewards):
    """Write TRL's group-relative advantage of one row in plain Python."""
    scored = [r for r in rewards if r == r]
    mine = [r for r, g in zip(rewards, group, strict=True) if g == group[row] and r == r]
    if rewards[row] != rewards[row]:
        return 0.0
    centred = rewards[row] - statistics.fmean(mine)
    pool = {"group": mine, "batch": scored, "none": []}[scale_rewards]
    std = statistics.stdev(pool) if len(pool) > 1 else 0.0
    return centred if scale_rewards == "none" else centred / (std + 1e-4)


def slow(rollouts):
    rows, columns = rollouts.mask.shape
    credit = torch.zeros(rows, columns, dtype=torch.float64)
    for k, name in enumerate(rollouts.reward_names):
        rewards = rollouts.rewards_per_func[:, k].tolist()
        for i in range(rows):
            counted = [t for t in range(columns) if rollouts.mask[i, t]]
            own = advantage(rewards, rollouts.group.tolist(), i, rollouts.scale_rewards)
            mine = [where for s, where in rollouts.spans.items() if s.split("/")[0] == name]
            named = [t for t in counted if any(where[i, t] for where in mine)]
            for t in named or counted:
                share = len(counted) / len(named or counted)
                credit[i, t] += rollouts.reward_weights[k] * own * share
    return credit


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_spans_equal_their_loop(seed, scale_rewards):
    rollouts = random_rollouts(seed, scale_rewards)
    close(torch.where(rollouts.mask, spans(rollouts), 0.0), slow(rollouts))


def one_reward(named):
    rollouts = one_group([3, 0, 5, 2], [1.0, 0.0, None, 0.25])
    mask = rollouts.mask.clone()
    mask[2, 1:3] = False
    return replace(rollouts, mask=mask, spans=named(mask))


@pytest.mark.parametrize(
    "named",
    [
        lambda mask: {"reward/all": mask},
        lambda mask: {"reward/none": mask & ~mask},
        lambda mask: {},
    ],
)
def test_one_reward_that_names_everything_or_nothing_is_even(named):
    rollouts = one_reward(named)
    close(compute_credit("spans/seq", rollouts), compute_credit("even/seq", rollouts))


@pytest.mark.parametrize("seed", range(3))
def test_a_reward_brings_the_same_mass_wherever_it_lands(seed):
    rollouts = random_rollouts(seed)
    here, nowhere = (
        compute_credit("spans/seq", r) for r in (rollouts, replace(rollouts, spans={}))
    )
    close(here.sum(dim=1), nowhere.sum(dim=1))


def test_a_reward_does_not_get_the_spans_of_one_whose_name_is_longer():
    rollouts = random_rollouts(0)
    mine = {name: where for name, where in rollouts.spans.items() if name.startswith("tag/")}
    without = replace(rollouts, reward_weights=(1.0, 0.0, 0.0))
    close(spans(without), spans(replace(without, spans=mine)))


def test_equal_rewards_of_a_group_leave_no_rounding_noise():
    rollouts = Rollouts.from_lists(
        [1000] * 7, [0.1] * 7, num_generations=7, max_completion_length=1000
    )
    assert abs(float(rollouts.rewards.mean()) - float(rollouts.rewards[0])) > 0  # float32 is off
    first = rollouts.mask & (rollouts.position == 0)
    assert not spans(replace(rollouts, spans={"reward/first": first})).any()


def test_the_advantages_do_not_matter():
    rollouts = random_rollouts(1)
    other = replace(rollouts, advantages=torch.full_like(rollouts.advantages, 7.0))
    assert torch.equal(spans(rollouts), spans(other))
