"""Why a format reward does not fire: change failing completions in one respect, and score again.

A completion that earns full marks as soon as its line breaks are spaces was failed by its line
breaks. That needs no idea of what the reward looks for, and holds for anybody's.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from grpo_credit.preflight.sample import Relief
from grpo_credit.preflight.watch import SLOW, Call, Watched, WatchedAsync, cut
from grpo_credit.rewards import answered, completion_text

LIMIT = 16  # completions that are scored again
# Spelled-out ends of turns and of texts, as chat templates and tokenizers write them.
SPECIAL = re.compile(
    r"<\|[^<>|\s]{1,40}\|>|</?s>|<(?:eos|bos|pad|unk|end_of_turn|start_of_turn)>|\[/?INST\]"
)
_OPENED = re.compile(r"<[A-Za-z][^<>\s|]{0,40}>\s*$")


class Variant(NamedTuple):
    """A change to a completion, and what it means if that earns full marks.

    Args:
        kind: of the finding.
        change: text, text of the rendered prompt -> changed text.
        cause: why the completion failed.
        remedy: what to change.
    """

    kind: str
    change: Callable[[str, str], str]
    cause: str
    remedy: str


def opened_tag(prompt: str) -> str:
    """Return the tag that a rendered prompt opens at its end, with what follows it, or ""."""
    found = _OPENED.search(prompt)
    return found[0] if found else ""


VARIANTS = (
    Variant(
        "prefilled tag",
        lambda text, prompt: opened_tag(prompt) + text,
        "the prompt already opens the tag, so the completion does not repeat it",
        "Give the reward the prefilled tag (rewards.TagFormat(prefilled=...)), or drop the tag "
        "from the start of the pattern or from the chat template.",
    ),
    Variant(
        "missing DOTALL",
        lambda text, _: text.replace("\r", " ").replace("\n", " "),
        "`.` in its pattern does not match line breaks",
        "Put (?s) before the pattern, or pass re.DOTALL.",
    ),
    Variant(
        "special tokens left in",
        lambda text, _: SPECIAL.sub("", text).strip(),
        "special tokens are left in the text that is scored",
        "Declare them special in the tokenizer, name them as end of the completion in the model's "
        "generation_config, or strip them in the reward.",
    ),
    Variant(
        "white space around",
        lambda text, _: text.strip(),
        "white space stands before or after it",
        "Strip the completion in the reward.",
    ),
)


def relieve(reward: Any, prompts: Sequence[str]) -> dict[str, Relief]:
    """Score failing completions again, changed in one respect each time.

    Args:
        reward: a watched reward that was called.
        prompts: rendered prompts of the completions it was called with, in their order.

    Returns:
        Kind -> how many completions would have earned as much as the best one.
        Nothing for an asynchronous reward, one that raised, or one that is slow.
    """
    if not isinstance(reward, Watched) or isinstance(reward, WatchedAsync) or reward.failures:
        return {}
    if not reward.calls or max(call.seconds for call in reward.calls) > SLOW:
        return {}
    scores = [score for call in reward.calls for score in call.scores if score is not None]
    if not scores:
        return {}
    failing = _failing(reward.calls, prompts, min(scores))
    return {v.kind: _tried(reward, v, failing, max(scores)) for v in VARIANTS}


Row = tuple[Any, dict[str, Any], str, float]  # completion, its columns, rendered prompt, score


def _failing(calls: Sequence[Call], prompts: Sequence[str], worst: float) -> list[Row]:
    every = [(call, index) for call in calls for index in range(len(call.completions))]
    return [
        (call.completions[i], cut(call.columns, slice(i, i + 1), len(call.completions)), prompt, s)
        for (call, i), prompt in zip(every, prompts, strict=True)
        if (s := call.scores[i]) is not None and s <= worst
    ][:LIMIT]


def _tried(watched: Watched, variant: Variant, rows: Sequence[Row], best: float) -> Relief:
    again = Watched(watched.reward, 1, watched.clock)  # what fails on a variant did not help
    helped = 0
    for completion, columns, prompt, score in rows:
        changed = edited(completion, lambda text, p=prompt: variant.change(text, p))
        if changed != completion:
            [new] = again(completions=[changed], **columns)
            helped += new is not None and new > score and new >= best
    return Relief(helped, len(rows))


def edited(completion: Any, change: Callable[[str], str]) -> Any:
    """Change the text of a completion that is scored: a string, or the assistant's last message."""
    if isinstance(completion, str):
        return change(completion)
    place = answered(completion) if completion else 0
    content = completion[place].get("content") if completion else None
    if not isinstance(content, str):
        return completion
    apart = {"reasoning_content", "thinking"}  # which is of the text that is scored
    kept = {name: value for name, value in completion[place].items() if name not in apart}
    changed = {**kept, "content": change(completion_text(completion))}
    return [*completion[:place], changed, *completion[place + 1 :]]
