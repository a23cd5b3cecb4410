"""One token chooses the arm of a star, all others follow."""

import random
import string
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from grpo_credit.lab.process import END, Moves
from grpo_credit.lab.tasks.prompt_regex import PromptRegex


@dataclass(frozen=True)
class PathStar:
    """Follow one arm of a star from its centre to the named end.

    A graph of `degree` arms that share the centre; the path has `nodes` nodes, centre and end
    included. The policy is that of next-token training on such paths (it knows how to follow an
    arm, and chooses one blindly): the centre, any of the arms, and then along it. The reward is 1
    for the arm that ends at the goal.

    Truth: the second token decides, [right arm] - 1 / degree; the others are forced.

    Args:
        degree: arms.
        nodes: of a path.

    Source: Bachmann and Nagarajan 2024, The pitfalls of next-token prediction, arXiv:2403.06963.
    """

    degree: int = 4
    nodes: int = 5
    name: str = field(default="path_star", init=False)
    alphabet: str = field(default=string.ascii_letters, init=False)

    def __post_init__(self) -> None:
        needed = 1 + self.degree * (self.nodes - 1)
        if self.degree < 2 or self.nodes < 2 or needed > len(self.alphabet):
            raise ValueError(
                f"{self.degree} arms of {self.nodes} nodes make {needed} nodes; expected at least "
                f"2 arms, 2 nodes, and {len(self.alphabet)} in all."
            )

    @property
    def length(self) -> int:
        """The nodes and the end."""
        return self.nodes + 1

    @cached_property
    def reward(self) -> PromptRegex:
        """Whether the path is the one to the goal."""
        return PromptRegex(self.name, path_to_goal)

    def start(self, rng: random.Random) -> tuple[str, tuple[str, ...], int]:
        """Draw a graph. A state: edges and ends, the arms that are open, the nodes written."""
        centre, *others = rng.sample(self.alphabet, 1 + self.degree * (self.nodes - 1))
        arms = ["".join(others[arm :: self.degree]) for arm in range(self.degree)]
        edges = [f"{a},{b}" for arm in arms for a, b in pairwise(centre + arm)]
        rng.shuffle(edges)
        return f"{'|'.join(edges)}/{centre},{arms[0][-1]}=", tuple(arms), 0

    def prompt(self, start: tuple[str, tuple[str, ...], int]) -> str:
        """Write edges, centre and goal."""
        return start[0]

    def moves(self, state: tuple[str, tuple[str, ...], int]) -> Moves:
        """Write the centre, choose an arm, follow it."""
        graph, arms, written = state
        if written == 0:
            return {graph[-4]: (1.0, (graph, arms, 1))}
        if written == self.nodes:
            return {END: (1.0, state)}
        return {arm[written - 1]: (1 / len(arms), (graph, (arm,), written + 1)) for arm in arms}

    def value(self, state: tuple[str, tuple[str, ...], int]) -> float:
        """Return 1 for the arm that ends at the goal."""
        graph, (arm, *_), _ = state
        return float(arm[-1] == graph[-2])


def path_to_goal(prompt: str) -> str:
    """Walk from the goal back to the start; every node but that has one parent.

    Example:
        >>> path_to_goal("a,b|c,d|a,c|b,e/a,d=")
        'acd'
    """
    edges, ends = prompt.rstrip("=").split("/")
    parent = {pair[2]: pair[0] for pair in edges.split("|")}
    start, node = ends[0], ends[2]
    path = node
    while node != start:
        node = parent[node]
        path = node + path
    return path
