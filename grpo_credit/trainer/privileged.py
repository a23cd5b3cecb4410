"""How likely the policy finds completions after prompts that hold more than it was shown."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor

from grpo_credit.errors import CreditError
from grpo_credit.trainer.scoring import Scored, padded
from grpo_credit.trainer.seams import Host


def privileged_logps(
    host: Host, output: dict[str, Any], scored: Scored, score: Callable[..., dict[str, Tensor]]
) -> Float[Tensor, "B T"]:
    """Score completions after the privileged prompts, and what environments said there.

    Args:
        host: the trainer; its `plan.columns` say where the prompts are.
        output: a generation batch of this rank.
        scored: the same, as the rewards were given it; a row without a privileged prompt keeps its.
        score: gives `old_logps` of the completions after prompts, as token ids and masks.

    Raises:
        CreditError: if the prompts have images.
    """
    column = host.plan.columns["privileged_column"]
    given = [row.get(column) for row in scored.inputs]
    prompts = [p if g is None else g for p, g in zip(scored.prompts, given, strict=True)]
    if host.environments is not None:
        shown = zip(prompts, scored.inputs, scored.prompts, given, strict=True)
        prompts = [p if g is None else observed(p, row.get("prompt"), seen)
                   for p, row, seen, g in shown]  # fmt: skip
    ids, images, _ = host._tokenize_prompts(prompts)
    if images is not None:
        raise CreditError(f"{host.plan.strategy.name!r} cannot score prompts with images.")
    filler: int = host._tokenizer.pad_token_id
    return score(output, *padded(ids, filler, "left", host.accelerator.device))["old_logps"]


def observed(prompt: list[Any], own: list[Any] | None, seen: list[Any]) -> list[Any]:
    """Return a prompt with what an environment's `reset` has put at the end of another one.

    Args:
        prompt: a conversation.
        own: the other one as in the data; None where they have none, and TRL takes an empty one.
        seen: the other one as the model saw it.

    Example:
        >>> own, seen = ([{"role": "user", "content": text}] for text in ("Go.", "Go. A door."))
        >>> observed([{"role": "user", "content": "Go left."}], own, seen)
        [{'role': 'user', 'content': 'Go left. A door.'}]
    """
    before, after = own[-1]["content"] if own else "", seen[-1]["content"]
    if after == before:
        return prompt
    last = prompt[-1]["content"]
    if isinstance(after, str) and isinstance(last, str):
        content: Any = last + after[len(before) :]
    elif isinstance(after, str):
        content = _blocks(last) + _blocks(after[len(before) :])
    else:
        content = _blocks(last) + after[len(_blocks(before)) :]
    return [*prompt[:-1], {**prompt[-1], "content": content}]


def _blocks(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
