"""The same completions under every strategy: credit computed anew from saved rollouts."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from timeit import repeat
from typing import Any

from torch import Tensor

from grpo_credit.credit.saved import SavedRollouts, credit_of, load_rollouts
from grpo_credit.errors import CreditError
from grpo_credit.experiments.report.data import FINISHED, Examples, RunResult, Study
from grpo_credit.experiments.report.view_credit import CREDIT
from grpo_credit.experiments.show.choice import choose, settled_at
from grpo_credit.experiments.show.picture import named
from grpo_credit.records.files import step_of
from grpo_credit.text import prompt_text

ROWS = 16  # completions of each step
_REPEATS = 3  # of which the shortest time counts


def find_examples(
    out: Path, study: Study, cells: Sequence[RunResult], problems: list[str]
) -> tuple[Examples | None, list[dict[str, Any]]]:
    """Take an early and a late step of one run and compute the credit of every strategy on it.

    The run is the baseline's with the first seed; the next one that kept rollouts, if that has
    none.

    Args:
        out: the directory of the study.
        study: what was to be run.
        cells: its runs.
        problems: grows by a sentence for each file that cannot be read.

    Returns:
        Where the completions come from, None without any; and rows of credit.parquet.
    """
    for cell in sorted(cells, key=lambda c: (c.status != FINISHED, c.credit != study.baseline)):
        steps = _load(out, cell, problems)
        if steps:
            return _examples(cell, steps, study, problems)
    return None, []


def _load(out: Path, cell: RunResult, problems: list[str]) -> dict[Path, SavedRollouts]:
    """Load the first and the last step that a run kept."""
    folder = out / cell.path / "rollouts" if cell.path else out / "nothing"
    paths = sorted(folder.glob("rollouts_*.parquet"), key=step_of)
    steps = {}
    for path in dict.fromkeys([*paths[:1], *paths[-1:]]):
        try:
            steps[path] = load_rollouts(path)
        except (CreditError, OSError) as error:
            problems.append(str(error).replace(f"{out}/", ""))
    return steps


def _examples(
    cell: RunResult, steps: dict[Path, SavedRollouts], study: Study, problems: list[str]
) -> tuple[Examples, list[dict[str, Any]]]:
    examples = Examples(
        cell.credit,
        cell.seed,
        [step_of(path) for path in steps],
        sum(int((saved.rollouts.window_count > 0).sum()) for saved in steps.values()),
    )
    rows: list[dict[str, Any]] = []
    for path, saved in steps.items():
        credits = _credits(path, saved, study.credits, examples)
        chosen = choose(saved.rollouts, ROWS)
        try:
            rows += [_row(step_of(path), saved, credits, row) for row in chosen]
        except CreditError as error:  # of their tokens, which are read here
            place = f"{cell.path}/{path.parent.name}/{path.name}"
            problems.append(str(error).replace(str(path), place))
    return examples, rows


def _credits(
    path: Path, saved: SavedRollouts, names: Sequence[str], examples: Examples
) -> dict[str, Tensor]:
    credits = {}
    for name in names:
        try:
            strategy = named(name, saved)
            credits[name] = credit_of(name, strategy, saved, path)
        except CreditError as error:
            examples.left_out.setdefault(name, str(error).replace(str(path), path.name))
        else:
            call = partial(strategy.credit, saved.rollouts)
            examples.milliseconds[name] = 1000 * min(repeat(call, number=1, repeat=_REPEATS))
    return credits


def _row(step: int, saved: SavedRollouts, credits: dict[str, Tensor], row: int) -> dict[str, Any]:
    rollouts, tokens = saved.rollouts, saved.tokens[row]
    end = len(tokens)
    return {
        "step": step,
        "row": row,
        "group": int(rollouts.group[row]),
        "prompt": json.dumps(prompt_text(saved.prompts[row])),
        "reward": float(rollouts.rewards[row]),
        "advantage": float(rollouts.advantages[row]),
        "truncated": bool(rollouts.truncated[row]),
        "decided": settled_at(rollouts, row),
        "tokens": json.dumps(tokens),
        "counted": rollouts.mask[row, :end].tolist(),
        **{CREDIT + name: matrix[row, :end].tolist() for name, matrix in credits.items()},
    }
