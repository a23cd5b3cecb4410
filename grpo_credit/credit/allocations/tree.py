"""Credit from the prefixes that group members share: a tree whose edges are tokens.

Two group members are at the same node of the tree as long as all their token ids agree, tool
outputs and the end-of-sequence token included. A completion ends with its last counted token; one
that has ended is no prefix of a longer one. Completions without a counted token, and those that no
reward function scored, are in no tree. Trees are over whole groups, over all ranks, whichever
optimizer step a member is trained on in.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.credit.allocations.baselines import scored
from grpo_credit.credit.registry import allocation
from grpo_credit.credit.rollouts import Rollouts


@allocation(linear=True, keeps_sign=True, paper="λ-GRPO, arXiv:2509.21154")
def prefix_tree(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Divide the advantage by the number of group members that share the prefix.

        A[i, t] = A_i / |λ(i, t)|,  λ(i, t) = {j in the group of i: o_j[≤ t] = o_i[≤ t]}

    With token-level losses GRPO rewards a shared prefix once per member that runs through it, so
    steps that many members take drown the others; dividing undoes that. Without shared prefixes
    it is `even`. At temperature 1 trees are shallow: only the first tokens change.

    Args:
        rollouts: uses `completion_ids`, `group` and `advantages`, dimensionless.

    Returns:
        Allocation (B, T), of the advantage's sign. Nothing is conserved: the mass of a completion
        drops where its prefix is shared.

    Degenerate cases: of n equal completions each gets 1/n; completions in no tree keep A_i.
    Deviation: completions that no reward function scored are not counted.

    Example:
        >>> three = Rollouts.from_lists([2, 2, 2], [1.0, 0.0, 0.0], num_generations=3,
        ...                             max_completion_length=4, advantages=[2.0, -1.0, -1.0],
        ...                             completion_ids=[[5, 6], [5, 7], [8, 6]])
        >>> prefix_tree(three)  # two members begin with 5
        tensor([[ 1.0000,  2.0000],
                [-0.5000, -1.0000],
                [-1.0000, -1.0000]])

    Source: Sullivan and Koller 2026, GRPO is Secretly a Process Reward Model, ICML,
    arXiv:2509.21154, λ-GRPO.
    """
    nodes, through = _prefixes(rollouts)
    members = _sum_through(nodes, through, torch.ones_like(rollouts.advantages))
    shared = rollouts.advantages[:, None] / members[:, 1:].clamp(min=1)
    return torch.where(rollouts.mask, shared, 0.0)


@allocation(linear=False, paper="TEMPO, arXiv:2509.18314")
def tempo(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Add to the advantage the change of its mean over the group members that share the prefix.

        A[i, t] = A_i + V(s_{t+1}) - V(s_t),  V(s) = mean of A_j over members through s

    Where members part, the token that leads to the better branch gets more; everywhere else this is
    `even`. As V is a mean of advantages, the paper's common divisor, the group's standard
    deviation, is that of `scale_rewards`. The outcome counts twice, once for every token and once
    where it was decided, so the expected update is not the gradient of the reward.

    Args:
        rollouts: uses `completion_ids`, `group`, `rewards` to see abstentions, and `advantages`.

    Returns:
        Allocation (B, T), in units of the advantages.

    Degenerate cases: completions in no tree get A_i; one that shares no prefix gets 2 A_i on its
    first token and A_i on the others. What changes across masked tokens, such as a tool's output,
    goes to nobody.
    Deviation: none from the authors' code but TRL's 1e-4 beside the standard deviation (1e-6 there)
    and completions without a score, which are in no tree.

    Example:
        >>> three = Rollouts.from_lists([2, 2, 2], [1.0, 0.0, 0.0], num_generations=3,
        ...                             max_completion_length=4, advantages=[2.0, -1.0, -1.0],
        ...                             completion_ids=[[5, 6], [5, 7], [8, 6]])
        >>> tempo(three)  # V: 0 at the start, 1/2 after 5, -1 after 8
        tensor([[ 2.5000,  3.5000],
                [-0.5000, -2.5000],
                [-2.0000, -1.0000]])

    Source: Tran et al. 2025, TEMPO, arXiv:2509.18314, and its code.
    """
    nodes, through = _prefixes(rollouts)
    members = _sum_through(nodes, through, torch.ones_like(rollouts.advantages)).clamp(min=1)
    values = _sum_through(nodes, through, rollouts.advantages) / members
    last = through.sum(dim=1, keepdim=True) - 1
    final = values.gather(1, last.clamp(min=0))[:, 0]
    changes = temporal_differences(values[:, 1:], values[:, 0], final, rollouts.mask)
    landed = rollouts.advantages[:, None] + changes * (last >= 0)
    return torch.where(rollouts.mask, landed, 0.0)


@allocation(
    linear=False,
    paper="after TEMPO, arXiv:2509.18314",
    caution="it does not learn where completions share no prefix, as their first tokens are free.",
)
def tree_td(rollouts: Rollouts, *, leave_one_out: bool = False) -> Float[Tensor, "B T"]:
    """Credit a token with the change of the mean reward of the group members that share the prefix.

        A[i, t] = V(s_{t+1}) - V(s_t),  V(s) = mean of R_j over members through s

    Credit lands where members part: tokens that all of them write get nothing, the token that
    leads to the better branch gets the difference. After the last counted token V = R_i, so the
    tokens of a completion sum to R_i - V(empty prefix), its group-relative reward, less what a
    tool's outputs changed: that is nobody's. This is the tree part of TEMPO alone; `tempo` is the
    paper's sum of both parts. Where the first tokens are free no two members share a prefix, and
    all credit lands on them: then this does not learn (`lab race`, task `base`: 0.08 of the reward
    on average, `seq` 0.57).

    Args:
        rollouts: uses `completion_ids`, `group` and `rewards`.
        leave_one_out: V of a completion without its own reward, which it otherwise contains; where
            nobody else runs through a prefix, V = R_i, so that the sums stay as they are and the
            token that leaves the others gets R_i - V(their prefix).

    Returns:
        Allocation (B, T), in units of reward, not divided by any standard deviation.

    Degenerate cases: completions in no tree get 0, and so does a completion alone in its tree.
    Where a call is the last turn, V stays what it is after the call: what came of it is not the
    model's. Where tools answer differently each time, nobody shares what comes after, and what the
    model makes of an answer earns nothing: `turns` does without that bias.
    Deviation: the paper adds the advantage, see `tempo`; after the last token its V is the mean
    over equal completions, here R_i.

    Example:
        >>> three = Rollouts.from_lists([2, 2, 2], [1.0, 0.0, 0.0], num_generations=3,
        ...                             max_completion_length=4,
        ...                             completion_ids=[[5, 6], [5, 7], [8, 6]])
        >>> tree_td(three)  # V: 1/3 at the start, 1/2 after 5, 0 after 8
        tensor([[ 0.1667,  0.5000],
                [ 0.1667, -0.5000],
                [-0.3333,  0.0000]])

    Source: the prefix tree's values of Tran et al. 2025, TEMPO, arXiv:2509.18314.
    """
    nodes, through = _prefixes(rollouts)
    rewards = torch.where(scored(rollouts), rollouts.rewards, 0.0)
    left_out = float(leave_one_out)
    others = _sum_through(nodes, through, torch.ones_like(rewards)) - left_out
    total = _sum_through(nodes, through, rewards) - left_out * rewards[:, None]
    values = torch.where(others > 0, total / others.clamp(min=1), rewards[:, None])
    final = settled(rollouts, values[:, 1:], rewards)
    changes = temporal_differences(values[:, 1:], values[:, 0], final, rollouts.mask)
    return torch.where(rollouts.mask & scored(rollouts)[:, None], changes, 0.0)


@allocation(linear=False, paper="after TreeRL, arXiv:2506.11902")
def treerl(rollouts: Rollouts) -> Float[Tensor, "B T"]:
    """Credit a stretch with what it gained over the start and over the stretch before.

        A[i, t] = (V(s) - V(root) + V(s) - V(parent)) / √|L(s)|,  V(s) = mean of R_j over L(s)

    s is the stretch of t: the tokens between two places at which members of the group part; L(s)
    are the members that run through it, and the parent is the stretch before. The root of their
    number damps stretches that many share, and that are trained on as often, less than
    `prefix_tree` does. The outcome counts twice, from the start and from the last parting, so the
    expected update is not the gradient of the reward.

    Args:
        rollouts: uses `completion_ids`, `group` and `rewards`.

    Returns:
        Allocation (B, T), in units of reward, not divided by any standard deviation.

    Degenerate cases: completions in no tree get 0, and so do tokens that the whole group shares.
    Where a tool's output parts members, the tokens after it have gained nothing over it.
    The first stretch of a completion that shares no prefix gets 2 (R_i - V(root)), as its parent is
    the root.
    Deviation: the paper grows its trees by branching where entropy is high; here they are what
    ordinary completions share, so that at temperature 1 most of it is the first tokens.

    Example:
        >>> three = Rollouts.from_lists([2, 2, 2], [1.0, 0.0, 0.0], num_generations=3,
        ...                             max_completion_length=4,
        ...                             completion_ids=[[5, 6], [5, 7], [8, 6]])
        >>> treerl(three)  # V: 1/3 at the root, 1/2 after 5, which two share
        tensor([[ 0.2357,  1.1667],
                [ 0.2357, -0.8333],
                [-0.6667, -0.6667]])

    Source: Hou et al. 2025, TreeRL, arXiv:2506.11902, as public re-implementations give its step
    reward.
    """
    nodes, through = _prefixes(rollouts)
    rewards = torch.where(scored(rollouts), rollouts.rewards, 0.0)
    members = _sum_through(nodes, through, torch.ones_like(rewards)).clamp(min=1)
    values = _sum_through(nodes, through, rewards) / members
    parts = members[:, 1:] != members[:, :-1]
    before = _columns(rollouts.mask) + ~rollouts.mask  # where others part them, the value after
    parent = torch.where(parts, before, 0).cummax(dim=1).values
    gained = 2 * values[:, 1:] - values[:, :1] - values.gather(1, parent)
    counted = rollouts.mask & scored(rollouts)[:, None]
    return torch.where(counted, gained / members[:, 1:].sqrt(), 0.0)


def temporal_differences(
    after: Float[Tensor, "B T"],
    start: Float[Tensor, " B"],
    final: Float[Tensor, " B"],
    mask: Bool[Tensor, "B T"],
) -> Float[Tensor, "B T"]:
    """Subtract from the value after each counted token the value just before it.

        D[i, t] = V[i, t] - V[i, t-1];  Σ_t D[i, t] = final_i - start_i - Σ_{t not counted} D[i, t]

    What changes while somebody else writes is nobody's.

    Args:
        after: the value after each token, those that are not counted included.
        start: the value before the first token.
        final: the value after the last counted token, in place of what `after` says there.
        mask: True for counted tokens.

    Returns:
        Differences (B, T); what lies under the mask means nothing.
    """
    number = torch.where(mask, _columns(mask) + 1, 0)
    settled = torch.where(number == number.amax(dim=1, keepdim=True), final[:, None], after)
    return settled - torch.cat([start[:, None], after[:, :-1]], dim=1)


def settled(
    rollouts: Rollouts, after: Float[Tensor, "B T"], rewards: Float[Tensor, " B"]
) -> Float[Tensor, " B"]:
    """Return the value after the last counted token: the reward, unless a call was the last word.

    What comes of a call is the environment's doing: the value there stays what `after` says.
    """
    last = torch.where(rollouts.mask, _columns(rollouts.mask), 0).amax(dim=1, keepdim=True)
    calls = [bool(own) and own[-1].role == "call" for own in rollouts.turns or ()]
    open_ended = torch.tensor(calls or [False] * len(rewards), device=rewards.device)
    return torch.where(open_ended, after.gather(1, last)[:, 0], rewards)


# ---- the tree ---------------------------------------------------------------------------------


def _prefixes(rollouts: Rollouts) -> tuple[Int[Tensor, "B T1"], Bool[Tensor, "B T1"]]:
    """Number the prefixes of 0, 1, ..., T tokens, and tell which completions get that far.

    Members of a group with equal prefixes have equal numbers, all others different ones.
    """
    rows, columns = rollouts.mask.shape
    ends = ((_columns(rollouts.mask) + 1) * rollouts.mask).amax(dim=1, keepdim=True)
    in_tree = scored(rollouts)[:, None] & (ends > 0)
    length = torch.arange(columns + 1, device=rollouts.mask.device)
    through = in_tree & (length <= ends)
    ids = rollouts.completion_ids.long()
    span = ids.max() + 1
    nodes = [rollouts.group.unique(return_inverse=True)[1]]
    for column in range(columns):
        pairs = torch.where(through[:, column + 1], nodes[-1] * span + ids[:, column], -1)
        nodes.append(pairs.unique(return_inverse=True)[1])
    return torch.stack(nodes, dim=1) + rows * length, through


def _sum_through(
    nodes: Int[Tensor, "B T1"], through: Bool[Tensor, "B T1"], per_row: Float[Tensor, " B"]
) -> Float[Tensor, "B T1"]:
    """Sum one number per completion over those that run through each prefix."""
    added = (per_row[:, None] * through).flatten()
    return per_row.new_zeros(nodes.numel()).index_add(0, nodes.flatten(), added)[nodes]


def _columns(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " T"]:
    return torch.arange(mask.shape[1], device=mask.device)
