"""Where an expected update points: the estimate, its interval, and the pairing."""

import math

import pytest
import torch

from grpo_credit.lab.direction import exact_direction, paired, sampled_direction

DIMENSIONS, WINDOWS = 12, 150
TRUTH = torch.tensor([3.0, *[0.0] * (DIMENSIONS - 1)], dtype=torch.float64)


def noise(generator, windows=WINDOWS):
    """Draw what is not alike in all directions."""
    scale = torch.linspace(0.2, 1.5, DIMENSIONS, dtype=torch.float64)
    return torch.randn(windows, DIMENSIONS, generator=generator, dtype=torch.float64) * scale


def expected_update(error, factor=2.0):
    """Make E[u] that is off by a directional error, in a direction across the gradient."""
    across = torch.zeros(DIMENSIONS, dtype=torch.float64)
    across[3], across[7] = 0.6, -0.8
    return factor * TRUTH + abs(factor) * TRUTH.norm() * error * across


@pytest.mark.parametrize("factor", [2.0, -0.5])
@pytest.mark.parametrize("error", [0.0, 0.3, 4.0])
def test_an_expected_update_has_the_error_that_it_was_made_with(factor, error):
    found = exact_direction(expected_update(error, factor), TRUTH)
    assert found.factor == pytest.approx(factor)
    assert found.error == found.low == found.high == pytest.approx(error, abs=1e-12)
    cosine = torch.cosine_similarity(expected_update(error, factor), TRUTH, dim=0)
    assert found.cosine == pytest.approx(float(cosine))
    assert math.copysign(1, found.cosine) == math.copysign(1, factor)


def test_an_update_across_the_gradient_takes_no_step_along_it():
    across = torch.ones(DIMENSIONS, dtype=torch.float64) - TRUTH / 3
    for update in (across, torch.zeros_like(TRUTH)):
        found = exact_direction(update, TRUTH)
        assert not found.moves
        assert found.error == math.inf
    assert not sampled_direction(torch.zeros(9, DIMENSIONS).double(), TRUTH).moves


def test_the_estimate_is_the_sum_over_pairs_of_windows():
    """Σ_{v≠w} <a_v, a_w> / (n (n - 1)), a the part across the gradient over |f g|."""
    updates = expected_update(0.3) + noise(torch.Generator().manual_seed(0))
    along = [float(u @ TRUTH) / 9 for u in updates]
    factor = sum(along) / WINDOWS
    across = [(u - x * TRUTH) / (factor * 3) for u, x in zip(updates, along, strict=True)]
    pairs = sum(float(v @ w) for v in across for w in across if v is not w)
    found = sampled_direction(updates, TRUTH)
    assert found.error**2 == pytest.approx(pairs / (WINDOWS * (WINDOWS - 1)))


@pytest.mark.parametrize("error", [0.0, 0.02, 0.1, 1.0])
def test_the_interval_covers_the_error_and_the_estimate_leaves_out_the_noise(error):
    """Noise alone is √(tr Cov / n) ≈ 0.05 of |f g| here. 300 shares have an error of 0.013."""
    generator = torch.Generator().manual_seed(1)
    drawn = [expected_update(error) + noise(generator) for _ in range(300)]
    found = [sampled_direction(updates, TRUTH) for updates in drawn]
    covered = sum(d.low <= error <= d.high for d in found) / len(found)
    assert covered > 0.91
    if error < 0.05:
        raw = sum(float((u.mean(0) / 2 - TRUTH).norm()) / 3 for u in drawn) / len(drawn)
        assert sum(d.error for d in found) / len(found) < raw - 0.01
    else:
        mean = sum(d.error for d in found) / len(found)
        scatter = torch.tensor([d.error for d in found]).std()
        assert abs(mean - error) < 4 * float(scatter) / len(found) ** 0.5 + 0.02 * error
        said = sum(d.uncertainty for d in found) / len(found)
        assert said == pytest.approx(float(scatter), rel=0.25)  # 300 tell a scatter to 4 %


def test_pairing_keeps_the_expectation_and_takes_away_what_is_shared():
    generator = torch.Generator().manual_seed(2)
    shared, own = noise(generator), 0.1 * noise(generator)
    yardstick, updates = TRUTH + shared, expected_update(0.1) + 2 * shared + own
    steady = paired(updates, yardstick, TRUTH)
    assert (
        sampled_direction(steady, TRUTH).high < 0.2 * sampled_direction(updates, TRUTH).high + 0.1
    )
    torch.testing.assert_close(
        steady.mean(0), expected_update(0.1), rtol=0, atol=5 * 0.15 / WINDOWS**0.5
    )


def test_an_update_in_proportion_to_the_yardstick_is_unbiased_to_rounding():
    yardstick = TRUTH + noise(torch.Generator().manual_seed(3))
    found = sampled_direction(paired(-3 * yardstick, yardstick, TRUTH), TRUTH)
    assert (found.error, found.low, found.high) == (0, 0, 0)
    assert found.factor == pytest.approx(-3)
    assert found.moves
