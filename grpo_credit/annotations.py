"""What rewards say about characters, told in tokens.

A reward may offer `spans`, `decided`, `steps` or `automaton` (see `rewards.contract`); any object
with such members will do.
"""

import inspect
import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from accelerate.utils import gather, gather_object, pad_across_processes
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.rewards import completion_text
from grpo_credit.strategy import CreditError
from grpo_credit.suggest import did_you_mean
from grpo_credit.token_text import TokenText

NEEDS = frozenset({"spans", "decided", "states", "step_rewards", "texts"})  # what is found here
# What a strategy needs, and the members of a reward one of which tells it.
TOLD_BY = {
    "spans": ("spans",),
    "decided": ("decided",),
    "states": ("automaton", "automaton_for", "automata"),
    "step_rewards": ("steps",),
}


class Annotations:
    """What each reward function says about each completion, as columns of `Rollouts`.

    Args:
        rewards: reward functions with their names.
        weights: what their rewards are multiplied by.
        completions: texts or conversations.
        ids: the token ids of each completion.
        width: columns of the padded ids.
        tokenizer: a fast tokenizer.
        columns: data set columns that the rewards' methods may ask for, such as `prompts`.

    Raises:
        CreditError: if the tokenizer is a slow one, or a reward answers something else than the
            contract says.
    """

    def __init__(
        self,
        rewards: Sequence[tuple[str, Any]],
        weights: Sequence[float],
        completions: Sequence[Any],
        ids: Sequence[Sequence[int]],
        width: int,
        tokenizer: Any,
        columns: Mapping[str, Any],
    ) -> None:
        self._rewards, self._weights = rewards, weights
        self._completions, self._columns = completions, columns
        self._texts = [completion_text(completion) for completion in completions]
        self._tokens, self._starts = [], []
        for row, text in zip(ids, self._texts, strict=True):
            tokens = TokenText.decode(tokenizer, row)
            start = tokens.text.rfind(text)  # the last message of a conversation
            if start < 0:  # rewritten by a chat template or a parser
                tokens, start = TokenText.unknown(text, len(row), tokens.text), 0
            self._tokens.append(tokens)
            self._starts.append(start)
        self._shape = len(ids), width

    def find(self, needs: frozenset[str], device: torch.device) -> dict[str, Any]:
        """Return the fields of `Rollouts` that are needed and that rewards tell, of all ranks."""
        every: dict[str, Any] = {}
        if "spans" in needs:
            every["spans"] = self._spans_of_all_ranks(device)
        if "decided" in needs:
            every["decided"] = gather(self.decided().to(device))
        if "states" in needs:
            states = _gather_wide(self.states(), -1, device)
            last = states.gather(1, (states >= 0).sum(dim=1, keepdim=True) - 1)
            every["states"] = torch.where(states >= 0, states, last)
        if "step_rewards" in needs:
            every["step_rewards"] = _gather_wide(self.step_rewards(), torch.nan, device)
        if "texts" in needs:
            every["texts"] = tuple(gather_object([tokens.text for tokens in self._tokens]))
            every["offsets"] = _gather_wide(self.offsets(), 0, device)
        return every

    def _spans_of_all_ranks(self, device: torch.device) -> dict[str, Tensor]:
        spans, none = self.spans(), torch.zeros(self._shape).bool()
        names = sorted(set(gather_object(list(spans))))  # a rank may have found none of a kind
        marked = {name: spans.get(name, none).long() for name in names}
        return {name: _gather_wide(value, 0, device).bool() for name, value in marked.items()}

    def spans(self) -> dict[str, Bool[Tensor, "b t"]]:
        """Mark the tokens of every span that a reward names: `"<reward>/<span>"` -> `(b, t)`."""
        marked: dict[str, Tensor] = {}
        for name, reward in self._rewards:
            for row, spans in enumerate(self._ask(reward, "spans") or ()):
                for span, places in (spans or {}).items():
                    tokens = marked.setdefault(f"{name}/{span}", torch.zeros(self._shape).bool())
                    for start, end in places:
                        first = self._starts[row]
                        if end > start:
                            tokens[row, self._tokens[row].within(first + start, first + end)] = True
        return marked

    def decided(self) -> Int[Tensor, "b K"]:
        """Count the tokens until each reward was settled; all of them where only the end does."""
        counts = torch.tensor([len(t.complete) for t in self._tokens])[:, None]
        counts = counts.repeat(1, len(self._rewards))
        for k, (_, reward) in enumerate(self._rewards):
            for row, verdict in enumerate(self._ask(reward, "decided") or ()):
                if not hasattr(verdict, "chars"):
                    raise CreditError(
                        f"{type(reward).__name__}.decided returned {verdict!r:.40}, expected a "
                        "rewards.Decided for each completion."
                    )
                if verdict.chars is not None:
                    at = self._starts[row] + verdict.chars
                    counts[row, k] = min(int(counts[row, k]), self._tokens[row].after(at))
        return counts

    def states(self) -> Int[Tensor, "b t1"]:
        """Number what the rewards' automata remember before the first and after each token."""
        states = torch.zeros(self._shape[0], self._shape[1] + 1, dtype=torch.long)
        for _, reward in self._rewards:
            automata = self._automata(reward)
            first, count = _numbering(automata)
            for row, automaton in enumerate(automata):
                if automaton is not None:
                    places = self._characters_before_each(row)
                    trace = torch.tensor(automaton.trace(self._texts[row]))
                    states[row] = (
                        states[row] * count + first[_fingerprint(automaton)] + trace[places]
                    )
        return states

    def _automata(self, reward: Any) -> Sequence[Any]:
        """Return a reward's automaton for each row, or None."""
        told = self._ask(reward, "automata")
        if told is not None:
            return told
        return [self._automaton(reward, row) for row in range(self._shape[0])]

    def _automaton(self, reward: Any, row: int) -> Any:
        """Return a reward's automaton, which may depend on the prompt, or None."""
        choose = getattr(reward, "automaton_for", None)
        if callable(choose):
            return choose(self._columns.get("prompts", [None] * self._shape[0])[row])
        return getattr(reward, "automaton", None)

    def _characters_before_each(self, row: int) -> Int[Tensor, " t1"]:
        """Return how much of the text is there before the first token and after each."""
        after = [0, *self._tokens[row].complete]
        after += after[-1:] * (self._shape[1] + 1 - len(after))
        return torch.tensor(after).sub(self._starts[row]).clamp(0, len(self._texts[row]))

    def step_rewards(self) -> Float[Tensor, "b t"]:
        """Put the weighted reward of each step on the token that ends it, NaN elsewhere."""
        rewards = torch.full(self._shape, torch.nan)
        for weight, (_, reward) in zip(self._weights, self._rewards, strict=True):
            for row, steps in enumerate(self._ask(reward, "steps") or ()):
                for end, score in steps:
                    column = max(0, self._tokens[row].after(self._starts[row] + end) - 1)
                    rewards[row, column] = rewards[row, column].nan_to_num() + weight * score
        return rewards

    def offsets(self) -> Int[Tensor, "b t 2"]:
        """Give the characters of each token."""
        offsets = torch.zeros(*self._shape, 2, dtype=torch.long)
        for row, tokens in enumerate(self._tokens):
            both = torch.tensor([tokens.starts, tokens.ends], dtype=torch.long)
            offsets[row, : both.shape[1]] = both.T
        return offsets

    def _ask(self, reward: Any, what: str) -> Any:
        method = getattr(reward, what, None)
        if not callable(method):
            return None
        if inspect.iscoroutinefunction(method):
            raise CreditError(f"{type(reward).__name__}.{what} is async; expected a plain method.")
        columns = _accepted(method, self._columns)
        answers = method(self._completions, **columns)
        if len(answers) != len(self._completions):
            raise CreditError(
                f"{type(reward).__name__}.{what} returned {len(answers)} answers for "
                f"{len(self._completions)} completions; expected one each."
            )
        return answers


def _accepted(method: Any, columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the columns that a method has parameters for; all of them if it takes any."""
    parameters = inspect.signature(method).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return columns
    return {name: value for name, value in columns.items() if name in parameters}


def _fingerprint(automaton: Any) -> int:
    return zlib.crc32(repr(automaton.table).encode())


def _numbering(automata: Sequence[Any]) -> tuple[dict[int, int], int]:
    """Give the states of different automata different numbers, the same on every rank."""
    own = {_fingerprint(a): len(a.table) for a in automata if a is not None}
    sizes = dict(sorted(set(gather_object(list(own.items())))))
    ends = list(accumulate(sizes.values()))
    return dict(zip(sizes, [0, *ends], strict=False)), max([1, *ends])


def _gather_wide(value: Tensor, filler: float | int, device: torch.device) -> Tensor:
    """Gather from ranks whose widest rows may differ in width."""
    return gather(pad_across_processes(value.to(device), dim=1, pad_index=filler))


def check_columns(rewards: Sequence[tuple[str, Any]], there: Sequence[str]) -> None:
    """Refuse a reward that declares (`columns`) a column that the data set lacks.

    Raises:
        CreditError: naming the reward, the column and the columns there are.
    """
    for name, reward in rewards:
        columns = getattr(reward, "columns", ())
        for column in [columns] if isinstance(columns, str) else columns:
            if column not in there:
                raise CreditError(
                    f"reward {name!r} needs the column {column!r}; the data set has "
                    f"{', '.join(there)}.{did_you_mean(column, there)} Rename a column, or name "
                    "the right one when making the reward."
                )


def tells(reward: Any, need: str) -> bool:
    """Return whether a reward tells a need: the first member that it has for it is not None."""
    has = [member for member in TOLD_BY[need] if hasattr(reward, member)]
    return bool(has) and getattr(reward, has[0]) is not None


def check_told(
    strategy: str,
    needs: frozenset[str],
    rewards: Sequence[tuple[str, Any]],
    weights: Sequence[float],
) -> None:
    """Refuse a strategy that needs what no reward tells: it would train on nothing, silently.

    Raises:
        CreditError: naming what is missing and the rewards.
    """
    counted = [reward for (_, reward), weight in zip(rewards, weights, strict=True) if weight != 0]
    for need in sorted(needs & set(TOLD_BY)):
        members = TOLD_BY[need]
        if not any(tells(reward, need) for reward in counted):
            names = ", ".join(name for name, _ in rewards)
            raise CreditError(
                f"{strategy!r} needs {need!r}, which no reward with a weight tells ({names}); "
                f"use one that has `{members[0]}`, see rewards/README.md."
            )
