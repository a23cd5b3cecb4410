"""One token chooses the arm of a star, all others follow."""

import random
import string
from dataclasses import dataclass, field
from functools import cached_property

from grpo_credit.lab.process import END, Moves
from grpo_credit.lab.tasks.prompt_regex import PromptRegex
from grpo_credit.tiny import path_star


@dataclass(frozen=True)
class PathStar:
    """Follow one arm of a star from its source to the named goal.

    The graphs are those of `grpo_credit.tiny.path_star`, with a letter for each node. The policy is
    that of next-token training on such paths (it knows how to follow an arm, and chooses one
    blindly): the source, any of the arms, and then along it. The reward is 1 for the arm that ends
    at the goal.

    Truth: the second token decides, [right arm] - 1 / degree; the others are forced.

    Args:
        degree: arms.
        nodes: of a path.
    """

    degree: int = 4
    nodes: int = 5
    name: str = field(default="path_star", init=False)
    alphabet: str = field(default=string.ascii_letters, init=False)
    family: path_star.PathStar = field(init=False, repr=False)

    def __post_init__(self) -> None:
        family = path_star.PathStar(self.degree, self.nodes, len(self.alphabet))
        object.__setattr__(self, "family", family)

    @property
    def length(self) -> int:
        """The nodes and the end."""
        return self.nodes + 1

    @cached_property
    def reward(self) -> PromptRegex:
        """Whether the path is the one to the goal."""
        return PromptRegex(self.name, path_to_goal)

    def start(self, rng: random.Random) -> tuple[str, tuple[str, ...], int]:
        """Draw a graph. A state: the prompt, the paths that are open, the nodes written."""
        arms = path_star.draw_arms(self.family, self.alphabet, rng)
        return path_star.ask_for_path(arms, rng)["prompt"], tuple(map("".join, arms)), 0

    def prompt(self, start: tuple[str, tuple[str, ...], int]) -> str:
        """Write edges, source and goal."""
        return start[0]

    def moves(self, state: tuple[str, tuple[str, ...], int]) -> Moves:
        """Write the source, choose an arm, follow it."""
        prompt, paths, written = state
        if written == self.nodes:
            return {END: (1.0, state)}
        if written != 1:
            return {paths[0][written]: (1.0, (prompt, paths, written + 1))}
        return {path[1]: (1 / len(paths), (prompt, (path,), 2)) for path in paths}

    def value(self, state: tuple[str, tuple[str, ...], int]) -> float:
        """Return 1 for the arm that ends at the goal."""
        prompt, (path, *_), _ = state
        return float(path[-1] == prompt.split()[-2])


def path_to_goal(prompt: str) -> str:
    """Walk from the goal back to the source; every node but that has one parent.

    Example:
        >>> path_to_goal("a b | c d | a c | b e / a d =")
        'acd'
    """
    parent = {end: start for start, end in path_star.edges_of(prompt)}
    *_, source, path, _ = prompt.split()
    while path[0] != source:
        path = parent[path[0]] + path
    return path
