"""Policies trained towards a sequence-level temperature, and how much their steps scatter.

Each method is a credit matrix for strings that were drawn: from the policy q that is trained, or
from p, which it starts from. A step's gradient is Σ C[i, t] ∇ log q(x[i, t]), as in training. There
are several policies, one a prompt: a window has a group of strings of each.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim.adam import adam

from grpo_credit.credit.parse import resolve_credit
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.lab.enumerable import going_on, log_probabilities
from grpo_credit.lab.particles import draw
from grpo_credit.lab.sampling import Progress
from grpo_credit.lab.tempering import Tempering, divergence, look_ahead

BASELINE = "reward, even"
LOO = resolve_credit("loo/seq")
RATE = 0.05  # of Adam, falling to 0 in a line
PLACES = {"at p": 0.0, "half way": 0.5, "near the end": 0.9}  # on the way from p to the target


@dataclass(frozen=True)
class Budget:
    """How much is drawn.

    Args:
        steps: of the optimizer.
        completions: strings of each policy in a step.
        windows: gradients, for their variance.
        seed: of the strings.

    Raises:
        ValueError: if a number is too small.
    """

    steps: int = 300
    completions: int = 64
    windows: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.completions < 2 or self.windows < 2:
            raise ValueError(
                f"there are {self.steps} steps of {self.completions} completions, and "
                f"{self.windows} windows; expected at least 1, 2 and 2."
            )


def on_the_way(problem: Tempering, share: float) -> Float[Tensor, "R P V"]:
    """Return log q some way from p to the target, by event."""
    language = problem.language
    best = look_ahead(language, problem.reference, problem.tau, language.length)
    return ((1 - share) * problem.reference + share * best).log_softmax(dim=2)


@dataclass(frozen=True)
class Window:
    """Strings that are credited together, in groups of the same policy.

    Args:
        problem: what they are to learn.
        logq: the policies that are trained, by event.
        rows: the strings of each policy, as rows of the language.
        size: strings of a group, G.
    """

    problem: Tempering
    logq: Float[Tensor, "R P V"]
    rows: Int[Tensor, "R W"]
    size: int

    @cached_property
    def events(self) -> Int[Tensor, "R W T"]:
        """The events that the strings consist of; 0 after the end."""
        return self.problem.language.events[self.rows]

    @cached_property
    def mask(self) -> Bool[Tensor, "B T"]:
        """The tokens of the strings."""
        return self.problem.language.mask[self.rows.flatten()]

    def of(self, table: Float[Tensor, "R P V"]) -> Float[Tensor, "B T"]:
        """Look up a number for each token; 0 after the end."""
        values = table.flatten(1).gather(1, self.events.flatten(1))
        return torch.where(self.mask, values.view(self.mask.shape), 0.0)

    @cached_property
    def likely(self) -> Float[Tensor, "B T"]:
        """Log p of each token."""
        return self.of(self.problem.reference)

    @cached_property
    def sampled(self) -> Float[Tensor, "B T"]:
        """Log q of each token."""
        return self.of(self.logq)

    def rollouts(self, rewards: Float[Tensor, " B"]) -> Rollouts:
        """Return what a rule sees of strings of q, with a reward for each and no advantage."""
        language, rows = self.problem.language, self.rows.flatten()
        return Rollouts(
            completion_ids=language.ids[rows],
            mask=self.mask,
            advantages=torch.zeros_like(rewards),
            rewards=rewards,
            rewards_per_func=rewards[:, None],
            reward_names=("likelihood",),
            group=torch.arange(len(rows)) // self.size,
            truncated=language.truncated[rows],
            max_completion_length=language.length,
            scale_rewards="none",
            old_logps=self.sampled,
            ref_logps=self.likely,
        )

    def documents(self) -> Rollouts:
        """Return what a rule sees of strings of p, as supervised training does."""
        told = _unrewarded(self)
        return replace(told, advantages=torch.ones_like(told.rewards), old_logps=self.likely)


class Method(NamedTuple):
    """A way to temper.

    Args:
        credit: of a window.
        offline: whether strings are drawn from p.
    """

    credit: Callable[[Window], Tensor]
    offline: bool = False


def even(window: Window) -> Float[Tensor, "B T"]:
    """Credit every token with log p(x)/τ - log q(x) of its string, less the others' mean."""
    rewards = (window.likely / window.problem.tau - window.sampled).sum(dim=1)
    return LOO.credit(window.rollouts(rewards))


def critic(window: Window) -> Float[Tensor, "B T"]:
    """Credit every token with its true advantage: the floor of what a rule can reach."""
    return window.of(true_advantage(window.problem, window.logq)) / window.rows.numel()


def in_the_loss(window: Window) -> Float[Tensor, "B T"]:
    """Credit as TRL does with `beta=1`: log p(x)(1/τ - 1) as the reward, KL in the loss.

    The gradient of TRL's k3 term at a token is that of (p_t/q_t - 1) log q_t, and does not see what
    the token leads to.
    """
    rewards = (1 / window.problem.tau - 1) * window.likely.sum(dim=1)
    kl = (window.likely - window.sampled).expm1()  # 0 after the end
    return LOO.credit(window.rollouts(rewards)) + kl / len(rewards)


def methods(tau: float, length: int) -> Mapping[str, Method]:
    """Return the methods by name: rules of this package, a floor, and TRL's KL term."""
    temper = resolve_credit("temper/seq", tau=tau)
    whole = resolve_credit("lhts/seq", tau=tau, horizon=length)
    near = resolve_credit("lhts/seq", tau=tau, horizon=min(2, length))
    return {
        BASELINE: Method(even),
        "temper": Method(lambda window: temper.credit(_unrewarded(window))),
        "exact critic": Method(critic),
        "TRL, beta=1": Method(in_the_loss),
        "lhts": Method(lambda window: whole.credit(window.documents()), offline=True),
        "lhts, h = 2": Method(lambda window: near.credit(window.documents()), offline=True),
    }


def _unrewarded(window: Window) -> Rollouts:
    return window.rollouts(window.likely.new_zeros(len(window.mask)))


def true_advantage(problem: Tempering, logq: Float[Tensor, "R P V"]) -> Float[Tensor, "R P V"]:
    """Return Q(s, v) - V(s) of the reward log p/τ - log q, nats, by event."""
    language = problem.language
    reward = problem.reference / problem.tau - logq
    reward = torch.cat([reward, torch.zeros_like(reward[:, :1])], dim=1)
    chances = going_on(logq).exp()
    value = torch.zeros_like(reward[..., 0])
    for _ in range(language.length):
        value = (chances * (reward + value[:, language.successors])).sum(dim=2)
    return (reward + value[:, language.successors] - value[..., None])[:, :-1]


# ---- training -----------------------------------------------------------------------------------


class Distance(NamedTuple):
    """How far policies are from their targets, nats, by policy.

    Args:
        forward: KL(target ‖ q).
        backward: KL(q ‖ target).
    """

    forward: Float[Tensor, " R"]
    backward: Float[Tensor, " R"]


def distance(problem: Tempering, logq: Float[Tensor, "R P V"]) -> Distance:
    """Return how far policies are from their targets."""
    strings = log_probabilities(problem.language, logq)
    return Distance(divergence(problem.target, strings), divergence(strings, problem.target))


def train(problem: Tempering, method: Method, budget: Budget) -> Float[Tensor, "R P V"]:
    """Train tables from p on, by Adam; return their log q."""
    generator = torch.Generator().manual_seed(budget.seed)
    logits = problem.reference.clone().requires_grad_(True)
    first, second = torch.zeros_like(logits), torch.zeros_like(logits)  # moments
    count = torch.zeros(())
    for step in range(budget.steps):
        logq = logits.log_softmax(dim=2)
        window = sample(problem, logq.detach(), method.offline, budget.completions, generator)
        loss = -(method.credit(window) * window.of(logq)).sum()
        gradient = torch.autograd.grad(loss, logits)
        with torch.no_grad():  # the class torch.optim.Adam takes 2 s to import what compiles it
            adam([logits], [*gradient], [first], [second], [], [count], foreach=False,
                 amsgrad=False, beta1=0.9, beta2=0.999, lr=RATE * (1 - step / budget.steps),
                 weight_decay=0.0, eps=1e-8, maximize=False)  # fmt: skip
    return logits.detach().log_softmax(dim=2)


def sample(
    problem: Tempering,
    logq: Float[Tensor, "R P V"],
    offline: bool,
    completions: int,
    generator: torch.Generator,
) -> Window:
    """Draw a window of strings."""
    source = problem.reference if offline else logq
    chances = log_probabilities(problem.language, source).exp()
    return Window(problem, logq, draw(chances, completions, generator), completions)


# ---- gradients ----------------------------------------------------------------------------------


class Scatter(NamedTuple):
    """What the gradients of a method are like, by policy.

    Args:
        variance: tr Cov of a window's gradient.
        bias: distance of their mean from the gradient of E[log p/τ - log q], relative to it.
        floor: what `bias` would be of an unbiased method, by the noise of the sample.
    """

    variance: Float[Tensor, " R"]
    bias: Float[Tensor, " R"]
    floor: Float[Tensor, " R"]


def scatter(
    problem: Tempering, logq: Float[Tensor, "R P V"], method: Method, budget: Budget
) -> Scatter:
    """Measure the gradients of a method where the policies are q; the same seed, same strings."""
    generator = torch.Generator().manual_seed(budget.seed)
    count = budget.windows * budget.completions
    drawn = sample(problem, logq, False, count, generator)
    window = replace(drawn, size=budget.completions)
    gradients = _gradients(window, method.credit(window) * count * len(logq) / budget.completions)
    truth = reward_gradient(problem, logq).flatten(1)
    mean, size = gradients.mean(dim=1), truth.norm(dim=1)
    variance = (gradients - mean[:, None]).square().sum(dim=(1, 2)) / (budget.windows - 1)
    floor = (variance / budget.windows).sqrt() / size
    return Scatter(variance, (mean - truth).norm(dim=1) / size, floor)


def _gradients(window: Window, credit: Float[Tensor, "B T"]) -> Float[Tensor, "R K D"]:
    """Return Σ C[i, t] ∇ log q(x[i, t]) of each group, with respect to the logits."""
    policies, prefixes, tokens = window.logq.shape
    groups = window.rows.shape[1] // window.size
    landed = credit.new_zeros(policies, groups, prefixes * tokens).scatter_add(
        2, window.events.view(policies, groups, -1), credit.view(policies, groups, -1)
    )
    landed = landed.view(policies, groups, prefixes, tokens)
    expected = landed.sum(dim=3, keepdim=True) * window.logq[:, None].exp()
    return (landed - expected).flatten(2)


def reward_gradient(problem: Tempering, logq: Float[Tensor, "R P V"]) -> Float[Tensor, "R P V"]:
    """Return ∇ E_q[log p/τ - log q] with respect to the logits, by enumeration.

    It is -∇ KL(q ‖ target): the two differ by log Z.
    """
    logits = logq.clone().requires_grad_(True)
    strings = log_probabilities(problem.language, logits.log_softmax(dim=2))
    gap = (strings.exp() * (problem.target - strings)).sum()
    return torch.autograd.grad(gap, logits)[0]


# ---- both ---------------------------------------------------------------------------------------


class Learned(NamedTuple):
    """What came of a method.

    Args:
        distance: of the trained policies from their targets.
        scatter: place on the way -> what its gradients are like there; nothing if it is offline.
    """

    distance: Distance
    scatter: Mapping[str, Scatter]


def measure(problem: Tempering, budget: Budget, progress: Progress = iter) -> Mapping[str, Learned]:
    """Train by every method, and look at its gradients."""
    every = methods(problem.tau, problem.language.length)
    return {name: _learned(problem, every[name], budget) for name in progress([*every])}


def _learned(problem: Tempering, method: Method, budget: Budget) -> Learned:
    places = {} if method.offline else PLACES
    return Learned(
        distance(problem, train(problem, method, budget)),
        {
            place: scatter(problem, on_the_way(problem, share), method, budget)
            for place, share in places.items()
        },
    )
