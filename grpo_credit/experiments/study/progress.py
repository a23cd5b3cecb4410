"""How far a run is, read from what it writes."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from grpo_credit.errors import CreditError
from grpo_credit.records.files import METRICS, lines_from_end, parse_line, read_object
from grpo_credit.records.provenance import MANIFEST
from grpo_credit.records.shape import fit

_LAST_LINES = 32
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
        last = (line for _, line in islice(lines_from_end(path), _LAST_LINES))
        about = (line for line in last if line.endswith(b"\n") and b'"reward"' in line)
        lines = ({**dict.fromkeys(_LINE), **parse_line(line, path)} for line in about)
        return next((fit(_LINE, line, path.name) for line in lines), {})
    except (OSError, CreditError):
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
