"""What a strategy may look at where documents of the data take the place of completions.

A strategy is tried out on small examples that differ in one thing, so that a user's own rule is
judged as the package's are.
"""

from dataclasses import replace

import torch
from torch import Tensor

from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import CreditError, Strategy

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


def looks_at_limit(strategy: Strategy) -> bool:
    """Return whether credit depends on `max_completion_length`."""
    documents = _told(Rollouts.from_documents(LENGTHS))
    wider = replace(documents, max_completion_length=2 * documents.max_completion_length)
    return not torch.equal(strategy.credit(documents), strategy.credit(wider))


def looks_at_bounds(strategy: Strategy) -> bool:
    """Return whether credit depends on where in a text its documents end."""
    whole, cut = (_by_token(strategy, lengths) for lengths in ([6], [2, 4]))
    return not torch.allclose(whole, cut)


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
