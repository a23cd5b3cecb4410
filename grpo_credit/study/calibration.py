"""Make the first gradients of strategies equally long, before training.

    scale(strategy) = |g(baseline)| / |g(strategy)|

g is the gradient of one optimizer step on the same prompts, weights and completions, before
clipping; the credit of the strategy is multiplied by the scale in every step. With AdamW a constant
scale cancels: the step is the gradient over the root of its mean square. What is left of it then is
what is not linear: clipping by `max_grad_norm`, and the epsilon of the optimizer.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from grpo_credit.run.files import read_lines, replace_text
from grpo_credit.study.cells import METRICS, Cell
from grpo_credit.study.design import Study

CALIBRATION = "calibration.json"
ONE_STEP = ("--max_steps=1", "--logging_steps=1", "--test_samples=1")


class CalibrationError(RuntimeError):
    """The first gradients cannot be compared."""


def calibration_cells(study: Study, out: Path) -> list[Cell]:
    """List one short run for every strategy, at the first seed of the study."""
    return [
        Cell(out / "calibration", study.recipe, credit, study.seeds[0], (*study.options, *ONE_STEP))
        for credit in study.credits
    ]


def scales(study: Study, cells: Iterable[Cell]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the scale and the norm of the first gradient of every strategy.

    Raises:
        CalibrationError: if a norm is missing, zero or no number.
    """
    norms = {cell.credit: gradient_norm(cell) for cell in cells}
    reference = norms[study.baseline]
    return {credit: reference / norm for credit, norm in norms.items()}, norms


def gradient_norm(cell: Cell) -> float:
    """Read the gradient norm of the first optimizer step."""
    logged = [line.get("grad_norm") for line in read_lines(cell.run / METRICS)]
    norm = next((value for value in logged if value is not None), None)
    if norm is None or not 0 < norm < math.inf:
        raise CalibrationError(
            f"the first step of {cell.credit!r} at seed {cell.seed} has the gradient norm {norm}, "
            "so no scale makes it as long as another; use a larger batch, another first seed, or "
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
        "grad_norm": dict(norms),
        "scale": dict(scale),
        "meaning": "the credit of a strategy is multiplied by its scale in every step; with AdamW "
        "a constant cancels but for clipping and epsilon",
    }
    replace_text(out / CALIBRATION, json.dumps(content, indent=2) + "\n")
