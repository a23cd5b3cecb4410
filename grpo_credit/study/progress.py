"""How far a run is, read from what it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_credit.errors import CreditError
from grpo_credit.run.files import parse_line, read_object
from grpo_credit.run.provenance import MANIFEST
from grpo_credit.run.shape import fit
from grpo_credit.study.cells import METRICS

_LAST_BYTES = 32768
_LINE = {"reward": float | None, "time_s": float | None, "epoch": float | None}


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Args:
        step: optimizer steps done, None before the first is logged.
        steps: all of them, None if unknown.
        reward: mean training reward of the last logged step.
        seconds: of training so far.
    """

    step: int | None = None
    steps: int | None = None
    reward: float | None = None
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds of training that are left at this pace; None if nobody can tell."""
        if not self.step or self.steps is None:
            return None
        return max(self.steps - self.step, 0) * self.seconds / self.step


def read_progress(run: Path) -> Progress:
    """Read how far a run is; what is not there yet is None."""
    line = last_logged(run / METRICS)
    return Progress(
        line.get("step"), _steps(run, line), line.get("reward"), line.get("time_s") or 0.0
    )


def last_logged(path: Path) -> dict[str, Any]:
    """Return the last line about a step; empty if there is none, or it is damaged."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LAST_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return {}
    for line in reversed(lines):
        if line.endswith(b"\n") and b'"reward"' in line:
            try:
                return fit(_LINE, {**dict.fromkeys(_LINE), **parse_line(line, path)}, path.name)
            except CreditError:
                return {}
    return {}


def _steps(run: Path, line: dict[str, Any]) -> int | None:
    try:
        kinds = {"config": {"max_steps": int}}
        config = fit(kinds, read_object(run / MANIFEST), MANIFEST)["config"]
        if config["max_steps"] > 0:
            return config["max_steps"]
        epochs = fit(float, config["num_train_epochs"], "num_train_epochs")
        return round(line["step"] / line["epoch"] * epochs)
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError):
        return None
