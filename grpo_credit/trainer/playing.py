"""Dialogues outside of training: played by TRL's own loop of tools and environments, then judged.

TRL resets environments and builds the tools in the first half of the method that also scores; it is
left where `_generate` has returned, so that no reward is asked. Every rank plays all rows by the
same draws: ranks stay in step, as sharded models and TRL's gathering need, and none must send an
environment to another. The environments are new ones; those of the training are left alone.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import copy
from typing import Any, TypeVar

from accelerate.utils import set_seed
from trl.data_utils import is_conversational

from grpo_credit.errors import CreditError
from grpo_credit.records.ranks import on_main
from grpo_credit.rewards import completion_text
from grpo_credit.trainer import completing
from grpo_credit.trainer.completing import by_turns, greedily, rows_at_once
from grpo_credit.trainer.undisturbed import untouched

Conversation = list[dict[str, Any]]
T = TypeVar("T")
Judge = Callable[[Conversation, Mapping[str, Any], Any], T]


class _PlayedError(Exception):
    """Leaves TRL's method with what was generated."""


def plays(trainer: Any) -> bool:
    """Return whether completions of a trainer are dialogues with tools or environments."""
    return bool(getattr(trainer, "tools", None)) or (
        getattr(trainer, "environment_factories", None) is not None
    )


def complete(trainer: Any, prompts: Sequence[Any], *, greedy: bool, seed: int) -> list[str]:
    """Complete prompts; see `CreditGRPOTrainer.complete`."""
    if not plays(trainer):
        return completing.complete(trainer, prompts, greedy=greedy, seed=seed)
    rows = [{"prompt": prompt} for prompt in prompts]
    return play(trainer, rows, last_text, greedy=greedy, seed=seed)


def play(
    trainer: Any,
    rows: Sequence[Mapping[str, Any]],
    judge: Judge[T],
    *,
    greedy: bool = False,
    seed: int = 0,
) -> list[T]:
    """Return what a judge says of a dialogue for each row; call it on every rank.

    The same call gives the same dialogues where tools and environments do, but for a vLLM server,
    which draws anew each time. Training goes on as if nothing had been played; what tools keep for
    themselves is not put back.

    Args:
        trainer: a `CreditGRPOTrainer` with `tools` or an `environment_factory`.
        rows: as of its data set: "prompt", and what an environment's `reset` reads.
        judge: called with the messages after the prompt, the row, and its environment (None without
            one) as the dialogue left it; on the main process alone.
        greedy: take the likeliest token each time instead of sampling as in training.
        seed: of the samples, >= 0.

    Raises:
        CreditError: if a `rollout_func` generates, or a prompt is no conversation.
        Exception: what the judge raised, on every rank.
    """
    _check(trainer, rows)
    size, verdicts = rows_at_once(trainer.args), []
    with ExitStack() as stack:
        stack.enter_context(untouched(trainer, training=False))
        stack.enter_context(greedily(trainer) if greedy else by_turns(trainer, seed))
        trainer.num_generations = trainer.num_generations_eval = 1  # no row is another's copy
        if trainer.environment_factories is not None:
            trainer._environment_pool = {name: [] for name in trainer.environment_factories}
        trainer._turns = copy(trainer._turns)  # which watches the turns of training
        trainer._generate = _leaving(trainer._generate)  # a subclass's own, if there is one
        set_seed(seed)
        for first in range(0, len(rows), size):
            some = list(map(dict, rows[first : first + size]))
            told = _play(trainer, some)
            verdicts += on_main(_judged, judge, told, some, trainer.environments)
    return verdicts


def last_text(messages: Conversation, row: Mapping[str, Any], environment: Any) -> str:
    """Return the text of the last assistant message, without its thought and its calls."""
    return completion_text(messages)


def _check(trainer: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if trainer.rollout_func is not None:
        raise CreditError(
            "dialogues with tools are played by TRL's own loop, and this trainer's rollout_func "
            "takes its place; test it by evaluate(), on the rows of an eval_dataset."
        )
    for number, row in enumerate(rows):
        if "prompt" in row and not is_conversational({"prompt": row["prompt"]}):
            raise CreditError(
                f"prompt {number} is {row['prompt']!r:.60}, expected a list of messages, "
                "[{'role': 'user', 'content': ...}]: tools are called in a conversation."
            )


def _leaving(generate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def leave(prompts: Any) -> Any:
        raise _PlayedError(generate(prompts)[3])

    return leave


def _play(trainer: Any, rows: list[dict[str, Any]]) -> list[Conversation]:
    try:
        trainer._generate_and_score_completions(rows)
    except _PlayedError as played:
        return played.args[0]
    raise CreditError("TRL scored a batch without generating it; this version is not supported.")


def _judged(
    judge: Judge[T], dialogues: Sequence[Conversation], rows: Sequence[Any], environments: Any
) -> list[T]:
    worlds = environments or [None] * len(rows)
    return [judge(*each) for each in zip(dialogues, rows, worlds, strict=True)]
