"""`credit_scale` multiplies the credit and nothing else."""

import math

import pytest
from harness import ROUNDING, difference, ours

from grpo_credit import CreditError, CreditGRPOConfig


def gradient(**options):
    return ours(max_steps=1, **options).gradients[0]


@pytest.mark.parametrize("credit", ["seq", "entropy_soft/dapo"])
def test_the_gradient_is_scaled(credit):
    scaled = gradient(credit=credit, credit_scale=0.3)
    assert difference(scaled, 0.3 * gradient(credit=credit)) <= ROUNDING


def test_the_kl_term_is_not_scaled():
    with_kl = [gradient(credit="length", beta=0.5, credit_scale=scale) for scale in (1.0, 2.0)]
    gap = with_kl[1] - with_kl[0] - gradient(credit="length")
    assert gap.norm() <= ROUNDING * with_kl[1].norm()  # which the difference is taken from


def test_metrics_are_of_the_scaled_credit():
    plain, scaled = (
        ours(max_steps=1, credit="entropy_soft/seq", credit_scale=scale).logs[0]
        for scale in (1.0, 4.0)
    )
    whole = "credit/mass_positive"  # both signs together come to next to nothing
    assert scaled[whole] == pytest.approx(4 * plain[whole], rel=ROUNDING)
    assert scaled["credit/norm_ratio"] == pytest.approx(plain["credit/norm_ratio"], rel=ROUNDING)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_scale_is_a_finite_number_above_zero(scale, tmp_path):
    with pytest.raises(CreditError, match=r"credit_scale is .*, expected a finite number > 0"):
        CreditGRPOConfig(str(tmp_path), credit="seq", credit_scale=scale)
