"""Learning curves as single numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_credit.experiments.report.curves import area_under_curve, median_steps, steps_to_threshold

STEPS = [0, 10, 20, 40]
CURVE = [0.0, 0.4, 0.2, 0.8]


def test_the_area_is_numpys_trapezoid_over_the_width():
    # (0.2 · 10 + 0.3 · 10 + 0.5 · 20) / 40
    assert area_under_curve(STEPS, CURVE) == pytest.approx(15 / 40)
    assert area_under_curve(STEPS, CURVE) == pytest.approx(np.trapezoid(CURVE, STEPS) / 40)


def test_the_area_of_a_constant_is_its_height_on_any_grid():
    assert area_under_curve([3, 4, 90], [0.7] * 3) == pytest.approx(0.7, rel=1e-15)


def test_missing_points_are_bridged():
    assert area_under_curve([0, 1, 2], [0.0, None, 1.0]) == 0.5
    assert area_under_curve([0, 1, 2], [0.0, math.nan, 1.0]) == 0.5


def test_a_curve_without_values_has_no_area_and_with_one_its_height():
    assert area_under_curve([], []) is None
    assert area_under_curve(STEPS, [None] * 4) is None
    assert area_under_curve([6, 7], [math.inf, 0.3]) == 0.3


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.floats(0.1, 9), st.floats(-5, 5))
def test_the_area_moves_with_the_heights_and_not_with_the_unit_of_the_steps(heights, scale, shift):
    steps = np.cumsum(np.arange(1, len(heights) + 1))
    area = area_under_curve(steps, heights)
    assert min(heights) - 1e-12 <= area <= max(heights) + 1e-12
    assert area_under_curve(scale * steps + shift, heights) == pytest.approx(area, abs=1e-9)
    moved = area_under_curve(steps, [scale * height + shift for height in heights])
    assert moved == pytest.approx(scale * area + shift, abs=1e-9)


def test_steps_to_a_threshold():
    assert steps_to_threshold(STEPS, CURVE, 0.4) == 10
    assert steps_to_threshold(STEPS, CURVE, 0.41) == 40
    assert steps_to_threshold(STEPS, CURVE, 0.0) == 0
    assert steps_to_threshold(STEPS, CURVE, 0.81) is None


def test_a_threshold_is_reached_from_above_where_lower_is_better():
    assert steps_to_threshold([1, 2, 3], [9, 5, 2], 5, higher_is_better=False) == 2
    assert steps_to_threshold([1, 2, 3], [9, 5, 2], 1, higher_is_better=False) is None


def test_runs_that_never_arrive_count_as_infinite():
    assert median_steps([10, 30, 20, None, None]) == 30
    assert median_steps([10, 30, None, None]) is None  # half way between 30 and never
    assert median_steps([]) is None


@pytest.mark.parametrize("function", [area_under_curve, lambda s, v: steps_to_threshold(s, v, 0.5)])
def test_curves_that_are_none_are_refused(function):
    with pytest.raises(ValueError, match="3 steps and 2 values"):
        function([1, 2, 3], [0.1, 0.2])
    with pytest.raises(ValueError, match="steps do not increase"):
        function([1, 2, 2], [0.1, 0.2, 0.3])
