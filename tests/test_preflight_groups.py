"""The expected share of informative groups: against enumeration, and by hand."""

from itertools import combinations
from math import nan

import pytest

from grpo_credit.preflight.groups import dead_shares, mean_informative, share_informative


def enumerated(rewards, size):
    """Count the subsets in which two scored rewards differ."""
    subsets = list(combinations(rewards, size))
    differ = [len({r for r in subset if r == r}) > 1 for subset in subsets]
    return sum(differ) / len(subsets)


@pytest.mark.parametrize(
    "rewards",
    [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0.5, 0.5, 0.5, 2],
        [nan, 0, 0, 1, nan, 1],
        [nan, nan, nan, nan],
        [0, 0, 0, 0],
    ],
)
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_share_is_that_of_the_subsets(rewards, size):
    assert share_informative(rewards, size) == pytest.approx(enumerated(rewards, size), abs=1e-12)


def test_more_completions_than_there_are_give_no_estimate_but_a_lower_bound():
    assert share_informative([1, 0], 4) is None
    assert mean_informative([[1, 0], [0, 0]], 4) == 0.5  # that of pairs
    assert mean_informative([], 2) is None


def test_rewards_that_differ_by_rounding_are_the_same():
    assert share_informative([0.1 + 0.2, 0.3], 2) == 0


def test_dead_groups_are_low_or_high_by_the_middle_of_the_range():
    # pairs: the first prompt is all low, the second all high, of the third's 3 pairs one is low
    low, high = dead_shares([[0, 0, 0], [2, 2, 2], [0, 0, 2]], 2)
    assert low == pytest.approx((1 + 0 + 1 / 3) / 3)
    assert high == pytest.approx(1 / 3)


def test_groups_that_are_all_alike_are_high_where_they_earn_something():
    assert dead_shares([[1, 1], [1, 1]], 2) == (0, 1)
    assert dead_shares([[0, 0], [0, 0]], 2) == (1, 0)
    assert dead_shares([[nan, nan]], 2) == (1, 0)
