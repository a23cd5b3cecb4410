"""What a strategy may look at where documents of the data take the place of completions.

A strategy is tried out on small examples that differ in one thing, so that a user's own rule is
judged as the package's are.
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from grpo_credit.credit.parse import option_type, resolve_with
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import CreditError, Rule, Strategy

LENGTHS = [1, 3, 2, 6, 4, 6]
TOLD = frozenset({"old_logps"})  # what data may tell, in a column of that name


def check_documents(strategy: Strategy) -> None:
    """Refuse a strategy that looks at what only a run with rewards knows.

    Raises:
        CreditError: naming the strategy and what it looks at.
    """
    known = (
        "of a document only its token ids, its length and the advantage 1 are known; use an "
        "aggregation such as 'seq', or an allocation of the advantage such as 'trace'."
    )
    if strategy.needs - TOLD:
        raise CreditError(
            f"{strategy.name!r} needs {', '.join(sorted(strategy.needs - TOLD))}, and {known}"
        )
    apart, together = (_sampled(size) for size in (1, len(LENGTHS)))
    if not torch.equal(strategy.credit(apart), strategy.credit(together)):
        raise CreditError(f"{strategy.name!r} looks at rewards or groups, and {known}")


def serves(rule: Rule) -> bool:
    """Return whether a rule knows enough of documents, tried with 1 where a number is required.

    One that requires a user's function serves as far as that function does.
    """
    required = [name for name, option in rule.options.items() if option.default is option.empty]
    if any(option_type(rule, name) not in (int, float) for name in required):
        return not rule.needs
    try:
        check_documents(resolve_with(rule.function, dict.fromkeys(required, 1.0)))
    except Exception:  # anybody's rule: whatever it raises, it does not serve
        return False
    return True


def are_documents(rollouts: Rollouts) -> bool:
    """Return whether rollouts are documents: each a group of its own, and no reward scored any."""
    alone = len(rollouts.group.unique()) == len(rollouts.group)
    return alone and bool(rollouts.rewards.isnan().all())


def looks_at_limit(strategy: Strategy) -> bool:
    """Return whether credit depends on `max_completion_length`."""
    documents = _told(Rollouts.from_documents(LENGTHS))
    wider = replace(documents, max_completion_length=2 * documents.max_completion_length)
    return not torch.equal(strategy.credit(documents), strategy.credit(wider))


def looks_at_bounds(strategy: Strategy) -> bool:
    """Return whether credit depends on where in a text its documents end."""
    whole, cut = (_by_token(strategy, lengths) for lengths in ([6], [2, 4]))
    return not torch.allclose(whole, cut)


def learned_share(strategy: Strategy, share: float, short: int, long: int, window: int) -> float:
    """Return which share of short documents a model learns from windows of short and long ones.

        q = p · w(short) / (p · w(short) + (1 - p) · w(long))        w(n) = E[C[i, 0] | L_i = n]

    The first predicted token tells the kinds apart. It is trained by cross entropy whose weights
    depend on what else is in the window, so that the optimum is the data's distribution times the
    mean weight; the expectation is over the other documents, Binomial(window - 1, p) of them short.
    With `dapo`, w(n) = E[1 / (n + tokens of the others)]: at window 1 it is `length`, and as
    windows grow it nears `seq`, whose q is p. Exact at the optimum of a model that can hold any q;
    gradients that are clipped have another.

    Args:
        strategy: as for supervised training.
        share: p, of short documents in the data, more than 0 and less than 1.
        short: predicted tokens of a short document.
        long: of a long one.
        window: documents of an optimizer step, drawn independently.

    Raises:
        CreditError: if there is no such mixture.

    Example:
        >>> round(learned_share(resolve_with("dapo", {}), 0.5, 2, 20, 1), 3)
        0.909
    """
    if not (0 < share < 1 and min(short, long, window) >= 1):
        raise CreditError(
            f"a share of {share} of documents of {short} and {long} tokens in windows of {window}; "
            "expected a share between 0 and 1, and numbers of 1 or more."
        )
    odds = share / (1 - share) * _weight(strategy, short, share, (short, long), window)
    return odds / (odds + _weight(strategy, long, share, (short, long), window))


def _weight(
    strategy: Strategy, own: int, share: float, kinds: tuple[int, int], window: int
) -> float:
    """Return the mean weight of the first token of a document of a length, over its window."""
    among = torch.arange(window, dtype=torch.float64)
    binomial = torch.distributions.Binomial(window - 1, torch.tensor(share, dtype=torch.float64))
    chances = binomial.log_prob(among).exp()
    lengths = ([own, *[kinds[0]] * k, *[kinds[1]] * (window - 1 - k)] for k in range(window))
    credit = [_first_token(strategy, each, max(kinds)) for each in lengths]
    return float(chances @ torch.stack(credit))


def _first_token(strategy: Strategy, lengths: list[int], longest: int) -> Tensor:
    documents = Rollouts.from_documents(lengths, max_length=longest, dtype=torch.float64)
    return strategy.credit(documents)[0, 0]


def smallest() -> Iterator[Rollouts]:
    """Yield two documents of up to two tokens, the shortest first."""
    for two in sorted(itertools.product(range(3), repeat=2), key=sum):
        yield _documents(list(two))


def examples(count: int = 8) -> Iterator[Rollouts]:
    """Yield windows of documents, the degenerate first: no predicted token, one, all alike."""
    for lengths in ([0, 0], [1], [1, 1, 1, 1], [0, 1, 3, 6]):
        yield _documents(lengths)
    for seed in range(count):
        rng = random.Random(seed)
        yield _documents([rng.randint(0, 6) for _ in range(rng.randint(1, 8))])


def _documents(lengths: list[int]) -> Rollouts:
    rng = random.Random(sum(lengths))
    ids = [[rng.randrange(5) for _ in range(length)] for length in lengths]
    return Rollouts.from_documents(lengths, max_length=6, token_ids=ids, dtype=torch.float64)


def _sampled(num_generations: int) -> Rollouts:
    """Return completions in groups: apart they have no reward, together they differ."""
    rows, advantages = len(LENGTHS), [1.0, -2.0, 0.5, 3.0, -1.0, 2.0]
    return _told(Rollouts.from_lists(
        LENGTHS, [float(row % num_generations) for row in range(rows)],
        num_generations=num_generations, max_completion_length=8, advantages=advantages,
    ))  # fmt: skip


def _told(rollouts: Rollouts) -> Rollouts:
    """Add what a column of the data may tell: here that later tokens are less likely."""
    return replace(rollouts, old_logps=-rollouts.position.to(rollouts.advantages))


def _by_token(strategy: Strategy, lengths: list[int]) -> Tensor:
    documents = _told(Rollouts.from_documents(lengths, max_length=8))
    return strategy.credit(documents)[documents.mask]
