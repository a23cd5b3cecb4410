"""The turns of a completion: what each call of the model wrote, between what others wrote."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

ROLES = ("think", "call", "answer")  # of a turn's tokens


@dataclass(frozen=True)
class Turn:
    """What one call of the model wrote in a completion.

    Args:
        start: the column of its first token.
        end: one past the column of its last, `end` > `start`.
        thought: one past the column of its thought's last token; `start` if it has no thought.
        role: what follows the thought: "call" of a tool or an environment, or "answer".
        tools: the names it called, in order.
        failed: whether a tool that it called raised an error, or was not there.
        state: what it was written in; equal texts are equal states. Empty if not known.
    """

    start: int
    end: int
    thought: int
    role: str
    tools: tuple[str, ...] = ()
    failed: bool = False
    state: str = ""

    def of_role(self, role: str) -> slice:
        """Return the columns of a role, one of `ROLES`."""
        if role == "think":
            return slice(self.start, self.thought)
        return slice(self.thought, self.end if role == self.role else self.thought)


Turns = tuple[tuple[Turn, ...], ...]  # of each completion


def numbered(turns: Sequence[Sequence[Turn]], mask: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Number the turns from 1 along each completion; what others wrote has that of the turn before.

    Args:
        turns: of each completion.
        mask: whose shape the numbers have.
    """
    starts = torch.zeros_like(mask, dtype=torch.long)
    places = [(row, turn.start) for row, own in enumerate(turns) for turn in own]
    rows, columns = torch.tensor(places, device=mask.device).long().view(-1, 2).T
    starts[rows, columns] = 1
    return starts.cumsum(dim=1)


def of_role(
    turns: Sequence[Sequence[Turn]], role: str, mask: Bool[Tensor, "B T"]
) -> Bool[Tensor, "B T"]:
    """Mark the counted tokens of a role, one of `ROLES`."""
    marked = torch.zeros_like(mask)
    for row, own in enumerate(turns):
        for turn in own:
            marked[row, turn.of_role(role)] = True
    return marked & mask


def anchors(
    turns: Turns, group: Int[Tensor, " B"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " N"], Bool[Tensor, " N"]]:
    """List every turn: its row, its number from 1, its state, and whether another shares that.

    States of two groups, and unknown ones, are different.

    Args:
        turns: of each completion.
        group: of each completion.
    """
    known: dict[object, int] = {}
    groups = group.tolist()
    found = [
        (row, n, known.setdefault((groups[row], turn.state or (row, n)), len(known)))
        for row, own in enumerate(turns)
        for n, turn in enumerate(own, start=1)
    ]
    row, number, label = torch.tensor(found, device=group.device).long().view(-1, 3).T
    count = torch.zeros(len(known), dtype=torch.long, device=group.device)
    shared = count.index_add(0, label, torch.ones_like(label))[label] > 1
    return row, number, label, shared


def check_turns(turns: Sequence[Sequence[Turn]], columns: int) -> None:
    """Raise a ValueError if turns overlap, or leave the columns that there are."""
    for row, own in enumerate(turns):
        last = 0
        for n, turn in enumerate(own):
            if not last <= turn.start <= turn.thought <= turn.end <= columns or (
                turn.start == turn.end
            ):
                raise ValueError(
                    f"turn {n} of completion {row} is from {turn.start} to {turn.end}, its thought "
                    f"to {turn.thought}; expected places in order, from {last} to {columns}."
                )
            if turn.role not in ROLES[1:]:
                raise ValueError(
                    f"turn {n} of completion {row} has the role {turn.role!r}, expected 'call' or "
                    "'answer'; `thought` says where its thought ends."
                )
            last = turn.end
