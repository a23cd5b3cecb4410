"""The findings of `strings --text`, in words, numbers and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from grpo_credit.experiments.figures.forest import Forest
from grpo_credit.lab.output import ERROR, Cell, Figure, Findings, Table, disc, plus_minus
from grpo_credit.lab.prose import GREEDY, WRITTEN, Written, token_level_at


def findings(
    found: Sequence[Written], real: Float[Tensor, " R"], command: str, settings: Mapping[str, Any]
) -> Findings:
    """Put repetition by temperature into words, a table and a figure."""
    rows = [_row(each, found) for each in found]
    repeated = Forest(
        "Repeated 3-grams", "share of 3-grams",
        [disc("the text itself", *_mean(real)),
         *(disc(_name(each), *_mean(each.repeated)) for each in found)],
        reference=float(real.mean()),
    )  # fmt: skip
    return Findings(
        "Repetition at a temperature of tokens, and of whole strings",
        _sentences(found, real),
        [Table("repetition", f"Continuations of {WRITTEN} words", rows, formats={"τ": "g"})],
        [Figure("Mean over texts, with its standard error. Dashed: the text itself.", repeated)],
        command,
        settings,
    )


def _row(each: Written, found: Sequence[Written]) -> dict[str, Cell]:
    logp, logp_error = _mean(each.logp)
    repeated, error = _mean(each.repeated)
    sequence = each.level == "sequence"
    return {
        "temperature of": "strings" if sequence else "tokens",
        "τ": each.tau,
        "log p": logp,
        f"log p{ERROR}": logp_error,
        "repeated 3-grams": repeated,
        f"repeated 3-grams{ERROR}": error,
        "tokens at this log p": token_level_at(found, logp) if sequence else None,
    }


def _sentences(found: Sequence[Written], real: Float[Tensor, " R"]) -> list[str]:
    token = {each.tau: each for each in found if each.level == "token"}
    same = [
        f"τ = {each.tau:g}: {_pm(each.repeated)} by strings, {_pm(token[each.tau].repeated)} by "
        f"tokens, difference {_pm(each.repeated - token[each.tau].repeated)}"
        for each in found
        if each.level == "sequence" and each.tau in token
    ]
    near = [
        (each, other)
        for each in found
        if each.level == "sequence"
        and (other := token_level_at(found, float(each.logp.mean()))) is not None
    ]
    equal = [f"log p {each.logp.mean():.0f}: {_pm(each.repeated)} and {o:.3f}" for each, o in near]
    apart = max(each.apart for each in found)
    return [
        f"Share of repeated 3-grams at the same temperature, from the same contexts: "
        f"{'; '.join(same)}. A temperature of strings goes further towards what the model finds "
        "likely.",
        f"At the same log p of the text, by strings and by tokens: {'; '.join(equal) or '–'}. "
        f"Repetition comes with likelihood: greedy decoding repeats {_pm(token[GREEDY].repeated)}, "
        f"samples at τ = 1 {_pm(token[1.0].repeated)}, the text itself {_pm(real)}.",
        f"Chain rule: log p of {WRITTEN} words in one pass and word by word differ by "
        f"{apart:.0e} nats at most, which is rounding of float32.",
        "One small model of one text, and whole strings only as far as Monte Carlo reaches them: "
        "an example, not a law.",
    ]


def _name(each: Written) -> str:
    return f"{'strings' if each.level == 'sequence' else 'tokens'}, τ = {each.tau:g}"


def _pm(values: Float[Tensor, " R"]) -> str:
    return plus_minus(*_mean(values))


def _mean(values: Float[Tensor, " R"]) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
