"""How likely the policy finds the right answer before each of its turns."""

import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.turns import Turn
from grpo_credit.errors import CreditError
from grpo_credit.trainer.scoring import Scored, images_of, padded
from grpo_credit.trainer.seams import Host


def answer_logps(
    host: Host,
    output: dict[str, Any],
    scored: Scored,
    turns: Sequence[Sequence[Turn]],
    score: Callable[..., dict[str, Tensor]],
) -> Float[Tensor, "B T1"]:
    """Compute the mean log-probability of the right answer where each turn begins.

        (1/L) Σ_j log π(a_j | prompt, all before the turn, a_1 … a_{j-1})    nats per token

    A model in shards runs equally often on all ranks, so a rank with fewer turns repeats one.

    Args:
        host: the trainer; its `plan.columns` say where the answers are.
        output: a generation batch of this rank.
        scored: the same, as the rewards were given it.
        turns: of each completion.
        score: gives `old_logps` of completions after prompts, both as token ids and masks.

    Returns:
        At the column where a turn begins; NaN elsewhere, and in rows without an answer.

    Raises:
        CreditError: if the prompts have images, or an answer is neither text nor number.
    """
    if images_of(output):
        raise CreditError(f"{host.plan.strategy.name!r} cannot ask for an answer after images.")
    device, column = output["completion_ids"].device, host.plan.columns["answer_text_column"]
    answers = [_tokens(host, row.get(column)) for row in scored.inputs]
    places = [(row, turn.start) for row, own in enumerate(turns) for turn in own if answers[row]]
    values = torch.full((len(answers), output["completion_ids"].size(1) + 1), torch.nan)
    values = values.to(device)
    most = max(gather_object([len(places)]))
    every = places + (places[:1] or [(0, 0)]) * (most - len(places))
    if not every:
        return values
    pairs = zip(output["prompt_ids"], output["prompt_mask"], strict=True)
    prompts = [ids[mask.bool()].tolist() for ids, mask in pairs]
    filler: int = host._tokenizer.pad_token_id
    before = [prompts[row] + list(scored.ids[row][:start]) for row, start in every]
    ids, mask = padded([answers[row] or [filler] for row, _ in every], filler, "right", device)
    asked = {"completion_ids": ids, "completion_mask": mask}
    logps = score(asked, *padded(before, filler, "left", device))["old_logps"]
    mean = (logps * mask).sum(dim=1) / mask.sum(dim=1)
    for place, value in zip(places, mean, strict=False):
        values[place] = value
    return values


def _tokens(host: Host, answer: object) -> list[int]:
    """Return the token ids of an answer; none where there is no answer."""
    if answer is None:
        return []
    if not isinstance(answer, str | int | float):
        column = host.plan.columns["answer_text_column"]
        raise CreditError(
            f"the column {column!r} holds {reprlib.repr(answer)}, expected one text or number: "
            f"what {host.plan.strategy.name!r} asks the policy for. Make a column of such, and "
            "name it with answer_text_column."
        )
    return host._tokenizer.encode(str(answer), add_special_tokens=False)
