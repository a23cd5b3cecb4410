"""Numbers about credit and gradients over training, all strategies in one panel."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from grpo_credit.experiments.figures.palette import strategy_line
from grpo_credit.experiments.figures.panel import Panel
from grpo_credit.experiments.report.data import Report, shown
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.series import AXES, Curves, Run, ratios
from grpo_credit.experiments.report.view_curves import average
from grpo_credit.experiments.words import Table, number

GRADIENT = "grad_norm"
DIAGNOSTICS = {  # what matters first
    "credit/effective_tokens": "effective tokens: (Σ|C|)² / ΣC²",
    "credit/norm_ratio": "size of C relative to even credit",
    "credit/dead_groups_low": "share of groups that teach nothing: too hard",
    "credit/dead_groups_high": "share of groups that teach nothing: too easy",
    "credit/loops": "share of completions cut off in a loop of the automaton",
    "credit/before_decided": "share of |C| before the reward was settled",
    "credit/zero_share": "share of tokens without credit",
    "credit/sign_flip_rate": "share of tokens pushed against their completion",
    "credit/role_think": "share of |C| on thoughts",
    "credit/role_call": "share of |C| on calls",
    "credit/role_answer": "share of |C| on answers",
    "credit/gini": "Gini coefficient of |C| over tokens",
    "credit/mass": "net credit ΣC",
    "credit/mass_positive": "positive credit",
    "credit/mass_negative": "negative credit",
}
FIRST = 4  # panels, a row of a wide page; the others are folded
SIZE = "credit/effective_tokens"  # 0 where a step has no credit at all
_OF_CREDIT = (
    *("credit/gini", "credit/sign_flip_rate", "credit/before_decided", "credit/norm_ratio"),
    *("credit/position_", "credit/length_", "credit/turn_", "credit/role_"),
)
_NOT_PANELS = ("credit/position_", "credit/length_", "credit/turn_", "credit/dead_groups")


def constants(panels: Sequence[Panel]) -> str:
    """Write what never changed in a sentence: "net credit ΣC: 0; ..."."""
    return "; ".join(f"{panel.title}: {_constant(panel)}" for panel in panels)


def _constant(panel: Panel) -> str:
    values = {curve.line.label: number(float(curve.y[0])) for curve in panel.curves}
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{value} of {name}" for name, value in values.items())


def panels(report: Report, limits: Limits) -> list[Panel]:
    """Draw a panel for each number about credit, with the mean of every strategy."""
    curves = report.finished_curves
    own = [
        name
        for name in curves.names
        if name.startswith("credit/")
        and not name.startswith(_NOT_PANELS)
        and name not in DIAGNOSTICS
    ]
    titles = {**DIAGNOSTICS, **{name: name for name in own}}
    unit = AXES["step"]
    panels = [
        _together(
            report, limits, title, lambda credit, name=name: known(curves, name, credit), unit
        )
        for name, title in titles.items()
        if name in curves.names
    ]
    for stem, title, unit in (
        ("position", "where |C| lies inside a completion", "tenth of the completion"),
        ("length", "where |C| lies by length", "quarter of the completions, shortest first"),
        ("turn", "where |C| lies by turn", "turn; the last one stands for all later ones"),
    ):
        if f"credit/{stem}_1" in curves.names:
            panels.append(_together(report, limits, title, _profiles(curves, stem), unit))
    return panels


def _together(
    report: Report, limits: Limits, title: str, of: Callable[[str], Mapping[int, Run]], unit: str
) -> Panel:
    """Draw the means of all strategies into one panel."""
    means = (
        average(of(credit), limits.points, strategy_line(place, credit))
        for place, credit in enumerate(shown(report, limits))
    )
    return Panel(title, unit, [mean._replace(half=None) for mean in means if mean])


def known(curves: Curves, name: str, credit: str) -> Mapping[int, Run]:
    """Return seed -> run, without the steps at which the number means nothing.

    Where every group taught nothing there is no credit, and the trainer logs 0 for its shares and
    ratios: a Gini coefficient of 0 would look like credit that is perfectly even.
    """
    runs = curves.runs(name, credit)
    if not name.startswith(_OF_CREDIT):
        return runs
    empty = {seed: x[size == 0] for seed, (x, size) in curves.runs(SIZE, credit).items()}
    useful = {seed: ~np.isin(x, empty.get(seed, [])) for seed, (x, _) in runs.items()}
    return {
        seed: (x[useful[seed]], y[useful[seed]])
        for seed, (x, y) in runs.items()
        if useful[seed].any()
    }


def _profiles(curves: Curves, stem: str) -> Callable[[str], Mapping[int, Run]]:
    """Return a function from a strategy to seed -> the mean over training of each part."""
    places = [n for n in range(1, 11) if f"credit/{stem}_{n}" in curves.names]

    def profile(credit: str) -> Mapping[int, Run]:
        parts = [known(curves, f"credit/{stem}_{n}", credit) for n in places]
        seeds = set.intersection(*(set(part) for part in parts))
        return {
            seed: (np.array(places, dtype=float), np.array([p[seed][1].mean() for p in parts]))
            for seed in sorted(seeds)
        }

    return profile


def gradient_table(report: Report) -> Table:
    """Compare the gradient norms of every strategy with the baseline's, seed by seed."""
    columns = ["strategy", "pairs", "ratio at step 1, geometric mean", "smallest at step 1",
               "largest at step 1", "ratio over all steps, geometric mean"]  # fmt: skip
    curves = report.finished_curves
    baseline = curves.runs(GRADIENT, report.study.baseline)
    rows = []
    for credit in report.study.credits:
        runs = ratios(curves.runs(GRADIENT, credit), baseline)
        first = [float(y[0]) for x, y in runs.values() if x[0] == 1]
        every = [value for _, y in runs.values() for value in y.tolist()]
        numbers = [_geometric(first), min(first, default=None), max(first, default=None)]
        cells = [number(value) for value in (*numbers, _geometric(every))]
        rows.append([credit, str(len(first)), *cells])
    return Table(columns, rows)


def _geometric(values: Sequence[float]) -> float | None:
    return float(np.exp(np.log(values).mean())) if len(values) else None


def gradient_panel(report: Report, limits: Limits) -> Panel | None:
    """Draw the gradient norm relative to the baseline's over training; None without any."""
    curves = report.finished_curves
    baseline = curves.runs(GRADIENT, report.study.baseline)

    def logarithms(credit: str) -> Mapping[int, Run]:
        runs = ratios(curves.runs(GRADIENT, credit), baseline)
        return {seed: (x, np.log2(y)) for seed, (x, y) in runs.items()}

    title = "log₂ of the gradient norm relative to the baseline's, mean over seeds"
    return _together(report, limits, title, logarithms, AXES["step"]) if baseline else None
