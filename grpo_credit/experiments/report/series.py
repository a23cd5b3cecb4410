"""Curves over seeds: each run's, their mean, and a band around it."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

HELD_OUT = "held_out/"  # begins the names of curves of tests
LENGTH_RIGHT, LENGTH_WRONG = "length/right", "length/wrong"
AXES = {"step": "optimizer steps", "tokens": "tokens", "seconds": "seconds of training"}
COLUMNS = pa.schema(
    {
        "credit": pa.string(), "seed": pa.int64(), "step": pa.int64(), "tokens": pa.float64(),
        "seconds": pa.float64(), "name": pa.string(), "value": pa.float64(),
    }
)  # fmt: skip
RATE = re.compile(r"rate|share|pass@|mean@|accuracy|exact", re.IGNORECASE)
Key = tuple[str, str, int]  # name, strategy, seed
Run = tuple[np.ndarray, np.ndarray]  # x and y, both (k,), in the order of x


def is_share(name: str, values: Iterable[float]) -> bool:
    """Return whether a number is a share by its name and its values: its intervals end at 0 and 1.

    Example:
        >>> is_share("pass@1", [0.0, 0.5]), is_share("learning rate", [3.0])
        (True, False)
    """
    return bool(RATE.search(name)) and all(0 <= value <= 1 for value in values)


@dataclass(frozen=True)
class Points:
    """A curve of one run, in the order of its steps, each of them once.

    Args:
        step: `(k,)`.
        tokens: `(k,)`, NaN where unknown.
        seconds: `(k,)`, likewise.
        value: `(k,)`, finite.
    """

    step: np.ndarray
    tokens: np.ndarray
    seconds: np.ndarray
    value: np.ndarray

    @classmethod
    def joined(cls, pieces: Sequence["Points"]) -> "Points":
        """Join pieces in any order; of a step that is there twice the later one is kept."""
        columns = [np.concatenate([getattr(p, f.name) for p in pieces]) for f in fields(cls)]
        finite = np.isfinite(columns[-1])
        columns = [column[finite] for column in columns]
        order = in_order(columns[0])
        return cls(*(column[order] for column in columns))


def in_order(step: np.ndarray) -> np.ndarray:
    """Return the places of points by their steps; of a step that is there twice the later one."""
    order = step.argsort(kind="stable")
    last = np.append(np.diff(step[order]) != 0, True)[: len(step)]
    return order[last]


class Curves:
    """Curves of a study by name, strategy and seed: eight bytes a number, the axes shared.

    Args:
        points: (name, strategy, seed) -> curve.
    """

    def __init__(self, points: Mapping[Key, Points]) -> None:
        self._points: dict[tuple[str, str], dict[int, Points]] = {}
        for name, credit, seed in sorted(points):
            own = points[name, credit, seed]
            if len(own.step):
                self._points.setdefault((name, credit), {})[seed] = own

    @classmethod
    def join(cls, tables: Iterable[pa.Table]) -> "Curves":
        """Read tables with the columns credit, seed, step, tokens, seconds, name and value.

        The rows of a run may be spread over them, in any order but that of points of one step, of
        which the last one holds.
        """
        pieces: dict[Key, list[Points]] = defaultdict(list)
        shared: dict[tuple[str, bytes], np.ndarray] = {}
        for table in tables:
            for key, piece in _pieces(table):
                pieces[key].append(_sharing(piece, shared))
        return cls({key: _sharing(Points.joined(pieces.pop(key)), shared) for key in list(pieces)})

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows of each run, as `join` reads them."""
        runs: dict[tuple[str, int], list[str]] = {}
        for (name, credit), seeds in self._points.items():
            for seed in seeds:
                runs.setdefault((credit, seed), []).append(name)
        for (credit, seed), names in runs.items():
            parts = [_rows(name, credit, seed, self._points[name, credit][seed]) for name in names]
            yield pa.concat_tables(parts)

    def of(self, cells: Iterable[tuple[str, int]]) -> "Curves":
        """Return the curves of some runs, given by strategy and seed."""
        used = set(cells)
        return Curves(
            {
                (name, credit, seed): points
                for (name, credit), seeds in self._points.items()
                for seed, points in seeds.items()
                if (credit, seed) in used
            }
        )

    def steps(self, *names: str) -> int:
        """Return the largest number of steps of a run that has any of some curves."""
        grids: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
        for (name, credit), runs in self._points.items():
            for seed, points in runs.items() if name in names else ():
                grids[credit, seed].append(points.step)
        return max((len(np.unique(np.concatenate(own))) for own in grids.values()), default=0)

    @property
    def longest(self) -> int:
        """The largest number of points of a curve."""
        return max(
            (len(p.step) for runs in self._points.values() for p in runs.values()), default=0
        )

    @property
    def names(self) -> list[str]:
        """Names of curves, in alphabetical order."""
        return list(dict.fromkeys(name for name, _ in self._points))

    def runs(self, name: str, credit: str, axis: str = "step") -> dict[int, Run]:
        """Return seed -> run, for the seeds that have this curve.

        Args:
            name: of the curve.
            credit: the strategy.
            axis: a key of `AXES`. Points without a place on it are left out.
        """
        runs = {}
        for seed, points in self._points.get((name, credit), {}).items():
            x = getattr(points, axis).astype(float)
            known = np.isfinite(x)
            if known.any():
                runs[seed] = (x[known], points.value[known])
        return runs


def _pieces(table: pa.Table) -> Iterator[tuple[Key, Points]]:
    """Yield what a table has of each curve, in the order of its rows."""
    for name in set(COLUMNS.names) - set(AXES):
        if missing := table.column(name).null_count:
            raise ValueError(f"{name} is missing in {missing} rows")
    runs = table.to_pandas().groupby(["name", "credit", "seed"], observed=True, sort=False)
    for (name, credit, seed), rows in runs:
        yield (name, credit, int(seed)), Points(*(rows[f.name].to_numpy() for f in fields(Points)))


def _sharing(points: Points, known: dict[tuple[str, bytes], np.ndarray]) -> Points:
    """Use one array for the axes of all curves of a run."""
    axes = {name: getattr(points, name) for name in AXES}
    shared = {n: known.setdefault((a.dtype.str, a.tobytes()), a) for n, a in axes.items()}
    return replace(points, **shared)


def _rows(name: str, credit: str, seed: int, points: Points) -> pa.Table:
    count = len(points.step)
    values = {f.name: pa.array(getattr(points, f.name), from_pandas=True) for f in fields(points)}
    values |= {"credit": pa.repeat(credit, count), "name": pa.repeat(name, count)}
    values["seed"] = pa.repeat(pa.scalar(seed, pa.int64()), count)
    return pa.table([values[f.name] for f in COLUMNS], COLUMNS)


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
    divided = {}
    for seed in runs.keys() & baseline.keys():
        x, mine, theirs = np.intersect1d(runs[seed][0], baseline[seed][0], return_indices=True)
        above, below = runs[seed][1][mine], baseline[seed][1][theirs]
        valid = (above > 0) & (below > 0)
        if valid.any():
            divided[seed] = (x[valid], above[valid] / below[valid])
    return dict(sorted(divided.items()))
