"""What the page draws and tabulates, in numbers."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from study_helpers import collected

from grpo_credit.experiments.design import Study
from grpo_credit.experiments.figures.palette import MEAN, strategy_line
from grpo_credit.experiments.figures.panel import Curve, Panel
from grpo_credit.experiments.figures.shading import shade
from grpo_credit.experiments.report.data import Examples, Pairing, Report, RunResult, shown
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.series import COLUMNS, Curves, ratios
from grpo_credit.experiments.report.store import load
from grpo_credit.experiments.report.view_credit import shaded
from grpo_credit.experiments.report.view_curves import average, learning
from grpo_credit.experiments.report.view_diagnostics import constants, gradient_table, known
from grpo_credit.experiments.report.view_results import (
    differences_figure,
    profile,
    speeds,
    values_figure,
)
from grpo_credit.experiments.report.view_run import cost_table, listed

STUDY = Study("r.py", ["a", "b"], [0, 1], [], "a", "right", True, "ablate")
CELLS = [
    RunResult("a", 0, "finished", value=0.4, before=0.0, step=2, tokens=100.0, train_seconds=10.0,
         seconds=20.0, step_seconds=1.0, peak_memory_bytes=2e9),
    RunResult("a", 1, "finished", value=0.6, before=0.2, step=2, tokens=300.0, train_seconds=10.0,
         seconds=40.0, step_seconds=2.0, peak_memory_bytes=1e9),
    RunResult("b", 0, "finished", value=0.9, before=0.2, step=2, step_seconds=2.0),
    RunResult("b", 1, "failed", "it broke", step_seconds=9.0, tail="it broke"),
]  # fmt: skip


def report(rows=(), **changes):
    made = Report(
        STUDY, CELLS, [], None, Pairing([], [], []), None, [], {},
        "2026-01-01T00:00:00+00:00", curves(rows), [], [],
    )  # fmt: skip
    return replace(made, **changes)


def curves(rows):
    return Curves.join([pa.table([*zip(*rows, strict=True)], COLUMNS)] if rows else [])


def rows(name, credit, seed, points):
    return [(credit, seed, step, 10.0 * step, None, name, value) for step, value in points]


# ---- curves -----------------------------------------------------------------------------------


def run(*points):
    x, y = zip(*points, strict=True)
    return np.array(x, dtype=float), np.array(y, dtype=float)


def test_the_band_around_the_mean_is_students_interval_at_each_point():
    made = report([*rows("reward", "a", 0, [(1, 0.0), (2, 1.0)]),
                   *rows("reward", "a", 1, [(1, 2.0), (2, 1.0)])])  # fmt: skip
    curves = learning(made, Limits())[0].axes["step"][0].curves
    (mean,) = (curve for curve in curves if curve.line.label == "a")
    assert (mean.x.tolist(), mean.y.tolist()) == ([1, 2], [1, 1])
    # s = √2, n = 2: t(0.975, 1) · √2 / √2 = 12.706; no spread at step 2
    assert mean.half.tolist() == pytest.approx([12.7062047, 0.0])


def test_runs_at_different_places_are_joined_by_straight_lines_where_all_are():
    found = average({0: run((0, 0.0), (4, 4.0)), 1: run((2, 0.0), (6, 0.0))}, 3, MEAN)
    assert found.x.tolist() == [2, 3, 4]
    assert found.y.tolist() == [1, 1.5, 2]


def test_a_single_run_has_no_band_and_none_no_average():
    assert average({0: run((1, 0.5))}, 9, MEAN).half is None
    assert average({}, 9, MEAN) is None
    assert average({0: run((0, 1.0), (1, 1.0)), 1: run((2, 1.0), (3, 1.0))}, 9, MEAN) is None


def test_ratios_are_of_the_same_seed_and_step():
    mine = {0: run((1, 6.0), (2, 8.0), (3, 1.0)), 1: run((1, 1.0))}
    baseline = {0: run((1, 2.0), (2, 0.0), (3, 4.0)), 2: run((1, 1.0))}
    found = ratios(mine, baseline)
    assert list(found) == [0]
    assert [each.tolist() for each in found[0]] == [[1, 3], [3, 0.25]]  # none is divided by zero


def test_curves_of_other_runs_are_left_out():
    every = curves([*rows("r", "a", 0, [(2, 5.0), (1, 4.0), (2, 6.0)]),
                    *rows("r", "a", 1, [(1, 0.0)])])  # fmt: skip
    found = every.of([("a", 0)])
    assert found.names == ["r"]
    assert [each.tolist() for each in found.runs("r", "a")[0]] == [[1, 2], [4, 6]]
    assert found.runs("r", "a", "tokens")[0][0].tolist() == [10, 20]
    assert found.runs("r", "a", "seconds") == {}
    assert every.of([]).names == []


def test_a_run_that_failed_is_in_no_curve():
    made = report([*rows("reward", "b", 0, [(1, 0.5)]), *rows("reward", "b", 1, [(1, 9.0)])])
    assert list(made.finished_curves.runs("reward", "b")) == [0]
    block = learning(made, Limits())[0]
    assert (block.title, list(block.axes)) == ("Training reward", ["step", "tokens", "seconds"])
    (panel,) = block.axes["step"]
    assert [curve.line.label for curve in panel.curves] == ["_b, seed 0", "b"]
    assert not panel.share


def test_more_strategies_than_can_be_told_apart_have_a_panel_each():
    names = ("a", "b", "c", "d", "e")
    made = report(
        [line for name in names for line in rows("reward", name, 0, [(1, 0.5), (2, 0.75)])],
        study=replace(STUDY, credits=names),
        cells=[RunResult(name, 0, "finished", value=0.5) for name in names],
    )
    block = learning(made, Limits())[0]
    assert [panel.title for panel in block.axes["step"]] == [f"{name} · 1 seed" for name in names]


def test_the_band_of_a_share_is_drawn_no_further_than_a_share_goes():
    drawn = Figure().add_subplot()
    mean = Curve(np.array([1.0, 2.0]), np.array([0.1, 0.9]), MEAN, np.array([0.5, 0.5]))
    Panel("", "", [mean], share=True).draw(drawn)
    (band,) = drawn.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0, 1)
    assert -0.1 < drawn.get_ylim()[0] < drawn.get_ylim()[1] < 1.1


def test_a_profile_is_the_share_of_runs_at_least_as_good():
    (a, b) = profile(report()).curves  # a: 0.4 and 0.6, b: 0.9
    assert (a.x.tolist(), a.y.tolist()) == ([0.4, 0.4, 0.6, 0.6, 0.9], [1, 0.5, 0.5, 0, 0])
    assert b.y.tolist() == [1] * 5
    lower = profile(report(study=replace(STUDY, higher_is_better=False))).curves
    assert (lower[0].x.tolist(), lower[0].y.tolist()) == (
        [0.4, 0.6, 0.6, 0.9, 0.9], [0.5, 0.5, 1, 1, 1],
    )  # fmt: skip


def test_what_never_changes_is_a_sentence():
    curve = lambda name, *y: Curve(np.arange(len(y)), np.array(y), strategy_line(0, name))  # noqa: E731
    still = Panel("net credit", "", [curve("a", 0.0, 0.0), curve("b", 2.0, 2.0)])
    alike = Panel("share", "", [curve("a", 0.5, 0.5), curve("b", 0.5, 0.5)])
    assert still.constant
    assert not Panel("", "", [curve("a", 0.0, 0.1)]).constant
    assert constants([still, alike]) == "net credit: 0 of a, 2 of b; share: 0.5"


def test_gradient_norms_are_compared_at_the_first_step_and_over_all():
    made = report([
        *rows("grad_norm", "a", 0, [(1, 1.0), (2, 1.0)]),
        *rows("grad_norm", "b", 0, [(1, 4.0), (2, 1.0)]),
    ])  # fmt: skip
    # over all steps √(4 · 1) = 2
    assert gradient_table(made).rows[1] == ["b", "1", "4", "4", "4", "2"]


def test_shares_of_no_credit_are_no_points():
    made = report([
        *rows("credit/effective_tokens", "a", 0, [(1, 9.0), (2, 0.0), (3, 9.0)]),
        *rows("credit/gini", "a", 0, [(1, 0.4), (2, 0.0), (3, 0.6)]),
        *rows("credit/effective_tokens", "a", 1, [(1, 0.0)]),
        *rows("credit/gini", "a", 1, [(1, 0.0)]),
        *rows("credit/gini", "b", 0, [(1, 0.0)]),  # how much credit there was is not known
    ])  # fmt: skip
    curves = made.finished_curves
    found = known(curves, "credit/gini", "a")
    assert {seed: (x.tolist(), y.tolist()) for seed, (x, y) in found.items()} == {
        0: ([1, 3], [0.4, 0.6])
    }
    assert known(curves, "credit/effective_tokens", "a")[0][1].tolist() == [9, 0, 9]
    assert known(curves, "credit/gini", "b")[0][1].tolist() == [0]


def test_lines_of_strategies_differ_by_colour_and_then_by_dash():
    lines = [strategy_line(place, "")[:4] for place in (0, 7, 8)]
    assert [(colour, dash) for colour, _, _, dash in lines] == [
        ("s0", "solid"), ("s7", "solid"), ("s0", "dashed"),
    ]  # fmt: skip
    assert len({strategy_line(place, "") for place in range(24)}) == 24


def test_the_baseline_is_among_the_strategies_with_curves():
    study = replace(STUDY, credits=["a", "b", "c", "d"], baseline="d")
    assert shown(report(study=study), Limits(strategies=3)) == ["a", "b", "d"]


# ---- results ----------------------------------------------------------------------------------


def test_how_fast_a_strategy_learns():
    made = report([
        *rows("held_out/right", "a", 0, [(0, 0.0), (2, 0.4)]),
        *rows("held_out/right", "a", 1, [(0, 0.2), (2, 0.6)]),
        *rows("held_out/right", "b", 0, [(0, 0.2), (1, 0.8), (2, 0.9)]),
    ])  # fmt: skip
    found = speeds(made)
    # mean before: (0 + 0.2 + 0.2) / 3; best mean after: 0.9
    assert found.threshold == pytest.approx((0.4 / 3 + 0.9) / 2)
    assert found.heights["a"] == pytest.approx(0.3)  # 0.2 and 0.4
    assert found.heights["b"] == pytest.approx(0.675)  # (0.5 + 0.85) / 2
    assert found.steps == {"a": None, "b": 1}  # one run of a never got there


def test_differences_are_strategy_minus_baseline():
    (row,) = differences_figure(report()).rows
    assert (row.note, row.dots, row.mean) == ("+0.5", [0.5], 0.5)  # 0.9 - 0.4: the seed of both
    assert not row.strong  # no verdict


def test_cost_is_averaged_over_finished_runs():
    examples = Examples("a", 0, [1], 1, {"a": 30.0})
    found = cost_table(report(examples=examples)).rows
    # (100/10 + 300/10) / 2 tokens a second; 30 ms of (1 + 2)/2 s
    same, twice = "1.00 × (1.00 to 1.00)", "2.00 × (2.00 to 2.00)"
    assert found[0] == ["a", "2", "30 s", "20", "1.9 GiB", "1.5 s", same, "30 ms", "2 %"]
    assert found[1] == ["b", "1", "–", "–", "–", "2 s", twice, "–", "–"]


def test_the_time_of_a_step_has_its_range_and_needs_both_runs_to_be_finished():
    cells = [*CELLS[:3], replace(CELLS[3], status="finished", step_seconds=9.0)]
    # 2/1 and 9/2, √9 = 3 between them
    assert cost_table(report(cells=cells)).rows[1][6] == "3.00 × (2.00 to 4.50)"
    cells[0] = replace(cells[0], status="running")
    assert cost_table(report(cells=cells)).rows[1][6] == "4.50 × (4.50 to 4.50)"


def test_runs_that_did_not_finish_are_listed_first_when_there_is_no_room_for_all():
    made = report()
    assert listed(made, Limits(runs=2)) == {"run-0": CELLS[0], "run-3": CELLS[3]}


# ---- completions ------------------------------------------------------------------------------


def example(step, row, **changes):
    return {
        "step": step, "row": row, "group": 0, "prompt": '"p"', "reward": 1.0, "advantage": 1.0,
        "truncated": False, "decided": 2, "tokens": '["x", "y", "z"]',
        "counted": [True, True, False], "credit a": [0.5, -1.0, 0.0], "credit b": [0.0, 4.0, 0.0],
        **changes,
    }  # fmt: skip


def shades(found, completion):
    """Return the shades of a completion's tokens, one for each strategy."""
    tokens = found.completions[completion].tokens
    return [[shade(*pair) for pair in zip(t.credit, found.scales, strict=True)] for t in tokens]


def test_shades_are_shares_of_each_strategys_own_scale():
    found = shaded(report(credit=[example(1, 0)]), Limits())
    assert (found.strategies, found.scales) == (["a", "b"], [1.0, 4.0])
    assert shades(found, 0)[:2] == [["p4", "z"], ["n8", "p8"]]
    tokens = found.completions[0].tokens
    assert [token.counted for token in tokens] == [True, True, False]
    assert [token.settled for token in tokens] == [False, True, False]
    assert found.completions[0].notes == ["2 tokens", "reward settled after 2"]


def test_the_baseline_is_the_first_row():
    study = replace(STUDY, baseline="b")
    assert shaded(report(study=study, credit=[example(1, 0)]), Limits()).strategies == ["b", "a"]


def test_completions_of_every_step_are_shown_and_the_rest_counted():
    made = report(credit=[example(1, n) for n in range(5)] + [example(9, n) for n in range(5)])
    found = shaded(made, Limits(examples=4))
    assert [(c.step, c.row) for c in found.completions] == [(1, 0), (1, 1), (9, 0), (9, 1)]
    assert found.left_out == 6
    assert len(shaded(made, Limits(shaded=1)).completions) == 1  # one in any case
    short = shaded(made, Limits(tokens=2)).completions[0]
    assert (len(short.tokens), short.left_out) == (2, 1)


def test_a_step_without_a_strategys_credit_is_shown_without_shades():
    made = report(credit=[example(1, 0), example(9, 0, **{"credit b": None})])
    assert shades(shaded(made, Limits()), 1)[:2] == [["p4", "z"], ["n8", "z"]]


def test_an_interval_of_a_share_ends_at_0_and_1(tmp_path):
    """Two seeds have a wide interval; that of another number is as wide as it is."""
    report = load(
        collected(tmp_path / "study", ("uniform", "seq"), (0, 1), value=lambda n, seed: seed * 0.9)
    )
    for metric, cut in (("pass@1", True), ("reward", False)):
        named = replace(report, study=replace(report.study, metric=metric))
        rows = values_figure(named).rows
        ends = [end for row in rows for end in (row.wide or ())]
        assert ends
        assert all(0 <= end <= 1 for end in ends) == cut
        apart = [end for row in differences_figure(named).rows for end in (row.wide or ())]
        assert all(-1 <= end <= 1 for end in apart) or not cut
