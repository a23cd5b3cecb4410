"""Curves over seeds: each run's, their mean, and a band around it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

AXES = {"step": "optimizer steps", "tokens": "tokens", "seconds": "seconds of training"}
Run = tuple[np.ndarray, np.ndarray]  # x and y, both (k,), in the order of x


@dataclass(frozen=True)
class Average:
    """The mean of several runs.

    Args:
        x: `(k,)`.
        mean: `(k,)`.
        half: `(k,)`, half the width of Student's interval of the mean at each x by itself; None for
            a single run.
        runs: how many.
    """

    x: np.ndarray
    mean: np.ndarray
    half: np.ndarray | None
    runs: int


class Curves:
    """Curves of a study by name, strategy and seed.

    Args:
        frame: as `report.data` loads it.
        cells: (strategy, seed) of the runs to use; others are left out.
    """

    def __init__(self, frame: pd.DataFrame, cells: Iterable[tuple[str, int]]) -> None:
        used = set(cells)
        frame = frame[np.isfinite(frame["value"].to_numpy(dtype=float))]
        frame = frame.sort_values("step", kind="stable")
        frame = frame.drop_duplicates(["name", "credit", "seed", "step"], keep="last")
        self._columns = {name: frame[name].to_numpy(dtype=float) for name in (*AXES, "value")}
        self._rows: dict[tuple[str, str], dict[int, np.ndarray]] = {}
        for (name, credit, seed), rows in frame.groupby(["name", "credit", "seed"]).indices.items():
            if (credit, seed) in used:
                self._rows.setdefault((name, credit), {})[int(seed)] = rows

    @property
    def names(self) -> list[str]:
        """Names of curves, in alphabetical order."""
        return list(dict.fromkeys(name for name, _ in self._rows))

    def runs(self, name: str, credit: str, axis: str = "step") -> dict[int, Run]:
        """Return seed -> run, for the seeds that have this curve.

        Args:
            name: of the curve.
            credit: the strategy.
            axis: a key of `AXES`. Points without a place on it are left out.
        """
        found = {}
        for seed, rows in self._rows.get((name, credit), {}).items():
            x, y = self._columns[axis][rows], self._columns["value"][rows]
            known = np.isfinite(x)
            if known.any():
                found[seed] = (x[known], y[known])
        return found


def average(runs: Mapping[int, Run], points: int, level: float = 0.95) -> Average | None:
    """Average runs at common places.

        mean ± t_{(1 + level)/2, n-1} · s / √n    at each place by itself

    The places are those of the runs where all have the same, otherwise evenly spaced where all have
    values, with straight lines between the points of a run.

    Args:
        runs: seed -> run.
        points: how many places at most.
        level: of the band.

    Returns:
        The average; None where there is no run, or no place that all have.
    """
    x = _common(list(runs.values()), points)
    if x is None:
        return None
    values = np.stack([np.interp(x, *run) for run in runs.values()])
    if len(runs) == 1:
        return Average(x, values[0], None, 1)
    error = values.std(axis=0, ddof=1) / math.sqrt(len(runs))
    half = stdtrit(len(runs) - 1, (1 + level) / 2) * error
    return Average(x, values.mean(axis=0), half, len(runs))


def _common(runs: list[Run], points: int) -> np.ndarray | None:
    if not runs:
        return None
    first = runs[0][0]
    if all(np.array_equal(first, x) for x, _ in runs):
        return first[thinned(len(first), points)]
    start, stop = max(x[0] for x, _ in runs), min(x[-1] for x, _ in runs)
    return np.linspace(start, stop, points) if start < stop else None


def thinned(count: int, points: int) -> np.ndarray:
    """Choose at most `points` of `count` places, evenly, the first and the last among them.

    Example:
        >>> thinned(5, 9).tolist(), thinned(9, 3).tolist()
        ([0, 1, 2, 3, 4], [0, 4, 8])
    """
    if count <= points:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, points).round().astype(int))


def ratios(runs: Mapping[int, Run], baseline: Mapping[int, Run]) -> dict[int, Run]:
    """Divide runs by the baseline's of the same seed, at the places that both have.

    Args:
        runs: seed -> run of positive values.
        baseline: likewise.

    Returns:
        seed -> (x, ratio); without the places where either is not positive.
    """
    found = {}
    for seed in runs.keys() & baseline.keys():
        x, mine, theirs = np.intersect1d(runs[seed][0], baseline[seed][0], return_indices=True)
        above, below = runs[seed][1][mine], baseline[seed][1][theirs]
        valid = (above > 0) & (below > 0)
        if valid.any():
            found[seed] = (x[valid], above[valid] / below[valid])
    return dict(sorted(found.items()))
