"""How a credit matrix fits the truth about each token."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.lab.batches import DECISIVE, Batch

ROWS = 256  # completions whose tokens are compared at once, pair by pair
SAME = 1e-9  # of a completion's largest |credit|: less is no difference but rounding


class Estimate(NamedTuple):
    """A mean over the independent batches that have the score, and its standard error.

    NaN where no batch has one, and the error where a single one has.
    """

    mean: float
    error: float


class Scores(NamedTuple):
    """How a credit matrix fits the truth.

    Tokens are compared with those of the same completion only. How completions weigh against each
    other is the aggregation's and the advantage's business, so `even` under any aggregation has
    AUROC 0.5: it does not say which token it was.

    Args:
        auroc: the chance that of two tokens of a completion, one deciding and one not, the deciding
            one has more |credit|; equal ones count half. Over all such pairs of the batch.
        precision: of the tokens that a rule picks, the share that decide. It picks in each
            completion the k with the most |credit|, k being how many decide there; those that tie
            with the last one get in too, those without credit never. So precision and recall differ
            where a rule does not tell tokens apart, or credits fewer than decide. 0 if it picks
            nothing.
        recall: of the tokens that decide, the share that it picks.
        sign: of the tokens that decide, the share whose credit has the true sign; one without
            credit counts half. NaN where none decides, as is `auroc` then.
        correlation: Pearson's, of credit and true advantage over all tokens of the batch; this one
            depends on the aggregation, too. 0 where one of them is constant.
        order: the chance that of two tokens of a completion, one of which did more good than the
            other, it has more credit, signs included; equal ones count half. Over all such pairs.
            A shift of all credit of a completion, as by a baseline, changes neither this nor the
            expected gradient, but the scores that read |credit|.
    """

    auroc: float
    precision: float
    recall: float
    sign: float
    correlation: float
    order: float


def score(credit: Float[Tensor, "B T"], batch: Batch) -> Scores:
    """Hold a credit matrix against the truth."""
    mask, decisive = batch.rollouts.mask, batch.decisive
    size = _size(credit, mask)
    picked = pick(size, mask, decisive.sum(1))
    hits = float((picked & decisive).sum())
    agrees = torch.where(size == 0, 0.5, (credit.sign() == batch.sign).double())
    return Scores(
        auroc=auroc(size, decisive, mask & ~decisive),
        precision=hits / max(1, int(picked.sum())),
        recall=hits / max(1, int(decisive.sum())),
        sign=float(agrees[decisive].mean()),
        correlation=_correlation(credit[mask], batch.advantage[mask]),
        order=concordance(_rounded(credit, mask), batch.advantage, mask),
    )


def _size(credit: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return |credit| over the completion's largest, rounded so that equal is equal."""
    return _rounded(credit, mask).abs()


def _rounded(credit: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return credit over the completion's largest, rounded so that equal is equal."""
    inside = torch.where(mask, credit.double(), 0.0)
    largest = inside.abs().amax(dim=1, keepdim=True)
    return (inside / torch.where(largest > 0, largest, 1.0) / SAME).round()


def auroc(
    size: Float[Tensor, "B T"], positive: Bool[Tensor, "B T"], negative: Bool[Tensor, "B T"]
) -> float:
    """Return the share of pairs of a row in which the positive token has the larger size.

        AUROC = Σ_i Σ_{p, n} ([x_p > x_n] + ½ [x_p = x_n]) / Σ_i |positive_i| · |negative_i|

    NaN where no row has both.
    """
    parts = zip(*(v.split(ROWS) for v in (size, positive, negative)), strict=True)
    return _won((x, yes[:, :, None] & no[:, None, :]) for x, yes, no in parts)


def concordance(
    credit: Float[Tensor, "B T"], worth: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> float:
    """Return the share of pairs of a row in which the token of more worth has more credit.

    Pairs whose worth differs by more than `DECISIVE`. NaN where there is none.
    """
    parts = zip(*(v.split(ROWS) for v in (credit, worth, mask)), strict=True)
    return _won(
        (x, (w[:, :, None] - w[:, None, :] > DECISIVE) & inside[:, :, None] & inside[:, None, :])
        for x, w, inside in parts
    )


def _won(compared: Iterable[tuple[Float[Tensor, "b T"], Bool[Tensor, "b T T"]]]) -> float:
    """Return the share of pairs (first, second) in which the first has more; ties are halves."""
    wins, ties, pairs = 0, 0, 0
    for x, pair in compared:
        wins += int(((x[:, :, None] > x[:, None, :]) & pair).sum())
        ties += int(((x[:, :, None] == x[:, None, :]) & pair).sum())
        pairs += int(pair.sum())
    return (wins + ties / 2) / pairs if pairs else float("nan")


def pick(
    size: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], count: Int[Tensor, " B"]
) -> Bool[Tensor, "B T"]:
    """Pick in each row the `count` largest, all that tie with the last of them, none of size 0."""
    ordered = torch.where(mask, size, 0.0).sort(dim=1, descending=True).values
    last = ordered.gather(1, (count - 1).clamp(min=0)[:, None])
    return mask & (size >= last) & (size > 0) & (count > 0)[:, None]


def _correlation(one: Float[Tensor, " n"], two: Float[Tensor, " n"]) -> float:
    one, two = one.double() - one.double().mean(), two - two.mean()
    norms = one.norm() * two.norm()
    return float(one @ two / norms) if norms > 0 else 0.0
