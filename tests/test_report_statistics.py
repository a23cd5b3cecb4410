"""Strategies compared over seeds, and what is said of them."""

import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_credit.experiments.report.intervals import Settings
from grpo_credit.experiments.report.statistics import compare, compare_pairs
from grpo_credit.experiments.report.verdict import decide

BASE = [0.60, 0.64, 0.55, 0.70, 0.62, 0.58]
BETTER = [0.08, 0.09, 0.07, 0.10, 0.06, 0.08]  # mean 0.08, s = 0.01414, s/√6 = 0.005774
FEW = Settings(resamples=10)
NOISE = [0.05, -0.04, 0.03, -0.06, 0.02, 0.01]  # mean 0.00167


def cells(values):
    return dict(enumerate(values))


def plus(*amounts):
    return cells([base + amount for base, amount in zip(BASE, amounts, strict=False)])


def verdicts(comparison):
    return {each.strategy: each.verdict.sentence for each in comparison.results if each.verdict}


def only(values, higher_is_better=True, base=None):
    """Compare one strategy with the baseline."""
    both = {"base": base or cells(BASE), "new": values}
    return compare(both, "base", Settings(higher_is_better, resamples=200)).results[1]


def test_a_winner_by_hand():
    found = only(plus(*BETTER))
    # t_{0.975, 5} = 2.5706: 0.08 ± 2.5706 · 0.005774 = 0.08 ± 0.0148
    assert found.verdict.sentence == "better by 0.080 [0.065, 0.095], 6 paired seeds"
    assert found.verdict.outcome == "better"
    difference = found.difference
    assert difference.mean == pytest.approx(0.08)
    assert difference.sign_flip_p == difference.smallest_p == 2 / 64
    assert difference.win_rate == 1
    assert (difference.interval.low, difference.interval.high) == pytest.approx(
        (0.08 - 2.570582 * 0.0057735, 0.08 + 2.570582 * 0.0057735), rel=1e-5
    )


def test_the_direction_turns_the_verdict_and_not_the_difference():
    found = only(plus(*BETTER), higher_is_better=False)
    assert found.verdict.sentence == "worse by 0.080 [0.065, 0.095], 6 paired seeds"
    assert found.difference.mean == pytest.approx(0.08)
    assert found.difference.win_rate == 0
    lower = only(plus(*(-each for each in BETTER)), higher_is_better=False)
    assert lower.verdict.sentence == "better by 0.080 [0.065, 0.095], 6 paired seeds"
    higher = only(plus(*BETTER))
    assert found.difference.improvement == pytest.approx(1 - higher.difference.improvement)
    assert lower.difference.interval.high == pytest.approx(-found.difference.interval.low)


def test_noise_shows_no_difference():
    # s = 0.04262, s/√6 = 0.0174: 0.0017 ± 0.0447
    sentence = only(plus(*NOISE)).verdict.sentence
    assert sentence == "no difference shown: +0.002 [-0.043, 0.046], 6 paired seeds"


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("sign", "word"), [(1, "won"), (-1, "lost")])
def test_few_seeds_cannot_tell_whatever_they_show(seeds, sign, word):
    found = only(plus(*(sign * each for each in BETTER[:seeds])))
    assert found.verdict.outcome == "too few seeds to tell"
    number = r"-?0\.\d+"
    assert re.fullmatch(
        rf"{word} {seeds} of {seeds} paired seeds, by 0\.08\d* \[{number}, {number}\] "
        "in the mean; 6 seeds can settle it",
        found.verdict.sentence,
    )


def test_one_seed_and_none():
    one, none = only(plus(0.1)), only({7: 0.9})
    assert one.verdict.outcome == none.verdict.outcome == "too few seeds to tell"
    assert (one.t_interval, one.bootstrap, one.difference.interval) == (None, None, None)
    assert one.difference.mean == pytest.approx(0.1)
    assert none.difference.mean is none.difference.improvement is none.difference.win_rate is None
    assert none.verdict.sentence == "no seed has a value for both"
    assert (none.n, none.mean, none.missing) == (1, 0.9, (0, 1, 2, 3, 4, 5))


def test_equal_differences_are_called_without_an_interval():
    found = only(plus(*[0.1] * 6))
    assert found.verdict.sentence == "better by 0.1 in every one of 6 paired seeds (p = 0.031)"
    assert found.difference.interval.degenerate
    assert found.difference.bootstrap.degenerate
    assert only(plus(*[0.1] * 5)).verdict.outcome == "too few seeds to tell"


def test_equal_differences_are_not_called_among_too_many_comparisons():
    # 2 / 3^6 = 0.00274: 18 comparisons leave it at 0.0494, 19 do not
    many = {f"s{number}": plus(*[0.1] * 6) for number in range(19)}
    found = compare({"base": cells(BASE), **many}, "base", FEW)
    assert {each.verdict.sentence for each in found.results[1:]} == {
        "+0.1 in every one of 6 paired seeds, but in one of 19 comparisons"
    }
    many.pop("s0")
    found = compare({"base": cells(BASE), **many}, "base", FEW)
    assert {each.verdict.outcome for each in found.results[1:]} == {"better"}


def test_a_strategy_that_is_the_baseline_differs_by_nothing():
    found = only(cells(BASE))
    assert found.verdict.sentence == "no difference shown: equal in every one of 6 paired seeds"
    assert found.difference.p == found.difference.sign_flip_p == 1
    assert found.difference.improvement == found.difference.win_rate == 0.5


def test_all_seeds_at_one_give_no_certainty():
    ones = {"base": cells([1.0] * 6), "new": cells([1.0] * 6), "worse": cells([1.0] * 5 + [0.9])}
    found = compare(ones, "base", FEW)
    note = "all 6 values are equal: no interval can be estimated"
    assert found.results[0].t_interval.note == note
    assert verdicts(found)["new"] == "no difference shown: equal in every one of 6 paired seeds"
    assert found.results[2].verdict.outcome == "no difference shown"
    assert f"base: {note}." in found.limits


def test_t_alone_makes_no_winner():
    # one tie: signs flip to p = 4/64, though t = 6.3 and the interval excludes zero
    found = only(plus(0.0, 0.09, 0.07, 0.10, 0.08, 0.08))
    assert found.difference.holm_interval.excludes(0)
    assert found.verdict.sentence.startswith("no difference shown: +0.070 [0.0")
    assert found.verdict.sentence.endswith("6 paired seeds, but p = 0.062 by sign flips")


def test_comparisons_share_the_chance_of_a_false_claim():
    amounts = [0.01, 0.09, 0.04, 0.1, 0.02, 0.03]  # mean 0.0483, s/√6 = 0.0155, p = 0.026
    alone = only(plus(*amounts))
    assert alone.verdict.outcome == "better"
    together = compare(
        {"base": cells(BASE), "new": plus(*amounts), "noise": plus(*NOISE)}, "base", FEW
    )
    new = together.results[1]
    assert (new.difference.comparisons, new.difference.holm_step) == (2, 2)
    assert new.difference.p_holm == pytest.approx(2 * alone.difference.p)
    assert new.difference.holm_interval.level == pytest.approx(0.975)
    assert not new.difference.holm_interval.excludes(0)
    assert new.verdict.outcome == "no difference shown"
    sure = compare({"base": cells(BASE), "new": plus(*amounts), "sure": plus(*BETTER)}, "base", FEW)
    assert [each.difference.holm_step for each in sure.results[1:]] == [1, 2]
    assert sure.results[1].verdict.outcome == "better"


def test_sign_flips_have_steps_of_their_own():
    # t rejects both, the first more clearly; of the sign flips, 0.031 > 0.05/2 and 0.039: neither
    base, first = [0.0] * 8, [2.8, 2.3, 1.4, -0.2, 1.0, 1.7, -0.3, 1.4]
    second = [1.4, 1.7, -0.2, 0.3, 0.6, -0.2, 2.7, 0.5]
    both = {"base": cells(base), "first": cells(first), "second": cells(second)}
    found = compare(both, "base", FEW).results[1:]
    assert [each.difference.sign_flip_p for each in found] == [8 / 256, 10 / 256]
    assert all(each.difference.p_holm <= 0.05 for each in found)
    assert [each.difference.holm_step for each in found] == [2, 1]
    assert [each.difference.flip_step for each in found] == [2, 2]
    assert [each.verdict.outcome for each in found] == ["no difference shown"] * 2


def test_comparisons_of_other_studies_share_the_chance_of_a_false_claim():
    here = {"base": cells(BASE), "new": plus(0.01, 0.09, 0.04, 0.10, 0.02, 0.03)}
    there = {"base": cells(BASE), "noise": plus(*NOISE), "few": plus(0.1)}
    alone, other = (compare(each, "base", FEW) for each in (here, there))
    both = compare(here, "base", FEW, {"b<i>": other.differences})
    together = compare({**here, "noise": there["noise"]}, "base", FEW)
    assert alone.results[1].verdict.outcome == "better"
    assert both.results[1] == together.results[1]  # as if it had been one study
    assert (both.comparisons, both.results[1].verdict.outcome) == (2, "no difference shown")
    assert "2 comparisons are made, those of b<i> among them: the interval" in " ".join(both.limits)


def test_what_is_tested_and_what_hides_is_said_beside_the_numbers():
    limits = " ".join(compare({"base": cells(BASE), "a": plus(*BETTER)}, "base").limits)
    assert "which is more than equal means" in limits
    # 0.61^6 = 0.0515, 0.60^6 = 0.0467: up to 39 % may fail and not be seen in six runs
    assert "6 runs without one do not rule out that up to 39 % fail" in limits


def test_missing_cells_are_dropped_pairwise_and_told():
    base = {0: 0.5, 1: None, 2: 0.7, 3: math.nan}
    new = {0: 0.6, 1: 0.9, 2: math.inf, 4: 0.8}
    found = compare({"base": base, "new": new}, "base", FEW)
    first, second = found.results
    assert (first.n, first.mean, first.missing) == (2, pytest.approx(0.6), (1, 3, 4))
    assert (second.n, second.missing) == (3, (2, 3))
    assert second.difference.n == 1
    assert second.difference.mean == pytest.approx(0.1)
    assert "new has no value for seed 2, 3: left out of the pairs." in found.limits
    stopping = "by what the verdict says so far makes false claims in more than 5 % of studies."
    assert found.limits[2].endswith(stopping)
    whole = compare({"base": cells(BASE), "new": plus(*BETTER)}, "base", FEW)
    assert not any("so far" in limit for limit in whole.limits)


def test_pairs_are_matched_by_seed_and_not_by_order():
    shuffled = dict(reversed(plus(*BETTER).items()))
    assert shuffled[0] == BASE[0] + BETTER[0]
    assert only(shuffled) == only(plus(*BETTER))  # the drawn intervals, too


def test_the_sentence_over_all():
    found = compare(
        {
            "base": cells(BASE),
            "up": plus(*BETTER),
            "down": plus(*(-each for each in BETTER)),
            "noise": plus(*NOISE),
            "new": plus(0.1, 0.2),
        },
        "base",
        FEW,
    )
    assert re.fullmatch(
        r"Against base: up is better by 0\.080 \[0\.0.., 0\.1..\], 6 paired seeds; "
        r"down is worse by 0\.080 \[.*\], 6 paired seeds; "
        r"no difference shown for noise \(\+0\.00 \[.*\], 6 paired seeds\); "
        r"too few seeds to tell for new \(won 2 of 2 paired seeds, by 0\..* \[.*\] in the mean; "
        r"6 seeds can settle it\)\.",
        found.verdict,
    )
    assert compare({"base": cells(BASE)}, "base").verdict == (
        "Only base was run: nothing to compare it with."
    )


def test_limits_are_printed_beside_the_numbers():
    values = {"base": cells(BASE), "a": plus(*BETTER), "b": plus(*NOISE), "c": plus(*BETTER[:3])}
    limits = " ".join(compare(values, "base", FEW).limits)
    floor = "the exact sign-flip test cannot go below p ="
    decides = "Student's t decides among those"
    assert f"With 6 paired seeds, {floor} 0.031, 0.094 after Holm: {decides}." in limits
    assert f"With 3 paired seeds, {floor} 0.25: too few for a verdict." in limits
    assert "3 comparisons are made" in limits
    assert "95 to 98.3 %" in limits
    assert compare({"base": cells(BASE)}, "base").limits == ()


anything = st.one_of(st.none(), st.just(math.nan), st.sampled_from([0.0, 1.0]), st.floats(-1, 1))


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.integers(0, 8), anything), min_size=1, max_size=4), st.booleans()
)
def test_no_cells_give_nan_or_a_winner_whose_interval_crosses_zero(strategies, higher):
    values = {f"s{number}": each for number, each in enumerate(strategies)}
    found = compare(values, "s0", Settings(higher, resamples=20))
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    for each in found.results[1:]:
        if each.verdict.outcome in ("better", "worse"):
            interval, difference = each.difference.holm_interval, each.difference
            assert difference.n >= 6
            assert difference.p_holm <= 0.05
            assert interval.low > 0 or interval.high < 0
            assert (difference.mean > 0) == (higher == (each.verdict.outcome == "better"))


@pytest.mark.parametrize("seeds", [6, 8])
def test_false_claims_are_as_rare_as_promised(seeds):
    # six strategies like the baseline: a study is wrong if it calls one of them better or worse
    rng, options, studies = np.random.default_rng(seeds), Settings(resamples=1), 200
    wrong = 0
    for runs in rng.normal(size=(studies, 7, seeds)):
        found = compare_pairs({str(row): (runs[row], runs[0]) for row in range(1, 7)}, options)
        wrong += any(decide(e, options).outcome in ("better", "worse") for e in found.values())
    assert wrong / studies < 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_importing_the_report_is_light():
    code = (
        "import importlib, pkgutil, sys, grpo_credit.experiments.report as report\n"
        "for module in pkgutil.iter_modules(report.__path__, 'grpo_credit.experiments.report.'):\n"
        "    importlib.import_module(module.name)\n"
        "heavy = {'torch', 'trl', 'transformers', 'scipy.stats', 'rewards'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
