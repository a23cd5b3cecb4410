"""How far a credit rule's expected update is from ∇E[R], and how much it scatters.

The policy is enumerable, so the truth is a finite sum. The update of a strategy is sampled: windows
of whole groups are drawn from the policy, the strategy gives each its credit, and the update is
Σ C[i, t] ∇ log π(o[i, t]), exactly what an on-policy step of the trainer would take.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grpo_credit.annotations import NEEDS, Annotations
from grpo_credit.lab.enumerable import Language, exact_gradient, jacobian, probabilities
from grpo_credit.rollouts import Rollouts, group_advantages
from grpo_credit.strategy import CreditError, Strategy
from grpo_credit.telling import check_told

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Problem:
    """A policy, what it may say, and what earns a reward.

    Args:
        language: the completions.
        policy: a `TabularPolicy` or `TransformerPolicy` over the language.
        reward: called as TRL calls it, `reward(completions)`; may tell spans, decided and states.
    """

    language: Language
    policy: nn.Module
    reward: Any

    @property
    def name(self) -> str:
        """The reward's name."""
        return getattr(self.reward, "__name__", type(self.reward).__name__)

    def rewards(self) -> Float[Tensor, " M"]:
        """Return the reward of every completion.

        Raises:
            ValueError: if the reward abstains: then E[R] is not defined.
        """
        scores = self.reward(completions=list(self.language.texts))
        if None in scores:
            text = self.language.texts[scores.index(None)]
            raise ValueError(f"the reward abstains on {text!r}; expected a number for every text.")
        return torch.tensor(scores, dtype=torch.float64)

    def rollouts(self) -> Rollouts:
        """Return every completion once, with all that a strategy may need of policy and reward."""
        language, rewards = self.language, self.rewards()
        with torch.no_grad():
            logps = self.policy().double()
        by_event = logps.flatten()[language.events]
        prefix = language.events // (language.end + 1)
        entropies, squares = -(logps.exp() * logps).sum(1), logps.exp().square().sum(1)
        lengths = language.mask.sum(1).tolist()
        told = Annotations(
            [(self.name, self.reward)],
            [1.0],
            list(language.texts),
            [row[:n] for row, n in zip(language.ids.tolist(), lengths, strict=True)],
            language.length,
            language.tokenizer,
            {},
        ).find(NEEDS, CPU)
        return Rollouts(
            completion_ids=language.ids,
            mask=language.mask,
            advantages=torch.zeros_like(rewards),
            rewards=rewards,
            rewards_per_func=rewards[:, None],
            reward_names=(self.name,),
            group=torch.zeros(len(rewards), dtype=torch.long),
            truncated=language.truncated,
            max_completion_length=language.length,
            old_logps=by_event,
            entropies=entropies[prefix],
            sum_sq_probs=squares[prefix],
            **told,
        )


@dataclass(frozen=True)
class Sampling:
    """How windows are drawn.

    Args:
        windows: how many optimizer steps are simulated.
        groups: prompts per window.
        num_generations: completions per group.
        scale_rewards: TRL's `"group"`, `"batch"` or `"none"`.
        seed: of the draws; the same seed gives every strategy the same windows.

    Raises:
        ValueError: if there is too little to compare.
    """

    windows: int = 2000
    groups: int = 8
    num_generations: int = 8
    scale_rewards: str = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.windows < 2 or self.groups < 1 or self.num_generations < 2:
            raise ValueError(
                f"there are {self.windows} windows of {self.groups} groups of "
                f"{self.num_generations}; expected at least 2 windows, for standard errors, 1 "
                "group, and 2 completions in it, to compare."
            )


@dataclass(frozen=True)
class Measurement:
    """A strategy's update against the gradient of the expected reward.

        factor = <E[u], g> / |g|²        bias = |E[u] / factor - g| / |g|
        variance = tr Cov[u] / |factor g|²        snr = 1 / variance

    `E[u]` is estimated from independent windows; `floor` is the bias that an unbiased rule would
    show for that reason alone: √(variance / windows). Unbiased means: below the floor.

    Args:
        strategy: its name.
        factor: how long the update is along the gradient.
        factor_error: its standard error.
        bias: relative, of the direction.
        floor: the bias that sampling alone causes (root mean square).
        bias_error: standard error of the bias, by the jackknife over twenty parts of the windows.
        cosine: between expected update and gradient.
        variance: of one window's update, relative to its expectation squared.
        variance_error: its standard error.
        windows: sampled.
    """

    strategy: str
    factor: float
    factor_error: float
    bias: float
    floor: float
    bias_error: float
    cosine: float
    variance: float
    variance_error: float
    windows: int

    @property
    def snr(self) -> float:
        """Expected update squared over the variance of one window's update."""
        return 1 / self.variance if self.variance > 0 else float("inf")

    @property
    def unbiased(self) -> bool:
        """Whether no bias was seen: it lies below twice what sampling alone causes."""
        return self.bias <= 2 * self.floor


def success(problem: Problem) -> float:
    """Return E[R] by enumeration."""
    with torch.no_grad():
        chances = probabilities(problem.language, problem.policy().double())
    return float(chances @ problem.rewards())


def measure(
    problem: Problem,
    strategies: Mapping[str, Strategy],
    sampling: Sampling,
    progress: Any = iter,
) -> list[Measurement]:
    """Measure strategies on the same windows.

    Args:
        problem: policy and reward.
        strategies: by the name to show.
        sampling: how many windows of what size.
        progress: wraps the iteration over windows, such as `tqdm`.

    Returns:
        One measurement per strategy, in order.

    Raises:
        CreditError: if a strategy needs what an enumerable policy cannot give.
    """
    everything = problem.rollouts()
    for strategy in strategies.values():
        if "privileged_logps" in strategy.needs:
            raise CreditError(f"{strategy.name!r} needs a second prompt; there is none in the lab.")
        check_told(strategy.name, strategy.needs, [(problem.name, problem.reward)], [1.0])
    truth = exact_gradient(problem.language, problem.policy, problem.rewards())
    drawn = draw(problem, sampling)
    updates = {name: _event_sums(problem.language, len(drawn)) for name in strategies}
    for number, rows in enumerate(progress(drawn)):
        window = _window(everything, rows, sampling)
        for name, strategy in strategies.items():
            _add(updates[name][number], problem.language.events[rows], strategy.credit(window))
    scores = jacobian(problem.policy)
    return [_measured(name, update @ scores, truth) for name, update in updates.items()]


def draw(problem: Problem, sampling: Sampling) -> Int[Tensor, "W B"]:
    """Draw the completions of every window, as rows of the language."""
    with torch.no_grad():
        chances = probabilities(problem.language, problem.policy().double())
    generator = torch.Generator().manual_seed(sampling.seed)
    count = sampling.windows * sampling.groups * sampling.num_generations
    drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
    return drawn.view(sampling.windows, -1)


def _window(everything: Rollouts, rows: Int[Tensor, " B"], sampling: Sampling) -> Rollouts:
    sampled = everything.rows(rows)
    group = torch.arange(len(rows)) // sampling.num_generations
    advantages = group_advantages(sampled.rewards, group, sampling.scale_rewards)
    return replace(
        sampled, group=group, advantages=advantages, scale_rewards=sampling.scale_rewards
    )


def _event_sums(language: Language, windows: int) -> Float[Tensor, "W E"]:
    events = len(language.prefixes) * (language.end + 1)
    return torch.zeros(windows, events, dtype=torch.float64)


def _add(
    sums: Float[Tensor, " E"], events: Int[Tensor, "B T"], credit: Float[Tensor, "B T"]
) -> None:
    sums.index_add_(0, events.flatten(), credit.flatten())  # credit is 0 after the end


def _measured(name: str, updates: Float[Tensor, "W D"], truth: Float[Tensor, " D"]) -> Measurement:
    windows = len(updates)
    mean, square = updates.mean(0), truth.square().sum()
    along = updates @ truth / square
    factor = along.mean()
    variances = (updates - mean).square().sum(1) / (factor.square() * square)
    variance = variances.sum() / (windows - 1)
    return Measurement(
        strategy=name,
        factor=float(factor),
        factor_error=float(along.std() / windows**0.5),
        bias=float(_bias(mean, truth)),
        floor=float((variance / windows) ** 0.5),
        bias_error=_bias_error(updates, truth),
        cosine=float(torch.cosine_similarity(mean, truth, dim=0)),
        variance=float(variance),
        variance_error=float(variances.std() / windows**0.5),
        windows=windows,
    )


def _bias(mean: Float[Tensor, " D"], truth: Float[Tensor, " D"]) -> Float[Tensor, ""]:
    factor = (mean @ truth) / truth.square().sum()
    return (mean / factor - truth).norm() / truth.norm()


def _bias_error(updates: Float[Tensor, "W D"], truth: Float[Tensor, " D"]) -> float:
    """Leave out each of k parts in turn: √((k - 1) / k · Σ (bias without the part - mean)²)."""
    parts = updates.chunk(20)
    whole, windows = updates.sum(0), len(updates)
    left = [_bias((whole - p.sum(0)) / (windows - len(p)), truth) for p in parts]
    return float(torch.stack(left).var(correction=0).mul(len(parts) - 1).sqrt())
