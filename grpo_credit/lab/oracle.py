"""How well a credit rule finds the tokens that really decide, on tasks where they are known.

The policy of a task is known state by state, so the truth about a token is its true advantage
Q(s, a) - V(s): by how much writing it changed the expected reward. A rule sees what it would see in
training; its |credit| is held against the tokens that decide, its sign against theirs.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.needs import OF_A_TRAINER, TOLD_BY, tells
from grpo_credit.credit.strategy import Strategy
from grpo_credit.lab.batches import Batch, draw
from grpo_credit.lab.process import Task
from grpo_credit.lab.sampling import Progress, Sampling
from grpo_credit.lab.scores import Estimate, Scores, score

Rule = Callable[[Batch], Tensor]


def truth(batch: Batch) -> Float[Tensor, "B T"]:
    """Credit each token with its true advantage: what a rule could give at best."""
    return batch.advantage


def by_chance(seed: int) -> Rule:
    """Make a rule that credits every token by chance: what a rule gives that knows nothing."""
    generator = torch.Generator().manual_seed(seed)

    def credit(batch: Batch) -> Float[Tensor, "B T"]:
        mask = batch.rollouts.mask
        return torch.randn(mask.shape, generator=generator, dtype=torch.float64) * mask

    return credit


def measure(
    task: Task,
    strategies: Mapping[str, Strategy],
    sampling: Sampling,
    progress: Progress = iter,
) -> dict[str, dict[str, Estimate]]:
    """Score strategies, and the references `truth` and `random`, on the same batches.

    Args:
        task: what is written and earned.
        strategies: by the name to show; none that the task cannot feed (`missing`).
        sampling: how many batches of what size.
        progress: wraps the iteration over batches, such as `tqdm`.

    Returns:
        Rule -> score -> estimate, the references first.
    """
    rules = {"truth": truth, "random": by_chance(sampling.seed)}
    rules |= {name: _rule(strategy) for name, strategy in strategies.items()}
    scores: dict[str, list[Scores]] = {name: [] for name in rules}
    for number in progress(range(sampling.windows)):
        batch = draw(task, sampling, number)
        for name, rule in rules.items():
            scores[name].append(score(rule(batch), batch))
    return {name: _estimates(scores) for name, scores in scores.items()}


def missing(task: Task, strategy: Strategy) -> list[str]:
    """List what a strategy needs and the task cannot tell."""
    untold = {need for need in TOLD_BY if not tells(task.reward, need)}
    return sorted(strategy.needs & (untold | OF_A_TRAINER))


def _rule(strategy: Strategy) -> Rule:
    return lambda batch: strategy.credit(batch.rollouts)


def _estimates(scores: Sequence[Scores]) -> dict[str, Estimate]:
    columns = torch.tensor(scores, dtype=torch.float64).unbind(1)
    return dict(zip(Scores._fields, map(_estimate, columns), strict=True))


def _estimate(values: Float[Tensor, " n"]) -> Estimate:
    known = values[~values.isnan()]
    error = known.std() / len(known) ** 0.5 if len(known) > 1 else torch.nan
    return Estimate(float(known.mean()), float(error))
