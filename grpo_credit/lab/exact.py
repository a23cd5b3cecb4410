"""How far the direction of a rule's expected update is from ∇E[R], and how much a step scatters.

The policy is enumerable, so the truth is a finite sum. The update of a strategy is an expectation
over windows of whole groups, which are all listed where they are few and sampled otherwise: the
strategy gives each window its credit, and the update is Σ C[i, t] ∇ log π(o[i, t]), exactly what an
on-policy step of the trainer would take.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import comb, factorial, prod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.needs import check_loop, check_told
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.lab.ceiling import effective_tokens, true_advantages
from grpo_credit.lab.direction import (
    ROUNDING,
    Direction,
    exact_direction,
    paired,
    sampled_direction,
)
from grpo_credit.lab.enumerable import Language, exact_gradient, jacobian, probabilities
from grpo_credit.lab.headroom import CURVATURE, captured, predicted_gain
from grpo_credit.lab.sampling import Progress, Sampling
from grpo_credit.lab.transformer import character_tokenizer
from grpo_credit.trainer.reward_annotations import NEEDS, Annotations
from grpo_credit.trainer.turns import unearned

CPU = torch.device("cpu")
Rule = Callable[[Rollouts, Tensor], Tensor]  # of a window and the rows of its completions
SEQ, TRUTH = "seq", "truth"
ENUMERABLE = 2_000  # different windows: no more work than the default sample


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
    reward: Callable[..., list[float | None]]

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
        annotated = Annotations(
            [(self.name, self.reward)],
            [1.0],
            list(language.texts),
            [row[:n] for row, n in zip(language.ids.tolist(), language.lengths, strict=True)],
            language.length,
            character_tokenizer(language.alphabet, language.others),
            {},
            None if language.turns is None else unearned(language.turns),
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
            **annotated,
            turns=None if language.turns is None else tuple(map(tuple, language.turns)),
        )


@dataclass(frozen=True)
class Measurement:
    """A strategy's update against the gradient of the expected reward.

        variance = tr Cov[u] / |f g|²,  f = `direction.factor`

    The variance is that of one optimizer step, relative to its expectation along the gradient
    squared, in the coordinates of the policy's parameters.

    Args:
        strategy: its name.
        exact: whether every window was listed.
        direction: where the expected update points.
        variance: as above; infinite where nothing goes along the gradient.
        influence: what each window adds to log variance; all 0 if exact.
    """

    strategy: str
    exact: bool
    direction: Direction
    variance: float
    influence: Float[Tensor, " W"] = field(repr=False, compare=False)

    @property
    def variance_error(self) -> float:
        """Standard error of the variance; 0 if exact."""
        return self.variance * _mean_error(self.influence)

    def compare(self, baseline: "Measurement") -> tuple[float, float]:
        """Return variance / baseline's variance, and its standard error over the same windows."""
        ratio = self.variance / baseline.variance
        return ratio, ratio * _mean_error(self.influence - baseline.influence)


@dataclass(frozen=True)
class Measured:
    """What was measured on the same windows.

    Args:
        rules: the strategies, in order.
        seq: `seq` with unscaled advantages, to which `gain` compares.
        truth: true advantages, unscaled: the least variance that credit can have, or close to it.
    """

    rules: list[Measurement]
    seq: Measurement
    truth: Measurement

    def gain(self, rule: Measurement) -> tuple[float, float]:
        """Return the predicted gain over `seq` in steps (`headroom`), and its standard error."""
        gain = predicted_gain(self.seq.variance, rule.variance)
        return gain, gain * _mean_error(_in_steps(self.seq) - _in_steps(rule))

    def captured(self, rule: Measurement) -> tuple[float, float]:
        """Return the share of what true advantages save that a rule is predicted to save.

        And its standard error; NaN where they save nothing.
        """
        gain, best = self.gain(rule)[0], self.gain(self.truth)[0]
        share = captured(gain, best)
        own = (_in_steps(self.seq) - _in_steps(rule)) / gain if gain else torch.zeros(1)
        ceiling = (_in_steps(self.seq) - _in_steps(self.truth)) / best
        error = abs(_mean_error(own - share * ceiling) / (1 - 1 / best)) if best != 1 else torch.nan
        return _rounded(share), _rounded(error)


def _rounded(value: float) -> float:
    return 0.0 if abs(value) < ROUNDING else value


def _in_steps(rule: Measurement) -> Float[Tensor, " W"]:
    """Return what each window adds to the logarithm of the steps that are predicted."""
    if rule.variance == torch.inf:
        return rule.influence
    return rule.influence * rule.variance / (CURVATURE + rule.variance) / 2


def _mean_error(values: Float[Tensor, " W"]) -> float:
    return float(values.std() / len(values) ** 0.5)


@dataclass(frozen=True)
class Windows:
    """Optimizer steps: all that there are, or a sample.

    Args:
        rows: their completions, as rows of the language, group after group.
        chance: the probability of each, where all are listed; None for a sample.
    """

    rows: Int[Tensor, "W B"]
    chance: Float[Tensor, " W"] | None


def success(problem: Problem) -> float:
    """Return E[R] by enumeration."""
    return float(_chances(problem) @ problem.rewards())


def measure(
    problem: Problem,
    strategies: Mapping[str, Strategy],
    sampling: Sampling,
    progress: Progress = iter,
) -> Measured:
    """Measure strategies, and true advantages, on the same windows.

    Where there are at most `ENUMERABLE` different windows, all are listed and figures are exact.
    Otherwise windows are sampled, and each strategy is paired (`direction.paired`) with the
    unscaled group advantage under `seq`, whose expected update is (G - 1)/G of the gradient.

    Args:
        problem: policy and reward.
        strategies: by the name to show.
        sampling: how many windows of what size.
        progress: wraps the iteration over windows, such as `tqdm`.

    Returns:
        One measurement per strategy, and those that they are compared with.

    Raises:
        CreditError: if a strategy needs what an enumerable policy cannot give, or every completion
            earns the same.
    """
    _refuse_unfed(problem, strategies.values())
    rewards = problem.rewards()
    if rewards.min() == rewards.max():
        raise CreditError("every completion earns the same, so there is no gradient to compare.")
    truth = exact_gradient(problem.language, problem.policy, rewards)
    windows = list_windows(problem, sampling)
    best = _best(problem, rewards)
    rules = [*(_rule(strategy) for strategy in strategies.values()), _yardstick, best]
    updates = _updates(problem, sampling, progress(windows.rows), rules)
    named = list(zip([*strategies, SEQ, TRUTH], updates, strict=True))
    if windows.chance is not None:
        *found, seq, ceiling = (_listed(name, u, windows.chance, truth) for name, u in named)
    else:
        expected, seen = truth * (1 - 1 / sampling.num_generations), updates[-2]
        *found, seq, ceiling = (
            _sampled(name, u, paired(u, seen, expected), truth) for name, u in named
        )
    return Measured(found, seq, ceiling)


def effective(problem: Problem) -> float:
    """Return T_eff of a problem (`ceiling.effective_tokens`)."""
    rollouts, chances = problem.rollouts(), _chances(problem)
    assert rollouts.sum_sq_probs is not None
    uncertainty = torch.where(rollouts.mask, 1 - rollouts.sum_sq_probs, 0.0)
    advantages = true_advantages(problem.language, chances, rollouts.rewards)
    return effective_tokens(chances, rollouts.rewards, uncertainty, advantages)


def _refuse_unfed(problem: Problem, strategies: Iterable[Strategy]) -> None:
    for strategy in strategies:
        if "privileged_logps" in strategy.needs:
            raise CreditError(f"{strategy.name!r} needs a second prompt; there is none in the lab.")
        if "ref_logps" in strategy.needs:
            raise CreditError(f"{strategy.name!r} needs a reference model; there is none here.")
        check_loop(strategy, {"tools": problem.language.turns})
        check_told(strategy.name, strategy.needs, [(problem.name, problem.reward)], [1.0])


def _updates(
    problem: Problem,
    sampling: Sampling,
    windows: Iterable[Int[Tensor, " B"]],
    rules: Sequence[Rule],
) -> list[Float[Tensor, "W D"]]:
    """Return each rule's update in each window, in the order of the rules."""
    language, everything = problem.language, problem.rollouts()
    sums: list[list[Tensor]] = [[] for _ in rules]
    nothing = torch.zeros(len(language.prefixes) * (language.end + 1), dtype=torch.float64)
    for rows in windows:
        window, events = _window(everything, rows, sampling), language.events[rows].flatten()
        for sums_of_rule, credit in zip(sums, rules, strict=True):
            landed = credit(window, rows).flatten().double()  # 0 after the end
            sums_of_rule.append(nothing.index_add(0, events, landed))
    scores = jacobian(problem.policy)
    return [torch.stack(sums_of_rule) @ scores for sums_of_rule in sums]


def list_windows(problem: Problem, sampling: Sampling) -> Windows:
    """List every different window with its probability, or sample some where there are too many.

    Windows that differ in the order of completions or groups alone count as one: every rule gives
    them the same credit, by a law that `grpo-credit check` holds it to.
    """
    chances, size = _chances(problem), sampling.num_generations
    groups = comb(len(chances) + size - 1, size)
    if comb(groups + sampling.groups - 1, sampling.groups) > ENUMERABLE:
        return Windows(draw(problem, sampling), None)
    members, chance_of_group = _unordered(chances, size)
    drawn, chance = _unordered(chance_of_group, sampling.groups)
    return Windows(members[drawn].flatten(1), chance)


def _unordered(
    chances: Float[Tensor, " M"], size: int
) -> tuple[Int[Tensor, "K size"], Float[Tensor, " K"]]:
    """List what `size` draws may give, and its probability: size! / Π_j k_j! · Π p."""
    drawn = torch.combinations(torch.arange(len(chances)), size, with_replacement=True)
    orders = [
        factorial(size) / prod(map(factorial, Counter(row).values())) for row in drawn.tolist()
    ]
    return drawn, torch.tensor(orders, dtype=torch.float64) * chances[drawn].prod(1)


def draw(problem: Problem, sampling: Sampling) -> Int[Tensor, "W B"]:
    """Draw the completions of every window, as rows of the language."""
    generator = torch.Generator().manual_seed(sampling.seed)
    count = sampling.windows * sampling.groups * sampling.num_generations
    drawn = torch.multinomial(_chances(problem), count, replacement=True, generator=generator)
    return drawn.view(sampling.windows, -1)


def _chances(problem: Problem) -> Float[Tensor, " M"]:
    with torch.no_grad():
        return probabilities(problem.language, problem.policy().double())


def _window(everything: Rollouts, rows: Int[Tensor, " B"], sampling: Sampling) -> Rollouts:
    sampled = everything.rows(rows)
    group = torch.arange(len(rows)) // sampling.num_generations
    advantages = group_advantages(sampled.rewards, group, sampling.scale_rewards)
    return replace(
        sampled, group=group, advantages=advantages, scale_rewards=sampling.scale_rewards
    )


def _rule(strategy: Strategy) -> Rule:
    return lambda window, _: strategy.credit(window)


def _best(problem: Problem, rewards: Float[Tensor, " M"]) -> Rule:
    """Make the rule that credits true advantages."""
    advantages = true_advantages(problem.language, _chances(problem), rewards)
    return lambda _, rows: advantages[rows] / len(rows)


def _yardstick(window: Rollouts, _: Int[Tensor, " B"]) -> Float[Tensor, "B T"]:
    """Credit by `seq` with unscaled advantages, whatever the window's scaling."""
    advantages = group_advantages(window.rewards, window.group, "none")
    return advantages[:, None] * window.mask / len(advantages)


def _listed(
    name: str,
    updates: Float[Tensor, "W D"],
    chance: Float[Tensor, " W"],
    truth: Float[Tensor, " D"],
) -> Measurement:
    mean = chance @ updates
    direction = exact_direction(mean, truth)
    scatter = chance @ (updates - mean).square().sum(1)
    variance = _relative(scatter, direction, truth)
    return Measurement(name, True, direction, variance, torch.zeros_like(chance))


def _sampled(
    name: str,
    updates: Float[Tensor, "W D"],
    steady: Float[Tensor, "W D"],
    truth: Float[Tensor, " D"],
) -> Measurement:
    """Measure a strategy by its updates, and where they point by those freed of shared noise."""
    direction = sampled_direction(steady, truth)
    squares = (updates - updates.mean(0)).square().sum(1)
    scatter = squares.sum() / (len(updates) - 1)
    along = steady @ truth / (direction.factor * truth.square().sum())
    influence = squares / scatter - 2 * along
    return Measurement(name, False, direction, _relative(scatter, direction, truth), influence)


def _relative(
    scatter: Float[Tensor, ""], direction: Direction, truth: Float[Tensor, " D"]
) -> float:
    square = direction.factor**2 * float(truth.square().sum())
    return float(scatter) / square if direction.moves else torch.inf
