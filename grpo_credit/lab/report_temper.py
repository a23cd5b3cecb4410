"""The findings of `temper`, in words, numbers and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from grpo_credit.experiments.figures.forest import Forest, Row
from grpo_credit.lab.decoding import Decoded
from grpo_credit.lab.learning import BASELINE, PLACES, Learned
from grpo_credit.lab.output import ERROR, Cell, Figure, Findings, Table, disc, plus_minus
from grpo_credit.lab.tempering import LookAhead

NARROW = 6  # columns of look-ahead that a terminal shows, beside the last
VARIANCES = {f"variance {place}": f"variance {place}" for place in PLACES}


@dataclass(frozen=True)
class Sampled:
    """What was measured at one temperature beside look-ahead.

    Args:
        decoded: of several strings, one kept.
        learned: method -> what came of it.
    """

    decoded: Sequence[Decoded]
    learned: Mapping[str, Learned]


def findings(
    exact: Mapping[float, LookAhead],
    sampled: Mapping[float, Sampled],
    command: str,
    settings: Mapping[str, Any],
) -> Findings:
    """Put what was measured, by temperature, into words, tables and figures."""
    return Findings(
        "Temperature on whole strings",
        [
            *_exact_sentences(exact),
            *(
                s
                for tau, each in sampled.items()
                for s in _sampled_sentences(tau, each, exact[tau])
            ),
        ],
        [
            _exact_table(exact),
            _lengths_table(exact),
            *(t for tau, each in sampled.items() for t in _tables(tau, each)),
        ],
        [
            *(_exact_figure(tau, each) for tau, each in exact.items() if tau in sampled),
            *(f for tau, each in sampled.items() for f in _figures(tau, each)),
        ],
        command,
        settings,
    )


# ---- look-ahead ---------------------------------------------------------------------------------


def _exact_table(exact: Mapping[float, LookAhead]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "τ": tau,
            "p itself": found.itself,
            **{f"h = {number}": kl for number, kl in enumerate(found.horizons, 1)},
        }
        for tau, found in exact.items()
    ]
    *others, whole = rows[0]
    return Table(
        "look_ahead",
        "KL(target ‖ .), nats, with a look-ahead of h tokens (h = 1: next-token)",
        rows,
        {name: name for name in (*others[:NARROW], whole)},
        dict.fromkeys(rows[0], ".2g") | {"τ": "g"},
    )


def _lengths_table(exact: Mapping[float, LookAhead]) -> Table:
    names = ("p itself", "next-token", "target")
    rows: list[dict[str, Cell]] = [
        {"τ": tau, **dict(zip(names, found.lengths, strict=True))} for tau, found in exact.items()
    ]
    return Table(
        "lengths", "Expected length, tokens", rows,
        formats=dict.fromkeys(names, ".2f") | {"τ": "g"},
    )  # fmt: skip


def _exact_sentences(exact: Mapping[float, LookAhead]) -> list[str]:
    whole = max(found.horizons[-1] for found in exact.values())
    worse = [f"{tau:g}" for tau, found in exact.items() if found.horizons[0] > found.itself]
    shorter = {tau: found.lengths for tau, found in exact.items() if tau < 1}
    sentences = [
        "The target is p^(1/τ) over whole strings, normalised. Temperature on the next token is "
        "another distribution; looking ahead over the whole string is the target "
        f"(KL {whole:.0e} at most, which is rounding).",
    ]
    if worse:
        sentences.append(
            f"At τ = {', '.join(worse)} next-token temperature is further from the target than p "
            "itself, without any temperature."
        )
    if shorter:
        _, myopic, whole = shorter[tau := min(shorter)]
        sentences.append(
            f"At τ = {tau:g} strings have {whole:.2f} tokens on average by the target and "
            f"{myopic:.2f} by next-token temperature: below 1, temperature on strings shortens "
            "them, as every token costs probability."
        )
    return sentences


def _exact_figure(tau: float, found: LookAhead) -> Figure:
    rows = [
        disc("p itself", found.itself),
        *(disc(f"h = {number}", kl) for number, kl in enumerate(found.horizons, 1)),
    ]
    return Figure(
        "KL(target ‖ q) in nats with a look-ahead of h tokens. h = 1: next-token temperature.",
        Forest(f"Look-ahead, τ = {tau:g}", "nats", rows, reference=0),
    )


# ---- several strings, and training --------------------------------------------------------------


def _sampled_sentences(tau: float, sampled: Sampled, exact: LookAhead) -> list[str]:
    counts = sorted({each.samples for each in sampled.decoded})
    middle = counts[len(counts) // 2]
    parts = [
        f"{each.way} {_pm(each.distance)}"
        + ("" if each.floor is None else f" (an exact sampler of as many: {_pm(each.floor)})")
        for each in sampled.decoded
        if each.samples == middle
    ]
    return [
        f"τ = {tau:g}, KL(target ‖ .): {exact.itself:.2g} nats of p itself, "
        f"{exact.horizons[0]:.2g} of next-token temperature. One string kept of {middle}: "
        f"{'; '.join(parts)}.",
        *(_method_sentence(tau, name, sampled.learned) for name in sampled.learned),
    ]


def _method_sentence(tau: float, name: str, learned: Mapping[str, Learned]) -> str:
    found = learned[name]
    text = (
        f"τ = {tau:g}, trained by {name}: KL(target ‖ q) {_pm(found.distance.forward)}, "
        f"KL(q ‖ target) {_pm(found.distance.backward)}"
    )
    biased = [
        f"{place} {_pm(each.bias)} of the gradient (noise {each.floor.mean():.2g})"
        for place, each in found.scatter.items()
        if (each.bias > 3 * each.floor).any()
    ]
    return f"{text}; biased {', '.join(biased)}." if biased else f"{text}."


def _tables(tau: float, sampled: Sampled) -> list[Table]:
    decoding = [
        {
            "one kept of": each.way,
            "K": each.samples,
            **_estimate("KL(target ‖ .)", each.distance),
            "worst policy": float(each.distance.max()),
            **_estimate("exact sampler", each.floor),
        }
        for each in sampled.decoded
    ]
    training = [_method_row(name, sampled.learned) for name in sampled.learned]
    return [
        Table(f"decoding_{tau:g}", f"τ = {tau:g}: several strings drawn, one kept, nats", decoding),
        Table(
            f"training_{tau:g}",
            f"τ = {tau:g}: trained from p, nats; variance of a gradient over that of `{BASELINE}`",
            training,
            {"method": "method", "KL(target ‖ q)": "KL(target ‖ q)", **VARIANCES},
        ),
    ]


def _method_row(name: str, learned: Mapping[str, Learned]) -> dict[str, Cell]:
    found, baseline = learned[name], learned[BASELINE]
    row: dict[str, Cell] = {
        "method": name,
        **_estimate("KL(target ‖ q)", found.distance.forward),
        "worst policy": float(found.distance.forward.max()),
        **_estimate("KL(q ‖ target)", found.distance.backward),
    }
    for place in PLACES:
        each = found.scatter.get(place)
        ratio = each and each.variance / baseline.scatter[place].variance
        row |= _estimate(f"variance {place}", ratio)
        row |= _estimate(f"bias {place}", each and each.bias)
        row |= _estimate(f"noise {place}", each and each.floor)
    return row


def _estimate(name: str, values: Float[Tensor, " R"] | None) -> dict[str, Cell]:
    """Return the mean over policies and its standard error, as cells."""
    mean, error = (None, None) if values is None else _mean(values)
    return {name: mean, f"{name}{ERROR}": error}


def _figures(tau: float, sampled: Sampled) -> list[Figure]:
    decoded = [_disc(f"{each.way} × {each.samples}", each.distance) for each in sampled.decoded]
    trained = [_disc(name, found.distance.forward) for name, found in sampled.learned.items()]
    mean = "Mean over the policies, with its standard error."
    return [
        Figure(
            f"KL(target ‖ .) of one string kept of K. {mean}",
            Forest(f"One string kept of several, τ = {tau:g}", "nats", decoded, reference=0),
        ),
        Figure(
            f"KL(target ‖ q) of trained policies. {mean}",
            Forest(f"Trained, τ = {tau:g}", "nats", trained, reference=0),
        ),
    ]


def _disc(label: str, values: Float[Tensor, " R"]) -> Row:
    return disc(label, *_mean(values))


def _pm(values: Float[Tensor, " R"] | None) -> str:
    return "–" if values is None else plus_minus(*_mean(values))


def _mean(values: Float[Tensor, " R"]) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / len(values) ** 0.5)
