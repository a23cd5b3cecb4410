"""What other frameworks compute by default, written anew from their sources, is a rule of ours.

Sources as of August 2026: verl `trainer/ppo/core_algos.py` (1dda039b9), OpenRLHF
`trainer/ppo_utils/experience_maker.py` and `models/loss.py` (3c3be623), SkyRL
`backends/skyrl_train/utils/ppo_utils.py` (a9564572e). TRL itself is run in test_parity_with_trl.
"""

import statistics

import pytest
import torch
from drawn import close, one_group, scored
from trl import GRPOConfig

from grpo_credit import Rollouts, compute_credit

OURS = 1e-4  # TRL's and ours, added to the standard deviation
LENGTHS = [3, 1, 5, 2, 4, 4, 1, 2]
REWARDS = [1.0, 0.0, 0.5, 0.25, 0.0, 1.0, 1.0, 0.0]
GROUP = 4
LIMIT = 6


def rollouts(scale_rewards):
    return Rollouts.from_lists(
        LENGTHS, REWARDS, num_generations=GROUP, max_completion_length=LIMIT,
        scale_rewards=scale_rewards, dtype=torch.float64,
    )  # fmt: skip


def others(row):
    """Give the rewards of the row's group, and which of them is its own."""
    first = row - row % GROUP
    return REWARDS[first : first + GROUP], row - first


def normalised(row, epsilon):
    """(r - mean) / (std + epsilon), the standard deviation with n - 1: verl, SkyRL, OpenRLHF."""
    group, own = others(row)
    return (group[own] - statistics.fmean(group)) / (statistics.stdev(group) + epsilon)


def centred(row, _):
    """Rewards less their mean: verl's `norm_adv_by_std_in_grpo=False`, OpenRLHF's `dr_grpo`."""
    group, own = others(row)
    return group[own] - statistics.fmean(group)


def leave_one_out(row, _):
    """Rewards less the mean of the others: `rloo` of verl, OpenRLHF and SkyRL."""
    group, own = others(row)
    return group[own] - statistics.fmean(r for i, r in enumerate(group) if i != own)


def length_weighted(row, _):
    """Rewards less the group's mean that is weighted by lengths: verl's `opo`."""
    first = row - row % GROUP
    group, lengths = REWARDS[first : first + GROUP], LENGTHS[first : first + GROUP]
    total = sum(r * n for r, n in zip(group, lengths, strict=True))
    return REWARDS[row] - total / sum(lengths)


WEIGHTS = {
    "token-mean": lambda row: 1 / sum(LENGTHS),
    "seq-mean-token-mean": lambda row: 1 / (len(LENGTHS) * LENGTHS[row]),
    "seq-mean-token-sum": lambda row: 1 / len(LENGTHS),
    "seq-mean-token-sum-norm": lambda row: 1 / (len(LENGTHS) * LIMIT),  # with the limit as constant
    "prompt-mean": lambda row: GROUP / len(LENGTHS) / sum(LENGTHS[row - row % GROUP :][:GROUP]),
}


@pytest.mark.parametrize(
    ("peer", "advantage", "epsilon", "weights", "ours", "scale"),
    [
        ("verl grpo", normalised, 1e-6, "token-mean", "dapo", "group"),
        ("OpenRLHF group_norm", normalised, 1e-9, "token-mean", "dapo", "group"),
        ("SkyRL grpo", normalised, 1e-6, "token-mean", "dapo", "group"),
        ("verl grpo", normalised, 1e-6, "seq-mean-token-mean", "length", "group"),
        ("SkyRL grpo", normalised, 1e-6, "prompt-mean", "prompt", "group"),
        ("SkyRL sequence_mean", normalised, 1e-6, "seq-mean-token-mean", "length", "group"),
        ("verl opo", length_weighted, 0, "token-mean", "opo/dapo", "none"),
        ("verl without std", centred, 0, "seq-mean-token-sum-norm", "uniform", "none"),
        ("verl without std", centred, 0, "seq-mean-token-sum", "seq", "none"),
        ("OpenRLHF dr_grpo", centred, 0, "token-mean", "dapo", "none"),
        ("verl, OpenRLHF, SkyRL rloo", leave_one_out, 0, "token-mean", "loo/dapo", "none"),
    ],
)
def test_a_default_of_a_peer_is_a_rule_of_ours(peer, advantage, epsilon, weights, ours, scale):
    batch = rollouts(scale)
    found = compute_credit(ours, batch)
    for row, length in enumerate(LENGTHS):
        theirs = advantage(row, epsilon) * WEIGHTS[weights](row)
        if scale == "group":  # what is added to the standard deviation differs, and nothing else
            deviation = statistics.stdev(others(row)[0])
            theirs *= (deviation + epsilon) / (deviation + OURS)
        close(found[row, :length], [theirs] * length)
        assert (found[row, length:] == 0).all()


def test_a_group_without_a_difference_teaches_nothing_here_and_there():
    equal = one_group([2, 3], [0.5, 0.5])
    assert scored(equal) == [0, 1]
    assert (compute_credit("dapo", equal) == 0).all()


def test_maxrl_of_skyrl_is_omega():
    """(r - mean) / mean per group, 0 where nothing is right; r is 0 or 1."""
    right = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    batch = Rollouts.from_lists(
        LENGTHS + LENGTHS[:4], right, num_generations=GROUP, max_completion_length=LIMIT,
        dtype=torch.float64,
    )  # fmt: skip
    found = compute_credit("omega/dapo", batch)
    for row, length in enumerate(LENGTHS + LENGTHS[:4]):
        mean = statistics.fmean(right[row - row % GROUP :][:GROUP])
        theirs = (right[row] - mean) / mean if mean > 0 else 0.0
        close(found[row, :length], [theirs / sum(LENGTHS + LENGTHS[:4])] * length)


def test_the_defaults_of_trl_are_those_of_the_table(tmp_path):
    args = GRPOConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (args.loss_type, args.scale_rewards, args.beta) == ("dapo", "group", 0.0)
    assert (args.importance_sampling_level, args.num_iterations) == ("token", 1)
