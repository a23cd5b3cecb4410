"""What credits the tokens of a draw: the truth, and strategies through `Rollouts`."""

import string
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.needs import OF_A_TRAINER
from grpo_credit.credit.rollouts import OPTIONAL, Rollouts
from grpo_credit.credit.strategy import Strategy
from grpo_credit.lab.race.chain import Chain
from grpo_credit.lab.race.runs import Draw, Runs

Rule = Callable[[Draw], Tensor]  # to (S, P, G, T)
TOLD_BY_SOME = OF_A_TRAINER | {"states", "decided", "spans", "step_rewards", "turns"}
TRIAL = 8  # runs, of which each is credited alone and with the others
LETTERS = string.ascii_lowercase


def truth(draw: Draw) -> Float[Tensor, "S P G T"]:
    """Credit each token with its true advantage, over N: what a rule could give at best."""
    return draw.advantages / draw.chain.completions


def missing(chain: Chain, strategy: Strategy) -> list[str]:
    """List what a strategy needs and the chain does not tell."""
    return sorted(strategy.needs & (TOLD_BY_SOME - chain.pay.tells))


def through(chain: Chain, strategy: Strategy) -> Rule:
    """Make the rule that credits each run by a strategy, as a window of its own.

    Calls are what a race costs. A strategy that looks at groups alone gives a window the same when
    other runs' groups lie beside it, but for the aggregation's denominator; then all runs are one
    call. Whether it is so, is tried on a draw.
    """

    def apart(draw: Draw) -> Float[Tensor, "S P G T"]:
        whole = rollouts(draw, strategy.needs)
        windows = torch.arange(len(whole.group)).split(draw.chain.completions)
        credit = [strategy.credit(whole.rows(window)) for window in windows]
        return torch.cat(credit).view(draw.tokens.shape)

    def together(draw: Draw) -> Float[Tensor, "S P G T"]:
        credit = strategy.credit(rollouts(draw, strategy.needs)).view(draw.tokens.shape)
        return credit * len(credit)

    runs = Runs(chain, [0.0], TRIAL, first=9)
    draw = runs.draw(runs.policy())
    alone = apart(draw)
    same = torch.allclose(together(draw), alone, rtol=1e-5, atol=1e-6 * float(alone.abs().max()))
    return together if same else apart


def rollouts(draw: Draw, needs: frozenset[str]) -> Rollouts:
    """Build what a trainer would, with the completions of all runs, group after group."""
    columns = draw.columns.flatten(0, 2)
    tokens, rewards = draw.tokens.flatten(0, 2), columns.mean(1)
    group = torch.arange(len(tokens)) // draw.chain.num_generations
    names = tuple(f"key{k + 1}" for k in range(columns.shape[1]))
    return Rollouts(
        completion_ids=tokens,
        mask=torch.ones_like(tokens, dtype=torch.bool),
        advantages=group_advantages(rewards, group, "none"),
        rewards=rewards,
        rewards_per_func=columns,
        reward_names=names,
        reward_weights=(1 / len(names),) * len(names),
        group=group,
        truncated=torch.zeros_like(group, dtype=torch.bool),
        max_completion_length=draw.chain.length,
        scale_rewards="none",
        **{name: FIELDS[name](draw) for need in needs for name in OPTIONAL[need]},
    )


def _by_token(draw: Draw, by_place: Float[Tensor, "S P T"]) -> Float[Tensor, "B T"]:
    return by_place.flatten(0, 1).repeat_interleave(draw.chain.num_generations, dim=0)


def _logps(draw: Draw) -> Float[Tensor, "B T"]:
    pi = draw.pi[:, :, None].expand(-1, -1, draw.chain.num_generations, -1, -1)
    return pi.gather(-1, draw.tokens[..., None])[..., 0].log().flatten(0, 2)


def _steps(draw: Draw) -> Float[Tensor, "B T"]:
    earned = draw.ok.float() / draw.chain.decisions
    return torch.where(draw.chain.decides, earned, torch.nan).flatten(0, 2)


def _spans(draw: Draw) -> dict[str, Bool[Tensor, "B T"]]:
    place, rows = torch.arange(draw.chain.length), draw.ok.flatten(0, 2).shape
    return {
        f"key{k + 1}/token": (place == column).expand(rows).clone()
        for k, column in enumerate(draw.chain.places)
    }


def _texts(draw: Draw) -> tuple[str, ...]:
    rows = draw.tokens.flatten(0, 2).tolist()
    return tuple("".join(LETTERS[token] for token in row) for row in rows)


def _offsets(draw: Draw) -> Int[Tensor, "B T 2"]:
    start = torch.arange(draw.chain.length)
    return torch.stack([start, start + 1], 1).repeat(draw.noise.numel(), 1, 1)


FIELDS: dict[str, Callable[[Draw], Any]] = {
    "states": lambda draw: draw.chain.pay.states(draw.ok).flatten(0, 2),
    "decided": lambda draw: draw.chain.pay.settled(draw.ok).flatten(0, 2),
    "old_logps": _logps,
    "entropies": lambda draw: _by_token(draw, torch.special.entr(draw.pi).sum(-1)),
    "sum_sq_probs": lambda draw: _by_token(draw, draw.pi.square().sum(-1)),
    "spans": _spans,
    "step_rewards": _steps,
    "texts": _texts,
    "offsets": _offsets,
}
