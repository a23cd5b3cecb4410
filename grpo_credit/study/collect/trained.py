"""What was trained on: lengths of right and wrong completions, and whether runs began alike."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from grpo_credit.report.data import Cell, Pairing
from grpo_credit.saved import step_of
from grpo_credit.study.collect.curves import Row
from grpo_credit.tables import DAMAGE, read_table

RIGHT, WRONG = "length/right", "length/wrong"
FIRST = 1  # the optimizer step whose completions no update has touched


@dataclass(frozen=True)
class Step:
    """The completions of one optimizer step of one run.

    Args:
        credit: the strategy of the run.
        seed: of the run.
        step: optimizer step.
        rewards: `(n,)`, NaN for none.
        lengths: `(n,)`, counted tokens.
        tokens: hash of all token ids, in order.
    """

    credit: str
    seed: int
    step: int
    rewards: np.ndarray
    lengths: np.ndarray
    tokens: int


def read_trained(out: Path, cells: Sequence[Cell], problems: list[str]) -> list[Step]:
    """Read the credit tables of every run, without the credit."""
    found = []
    for cell in cells:
        folder = out / cell.path / "credit" if cell.path else out / "nothing"
        for path in sorted(folder.glob("credit_*.parquet"), key=step_of):
            try:
                found.append(_step(path, cell))
            except DAMAGE as error:
                problems.append(f"{path.relative_to(out)} cannot be read: {error}")
    return found


def _step(path: Path, cell: Cell) -> Step:
    columns = ["reward", "counted", "token_ids"]
    table = read_table(path, columns).to_pydict()
    if set(table) != set(columns):
        raise KeyError(f"it lacks {', '.join(sorted(set(columns) - set(table)))}")
    return Step(
        cell.credit,
        cell.seed,
        step_of(path),
        np.array(table["reward"], dtype=float),
        np.array([sum(counted) for counted in table["counted"]], dtype=float),
        hash(tuple(map(tuple, table["token_ids"]))),
    )


def midpoint(trained: Iterable[Step]) -> float | None:
    """Return the middle between the lowest and the highest reward of the study.

    A completion is called right where its reward is above, the same for every run. Where all
    rewards are equal it is 0; None where there are none.
    """
    rewards = [step.rewards[np.isfinite(step.rewards)] for step in trained]
    every = np.concatenate(rewards) if rewards else np.array([])
    if not len(every):
        return None
    low, high = float(every.min()), float(every.max())
    return (low + high) / 2 if low < high else 0.0


def length_rows(
    trained: Iterable[Step], threshold: float | None, curves: Iterable[Row]
) -> list[Row]:
    """Return the mean length of right and of wrong completions as curves, in tokens.

    A step without right completions has no such point, and likewise for wrong ones.
    """
    if threshold is None:
        return []
    clock = {row[:3]: row[3:5] for row in curves}
    rows: list[Row] = []
    for step in trained:
        key = (step.credit, step.seed, step.step)
        at = clock.get(key, (None, None))
        right = step.rewards > threshold
        for name, chosen in ((RIGHT, right), (WRONG, step.rewards <= threshold)):
            if chosen.any():
                rows.append((*key, *at, name, float(step.lengths[chosen].mean())))
    return rows


def pairing(trained: Iterable[Step], weights: Mapping[int, set[str]]) -> Pairing:
    """Say which seeds' runs began alike: with the same weights, and the same first completions.

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
    found = Pairing(
        [], sorted(s for s, starts in weights.items() if len(starts) > 1), _groups(weights)
    )
    for seed, runs in sorted(first.items()):
        steps = {step.step for step in runs.values()}
        if seed not in found.unlike and len(runs) > 1 and len(steps) == 1:
            alike = len({step.tokens for step in runs.values()}) == 1
            if alike or steps == {FIRST}:
                (found.alike if alike else found.unlike).append(seed)
    return replace(found, unlike=sorted(found.unlike))


def _groups(weights: Mapping[int, set[str]]) -> list[list[int]]:
    """Group the seeds by what their runs started from."""
    groups: dict[frozenset[str], list[int]] = {}
    for seed, starts in sorted(weights.items()):
        groups.setdefault(frozenset(starts), []).append(seed)
    return list(groups.values())
