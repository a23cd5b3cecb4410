"""Reward answers to reasoning-gym's generated tasks, by each task's own verifier.

Needs the extra: pip install 'grpo-credit[tasks]'.
"""

import difflib
import functools
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from .attacks import JUNK, Paid, attack
from .contract import Completion, Spans, TextReward, need, one_span
from .extraction import Extract, WholeText
from .serving import number_of

_ATTACKED = 4  # entries of each task


class TaskScore(TextReward):
    """Reward an answer by what its task's verifier gives for it.

        R = score_answer(answer, entry), in [0, 1]; 0 without an answer, or one on which it raises

    The columns `task` and `index` say which entry of which generator a completion answers. Entries
    are made anew where they are needed: a generator is a seed, a size and options. Verifiers give
    full marks for a right answer and may give some for a wrong one. Some evaluate the answer as an
    expression (countdown, puzzle24) or a literal: `9**9**9**9` never ends. Judge what a model wrote
    under `rewards.guard`, in a process with a time limit.

    Some verifiers are wrong. Each is attacked (`rewards.attack`) on its first entries when the
    reward is made: one that pays any text is refused, one that pays for less is warned of.

    Args:
        generators: task name -> options of `reasoning_gym.create_dataset`, `seed` and `size` among
            them.
        extract: where the answer is in a completion; `None` takes all of it.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) one number in [0, 1] per completion; dimensionless.

    Raises:
        ImportError: if reasoning-gym is not installed.
        ValueError: if a task is not known; the names that resemble it are listed. If its verifier
            pays for junk in every entry tried. (When called) if a column is missing.

    Warns:
        UserWarning: for a verifier that an attack was paid by, with what was paid.

    How it can be hacked: some verifiers pay for an answer that only contains the right one.

    Example:
        >>> reward = TaskScore({"spell_backward": {"seed": 1, "size": 4}})
        >>> word = reward.entry("spell_backward", 0)["answer"]
        >>> reward([word, ""], task=["spell_backward"] * 2, index=[0, 0])
        [1.0, 0.0]

    Source: Stojanovski et al. 2025, Reasoning Gym, arXiv:2505.24760.
    """

    columns = ("task", "index")

    def __init__(
        self,
        generators: Mapping[str, Mapping[str, Any]],
        extract: Extract | None = None,
        name: str = "task_score",
    ) -> None:
        need("reasoning_gym", "tasks", "TaskScore judges by it")
        super().__init__(name)
        self.generators = {task: dict(options) for task, options in generators.items()}
        self.extract = extract or WholeText()
        self.warm_up()
        for task in self.generators:
            self._distrust(task)

    def _distrust(self, task: str) -> None:
        """Refuse a verifier that pays for junk; warn of one that pays for less than the answer."""
        entries = self.entries(task)
        rows = [
            {"task": task, "index": index, "answer": self.entry(task, index)["answer"]}
            for index in range(min(_ATTACKED, len(entries)))
        ]
        hits = attack(self, rows, gold="answer") if rows else []
        junk = [paid for paid in hits if paid.attack in JUNK and paid.rows == len(rows)]
        if junk:
            raise ValueError(
                f"the verifier of {task!r} gives {_earned(junk[0])} for {junk[0].completion!r} in "
                f"all {len(rows)} entries tried, so it would teach nothing; leave the task out."
            )
        if hits:
            paid = ", ".join(f"{p.attack} ({p.completion!r:.60}: {_earned(p)})" for p in hits[:3])
            warnings.warn(
                f"the verifier of {task!r} pays without the right answer alone: {paid}. A policy "
                "finds that; watch it, or leave the task out.",
                stacklevel=4,
            )

    def entries(self, task: str) -> Any:
        """Return a task's entries, an indexable of dictionaries."""
        if task not in self.generators:
            raise ValueError(f"task is {task!r}, expected one of {', '.join(self.generators)}.")
        return _entries(task, json.dumps(self.generators[task], sort_keys=True))

    def entry(self, task: str, index: int) -> dict[str, Any]:
        """Return the entry with "question", "answer" and "metadata"."""
        self.entries(task)  # or an unknown task is a KeyError
        return _entry(task, json.dumps(self.generators[task], sort_keys=True), index)

    def warm_up(self) -> None:
        """Make the entries, in a process that is to judge; see `guard`."""
        for task in self.generators:
            self.entries(task)

    def score(self, text: str, /, *, task: str, index: int) -> float:
        """Score one text."""
        span = self.extract.in_time(text)
        if span is None or not text[slice(*span)].strip():
            return 0.0
        answer = text[slice(*span)].strip()
        entries, entry = self.entries(task), self.entry(task, index)
        try:
            return number_of(entries.score_answer(answer, entry)) or 0.0
        except Exception:  # verifiers take it for granted that an answer has the right form
            return 0.0

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return where the answer is in each completion, as `answer`."""
        return one_span(self, "answer", self.extract.in_time, completions)


def _earned(paid: Paid) -> str:
    return paid.error or ("None" if paid.score is None else f"{paid.score:g}")


@functools.lru_cache(maxsize=1024)
def _entry(task: str, options: str, index: int) -> dict[str, Any]:
    """Remember an entry: a group shares one, and some take seconds to make."""
    return _entries(task, options)[index]


@functools.lru_cache(maxsize=64)
def _entries(task: str, options: str) -> Any:
    from reasoning_gym import create_dataset
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        near = difflib.get_close_matches(task, DATASETS, n=3, cutoff=0.4)
        raise ValueError(
            f"reasoning-gym has no task {task!r}; "
            + (f"did you mean {' or '.join(map(repr, near))}?" if near else "see its gallery.")
        )
    try:
        return create_dataset(task, **json.loads(options))
    except (TypeError, AssertionError) as error:
        raise ValueError(f"the options of {task!r} do not fit: {error}.") from None
