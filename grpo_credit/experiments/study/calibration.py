"""Make the first gradients of strategies equally long, before training.

    scale(strategy) = |g(baseline)| / |g(strategy)|

|g| is the root mean square of the gradient's norm, before clipping, over a few steps at the first
seed with a learning rate of zero: on the same prompts, weights and completions for every strategy.
The credit of a strategy is multiplied by its scale in every step of the study. With AdamW such a
constant cancels: a step is the gradient over the root of its mean square. What is left of it then
is what is not linear: clipping by `max_grad_norm`, and the epsilon of the optimizer.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from grpo_credit.experiments.study.cells import METRICS, Cell
from grpo_credit.experiments.study.design import Study
from grpo_credit.records.files import read_lines, replace_text
from grpo_credit.records.shape import fit

CALIBRATION = "calibration.json"
STEPS = 8  # a single batch would leave the ratio of two norms uncertain by a factor
STANDING = (
    *("--learning_rate=0", f"--max_steps={STEPS}", "--logging_steps=1"),
    *("--test_every=0", "--test_samples=1", "--save_rollouts=0"),
)


class CalibrationError(RuntimeError):
    """The first gradients cannot be compared."""


def calibration_cells(study: Study, out: Path) -> list[Cell]:
    """List one run without learning for every strategy, at the first seed of the study."""
    seed = study.seeds[0]
    options = (*study.options_of(seed), *STANDING)
    return [
        Cell(out / "calibration", study.recipe, credit, seed, options) for credit in study.credits
    ]


def scales(study: Study, cells: Iterable[Cell]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the scale and the gradient norm of every strategy.

    Raises:
        CalibrationError: if a norm is zero or no number.
    """
    norms = {cell.credit: gradient_norm(cell) for cell in cells}
    reference = norms[study.baseline]
    return {credit: reference / norm for credit, norm in norms.items()}, norms


def gradient_norm(cell: Cell) -> float:
    """Return the root mean square of the gradient norms that a run has logged."""
    logged = [line["grad_norm"] for line in read_lines(cell.run / METRICS) if "grad_norm" in line]
    known = [
        math.nan if norm is None else norm for norm in fit(list[float | None], logged, METRICS)
    ]
    norm = math.sqrt(sum(value**2 for value in known) / max(len(known), 1))
    if not 0 < norm < math.inf:
        raise CalibrationError(
            f"the first gradients of {cell.credit!r} at seed {cell.seed} have the norm {norm}, so "
            "no scale makes them as long as others; use a larger batch, another first seed, or "
            "leave --match_grad_norm out."
        )
    return norm


def write_scales(
    out: Path, study: Study, scale: Mapping[str, float], norms: Mapping[str, float]
) -> None:
    """Write calibration.json."""
    content = {
        "schema": 1,
        "baseline": study.baseline,
        "seed": study.seeds[0],
        "steps": STEPS,
        "grad_norm": dict(norms),
        "scale": dict(scale),
        "meaning": "the credit of a strategy is multiplied by its scale in every step; with AdamW "
        "a constant cancels but for clipping and epsilon",
    }
    replace_text(out / CALIBRATION, json.dumps(content, indent=2) + "\n")
