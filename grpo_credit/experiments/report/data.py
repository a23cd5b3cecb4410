"""What a report is made of: the study, its runs, and what was read of them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from grpo_credit.credit.shading import listing
from grpo_credit.experiments.design import Study
from grpo_credit.experiments.report.difference import Difference
from grpo_credit.experiments.report.intervals import Settings
from grpo_credit.experiments.report.limits import Limits
from grpo_credit.experiments.report.series import Curves
from grpo_credit.experiments.report.statistics import Comparison, compare
from grpo_credit.experiments.words import number

FINISHED = "finished"


@dataclass(frozen=True)
class RunResult:
    """One run: a strategy with a seed.

    Args:
        credit: the strategy.
        seed: of the run.
        status: finished, failed, interrupted, running, waiting, missing or damaged.
        reason: why there is no number, in a sentence; None for a finished run.
        path: the run directory, from the study's.
        value: the held-out number after training; None unless finished.
        before: the same before training.
        step: optimizer steps done.
        tokens: that the run has read and written.
        seconds: wall time of all its attempts, start-up and tests included.
        train_seconds: of the training loop, tests and checkpoints between steps included.
        step_seconds: median time of an optimizer step.
        peak_memory_bytes: of the process and its children.
        attempts: how often it was started.
        command: that repeats it.
        tail: the last lines of its log, if it failed.
        unlike: how its last step, or a rule of the user's own, differs from that of other runs;
            None if neither does.
    """

    credit: str
    seed: int
    status: str
    reason: str | None = None
    path: str | None = None
    value: float | None = None
    before: float | None = None
    step: int | None = None
    tokens: float | None = None
    seconds: float | None = None
    train_seconds: float | None = None
    step_seconds: float | None = None
    peak_memory_bytes: float | None = None
    attempts: int = 0
    command: str | None = None
    tail: str | None = None
    unlike: str | None = None


@dataclass(frozen=True)
class Examples:
    """Where the completions of credit.parquet come from.

    Args:
        credit: the strategy that they were sampled under.
        seed: of that run.
        steps: optimizer steps.
        available: completions in those steps.
        milliseconds: strategy -> time to compute the credit of one of the steps.
        left_out: strategy -> why its credit could not be computed.
    """

    credit: str
    seed: int
    steps: list[int]
    available: int
    milliseconds: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pairing:
    """Whether the runs of a seed began alike.

    Args:
        alike: seeds whose runs had the same completions in the first step that was kept.
        unlike: seeds whose runs had not, or that started from other weights.
        weights: the seeds, grouped by the weights that their runs started from; empty where no run
            recorded them.
    """

    alike: list[int]
    unlike: list[int]
    weights: list[list[int]]


@dataclass(frozen=True)
class Source:
    """A version of a rule that is a user's own.

    Args:
        rule: its name.
        file: where it was read; None where there was none, as in an interactive session.
        sha256: of that file.
        function: its source.
        module: the source of the file.
        runs: that were trained by it, or partly so.
    """

    rule: str
    file: str | None
    sha256: str | None
    function: str | None
    module: str | None
    runs: list[str]


@dataclass(frozen=True)
class Report:
    """A study with all that its page shows.

    Args:
        study: what was to be run.
        cells: one for each strategy and seed, in that order.
        problems: files that could not be read, in sentences.
        threshold: a training completion is called right where its reward is above.
        pairing: whether the runs of a seed began alike.
        examples: where the completions in credit.parquet come from; None without any.
        sources: of the rules that are a user's own, a version each.
        manifest: what is common to all runs, and what differs.
        collected: when, UTC.
        curves: of every run.
        credit: rows of credit.parquet.
        completions: rows of completions.parquet.
        others: study -> its comparisons, where they are counted with these; not stored.
    """

    study: Study
    cells: list[RunResult]
    problems: list[str]
    threshold: float | None
    pairing: Pairing
    examples: Examples | None
    sources: list[Source]
    manifest: dict[str, Any]
    collected: str
    curves: Curves = field(compare=False)
    credit: list[dict[str, Any]]
    completions: list[dict[str, Any]]
    others: Mapping[str, list[Difference]] = field(default_factory=dict, compare=False)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each run: what was asked, how it stands, its held-out number."""
        return pd.DataFrame([asdict(cell) for cell in self.cells])

    def _repr_html_(self) -> str:
        rows = [
            [each.strategy, str(each.n), number(each.mean),
             each.verdict.sentence if each.verdict else "baseline"]
            for each in self.comparison.results
        ]  # fmt: skip
        title = f"{self.study.metric or 'metric'}, {len(self.study.seeds)} seeds"
        return listing(title, ["strategy", "runs", "mean", "verdict"], rows)

    @property
    def values(self) -> dict[str, dict[int, float | None]]:
        """Strategy -> seed -> held-out number; None where there is none."""
        values: dict[str, dict[int, float | None]] = {name: {} for name in self.study.credits}
        for cell in self.cells:
            values[cell.credit][cell.seed] = cell.value
        return values

    @property
    def statuses(self) -> Counter[str]:
        """Status -> number of runs."""
        return Counter(cell.status for cell in self.cells)

    @cached_property
    def comparison(self) -> Comparison:
        """The strategies against the baseline."""
        study = self.study
        return compare(self.values, study.baseline, Settings(study.higher_is_better), self.others)

    @cached_property
    def finished_curves(self) -> Curves:
        """The curves of the runs that finished."""
        return self.curves.of((c.credit, c.seed) for c in self.cells if c.status == FINISHED)


def shown(report: Report, limits: Limits) -> list[str]:
    """Choose the strategies with curves: the first ones, and the baseline."""
    study = report.study
    rest = [credit for credit in study.credits if credit != study.baseline]
    chosen = {study.baseline, *rest[: limits.strategies - 1]}
    return [credit for credit in study.credits if credit in chosen]
