"""The findings of `exact`, in words, numbers and figures."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from grpo_credit.experiments.figures.forest import Forest, Row
from grpo_credit.lab.direction import ROUNDING, Direction
from grpo_credit.lab.exact import Measurement, Problem, success
from grpo_credit.lab.output import Cell, Figure, Findings, Table, digits_of, disc, plus_minus

# What a terminal shows; the page and the files have every column.
SHOWN = {
    "credit": "credit",
    "cosine": "signed cosine",
    "directional error": "directional error",
    "variance": "variance of a step",
    "verdict": "verdict",
}


class Setting(NamedTuple):
    """What was varied.

    Args:
        pattern: what earns a reward.
        size: completions per group, G.
        scale: `scale_rewards`.
    """

    pattern: str
    size: int
    scale: str

    def __str__(self) -> str:
        return f"{self.pattern}, G = {self.size}, scale_rewards {self.scale}"


def findings(
    problems: Mapping[str, Problem],
    measured: Mapping[Setting, Sequence[Measurement]],
    policy: str,
    command: str,
) -> Findings:
    """Put measurements into words, tables and figures; `problems` are by their pattern."""
    some = next(iter(problems.values()))
    sentences = [
        f"On {pattern} the policy earns {success(problem):.3f} on average over "
        f"{len(problem.language.texts):,} completions."
        for pattern, problem in problems.items()
    ]
    for setting, results in measured.items():
        prefix = "" if len(measured) == 1 else f"{setting}: "
        sentences += [
            f"{prefix}{_source(results[0])}",
            *(prefix + sentence(m, results[0]) for m in results),
        ]
    windows = {str(setting): len(results[0].influence) for setting, results in measured.items()}
    settings = {
        "alphabet": some.language.alphabet,
        "length": some.language.length,
        "policy": policy,
        "windows": windows,
    }
    return Findings(
        "Expected updates against the exact gradient",
        sentences,
        _tables(measured),
        [figure for setting, results in measured.items() for figure in _figures(setting, results)],
        command,
        settings,
    )


def _source(measurement: Measurement) -> str:
    """Return where the figures come from."""
    count = f"{len(measurement.influence):,}"
    if measurement.exact:
        return f"All {count} different windows are listed: the figures are exact."
    return (
        f"The gradient is exact; expected updates and variances are estimated from {count} sampled "
        "windows, with intervals of 95 %. Where an update points is paired with `seq`, whose "
        "expectation is known, on the same windows."
    )


def sentence(measurement: Measurement, baseline: Measurement) -> str:
    """Return what was seen of a strategy, with its uncertainty."""
    direction = measurement.direction
    text = f"{measurement.strategy}: {verdict(measurement)}"
    if not (direction.moves and baseline.direction.moves):
        return f"{text}."
    if direction.high > direction.low:
        digits = digits_of(direction.uncertainty)
        text += f" [{direction.low:.{digits}f}, {direction.high:.{digits}f}]"
    text += f" (signed cosine {direction.cosine:+.4f})"
    if measurement is baseline:
        return f"{text}; factor {plus_minus(direction.factor, direction.factor_error)}."
    return f"{text}; {_compared(measurement, baseline)}."


def verdict(measurement: Measurement) -> str:
    """Say in words whether, and how far, an expected update leaves the gradient's direction."""
    direction = measurement.direction
    if not direction.moves:
        return "no step along the gradient seen"
    if direction.factor < 0:
        return f"climbs backwards, {_off(direction, 'exactly')}"
    if direction.low > 0:
        return f"biased by {_size(direction.error, direction)}"
    return f"unbiased {_off(direction, 'to rounding')}"


def _off(direction: Direction, exactly: str) -> str:
    if direction.high < ROUNDING:
        return exactly
    if direction.low > 0:
        return f"off by {_size(direction.error, direction)}"
    return f"to within {direction.high:.2g}"


def _size(value: float, direction: Direction) -> str:
    known = direction.uncertainty > ROUNDING
    return f"{value:.{digits_of(direction.uncertainty)}f}" if known else f"{value:.3g}"


def _compared(measurement: Measurement, baseline: Measurement) -> str:
    ratio, error = measurement.compare(baseline)
    change = plus_minus(100 * abs(ratio - 1), 100 * error)
    if abs(ratio - 1) > max(2 * error, ROUNDING):
        return f"{change} % {'more' if ratio > 1 else 'less'} variance than {baseline.strategy}"
    within = f" within {200 * error:.2g} %" if error > ROUNDING else ""
    return f"the variance of {baseline.strategy}{within}"


def _tables(measured: Mapping[Setting, Sequence[Measurement]]) -> list[Table]:
    names = ["exact"] if len(measured) == 1 else [f"exact_{n + 1}" for n in range(len(measured))]
    return [
        Table(
            name,
            str(setting),
            [_row(setting, m, results[0]) for m in results],
            SHOWN,
            {"cosine": "+.4f"},
        )
        for name, (setting, results) in zip(names, measured.items(), strict=True)
    ]


def _row(setting: Setting, measurement: Measurement, baseline: Measurement) -> dict[str, Cell]:
    direction = measurement.direction
    known = direction.moves
    comparable = known and baseline.direction.moves
    ratio, ratio_error = measurement.compare(baseline) if comparable else (None, None)
    return {
        "credit": measurement.strategy,
        "verdict": verdict(measurement),
        "cosine": direction.cosine if known else None,
        "directional error": direction.error if known else None,
        "directional error ±": direction.uncertainty if known else None,
        "low": direction.low if known else None,
        "high": direction.high if known else None,
        "variance": measurement.variance if known else None,
        "variance ±": measurement.variance_error if known else None,
        "variance / first": ratio,
        "variance / first ±": ratio_error,
        "factor": direction.factor,
        "factor ±": direction.factor_error,
        "windows": len(measurement.influence),
        "exact": "yes" if measurement.exact else "no",
        **setting._asdict(),
    }


def _figures(setting: Setting, results: Sequence[Measurement]) -> list[Figure]:
    moving = [m for m in results if m.direction.moves]
    errors = [_error(m.strategy, m.direction) for m in moving]
    variances = [disc(m.strategy, m.variance, m.variance_error) for m in moving]
    return [
        Figure(
            "How far the expected update is from the line along the gradient, relative to its part "
            "on that line: the tangent of the angle between them. Discs: estimates without the "
            "noise of the sample. Thin: intervals of 95 %.",
            Forest(f"Directional error, {setting}", "directional error", errors, reference=0),
        ),
        Figure(
            "Variance of one optimizer step, relative to its expectation squared; less is better.",
            Forest(f"Variance, {setting}", "relative variance", variances, reference=0),
        ),
    ]


def _error(strategy: str, direction: Direction) -> Row:
    """Draw a directional error; one below rounding as 0."""
    ends = (direction.error, direction.low, direction.high)
    error, low, high = (0.0 if end < ROUNDING else end for end in ends)
    label = strategy + (" (backwards)" if direction.factor < 0 else "")
    return disc(label, error, direction.uncertainty, (low, high))
