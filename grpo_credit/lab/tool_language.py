"""Completions in which a tool answers: listed with the tool's luck, as those of `Language` are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.credit.turns import Turn
from grpo_credit.lab.enumerable import Language

Ids = tuple[int, ...]


@dataclass(frozen=True)
class ToolLanguage(Language):
    """All completions over an alphabet up to a length, in which one symbol calls a tool.

    A call ends the model's turn. The tool answers by one token, drawn by chance, which takes a
    place of the length and is nobody's choice; then the model goes on. A completion is over after
    the end token, at the length, or with a call beyond those that are answered.

    Args:
        alphabet: the model's symbols.
        length: longest completion in tokens.
        call: the symbol that calls.
        answers: what the tool says, each with its probability.
        calls: how many are answered.

    Example:
        >>> ToolLanguage("oc", 2).texts
        ('oo', 'oc', 'o', 'c+', 'c-', '')
    """

    call: str = "c"
    answers: tuple[tuple[str, float], ...] = (("+", 0.5), ("-", 0.5))
    calls: int = 1

    @property
    def others(self) -> str:
        """What is not the model's to say."""
        return "".join(answer for answer, _ in self.answers)

    @cached_property
    def _listed(self) -> list[tuple[Ids, float]]:
        """Every completion, with the probability of what the tool says in it."""
        return list(self._completions((), 1.0, self.calls))

    def _completions(self, ids: Ids, luck: float, left: int) -> Iterator[tuple[Ids, float]]:
        """Yield what may come after a prefix, while so many more calls are answered."""
        for token in range(self.end + 1):
            grown = (*ids, token)
            calls = self.alphabet[token : token + 1] == self.call
            over = token == self.end or len(grown) == self.length or (calls and not left)
            if over:
                yield grown, luck
            elif calls:
                for n, (_, chance) in enumerate(self.answers):
                    answered = (*grown, self.end + 2 + n), luck * chance
                    last = len(answered[0]) == self.length
                    yield from [answered] if last else self._completions(*answered, left - 1)
            else:
                yield from self._completions(grown, luck, left)

    @cached_property
    def prefixes(self) -> tuple[Ids, ...]:
        """Every prefix after which the model draws a token, the empty one first."""
        drawn = (
            ids[:t] for ids, _ in self._listed for t, token in enumerate(ids) if token <= self.end
        )
        return tuple(sorted(dict.fromkeys(drawn), key=len))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every completion, what the tool says included."""
        symbols = [*self.alphabet, "", "", *self.others]
        return tuple("".join(symbols[token] for token in ids) for ids, _ in self._listed)

    @cached_property
    def luck(self) -> Float[Tensor, " M"]:
        """The probability of what the tool says in each completion, given what it is asked."""
        return torch.tensor([luck for _, luck in self._listed], dtype=torch.float64)

    @cached_property
    def truncated(self) -> Bool[Tensor, " M"]:
        """Whether a completion is over without an end token."""
        return torch.tensor([ids[-1] != self.end for ids, _ in self._listed])

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each completion, the tool's included."""
        return [len(ids) for ids, _ in self._listed]

    @cached_property
    def ids(self) -> Int[Tensor, "M T"]:
        """Token ids, the end token wherever a completion is over."""
        rows = [[*ids] + [self.end] * (self.length - len(ids)) for ids, _ in self._listed]
        return torch.tensor(rows)

    @cached_property
    def mask(self) -> Bool[Tensor, "M T"]:
        """Counted tokens: the model's."""
        there = torch.arange(self.length) < torch.tensor(self.lengths)[:, None]
        return there & (self.ids <= self.end)

    @cached_property
    def turns(self) -> list[list[Turn]]:
        """The turns of each completion; their state is what the tool has said before."""
        return [self._turns(ids) for ids, _ in self._listed]

    def _turns(self, ids: Ids) -> list[Turn]:
        runs = [list(run) for _, run in groupby(ids, lambda token: token <= self.end)]
        edges = pairwise(accumulate(map(len, runs), initial=0))
        own = [(s, e) for (s, e), run in zip(edges, runs, strict=True) if run[0] <= self.end]
        return [Turn(s, e, s, self._role(ids[s:e]), state=str(ids[s - 1 : s])) for s, e in own]

    def _role(self, wrote: Sequence[int]) -> str:
        calls = self.alphabet[wrote[-1] : wrote[-1] + 1] == self.call
        return "call" if calls else "answer"


class Relayed:
    """Reward a last turn that says a word, unless the tool has said that all is lost.

        R = 1 if the last turn, filler apart, is the word ∧ the tool has not said "-", else 0

    What the tool says is luck: a call that meets "-" was no worse than one that met "+". The
    outcome is told again as the reward of the last turn, and of a step at its end, so that rules
    which read those have the same gradient to go by.

    Args:
        language: what is written.
        word: what the last turn must say.
        filler: a symbol that says nothing.
    """

    def __init__(self, language: ToolLanguage, word: str = "o", filler: str = "f") -> None:
        self.language, self.word, self.filler = language, word, filler
        self.__name__ = "tool"

    def __call__(self, completions: Sequence[str], **_: object) -> list[float | None]:
        """Score completions; see the class."""
        return [self._score(text) for text in completions]

    def _score(self, text: str) -> float:
        last = text
        for other in self.language.others:
            last = last.rpartition(other)[2]
        return float(last.replace(self.filler, "") == self.word and "-" not in text)

    def turn_rewards(self, completions: Sequence[str]) -> list[list[tuple[int, float]]]:
        """Tell the outcome at the last turn."""
        last = {
            t: len(own) - 1 for t, own in zip(self.language.texts, self.language.turns, strict=True)
        }
        return [[(last[text], self._score(text))] for text in completions]
