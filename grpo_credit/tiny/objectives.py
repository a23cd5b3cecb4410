"""What a model is asked to learn from an answer: which tokens, and what is known for each.

All objectives are one sum, of cross entropies at states s (how many tokens are known) of tokens t,

    loss = -Σ_s Σ_t W[s, t] · log p(x_t | x_1 … x_s)

and W tells them apart: next-token training is its diagonal, multi-token prediction several
diagonals, each with a head of its own, token order prediction all of them with one head, and
teacherless training a row: all tokens from the prompt alone.

Three of them are data: token ids and labels that any trainer of causal language models takes, see
`documents`. Heads are in `grpo_credit.tiny.heads`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.tiny.training import IGNORED

SEEN = 2  # prompt tokens whose states multi-token prediction asks: the goal and "="
AUXILIARY = 3.0  # weight of all further heads of multi-token prediction; the model's own has 1

Prompts = Int[Tensor, "B P"]
Answers = Int[Tensor, "B L"]


class Terms(NamedTuple):
    """The cross entropies of a batch.

        loss = -Σ_r Σ_s Σ_k weights[r,s,k] · log p_{heads[k]}(targets[r,s,k] | inputs[r,:s+1])

    Args:
        inputs: Token ids, of equal length.
        targets: What head `heads[k]` is to name at state s.
        weights: Of each; 0 where nothing is asked.
        heads: Their numbers; 0 is the model's own.
    """

    inputs: Int[Tensor, "R S"]
    targets: Int[Tensor, "R S K"]
    weights: Float[Tensor, "R S K"]
    heads: tuple[int, ...] = (0,)


Objective = Callable[[Prompts, Answers, int], Terms]


def next_token(prompts: Prompts, answers: Answers, dummy: int) -> Terms:
    """Ask for each token after all before it: the mean over tokens and rows.

        W[s, s+1] = 1 / L,   s = P … P+L-1

    Args:
        prompts: (B, P) token ids.
        answers: (B, L) token ids; the last one is the end token.
        dummy: Not used.
    """
    return _ahead(prompts, answers, distances=[1], shares=[1.0])


def reversed_path(prompts: Prompts, answers: Answers, dummy: int) -> Terms:
    """Ask for each token of the reversed path, and then the end, after all before it.

    W is that of `next_token`; nothing is left to choose, since a node has one predecessor.
    """
    return next_token(prompts, backward(answers), dummy)


def teacherless(prompts: Prompts, answers: Answers, dummy: int) -> Terms:
    """Ask for all tokens after the prompt alone; dummies hold the places of those in between.

        W[P, P+l] = 1 / L,   l = 1 … L

    Source: Bachmann and Nagarajan 2024, arXiv:2403.06963, section 5.
    """
    blind = torch.full_like(answers, dummy)
    return next_token(prompts, answers, dummy)._replace(inputs=_known(prompts, blind))


def hybrid(prompts: Prompts, answers: Answers, dummy: int) -> Terms:
    """Ask both ways, each row twice: half of `next_token` and half of `teacherless`."""
    taught, blind = (ask(prompts, answers, dummy) for ask in (next_token, teacherless))
    return Terms(
        torch.cat([taught.inputs, blind.inputs]),
        torch.cat([taught.targets, blind.targets]),
        torch.cat([taught.weights, blind.weights]) / 2,
    )


def mtp(prompts: Prompts, answers: Answers, dummy: int) -> Terms:
    """Ask at each state for its next token, and for later ones, with a head per distance.

        W[s, s+1] = 1 / L,   W[s, s+j] = 3 / (L n_j),   j = 2 … L+1,   s = P-1 … P+L-j

    n_j counts the states of distance j, so that each head has the same share. Only tokens of the
    answer are asked for, but also at the goal, the last word of the prompt but one: "before the
    goal" is one look-up there, as in `reversed_path`, and "before that" a second.

    Source: Gloeckle et al. 2024, arXiv:2404.19737. Deviation: a head is a linear map, not a block.
    """
    further = answers.shape[1]
    distances = range(1, further + 2)
    shares = [1.0, *[AUXILIARY / further] * further]
    return _ahead(prompts, answers, distances, shares, tuple(range(further + 1)))


def top(prompts: Prompts, answers: Answers, dummy: int) -> Terms:
    """Ask for the next token, and one further head for the order of all that are left.

        W[s, s+1] = 1 / L,   by the further head W[s, t] = 3 exp(s - t) / ((L+1) Σ_u exp(s - u))

    where t and u go over those tokens of the rest that have not occurred in it before: a word is as
    far away as it is met first. The sum is a cross entropy from softmax(-distance). It is asked at
    the same states as `mtp`.

    Source: Zuhri et al. 2025, arXiv:2508.19228. Deviations: the window is the rest of the answer;
    the paper's two losses weigh the same.
    """
    further = answers.shape[1] + 1
    terms = _ahead(prompts, answers, [1, *range(1, further + 1)], [1.0] * (further + 1))
    asked = terms.weights[..., 1:] > 0
    first = asked & ~_met(terms.targets[..., 1:].masked_fill(~asked, IGNORED))
    far = torch.arange(further).expand(first.shape).where(first, torch.inf)
    order = torch.softmax(-far, -1).nan_to_num() * AUXILIARY / (len(answers) * further)
    weights = torch.cat([terms.weights[..., :1], order], -1)
    return Terms(terms.inputs, terms.targets, weights, (0, *[1] * further))


OBJECTIVES: dict[str, Objective] = {
    "next_token": next_token,
    "teacherless": teacherless,
    "hybrid": hybrid,
    "mtp": mtp,
    "top": top,
    "reversed": reversed_path,
}


def further_heads(objective: str, length: int) -> int:
    """Return how many heads an objective needs besides the model's own, for answers of a length."""
    answer = torch.zeros(1, length, dtype=torch.int64)
    return max(OBJECTIVES[objective](torch.zeros_like(answer), answer, 0).heads)


def backward(answers: Answers) -> Answers:
    """Return the answers from the goal to the source; the end token stays last."""
    return torch.cat([answers[:, :-1].flip(1), answers[:, -1:]], 1)


def documents(terms: Terms) -> list[dict[str, list[int]]]:
    """Return the rows that a trainer of causal language models learns the same from.

    The mean over a batch's predicted tokens is then the loss, for the weights of a row are equal:
    what `CreditSFTTrainer` trains on with `dapo`, or another aggregation in its place.

    Args:
        terms: Of the model's own head alone.

    Returns:
        {"input_ids": S + 1 token ids, the last of which is never read, "labels": alike, -100 where
        nothing is asked}, of each row.

    Raises:
        ValueError: If the objective has further heads.
    """
    if set(terms.heads) != {0}:
        raise ValueError(
            f"an objective with heads {terms.heads} is no data set, expected 0, the model's own, "
            "alone; train it with grpo_credit.tiny.heads"
        )
    asked = terms.weights[..., 0] > 0
    labels = terms.targets[..., 0].masked_fill(~asked, IGNORED)
    rows = zip(terms.inputs.tolist(), labels.tolist(), strict=True)
    return [{"input_ids": [*ids, ids[-1]], "labels": [IGNORED, *own]} for ids, own in rows]


def _ahead(
    prompts: Prompts,
    answers: Answers,
    distances: Sequence[int],
    shares: Sequence[float],
    heads: tuple[int, ...] = (0,),
) -> Terms:
    """Ask for the answer's tokens at each distance; the mean over these has a share in the loss."""
    inputs = _known(prompts, answers)
    first, whole = prompts.shape[1], torch.cat([prompts, answers], 1)
    targets = inputs.new_zeros(*inputs.shape, len(distances))
    weights = torch.zeros(targets.shape)
    for k, (distance, share) in enumerate(zip(distances, shares, strict=True)):
        since, until = max(first - SEEN, first - distance), whole.shape[1] - distance
        targets[:, since:until, k] = whole[:, since + distance :]
        weights[:, since:until, k] = share / (len(inputs) * (until - since))
    return Terms(inputs, targets, weights, heads)


def _known(prompts: Prompts, answers: Answers) -> Tensor:
    """Return what is read: all but the last token, which is only asked for."""
    return torch.cat([prompts, answers[:, :-1]], 1)


def _met(tokens: Int[Tensor, "R S K"]) -> Bool[Tensor, "R S K"]:
    """Return which tokens have occurred at a smaller distance."""
    same = tokens.unsqueeze(-1) == tokens.unsqueeze(-2)
    return same.tril(-1).any(-1)
