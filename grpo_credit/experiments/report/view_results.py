"""What came out: the grid of runs, the forest plot, the tables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from grpo_credit.experiments.figures.forest import Forest, Row
from grpo_credit.experiments.figures.palette import strategy_line
from grpo_credit.experiments.figures.panel import WIDE, Curve, Panel
from grpo_credit.experiments.report.curves import area_under_curve, median_steps, steps_to_threshold
from grpo_credit.experiments.report.data import FINISHED, Report, RunResult
from grpo_credit.experiments.report.difference import Difference
from grpo_credit.experiments.report.intervals import Interval, Settings, mean
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.series import HELD_OUT, is_share
from grpo_credit.experiments.report.statistics import Result
from grpo_credit.experiments.report.verdict import decimals, probability, smallest_number
from grpo_credit.experiments.words import NONE, Table, number, signed

SIGNS = {
    FINISHED: "✓", "failed": "✕", "damaged": "!", "interrupted": "‖", "running": "…",
    "waiting": "·", "missing": "–",
}  # fmt: skip


def grid(report: Report, limits: Limits) -> dict[str, list[RunResult]]:
    """Return strategy -> its cells, one for each seed, while there is room for strategies."""
    shown = report.study.credits[: max(1, limits.cells // len(report.study.seeds))]
    return {name: [cell for cell in report.cells if cell.credit == name] for name in shown}


def values_figure(report: Report) -> Forest:
    """Draw every run, the mean, and both intervals of each strategy."""
    metric = report.study.metric or "metric"
    share = _is_of_shares(report)
    rows = [
        Row(
            result.strategy,
            _note(number(result.mean), _within(result.t_interval, share)),
            [value for value in report.values[result.strategy].values() if value is not None],
            result.mean,
            _ends(_within(result.t_interval, share)),
            _ends(_within(result.bootstrap, share)),
        )
        for result in report.comparison.results
    ]
    return Forest("Each strategy", metric, rows)


def _is_of_shares(report: Report) -> bool:
    values = [value for of in report.values.values() for value in of.values()]
    return is_share(report.study.metric or "", [value for value in values if value is not None])


def _within(interval: Interval | None, share: bool, lowest: float = 0.0) -> Interval | None:
    """Cut an interval off at 0 and 1, or at -1 and 1, if it is of a share or two shares apart."""
    if interval is None or not share:
        return interval
    return replace(interval, low=max(lowest, interval.low), high=min(1.0, interval.high))


def differences_figure(report: Report) -> Forest:
    """Draw the paired differences to the baseline; a filled mean is a verdict."""
    comparison, values = report.comparison, report.values
    share = _is_of_shares(report)
    rows = []
    for result in comparison.results:
        difference = result.difference
        if difference is None or result.verdict is None:
            continue
        decided = result.verdict.outcome in ("better", "worse")
        rows.append(
            Row(
                result.strategy,
                _note(signed(difference.mean), _within(difference.holm_interval, share, -1.0)),
                _paired(values[result.strategy], values[comparison.baseline]),
                difference.mean,
                _ends(_within(difference.holm_interval, share, -1.0)),
                _ends(_within(difference.bootstrap, share, -1.0)),
                strong=decided,
            )
        )
    title = f"Difference to {comparison.baseline}, seed by seed"
    return Forest(title, f"difference in {report.study.metric or 'metric'}", rows, reference=0)


def more_seeds(report: Report) -> str | None:
    """Return the study's command with as many seeds as a verdict takes; None where it has them."""
    study, needed = report.study, smallest_number(Settings(report.study.higher_is_better))
    if len(study.seeds) >= needed or list(study.seeds) != list(range(len(study.seeds))):
        return None
    grown, found = re.subn(r"(--seeds[= ])\d+(?: \d+)*", rf"\g<1>{needed}", study.command)
    return grown if found else None


def profile(report: Report) -> Panel:
    """Draw the share of each strategy's runs that are at least as good as a number.

        P_s(τ) = |{runs of s: value >= τ}| / n_s    (<= τ where lower is better)

    Source: performance profiles, Agarwal et al. 2021, arXiv:2108.13264; here of one task.
    """
    values = {
        credit: sorted(value for value in of.values() if value is not None)
        for credit, of in report.values.items()
    }
    every = np.unique(np.concatenate([*values.values(), np.empty(0)]))
    curves = [
        Curve(*_steps(every, np.array(of), report.study.higher_is_better), strategy_line(n, credit))
        for n, (credit, of) in enumerate(values.items())
        if of and len(every) > 1
    ]
    return Panel(
        "Share of runs at least as good",
        report.study.metric or "metric",
        curves,
        share=True,
        frame=WIDE,
    )


def _steps(
    at: np.ndarray, values: np.ndarray, higher_is_better: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the steps; a strategy falls behind its runs, or rises at them."""
    good = values >= at[:, None] if higher_is_better else values <= at[:, None]
    x, y = np.repeat(at, 2), np.repeat(good.mean(axis=1), 2)
    return (x[:-1], y[1:]) if higher_is_better else (x[1:], y[:-1])


def _note(text: str, interval: Interval | None) -> str:
    """Write a number with its interval, if there is one that says something."""
    return text if interval is None or interval.degenerate else f"{text}  {between(interval)}"


def _ends(interval: Interval | None) -> tuple[float, float] | None:
    return None if interval is None or interval.degenerate else (interval.low, interval.high)


def _paired(
    values: Mapping[int, float | None], baseline: Mapping[int, float | None]
) -> list[float]:
    pairs = [(value, baseline.get(seed)) for seed, value in values.items()]
    return [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]


def strategies_table(report: Report) -> Table:
    """Put the numbers of each strategy by itself into a table."""
    comparison, speed = report.comparison, speeds(report)
    level = f"{100 * comparison.level:g} %"
    columns = ["strategy", "n", "mean", f"{level} t interval", f"{level} bootstrap", "IQM",
               f"IQM, {level} bootstrap", "mean before", "mean height of the curve",
               f"median steps to {number(speed.threshold)}"]  # fmt: skip
    return Table(columns, [_numbers(report, result, speed) for result in comparison.results])


def _numbers(report: Report, result: Result, speed: "Speed") -> list[str]:
    before = [cell.before for cell in report.cells if cell.credit == result.strategy]
    return [
        result.strategy,
        str(result.n),
        number(result.mean),
        between(result.t_interval),
        between(result.bootstrap),
        number(result.iqm),
        between(result.iqm_bootstrap),
        number(mean(before)),
        number(speed.heights.get(result.strategy)),
        number(speed.steps.get(result.strategy)) if result.n else NONE,
    ]


@dataclass(frozen=True)
class Speed:
    """How fast strategies learn.

    Args:
        threshold: half way from the mean before training to the best mean after it.
        heights: strategy -> mean over seeds of the mean height of the held-out curve.
        steps: strategy -> median over seeds of the first step at the threshold.
    """

    threshold: float | None
    heights: Mapping[str, float | None]
    steps: Mapping[str, float | None]


def speeds(report: Report) -> Speed:
    """Measure how fast each strategy learns on the held-out curve."""
    curves = report.finished_curves
    name, threshold = HELD_OUT + (report.study.metric or ""), _half_way(report)
    runs = {credit: list(curves.runs(name, credit).values()) for credit in report.study.credits}
    heights = {c: mean(area_under_curve(*run) for run in each) for c, each in runs.items()}
    if threshold is None:
        return Speed(None, heights, {})
    up = report.study.higher_is_better
    reached = {
        credit: [steps_to_threshold(*run, threshold, higher_is_better=up) for run in each]
        for credit, each in runs.items()
    }
    return Speed(threshold, heights, {c: median_steps(steps) for c, steps in reached.items()})


def _half_way(report: Report) -> float | None:
    before = mean(cell.before for cell in report.cells)
    means = [result.mean for result in report.comparison.results if result.mean is not None]
    if before is None or not means:
        return None
    best = max(means) if report.study.higher_is_better else min(means)
    return (before + best) / 2


def differences_table(report: Report) -> Table:
    """Put the paired differences into a table."""
    columns = ["strategy", "verdict", "pairs", "mean difference", "paired t interval (Holm level)",
               "paired bootstrap", "p, paired t, Holm", "p, sign flip",
               "P(improvement), bootstrap", "seeds won"]  # fmt: skip
    rows = [
        _difference(result.strategy, result.verdict.outcome, result.difference)
        for result in report.comparison.results
        if result.difference is not None and result.verdict is not None
    ]
    return Table(columns, rows)


def _difference(strategy: str, outcome: str, difference: Difference) -> list[str]:
    return [
        strategy,
        outcome,
        str(difference.n),
        signed(difference.mean),
        between(difference.holm_interval),
        between(difference.bootstrap),
        probability(difference.p_holm) if difference.n > 1 else NONE,
        probability(difference.sign_flip_p) if difference.n else NONE,
        _note(number(difference.improvement), difference.improvement_interval),
        NONE if difference.win_rate is None else f"{100 * difference.win_rate:.0f} %",
    ]


def between(interval: Interval | None) -> str:
    """Write an interval; where nothing could be estimated, say so.

    Example:
        >>> between(Interval(0.01, 0.15, 0.95, "Student t")), between(None)
        ('[0.01, 0.15]', '–')
        >>> between(Interval(1.0, 1.0, 0.95, "Student t", "all 6 values are equal"))
        'none: all equal'
    """
    if interval is None:
        return NONE
    if interval.degenerate:
        return "none: all equal"
    places = decimals(interval.low, interval.high)
    return f"[{interval.low:.{places}f}, {interval.high:.{places}f}]"
