"""Several strategies on one saved window of a real run, with the model's real gradient.

The update of a strategy is Σ C[i, t] ∇ log π(o[i, t]), one pass backward through the model per
strategy (in two halves of the groups, so that what they agree on can be told from noise).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from grpo_credit.diagnostics import mass_by_length, mass_by_position
from grpo_credit.rollouts import Rollouts
from grpo_credit.saved import SavedRollouts
from grpo_credit.strategy import CreditError, Strategy


@dataclass(frozen=True)
class Replayed:
    """What a strategy does to the model on the window.

    Args:
        strategy: its name.
        gradient: Σ C ∇ log π, flat over all trained parameters, float64.
        halves: the same over either half of the groups; they sum to `gradient`.
        shares: where |credit| lies: "position 1" to "position 10", "length 1" to "length 4",
            "entropy low" and "high" (about the median token), "positive", "right" (of completions
            with more than the mean reward); each family sums to 1 with what is left out.
    """

    strategy: str
    gradient: Float[Tensor, " D"]
    halves: tuple[Float[Tensor, " D"], Float[Tensor, " D"]]
    shares: dict[str, float]

    @property
    def norm(self) -> float:
        """Euclidean length of the gradient."""
        return float(self.gradient.norm())

    @property
    def snr(self) -> float:
        """Split-half signal to noise: 4⟨g₁, g₂⟩ / |g₁ − g₂|², negative where the halves oppose.

        Both halves estimate half of the same update, so ⟨g₁, g₂⟩ is its squared length over 4 and
        |g₁ − g₂|² the noise of their sum.
        """
        one, two = self.halves
        noise = (one - two).square().sum()
        return float(4 * (one @ two) / noise) if noise > 0 else float("inf")


@dataclass(frozen=True)
class Replay:
    """Strategies on one window.

    Args:
        replayed: one per strategy.
        drift: mean |log π - log π_old| of the counted tokens, nats: how far the model is from the
            policy that sampled them. None where the file has no old log-probabilities.
        tokens: counted tokens of the window.
        completions: of the window.
    """

    replayed: list[Replayed]
    drift: float | None
    tokens: int
    completions: int

    def cosines(self) -> Float[Tensor, "K K"]:
        """Return the cosine between every two gradients; 0 with one that vanishes."""
        every = torch.stack([r.gradient for r in self.replayed])
        units = every / every.norm(dim=1, keepdim=True).clamp(min=torch.finfo(every.dtype).tiny)
        return units @ units.T


def replay(
    saved: SavedRollouts,
    model: nn.Module,
    strategies: Mapping[str, Strategy],
    *,
    rows: int = 8,
    progress: Any = iter,
) -> Replay:
    """Compute the gradient of each strategy on the saved window.

    Args:
        saved: of `load_rollouts`, with prompt ids.
        model: a causal language model of transformers, at the weights to differentiate at.
        strategies: by the name to show.
        rows: completions per forward pass.
        progress: wraps the iteration over passes, such as `tqdm`.

    Raises:
        CreditError: if the file has no prompt ids, or lacks what a strategy needs.
    """
    if not saved.prompt_ids:
        raise CreditError("the rollouts were saved without prompt ids; the model needs them.")
    rollouts = saved.rollouts
    credits = {name: strategy.credit(rollouts) for name, strategy in strategies.items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    sums = {name: torch.zeros(2, size, dtype=torch.float64) for name in strategies}
    drifts: list[float] = []
    passes = [(half, part) for half in (0, 1) for part in _rows_of(rollouts, half).split(rows)]
    for half, part in progress(passes):
        logps = completion_logps(saved, model, part)
        drifts += _drift(rollouts, logps.detach(), part)
        for name, credit in credits.items():
            weights = credit[part] * rollouts.window_count[part, None]
            grads = torch.autograd.grad(
                (logps * weights).sum(), parameters, retain_graph=True, allow_unused=True
            )
            sums[name][half] += _flat(grads, parameters)
    return Replay(
        [
            Replayed(name, both.sum(0), (both[0], both[1]), _shares(credits[name], rollouts))
            for name, both in sums.items()
        ],
        sum(drifts) / len(drifts) if drifts else None,
        int(rollouts.num_tokens),
        int(rollouts.num_completions),
    )


def completion_logps(
    saved: SavedRollouts, model: nn.Module, rows: Int[Tensor, " n"]
) -> Float[Tensor, "n T"]:
    """Return the log-probability of each completion token at the sampling temperature, nats."""
    rollouts = saved.rollouts
    prompts = [torch.tensor(saved.prompt_ids[row]) for row in rows.tolist()]
    padded = pad_sequence([p.flip(0) for p in prompts], batch_first=True, padding_value=-1).flip(1)
    ends = rollouts.mask[rows].flip(1).cumsum(1).flip(1) > 0  # up to the last counted token
    ids = torch.cat([padded.clamp(min=0), rollouts.completion_ids[rows]], dim=1)
    attention = torch.cat([padded >= 0, ends], dim=1)
    device = next(model.parameters()).device
    logits = model(
        input_ids=ids.to(device),
        attention_mask=attention.long().to(device),
        position_ids=(attention.long().cumsum(1) - 1).clamp(min=0).to(device),
    ).logits
    width = rollouts.mask.shape[1]
    scaled = logits[:, -width - 1 : -1].float() / saved.temperature
    found = scaled.log_softmax(-1).gather(2, ids[:, -width:, None].to(device)).squeeze(2)
    return torch.where(rollouts.mask[rows], found.cpu(), 0.0)


def _rows_of(rollouts: Rollouts, half: int) -> Int[Tensor, " n"]:
    """Deal the window's groups to two halves in turn, and return the rows of one."""
    used = (rollouts.window_count > 0).nonzero().flatten()
    return used[rollouts.group[used].unique(return_inverse=True)[1] % 2 == half]


def _flat(grads: Any, parameters: list[nn.Parameter]) -> Float[Tensor, " D"]:
    whole = [
        torch.zeros_like(p) if g is None else g for g, p in zip(grads, parameters, strict=True)
    ]
    return torch.cat([g.flatten().double().cpu() for g in whole])


def _drift(rollouts: Rollouts, logps: Float[Tensor, "n T"], rows: Int[Tensor, " n"]) -> list[float]:
    if rollouts.old_logps is None:
        return []
    return (logps - rollouts.old_logps[rows])[rollouts.mask[rows]].abs().tolist()


def _shares(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> dict[str, float]:
    found = {f"position {n + 1}": v for n, v in enumerate(mass_by_position(credit, rollouts))}
    found |= {f"length {n + 1}": v for n, v in enumerate(mass_by_length(credit, rollouts))}
    scored = rollouts.rewards[~rollouts.rewards.isnan()]
    right = (rollouts.rewards > scored.mean())[:, None].expand_as(rollouts.mask)
    found["positive"] = _share(credit, rollouts, credit > 0)
    found["right"] = _share(credit, rollouts, right)
    if rollouts.entropies is not None:
        median = rollouts.entropies[rollouts.mask].median()
        found["entropy high"] = _share(credit, rollouts, rollouts.entropies > median)
    return found


def _share(credit: Float[Tensor, "B T"], rollouts: Rollouts, which: Bool[Tensor, "B T"]) -> float:
    mass = rollouts.window_sum(credit.abs().sum(1))
    kept = rollouts.window_sum(torch.where(which, credit.abs(), 0.0).sum(1))
    return float(kept / mass) if mass > 0 else 0.0
