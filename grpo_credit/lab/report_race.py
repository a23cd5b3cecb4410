"""The findings of `race`, in words, numbers and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from grpo_credit.experiments.figures.forest import Forest, Row
from grpo_credit.experiments.words import NONE
from grpo_credit.lab.output import Cell, Figure, Findings, Table, disc
from grpo_credit.lab.race.compare import EXACT, SEQ, TRUTH, Raced, Ratio

# What a terminal shows; the page and the files have every column.
SHOWN = {
    "credit": "credit",
    "steps": "steps",
    "captured": "captured, %",
    "height": "mean height",
    "gain": "gain",
    "predicted": "predicted",
}
FORMATS = {"captured %": ".0f", "low": ".0f", "high": ".0f", "tokens / seq": ".2f", "gain": ".1f",
           "predicted": ".1f"}  # fmt: skip


def findings(races: Mapping[str, Raced], command: str) -> Findings:
    """Put races, by their name, into words, tables and figures."""
    first = next(iter(races.values())).race
    return Findings(
        "How fast policies learn by each rule",
        [line for name, raced in races.items() for line in _sentences(name, raced)],
        [_table(name, raced, len(races) > 1) for name, raced in races.items()],
        [figure for name, raced in races.items() for figure in _figures(name, raced)],
        command,
        {
            "seeds": first.seeds,
            "tuning seeds": first.tuning_seeds,
            "limit": first.limit,
            "tasks": {name: asdict(raced.race.chain) for name, raced in races.items()},
        },
    )


def _sentences(name: str, raced: Raced) -> list[str]:
    rules = [rule for rule in raced.told if rule not in (SEQ, TRUTH, EXACT)]
    unfed = [f"{rule} ({', '.join(needs)})" for rule, needs in raced.lacks.items() if needs]
    said = [_room(name, raced), *(sentence(rule, raced) for rule in rules)]
    if unfed:
        said.append(f"Not raced, as the task does not tell: {', '.join(unfed)}.")
    return said


def _room(name: str, raced: Raced) -> str:
    """Say what there is to win."""
    seq, truth, exact = (raced.told[rule] for rule in (SEQ, TRUTH, EXACT))
    sure = "" if seq.arrived and truth.arrived else "at least " if truth.arrived else "unknown, "
    text = (
        f"{name}: to an expected reward of {raced.race.chain.target} seq takes {steps(raced, SEQ)} "
        f"steps, perfect credit {steps(raced, TRUTH)}, the exact gradient {exact.steps}: "
        f"headroom {sure}{_interval(raced.headroom, '.2f')}; "
        f"{raced.predicted(TRUTH):.1f} was predicted."
    )
    if raced.room:
        return text
    return f"{text} No rule can save much here: one that wins is lucky, or only rescales the step."


def sentence(rule: str, raced: Raced) -> str:
    """Say what a rule saved of what perfect credit would save."""
    told, seq = raced.told[rule], raced.told[SEQ]
    tokens, share = raced.tokens(rule), raced.captured(rule)
    sure = "" if told.arrived and seq.arrived else " at most" if told.arrived else " at least"
    text = f"{rule}: {steps(raced, rule)} steps"
    if share is None:
        return f"{text} (tokens ×{sure} {tokens.value:.2f})."
    sure_share = "" if told.arrived and seq.arrived else "at least " if told.arrived else "at most "
    scaled = Ratio(100 * share.value, 100 * share.low, 100 * share.high)
    return (
        f"{text}, captures {sure_share}{_interval(scaled, '.0f', ' %')} of what perfect credit "
        f"would save (tokens ×{sure} {tokens.value:.2f})."
    )


def steps(raced: Raced, rule: str) -> str:
    """Write the steps to the target; where it was never there, more than those that were waited."""
    told = raced.told[rule]
    return f"{told.steps:,}" if told.arrived else f"more than {told.steps:,}"


def _interval(ratio: Ratio, digits: str, unit: str = "") -> str:
    return f"{ratio.value:{digits}}{unit} [{ratio.low:{digits}}, {ratio.high:{digits}}]"


def _table(name: str, raced: Raced, several: bool) -> Table:
    number = f"race_{name.replace(', ', '_')}" if several else "race"
    rows = [_row(rule, raced) for rule in raced.told]
    rows += [_unfed(rule, rows[0]) for rule, needs in raced.lacks.items() if needs]
    return Table(number, f"{name}: steps to the target, each rule at its best rate", rows, SHOWN,
                 FORMATS)  # fmt: skip


def _unfed(rule: str, like: Mapping[str, Cell]) -> dict[str, Cell]:
    """Write a row of dashes for a rule that the task does not feed."""
    return {**dict.fromkeys(like), "credit": rule}


def _row(rule: str, raced: Raced) -> dict[str, Cell]:
    told, tokens, share = raced.told[rule], raced.tokens(rule), raced.captured(rule)
    height = raced.height(rule)
    percent = share and Ratio(100 * share.value, 100 * share.low, 100 * share.high)
    return {
        "credit": rule,
        "steps": ("" if told.arrived else "> ") + str(told.steps),
        "captured": _interval(percent, ".0f") if percent else NONE,
        "height": float(height.mean()),
        "height ±": float(height.std() / len(height) ** 0.5),
        "gain": 1 / tokens.value,
        "predicted": raced.predicted(rule),
        "tokens": told.steps * raced.race.chain.tokens,
        "tokens / seq": tokens.value,
        "captured %": percent.value if percent else None,
        "low": percent.low if percent else None,
        "high": percent.high if percent else None,
        "variance": told.start.variance if told.start else None,
        "factor": told.start.factor if told.start else None,
        "rate": told.rate,
        "arrived": "yes" if told.arrived else "no",
        "optimizer": raced.race.optimizer,
    }


def _figures(name: str, raced: Raced) -> list[Figure]:
    heights = {rule: raced.height(rule) for rule in raced.told}
    discs = [
        disc(rule, float(h.mean()), float(h.std() / len(h) ** 0.5)) for rule, h in heights.items()
    ]
    figures = [
        Figure(
            "Expected reward on average over the steps that seq takes to the target, with its "
            "standard error over the seeds. Dashed: seq.",
            Forest(f"{name}: mean height", "mean E[R]", discs, float(heights[SEQ].mean())),
        )
    ]
    shares = _shares(raced)
    if shares:
        caption = (
            "Share of the steps that perfect credit would save. Thin: bootstrap intervals of 95 % "
            "over the seeds. Dashed: seq; perfect credit is 100 %."
        )
        figures.append(Figure(caption, Forest(f"{name}: captured", "captured, %", shares, 0.0)))
    return figures


def _shares(raced: Raced) -> Sequence[Row]:
    shares = {rule: raced.captured(rule) for rule in raced.told if rule not in (SEQ, EXACT)}
    return [
        disc(rule, float(round(100 * share.value)), 0.0, (100 * share.low, 100 * share.high))
        for rule, share in shares.items()
        if share is not None
    ]
