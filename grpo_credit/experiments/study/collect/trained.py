"""What was trained on: lengths of right and wrong completions, and whether runs began alike."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from grpo_credit.experiments.report.data import Pairing, RunResult
from grpo_credit.experiments.report.series import (
    LENGTH_RIGHT,
    LENGTH_WRONG,
    Key,
    Points,
    in_order,
    thinned,
)
from grpo_credit.experiments.study.collect.metrics import Log
from grpo_credit.records.files import step_of
from grpo_credit.records.shape import HUGE
from grpo_credit.records.tables import DAMAGE, read_table

TABLES = 10_000  # that are read of a study
FIRST = 1  # the optimizer step whose completions no update has touched


@dataclass(frozen=True)
class Step:
    """The completions of one optimizer step of one run, by their rewards.

    Args:
        credit: the strategy of the run.
        seed: of the run.
        step: optimizer step.
        rewards: `(u,)`, each of them once; completions without one are left out.
        counts: `(u,)`, how many completions have it.
        lengths: `(u,)`, their counted tokens.
        tokens: digest of all token ids, in order; None for all but the run's first step.
    """

    credit: str
    seed: int
    step: int
    rewards: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray
    tokens: bytes | None


def read_trained(out: Path, cells: Sequence[RunResult], problems: list[str]) -> list[Step]:
    """Read credit tables of every run, without the credit.

    Of runs with more than their share of `TABLES`, some at even distances are read, the first and
    the last among them.
    """
    started = [cell for cell in cells if cell.path is not None]
    return [
        step
        for cell in started
        for step in _of_run(out, cell, max(2, TABLES // len(started)), problems)
    ]


def _of_run(out: Path, cell: RunResult, most: int, problems: list[str]) -> list[Step]:
    paths = sorted((out / str(cell.path) / "credit").glob("credit_*.parquet"), key=step_of)
    steps: list[Step] = []
    for path in (paths[place] for place in thinned(len(paths), most)):
        try:
            steps.append(_step(path, cell, first=not steps))
        except DAMAGE as error:
            problems.append(f"{path.relative_to(out)} cannot be read: {error}")
    return steps


def _step(path: Path, cell: RunResult, first: bool) -> Step:
    columns = ["reward", "counted", *(["token_ids"] if first else [])]
    table = read_table(path, columns)
    if lacking := set(columns) - set(table.column_names):
        raise KeyError(f"it lacks {', '.join(sorted(lacking))}")
    rewards = table["reward"].to_numpy().astype(float)
    if (huge := rewards[np.isfinite(rewards) & (np.abs(rewards) > HUGE)]).size:
        raise ValueError(f"a reward is {huge[0]}, expected at most {HUGE}")
    scored = ~np.isnan(rewards)
    distinct, of = np.unique(rewards[scored], return_inverse=True)
    lengths = _counted(table["counted"].combine_chunks())[scored]
    return Step(
        cell.credit,
        cell.seed,
        step_of(path),
        distinct,
        np.bincount(of, minlength=len(distinct)),
        np.bincount(of, lengths, len(distinct)),
        _digest(table["token_ids"].combine_chunks()) if first else None,
    )


def _counted(flags: pa.ListArray) -> np.ndarray:
    """Return how many flags of each row are set."""
    before = np.concatenate([[0], np.cumsum(flags.flatten().cast(pa.int64()).to_numpy())])
    lengths = flags.value_lengths().fill_null(0).to_numpy()
    ends = lengths.cumsum()
    return before[ends] - before[ends - lengths]


def _digest(ids: pa.ListArray) -> bytes:
    parts = (ids.value_lengths().fill_null(0), ids.flatten())
    content = b"|".join(part.cast(pa.int64()).to_numpy().tobytes() for part in parts)
    return hashlib.sha256(content).digest()


def midpoint(trained: Sequence[Step]) -> float | None:
    """Return the middle between the lowest and the highest reward that was read.

    A completion is called right where its reward is above, the same for every run. Where all
    rewards are equal it is 0; None where there are none.
    """
    finite = [step.rewards[np.isfinite(step.rewards)] for step in trained]
    low = min((float(rewards[0]) for rewards in finite if len(rewards)), default=math.inf)
    high = max((float(rewards[-1]) for rewards in finite if len(rewards)), default=-math.inf)
    if low > high:
        return None
    return (low + high) / 2 if low < high else 0.0


def length_curves(
    trained: Iterable[Step],
    threshold: float | None,
    cells: Iterable[RunResult],
    logs: Mapping[str, Log],
) -> dict[Key, Points]:
    """Return the mean length of right and of wrong completions as curves, in tokens.

    A step without right completions has no such point, and likewise for wrong ones.
    """
    if threshold is None:
        return {}
    log_of = {(cell.credit, cell.seed): logs[cell.path] for cell in cells if cell.path}
    points_of: dict[Key, list[tuple[int, float]]] = defaultdict(list)
    for step in trained:
        right = step.rewards > threshold
        for name, chosen in ((LENGTH_RIGHT, right), (LENGTH_WRONG, ~right)):
            if chosen.any():
                mean = float(step.lengths[chosen].sum() / step.counts[chosen].sum())
                points_of[name, step.credit, step.seed].append((step.step, mean))
    return {key: _curve(points, log_of[key[1:]]) for key, points in points_of.items()}


def _curve(points: Sequence[tuple[int, float]], log: Log) -> Points:
    """Put the points of a curve in order; where the run logged nothing its axes are unknown."""
    step, value = np.array([s for s, _ in points]), np.array([v for _, v in points])
    order = in_order(step)
    logged = np.isin(step[order], [*log.seconds])
    axes = (np.where(logged, axis, np.nan) for axis in log.clock(step[order]))
    return Points(step[order], *axes, value[order])


def pairing(trained: Iterable[Step], weights: Mapping[int, set[str]]) -> Pairing:
    """Return which seeds' runs began alike: with the same weights, and the same first completions.

    Seeds with one run, or whose runs kept no step in common, are of neither kind; nor are those
    that differ where the first step was not kept: after an update completions may differ.

    Args:
        trained: the steps that were kept.
        weights: seed -> fingerprints of the weights that its runs started from.
    """
    first: dict[int, dict[str, Step]] = defaultdict(dict)
    for step in trained:
        kept = first[step.seed].get(step.credit)
        if kept is None or step.step < kept.step:
            first[step.seed][step.credit] = step
    pairing = Pairing(
        [], sorted(s for s, starts in weights.items() if len(starts) > 1), _groups(weights)
    )
    for seed, runs in sorted(first.items()):
        steps = {step.step for step in runs.values()}
        if seed not in pairing.unlike and len(runs) > 1 and len(steps) == 1:
            alike = len({step.tokens for step in runs.values()}) == 1
            if alike or steps == {FIRST}:
                (pairing.alike if alike else pairing.unlike).append(seed)
    return replace(pairing, unlike=sorted(pairing.unlike))


def _groups(weights: Mapping[int, set[str]]) -> list[list[int]]:
    """Group the seeds by what their runs started from."""
    groups: dict[frozenset[str], list[int]] = {}
    for seed, starts in sorted(weights.items()):
        groups.setdefault(frozenset(starts), []).append(seed)
    return list(groups.values())
