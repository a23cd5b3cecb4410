"""How training went: curves in panels that share their axes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from scipy.special import stdtrit

from grpo_credit.experiments.figures.palette import (
    BASELINE,
    MEAN,
    OTHER,
    RIGHT,
    SEED,
    WRONG,
    Line,
    strategy_line,
)
from grpo_credit.experiments.figures.panel import WIDE, Curve, Panel, extent
from grpo_credit.experiments.report.data import Report, shown
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.series import (
    AXES,
    HELD_OUT,
    LENGTH_RIGHT,
    LENGTH_WRONG,
    Curves,
    Run,
    is_share,
    thinned,
)

FEW = 4  # strategies whose curves can be told apart on the same axes


@dataclass(frozen=True)
class Block:
    """Panels of one thing.

    Args:
        title: above them.
        about: what is shown, in a sentence.
        axes: axis -> panels; one axis where there is no choice.
    """

    title: str
    about: str
    axes: Mapping[str, Sequence[Panel]]


def learning(report: Report, limits: Limits) -> list[Block]:
    """Draw the held-out metric and the training reward, against every axis."""
    metric, curves = report.study.metric, report.finished_curves
    named = (
        [(HELD_OUT + metric, f"Held out: {metric}", "What the comparison is about.")]
        if metric
        else []
    )
    named.append(("reward", "Training reward", "What is optimised; not what is compared."))
    return [
        Block(
            title,
            about,
            {axis: _panels(report, curves, name, axis, limits) for axis in AXES},
        )
        for name, title, about in named
        if name in curves.names
    ]


def together(report: Report, limits: Limits) -> bool:
    """Return whether the strategies are few enough for one pair of axes."""
    return len(shown(report, limits)) <= FEW


def strategy_lines(report: Report, limits: Limits) -> list[Line]:
    """Return the line of each strategy that is shown."""
    return [strategy_line(place, name) for place, name in enumerate(shown(report, limits))]


def _panels(report: Report, curves: Curves, name: str, axis: str, limits: Limits) -> list[Panel]:
    """Draw few strategies on the same axes, and more of them each on its own."""
    runs = {credit: curves.runs(name, credit, axis) for credit in shown(report, limits)}
    values = [y for each in runs.values() for _, y in each.values()]
    share = is_share(name, np.concatenate([np.empty(0), *values]))
    draw = _one if together(report, limits) else _each
    return [replace(panel, share=share) for panel in draw(report, runs, axis, limits)]


def _one(
    report: Report, runs: Mapping[str, Mapping[int, Run]], axis: str, limits: Limits
) -> list[Panel]:
    """Draw the mean and the band of every strategy on one wide pair of axes, the runs behind."""
    lines = dict(zip(runs, strategy_lines(report, limits), strict=True))
    means = [average(each, limits.points, lines[credit]) for credit, each in runs.items()]
    seeds = [
        _run(run, limits, lines[credit]._replace(
            width=SEED.width, alpha=SEED.alpha, label=f"_{credit}, seed {seed}"
        ))
        for credit, each in runs.items()
        for seed, run in list(each.items())[: limits.seeds]
    ]  # fmt: skip
    curves = [*seeds, *filter(None, means)]
    return (
        [Panel("Mean over seeds; thin: a seed", AXES[axis], curves, extent(curves), frame=WIDE)]
        if curves
        else []
    )


def _each(
    report: Report, runs: Mapping[str, Mapping[int, Run]], axis: str, limits: Limits
) -> list[Panel]:
    """Draw a panel a strategy: its runs, mean and band, and the other means behind."""
    averages = {credit: average(each, limits.points, MEAN) for credit, each in runs.items()}
    means = {credit: mean for credit, mean in averages.items() if mean}
    seeds = {
        credit: [_run(run, limits, SEED) for run in list(each.values())[: limits.seeds]]
        for credit, each in runs.items()
    }
    room = extent(chain(*seeds.values(), means.values()))
    behind = {
        credit: mean._replace(
            line=BASELINE if credit == report.study.baseline else OTHER, half=None
        )
        for credit, mean in means.items()
    }
    return [
        Panel(
            f"{credit} · {_seeds(len(runs[credit]))}",
            AXES[axis],
            [
                *(mean for other, mean in behind.items() if other != credit),
                *seeds[credit],
                *([means[credit]] if credit in means else []),
            ],
            room,
        )
        for credit in runs
    ]


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _run(run: Run, limits: Limits, line: Line) -> Curve:
    x, y = run
    places = thinned(len(x), limits.points)
    return Curve(x[places], y[places], line)


def average(runs: Mapping[int, Run], points: int, line: Line) -> Curve | None:
    """Average runs at common places, with a band of Student's intervals.

        mean ± t_{0.975, n-1} · s / √n    at each place by itself

    The places are those of the runs where all have the same, otherwise evenly spaced where all have
    values, with straight lines between the points of a run.

    Args:
        runs: seed -> run.
        points: how many places at most.
        line: how it is drawn.

    Returns:
        The curve, without a band of a single run; None where there is no run, or no place that
        all have.
    """
    x = _common(list(runs.values()), points)
    if x is None:
        return None
    values = np.stack([np.interp(x, *run) for run in runs.values()])
    if len(runs) == 1:
        return Curve(x, values[0], line)
    error = values.std(axis=0, ddof=1) / math.sqrt(len(runs))
    half = stdtrit(len(runs) - 1, 0.975) * error
    return Curve(x, values.mean(axis=0), line, half)


def _common(runs: list[Run], points: int) -> np.ndarray | None:
    if not runs:
        return None
    first = runs[0][0]
    if all(np.array_equal(first, x) for x, _ in runs):
        return first[thinned(len(first), points)]
    start, stop = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    return np.linspace(start, stop, points) if start < stop else None


def lengths(report: Report, limits: Limits) -> list[Block]:
    """Draw the length of right and of wrong completions, in training and held out."""
    curves = report.finished_curves
    threshold = "" if report.threshold is None else f"{report.threshold:.3g}"
    named = [
        (LENGTH_RIGHT, LENGTH_WRONG, "In training, tokens",
         f"Completions that were trained on. Right: the reward is above {threshold}, the middle "
         "between the lowest and the highest reward of the study."),
        (f"{HELD_OUT}characters, right", f"{HELD_OUT}characters, wrong", "Held out, characters",
         "Sampled completions of held-out prompts, right or wrong by the recipe's own checker, "
         "which need not be what training rewards or what the metric counts."),
    ]  # fmt: skip
    return [
        Block(
            title,
            about + _read_of(curves, right, wrong),
            {"step": _pairs(report, curves, right, wrong, limits)},
        )
        for right, wrong, title, about in named
        if {right, wrong} & set(curves.names)
    ]


def _read_of(curves: Curves, right: str, wrong: str) -> str:
    """Say at how many steps lengths were read, if those are fewer than were logged."""
    steps, logged = curves.steps(right, wrong), curves.steps("reward")
    return (
        f" Read at {steps:,} of {logged:,} logged steps."
        if right == LENGTH_RIGHT and steps < logged
        else ""
    )


def _pairs(report: Report, curves: Curves, right: str, wrong: str, limits: Limits) -> list[Panel]:
    means = {
        credit: [
            mean
            for name, line in ((right, RIGHT), (wrong, WRONG))
            if (mean := average(curves.runs(name, credit), limits.points, line))
        ]
        for credit in shown(report, limits)
    }
    room = extent(chain.from_iterable(means.values()))
    return [Panel(credit, AXES["step"], each, room) for credit, each in means.items()]
