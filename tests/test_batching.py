"""How rows are cut into passes and dealt to ranks, with hand-worked numbers."""

from dataclasses import replace
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
    packed_length,
    plan,
    spread,
    token_pairs,
)
from grpo_credit.batching.rows import join, number_prompts, row_tensors, take

ROOMY = Budget(tokens=10**6, pass_cost=0)


def lengths(prompts, completions, prompt_of=None):
    numbers = np.arange(len(prompts)) if prompt_of is None else np.array(prompt_of)
    return Lengths(np.array(prompts), np.array(completions), numbers)


def cut_of(rows, budget):
    """Cut padded rows in the order given, on one rank."""
    return cut(column(rows), budget, packed=False)


def column(rows):
    return rows.take(np.arange(len(rows.prompt))[:, None])


def sizes(slices):
    return [part.stop - part.start for part in slices]


def cost(rows, part, budget, packed=False):
    """Give what a pass costs, or infinity where it does not fit."""
    own = rows.take(part)
    count = len(own.prompt)
    if packed:
        prompts = {(number, prompt) for prompt, _, number in zip(*own, strict=True)}
        tokens = sum(prompt - 1 for _, prompt in prompts) + own.completion.sum()
    else:
        tokens = count * (own.prompt.max() + own.completion.max())
    pairs = tokens**2 if packed and budget.pairs else 0
    most = budget.packed_tokens if packed else budget.tokens
    if count > 1 and not (tokens <= most and pairs <= budget.pairs):
        return np.inf
    return tokens + pairs / budget.token_pairs + budget.pass_cost


def every_cut(count):
    for number in range(count):
        for inner in combinations(range(1, count), number):
            ends = [0, *inner, count]
            yield [slice(a, b) for a, b in pairwise(ends)]


triples = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2)), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None)
@given(
    triples, st.integers(1, 120), st.integers(0, 40), st.booleans(),
    st.sampled_from([0, 900]),
)  # fmt: skip
def test_no_cut_costs_less(rows, tokens, pass_cost, packed, pairs):
    rows = sorted((number, number + 1, completion) for _, completion, number in rows)
    numbers, prompts, completions = zip(*rows, strict=True)
    rows = lengths(prompts, completions, numbers)
    budget = Budget(tokens, pass_cost, pairs=pairs, token_pairs=50)

    def total(parts):
        return sum(cost(rows, part, budget, packed) for part in parts)

    best = cut(column(rows), budget, packed=packed)
    assert [i for part in best for i in range(part.start, part.stop)] == [*range(len(rows.prompt))]
    least = min(total(parts) for parts in every_cut(len(rows.prompt)))
    assert total(best) == pytest.approx(least)


def test_a_pass_is_worth_its_cost():
    # two rows of 2 + 8 tokens and two of 2 + 1: one pass is 4 x 10 = 40 padded tokens, two passes
    # are 2 x 10 + 2 x 3 = 26, so that a second pass pays if it costs less than 14
    rows = lengths([2, 2, 2, 2], [8, 8, 1, 1])
    assert sizes(cut_of(rows, Budget(40, pass_cost=13))) == [2, 2]
    assert sizes(cut_of(rows, Budget(40, pass_cost=15))) == [4]


def test_the_budget_bounds_padded_tokens():
    rows = lengths([6] * 4, [4] * 4)
    assert sizes(cut_of(rows, Budget(40, pass_cost=100))) == [4]
    assert len(cut_of(rows, Budget(39, pass_cost=1))) == 2


def test_a_row_beyond_the_budget_has_a_pass_of_its_own():
    assert sizes(cut_of(lengths([5, 5, 1], [90, 5, 1]), Budget(20, pass_cost=0))) == [1, 1, 1]


def test_equal_rows_are_cut_as_trl_cuts_them():
    rows = lengths([10] * 64, [50] * 64)
    assert sizes(cut_of(rows, Budget(8 * 60, pass_cost=64))) == [8] * 8


def test_widths_are_padded_to_a_multiple():
    # 3 + 5 tokens take 4 + 8, so that 24 tokens hold two rows and 23 one
    rows = lengths([3, 3], [5, 5])
    assert sizes(cut_of(rows, Budget(24, pass_cost=9, multiple=4))) == [2]
    assert sizes(cut_of(rows, Budget(23, pass_cost=9, multiple=4))) == [1, 1]


def test_many_rows_are_cut_better_than_by_filling_up():
    rows = lengths([1] * 1024, sorted(np.random.default_rng(0).integers(1, 500, 1024))[::-1])
    budget = Budget(8 * 501, pass_cost=64)
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


def test_prompts_that_are_not_trimmed_are_as_wide_as_they_stand():
    rows = lengths([3, 3], [5, 5])
    wide = Budget(24, pass_cost=9, prompt_columns=7)
    assert sizes(cut_of(rows, wide)) == [2]
    assert sizes(cut_of(rows, replace(wide, prompt_columns=8))) == [1, 1]


# ---- packed rows --------------------------------------------------------------------------------


def every(rows):
    return np.ones(len(rows.prompt), dtype=bool)


def dealt(told):
    """List the rows of each pass and rank."""
    return [part.T.tolist() for part in told.rows]


def test_packed_rows_count_a_prompt_once():
    # a prompt of 20 with 9 and 1, one of 6 with 8 and 1: 19 + 10 + 5 + 9 = 43 tokens in one row,
    # which are two thirds of 65
    rows = lengths([20, 6, 20, 6], [9, 8, 1, 1], [0, 1, 0, 1])
    told = plan(rows, every(rows), Budget(65, pass_cost=1), packs=True)
    assert (told.cost, told.packed, dealt(told)) == (44.0, True, [[[0, 2, 1, 3]]])
    two = plan(rows, every(rows), Budget(64, pass_cost=1), packs=True)
    assert dealt(two) == [[[0, 2]], [[1, 3]]]  # none runs twice


def test_what_packing_does_not_save_is_padded():
    rows = lengths([4, 4], [5, 5])
    assert plan(rows, every(rows), ROOMY, packs=True).packed  # 3 + 5 tokens are fewer than 4 + 5
    every_pair = replace(ROOMY, pairs=10**9, token_pairs=20)  # 8 + 64 / 20 are more than 9
    assert not plan(rows, every(rows), every_pair, packs=True).packed
    assert not plan(rows, every(rows), ROOMY, packs=False).packed


def test_packed_rows_have_no_more_pairs_than_trls_micro_batch():
    rows = lengths([3] * 8, [5] * 8, [0] * 8)
    squares = Budget(8 * 8, pass_cost=0, pairs=8 * 8**2, token_pairs=10**9)
    told = plan(rows, every(rows), squares, packs=True)
    assert [part.shape for part in told.rows] == [
        (4, 1),
        (4, 1),
    ]  # 2 + 4 x 5 = 22, and 22² < 512 < 27²


@pytest.mark.parametrize(
    ("tokens", "length"), [(1, 1), (33, 48), (48, 48), (49, 64), (64, 64), (65, 96), (97, 128)]
)
def test_few_lengths_are_compiled(tokens, length):
    assert packed_length(tokens, 1, few_sizes=True) == length
    assert packed_length(tokens, 8, few_sizes=False) == -(-tokens // 8) * 8


def test_a_token_takes_as_long_as_the_pairs_of_a_row():
    config = SimpleNamespace(num_hidden_layers=6, hidden_size=256)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config))
    assert token_pairs(model, 4_200_000) == 4_200_000 // 3072


# ---- ranks --------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(triples, st.integers(1, 3), st.booleans(), st.booleans(), st.data())
def test_every_row_is_dealt_once_and_every_rank_has_as_many_passes(rows, ranks, packs, fixed, data):
    rows = (rows * ranks)[: len(rows) // ranks * ranks or ranks]
    _, completions, numbers = zip(*rows, strict=True)
    rows = lengths([number + 1 for number in numbers], completions, numbers)
    run = np.array(data.draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers))))
    size = data.draw(st.integers(1, max(1, len(numbers) // ranks)))
    passes = -(-len(numbers) // ranks // size)
    budget = Budget(size * (3 + max(completions)), pass_cost=3)
    told = plan(rows, run, budget, packs=packs, ranks=ranks, passes=passes if fixed else None)
    every_row = np.concatenate(told.rows).ravel().tolist()
    assert len(set(every_row)) == len(every_row)
    assert set(np.flatnonzero(run)) <= set(every_row)
    assert all(part.shape[0] and part.shape[1] == ranks for part in told.rows)
    assert not fixed or len(told.rows) == passes
    costs = [max(cost(rows, own, budget, told.packed) for own in part.T) for part in told.rows]
    assert sum(costs) == pytest.approx(told.cost)
    assert np.isfinite(told.cost)


def test_ranks_take_whole_prompts_of_like_size():
    rows = lengths([20] * 8, [9, 9, 8, 8, 7, 7, 6, 6], [0, 0, 1, 1, 2, 2, 3, 3])
    told = plan(rows, every(rows), Budget(120, pass_cost=1), packs=True, ranks=2)
    assert dealt(told) == [[[0, 1, 6, 7], [2, 3, 4, 5]]]  # 18 + 12 tokens, 16 + 14
    roomy = replace(ROOMY, pass_cost=1)
    three = plan(rows.take(slice(6)), np.array([True] * 6), roomy, packs=True, ranks=2)
    assert dealt(three) == [[[0, 1, 2], [3, 4, 5]]]  # the second one is split


def test_ranks_take_padded_rows_in_turn():
    rows = lengths([1] * 6, [2, 9, 4, 7, 5, 1])
    told = plan(rows, every(rows), ROOMY, packs=False, ranks=2)
    assert np.concatenate(told.rows).tolist() == [[1, 3], [4, 2], [0, 5]]  # 9, 7 | 5, 4 | 2, 1


def test_rows_without_credit_are_left_out():
    rows, live = lengths([1] * 6, [2, 9, 4, 7, 5, 1]), np.array([0, 1, 0, 1, 0, 0], dtype=bool)
    assert dealt(plan(rows, live, ROOMY, packs=False, ranks=2)) == [[[1], [3]]]


def test_the_shortest_rows_without_credit_fill_up():
    rows, live = lengths([1] * 6, [2, 9, 4, 7, 5, 1]), np.array([0, 1, 0, 0, 0, 0], dtype=bool)
    for ranks, filled in ((2, [[1], [5]]), (3, [[1], [0], [5]])):
        assert dealt(plan(rows, live, ROOMY, packs=False, ranks=ranks)) == [filled]


def test_a_window_without_credit_still_runs_a_row_on_every_rank():
    rows, live = lengths([1] * 4, [3, 2, 1, 4]), np.zeros(4, dtype=bool)
    assert sorted(dealt(plan(rows, live, ROOMY, packs=True, ranks=2))[0]) == [[1], [2]]


def test_a_given_number_of_passes_is_kept():
    rows, live = lengths([1] * 8, [8, 7, 6, 5, 4, 3, 2, 1]), np.array([True] + [False] * 7)
    told = plan(rows, live, ROOMY, packs=False, passes=4)
    assert dealt(told) == [[[0]], [[5]], [[6]], [[7]]]
    everything = plan(rows, every(rows), ROOMY, packs=True, ranks=2, passes=2)
    assert [part.shape for part in everything.rows] == [(2, 2), (2, 2)]


def test_more_passes_than_the_best_are_no_larger():
    """As where another rank needs more: padded, three rows with the longest would be 180 tokens."""
    rows = lengths([20] * 12, [40] + [2] * 11)
    budget = Budget(tokens=120, pass_cost=64)
    for passes in (None, 4, 5, 12):
        told = plan(rows, every(rows), budget, packs=False, passes=passes)
        assert passes in (None, len(told.rows))
        assert np.isfinite(told.cost)  # of none that is too large
        assert sum(map(len, told.rows)) == 12


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
    ones = torch.ones_like(ids)
    return {"prompt_ids": ids[:, :3], "prompt_mask": ones[:, :3], "completion_ids": ids,
            "completion_mask": ones} | more  # fmt: skip


def test_what_is_said_row_by_row_travels_along():
    more = {"mine": torch.ones(3, 4), "own": torch.arange(3), "ratio": torch.ones(3, 1)}
    rows = row_tensors(batch(**more, items=torch.tensor(7), nothing=None))
    assert set(rows) == {*batch(), *more}
    taken = take(rows, torch.tensor([2, 0]), prompt=2, completion=3)
    assert taken["prompt_ids"].tolist() == [[9, 10], [1, 2]]  # trimmed on the left
    assert taken["completion_ids"].tolist() == [[8, 9, 10], [0, 1, 2]]  # and on the right
    assert taken["mine"].shape == (2, 3)
    assert taken["ratio"].shape == (2, 1)
    assert taken["own"].tolist() == [2, 0]


def test_batches_are_joined_at_the_widest_with_padding_where_it_was():
    ids = torch.arange(1, 13)
    narrow = batch(own=torch.tensor([7, 8, 9]))
    wide = {"prompt_ids": ids[:4].reshape(1, 4), "prompt_mask": torch.ones(1, 4).long(),
            "completion_ids": ids[:5].reshape(1, 5), "completion_mask": torch.ones(1, 5).long(),
            "own": torch.tensor([5])}  # fmt: skip
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


def masks(prompt, completion):
    prompt, completion = torch.tensor(prompt), torch.tensor(completion)
    return {"prompt_mask": prompt, "completion_mask": completion, "prompt_ids": prompt * 5,
            "completion_ids": completion}  # fmt: skip


def test_lengths_are_measured_and_prompts_numbered():
    rows = Lengths.of(masks([[0, 1, 1], [1, 1, 1], [0, 1, 1]], [[1, 1, 0], [1, 0, 0], [0, 0, 0]]))
    assert rows.prompt.tolist() == [2, 3, 2]
    assert rows.completion.tolist() == [2, 1, 1]
    first, second, third = rows.prompt_of.tolist()
    assert first == third != second


def test_prompts_are_numbered_by_their_tokens():
    ids = torch.tensor([[0, 5, 6], [7, 5, 6], [9, 5, 6], [0, 5, 6]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1]])
    first, second, third, fourth = number_prompts(ids, mask).tolist()
    assert first == third  # what stands at padding does not count
    assert len({first, second, fourth}) == 3


def test_a_mask_with_holes_is_left_alone():
    """Its tokens do not see each other as those of a text do."""
    assert row_tensors(masks([[0, 1, 1]], [[1, 1, 0]]))
    assert not row_tensors(masks([[0, 1, 1]], [[1, 0, 1]]))
    assert not row_tensors(masks([[1, 0, 1]], [[1, 1, 1]]))
    assert not row_tensors(masks([[0, 1, 1], [0, 0, 0]], [[1, 1], [1, 1]]))  # an empty prompt


def test_parameters_are_counted_whole_where_they_are_held_in_parts_or_packed():
    model = torch.nn.Linear(6, 4)
    assert count_parameters(model) == 6 * 4 + 4
    model.weight.quant_state = SimpleNamespace(shape=torch.Size([12, 4]))  # two to a byte
    model.bias.data, model.bias.ds_numel = torch.empty(0), 4  # as ZeRO-3 leaves it
    assert count_parameters(model) == 12 * 4 + 4
