"""The findings of `replay`, in words, numbers and figures."""

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

from grpo_credit.experiments.figures.forest import Forest
from grpo_credit.lab.output import Cell, Figure, Findings, Table, disc
from grpo_credit.lab.replay import Replay, Replayed

_MASS = "share of |C| · ‖∂ log π / ∂ logits‖"  # `grpo_credit.lab.replay.gradient_mass`


def findings(replay: Replay, command: str, settings: Mapping[str, Any]) -> Findings:
    """Put the gradients of several strategies on one window into words, tables and a figure."""
    first, cosines = replay.replayed[0], replay.cosines().tolist()
    norms = [disc(r.strategy, r.norm) for r in replay.replayed]
    return Findings(
        "Strategies on one saved window",
        [
            f"{replay.completions} completions, {replay.tokens} counted tokens. "
            f"{_drift(replay.drift)}",
            *map(_sentence, replay.replayed[1:], repeat(first), cosines[0][1:]),
        ],
        _tables(replay.replayed, cosines),
        [
            Figure(
                "Where norms differ, so do the steps that SGD takes.",
                Forest("Gradient norms", "gradient norm", norms, reference=0),
            )
        ],
        command,
        settings,
    )


def _tables(replayed: Sequence[Replayed], cosines: Sequence[Sequence[float]]) -> list[Table]:
    first, names = replayed[0], [r.strategy for r in replayed]
    numbers: list[dict[str, Cell]] = [
        {"credit": r.strategy, "norm": r.norm, "norm / first": _ratio(r.norm, first.norm),
         "split-half snr": r.snr}
        for r in replayed
    ]  # fmt: skip
    rows: list[dict[str, Cell]] = [
        {"cosine": name, **dict(zip(names, row, strict=True))}
        for name, row in zip(names, cosines, strict=True)
    ]
    shares: list[dict[str, Cell]] = [
        {_MASS: share, **{r.strategy: r.shares[share] for r in replayed}} for share in first.shares
    ]
    order = {name: str(place) for place, name in enumerate(names, 1)}
    beside = "Cosine between gradients; columns in the order of the rows"
    where = (
        "Where the gradient with respect to the logits lies; columns in the order of the gradients "
        "above"
    )
    signs, plain = dict.fromkeys(names, "+.3f"), dict.fromkeys(names, ".3f")
    return [
        Table("replay", "Gradients", numbers),
        Table("cosines", beside, rows, {"cosine": "cosine", **order}, signs),
        Table("shares", where, shares, {_MASS: _MASS, **order}, plain),
    ]


def _sentence(replayed: Replayed, first: Replayed, cosine: float) -> str:
    ratio = _ratio(replayed.norm, first.norm)
    size = "-" if ratio is None else f"{ratio:.3g}"
    return (
        f"{replayed.strategy}: its gradient is {size} times as long as that of {first.strategy}, "
        f"at a cosine of {cosine:.3f} to it; signal to noise between two halves of the groups "
        f"{replayed.snr:.2f} against {first.snr:.2f}."
    )


def _ratio(value: float, to: float) -> float | None:
    return value / to if to > 0 else None


def _drift(drift: float | None) -> str:
    if drift is None:
        return "How far the model is from the one that sampled them is not known."
    near = "is the one that sampled them" if drift < 1e-3 else "is not the one that sampled them"
    return f"The model {near}: log-probabilities differ by {drift:.2g} nats on average."
