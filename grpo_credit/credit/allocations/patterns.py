"""More credit for the words that plan."""

from collections.abc import Iterator, Sequence
from typing import Any

import regex
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError

TIMEOUT = 1.0  # seconds of processor time for one pattern on one completion

# Stands in for the "strategic grams" that the paper mines. One phrase per pattern: a fixed string
# is searched ten times as fast as a choice of several.
PLANNING = (
    r"\bwait\b",
    r"\bhold on\b",
    r"\bactually\b",
    r"\balternatively\b",
    r"\banother way\b",
    r"\bon the other hand\b",
    r"\blet me\b",
    r"\blet us\b",
    r"\blet's\b",
    r"\bi need to\b",
    r"\bwe need to\b",
    r"\bfirst of all\b",
    r"\bso that means\b",
    r"\bthis means that\b",
    r"\bit follows that\b",
    r"\bwhat if\b",
    r"\bsuppose that\b",
    r"\bnote that\b",
    r"\bdouble-check\b",
    r"\bto verify\b",
)


@allocation(needs=["texts"], linear=False, keeps_sign=True, paper="HICRA, arXiv:2509.03646")
def patterns(
    rollouts: Rollouts, *, patterns: list[str] | None = None, alpha: float = 0.2
) -> Float[Tensor, "B T"]:
    r"""Reinforce words that plan more, and discourage them less.

        A[i, t] = A_i + α · |A_i| · [token t shares a character with a match of a pattern]

    Planning words of good completions gain and those of bad ones are spared, so on the whole they
    are pushed up and become more frequent, whether or not they help: watch their number. The paper
    reports gains for Qwen models and losses for Llama-3.1-8B.

    Args:
        rollouts: uses `advantages` (dimensionless), `texts` and `offsets` (characters).
        patterns: regular expressions in the syntax of the `regex` package, not case-sensitive; None
            for `PLANNING`, a short list of English phrases such as "let me" and "wait".
        alpha: what marked tokens get on top, as a part of |A_i|, 0 to 1.

    Returns:
        Allocation (B, T), dimensionless; the sign is the completion's. Nothing is conserved.

    Raises:
        CreditError: if alpha is out of its range, a pattern is invalid, or one takes longer than a
            second on a completion.

    Degenerate cases: without a match, as with no patterns or in another language, this is `even`;
    a match without characters marks nothing. With alpha = 1 marked tokens of bad completions get 0.
    Deviation: the paper mines strategic n-grams from completions of the policy; `PLANNING` is a
    guess that knows no policy. Pass your own.

    Example:
        >>> from dataclasses import replace
        >>> two = Rollouts.from_lists([2, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> characters = torch.tensor([[[0, 4], [4, 6]]] * 2)
        >>> two = replace(two, texts=("wait 2", "1 wait"), offsets=characters)
        >>> patterns(two)  # "wait" lies in one token of the first, and across both of the second
        tensor([[ 1.2000,  1.0000],
                [-0.8000, -0.8000]])

    Source: Wang et al. 2025, HICRA, arXiv:2509.03646.
    """
    if not 0 <= alpha <= 1:
        raise CreditError(f"alpha is {alpha:g}, expected 0 to 1.")
    advantages = rollouts.advantages[:, None]
    marked = _marked(rollouts, PLANNING if patterns is None else patterns)
    landed = torch.where(marked, advantages + alpha * advantages.abs(), advantages)
    return torch.where(rollouts.mask, landed, 0.0)


def _marked(rollouts: Rollouts, patterns: Sequence[str]) -> Bool[Tensor, "B T"]:
    """Mark the tokens that overlap a match, in coordinates where completion follows completion.

    As many matches overlap a token as begin before its end, less those that end before it begins.
    """
    assert rollouts.texts is not None  # both come with `needs`
    assert rollouts.offsets is not None
    spans = torch.tensor(list(_matches(rollouts.texts, patterns))).reshape(-1, 2)
    starts, ends = spans.to(rollouts.offsets).sort(dim=0).values.T.contiguous()
    lengths = torch.tensor([len(text) for text in rollouts.texts]).to(rollouts.offsets)
    first, last = (rollouts.offsets + (lengths.cumsum(0) - lengths)[:, None, None]).unbind(dim=2)
    begun = torch.searchsorted(starts, last.contiguous())
    over = torch.searchsorted(ends, first.contiguous(), right=True)
    return (begun > over) & (first < last)


def _matches(texts: Sequence[str], patterns: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield where patterns match that have characters; texts are laid end to end."""
    compiled = [_compiled(pattern) for pattern in patterns]
    offset = 0
    for row, text in enumerate(texts):
        for pattern in compiled:
            for start, end in _within(pattern, text, row):
                yield offset + start, offset + end
        offset += len(text)


def _within(pattern: Any, text: str, row: int) -> list[tuple[int, int]]:
    try:
        matches = [match.span() for match in pattern.finditer(text, timeout=TIMEOUT)]
    except TimeoutError:
        raise CreditError(
            f"pattern {pattern.pattern!r} took more than {TIMEOUT:g} s on completion {row} "
            f"({len(text)} characters); avoid nested repetition."
        ) from None
    return [(start, end) for start, end in matches if start < end]


def _compiled(pattern: str) -> Any:
    try:
        return regex.compile(pattern, regex.IGNORECASE)
    except regex.error as error:
        where = f" at position {error.pos}" if error.pos is not None else ""
        raise CreditError(f"invalid pattern {pattern!r}: {error.msg}{where}.") from None
