"""Policies whose every state is known, so that each token's true advantage is a number.

A task says what may be written in a state, with what probability, and which state follows; a state
holds all that the rest of the completion depends on, the prompt included. The states are finitely
many, so the value of each is computed backwards from the ends, exactly.
"""

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

State = Hashable
Moves = Mapping[str, tuple[float, State]]  # token -> (its probability, the state after it)
Entry = tuple[int, int, float, int, float]  # state, token, its probability, what follows, reward
END = ""  # the token that ends a completion; the state after it is the one it ends in


class Task(Protocol):
    """What is written, by whom, and what it earns. Each token is one character, or the end.

    Attributes:
        name: as the command line names it.
        alphabet: the characters.
        length: longest completion in tokens, the end token included.
        reward: as TRL calls it, `reward(completions, prompts=prompts)`; may tell spans, steps,
            decided and automata as in `rewards.contract`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def alphabet(self) -> str: ...  # noqa: D102
    @property
    def length(self) -> int: ...  # noqa: D102
    @property
    def reward(self) -> Any: ...  # noqa: D102

    def start(self, rng: random.Random) -> State:
        """Draw a prompt: the state before the first token."""
        ...

    def prompt(self, start: Any) -> str:
        """Write the prompt of a start, for rewards to read."""
        ...

    def moves(self, state: Any) -> Moves:
        """Return what the policy may write; the probabilities sum to 1."""
        ...

    def value(self, state: Any) -> float:
        """Return the reward of a completion that ends, or is cut off, in a state."""
        ...


@dataclass(frozen=True)
class Solved:
    """A policy on some prompts, state by state, with the worth of everything it may write.

        V(s) = Σ_a π(a|s) Q(s, a),  Q(s, a) = V(s') or, where the completion is over, R

    Args:
        starts: the state of each prompt before the first token.
        probs: π(a|s); the last token is the end.
        after: the state that follows; -1 where the completion is over.
        worth: Q(s, a), the expected reward after a token; 0 for what is never written.
    """

    starts: Int[Tensor, " P"]
    probs: Float[Tensor, "S V"]
    after: Int[Tensor, "S V"]
    worth: Float[Tensor, "S V"]

    @property
    def values(self) -> Float[Tensor, " S"]:
        """V(s), the expected reward in a state."""
        return (self.probs * self.worth).sum(1)

    @property
    def advantages(self) -> Float[Tensor, "S V"]:
        """Q(s, a) - V(s); means nothing for what is never written."""
        return self.worth - self.values[:, None]


@dataclass(frozen=True)
class Walk:
    """Completions that a policy wrote.

    Args:
        tokens: places in the alphabet, its length for the end; 0 after the completion.
        states: in which each token was written; 0 after the completion.
        mask: tokens of the completion, the end included.
    """

    tokens: Int[Tensor, "B T"]
    states: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]


def solve(task: Task, starts: Sequence[State]) -> Solved:
    """List every state that the policy can come to, and value it backwards from the ends.

    A state at another position counts as another state, as completions are cut off at the task's
    length.

    Args:
        task: the policy and what is earned.
        starts: prompts; equal ones share their states.

    Raises:
        ValueError: if the probabilities of a state do not sum to 1.
    """
    place = {token: number for number, token in enumerate([*task.alphabet, END])}
    index = {state: number for number, state in enumerate(dict.fromkeys(starts))}
    entries: list[Entry] = []
    layer, borders = index, [0]
    for position in range(task.length):
        borders.append(borders[-1] + len(layer))
        following: dict[State, int] = {}
        for state, number in layer.items():
            for token, (chance, after) in _checked(task, state).items():
                over = token == END or position + 1 == task.length
                target = -1 if over else following.setdefault(after, borders[-1] + len(following))
                earned = task.value(after) if over else 0.0
                entries.append((number, place[token], chance, target, earned))
        layer = following
    numbers = torch.tensor([index[state] for state in starts])
    return _valued(numbers, entries, borders, len(place))


def _checked(task: Task, state: State) -> Moves:
    moves = task.moves(state)
    total = sum(chance for chance, _ in moves.values())
    if abs(total - 1) > 1e-9:
        raise ValueError(f"the probabilities in state {state!r} sum to {total}, expected 1.")
    return moves


def _valued(
    starts: Int[Tensor, " P"],
    entries: Sequence[Entry],
    borders: Sequence[int],
    width: int,
) -> Solved:
    state, token, chance, target, earned = zip(*entries, strict=True)
    at = torch.tensor(state), torch.tensor(token)
    shape = borders[-1], width
    probs, worth = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    after = torch.full(shape, -1)
    probs[at] = torch.tensor(chance, dtype=torch.float64)
    worth[at] = torch.tensor(earned, dtype=torch.float64)
    after[at] = torch.tensor(target)
    values = torch.zeros(borders[-1], dtype=torch.float64)
    for low, high in reversed(list(pairwise(borders))):
        goes_on = after[low:high] >= 0
        worth[low:high] = torch.where(goes_on, values[after[low:high]], worth[low:high])
        values[low:high] = (probs[low:high] * worth[low:high]).sum(1)
    return Solved(starts, probs, after, worth)


def walk(
    solved: Solved, starts: Int[Tensor, " B"], length: int, generator: torch.Generator
) -> Walk:
    """Write a completion from each start."""
    state, going = starts, torch.ones_like(starts).bool()
    written: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(length):
        drawn = torch.multinomial(solved.probs[state], 1, generator=generator).squeeze(1)
        written.append((torch.where(going, drawn, 0), torch.where(going, state, 0), going))
        after = solved.after[state, drawn]
        going = going & (after >= 0)
        state = torch.where(going, after, 0)
    tokens, states, mask = (torch.stack(columns, dim=1) for columns in zip(*written, strict=True))
    return Walk(tokens, states, mask)
