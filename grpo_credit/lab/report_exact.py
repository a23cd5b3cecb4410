"""The findings of `exact`, in words, numbers and figures."""

from collections.abc import Mapping, Sequence

from grpo_credit.lab.exact import Measurement, Problem, success
from grpo_credit.lab.figures import Mark, dots
from grpo_credit.lab.output import Cell, Figure, Findings, Table


def findings(
    problem: Problem,
    measured: Mapping[tuple[int, str], Sequence[Measurement]],
    pattern: str,
    policy: str,
    command: str,
) -> Findings:
    """Put measurements by (group size, scaling) into words, a table and figures."""
    value = success(problem)
    sentences = [
        f"The policy earns {value:.3f} on average over {len(problem.language.texts):,} completions."
    ]
    rows: list[dict[str, Cell]] = []
    figures = []
    for (size, scale), found in measured.items():
        label = f"G = {size}, scale_rewards {scale}"
        said = "" if len(measured) == 1 else f"{label}: "
        sentences += [f"{said}{sentence(m, found[0])}" for m in found]
        rows += [_row(size, scale, m) for m in found]
        figures += [
            Figure(
                f"Bias, {label}",
                "Dots: relative bias with its standard error. Ticks: what sampling alone causes; "
                "a dot near its tick shows no bias.",
                dots("bias", "relative bias",
                     {m.strategy: Mark(m.bias, m.bias_error, m.floor) for m in found}),
            ),
            Figure(
                f"Variance, {label}",
                "Variance of one optimizer step, relative to its expectation squared; less is "
                "better.",
                dots("variance", "relative variance",
                     {m.strategy: Mark(m.variance, m.variance_error) for m in found}),
            ),
        ]  # fmt: skip
    settings = {
        "alphabet": problem.language.alphabet,
        "length": problem.language.length,
        "policy": policy,
        "pattern": pattern,
        "windows": next(iter(measured.values()))[0].windows,
    }
    title = "Expected updates against the exact gradient"
    table = Table("exact", "Numbers", rows)
    return Findings(title, sentences, [table], figures, command, settings)


def sentence(found: Measurement, baseline: Measurement) -> str:
    """Say what was seen of a strategy, with its uncertainty."""
    seen = f"{found.bias:.3f} ± {found.bias_error:.3f}, floor {found.floor:.3f}"
    said = f"no bias seen ({seen})" if found.unbiased else f"biased by {seen}"
    if found is baseline:
        return f"{found.strategy}: {said}, factor {found.factor:.3f}."
    change = found.variance / baseline.variance - 1
    error = change_error(found, baseline)
    compared = (
        f"its variance differs by {change:+.0%} ± {error:.0%} from {baseline.strategy}'s"
        if abs(change) > 2 * error
        else f"its variance is that of {baseline.strategy} within {error:.0%}"
    )
    return f"{found.strategy}: {said}; {compared}."


def change_error(found: Measurement, baseline: Measurement) -> float:
    """Return the standard error of variance / baseline's variance, as if they were independent."""
    ratio = found.variance / baseline.variance
    parts = (found.variance_error / found.variance, baseline.variance_error / baseline.variance)
    return ratio * sum(part**2 for part in parts) ** 0.5


def _row(size: int, scale: str, m: Measurement) -> dict[str, Cell]:
    return {
        "credit": m.strategy,
        "G": size,
        "scale": scale,
        "bias": m.bias,
        "bias ±": m.bias_error,
        "floor": m.floor,
        "unbiased": "yes" if m.unbiased else "no",
        "cosine": m.cosine,
        "factor": m.factor,
        "factor ±": m.factor_error,
        "variance": m.variance,
        "variance ±": m.variance_error,
        "snr": m.snr,
    }
