"""Many runs of a chain at once: policies, what they write, and their gradients."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from grpo_credit.lab.race.chain import Chain

SURE = 30.0  # logit of forced filler above the others


class Optimizer(NamedTuple):
    """A way to step.

    Args:
        make: its class.
        rates: learning rates to try first, from low to high.
        scales: whether a longer update makes a longer step.
    """

    make: Callable[..., torch.optim.Optimizer]
    rates: tuple[float, ...]
    scales: bool


OPTIMIZERS = {
    "sgd": Optimizer(torch.optim.SGD, (4.0, 16.0, 64.0, 256.0), scales=True),
    "adamw": Optimizer(torch.optim.AdamW, (0.004, 0.016, 0.064, 0.256), scales=False),
}


@dataclass(frozen=True)
class Draw:
    """What S runs wrote in one step, and the truth about it.

    Args:
        chain: the task.
        pi: next-token distributions, which depend on prompt and place alone.
        features: of the tokens.
        p: probability of the right symbol, 1 at filler.
        tokens: what was written.
        ok: whether it was right; filler always is.
        noise: what was added to the rewards.
    """

    chain: Chain
    pi: Float[Tensor, "S P T V"]
    features: Float[Tensor, "S P T d"]
    p: Float[Tensor, "S P T"]
    tokens: Int[Tensor, "S P G T"]
    ok: Bool[Tensor, "S P G T"]
    noise: Float[Tensor, "S P G"]

    @property
    def columns(self) -> Float[Tensor, "S P G K"]:
        """What each reward function paid; the reward is their mean."""
        return self.chain.pay.columns(self.ok) + self.noise[..., None]

    @property
    def rewards(self) -> Float[Tensor, "S P G"]:
        """What was paid."""
        return self.columns.mean(-1)

    @property
    def advantages(self) -> Float[Tensor, "S P G T"]:
        """The true ones: V(s_{t+1}) - V(s_t) under the policy as it is, without the noise."""
        return self.chain.pay.values(self.ok, self.p[:, :, None]).diff(dim=-1)


class Runs:
    """Softmax policies over chains: logits = base + Wᵀ x, with one W for all tokens and prompts.

    Which symbol is right at a decision is the largest output of a hidden linear teacher on the
    features x. Parameters are shared, so what is learnt at one place helps, and noise that lands
    on filler hurts, everywhere (unless `Chain.apart`). Runs of one seed have the same task, prompts
    and random numbers at every rate.

    Args:
        chain: the task.
        rates: learning rates.
        seeds: how many tasks to run at each.
        optimizer: `"sgd"` or `"adamw"`, the latter as by default in `TrainingArguments`.
        first: which stream of seeds; different ones have nothing in common.
    """

    def __init__(
        self, chain: Chain, rates: list[float], seeds: int, optimizer: str = "sgd", first: int = 0
    ) -> None:
        self.chain, self.rates, self.seeds = chain, len(rates), seeds
        self.generator = torch.Generator().manual_seed(1000 + first)
        shape = seeds, chain.pool, chain.length
        x = torch.randn(*shape, chain.features, generator=self.generator) / chain.features**0.5
        teacher = torch.randn(seeds, chain.features, chain.symbols, generator=self.generator)
        right = torch.einsum("smtd,sdv->smtv", x, teacher).argmax(-1)
        odds = chain.chance / (1 - chain.chance) * (chain.symbols - 1)
        filler = one_hot(torch.tensor(0), chain.symbols) * (SURE * chain.forced)
        base = torch.where(
            chain.decides[:, None], math.log(odds) * one_hot(right, chain.symbols), filler
        )
        if chain.apart:
            x = torch.cat([x * side[:, None] for side in (chain.decides, ~chain.decides)], -1)
        self.features, self.right = self._by_rate(x), self._by_rate(right)
        self.inputs = self.features.flatten(1, 2).mT.contiguous()  # (S, d, M T)
        self.base = self._by_rate(base).flatten(1, 2).mT.contiguous()  # (S, V, M T)
        self.theta = torch.zeros(len(rates), seeds, x.shape[-1], chain.symbols)
        groups = [{"params": [own], "lr": lr} for own, lr in zip(self.theta, rates, strict=True)]
        settings = {"weight_decay": 0.0, "maximize": True, "foreach": False}
        self.optimizer = OPTIMIZERS[optimizer].make(groups, **settings)

    def _by_rate(self, by_seed: Tensor) -> Tensor:
        return by_seed.repeat(self.rates, *[1] * (by_seed.dim() - 1))

    def policy(self) -> Float[Tensor, "S M T V"]:
        """Return the next-token distributions of every prompt of the pool."""
        logits = torch.baddbmm(self.base, self.theta.flatten(0, 1).mT, self.inputs)
        pi = logits.softmax(1)  # over the outer dimension, which is ten times as fast
        return pi.unflatten(2, self.right.shape[1:]).movedim(1, -1)

    def right_chance(self, pi: Float[Tensor, "S M T V"]) -> Float[Tensor, "S M T"]:
        """Return the probability of the right symbol, 1 at filler."""
        chance = pi.gather(-1, self.right[..., None])[..., 0]
        return torch.where(self.chain.decides, chance, 1.0)

    def height(self, pi: Float[Tensor, "S M T V"]) -> Float[Tensor, "R seeds"]:
        """Return E[R] over the pool, exactly."""
        expected = self.chain.pay.expected(self.right_chance(pi)).mean(-1)
        return expected.view(self.rates, self.seeds)

    def draw(self, pi: Float[Tensor, "S M T V"]) -> Draw:
        """Draw prompts and completions of one optimizer step."""
        chain, shape = self.chain, (self.seeds, self.chain.groups, self.chain.num_generations)
        order = torch.rand(self.seeds, chain.pool, generator=self.generator).argsort(1)
        prompt = self._by_rate(order[:, : chain.groups])
        chance = self._by_rate(torch.rand(*shape, chain.length, generator=self.generator))
        noise = torch.randn(shape, generator=self.generator) if chain.noise else torch.zeros(shape)
        run = torch.arange(len(prompt))[:, None]
        own, p = pi[run, prompt], self.right_chance(pi)[run, prompt]
        tokens = (chance[..., None] > own.cumsum(-1)[:, :, None, :, :-1]).sum(-1)
        ok = (tokens == self.right[run, prompt][:, :, None]) | ~chain.decides
        noise = self._by_rate(chain.noise * noise)
        return Draw(chain, own, self.features[run, prompt], p, tokens, ok, noise)

    def update(self, draw: Draw, credit: Float[Tensor, "S P G T"]) -> Float[Tensor, "S d V"]:
        """Return Σ C[i, t] ∇ log π(o[i, t]) of each run."""
        written = torch.zeros_like(draw.pi).scatter_add(
            -1, draw.tokens.transpose(2, 3), credit.transpose(2, 3)
        )
        at_logits = written - credit.sum(2)[..., None] * draw.pi
        return self._to_weights(draw.features, at_logits)

    def gradient(self, pi: Float[Tensor, "S M T V"]) -> Float[Tensor, "S d V"]:
        """Return ∇E[R] over the pool, exactly."""
        pull = self.chain.pay.pull(self.right_chance(pi))
        at_logits = pull[..., None] * (one_hot(self.right, self.chain.symbols) - pi)
        return self._to_weights(self.features, at_logits / self.chain.pool)

    @staticmethod
    def _to_weights(
        features: Float[Tensor, "S P T d"], at_logits: Float[Tensor, "S P T V"]
    ) -> Float[Tensor, "S d V"]:
        return torch.bmm(features.flatten(1, 2).transpose(1, 2), at_logits.flatten(1, 2))

    def step(self, update: Float[Tensor, "S d V"]) -> None:
        """Take one optimizer step up the update, each run at its rate."""
        for group, own in zip(self.optimizer.param_groups, update.view_as(self.theta), strict=True):
            group["params"][0].grad = own
        self.optimizer.step()
