"""What rewards say about characters, told in tokens.

A reward may offer `spans`, `decided`, `steps` or `automaton` (see `rewards.contract`); any object
with such members will do. Characters are mapped to tokens by decoding the sampled ids one by one,
never by tokenizing the text again: the tokenizer need not choose the tokens that were sampled.
"""

import inspect
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from accelerate.utils import gather, gather_object, pad_across_processes
from jaxtyping import Bool, Float, Int
from tokenizers.decoders import DecodeStream
from torch import Tensor

from grpo_credit.strategy import CreditError
from rewards import completion_text

NEEDS = frozenset({"spans", "decided", "states", "step_rewards", "texts"})  # what is found here


@dataclass(frozen=True)
class TokenText:
    """A token sequence as text, and the characters of each token.

    A character whose bytes are spread over several tokens belongs to all of them.

    Args:
        text: the decoded text, special tokens left out.
        starts: the first character that a token has a part in.
        ends: one past the last.
        complete: how many characters are whole once the token is there.
    """

    text: str
    starts: list[int]
    ends: list[int]
    complete: list[int]

    @classmethod
    def decode(cls, tokenizer: Any, ids: Sequence[int]) -> "TokenText":
        """Decode token by token.

        Raises:
            CreditError: if the tokenizer is not a fast one, or decodes a sequence to another text
                than its tokens one by one.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise CreditError(
                f"{type(tokenizer).__name__} cannot say which characters a token stands for; load "
                "a fast tokenizer (AutoTokenizer does), or choose a strategy that needs no spans."
            )
        special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        spelled = [place for place, token in enumerate(ids) if token not in special]
        stream, pieces = DecodeStream(skip_special_tokens=True), [""] * len(ids)
        for place in spelled:
            pieces[place] = stream.step(backend, ids[place]) or ""  # "" within a character
        text = tokenizer.decode(ids, skip_special_tokens=True)
        whole = sum(map(len, pieces))
        if spelled and len(text) > whole:  # cut off within a character
            pieces[spelled[-1]] += text[whole:]
        if "".join(pieces) != text:
            raise CreditError(
                f"{type(tokenizer).__name__} decodes a completion to {text!r:.60}, but its tokens "
                f"to {''.join(pieces)!r:.60}; set clean_up_tokenization_spaces=False."
            )
        complete = list(accumulate(map(len, pieces)))
        ends = list(complete)
        for place in reversed(range(len(ids) - 1)):
            if not pieces[place] and ids[place] not in special:
                ends[place] = ends[place + 1]
        return cls(text, [0, *complete][: len(ids)], ends, complete)

    def place(self, text: str) -> int:
        """Return where a completion's text begins among the decoded characters.

        Raises:
            CreditError: if it is not part of them.
        """
        start = self.text.rfind(text)
        if start < 0:
            raise CreditError(
                f"the completion {text!r:.60} is no part of its decoded tokens {self.text!r:.60}, "
                "so spans have no tokens; a chat template that rewrites what the model said "
                "cannot go with a strategy that needs them."
            )
        return start

    def after(self, chars: int) -> int:
        """Return how many tokens it takes until so many characters are whole."""
        return bisect_left(self.complete, chars) + 1 if chars else 0

    def within(self, start: int, end: int) -> slice:
        """Return the tokens that have a part in the characters from `start` up to `end`."""
        return slice(bisect_right(self.ends, start), bisect_left(self.starts, end))


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
        CreditError: if a completion cannot be mapped to its tokens, or a reward returns another
            number of answers than there are completions.
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
        self._tokens = [TokenText.decode(tokenizer, row) for row in ids]
        self._starts = [t.place(s) for t, s in zip(self._tokens, self._texts, strict=True)]
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
                for span, places in spans.items():
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
                if verdict.chars is not None:
                    at = self._starts[row] + verdict.chars
                    counts[row, k] = min(int(counts[row, k]), self._tokens[row].after(at))
        return counts

    def states(self) -> Int[Tensor, "b t1"]:
        """Number what the rewards' automata remember before the first and after each token."""
        states = torch.zeros(self._shape[0], self._shape[1] + 1, dtype=torch.long)
        for _, reward in self._rewards:
            automaton = getattr(reward, "automaton", None)
            if automaton is None:
                continue
            for row, (tokens, text) in enumerate(zip(self._tokens, self._texts, strict=True)):
                after = [0, *tokens.complete]
                after += after[-1:] * (states.shape[1] - len(after))
                places = torch.tensor(after).sub(self._starts[row]).clamp(0, len(text))
                trace = torch.tensor(automaton.trace(text))
                states[row] = states[row] * len(automaton.table) + trace[places]
        return states

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
        accepted = inspect.signature(method).parameters
        columns = {name: value for name, value in self._columns.items() if name in accepted}
        answers = method(self._completions, **columns)
        if len(answers) != len(self._completions):
            raise CreditError(
                f"{type(reward).__name__}.{what} returned {len(answers)} answers for "
                f"{len(self._completions)} completions; expected one each."
            )
        return answers


def _gather_wide(value: Tensor, filler: float | int, device: torch.device) -> Tensor:
    """Gather from ranks whose widest rows may differ in width."""
    return gather(pad_across_processes(value.to(device), dim=1, pad_index=filler))


def check_columns(rewards: Sequence[tuple[str, Any]], there: Sequence[str]) -> None:
    """Refuse a reward that declares (`columns`) a column that the data set lacks.

    Raises:
        CreditError: naming the reward, the column and the columns there are.
    """
    for name, reward in rewards:
        for column in getattr(reward, "columns", ()):
            if column not in there:
                raise CreditError(
                    f"reward {name!r} needs the column {column!r}; the data set has "
                    f"{', '.join(there)}. Rename a column, or name the right one when making the "
                    "reward."
                )
