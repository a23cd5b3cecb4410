"""What the trainer logged of a run, read once and some lines at a time."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from operator import methodcaller
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from grpo_credit.errors import CreditError
from grpo_credit.records.files import METRICS, iterate_lines
from grpo_credit.records.shape import HUGE, fit
from grpo_credit.text import encodable

_CLOCK = {"num_tokens": float | None, "time_s": float}
_NOT_CURVES = ("step", "epoch", "time_s", "num_tokens", "total_flos")
_LINES = 1024  # that are in memory at once
Line = Mapping[str, Any]
Pieces = dict[str, list[tuple[np.ndarray, np.ndarray]]]  # name -> steps and values


@dataclass
class Log:
    """The metrics of a run.

    Args:
        names: of all that was logged, in the order of their first line.
        last: the last line.
        tokens: step -> tokens so far.
        seconds: step -> of training. The later line holds where there are two, but for the last
            one, which sums a run up.
        counts: tokens of every line that said them.
        paces: seconds of the optimizer steps that said them.
        curves: what changes with training.
        wrong: why there are no curves, if a line does not say when it was.
    """

    names: dict[str, None] = field(default_factory=dict)
    last: Line = field(default_factory=dict)
    tokens: dict[int, Any] = field(default_factory=dict)
    seconds: dict[int, Any] = field(default_factory=dict)
    counts: list[Any] = field(default_factory=list)
    paces: list[Any] = field(default_factory=list)
    curves: Pieces = field(default_factory=dict)
    wrong: CreditError | None = None

    def progress(self) -> dict[str, Any]:
        """Return how far the run is, and at what pace.

        Raises:
            CreditError, KeyError, TypeError: if that is not there, or no number.
        """
        if not self.last:
            return {}
        numbers = {
            "step": self.last["step"],
            "tokens": max(self.counts, default=None),
            "train_seconds": self.last["time_s"],
            "step_seconds": median(self.paces) if self.paces else None,
        }
        return fit(dict.fromkeys(numbers, float | None), numbers, METRICS)

    def clock(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens and seconds at the last logged step up to each; 0 before the first one."""
        return _at(self.tokens, steps), _at(self.seconds, steps)


def _at(known: Mapping[int, Any], steps: np.ndarray) -> np.ndarray:
    places = np.array(sorted(known), dtype=int)
    values = np.array([np.nan, *_numbers([known[step] for step in places.tolist()])])
    return np.where(steps == 0, 0.0, values[places.searchsorted(steps, side="right")])


def read_log(run: Path) -> Log:
    """Read metrics.jsonl; nothing of it where it is damaged."""
    log = Log()
    try:
        lines = iterate_lines(run / METRICS)
        while some := list(islice(lines, _LINES)):
            _add(log, some)
    except (OSError, CreditError):
        return Log()
    return log


def _add(log: Log, lines: Sequence[Line]) -> None:
    log.names |= dict.fromkeys(chain.from_iterable(lines))
    log.last = lines[-1]
    log.counts += [line["num_tokens"] for line in lines if line.get("num_tokens") is not None]
    log.paces += [line["step_time"] for line in lines if line.get("step_time") is not None]
    try:
        _expect_clock(lines)
    except CreditError as error:
        log.wrong = error
        return
    for name, pieces in points(lines).items():
        log.curves.setdefault(name, []).extend(pieces)
    log.tokens |= {line["step"]: line["num_tokens"] for line in lines if line.get("num_tokens")}
    log.seconds |= {m["step"]: m["time_s"] for m in lines if "train_runtime" not in m}


def _expect_clock(lines: Sequence[Line]) -> None:
    """Check tokens and seconds, one by one only where some are wrong: there may be millions."""
    columns = ([m.get("time_s") for m in lines], [m.get("num_tokens") or 0 for m in lines])
    if not all((np.abs(_numbers(column)) <= HUGE).all() for column in columns):
        for line in lines:
            fit(_CLOCK, {"num_tokens": None, **line}, f"{METRICS}: step {line['step']}")


def points(lines: Iterable[Line], prefix: str = "") -> Pieces:
    """Return what changes with training; the last line of a run sums up (train_...)."""
    lines, curves = list(lines), defaultdict(list)
    steps = np.array([line["step"] for line in lines])
    for name in dict.fromkeys(chain.from_iterable(lines)):
        if name not in _NOT_CURVES and not name.startswith("train_"):
            values = _numbers(list(map(methodcaller("get", name), lines)))
            known, key = np.abs(values) <= HUGE, prefix + encodable(name)
            if known.all():
                curves[key].append((steps, values))  # the same steps, not a copy
            elif known.any():
                curves[key].append((steps[known], values[known]))
    return curves


def _numbers(values: Sequence[Any]) -> np.ndarray:
    """Return values as floats, NaN for what is no number."""
    if not set(map(type, values)) <= {float, int, bool, type(None)}:
        values = [value if isinstance(value, int | float) else None for value in values]
    return np.array(values, dtype=float)
