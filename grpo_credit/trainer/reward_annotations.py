"""What rewards say about characters and turns, told in tokens.

A reward may offer `spans`, `decided`, `steps`, `turn_rewards` or `automaton` (see
`rewards.contract`); any object with such members will do. Places are counted in the text that the
reward was given, or in what the model wrote in a message; one outside of that text is an error, on
every rank, whichever method it comes from.
"""

import inspect
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather, gather_object, pad_across_processes
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.utils import logging

from grpo_credit.errors import CreditError
from grpo_credit.text import did_you_mean
from grpo_credit.trainer.places import Said
from grpo_credit.trainer.turns import Told

logger = logging.get_logger(__name__)
WRITTEN = "written"  # a parameter that methods may have: what the model wrote in each message
NEEDS = frozenset({"spans", "decided", "states", "step_rewards", "texts"})  # what is found here


class Traced(NamedTuple):
    """What a reward's automata remember before the first token and after each.

    Args:
        sizes: how many states each automaton has, by its fingerprint.
        prints: the fingerprint of each row's automaton, -1 for none, which has one state.
        states: of that automaton.
    """

    sizes: dict[int, int]
    prints: list[int]
    states: Int[Tensor, "b t1"]


class Annotations:
    """What each reward function says about each completion, as columns of `Rollouts`.

    Args:
        rewards: reward functions with their names.
        weights: what their rewards are multiplied by.
        completions: texts or conversations.
        ids: the token ids of each completion.
        width: columns of the padded ids.
        tokenizer: a fast tokenizer.
        columns: what the rewards' methods may ask for by name, such as `prompts`.
        told: the turns of the completions, where they are known.

    Raises:
        CreditError: (when something is found) if the tokenizer is a slow one, or a reward answers
            something else than the contract says; it names reward, method and completion.
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
        told: Told | None = None,
    ) -> None:
        self._rewards, self._weights = rewards, weights
        self._completions, self._columns, self._told = completions, columns, told
        self._ids, self._tokenizer = ids, tokenizer
        self._shape = len(ids), width

    def find(self, needs: frozenset[str], device: torch.device) -> dict[str, Any]:
        """Return the fields of `Rollouts` that are needed and that rewards tell, of all ranks.

        Raises:
            CreditError: on every rank, if a reward fails on one of them.
        """
        wanted = sorted(needs & NEEDS)
        told = _on_every_rank(lambda: [_TELL[need](self) for need in wanted])
        found: dict[str, Any] = {}
        for need, value in zip(wanted, told, strict=True):
            found |= _GATHER[need](self, value, device)
        return found

    @cached_property
    def _said(self) -> list[Said]:
        turns = [None] * len(self._ids) if self._told is None else self._told.turns
        rows = zip(self._ids, self._completions, turns, strict=True)
        return [Said(self._tokenizer, *row) for row in rows]

    def spans(self) -> dict[str, Bool[Tensor, "b t"]]:
        """Mark the tokens of every span that a reward names: `"<reward>/<span>"` -> `(b, t)`."""
        marked: dict[str, np.ndarray] = {}
        for k, row, spans in self._each("spans", _read_spans):
            for span, columns in spans:
                name = f"{self._rewards[k][0]}/{span}"
                marked.setdefault(name, np.zeros(self._shape, dtype=bool))[row, columns] = True
                self._say_others(name, row, columns)
        return {name: torch.from_numpy(mark) for name, mark in marked.items()}

    def _say_others(self, span: str, row: int, columns: slice) -> None:
        """Warn of a reward that reads what others wrote: only a `rollout_func` mixes the two."""
        if self._said[row].is_others(columns):
            logger.warning_once(
                f"span {span!r} of a completion is in text that the environment wrote, by "
                "`env_mask`: the reward may pay for what the model did not say. Let it read the "
                "model's turns alone, such as from a field that rollout_func returns beside."
            )

    def decided(self) -> Int[Tensor, "b K"]:
        """Count the tokens until each reward was settled; all of them where only the end does."""
        counts = [[len(ids)] * len(self._rewards) for ids in self._ids]
        for k, row, columns in self._each("decided", _read_decided):
            counts[row][k] = min(counts[row][k], columns)
        return torch.tensor(counts).view(len(counts), len(self._rewards))

    def step_rewards(self) -> Float[Tensor, "b t"]:
        """Put the weighted reward of each step on the token that ends it, NaN elsewhere."""
        sums: dict[tuple[int, int], float] = {}  # two steps may end in one token
        for row, column, score in self._steps():
            if column >= 0:
                sums[row, column] = sums.get((row, column), 0.0) + score
        rewards = torch.full(self._shape, torch.nan)
        places = torch.tensor(list(sums)).long().view(-1, 2)
        rewards[places[:, 0], places[:, 1]] = torch.tensor(list(sums.values()))
        return rewards

    def _steps(self) -> Iterator[tuple[int, int, float]]:
        """Yield row, column and weighted score of each step, of rewards and of environments."""
        for method, read in (("steps", _read_steps), ("turn_rewards", _read_turns)):
            for k, row, steps in self._each(method, read):
                for column, score in steps:
                    yield row, column, self._weights[k] * score
        for row, own in enumerate(self._told.earned if self._told else ()):
            for turn, score in own:
                yield row, self._said[row].turn(turn), _finite(score)

    def offsets(self) -> Int[Tensor, "b t 2"]:
        """Return the characters of each token."""
        offsets = torch.zeros(*self._shape, 2, dtype=torch.long)
        for row, tokens in enumerate(said.whole for said in self._said):
            both = torch.from_numpy(np.stack([tokens.starts, tokens.ends], axis=1))
            offsets[row, : len(both)] = both
        return offsets

    def texts(self) -> tuple[list[str], Int[Tensor, "b t 2"]]:
        """Return each completion as text, and the characters of each token."""
        return [said.whole.text for said in self._said], self.offsets()

    def traced(self) -> list[Traced]:
        """Follow every reward's automata through the texts."""
        return [self._trace(k, reward) for k, (_, reward) in enumerate(self._rewards)]

    def _trace(self, k: int, reward: Any) -> Traced:
        states = torch.zeros(self._shape[0], self._shape[1] + 1, dtype=torch.long)
        prints, sizes = [-1] * self._shape[0], {}
        for automaton, rows in _grouped(self._automata(k, reward)):
            known = -1 if automaton is None else _fingerprint(automaton)
            sizes[known] = 1 if automaton is None else len(automaton.table)
            for row in rows:
                prints[row] = known
            if automaton is not None:
                after = _traces(automaton, [self._said[row].text for row in rows])
                states[rows] = after.gather(1, self._characters[rows])
        return Traced(sizes, prints, states)

    def _automata(self, k: int, reward: Any) -> Sequence[Any]:
        """Return a reward's automaton for each row, or None."""
        told = self._answers(k, "automata")
        if told is not None:
            return told
        choose = getattr(reward, "automaton_for", None)
        if callable(choose):
            return list(map(choose, self._columns.get("prompts", [None] * self._shape[0])))
        return [getattr(reward, "automaton", None)] * self._shape[0]

    @cached_property
    def _characters(self) -> Int[Tensor, "b t1"]:
        """How much of each text is there before the first token and after each."""
        there = torch.zeros(self._shape[0], self._shape[1] + 1, dtype=torch.long)
        for row, place in enumerate(said.answer for said in self._said):
            end = place.column + len(place.complete)
            there[row, place.column + 1 : end + 1] = torch.from_numpy(place.complete)
            there[row, end + 1 :] = len(place.text)
        return there

    def _gather_spans(self, spans: dict[str, Tensor], device: torch.device) -> dict[str, Any]:
        none = torch.zeros(self._shape).bool()
        names = sorted(set(gather_object(list(spans))))  # a rank may have found none of a kind
        wide = {n: _gather_wide(spans.get(n, none).long(), 0, device).bool() for n in names}
        return {"spans": wide}

    def _gather_states(self, traced: list[Traced], device: torch.device) -> dict[str, Any]:
        states = _gather_wide(_numbered(traced), -1, device)
        last = states.gather(1, (states >= 0).sum(dim=1, keepdim=True) - 1)
        return {"states": torch.where(states >= 0, states, last)}

    def _gather_texts(self, told: Any, device: torch.device) -> dict[str, Any]:
        texts, offsets = told
        offsets = _gather_wide(offsets, 0, device)
        return {"texts": tuple(gather_object(texts)), "offsets": offsets}

    def _each(
        self, method: str, read: Callable[[Any, Said], Any]
    ) -> Iterator[tuple[int, int, Any]]:
        """Yield what each reward that has a method answers for each completion, as it is read."""
        for k, (name, _) in enumerate(self._rewards):
            for row, answer in enumerate(self._answers(k, method) or ()):
                said = self._said[row]
                try:
                    value = read(answer, said)
                except (TypeError, ValueError, AttributeError) as error:
                    last, turns = len(said.text), len(said.turns) - 1
                    raise CreditError(
                        f"reward {name!r}: `{method}` gave {answer!r:.80} for completion {row}, a "
                        f"text of {last} characters ({error}); expected "
                        f"{_EXPECTED[method].format(last=last, turns=turns)}."
                    ) from error
                yield k, row, value

    def _answers(self, k: int, what: str) -> Any:
        """Ask a reward, which may lack the method."""
        name, reward = self._rewards[k]
        method, count = getattr(reward, what, None), len(self._completions)
        if not callable(method):
            return None
        if inspect.iscoroutinefunction(method):
            raise CreditError(f"reward {name!r}: `{what}` is async; expected a plain method.")
        answers = method(self._completions, **self._accepted(f"reward {name!r}: `{what}`", method))
        if not hasattr(answers, "__len__") or len(answers) != count:
            got = f"{len(answers)} answers" if hasattr(answers, "__len__") else repr(answers)
            raise CreditError(
                f"reward {name!r}: `{what}` returned {got:.80} for {count} completions; expected a "
                "list with one answer for each."
            )
        return answers

    def _accepted(self, what: str, method: Any) -> Mapping[str, Any]:
        """Return the columns that a method has parameters for; all of them if it takes any.

        Raises:
            CreditError: if it asks for one that is not there.
        """
        asked = list(inspect.signature(method).parameters.values())[1:]
        if any(p.kind is p.VAR_KEYWORD for p in asked):
            return self._columns
        there = [*self._columns, WRITTEN]
        needed = (p for p in asked if p.default is p.empty and p.kind is not p.VAR_POSITIONAL)
        if missing := [p.name for p in needed if p.name not in there]:
            raise CreditError(
                f"{what} asks for {missing[0]!r}; there are {', '.join(sorted(there))}."
                f"{did_you_mean(missing[0], there)}"
            )
        names = {p.name for p in asked}
        own = {WRITTEN: [said.written for said in self._said]} if WRITTEN in names else {}
        return {name: self._columns[name] for name in names & set(self._columns)} | own


# ---- what a reward may answer -----------------------------------------------------------------

_EXPECTED = {
    "spans": "a dict of lists of (start, end), places from 0 to {last}, or (message, start, end)",
    "decided": "a rewards.Decided, places from 0 to {last}",
    "steps": "a list of (end, reward), places from 0 to {last}, or (message, end, reward)",
    "turn_rewards": "a list of (turn, reward), turns from 0 to {turns}",
}


def _read_spans(spans: Any, said: Said) -> list[tuple[str, slice]]:
    return [
        (name, _named(repr(name), said.span, place))
        for name, places in (spans or {}).items()
        for place in places
    ]


def _read_decided(verdict: Any, said: Said) -> int:
    if verdict.chars is None:
        return said.columns
    return _named("decided", said.settled, (verdict.chars,))


def _read_steps(steps: Any, said: Said) -> list[tuple[int, float]]:
    return [
        (max(0, _named("a step", said.end, place) - 1), _finite(score)) for *place, score in steps
    ]


def _read_turns(steps: Any, said: Said) -> list[tuple[int, float]]:
    return [(said.turn(turn), _finite(score)) for turn, score in steps]


def _named(what: str, find: Callable[..., Any], place: Sequence[Any]) -> Any:
    try:
        return find(*place)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from error


def _finite(score: Any) -> float:
    if not math.isfinite(score):
        raise ValueError(f"a step's reward is {score}")
    return float(score)


# ---- of one rank ------------------------------------------------------------------------------


def _grouped(automata: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """Return each automaton, or None, and the rows that it is for."""
    rows: dict[int, list[int]] = {}
    for row, automaton in enumerate(automata):
        rows.setdefault(id(automaton), []).append(row)
    return [(automata[several[0]], several) for several in rows.values()]


def _traces(automaton: Any, texts: Sequence[str]) -> Int[Tensor, "b n"]:
    """Return the state before the first character of each text and after each; any beyond."""
    if hasattr(automaton, "traces"):
        return torch.from_numpy(automaton.traces(texts)).long()
    rows = [torch.tensor(automaton.trace(text)) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _fingerprint(automaton: Any) -> int:
    """Return a number that is the same on every rank, and another for another automaton."""
    known = getattr(automaton, "fingerprint", None)
    return zlib.crc32(repr(automaton.table).encode()) if known is None else known


# ---- of all ranks -----------------------------------------------------------------------------


def _on_every_rank(tell: Callable[[], Any]) -> Any:
    """Return what is told here; raise on every rank if that fails on one: the others would wait."""
    told: Any = None
    failure: Exception | None = None
    try:
        told = tell()
    except Exception as error:
        failure = error
    words = gather_object([failure and f"{type(failure).__name__}: {failure}"])
    if failure is not None:
        raise failure
    for rank, word in enumerate(words):
        if word is not None:
            raise CreditError(f"rank {rank} failed with {word}")
    return told


def _numbered(traced: Sequence[Traced]) -> Int[Tensor, "b t1"]:
    """Give the states of different automata different numbers, the same on every rank."""
    numbers = torch.zeros_like(traced[0].states)
    for sizes, prints, states in traced:
        every = dict(sorted(set(gather_object(list(sizes.items())))))
        first = dict(zip(every, accumulate(every.values(), initial=0), strict=False))
        of_row = torch.tensor([first[known] for known in prints])
        numbers = numbers * sum(every.values()) + of_row[:, None] + states
    return numbers


def _gather_wide(value: Tensor, filler: float | int, device: torch.device) -> Tensor:
    """Gather from ranks whose widest rows may differ in width."""
    return gather(pad_across_processes(value.to(device), dim=1, pad_index=filler))


_TELL: dict[str, Callable[[Annotations], Any]] = {
    "spans": Annotations.spans,
    "decided": Annotations.decided,
    "states": Annotations.traced,
    "step_rewards": Annotations.step_rewards,
    "texts": Annotations.texts,
}
_GATHER: dict[str, Callable[[Annotations, Any, torch.device], dict[str, Any]]] = {
    "spans": Annotations._gather_spans,
    "decided": lambda _, counts, device: {"decided": gather(counts.to(device))},
    "states": Annotations._gather_states,
    "step_rewards": lambda _, rewards, device: {
        "step_rewards": _gather_wide(rewards, torch.nan, device)
    },
    "texts": Annotations._gather_texts,
}
