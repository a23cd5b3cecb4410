"""A policy whose completions can all be listed and what earns a reward, for one prompt or more."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.lab.ceiling import true_advantages
from grpo_credit.lab.enumerable import Language, exact_gradient, jacobian, probabilities
from grpo_credit.lab.targets import Target
from grpo_credit.lab.transformer import character_tokenizer
from grpo_credit.trainer.reward_annotations import NEEDS, Annotations
from grpo_credit.trainer.turns import unearned

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
            answer_logps=self._answer_logps(logps),
        )

    def _answer_logps(self, logps: Float[Tensor, "P V"]) -> Float[Tensor, "M T1"] | None:
        """Return the mean log-probability of the reward's `word` where each turn begins, nats."""
        language, word = self.language, getattr(self.reward, "word", None)
        if language.turns is None or not word:
            return None
        place = {prefix: number for number, prefix in enumerate(language.prefixes)}
        tokens = tuple(map(language.alphabet.index, word))
        values = torch.full((len(language.texts), language.length + 1), torch.nan)
        for ids, own, row in zip(language.ids.tolist(), language.turns, values, strict=True):
            for turn in own:
                before = tuple(ids[: turn.start])
                steps = [logps[place[before + tokens[:k]], t] for k, t in enumerate(tokens)]
                row[turn.start] = torch.stack(steps).mean()
        return values

    @cached_property
    def chances(self) -> Float[Tensor, " M"]:
        """The probability of every completion."""
        with torch.no_grad():
            return probabilities(self.language, self.policy().double())


@dataclass(frozen=True)
class Space:
    """The completions of one or several prompts, as one list, prompt after prompt.

    Prompts share no parameters, and each has an equal share of every window.

    Args:
        problems: one for each prompt.
    """

    problems: tuple[Problem, ...]

    @classmethod
    def of(cls, problem: Problem | Sequence[Problem]) -> "Space":
        """Make the space of a problem, or of several that are prompts of one."""
        return cls((problem,) if isinstance(problem, Problem) else tuple(problem))

    @cached_property
    def rollouts(self) -> Rollouts:
        """Every completion once; the group is the prompt."""
        parts, first = [problem.rollouts() for problem in self.problems], 0
        for n, part in enumerate(parts):
            assert part.states is not None  # as all that a problem tells
            parts[n] = replace(part, states=part.states + first)  # of other automata, other numbers
            first += int(part.states.max()) + 1
        return Rollouts.cat(parts)

    @cached_property
    def starts(self) -> list[int]:
        """Where the completions of each prompt begin, and where the list ends."""
        return [*accumulate((len(p.language.texts) for p in self.problems), initial=0)]

    @cached_property
    def chances(self) -> Float[Tensor, " M"]:
        """The probability of every completion, given its prompt."""
        return torch.cat([problem.chances for problem in self.problems])

    @cached_property
    def events(self) -> Int[Tensor, "M T"]:
        """The numbers of the completions' tokens among the events of all prompts."""
        events, first = [], 0
        for problem in self.problems:
            language = problem.language
            events.append(language.events + first)
            first += len(language.prefixes) * (language.end + 1)
        return torch.cat(events)

    @cached_property
    def scores(self) -> Float[Tensor, "E D"]:
        """∇ log π of every event, with respect to the parameters of all prompts."""
        return torch.block_diag(*(jacobian(problem.policy) for problem in self.problems))

    def gradient(self, target: Target) -> Float[Tensor, " D"]:
        """Return the exact gradient of a target: the mean over prompts of f'(p) ∇p."""
        each = [
            slope * exact_gradient(problem.language, problem.policy, earned)
            for problem, earned, slope in self._counted(target)
        ]
        return torch.cat(each) / len(each)

    def advantages(self, target: Target) -> Float[Tensor, "M T"]:
        """Return f'(p) A* of every token: what perfect credit for a target is."""
        return torch.cat([
            slope * true_advantages(problem.language, problem.chances, earned)
            for problem, earned, slope in self._counted(target)
        ])  # fmt: skip

    def _counted(self, target: Target) -> list[tuple[Problem, Float[Tensor, " m"], float]]:
        """Return, of each prompt, what counts of its rewards, and the slope of the target there."""
        found = []
        for problem in self.problems:
            earned = target.earned(problem.rewards())
            found.append((problem, earned, target.slope(float(problem.chances @ earned))))
        return found
