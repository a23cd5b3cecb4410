"""The findings of `oracle`, in words, numbers and figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from grpo_credit.experiments.figures.forest import Forest, Row
from grpo_credit.experiments.figures.heat import Heat
from grpo_credit.lab.output import ERROR, Cell, Figure, Findings, Table, disc, plus_minus
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.scores import Estimate, Scores

REFERENCES = ("truth", "random")
SHOWN = {
    "credit": "credit",
    "auroc": "finds them (AUROC)",
    "sign": "right sign",
    "order": "right order",
}
CHANCE = 0.5  # what a rule that knows nothing has, as AUROC and of signs

WORDS = {
    "deciding token": "One at which the chance of a reward changes, by the task's own mathematics.",
    "AUROC": "The chance that of two tokens of a completion the deciding one has more |credit|.",
    "sign": "The share of deciding tokens whose credit has the sign of their true advantage.",
    "right order": "How well credit orders the deciding tokens, which no baseline shifts.",
}


@dataclass(frozen=True)
class Scored:
    """What came of the rules on a task.

    Args:
        scores: rule -> score -> estimate, with the references.
        lacks: strategy -> what it needs and the task does not tell; nothing for those in `scores`.
    """

    scores: Mapping[str, Mapping[str, Estimate]]
    lacks: Mapping[str, list[str]]

    @property
    def ranked(self) -> list[str]:
        """The rules by AUROC, those alike by correlation with the truth; the best first."""
        return sorted(self.scores, key=lambda rule: _rank(self.scores[rule]))

    @property
    def measured(self) -> list[str]:
        """The strategies, ranked, without the references."""
        return [rule for rule in self.ranked if rule not in REFERENCES]


def _rank(scores: Mapping[str, Estimate]) -> tuple[float, float]:
    return -round(scores["auroc"].mean, 9), -scores["correlation"].mean


def findings(scored: Mapping[str, Scored], sampling: Sampling, command: str) -> Findings:
    """Put scores by task into words, tables and figures."""
    tables = [
        Table(
            f"oracle_{task}",
            f"{task}: who finds the tokens that decide",
            [_row(rule, each.scores[rule]) for rule in each.ranked],
            SHOWN,
        )
        for task, each in scored.items()
    ]
    return Findings(
        "Credit rules against tokens that are known to decide",
        [*_overall(scored), *(_sentence(task, each) for task, each in scored.items())],
        [*tables, *_unfed(scored)],
        [_map(scored), *(f for task, each in scored.items() for f in _figures(task, each))],
        command,
        {
            "batches": sampling.windows,
            "groups": sampling.groups,
            "num_generations": sampling.num_generations,
            "seed": sampling.seed,
        },
        WORDS,
    )


def _overall(scored: Mapping[str, Scored]) -> list[str]:
    """Return which rule does best over the tasks, of those that all of them feed."""
    everywhere = set.intersection(*(set(s.measured) for s in scored.values()))
    if len(scored) < 2 or not everywhere:
        return []
    means = {rule: _mean(scored, rule) for rule in sorted(everywhere)}
    best = max(means, key=lambda rule: means[rule].mean)
    return [
        f"Over {len(scored)} tasks, of the {len(means)} rules that all of them can feed, {best} "
        f"tells deciding tokens best from others of their completion: AUROC {_pm(means[best])} on "
        f"average. By chance it is {_pm(_mean(scored, 'random'))}, with the truth at hand "
        f"{_pm(_mean(scored, 'truth'))}."
    ]


def _mean(scored: Mapping[str, Scored], rule: str) -> Estimate:
    estimates = [s.scores[rule]["auroc"] for s in scored.values()]
    error = math.sqrt(sum(e.error**2 for e in estimates)) / len(estimates)
    return Estimate(sum(e.mean for e in estimates) / len(estimates), error)


def _sentence(task: str, scored: Scored) -> str:
    """Return which rule does best on a task, and which no better than chance."""
    text = f"{task}: "
    if scored.measured:
        best = scored.measured[0]
        scores = scored.scores[best]
        chance = scored.scores["random"]
        text += (
            f"{best} does best, AUROC {_pm(scores['auroc'])}, and gives {_pm(scores['sign'])} of "
            f"the deciding tokens the right sign (by chance {_pm(chance['auroc'])} and "
            f"{_pm(chance['sign'])}). "
        )
        aurocs = {rule: scored.scores[rule]["auroc"] for rule in scored.measured}
        blind = [rule for rule, (mean, error) in aurocs.items() if not mean - CHANCE > 2 * error]
        text += f"Not seen to be better than chance: {', '.join(blind) or 'none'}."
    unfed = [f"{rule} ({', '.join(needs)})" for rule, needs in scored.lacks.items() if needs]
    return text + (
        f" Not measured, as the task does not tell: {', '.join(unfed)}." if unfed else ""
    )


def _pm(estimate: Estimate) -> str:
    return plus_minus(*estimate)


def _row(rule: str, scores: Mapping[str, Estimate]) -> dict[str, Cell]:
    row: dict[str, Cell] = {"credit": rule}
    for score in Scores._fields:
        row |= {score: _cell(scores[score].mean), f"{score}{ERROR}": _cell(scores[score].error)}
    return row


def _cell(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _unfed(scored: Mapping[str, Scored]) -> list[Table]:
    """List the strategies that were not measured on a task."""
    rows: list[dict[str, Cell]] = [
        {"credit": rule, "task": task, "not told": ", ".join(needs)}
        for task, each in scored.items()
        for rule, needs in each.lacks.items()
        if needs
    ]
    return [Table("oracle_unfed", "Not measured: what a task does not tell", rows)] if rows else []


def _map(scored: Mapping[str, Scored]) -> Figure:
    found = {
        rule: [each.scores[rule]["auroc"].mean if rule in each.scores else math.nan
               for each in scored.values()]
        for rule in dict.fromkeys(rule for each in scored.values() for rule in each.ranked)
    }  # fmt: skip
    rules = sorted(found, key=lambda rule: -fmean(v for v in found[rule] if not math.isnan(v)))
    values = [found[rule] for rule in rules]
    return Figure(
        "AUROC of each rule on each task: blue finds the deciding tokens better than chance, "
        "orange worse. –: the task does not tell what the rule needs.",
        Heat("Who finds the tokens that decide", rules, list(scored), values, CHANCE, 1 - CHANCE),
    )


def _figures(task: str, scored: Scored) -> list[Figure]:
    return [
        Figure(
            "The chance that of two tokens of a completion the one that decides has more |credit|, "
            "with its standard error. Dashed: chance.",
            Forest(f"{task}: AUROC", "AUROC", _discs(scored, "auroc"), reference=CHANCE),
        ),
        Figure(
            "Share of the deciding tokens whose credit has the true sign. Dashed: chance.",
            Forest(f"{task}: sign", "share of deciding tokens", _discs(scored, "sign"), CHANCE),
        ),
    ]


def _discs(scored: Scored, score: str) -> list[Row]:
    estimates = {rule: scored.scores[rule][score] for rule in scored.ranked}
    return [
        disc(rule, estimate.mean, 0.0 if math.isnan(estimate.error) else estimate.error)
        for rule, estimate in estimates.items()
        if not math.isnan(estimate.mean)
    ]
