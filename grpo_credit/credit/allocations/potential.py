"""A user's potential of prefixes, as a state baseline or as immediate credit."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.credit.registry import allocation, import_object
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.errors import CreditError

Potential = Callable[[Rollouts], Tensor]


@allocation(linear=False, paper="Ng et al. 1999, potential-based reward shaping")
def potential(
    rollouts: Rollouts, *, function: str | Potential, gamma: float = 1.0, immediate: bool = False
) -> Float[Tensor, "B T"]:
    """Shape by a potential Φ of prefixes: subtract what the prefix was worth from the start on.

        A[i, t] = A_i - (Φ(s_t) - Φ(s_0)), or with `immediate` A_i + gamma · Φ(s_t+1) - Φ(s_t)

    s_t is the prefix before counted token t, s_0 the prompt. The shaping reward is F_t = gamma ·
    Φ(s_t+1) - Φ(s_t), where s_t+1 is the prefix before the next counted token, so that a tool's
    output belongs to the token that asked for it, and Φ is 0 once the completion is over, whether
    it ended or was cut off (the length limit is part of the task).

    By default a token gets the return of F from t on, Σ_{k≥t} gamma^(k-t) · F_k = -Φ(s_t) for every
    gamma. Completions of a group share the prompt, so centring the shaped return R_i - Φ(s_0) in
    the group puts Φ(s_0) back. What is left is a baseline that depends on the prefix only: under
    an aggregation that is blind to a completion's length (`seq`, `uniform`) the expected update is
    the same for every Φ, and its variance falls as far as Φ foresees the advantage (Φ is in the
    advantage's units). A token that moves to a worthier prefix gets no more itself; the tokens
    after it have more to live up to.

    With `immediate` a token gets its own F_t alone. This is denser and says more about where credit
    belongs, but it does change what is optimal: a token is paid for progress now and not charged
    for what comes of it. The last token gets -Φ(s_last): ending early pays where Φ is negative.

    Args:
        rollouts: uses `advantages`, and `rewards` to see abstentions. `function` gets them too; the
            optional fields are there only if another rule of the strategy needs them.
        function: "pkg.mod:obj" or a callable: rollouts -> Φ (B, T + 1), before the first token and
            after each, masked ones included. Φ must be a function of the prefix: one that looks
            ahead, or at the reward, biases the update.
        gamma: discount of the shaping, 0 to 1; only with `immediate`.
        immediate: credit F_t itself.

    Returns:
        Allocation (B, T), dimensionless, signed.

    Raises:
        CreditError: if `function` cannot be imported or returns something else, or `gamma` is out
            of its range or has no effect.

    Degenerate cases: a constant Φ is `even` by default. A group without reward variance gets the
    shaping alone. A completion that every function abstained from gets 0.
    Deviation: the trainer's return is not discounted, so that gamma < 1 is a heuristic.

    Example:
        >>> two = Rollouts.from_lists([2, 3], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=4, advantages=[1.0, -1.0])
        >>> def half_per_token(rollouts):
        ...     return pad(rollouts.mask.cumsum(dim=1), (1, 0)) / 2
        >>> potential(two, function=half_per_token)
        tensor([[ 1.0000,  0.5000,  0.0000],
                [-1.0000, -1.5000, -2.0000]])
        >>> potential(two, function=half_per_token, immediate=True)  # the last of each: -Φ(s_t)
        tensor([[ 1.5000,  0.5000,  0.0000],
                [-0.5000, -0.5000, -2.0000]])

    Source: Ng, Harada, Russell 1999, Policy invariance under reward transformations, theorem 1.
    """
    _check_gamma(gamma, immediate)
    before = _before_tokens(function, rollouts)
    shaping = (
        gamma * _at_next_token(before, rollouts) - before if immediate else before[:, :1] - before
    )
    lands = rollouts.mask & ~rollouts.rewards.isnan()[:, None]
    return torch.where(lands, rollouts.advantages[:, None] + shaping, 0.0)


def _check_gamma(gamma: float, immediate: bool) -> None:
    if not 0 <= gamma <= 1:
        raise CreditError(f"gamma is {gamma:g}, expected 0 to 1.")
    if gamma != 1 and not immediate:
        raise CreditError(
            f"gamma is {gamma:g}, but the shaping's return is -Φ(s_t) for every gamma; leave it at "
            "1, or set immediate."
        )


def _before_tokens(function: str | Potential, rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Return Φ before each token, after checking what the user's function gave."""
    call = import_object(function, "potential") if isinstance(function, str) else function
    name = function if isinstance(function, str) else getattr(function, "__name__", function)
    if not callable(call):
        raise CreditError(f"{name} is a {type(call).__name__}, expected a function of Rollouts.")
    phi = call(rollouts)
    rows, columns = rollouts.mask.shape
    if not isinstance(phi, Tensor) or tuple(phi.shape) != (rows, columns + 1):
        got = tuple(phi.shape) if isinstance(phi, Tensor) else type(phi).__name__
        raise CreditError(
            f"the potential {name} returned {got}, expected a tensor of shape "
            f"{(rows, columns + 1)}: one value before the first token and one after each."
        )
    before = phi[:, :-1].detach().to(rollouts.advantages)
    _expect_finite(before, rollouts, name)
    return before


def _expect_finite(before: Float[Tensor, "B T"], rollouts: Rollouts, name: object) -> None:
    used = rollouts.mask | (torch.arange(before.shape[1], device=before.device) == 0)
    if (wrong := used & ~before.isfinite()).any():
        row, column = wrong.nonzero()[0].tolist()
        raise CreditError(
            f"the potential {name} gave {before[row, column].item()} before token {column} of "
            f"completion {row}, expected a finite number."
        )


def _at_next_token(before: Float[Tensor, "B T"], rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Return Φ before the next counted token; 0 after the last."""
    columns = before.shape[1]
    places = torch.arange(columns, device=before.device).where(rollouts.mask, columns)
    following = pad(places, (0, 1), value=columns).flip(1).cummin(dim=1).values.flip(1)[:, 1:]
    return pad(before, (0, 1)).gather(1, following)
