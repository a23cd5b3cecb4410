"""How training went: curves in panels that share their axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpo_credit.experiments.figures.lines import Band, Curve, Panel, panel, spans
from grpo_credit.experiments.report.data import Report, shown
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.series import (
    AXES,
    HELD_OUT,
    RIGHT,
    WRONG,
    Average,
    Curves,
    Run,
    average,
    thinned,
)
from grpo_credit.text import visible


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


def learning(report: Report, curves: Curves, limits: Limits) -> list[Block]:
    """Draw the held-out metric and the training reward, against every axis."""
    metric = report.study.metric
    named = (
        [(HELD_OUT + metric, f"Held out: {metric}", "What the comparison is about.")]
        if metric
        else []
    )
    named.append(("reward", "Training reward", "What is optimised; not what is compared."))
    return [
        Block(
            visible(title),
            about,
            {axis: _panels(report, curves, name, axis, limits) for axis in AXES},
        )
        for name, title, about in named
        if name in curves.names
    ]


def _panels(report: Report, curves: Curves, name: str, axis: str, limits: Limits) -> list[Panel]:
    """Draw a panel a strategy: its runs, mean and band, and the other means behind."""
    credits = shown(report, limits)
    runs = {credit: curves.runs(name, credit, axis) for credit in credits}
    means = {credit: average(each, limits.points) for credit, each in runs.items()}
    every = [_line(mean, "other") for mean in means.values() if mean]
    every += [_run(run, limits) for each in runs.values() for run in _some(each, limits)]
    bands = [_band(mean, "band") for mean in means.values() if mean]
    across, up = spans(every, bands)
    panels = []
    for credit in credits:
        behind = [
            _line(mean, "baseline" if other == report.study.baseline else "other")
            for other, mean in means.items()
            if mean and other != credit
        ]
        lines = [*behind, *(_run(run, limits) for run in _some(runs[credit], limits))]
        own = means[credit]
        if own:
            lines.append(_line(own, "mean"))
        title = f"{visible(credit)}: {visible(name)}"
        svg = panel(title, lines, [_band(own, "band")] if own else [], across, up, AXES[axis])
        panels.append(Panel(f"{visible(credit)} · {_seeds(len(runs[credit]))}", svg))
    return panels


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _some(runs: Mapping[int, Run], limits: Limits) -> list[Run]:
    return list(runs.values())[: limits.seeds]


def _run(run: Run, limits: Limits) -> Curve:
    chosen = thinned(len(run[0]), limits.points)
    return Curve.through(run[0][chosen], run[1][chosen], "seed")


def _line(mean: Average, kind: str) -> Curve:
    return Curve.through(mean.x, mean.mean, kind)


def _band(mean: Average, kind: str) -> Band:
    if mean.half is None:
        return Band([], kind)
    low, high = (mean.mean - mean.half).tolist(), (mean.mean + mean.half).tolist()
    return Band(list(zip(mean.x.tolist(), low, high, strict=True)), kind)


def lengths(report: Report, curves: Curves, limits: Limits) -> list[Block]:
    """Draw the length of right and of wrong completions, in training and held out."""
    threshold = "" if report.threshold is None else f"{report.threshold:.3g}"
    named = [
        (RIGHT, WRONG, "In training, tokens",
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
        if right == RIGHT and steps < logged
        else ""
    )


def _pairs(report: Report, curves: Curves, right: str, wrong: str, limits: Limits) -> list[Panel]:
    parts: dict[str, tuple[list[Curve], list[Band]]] = {}
    for credit in shown(report, limits):
        found = {
            kind: average(curves.runs(name, credit), limits.points)
            for kind, name in (("right", right), ("wrong", wrong))
        }
        parts[credit] = (
            [_line(mean, f"mean {kind}") for kind, mean in found.items() if mean],
            [_band(mean, f"band {kind}") for kind, mean in found.items() if mean],
        )
    every = [curve for lines, _ in parts.values() for curve in lines]
    across, up = spans(every, [band for _, bands in parts.values() for band in bands])
    return [
        Panel(visible(credit), panel(f"{visible(credit)}: length", *part, across, up, AXES["step"]))
        for credit, part in parts.items()
    ]
