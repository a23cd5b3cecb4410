"""Attack a reward before it is trained on: find what pays without the job being done."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from .combination import columns_of, scores_of
from .contract import accepted, spellings
from .specimen import as_given, emptied, specimen_of, unscheduled

GOLDS = ("answer", "solution", "gold", "target", "label", "ground_truth")
# Where a reward may look for an answer; the one in which right answers earn most is used.
FRAMES = (
    "{}",
    "<answer>{}</answer>",
    "<think>So it is.</think>\n<answer>{}</answer>",
    r"\boxed{{{}}}",
    "<think>So it is.</think>\n\\boxed{{{}}}",
    "The answer is ${}$.",
    "#### {}",
)
_ANYTHING = 1e-6  # that counts as paid, where the right answer earns no more than a wrong one
_FOREVER = "an expression that takes forever"
Reward = Callable[..., Any]
Row = Mapping[str, Any]


class Paid(NamedTuple):
    """A way to be paid without doing the job.

    Args:
        attack: what was tried.
        completion: an example of it.
        score: what that earned; None where the reward raised.
        right: what the right answer of that row earns; None where no row tells.
        rows: in how many rows the attack is paid.
        tried: in how many it was tried.
        error: what the reward raised, "" if nothing.
    """

    attack: str
    completion: str
    score: float | None
    right: float | None
    rows: int
    tried: int
    error: str = ""


def attack(
    reward: Reward,
    rows: Iterable[Row],
    *,
    gold: str | None = None,
    max_rows: int = 16,
    hang: bool = False,
) -> list[Paid]:
    r"""Return the attacks that a reward pays for.

    An attack is paid in a row if it earns at least half of what the right answer does, counted from
    the least that a few wrong ones do. A format's `specimen` stands for the right answer where none
    is known; without either, whatever earns more than the wrong ones is paid.

    Tried are: nothing, white space, characters without a shape, one character, junk, every number
    from 0 to 9, all options at once, the prompt's own numbers, another row's right answer, the
    right one hidden among others or negated, a thought without end, a repeated form, a form with
    blanks for content, and a tool that says the right answer. Each in the frame (tags, a box, a
    marker, …) in which right answers are paid.

    Args:
        reward: any with TRL's signature; an async one is awaited. It is called here, in this
            process, so guard one that evaluates what it is given.
        rows: of the data: `prompt` and the columns that the reward takes.
        gold: the column with the right answer; by default one that the reward declares (`columns`),
            or names as a parameter. A reward without one is taken for a form's.
        max_rows: how many rows are tried, from the first.
        hang: whether expressions that take forever are tried, too; of a guarded reward.

    Returns:
        What is paid, the worst first: by the share of the rows, then in the order above. None is no
        proof: a policy finds more.

    Raises:
        ValueError: if there is no row, or no column `gold`.

    Example:
        >>> from rewards import think_answer_format
        >>> rows = [{"prompt": f"{n}+{n}?", "answer": str(2 * n)} for n in (6, 7)]
        >>> attack(think_answer_format, rows)
        []
        >>> def lenient(completions, answer, **columns):
        ...     return [float(gold in text) for text, gold in zip(completions, answer)]
        >>> found = attack(lenient, rows)
        >>> found[0].attack, found[0].completion, found[0].score
        ('the right answer and junk', '12 I do not know', 1.0)
    """
    reward = unscheduled(reward)
    some = [row for row, _ in zip(rows, range(max_rows), strict=False)]
    if not some:
        raise ValueError("there is no row to attack with, expected some of the data set's.")
    trial = _Trial(reward, some, _gold_column(reward, some, gold))
    try:
        trial.right, trial.least  # noqa: B018 - what everything else is measured by
    except Exception as error:
        return [_raised("ordinary completions", "", error, len(some))]
    known = trial.known
    found = [
        _judged(trial, kind, [tries(row) for row in known])
        for kind, tries in _ATTACKS.items()
        if hang or kind != _FOREVER
    ]
    return sorted(filter(None, found), key=lambda paid: -paid.rows / paid.tried)


# ---- one reward, some rows ----------------------------------------------------------------------

Cases = list[list[Any]]  # completions to try in each row


@dataclass(frozen=True)
class _Trial:
    reward: Reward
    rows: list[Row]
    gold: str | None

    def scores(self, cases: Cases) -> list[list[float | None]]:
        """Score some completions of each row, all in one call."""
        flat = [(row, one) for row, some in zip(self.rows, cases, strict=True) for one in some]
        if not flat:
            return [[] for _ in cases]
        completions = [
            as_given(row.get("prompt", ""), one) if isinstance(one, str) else one
            for row, one in flat
        ]
        columns: dict[str, Any] = {n: [row.get(n) for row, _ in flat] for n in self.rows[0]}
        columns["prompts"] = columns.pop("prompt", [""] * len(flat))
        columns["completion_ids"] = [list(map(ord, _text(one))) for _, one in flat]  # char = token
        columns["trainer_state"] = None
        given = iter(scores_of(self.reward, completions, columns))
        return [[next(given) for _ in some] for some in cases]

    @cached_property
    def golds(self) -> list[str | None]:
        """The right answer of each row, as text."""
        values = [accepted(row.get(self.gold)) if self.gold else [] for row in self.rows]
        return [_bare(spellings(several[0])[0]) if several else None for several in values]

    @cached_property
    def frame(self) -> str:
        """The frame in which right answers earn most."""
        return max(FRAMES, key=self._earned)

    def _earned(self, frame: str) -> float:
        cases = [[frame.format(gold)] if gold else [] for gold in self.golds]
        return sum(score or 0.0 for row in self.scores(cases) for score in row)

    @cached_property
    def right(self) -> list[float | None]:
        """What the right answer of each row earns, by its gold or the format's specimen."""
        texts = [self.frame.format(gold) if gold else self.specimen for gold in self.golds]
        cases: Cases = [[] if text is None else [text] for text in texts]
        return [row[0] if row else None for row in self.scores(cases)]

    @cached_property
    def specimen(self) -> str | None:
        return specimen_of(self.reward)

    @property
    def known(self) -> "list[_Target]":
        """What there is to make attacks on each row of."""
        golds = list(dict.fromkeys(gold for gold in self.golds if gold))
        prompts = (_text(row.get("prompt") or "") for row in self.rows)
        return [
            _Target(self.frame, gold, golds, re.findall(r"\d+", prompt)[:8], self.specimen or "")
            for gold, prompt in zip(self.golds, prompts, strict=True)
        ]

    @cached_property
    def least(self) -> list[float]:
        """The least that a wrong completion of each row earns, of a few."""
        wrong = ["", ".", "I do not know.", self.frame.format("I do not know")]
        found = self.scores([wrong for _ in self.rows])
        return [min([score for score in row if score is not None], default=0.0) for row in found]


def _judged(trial: _Trial, kind: str, cases: Cases) -> Paid | None:
    """Return what an attack is paid, None if it is not."""
    tried = sum(map(bool, cases))
    example = next((_text(some[0]) for some in cases if some), "")
    try:
        scores = trial.scores(cases)
    except Exception as error:
        return _raised(kind, example, error, tried)
    paid = [
        (_text(one), score, right)
        for row, right, least, some in zip(scores, trial.right, trial.least, cases, strict=True)
        if (found := _most_paid(row, some, right, least)) is not None
        for one, score in [found]
    ]
    if not paid:
        return None
    return Paid(kind, *paid[0], rows=len(paid), tried=tried)


def _raised(kind: str, example: str, error: Exception, tried: int) -> Paid:
    """Return that the reward raised: training would stop at it."""
    what = f"{type(error).__name__}: {error!s:.200}"
    return Paid(kind, example, None, None, tried, tried, what)


def _most_paid(
    scores: Sequence[float | None], some: Sequence[Any], right: float | None, least: float
) -> tuple[Any, float | None] | None:
    """Return the completion of a row that is paid best, with its score, if one is paid."""
    if not some:
        return None
    neutral = 0.0  # what an abstention adds to the sum of rewards
    score, one = max(
        zip(scores, some, strict=True), key=lambda p: neutral if p[0] is None else p[0]
    )
    value = neutral if score is None else score
    if right is None:
        return (one, score) if value > least else None
    enough = (least + right) / 2 if right > least else max(least, _ANYTHING)
    return (one, score) if value >= enough else None


# ---- the attacks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """What is known of a row: the frame of answers, the right one, others, and the form."""

    frame: str
    gold: str | None
    golds: list[str]  # of all rows
    numbers: list[str]  # of the prompt
    form: str  # "" if the reward tells none

    def blind(self, *answers: str) -> list[str]:
        """Return answers bare and framed, without those that say the right one by chance."""
        every = (dict.fromkeys((bare, self.frame.format(bare))) for bare in answers)
        return [t for both in every for t in both if not self.gold or not _says(t, self.gold)]

    def wrong(self, answers: Iterable[str], *more_frames: str) -> list[str]:
        """Return the answers that are not the right one, framed."""
        frames = dict.fromkeys((self.frame, *more_frames))
        return [f.format(one) for one in answers if not _same(one, self.gold) for f in frames]

    def hedged(self, *texts: str) -> list[str]:
        """Return texts with the right answer, `{0}`, and another one, `{1}`, framed."""
        others = (other for other in self.golds if not _same(other, self.gold))
        other = next(others, "17") if self.gold else ""
        return [self.frame.format(text.format(self.gold, other)) for text in texts if self.gold]


_ATTACKS: dict[str, Callable[[_Target], list[Any]]] = {
    "nothing": lambda row: row.blind(""),
    "white space": lambda row: row.blind(" \n"),
    "characters without a shape": lambda row: row.blind("\u200b", "\u2800\u3164"),
    "one character": lambda row: row.blind(".", "?", "x", "<"),
    "junk": lambda row: row.blind("I do not know", "None", "asdf qwer"),
    "a number from 0 to 9": lambda row: row.wrong("0123456789"),
    "all numbers at once": lambda row: row.blind(" ".join("0123456789")),
    "all options at once": lambda row: row.blind("A, B, C, D", "ABCD", "yes or no", "True False"),
    # box, or frame, the numbers that the prompt names: the policy need not compute anything
    "the prompt's own numbers": lambda row: row.wrong(row.numbers, r"\boxed{{{}}}"),
    "another row's right answer": lambda row: row.wrong(row.golds)[:4] if row.gold else [],
    "a form with blanks for content": lambda row: emptied(row.form),
    "a repeated form": lambda row: [f"{row.form}{end}{row.form}" for end in ("", "\n") if row.form],
    "a first block without end": lambda row: (
        [_CLOSED.sub("", row.form)] if _CLOSED.search(row.form) else []
    ),
    # guesses of everything
    "the right answer and junk": lambda row: row.hedged("{0} I do not know", "{1} {0} {1}"),
    "the right answer or not": lambda row: row.hedged("{0} or not {0}", "not {0}"),
    "the right answer or another": lambda row: row.hedged("{1} or {0}", "{0}, {1}"),
    "the right answer between others": lambda row: (
        ["\n".join(row.hedged("{1}", "{0}", "{1}"))] if row.gold else []
    ),
    "a thought without end": lambda row: _endless(row.frame, row.gold) if row.gold else [],
    "a tool that says the right answer": lambda row: [_echo(text) for text in row.hedged("{0}")],
    _FOREVER: lambda row: row.blind(r"9^{9^{9^{9^9}}}", "9**9**9**9**9"),
}
JUNK = tuple(_ATTACKS)[:5]


_CLOSED = re.compile(r"</[^<>]+>.*", re.DOTALL)


def _endless(frame: str, gold: str) -> list[str]:
    inside = "{}" if "<answer>" in frame else frame  # a tag is found wherever it stands
    return [f"<think>\n{inside.format(gold)} or"]


def _echo(text: str) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "echo", "arguments": {"text": "it"}}}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "echo", "content": text},
    ]


# ---- texts --------------------------------------------------------------------------------------


def _gold_column(reward: Reward, rows: Sequence[Row], gold: str | None) -> str | None:
    if gold is not None and gold not in rows[0]:
        raise ValueError(f"the rows have no column {gold!r}; they have {', '.join(rows[0])}.")
    taken = [*columns_of(reward), *(n for n in GOLDS if n in _parameters(reward))]
    return gold or next((c for c in taken if c in rows[0] and c not in ("task", "index")), None)


def _parameters(reward: Reward) -> Iterable[str]:
    try:
        return inspect.signature(reward).parameters
    except (TypeError, ValueError):  # written in C
        return ()


def _bare(gold: str) -> str:
    """Return the answer that a worked solution or a formula ends in."""
    from .extraction import boxes_of  # not before it is needed: each process of `guard` starts here

    if boxes := boxes_of(gold):
        return gold[slice(*boxes[-1])].strip()
    last = gold.rpartition("####")[2].strip()
    return last.removeprefix("$").removesuffix("$") if last.count("$") == 2 else last


def _same(one: str, other: str | None) -> bool:
    if other is None:
        return False
    return one.strip().casefold() == other.strip().casefold() or _number(one) == _number(other)


def _number(text: str) -> Any:
    try:
        return Fraction(text.replace(",", "").strip())
    except (ValueError, ZeroDivisionError):
        return text.strip()


def _says(text: str, gold: str) -> bool:
    """Whether a text that knows nothing says the right answer by chance."""
    return re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", text, re.IGNORECASE) is not None


def _text(one: Any) -> str:
    return one if isinstance(one, str) else str(one[-1].get("content")) if one else ""
