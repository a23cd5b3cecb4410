"""One value per step from uneven passes, with hand-worked numbers."""

import math

import pytest

from grpo_credit.trainer.passes.metrics import Counts, PassMetrics, merge

SOME = Counts(rows=1, tokens=30)
MORE = Counts(rows=3, tokens=10)
NONE = Counts(0, 0)


def merged(name, first, second, skipped=NONE, per_sequence_ratio=False):
    passes = [PassMetrics(SOME, {name: [first]}), PassMetrics(MORE, {name: [second]})]
    return merge(passes, skipped, per_sequence_ratio)[name]


@pytest.mark.parametrize("name", ["entropy", "kl"])
@pytest.mark.parametrize("per_sequence", [False, True])
def test_means_over_tokens_are_weighed_by_tokens(name, per_sequence):
    # (30 x 2 + 10 x 6) / 40, over what ran
    assert merged(name, 2.0, 6.0, Counts(9, 90), per_sequence) == pytest.approx(3.0)


@pytest.mark.parametrize("name", ["clip_ratio/region_mean", "cispo_clip_ratio"])
def test_clip_ratios_are_over_all_rows(name):
    # (30 x 0.2 + 10 x 0.6 + 60 x 0) / 100 by tokens; (1 x 0.2 + 3 x 0.6 + 6 x 0) / 10 by rows
    assert merged(name, 0.2, 0.6, Counts(6, 60)) == pytest.approx(0.12)
    assert merged(name, 0.2, 0.6, Counts(6, 60), True) == pytest.approx(0.2)


def test_vespos_weights_are_over_the_rows_that_ran():
    assert merged("vespo/phi_seq_mean", 2.0, 6.0, Counts(6, 60)) == pytest.approx(5.0)


def test_the_least_and_largest_are_the_steps():
    assert merged("clip_ratio/low_min", 0.2, 0.6) == 0.2
    assert merged("clip_ratio/high_max", 0.2, 0.6) == 0.6
    assert merged("clip_ratio/low_min", 0.2, 0.6, Counts(1, 5)) == 0.0  # a skipped row: no clip
    assert merged("clip_ratio/low_min", 0.2, 0.6, Counts(1, 0)) == 0.2  # which has no token
    assert merged("clip_ratio/low_min", 0.2, 0.6, Counts(1, 0), True) == 0.0  # but has a ratio


def test_what_is_missing_in_a_pass_is_left_out():
    assert merged("clip_ratio/low_min", math.nan, 0.6) == 0.6
    assert merged("something", math.nan, 0.6) == 0.6
    assert math.isnan(merged("something", math.nan, math.nan))
    assert math.isnan(merged("clip_ratio/high_max", math.nan, math.nan))


def test_metrics_of_some_passes_only_are_over_these():
    passes = [PassMetrics(SOME, {}), PassMetrics(MORE, {"entropy": [2.0]})]
    assert merge(passes, NONE, False) == {"entropy": 2.0}


def test_a_step_without_a_counted_token_has_zeros_as_in_trl():
    passes = [PassMetrics(Counts(2, 0), {"entropy": [0.0], "clip_ratio/low_mean": [0.0]})]
    assert merge(passes, NONE, False) == {"entropy": 0.0, "clip_ratio/low_mean": 0.0}
