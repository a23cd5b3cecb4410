"""Numbers about a credit matrix. Each is a pure function of credit and rollouts.

A row counts as often as it is trained on in the window (`rollouts.window_count`).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.turns import ROLES, Turns, anchors, numbered, of_role

TURNS = 4  # the last of which stands for all later ones


def mass(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> dict[str, float]:
    """Sum the credit of the window, by sign.

        mass = Σ C      mass_positive = Σ max(C, 0)      mass_negative = Σ min(C, 0)

    `mass` is the net pressure on log-probabilities: below zero, the step makes what was sampled
    less likely on the whole. Dimensionless.
    """
    per_row = {"": credit, "_positive": credit.clamp(min=0), "_negative": credit.clamp(max=0)}
    return {f"mass{k}": float(rollouts.window_sum(v.sum(dim=1))) for k, v in per_row.items()}


def effective_tokens(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Count the tokens that the credit is spread over.

        (Σ |C|)² / Σ C²

    Equal to the number of counted tokens when all have the same |credit|, 1 when one has it all,
    and 0 when there is no credit.
    """
    first = rollouts.window_sum(credit.abs().sum(dim=1))
    second = rollouts.window_sum(credit.square().sum(dim=1))
    return float(first.square() / second) if second > 0 else 0.0


def gini(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Return how unequally |credit| is spread over the n counted tokens.

        Σ_j Σ_k | |C_j| - |C_k| | / (2 n Σ_k |C_k|)

    0 when all have the same |credit|, 1 - 1/n when one has it all, and 0 when there is no credit.
    """
    size, order = credit[rollouts.mask].abs().sort()
    times = rollouts.window_count[:, None].expand_as(rollouts.mask)[rollouts.mask][order]
    rank = times.cumsum(0)  # of the last copy of each token
    sizes, total = times * size, times.sum()
    if not sizes.sum() > 0:
        return 0.0
    spread = (sizes * (2 * rank - times - total)).sum() / (sizes.sum() * total)
    return float(spread.clamp(min=0))  # rounding


def zero_share(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Return the share of counted tokens whose credit is exactly zero; 0 without counted tokens."""
    return _share((credit == 0) & rollouts.mask, rollouts.mask, rollouts)


def sign_flip_rate(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Return the share of tokens that `even` would push the other way.

        share of  sign C[i, t] = -sign A_i  among the counted tokens with A_i ≠ 0

    0 when no completion has an advantage. A token without credit is not flipped.
    """
    signed = rollouts.mask & (rollouts.advantages != 0)[:, None]
    flipped = signed & (credit.sign() * rollouts.advantages.sign()[:, None] < 0)
    return _share(flipped, signed, rollouts)


def mass_by_position(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> list[float]:
    """Return the share of |credit| in each tenth of a completion, the first tokens first.

        decile[i, t] = ⌊10 · position[i, t] / L_i⌋

    Ten numbers that sum to 1, or zeros when there is no credit. Under `even` they are uneven where
    completions have fewer than ten tokens: compare with what `even` gives on the same rollouts.
    """
    decile = 10 * rollouts.position // rollouts.mask.sum(dim=1, keepdim=True).clamp(min=1)
    inside = decile.clamp(max=9)  # padding counts on, and has no credit
    return _shares(credit.abs() * rollouts.window_count[:, None], inside, 10)


def mass_by_length(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> list[float]:
    """Return the share of |credit| in each quarter of the window's completions, the shortest first.

    The quarters are cut at the quartiles of `L_i`; a completion as long as a quartile belongs below
    it, so equally long completions are all in the first. Four numbers that sum to 1, or zeros when
    there is no credit.
    """
    used = rollouts.lengths.float().repeat_interleave(rollouts.window_count)
    if not used.numel():
        return [0.0] * 4
    quartiles = used.quantile(used.new_tensor([0.25, 0.5, 0.75]))
    quarter = torch.bucketize(rollouts.lengths.float(), quartiles)
    return _shares(credit.abs().sum(dim=1) * rollouts.window_count, quarter, 4)


def mass_before_decided(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> float:
    """Return the share of |credit| on tokens up to and including the one that settled the reward.

        Σ |C[i, t]|, t < max_k decided[i, k]  /  Σ |C|

    The reward is settled with the last of its functions; those of weight 0 do not count. What is
    left lies on tokens that could not change it any more. 0 when there is no credit.

    Raises:
        ValueError: if the rollouts lack `decided`.
    """
    if rollouts.decided is None:
        raise ValueError("rollouts.decided is None; expected (B, K), see `Rollouts`.")
    counts = rollouts.decided.new_tensor([weight != 0 for weight in rollouts.reward_weights])
    settled = (rollouts.decided * counts).amax(dim=1, keepdim=True)
    before = torch.arange(credit.shape[1], device=credit.device) < settled
    return _share(credit.abs() * before, credit.abs(), rollouts)


def mass_by_turn(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> list[float]:
    """Return the shares of |credit| on the first, second, third, and all later turns.

    What others wrote has no credit. All 0 when there is none.

    Raises:
        ValueError: if the rollouts lack `turns`.
    """
    turn = numbered(_turns(rollouts), rollouts.mask)
    size = credit.abs()
    first = [_share(size * (turn == number), size, rollouts) for number in range(1, TURNS)]
    return [*first, _share(size * (turn >= TURNS), size, rollouts)]


def mass_by_role(credit: Float[Tensor, "B T"], rollouts: Rollouts) -> dict[str, float]:
    """Return the shares of |credit| on thoughts, calls and answers; all 0 when there is none.

    Raises:
        ValueError: if the rollouts lack `turns`.
    """
    turns, size = _turns(rollouts), credit.abs()
    return {
        f"role_{role}": _share(size * of_role(turns, role, rollouts.mask), size, rollouts)
        for role in ROLES
    }


def _turns(rollouts: Rollouts) -> Turns:
    if rollouts.turns is None:
        raise ValueError("rollouts.turns is None; expected those of each row, see `Rollouts`.")
    return rollouts.turns


def norm_ratio(
    credit: Float[Tensor, "B T"], rollouts: Rollouts, even_credit: Float[Tensor, "B T"]
) -> float:
    """Compare the size of the credit with that of `even` under the same aggregation.

        √( Σ C² / Σ C_even² )

    An estimate of the ratio of their gradient norms that needs no model: it is that ratio where the
    tokens' score vectors ∇ log π are orthogonal and equally long, and each row is used at most
    once. Real score vectors are neither. 0 when `even` gives no credit.
    """
    return math.sqrt(_share(credit.square(), even_credit.square(), rollouts))


def _share(part: Tensor, whole: Tensor, rollouts: Rollouts) -> float:
    """Divide two sums over the window; nothing is no share of nothing."""
    total = rollouts.window_sum(whole.sum(dim=1))
    return float(rollouts.window_sum(part.sum(dim=1)) / total) if total > 0 else 0.0


def _shares(size: Tensor, part: Tensor, parts: int) -> list[float]:
    """Return which share of the whole each part has; nothing is no share of nothing."""
    numbers = size.flatten().cpu().double()  # which not every accelerator has
    sums = torch.bincount(part.flatten().cpu(), numbers, minlength=parts)
    return (sums / sums.sum() if sums.sum() > 0 else sums).tolist()


def dead_groups(rollouts: Rollouts, midpoint: float) -> dict[str, float]:
    """Return the share of groups that have no advantage and so teach nothing.

    A group is dead where no advantage exceeds 1e-6, or where each reward function gives all the
    completions that it scores the same reward (what advantage is left is then float noise). It is
    `low` where its reward lies at or below `midpoint`, otherwise `high`: too hard, or too easy. A
    group in which nothing was scored is low.

    Args:
        rollouts: whole groups; groups outside the window are left out.
        midpoint: what separates low from high, in units of the reward.
    """
    used = _by_group(rollouts.window_count, rollouts, "amax") > 0
    most = _by_group(rollouts.advantages.abs(), rollouts, "amax")
    rewards = rollouts.rewards_per_func  # never scored: -inf to inf, which is no spread
    best = _by_group(rewards.nan_to_num(nan=-math.inf), rollouts, "amax")
    worst = _by_group(rewards.nan_to_num(nan=math.inf), rollouts, "amin")
    dead = used & ((most <= 1e-6) | (best <= worst).all(dim=1))
    top = _by_group(rollouts.rewards.nan_to_num(nan=-math.inf), rollouts, "amax")
    counts = torch.stack([dead, dead & ~(top > midpoint), dead & (top > midpoint), used]).sum(dim=1)
    total, low, high, groups = counts.tolist()
    shares = {"dead_groups": total, "dead_groups_low": low, "dead_groups_high": high}
    return {name: count / max(1, groups) for name, count in shares.items()}


def _by_group(value: Tensor, rollouts: Rollouts, reduce: str) -> Tensor:
    """Reduce (B,) or (B, K) to one row per group."""
    names, index = rollouts.group.unique(return_inverse=True)
    index = index.view(-1, *[1] * (value.dim() - 1)).expand_as(value)
    reduced = value.new_zeros(len(names), *value.shape[1:])
    return reduced.scatter_reduce(0, index, value, reduce, include_self=False)


def midpoint(rewards: Float[Tensor, " B"], seen: dict[str, float]) -> float:
    """Take in new rewards; return the middle of the range seen, or 0 while all were equal.

    Args:
        rewards: NaN for abstentions.
        seen: the range, `low` and `high`, which is widened; empty at first.
    """
    scored = rewards[~rewards.isnan()]
    if scored.numel():
        seen["low"] = min(seen.get("low", math.inf), float(scored.min()))
        seen["high"] = max(seen.get("high", -math.inf), float(scored.max()))
    return sum(seen.values()) / 2 if len(set(seen.values())) == 2 else 0.0


def loops(rollouts: Rollouts) -> float:
    """Return the share of completions that were cut off in an automaton's loop.

        truncated[i], the last counted token left the state q as it was, and others moved on from q

    Under a rule that credits changes of a state's value, staying there had cost them nothing. A
    state that nobody leaves is no loop in this sense: there the reward may be settled.

    Raises:
        ValueError: if the rollouts lack `states`.
    """
    if rollouts.states is None:
        raise ValueError("rollouts.states is None; expected (B, T + 1), see `Rollouts`.")
    column = torch.arange(rollouts.mask.shape[1], device=rollouts.mask.device)
    last = torch.where(rollouts.mask, column, 0).amax(dim=1, keepdim=True)
    before, after = (rollouts.states.gather(1, place)[:, 0] for place in (last, last + 1))
    moved = rollouts.mask & (rollouts.states.diff(dim=1) != 0)
    left = torch.isin(after, rollouts.states[:, :-1][moved])
    caught = rollouts.truncated & (before == after) & left & rollouts.mask.any(dim=1)
    return float(rollouts.window_sum(caught.float()) / max(1, int(rollouts.window_count.sum())))


def summary(
    credit: Float[Tensor, "B T"],
    rollouts: Rollouts,
    even_credit: Float[Tensor, "B _"] | None = None,
) -> dict[str, float]:
    """Collect what the trainer logs as `credit/*` besides `dead_groups`.

    Args:
        credit: the window's credit.
        rollouts: the window.
        even_credit: what `even` gives under the same aggregation, per token or per row; None for
            a strategy without an aggregation, which has no `norm_ratio`.

    Returns:
        Name -> number; `before_decided` only where the rollouts have `decided`, `loops` only where
        they have `states`; only where they have `turns` the shares of |credit| by role and by turn,
        and `anchor_hits`, the share of turns in whose state another of the group was written;
        `ref_logp` only where they have `ref_logps`:
        the mean log-probability of a completion under the reference.
    """
    credit = torch.where(rollouts.mask, credit, 0.0)
    numbers = {
        **mass(credit, rollouts),
        "effective_tokens": effective_tokens(credit, rollouts),
        "gini": gini(credit, rollouts),
        "zero_share": zero_share(credit, rollouts),
        "sign_flip_rate": sign_flip_rate(credit, rollouts),
        **_numbered("position", mass_by_position(credit, rollouts)),
        **_numbered("length", mass_by_length(credit, rollouts)),
    }
    if rollouts.decided is not None:
        numbers["before_decided"] = mass_before_decided(credit, rollouts)
    if rollouts.states is not None:
        numbers["loops"] = loops(rollouts)
    if rollouts.turns is not None:
        shared = anchors(rollouts.turns, rollouts.group)[-1]
        numbers["anchor_hits"] = float(shared.double().mean()) if len(shared) else 0.0
        numbers |= mass_by_role(credit, rollouts)
        numbers |= _numbered("turn", mass_by_turn(credit, rollouts))
    if rollouts.ref_logps is not None:
        per_row = torch.where(rollouts.mask, rollouts.ref_logps, 0.0).sum(dim=1)
        numbers["ref_logp"] = float(rollouts.window_sum(per_row) / rollouts.num_completions)
    if even_credit is not None:
        even_credit = torch.where(rollouts.mask, even_credit, 0.0)
        numbers["norm_ratio"] = norm_ratio(credit, rollouts, even_credit)
    return numbers


def _numbered(name: str, values: list[float]) -> dict[str, float]:
    return {f"{name}_{number}": value for number, value in enumerate(values, start=1)}
