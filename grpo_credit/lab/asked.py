"""What `lab exact` and `lab temper` measure unless told otherwise; without torch, for helps."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

REWARD = r"a+b[abc]*|c+"


@dataclass(frozen=True)
class Exact:
    r"""What `lab.exact` measures on.

    Args:
        alphabet: symbols of the policy.
        length: of the longest completion, tokens.
        policy: "tabular" or "transformer".
        pattern: regular expressions; what matches earns 1, each apart.
        reward: instead of them, a function called as by TRL, or its name as pkg.mod:obj.
        task: instead of both, "tool", "recovery" or "horizon".
        spread: of the table's logits.
        stop: added to the logits of the end.
        num_generations: completions of a group.
        scale_rewards: "none", "group", "batch".
        completions: of a window, about.
        windows: that are sampled where there are too many to list.
        target: whose gradient is the truth: "mean", "passk:K", "loglik", "maxrl:N".
        together: whether the patterns are prompts of one problem.
        vine_cuts: for `vine`, as in training.
        vine_continuations: for `vine`, from each cut.
        seed: of policies and windows.

    Example:
        >>> Exact(pattern="a+", num_generations=4).num_generations
        (4,)
    """

    alphabet: str = "abc"
    length: int = 5
    policy: str = "tabular"
    pattern: Sequence[str] = (REWARD,)
    reward: str | Callable[..., list[float | None]] | None = None
    task: str | None = None
    spread: float = 0.5
    stop: float = -1.0
    num_generations: Sequence[int] = (8,)
    scale_rewards: Sequence[str] = ("none",)
    completions: int = 64
    windows: int = 2000
    target: Sequence[str] = ("mean",)
    together: bool = False
    vine_cuts: str = "every:1"
    vine_continuations: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        _in_tuples(self, "pattern", "num_generations", "scale_rewards", "target")


@dataclass(frozen=True)
class Temper:
    """What `lab.temper` measures on.

    Args:
        alphabet: symbols of the policies.
        length: of the longest string, tokens.
        spread: of the policies' logits.
        policies: random ones.
        tau: temperatures.
        sampled_tau: those to sample and train at, too.
        samples: strings of which one is kept.
        draws: strings that Monte Carlo draws.
        steps: of training.
        completions: strings of a policy in a step.
        windows: gradients for a variance.
        seed: of policies and strings.

    Example:
        >>> Temper(tau=0.5).tau
        (0.5,)
    """

    alphabet: str = "abc"
    length: int = 5
    spread: float = 1.5
    policies: int = 5
    tau: Sequence[float] = (0.25, 0.5, 0.7, 0.9, 1.5, 2.0)
    sampled_tau: Sequence[float] = (0.5,)
    samples: Sequence[int] = (4, 16, 64)
    draws: int = 64_000
    steps: int = 300
    completions: int = 64
    windows: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        _in_tuples(self, "tau", "sampled_tau", "samples")


def _in_tuples(asked: Exact | Temper, *names: str) -> None:
    """Take one value, which Python users may give, for a list of one."""
    for name in names:
        value = getattr(asked, name)
        several = tuple(value) if isinstance(value, list | tuple) else (value,)
        object.__setattr__(asked, name, several)


def settings(kind: type[Exact | Temper], args: argparse.Namespace) -> dict[str, Any]:
    """Return what a command line says of what is measured."""
    return {field.name: getattr(args, field.name) for field in fields(kind)}


def defaults(kind: type[Exact | Temper]) -> dict[str, Any]:
    """Return what is measured unless told otherwise, for a command line."""
    return {field.name: field.default for field in fields(kind)}


def call(name: str, *given: Any, **options: Any) -> str:
    """Write the call that measures this.

    Example:
        >>> call("exact", ["seq"], length=3)
        "grpo_credit.lab.exact(['seq'], length=3)"
    """
    words = [*map(repr, given), *(f"{key}={value!r}" for key, value in options.items())]
    return f"grpo_credit.lab.{name}({', '.join(words)})"
