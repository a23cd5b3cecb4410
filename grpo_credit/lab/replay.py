"""Several strategies on one saved window of a real run, with the model's real gradient.

The update of a strategy is Σ C[i, t] ∇ log π(o[i, t]), one pass backward through the model per
strategy (in two halves of the groups, so that what they agree on can be told from noise).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from grpo_credit.credit.allocations.baselines import squared_score
from grpo_credit.credit.diagnostics import mass_by_length, mass_by_position
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.saved import SavedRollouts, credit_of
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.lab.sampling import Progress

_FILE = "the file of rollouts"


@dataclass(frozen=True)
class Replayed:
    """What a strategy does to the model on the window.

    Args:
        strategy: its name.
        gradient: Σ C ∇ log π, flat over all trained parameters, float64.
        halves: the same over either half of the groups; they sum to `gradient`.
        shares: where the gradient's mass lies (`gradient_mass`): "position 1" to "position 10" by
            tenths of a completion, "length 1" to "length 4" by quarters of the completions,
            "entropy 1" to "entropy 4" by quarters of the tokens, the least uncertain first;
            "positive" where the credit is, "right" in completions with more than the mean reward;
            what is left of these two is negative, and wrong.
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


class Tokens(NamedTuple):
    """What the model says at each token, at the sampling temperature; 0 where none is counted.

    Args:
        logps: log-probability of the token, nats.
        entropies: of the next-token distribution, nats.
        sum_sq_probs: Σ_v π_v² of it.
    """

    logps: Float[Tensor, "n T"]
    entropies: Float[Tensor, "n T"]
    sum_sq_probs: Float[Tensor, "n T"]


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
    model: PreTrainedModel,
    strategies: Mapping[str, Strategy],
    *,
    rows: int = 8,
    progress: Progress = iter,
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
    _expect_known(saved, model)
    credits = {n: credit_of(n, strategy, saved, _FILE) for n, strategy in strategies.items()}
    parameters = [p for p in model.parameters() if p.requires_grad]
    size = sum(p.numel() for p in parameters)
    sums = {name: torch.zeros(2, size, dtype=torch.float64) for name in strategies}
    whole = Tokens(*torch.zeros(3, *rollouts.mask.shape, dtype=torch.float64))
    drifts: list[float] = []
    passes = [(half, part) for half in (0, 1) for part in _rows_of(rollouts, half).split(rows)]
    for half, part in progress(passes):
        tokens = read_tokens(saved, model, part)
        if rollouts.old_logps is not None:
            drift = tokens.logps.detach() - rollouts.old_logps[part]
            drifts += drift[rollouts.mask[part]].abs().tolist()
        for values, seen in zip(whole, tokens, strict=True):
            values[part] = seen.detach().double()
        for name, credit in credits.items():
            weights = credit[part] * rollouts.window_count[part, None]
            grads = torch.autograd.grad(
                (tokens.logps * weights).sum(), parameters, retain_graph=True,
                allow_unused=True, materialize_grads=True,
            )  # fmt: skip
            sums[name][half] += torch.cat([g.flatten().double().cpu() for g in grads])
    return Replay(
        [
            Replayed(name, both.sum(0), (both[0], both[1]), shares(credits[name], whole, rollouts))
            for name, both in sums.items()
        ],
        sum(drifts) / len(drifts) if drifts else None,
        int(rollouts.num_tokens),
        int(rollouts.num_completions),
    )


def _expect_known(saved: SavedRollouts, model: Any) -> None:
    """Refuse token ids that the model has no embedding for: the rollouts are of another model."""
    size = model.get_input_embeddings().num_embeddings
    ids = chain(saved.rollouts.completion_ids.flatten().tolist(), *saved.prompt_ids)
    odd = [token for token in ids if not 0 <= token < size]
    if odd:
        raise CreditError(
            f"the rollouts have the token id {odd[0]}, but the model knows {size:,} tokens; name "
            "the model that the run trained."
        )


def read_tokens(saved: SavedRollouts, model: nn.Module, rows: Int[Tensor, " n"]) -> Tokens:
    """Run the model over prompts and completions; the log-probabilities carry the gradient."""
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
    logps = (logits[:, -width - 1 : -1].float() / saved.temperature).log_softmax(-1)
    own = logps.gather(2, ids[:, -width:, None].to(device)).squeeze(2)
    probs = logps.detach().exp()
    values = own, torch.special.entr(probs).sum(2), probs.square().sum(2)
    return Tokens(*(torch.where(rollouts.mask[rows], value.cpu(), 0.0) for value in values))


def gradient_mass(
    credit: Float[Tensor, "B T"], logps: Float[Tensor, "B T"], sum_sq_probs: Float[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """Return how hard each token pulls at the logits of its place.

        |C[i, t]| · ‖∂ log π(o[i, t]) / ∂ logits‖

    Credit on a token that the model is sure of moves nothing, however much it is.
    """
    return credit.abs() * squared_score(logps, sum_sq_probs).sqrt()


def _rows_of(rollouts: Rollouts, half: int) -> Int[Tensor, " n"]:
    """Deal the window's groups to two halves in turn, and return the rows of one."""
    used = (rollouts.window_count > 0).nonzero().flatten()
    return used[rollouts.group[used].unique(return_inverse=True)[1] % 2 == half]


def shares(credit: Float[Tensor, "B T"], tokens: Tokens, rollouts: Rollouts) -> dict[str, float]:
    """Return where the gradient's mass lies; see `Replayed.shares`."""
    pull = gradient_mass(credit, tokens.logps, tokens.sum_sq_probs)
    quarter = _quarters(tokens.entropies, rollouts)
    scored = rollouts.rewards[~rollouts.rewards.isnan()]
    right = (rollouts.rewards > scored.mean())[:, None].expand_as(rollouts.mask)
    return {
        **{f"position {n + 1}": v for n, v in enumerate(mass_by_position(pull, rollouts))},
        **{f"length {n + 1}": v for n, v in enumerate(mass_by_length(pull, rollouts))},
        **{f"entropy {n + 1}": _share(pull, rollouts, quarter == n) for n in range(4)},
        "positive": _share(pull, rollouts, credit > 0),
        "right": _share(pull, rollouts, right),
    }


def _quarters(values: Float[Tensor, "B T"], rollouts: Rollouts) -> Int[Tensor, "B T"]:
    """Deal the counted tokens of the window to four quarters by a value; equal ones go together."""
    used = values[rollouts.mask & (rollouts.window_count > 0)[:, None]]
    if not used.numel():
        return torch.zeros_like(rollouts.completion_ids)
    return torch.bucketize(values, used.quantile(used.new_tensor([0.25, 0.5, 0.75])))


def _share(pull: Float[Tensor, "B T"], rollouts: Rollouts, which: Bool[Tensor, "B T"]) -> float:
    mass = rollouts.window_sum(pull.sum(1))
    inside = rollouts.window_sum(torch.where(which, pull, 0.0).sum(1))
    return float(inside / mass) if mass > 0 else 0.0
