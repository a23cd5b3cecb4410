"""Paired tests, against scipy and by hand."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from grpo_credit.experiments.report import paired
from grpo_credit.experiments.report.intervals import Settings

X = np.array([0.71, 0.64, 0.83, 0.90, 0.58, 0.77, 0.69])
Y = np.array([0.65, 0.66, 0.70, 0.81, 0.55, 0.70, 0.61])
scores = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=8)


def test_the_paired_t_test_is_scipys():
    expected = scipy.stats.ttest_rel(X, Y).pvalue
    assert paired.paired_t_p(paired.differences(X, Y)) == pytest.approx(expected, rel=1e-11)


def test_the_sign_flip_test_is_scipys_exact_paired_permutation_test():
    expected = scipy.stats.permutation_test(
        (X, Y), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples",
        n_resamples=np.inf, vectorized=True,
    ).pvalue  # fmt: skip
    assert paired.sign_flip_p(paired.differences(X, Y)) == expected == 4 / 128


@given(scores)
def test_the_sign_flip_test_visits_every_pattern(found):
    total = math.fsum(found)
    slack = 1e-9 * (1 + sum(map(abs, found)))
    patterns = list(product([-1, 1], repeat=len(found)))
    sums = [abs(math.fsum(s * d for s, d in zip(signs, found, strict=True))) for signs in patterns]
    surely = sum(each >= abs(total) + slack for each in sums)
    perhaps = sum(each >= abs(total) - slack for each in sums)
    assert surely <= paired.sign_flip_p(found) * len(patterns) <= perhaps


def test_sign_flips_of_one_sign_reach_the_smallest_p():
    for pairs in range(1, 17):
        found = np.linspace(0.1, 0.9, pairs)
        assert paired.sign_flip_p(found) == paired.smallest_p(pairs) == min(1, 2 / 2**pairs)


def test_sign_flips_of_nothing_say_nothing():
    assert paired.sign_flip_p([]) == paired.sign_flip_p([0.3]) == paired.sign_flip_p([0] * 6) == 1


def test_many_pairs_draw_their_patterns():
    found = np.random.default_rng(0).normal(0.4, 1, size=17)
    p = paired.sign_flip_p(found, seed=1)
    signs = 1 - 2 * ((np.arange(2**17)[:, None] >> np.arange(17)) & 1).astype(np.int8)
    exact = (np.abs(signs @ found) >= abs(found.sum()) - 1e-9).mean()
    error = math.sqrt(exact * (1 - exact) / paired.SIGN_PATTERNS)
    assert abs(p - exact) < 4 * error
    assert p == paired.sign_flip_p(found, seed=1) != paired.sign_flip_p(found, seed=2)
    assert paired.sign_flip_p(np.ones(40)) == paired.smallest_p(40) == 1e-5


def test_differences_that_are_equal_but_for_rounding_are_equal():
    found = paired.differences([0.3, 0.8, 0.9], [0.2, 0.7, 0.8])
    assert len(set(found.tolist())) == 1
    assert paired.differences([0.1 + 0.2], [0.3]).tolist() == [0]
    assert paired.probability_of_improvement([0.1 + 0.2], [0.3]) == 0.5
    assert paired.differences([], []).tolist() == []
    assert paired.differences([1.0, 2.0], [0.5, 1.25]).tolist() == [0.5, 0.75]


def test_equal_differences_have_the_p_of_their_bound():
    assert paired.paired_t_p([0.25] * 6) == 2 / 3**6
    assert paired.paired_t_p([0.0] * 6) == 1
    assert paired.paired_t_p([0.25]) == paired.paired_t_p([]) == 1


@pytest.mark.parametrize("sizes", [[1, 1, 1], [1, 2, 4, 1], [5, 1, 1, 1, 5]])
def test_equal_differences_are_never_likelier_than_their_bound(sizes):
    # the results of a strategy are 0, 1, 2, ... with these probabilities; exact, by convolution
    q = np.array(sizes) / sum(sizes)
    of_difference = np.convolve(q, q[::-1])
    nonzero = np.delete(of_difference, len(q) - 1)
    for pairs in range(2, 9):
        assert (nonzero**pairs).sum() <= 2 / 3**pairs + 1e-15


def test_tiny_differences_are_differences():
    assert paired.paired_t_p([1e-300, 2e-300]) == pytest.approx(paired.paired_t_p([1, 2]))


def test_holm_by_hand():
    # sorted 0.01 0.02 0.03 0.5: 4 · 0.01, 3 · 0.02, max(0.06, 2 · 0.03), 0.5
    assert paired.holm([0.5, 0.02, 0.01, 0.03]) == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert paired.holm([0.9, 0.6]) == [1, 1]
    assert paired.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
def test_holm_lies_between_nothing_and_bonferroni(p_values):
    adjusted = paired.holm(p_values)
    for p, each in zip(p_values, adjusted, strict=True):
        assert p <= each <= min(1, len(p_values) * p)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=7))
def test_holm_rejects_exactly_where_its_step_does(p_values):
    steps = paired.holm_steps(p_values, alpha=0.05)
    for p, adjusted, step in zip(p_values, paired.holm(p_values), steps, strict=True):
        assert (adjusted <= 0.05) == (p * step <= 0.05)


def test_holm_steps_by_hand():
    # all rejected: every step its own; none rejected: all at m
    assert paired.holm_steps([0.001, 0.002, 0.003], 0.05) == [3, 2, 1]
    assert paired.holm_steps([0.3, 0.2, 0.1], 0.05) == [3, 3, 3]
    assert paired.holm_steps([0.3, 0.001, 0.2], 0.05) == [2, 3, 2]


def test_the_probability_of_improvement_is_mann_whitneys():
    for x, y in ((X, Y), (X[:4], Y), ([1, 1, 2], [1, 2, 2, 0])):
        expected = scipy.stats.mannwhitneyu(x, y).statistic / (len(x) * len(y))
        assert paired.probability_of_improvement(x, y) == pytest.approx(expected, rel=1e-12)


def test_the_win_rate_keeps_seeds_together():
    # sorted alike, half of all pairs of runs are won or tied; seed by seed all are won
    x, y = np.array([2.0, 4.0, 6.0]), np.array([1.0, 3.0, 5.0])
    assert paired.win_rate(paired.differences(x, y)) == 1
    assert paired.probability_of_improvement(x, y) == pytest.approx(6 / 9)
    assert paired.win_rate([0.1, 0.0, -0.2, 0.3]) == (1 + 0.5 + 0 + 1) / 4


def test_the_interval_of_improvement_is_scipys_within_the_error_of_drawing():
    found = paired.improvement_interval(X, Y, Settings(level=0.9, resamples=20_000))
    expected = scipy.stats.bootstrap(
        (X, Y), lambda x, y, axis: np.mean(
            (np.sign(x[..., :, None] - y[..., None, :]) + 1) / 2, axis=(-2, -1)
        ), n_resamples=20_000, confidence_level=0.9, method="percentile", vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1 / 49 + 1e-9)


def test_improvement_by_all_runs_has_no_width_and_by_one_no_interval():
    assert paired.improvement_interval([1.0], [1.0, 2.0]) is None
    assert paired.improvement_interval([3.0, 4.0], [1.0, 2.0]).degenerate


@given(scores, st.data())
def test_swapping_the_two_turns_everything_round(x, data):
    y = data.draw(st.lists(st.floats(-10, 10), min_size=len(x), max_size=len(x)))
    there, back = paired.differences(x, y), paired.differences(y, x)
    assert there == pytest.approx(-back)
    assert paired.paired_t_p(there) == pytest.approx(paired.paired_t_p(back))
    assert paired.sign_flip_p(there) == paired.sign_flip_p(back)
    assert paired.win_rate(there) == pytest.approx(1 - paired.win_rate(back))
    forth = paired.probability_of_improvement(x, y)
    assert forth == pytest.approx(1 - paired.probability_of_improvement(y, x))
