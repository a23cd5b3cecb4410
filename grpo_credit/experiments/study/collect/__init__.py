"""From the directory of a study to the data of its report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grpo_credit.errors import CreditError
from grpo_credit.experiments.design import STUDY, Study, load_study
from grpo_credit.experiments.report.data import Examples, Report, RunResult
from grpo_credit.experiments.report.series import Curves
from grpo_credit.experiments.report.store import write
from grpo_credit.experiments.study.collect.cells import (
    find_metric,
    other_ends,
    read_cells,
)
from grpo_credit.experiments.study.collect.completions import read_completions
from grpo_credit.experiments.study.collect.curves import read_curves
from grpo_credit.experiments.study.collect.provenance import (
    describe,
    own_rules,
    read_manifests,
    weights,
)
from grpo_credit.experiments.study.collect.trained import (
    length_curves,
    midpoint,
    pairing,
    read_trained,
)

__all__ = ["collect"]


def collect(out: Path, trusted: Sequence[str] = ()) -> Report:
    """Read the runs of a study and write the data of its report beside them.

    Unfinished, failed and damaged runs are part of it, each with its reason; nothing that the runs
    left is changed. What was collected before is replaced.

    Args:
        out: the directory of the study.
        trusted: strategies that the user named; code (`pkg.mod:obj`) that the study's files name,
            and these do not, is not imported.

    Returns:
        The report's data, as `grpo_credit.experiments.report.store.load` reads it.

    Raises:
        CreditError: if there is no study there.
    """
    problems: list[str] = []
    if not (out / STUDY).is_file():
        raise CreditError(f"{out} holds no {STUDY}; expected the directory of a study.")
    study = find_metric(out, load_study(out / STUDY))
    cells, logs = read_cells(out, study, problems)
    manifests = read_manifests(out, cells)
    sources, unlike = own_rules(manifests)
    ends = other_ends(cells)
    cells = [
        replace(cell, unlike=_unlike((cell.credit, cell.seed), ends, unlike)) for cell in cells
    ]
    trained = read_trained(out, cells, problems)
    threshold = midpoint(trained)
    curves = read_curves(out, cells, logs, problems)
    curves |= length_curves(trained, threshold, cells, logs)
    examples, credit = _examples(out, study, cells, problems, trusted)
    report = Report(
        study=study,
        cells=cells,
        problems=problems,
        threshold=threshold,
        pairing=pairing(trained, weights(manifests)),
        examples=examples,
        sources=sources,
        manifest=describe(manifests),
        collected=datetime.now(UTC).isoformat(timespec="seconds"),
        curves=Curves(curves),
        credit=credit,
        completions=read_completions(out, cells, logs, problems),
    )
    write(report, out)
    return report


def _examples(
    out: Path, study: Study, cells: Sequence[RunResult], problems: list[str], trusted: Sequence[str]
) -> tuple[Examples | None, list[dict[str, Any]]]:
    if not any(out.glob("cells/*/*/rollouts/*")):
        return None, []
    from grpo_credit.credit.registry import named_by  # torch takes 200 MB
    from grpo_credit.experiments.study.collect.examples import find_examples

    with named_by(out / STUDY, trusted):
        return find_examples(out, study, cells, problems)


def _unlike(run: tuple[str, int], *deviations: Mapping[tuple[str, int], str]) -> str | None:
    return "; ".join(each[run] for each in deviations if run in each) or None
