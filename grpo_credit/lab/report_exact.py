"""The findings of `exact`, in words, numbers and figures."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from grpo_credit.credit.headroom import LAW_ERROR
from grpo_credit.experiments.figures.forest import Forest, Row
from grpo_credit.experiments.figures.scatter import Dot, Scatter
from grpo_credit.lab.direction import CONFIDENCE, ROUNDING, Direction
from grpo_credit.lab.measurement import Measured, Measurement, Problem, effective, success
from grpo_credit.lab.output import (
    ERROR,
    Cell,
    Figure,
    Findings,
    Table,
    digits_of,
    disc,
    plus_minus,
)

# What a terminal shows; the page and the files have every column.
SHOWN = {
    "credit": "credit",
    "cosine": "signed cosine",
    "directional error": "directional error",
    "variance": "variance of a step",
    "verdict": "verdict",
}
PRICED = {"tokens": "tokens", "variance x tokens": "variance x tokens"}  # where they differ


class Setting(NamedTuple):
    """What was varied.

    Args:
        pattern: what earns a reward.
        size: completions per group, G.
        scale: `scale_rewards`.
        target: whose gradient is the truth.
    """

    pattern: str
    size: int
    scale: str
    target: str = "mean"

    def __str__(self) -> str:
        text = f"{self.pattern}, G = {self.size}, scale_rewards {self.scale}"
        return text if self.aims_at_reward else f"{text}, target {self.target}"

    @property
    def label(self) -> str:
        """What a progress bar says."""
        text = f"{self.pattern} G={self.size}, scale {self.scale}"
        return text if self.aims_at_reward else f"{text}, {self.target}"

    @property
    def aims_at_reward(self) -> bool:
        """Whether the truth is the gradient of the expected reward."""
        return self.target == "mean"


WORDS = {
    "expected update": "The mean of the update of one optimizer step over all that may be sampled.",
    "directional error": "The part of it across the gradient of the target, relative to the part "
    "along it: the tangent of the angle. 0: no bias but for the length.",
    "signed cosine": "The cosine of that angle; below 0 the update goes backwards.",
    "relative variance": "The expected squared distance of one update from its mean, relative to "
    "the mean's squared length: how much noise a step has.",
    "within the floor": "An error that the noise of the sample alone would give.",
    "truth": "The rule that knows the true advantages: the best that credit can do.",
    "captured": "The share of what the truth saves over `seq` that a rule saves.",
}


def findings(
    problems: Mapping[str, Problem],
    measured: Mapping[Setting, Measured],
    policy: str,
    command: str,
) -> Findings:
    """Put measurements into words, tables and figures; `problems` are by their pattern."""
    some = next(iter(problems.values()))
    sentences = [
        f"On {pattern} the policy earns {success(problem):.3f} on average over "
        f"{len(problem.language.texts):,} completions. Unbiased credit can lower the second moment "
        f"of the gradient with respect to the logits by a factor of {effective(problem):.3g} at "
        "most."
        for pattern, problem in problems.items()
    ]
    for setting, results in measured.items():
        prefix = "" if len(measured) == 1 else f"{setting}: "
        sentences += [
            f"{prefix}{_source(results.truth)}",
            *(
                prefix + sentence(m, results.rules[0]) + _share(m, results, setting)
                for m in results.rules
            ),
            *([prefix + _headroom(results, policy)] if setting.aims_at_reward else []),
        ]
    windows = {str(setting): len(results.seq.influence) for setting, results in measured.items()}
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
        WORDS,
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


def _share(measurement: Measurement, results: Measured, setting: Setting) -> str:
    """Say what an unbiased rule is predicted to save of what perfect credit would."""
    savings = _savings(measurement, results, setting)
    share, error = savings["captured"], savings["captured ±"]
    if not (isinstance(share, float) and isinstance(error, float) and share):
        return ""
    return f" Predicted to save {plus_minus(share, error)} of the steps that truth would save."


def _headroom(results: Measured, policy: str) -> str:
    """Say what the variances predict for learning."""
    gain, error = results.gain(results.truth)
    low = (gain - CONFIDENCE * error) / LAW_ERROR
    high = (gain + CONFIDENCE * error) * LAW_ERROR
    text = (
        f"With true advantages (truth) {plus_minus(gain, error)} times fewer steps than with seq "
        f"are predicted, at the best rate of each; nine in ten of the fresh settings that this was "
        f"tried on came within a factor of {LAW_ERROR}: {low:.2g} to {high:.2g}."
    )
    if policy != "tabular":
        return text
    return (
        f"{text} But a table shares no parameters between prefixes, and there the prediction is "
        "too high and ranks nothing."
    )


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


def _tables(measured: Mapping[Setting, Measured]) -> list[Table]:
    names = ["exact"] if len(measured) == 1 else [f"exact_{n + 1}" for n in range(len(measured))]
    return [
        Table(
            name,
            str(setting),
            [_row(setting, m, results) for m in (*results.rules, results.truth)],
            SHOWN | (PRICED if any(m.tokens > 1 for m in results.rules) else {}),
            {"cosine": "+.4f"},
        )
        for name, (setting, results) in zip(names, measured.items(), strict=True)
    ]


def _row(setting: Setting, measurement: Measurement, results: Measured) -> dict[str, Cell]:
    baseline = results.rules[0]
    direction = measurement.direction
    known = direction.moves
    comparable = known and baseline.direction.moves
    ratio, ratio_error = measurement.compare(baseline) if comparable else (None, None)
    return {
        "credit": measurement.strategy,
        "verdict": "the ceiling" if measurement is results.truth else verdict(measurement),
        "cosine": direction.cosine if known else None,
        "directional error": direction.error if known else None,
        "directional error ±": direction.uncertainty if known else None,
        "low": direction.low if known else None,
        "high": direction.high if known else None,
        "variance": measurement.variance if known else None,
        "variance ±": measurement.variance_error if known else None,
        "variance / first": ratio,
        "variance / first ±": ratio_error,
        **_savings(measurement, results, setting),
        "tokens": measurement.tokens,
        "variance x tokens": measurement.variance * measurement.tokens if known else None,
        "factor": direction.factor,
        "factor ±": direction.factor_error,
        "windows": len(measurement.influence),
        "exact": "yes" if measurement.exact else "no",
        **setting._asdict(),
    }


def _savings(measurement: Measurement, results: Measured, setting: Setting) -> dict[str, Cell]:
    """Return what a variance predicts of learning; the share of the ceiling if it is no bias's.

    That was tried for the expected reward alone.
    """
    move = measurement.direction.moves and results.seq.direction.moves
    if not (move and setting.aims_at_reward):
        return dict.fromkeys(("gain", "gain ±", "captured", "captured ±"))
    unbiased = measurement.direction.low == 0 and measurement.direction.factor > 0
    gain, share = results.gain(measurement), results.captured(measurement)
    pairs = {"gain": gain, "captured": share if unbiased else (None, None)}
    return {
        column: None if value is None or math.isnan(value) else value
        for name, pair in pairs.items()
        for column, value in zip((name, f"{name}{ERROR}"), pair, strict=True)
    }


def _figures(setting: Setting, results: Measured) -> list[Figure]:
    moving = [m for m in (*results.rules, results.truth) if m.direction.moves]
    errors = [_error(m.strategy, m.direction) for m in moving]
    variances = [disc(m.strategy, m.variance, m.variance_error) for m in moving]
    return [
        Figure(
            "Bias against variance: nearer to the corner is better. Crosses: a standard error, or "
            "an interval of 95 % of the error.",
            Scatter(
                f"Bias and variance, {setting}",
                "directional error",
                "relative variance of a step",
                [_dot(m) for m in moving if math.isfinite(m.variance)],
            ),
        ),
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


def _dot(measurement: Measurement) -> Dot:
    row, error = _error(measurement.strategy, measurement.direction), measurement.variance_error
    across, variance = row.mean or 0.0, measurement.variance
    low, high = row.thin or row.wide or (across, across)
    return Dot(row.name, (across, low, high), (variance, variance - error, variance + error))


def _error(strategy: str, direction: Direction) -> Row:
    """Draw a directional error; one below rounding as 0."""
    ends = (direction.error, direction.low, direction.high)
    error, low, high = (0.0 if end < ROUNDING else end for end in ends)
    label = strategy + (" (backwards)" if direction.factor < 0 else "")
    return disc(label, error, direction.uncertainty, (low, high))
