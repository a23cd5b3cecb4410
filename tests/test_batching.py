"""How rows are cut into passes and dealt to ranks, with hand-worked numbers."""

from itertools import combinations, pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_credit.batching.planner import (
    Budget,
    Lengths,
    count_parameters,
    cut,
    deal,
    places,
    spread,
)
from grpo_credit.batching.rows import join, row_tensors, take

ROOMY = Budget(tokens=10**6, completion_tokens=10**6, pass_cost=0)


def lengths(prompts, completions, prompt_of=None):
    numbers = np.arange(len(prompts)) if prompt_of is None else np.array(prompt_of)
    return Lengths(np.array(prompts), np.array(completions), numbers)


def cut_of(rows, budget):
    """Cut rows in the order given, on one rank."""
    return cut(places(rows, np.arange(len(rows.prompt))[:, None]), budget).passes


def sizes(slices):
    return [part.stop - part.start for part in slices]


def cost(rows, part, budget):
    """Give what a pass costs, or infinity where it does not fit."""
    own = rows.take(part)
    prompt, completion, count = own.prompt.max(), own.completion.max(), len(own.prompt)
    plain = count * (prompt + completion)
    prompts = 1 + int((own.prompt_of[1:] != own.prompt_of[:-1]).sum())
    shared = prompts * prompt + count * completion + budget.pass_cost
    if count > 1 and (plain > budget.tokens or count * completion > budget.completion_tokens):
        return np.inf
    return min(plain, shared) + budget.pass_cost


def every_cut(count):
    for number in range(count):
        for inner in combinations(range(1, count), number):
            ends = [0, *inner, count]
            yield [slice(a, b) for a, b in pairwise(ends)]


triples = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None)
@given(triples, st.integers(1, 120), st.integers(1, 90), st.integers(0, 40))
def test_no_cut_costs_less(rows, tokens, completion_tokens, pass_cost):
    rows = lengths(*zip(*rows, strict=True))
    budget = Budget(tokens, completion_tokens, pass_cost)

    def total(parts):
        return sum(cost(rows, part, budget) for part in parts)

    found = cut_of(rows, budget)
    assert [i for part in found for i in range(part.start, part.stop)] == [*range(len(rows.prompt))]
    assert total(found) == min(total(parts) for parts in every_cut(len(rows.prompt)))


def test_a_pass_is_worth_its_cost():
    # two rows of 2 + 8 tokens and two of 2 + 1: one pass is 4 x 10 = 40 padded tokens, two passes
    # are 2 x 10 + 2 x 3 = 26, so that a second pass pays if it costs less than 14
    rows = lengths([2, 2, 2, 2], [8, 8, 1, 1])
    assert sizes(cut_of(rows, Budget(40, 40, pass_cost=13))) == [2, 2]
    assert sizes(cut_of(rows, Budget(40, 40, pass_cost=15))) == [4]


def test_the_budget_bounds_both_halves():
    rows = lengths([6] * 4, [4] * 4)
    assert sizes(cut_of(rows, Budget(40, 10**6, pass_cost=100))) == [4]
    assert len(cut_of(rows, Budget(39, 10**6, pass_cost=1))) == 2
    assert sizes(cut_of(rows, Budget(10**6, 8, pass_cost=100))) == [2, 2]


def test_a_row_beyond_the_budget_has_a_pass_of_its_own():
    assert sizes(cut_of(lengths([5, 5, 1], [90, 5, 1]), Budget(20, 20, pass_cost=0))) == [1, 1, 1]


def test_equal_rows_are_cut_as_trl_cuts_them():
    rows = lengths([10] * 64, [50] * 64)
    assert sizes(cut_of(rows, Budget(8 * 60, 8 * 50, pass_cost=64))) == [8] * 8


def test_widths_are_padded_to_a_multiple():
    # 3 + 5 tokens take 4 + 8, so that 24 tokens hold two rows and 23 one
    rows = lengths([3, 3], [5, 5])
    assert sizes(cut_of(rows, Budget(24, 16, pass_cost=9, multiple=4))) == [2]
    assert sizes(cut_of(rows, Budget(23, 16, pass_cost=9, multiple=4))) == [1, 1]


def test_many_rows_are_cut_better_than_by_filling_up():
    rows = lengths([1] * 1024, sorted(np.random.default_rng(0).integers(1, 500, 1024))[::-1])
    budget = Budget(8 * 501, 8 * 500, pass_cost=64)
    filled, begin = [], 0
    for end in range(1, 1025):
        if end == 1024 or cost(rows, slice(begin, end + 1), budget) == np.inf:
            filled.append(slice(begin, end))
            begin = end
    best = cut_of(rows, budget)
    assert sum(sizes(best)) == 1024
    assert sum(cost(rows, part, budget) for part in best) < sum(
        cost(rows, part, budget) for part in filled
    )


def test_members_of_a_prompt_are_kept_together_where_it_is_shared():
    # Two prompts of 20 with completions 9, 1 and 8, 1. By length, 9, 8 | 1, 1 takes 2 x 29 +
    # 2 x 21 = 100; by prompt, 9, 1 | 8, 1 takes 20 + 2 x 9 + 20 + 2 x 8 = 74 and two passes more.
    rows, live = lengths([20] * 4, [9, 8, 1, 1], [0, 1, 0, 1]), np.array([True] * 4)
    told = deal(rows, live, 1, Budget(58, 18, pass_cost=12))
    assert [part.ravel().tolist() for part in told] == [[0, 2], [1, 3]]
    told = deal(rows, live, 1, Budget(58, 18, pass_cost=14))
    assert [part.ravel().tolist() for part in told] == [[0, 1], [2, 3]]


def test_ranks_take_whole_prompts_where_they_are_shared():
    rows = lengths([20] * 8, [9, 9, 8, 8, 7, 7, 6, 6], [0, 0, 1, 1, 2, 2, 3, 3])
    dealt = deal(rows, np.array([True] * 8), 2, Budget(58, 18, pass_cost=1))
    assert [part.T.tolist() for part in dealt] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    three = deal(rows.take(slice(6)), np.array([True] * 6), 2, Budget(58, 18, pass_cost=1))
    assert np.concatenate(three)[0].tolist() == [0, 1]  # three prompts are not for two ranks


# ---- ranks --------------------------------------------------------------------------------------


def test_ranks_take_every_other_row_of_the_sorted_window():
    rows = lengths([1] * 6, [2, 9, 4, 7, 5, 1])
    dealt = deal(rows, np.array([True] * 6), ranks=2, budget=ROOMY)
    assert np.concatenate(dealt).tolist() == [[1, 3], [4, 2], [0, 5]]  # 9, 7 | 5, 4 | 2, 1


def test_rows_without_credit_are_left_out():
    rows, live = lengths([1] * 6, [2, 9, 4, 7, 5, 1]), np.array([0, 1, 0, 1, 0, 0], dtype=bool)
    assert np.concatenate(deal(rows, live, 2, ROOMY)).tolist() == [[1, 3]]


def test_the_shortest_rows_without_credit_fill_up():
    rows, live = lengths([1] * 6, [2, 9, 4, 7, 5, 1]), np.array([0, 1, 0, 0, 0, 0], dtype=bool)
    assert np.concatenate(deal(rows, live, 2, ROOMY)).tolist() == [[1, 5]]
    assert np.concatenate(deal(rows, live, 3, ROOMY)).tolist() == [[1, 0, 5]]


def test_a_window_without_credit_still_runs_a_row_on_every_rank():
    rows, live = lengths([1] * 4, [3, 2, 1, 4]), np.zeros(4, dtype=bool)
    assert np.concatenate(deal(rows, live, 2, ROOMY)).tolist() == [[1, 2]]


def test_a_given_number_of_passes_is_kept():
    rows, live = lengths([1] * 8, [8, 7, 6, 5, 4, 3, 2, 1]), np.array([True] + [False] * 7)
    dealt = deal(rows, live, ranks=1, budget=ROOMY, passes=4)
    assert [part.ravel().tolist() for part in dealt] == [[0], [5], [6], [7]]
    everything = deal(rows, np.array([True] * 8), ranks=2, budget=ROOMY, passes=2)
    assert [part.shape for part in everything] == [(2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("passes", "turns", "expected"),
    [(1, 4, [0, 0, 0, 1]), (4, 4, [1, 1, 1, 1]), (5, 2, [2, 3]), (3, 1, [3])],
)
def test_the_last_turn_is_never_empty(passes, turns, expected):
    parts = spread(list(range(passes)), turns)
    assert [len(part) for part in parts] == expected
    assert [number for part in parts for number in part] == list(range(passes))


# ---- tensors ------------------------------------------------------------------------------------


def batch(**more):
    ids = torch.arange(12).reshape(3, 4)
    return {"prompt_ids": ids[:, :3], "prompt_mask": ids[:, :3], "completion_ids": ids} | more


def test_what_is_said_row_by_row_travels_along():
    more = {"mine": torch.ones(3, 4), "own": torch.arange(3), "ratio": torch.ones(3, 1)}
    rows = row_tensors(batch(**more, items=torch.tensor(7), nothing=None))
    assert set(rows) == {"prompt_ids", "prompt_mask", "completion_ids", *more}
    taken = take(rows, torch.tensor([2, 0]), prompt=2, completion=3)
    assert taken["prompt_ids"].tolist() == [[9, 10], [1, 2]]  # trimmed on the left
    assert taken["completion_ids"].tolist() == [[8, 9, 10], [0, 1, 2]]  # and on the right
    assert taken["mine"].shape == (2, 3)
    assert taken["ratio"].shape == (2, 1)
    assert taken["own"].tolist() == [2, 0]


def test_batches_are_joined_at_the_widest_with_padding_where_it_was():
    ids = torch.arange(1, 13)
    narrow = batch(own=torch.tensor([7, 8, 9]))
    wide = {"prompt_ids": ids[:4].reshape(1, 4), "prompt_mask": ids[:4].reshape(1, 4),
            "completion_ids": ids[:5].reshape(1, 5), "own": torch.tensor([5])}  # fmt: skip
    rows, shifted = join([narrow, wide])
    assert shifted  # one prompt is padded further than it was
    assert not join([wide, wide]).shifted
    assert rows["prompt_ids"].tolist() == [[0, 0, 1, 2], [0, 4, 5, 6], [0, 8, 9, 10], [1, 2, 3, 4]]
    assert rows["completion_ids"][0].tolist() == [0, 1, 2, 3, 0]
    assert rows["completion_ids"][3].tolist() == [1, 2, 3, 4, 5]
    assert rows["own"].tolist() == [7, 8, 9, 5]
    assert join([narrow, wide | {"images": [1]}]) is None
    assert join([narrow, wide | {"more": torch.ones(1)}]) is None


@pytest.mark.parametrize(
    "more",
    [
        {"pixel_values": torch.ones(5, 3)},
        {"num_images": [1, 0, 2]},
        {"token_type_ids": torch.ones(3, 7)},
        {"completion_ids": torch.ones(3, 1)},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_cannot_be_recut_is_left_alone(more):
    assert row_tensors(batch(**more)) == {}


def test_lengths_are_measured_from_the_padding_side():
    prompt = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 0, 0]])
    completion = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])  # a gap is no padding
    found = Lengths.of(prompt, completion)
    assert found.prompt.tolist() == [2, 3, 0]
    assert found.completion.tolist() == [2, 3, 0]


def test_parameters_are_counted_whole_where_they_are_held_in_parts_or_packed():
    model = torch.nn.Linear(6, 4)
    assert count_parameters(model) == 6 * 4 + 4
    model.weight.quant_state = SimpleNamespace(shape=torch.Size([12, 4]))  # two to a byte
    model.bias.data, model.bias.ds_numel = torch.empty(0), 4  # as ZeRO-3 leaves it
    assert count_parameters(model) == 12 * 4 + 4
