"""Learning curves as single numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_credit.experiments.report.curves import area_under_curve, median_steps, steps_to_threshold

STEPS = np.array([0, 10, 20, 40])
CURVE = np.array([0.0, 0.4, 0.2, 0.8])


def test_the_area_is_numpys_trapezoid_over_the_width():
    # (0.2 · 10 + 0.3 · 10 + 0.5 · 20) / 40
    assert area_under_curve(STEPS, CURVE) == pytest.approx(15 / 40)
    assert area_under_curve(STEPS, CURVE) == pytest.approx(np.trapezoid(CURVE, STEPS) / 40)


def test_the_area_of_a_constant_is_its_height_on_any_grid():
    assert area_under_curve(np.array([3, 4, 90]), np.full(3, 0.7)) == pytest.approx(0.7, rel=1e-14)


def test_a_single_value_is_its_own_height():
    assert area_under_curve(np.array([7]), np.array([0.3])) == 0.3


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.floats(0.1, 9), st.floats(-5, 5))
def test_the_area_moves_with_the_heights_and_not_with_the_unit_of_the_steps(heights, scale, shift):
    steps = np.cumsum(np.arange(1, len(heights) + 1))
    heights = np.array(heights)
    area = area_under_curve(steps, heights)
    assert min(heights) - 1e-12 <= area <= max(heights) + 1e-12
    assert area_under_curve(scale * steps + shift, heights) == pytest.approx(area, abs=1e-9)
    moved = area_under_curve(steps, scale * heights + shift)
    assert moved == pytest.approx(scale * area + shift, abs=1e-9)


def test_steps_to_a_threshold():
    assert steps_to_threshold(STEPS, CURVE, 0.4) == 10
    assert steps_to_threshold(STEPS, CURVE, 0.41) == 40
    assert steps_to_threshold(STEPS, CURVE, 0.0) == 0
    assert steps_to_threshold(STEPS, CURVE, 0.81) is None


def test_a_threshold_is_reached_from_above_where_lower_is_better():
    assert steps_to_threshold(STEPS, -CURVE, -0.4, higher_is_better=False) == 10
    assert steps_to_threshold(STEPS, -CURVE, -0.9, higher_is_better=False) is None


def test_runs_that_never_arrive_count_as_infinite():
    assert median_steps([10, 30, 20, None, None]) == 30
    assert median_steps([10, 30, None, None]) is None  # half way between 30 and never
    assert median_steps([]) is None
