"""Rules over the tree of shared prefixes: against slow loops, and their identities."""

from dataclasses import replace

import pytest
import torch
from drawn import close, double, one_group, random_rollouts, scored

from grpo_credit import CreditError, compute_credit
from grpo_credit.credit.allocations.tree import (
    prefix_tree,
    tempo,
    temporal_differences,
    tree_td,
    treerl,
)
from grpo_credit.credit.turns import Turn

SEEDS = range(12)
ONES = double(1.0, -1.0)


# ---- slow loops -------------------------------------------------------------------------------


def ends(rollouts):
    counted = [[t for t, m in enumerate(row) if m] for row in rollouts.mask.tolist()]
    return [places[-1] + 1 if places else 0 for places in counted]


def members(rollouts, i, length):
    """List the scored members of the group of i that share its first tokens, i included."""
    ids, end = rollouts.completion_ids.tolist(), ends(rollouts)
    return [
        j
        for j in scored(rollouts)
        if rollouts.group[j] == rollouts.group[i]
        and end[j] >= max(length, 1)
        and ids[j][:length] == ids[i][:length]
    ]


def slow_value(rollouts, i, length, leave_one_out):
    others = [j for j in members(rollouts, i, length) if not (leave_one_out and j == i)]
    rewards = [rollouts.rewards[j].item() for j in others]
    return sum(rewards) / len(rewards) if rewards else rollouts.rewards[i].item()


def slow_td(rollouts, leave_one_out=False):
    result = torch.zeros_like(rollouts.mask, dtype=torch.float64)
    for i in scored(rollouts):
        for t in rollouts.mask[i].nonzero().flatten().tolist():
            after = slow_value(rollouts, i, t + 1, leave_one_out)
            if t + 1 == ends(rollouts)[i]:
                after = rollouts.rewards[i].item()
            result[i, t] = after - slow_value(rollouts, i, t, leave_one_out)
    return result


# ---- prefix_tree ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_prefix_tree_equals_its_loop(seed):
    rollouts = random_rollouts(seed)
    expected = torch.zeros_like(rollouts.mask, dtype=torch.float64)
    for i, t in rollouts.mask.nonzero().tolist():
        expected[i, t] = rollouts.advantages[i] / max(1, len(members(rollouts, i, t + 1)))
    close(prefix_tree(rollouts) * rollouts.mask, expected)


def test_equal_completions_share_one_advantage():
    rollouts = one_group([[5, 6]] * 4, [1.0, 1.0, 1.0, 0.0])
    close(prefix_tree(rollouts), (rollouts.advantages / 4)[:, None].expand(4, 2))


def test_without_shared_prefixes_it_is_even():
    rollouts = one_group([[1, 9, 9], [2, 9, 9], [3, 9, 9]], [1.0, 0.0, 0.0])
    close(compute_credit("prefix_tree/seq", rollouts), compute_credit("even/seq", rollouts))


def test_padding_after_the_end_is_no_prefix():
    # row 0 has ended after 5; the 6 that follows there is padding
    ids = torch.tensor([[5, 6], [5, 6]])
    rollouts = one_group([[5], [5, 6]], [1.0, 0.0], completion_ids=ids)
    close(prefix_tree(rollouts)[1], rollouts.advantages[1] / torch.tensor([2, 1]))


# ---- tree_td ----------------------------------------------------------------------------------


def test_leave_one_out_by_hand():
    # row 0: V(empty) = 1/3, V(5) = 1/2, V(5 6) = 1, alone after 5 6 1: its own 1
    # row 2: V(empty) = 2/3, V(5) = 1, alone after 5 7: its own 0
    # row 3: V(empty) = 2/3, alone after 8: its own 0
    rollouts = one_group([[5, 6, 1], [5, 6, 2], [5, 7, 1], [8, 6, 1]], [1.0, 1.0, 0.0, 0.0])
    expected = [[1 / 6, 1 / 2, 0], [1 / 6, 1 / 2, 0], [1 / 3, -1, 0], [-2 / 3, 0, 0]]
    close(tree_td(rollouts, leave_one_out=True), expected)


@pytest.mark.parametrize("options", [{}, {"leave_one_out": True}])
@pytest.mark.parametrize("seed", SEEDS)
def test_tree_td_equals_its_loop(seed, options):
    rollouts = random_rollouts(seed)
    close(tree_td(rollouts, **options) * rollouts.mask, slow_td(rollouts, **options))


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_tokens_of_a_completion_sum_to_its_reward_less_the_value_of_the_start(
    seed, leave_one_out
):
    rollouts = random_rollouts(seed)
    lengths = torch.tensor(ends(rollouts))
    rollouts = replace(rollouts, mask=torch.arange(rollouts.mask.shape[1]) < lengths[:, None])
    total = (tree_td(rollouts, leave_one_out=leave_one_out) * rollouts.mask).sum(dim=1)
    for i in scored(rollouts):
        if rollouts.mask[i].any():
            start = slow_value(rollouts, i, 0, leave_one_out)
            close(total[i], rollouts.rewards[i] - start)


def test_what_all_members_write_earns_nothing():
    rollouts = one_group([[5, 5, 1], [5, 5, 2], [5, 5, 3, 4]], [1.0, 0.0, 0.3])
    for leave_one_out in (False, True):
        found = tree_td(rollouts, leave_one_out=leave_one_out)
        assert (found[:, :2] == 0).all()


ANSWERED = torch.tensor([[True, False, True, True]] * 4)  # the second token is a tool's


def test_what_a_tool_changes_goes_to_nobody():
    # the tool answers 1 or 2, and with it V goes from 1/2 to 3/4 or 1/4; the last token decides
    tokens = [[5, 1, 6, 7], [5, 1, 6, 7], [5, 2, 6, 8], [5, 2, 6, 9]]
    rollouts = one_group(tokens, [1.0, 0.5, 0.5, 0.0], mask=ANSWERED, advantages=double(*[0] * 4))
    expected = [[0, 0, 0, 0.25], [0, 0, 0, -0.25]] * 2
    close(tree_td(rollouts) * ANSWERED, expected)
    close(tempo(replace(rollouts, advantages=rollouts.rewards)) * ANSWERED, [
        [1, 0, 1, 1], [0.5, 0, 0.5, 0.5], [0.5, 0, 0.5, 0.75], [0, 0, 0, -0.25]
    ])  # fmt: skip
    # what is left of treerl is what the stretch has over the start: 1/4 among two
    gained = treerl(rollouts)[0, 2]
    close(gained, 0.25 / 2**0.5)


def test_what_comes_of_a_last_call_goes_to_nobody():
    rollouts = one_group([[5, 6, 1], [5, 6, 2]], [1.0, 0.0], mask=ANSWERED[:2, [0, 0, 1]])
    assert tree_td(rollouts)[:, 1].tolist() == [0.5, -0.5]  # nothing says that a tool came after
    asked = tuple((Turn(0, 2, 0, "call"),) for _ in range(2))
    assert (tree_td(replace(rollouts, turns=asked)) * rollouts.mask == 0).all()


def test_differences_skip_masked_places_and_end_with_the_final_value():
    after = torch.tensor([[1.0, 99.0, 4.0, 99.0, 99.0], [99.0] * 5])
    mask = torch.tensor([[True, False, True, True, False], [False] * 5])
    found = temporal_differences(after, torch.tensor([0.5, 0.5]), torch.tensor([3.0, 3.0]), mask)
    assert (found * mask).tolist() == [[0.5, 0, -95.0, -1.0, 0], [0] * 5]


# ---- tempo ------------------------------------------------------------------------------------


def slow_tempo(rollouts):
    result = torch.zeros_like(rollouts.mask, dtype=torch.float64)
    for i, t in rollouts.mask.nonzero().tolist():
        result[i, t] = rollouts.advantages[i]
        if i in scored(rollouts):
            before = members(rollouts, i, t)
            after = members(rollouts, i, t + 1)
            result[i, t] += rollouts.advantages[after].mean() - rollouts.advantages[before].mean()
    return result


@pytest.mark.parametrize("seed", SEEDS)
def test_tempo_equals_its_loop(seed):
    rollouts = random_rollouts(seed)
    close(tempo(rollouts) * rollouts.mask, slow_tempo(rollouts))


def test_equal_completions_of_unequal_reward_part_nowhere():
    rollouts = one_group([[5, 6], [5, 6]], [1.0, 0.0], advantages=ONES)
    assert tempo(rollouts).tolist() == [[1, 1], [-1, -1]]


# ---- treerl -----------------------------------------------------------------------------------


def slow_treerl(rollouts):
    result = torch.zeros_like(rollouts.mask, dtype=torch.float64)
    for i, t in rollouts.mask.nonzero().tolist():
        if i in scored(rollouts):
            through = len(members(rollouts, i, t + 1))
            start = next((p for p in range(t, -1, -1) if len(members(rollouts, i, p)) > through), 0)
            start += len(members(rollouts, i, start)) > through and not rollouts.mask[i, start]
            value, root, parent = (
                float(rollouts.rewards[members(rollouts, i, p)].mean()) for p in (t + 1, 0, start)
            )
            result[i, t] = (2 * value - root - parent) / through**0.5
    return result


@pytest.mark.parametrize("seed", SEEDS)
def test_treerl_equals_its_loop(seed):
    rollouts = random_rollouts(seed)
    close(treerl(rollouts) * rollouts.mask, slow_treerl(rollouts))


def test_treerl_by_hand():
    tokens = [[4, 5, 6, 7], [4, 5, 6, 8], [4, 5, 9], [4, 5, 9]]
    rollouts = one_group(tokens, [1.0, 0.0, 0.0, 0.0])
    # all share 4 5: V is the root's 1/4. 6: V = 1/2, of two: (1/4 + 1/4) / √2; 7: 3/4 + 1/2
    half, root = 0.5 / 2**0.5, 2**0.5
    expected = [[0, 0, half, 1.25], [0, 0, half, -0.75], [0, 0, -0.5 / root, 0]]
    close(treerl(rollouts), [*expected, expected[2]])


def test_an_ill_typed_option_is_refused():
    with pytest.raises(CreditError, match=r"'leave_one_out' of 'tree_td' is 1 \(int\)"):
        compute_credit("tree_td", random_rollouts(0), leave_one_out=1)
