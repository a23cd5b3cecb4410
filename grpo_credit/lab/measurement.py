"""How far the direction of a rule's expected update is from a gradient, and how a step scatters.

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
from torch import Tensor

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.headroom import CURVATURE, captured, effective_tokens, predicted_gain
from grpo_credit.credit.needs import check_loop, check_told
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.lab.ceiling import true_advantages
from grpo_credit.lab.direction import (
    ROUNDING,
    Direction,
    exact_direction,
    paired,
    sampled_direction,
)
from grpo_credit.lab.prefixes import EVERY_TOKEN, Continued, Prefixes
from grpo_credit.lab.problem import Problem, Space
from grpo_credit.lab.sampling import Progress, Sampling
from grpo_credit.lab.targets import Target

Rule = Callable[[Rollouts, Tensor], Tensor]  # of a window and the rows of its completions
SEQ, TRUTH = "seq", "truth"
ENUMERABLE = 2_000  # different windows: no more work than the default sample


@dataclass(frozen=True)
class Measurement:
    """A strategy's update against the gradient of the target.

        variance = tr Cov[u] / |f g|²,  f = `direction.factor`

    The variance is that of one optimizer step, relative to its expectation along the gradient
    squared, in the coordinates of the policy's parameters.

    Args:
        strategy: its name.
        exact: whether every window was listed.
        direction: where the expected update points.
        variance: as above; infinite where nothing goes along the gradient.
        influence: what each window adds to log variance; all 0 if exact.
        tokens: that are generated for a step, relative to those of its completions.
    """

    strategy: str
    exact: bool
    direction: Direction
    variance: float
    influence: Float[Tensor, " W"] = field(repr=False, compare=False)
    tokens: float = 1.0

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
    return float(problem.chances @ problem.rewards())


def measure(
    problem: Problem | Sequence[Problem],
    strategies: Mapping[str, Strategy],
    sampling: Sampling,
    progress: Progress = iter,
    *,
    target: Target | None = None,
    continued: Continued | None = None,
) -> Measured:
    """Measure strategies, and true advantages, on the same windows.

    Where there are at most `ENUMERABLE` different windows, all are listed and figures are exact,
    unless a strategy needs values of prefixes, which are drawn. Otherwise windows are sampled, and
    each strategy is paired (`direction.paired`) with the unscaled group advantage under `seq`,
    whose expected update is (G - 1)/G of the gradient of the expected reward.

    Args:
        problem: policy and reward; several are prompts of one, each with an equal share of windows.
        strategies: by the name to show.
        sampling: how many windows of what size.
        progress: wraps the iteration over windows, such as `tqdm`.
        target: whose gradient is the truth; the expected reward if not given.
        continued: how values of prefixes are drawn, where a strategy needs them.

    Returns:
        One measurement per strategy, and those that they are compared with.

    Raises:
        CreditError: if a strategy needs what an enumerable policy cannot give, every completion
            earns the same, or the target has no gradient.
    """
    space, target = Space.of(problem), target or Target()
    _refuse_unfed(space, strategies.values())
    rewards = space.rollouts.rewards
    if rewards.min() == rewards.max():
        raise CreditError("every completion earns the same, so there is no gradient to compare.")
    truth, best = space.gradient(target), _best(space, target)
    asks = {name for name, each in strategies.items() if "prefix_values" in each.needs}
    prefixes = Prefixes(space, continued or EVERY_TOKEN, sampling.seed) if asks else None
    windows = list_windows(problem, sampling, few=ENUMERABLE * (not asks))
    rules = [*(_rule(strategy) for strategy in strategies.values()), _yardstick, best]
    updates = _updates(space, sampling, progress(windows.rows), rules, prefixes)
    named = list(zip([*strategies, SEQ, TRUTH], updates, strict=True))
    if windows.chance is not None:
        *found, seq, ceiling = (_listed(name, u, windows.chance, truth) for name, u in named)
    else:
        expected, seen = space.gradient(Target()), updates[-2]
        expected = expected * (1 - 1 / sampling.num_generations)
        *found, seq, ceiling = (
            _sampled(name, u, paired(u, seen, expected), truth) for name, u in named
        )
    if prefixes is not None:
        found = [replace(m, tokens=prefixes.price) if m.strategy in asks else m for m in found]
    return Measured(found, seq, ceiling)


def effective(problem: Problem) -> float:
    """Return T_eff of a problem (`headroom.effective_tokens`)."""
    rollouts, chances = problem.rollouts(), problem.chances
    assert rollouts.sum_sq_probs is not None
    uncertainty = torch.where(rollouts.mask, 1 - rollouts.sum_sq_probs, 0.0)
    advantages = true_advantages(problem.language, chances, rollouts.rewards)
    deviation = rollouts.rewards - chances @ rollouts.rewards
    return effective_tokens(chances, deviation, uncertainty, advantages.square())


UNFED = {
    "privileged_logps": "a second prompt",
    "ref_logps": "a reference model",
    "answer_logps": "the right answer of a data set",
}


def _refuse_unfed(space: Space, strategies: Iterable[Strategy]) -> None:
    fed = [problem.rollouts() for problem in space.problems]
    unfed = {need: lacks for need, lacks in UNFED.items()
             if any(getattr(rollouts, need) is None for rollouts in fed)}  # fmt: skip
    for strategy in strategies:
        if found := [lacks for need, lacks in unfed.items() if need in strategy.needs]:
            raise CreditError(f"{strategy.name!r} needs {found[0]}; there is none in the lab.")
        for problem in space.problems:
            check_loop(strategy, {"tools": problem.language.turns})
            check_told(strategy.name, strategy.needs, [(problem.name, problem.reward)], [1.0])


def _updates(
    space: Space,
    sampling: Sampling,
    windows: Iterable[Int[Tensor, " B"]],
    rules: Sequence[Rule],
    prefixes: Prefixes | None,
) -> list[Float[Tensor, "W D"]]:
    """Return each rule's update in each window, in the order of the rules."""
    sums: list[list[Tensor]] = [[] for _ in rules]
    nothing = torch.zeros(len(space.scores), dtype=torch.float64)
    for rows in windows:
        window, events = _window(space, rows, sampling), space.events[rows].flatten()
        if prefixes is not None:
            window = replace(window, prefix_values=prefixes.values(window, rows))
        for sums_of_rule, credit in zip(sums, rules, strict=True):
            landed = credit(window, rows).flatten().double()  # 0 after the end
            sums_of_rule.append(nothing.index_add(0, events, landed))
    return [torch.stack(sums_of_rule) @ space.scores for sums_of_rule in sums]


def list_windows(
    problem: Problem | Sequence[Problem], sampling: Sampling, few: int = ENUMERABLE
) -> Windows:
    """List every different window with its probability, or sample some where there are too many.

    Windows that differ in the order of completions or groups alone count as one: every rule gives
    them the same credit, by a law that `grpo-credit check` holds it to.

    Args:
        problem: of one prompt or several.
        sampling: how large windows are, and how many to sample.
        few: how many are listed at most.
    """
    space, size = Space.of(problem), sampling.num_generations
    times = _times(space, sampling)
    counts = [comb(len(p.chances) + size - 1, size) for p in space.problems]
    if prod(comb(count + times - 1, times) for count in counts) > few:
        return Windows(draw(problem, sampling), None)
    each = [_unordered(problem.chances, size, times) for problem in space.problems]
    choice = torch.cartesian_prod(*(torch.arange(len(chance)) for _, chance in each))
    choice = choice.view(len(choice), -1).unbind(1)
    rows = [members[c] + first for (members, _), c, first in zip(each, choice, space.starts)]  # noqa: B905 (one start more)
    chances = [chance[c] for (_, chance), c in zip(each, choice, strict=True)]
    return Windows(torch.cat(rows, 1), torch.stack(chances).prod(0))


def _times(space: Space, sampling: Sampling) -> int:
    """Return how many groups of a window each prompt has."""
    times, rest = divmod(sampling.groups, len(space.problems))
    if rest:
        raise CreditError(
            f"there are {sampling.groups} groups in a window of {len(space.problems)} prompts; "
            "expected equally many of each."
        )
    return times


def _unordered(
    chances: Float[Tensor, " M"], size: int, times: int
) -> tuple[Int[Tensor, "K B"], Float[Tensor, " K"]]:
    """List what some groups of a prompt may be, and how likely that is."""
    members, chance_of_group = _drawn(chances, size)
    drawn, chance = _drawn(chance_of_group, times)
    return members[drawn].flatten(1), chance


def _drawn(
    chances: Float[Tensor, " M"], size: int
) -> tuple[Int[Tensor, "K size"], Float[Tensor, " K"]]:
    """List what `size` draws may give, and its probability: size! / Π_j k_j! · Π p."""
    drawn = torch.combinations(torch.arange(len(chances)), size, with_replacement=True)
    orders = [
        factorial(size) / prod(map(factorial, Counter(row).values())) for row in drawn.tolist()
    ]
    return drawn, torch.tensor(orders, dtype=torch.float64) * chances[drawn].prod(1)


def draw(problem: Problem | Sequence[Problem], sampling: Sampling) -> Int[Tensor, "W B"]:
    """Draw the completions of every window, as rows of the space, prompt after prompt."""
    space = Space.of(problem)
    generator = torch.Generator().manual_seed(sampling.seed)
    count = sampling.windows * _times(space, sampling) * sampling.num_generations
    drawn = [
        torch.multinomial(one.chances, count, replacement=True, generator=generator) + first
        for one, first in zip(space.problems, space.starts[:-1], strict=True)
    ]
    return torch.cat([rows.view(sampling.windows, -1) for rows in drawn], dim=1)


def _window(space: Space, rows: Int[Tensor, " B"], sampling: Sampling) -> Rollouts:
    sampled = space.rollouts.rows(rows)
    group = torch.arange(len(rows)) // sampling.num_generations
    advantages = group_advantages(sampled.rewards, group, sampling.scale_rewards)
    return replace(
        sampled, group=group, advantages=advantages, scale_rewards=sampling.scale_rewards,
        generation=torch.zeros_like(group),
    )  # fmt: skip


def _rule(strategy: Strategy) -> Rule:
    return lambda window, _: strategy.credit(window)


def _best(space: Space, target: Target) -> Rule:
    """Make the rule that credits true advantages."""
    advantages = space.advantages(target)
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
