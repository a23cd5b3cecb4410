"""Averages and their intervals, against scipy and by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from grpo_credit.experiments.report.intervals import (
    Settings,
    bootstrap_interval,
    iqm,
    present,
    t_interval,
)

FEW, SOME = Settings(resamples=50), Settings(resamples=1_000)
SCORES = [0.62, 0.71, 0.55, 0.93, 0.68, 0.66]
numbers = st.lists(st.floats(-1e3, 1e3).map(lambda x: round(x, 3)), min_size=2, max_size=12)


@pytest.mark.parametrize("count", range(1, 14))
def test_iqm_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).normal(size=(3, count))
    expected = scipy.stats.trim_mean(values, 0.25, axis=1)
    np.testing.assert_allclose(iqm(values), expected, rtol=1e-12)
    np.testing.assert_allclose(iqm(values.T, axis=0), expected, rtol=1e-12)


def test_the_t_interval_is_scipys():
    found = t_interval(SCORES, 0.9)
    expected = scipy.stats.ttest_1samp(SCORES, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-10)
    assert (found.level, found.kind, found.note) == (0.9, "Student t", "")


@pytest.mark.parametrize("statistic", [np.mean, iqm])
def test_the_bootstrap_is_scipys_on_the_same_resamples(statistic):
    found = bootstrap_interval(SCORES, statistic, Settings(level=0.9, resamples=2_000, seed=3))
    expected = scipy.stats.bootstrap(
        (SCORES,), statistic, n_resamples=2_000, confidence_level=0.9, method="percentile",
        rng=np.random.default_rng(3), axis=-1,
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-12)
    assert found.kind == "percentile bootstrap"


@pytest.mark.parametrize("make", [t_interval, bootstrap_interval])
def test_constant_values_have_no_width_and_say_so(make):
    found = make([1.0] * 6)
    assert (found.low, found.high) == (1, 1)
    assert found.degenerate
    assert found.note.endswith("equal: no interval can be estimated")
    assert not found.excludes(0)  # no certainty from no spread


@pytest.mark.parametrize("make", [t_interval, bootstrap_interval])
def test_one_value_has_no_interval(make):
    assert make([0.4]) is None
    assert make([]) is None


def test_values_that_differ_by_rounding_are_constant():
    assert t_interval([0.1 + 0.2, 0.3, 0.3]).degenerate
    assert not t_interval([0.3, 0.3, 0.3 + 1e-9]).degenerate


def test_resamples_that_agree_have_no_width_though_the_values_differ():
    found = bootstrap_interval([1.0] * 40 + [0.0], iqm)
    assert found.degenerate
    assert "the resamples are equal" in found.note


def test_missing_values_are_dropped():
    assert present([1, None, math.nan, math.inf, -math.inf, 2.5]).tolist() == [1, 2.5]


@given(numbers, st.floats(-100, 100), st.floats(0.01, 100))
def test_intervals_move_and_stretch_with_the_values(values, shift, scale):
    moved = [scale * value + shift for value in values]
    largest = max(map(abs, [*moved, scale * 1e3, shift]))
    for make in (t_interval, lambda given: bootstrap_interval(given, iqm, FEW)):
        found, expected = make(moved), make(values)
        assert found.low == pytest.approx(scale * expected.low + shift, abs=1e-9 * largest)
        assert found.high == pytest.approx(scale * expected.high + shift, abs=1e-9 * largest)


def covered(intervals, truth):
    """Return the share of intervals that hold the truth."""
    return np.mean([not interval.excludes(truth) for interval in intervals])


@pytest.mark.parametrize("seeds", [3, 6, 10])
def test_t_intervals_of_normal_values_cover_as_often_as_they_say(seeds):
    samples = np.random.default_rng(seeds).normal(5, 2, size=(4_000, seeds))
    found = covered([t_interval(sample) for sample in samples], truth=5)
    error = math.sqrt(0.95 * 0.05 / 4_000)  # 0.0034
    assert abs(found - 0.95) < 3 * error


def test_bootstrap_intervals_of_three_seeds_cover_far_less_than_they_say():
    # The smallest value is drawn three times with probability 1/27 = 0.037 > 0.025, and so the
    # interval is [min, max]: outside of it lies the median, here the mean, with probability 2/8.
    samples = np.random.default_rng(0).normal(size=(2_000, 3))
    found = covered([bootstrap_interval(each, settings=SOME) for each in samples], truth=0)
    error = math.sqrt(0.75 * 0.25 / 2_000)  # 0.0097
    assert abs(found - 0.75) < 3 * error
