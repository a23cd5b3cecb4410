"""Check before training that a format reward can fire on what a tokenizer makes of the prompts."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from .contract import message_text
from .patience import SlowPatternWarning, slow_patterns
from .specimen import as_given, emptied, specimen_of, unscheduled

Prompt = str | list[dict[str, Any]]


class Finding(NamedTuple):
    """Something that keeps a format reward from doing its work.

    Args:
        level: `"error"`: right completions cannot earn the reward, or wrong ones do; `"warning"`:
            some may not, or may.
        message: what happens, and what to do about it.
    """

    level: Literal["error", "warning"]
    message: str

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


def check_format(
    reward: Callable[..., Sequence[float | None]],
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    specimen: str | None = None,
    max_prompts: int = 16,
    **template_options: Any,
) -> list[Finding]:
    """Find the ways in which a format reward never fires, or always does.

    A specimen, a completion that should earn the full reward, is put after each rendered prompt and
    changed in one respect at a time: begun where the prompt ends, sent through the tokenizer, given
    a line break. The reward is called as TRL calls it.

    Args:
        reward: a format reward with TRL's signature that needs no column.
        tokenizer: the tokenizer of the model, with the chat template that training uses.
        prompts: prompts of the data set, as they are there: texts, or lists of messages.
        specimen: such a completion, all tags included, even one that the prompt opens. By default
            `reward.specimen`, or a shortest text that `reward.automaton` accepts; of a combination,
            that of its last part that has one (of a gate, `by`).
        max_prompts: how many prompts are looked at, from the first.
        template_options: what `chat_template_kwargs` of the training configuration says.

    Returns:
        The findings, errors first; none is no proof that the model will find the format.

    Raises:
        ValueError: if there is no prompt, or one text in place of a list of them.

    Example:
        >>> from grpo_credit.tiny import build_tokenizer
        >>> from rewards import RegexReward
        >>> one_line = RegexReward("<think>.*[0-9].*</think>")
        >>> [finding] = check_format(
        ...     one_line, build_tokenizer(), ["2+2?"], specimen="<think>4</think>"
        ... )
        >>> print(finding.level, finding.message.split(":")[0], sep=": ")
        warning: a line break inside makes it fail
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts is {prompts!r:.80}, expected a list of prompts: pass [prompt].")
    reward = unscheduled(reward)
    prompts = list(prompts[:max_prompts])
    if not prompts:
        raise ValueError("there is no prompt, expected some of the data set's.")
    specimen = specimen_of(reward) if specimen is None else specimen
    if specimen is None:
        return [_NO_SPECIMEN if getattr(reward, "automaton", None) is None else _NEVER]
    options = {"tokenize": False, "add_generation_prompt": True, **template_options}
    rendered = [
        prompt if isinstance(prompt, str) else tokenizer.apply_chat_template(prompt, **options)
        for prompt in prompts
    ]
    trial = _Trial(reward, tokenizer, prompts, rendered, specimen)
    try:
        if wrong := _abstains(trial) or _not_accepted(trial):
            return [Finding("error", wrong)]  # nothing else can be said
        return [
            Finding(level, message)
            for level, probes in _PROBES.items()
            for probe in probes
            if (message := probe(trial))
        ]
    except _RewardRaisedError as error:
        return [Finding("error", str(error))]


_NO_SPECIMEN = Finding(
    "warning",
    "nothing was checked: the reward has neither a specimen nor an automaton. Pass specimen=, a "
    "completion that should earn the full reward.",
)
_NEVER = Finding(
    "error",
    "the pattern matches nothing: no completion can earn the reward. Try it on a completion that "
    "should earn it (specimen=).",
)


class _RewardRaisedError(Exception):
    pass


@dataclass(frozen=True)
class _Trial:
    """A reward, prompts as the model sees them, and a completion that should earn it."""

    reward: Callable[..., Sequence[float | None]]
    tokenizer: Any
    prompts: list[Prompt]
    rendered: list[str]
    specimen: str

    def score(self, text: str, row: int = 0) -> float | None:
        """Score a completion of one prompt, in the form in which TRL hands it over."""
        completion = as_given(self.prompts[row], text)
        try:
            with slow_patterns() as slow:
                [score] = self.reward(
                    prompts=[self.prompts[row]],
                    completions=[completion],
                    completion_ids=[self.encode(text)],
                    trainer_state=None,
                )
        except Exception as error:
            raise _RewardRaisedError(
                f"the reward raises {type(error).__name__} on {completion!r:.200}: {error} It has "
                "to take prompts of this form, and nothing but keyword arguments."
            ) from error
        for pattern in slow:  # it would at every one of hundreds of probes
            raise _RewardRaisedError(
                f"the pattern {pattern!r:.300} ran out of time on {completion!r:.200}. "
                f"{SlowPatternWarning.remedy}"
            )
        return score

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def earns(self, text: str, row: int = 0) -> bool:
        """Return whether a completion earns the full reward."""
        score = self.score(text, row)
        return score is not None and self.full is not None and score >= self.full

    @cached_property
    def full(self) -> float | None:
        """The full reward: the most that the specimen earns, with its first tag or after it."""
        texts = (self.specimen, self.untagged, self.right())
        return max((s for s in map(self.score, texts) if s is not None), default=None)

    @cached_property
    def untagged(self) -> str:
        """The specimen without the opening tag that it begins with."""
        return re.sub(r"^\s*<[^<>\s/][^<>\s]*>", "", self.specimen)

    def last_tag(self, row: int) -> str | None:
        """The tag of the specimen with which a rendered prompt ends."""
        tag = re.search(r"<[^<>\s]+>$", self.rendered[row].rstrip())
        return tag[0] if tag and tag[0] in self.specimen else None

    def right(self, row: int = 0) -> str:
        """What a right completion looks like: the specimen from where the prompt ends."""
        tag = self.last_tag(row)
        return self.specimen.partition(tag)[2].lstrip() if tag else self.specimen


def _abstains(trial: _Trial) -> str | None:
    if trial.full is not None:
        return None
    return (
        f"the reward abstains (None) on {trial.right()!r}, so it teaches nothing. Make it return a "
        "number for a completion in the right form, or pass another specimen=."
    )


def _not_accepted(trial: _Trial) -> str | None:
    least = trial.score("")
    if least is None or trial.full is None or trial.full > min(least, 0.0):
        return None
    return (
        f"the specimen {trial.specimen!r} earns {trial.full}, and the empty completion {least}: "
        f"the format does not accept it. {_cause(trial)}"
    )


def _cause(trial: _Trial) -> str:
    """Say why the specimen earns nothing: by a change that mends it, or by where it goes wrong."""
    text = trial.specimen
    for changed, cause in (
        (text.strip(), "It does without the white space around it: strip before matching."),
        (text.replace("\n", " "), "It does with spaces for its line breaks: put (?s) before the "
                                  "pattern, so that `.` matches them."),
    ):  # fmt: skip
        if changed != text and (trial.score(changed) or 0.0) > 0.0:
            return cause
    decided = getattr(trial.reward, "decided", None)
    place = decided([text])[0].chars if decided else None
    if place:
        return (
            f"Nothing that begins with {text[:place]!r}, its first {place} characters, can: change "
            "the pattern there, or pass another specimen=."
        )
    return "Change the pattern, or pass another specimen=."


def _cannot_fail(trial: _Trial) -> str | None:
    for text in ("", "x"):
        if trial.earns(text):
            return (
                f"the completion {text!r} earns {trial.full}, as much as {trial.right()!r}: the "
                "format asks for nothing. Make the pattern demand something."
            )
    return None


def _hollow(trial: _Trial) -> str | None:
    """Tell a form that pays for blanks in place of its bodies."""
    for text in emptied(trial.right()):
        if trial.earns(text):
            return (
                f"{text!r}, with blanks for content, earns the full reward. Demand a letter or a "
                r"digit in each body, as [^<>]*[\p{L}\p{N}][^<>]* does, or use TagFormat."
            )
    return None


def _cannot_fire(trial: _Trial) -> str | None:
    rows = range(len(trial.prompts))
    wrong = [row for row in rows if not trial.earns(trial.right(row), row)]
    if not wrong or trial.full is None:
        return None
    row, tag = wrong[0], trial.last_tag(wrong[0])
    return (
        f"{len(wrong)} of {len(rows)} prompts, rendered, "
        f"{f'end with {tag}' if tag else 'open no tag'}, so that "
        f"{trial.right(row)!r} is a right completion; it earns {trial.score(trial.right(row), row)}"
        f" instead of {trial.full}. {_remedy(tag)}"
    )


def _remedy(tag: str | None) -> str:
    if tag is None:
        return "Give TagFormat prefilled=None, or add the tag to the pattern or the chat template."
    if tag.startswith("</"):
        return (
            "Let the template leave thinking on, as by "
            'chat_template_kwargs={"enable_thinking": True}, or drop the block from the format.'
        )
    return f"Give TagFormat prefilled={tag[1:-1]!r}, or drop {tag} from the start of the pattern."


def _forgives_missing_tag(trial: _Trial) -> str | None:
    texts = {trial.specimen, trial.untagged}
    rows = [row for row in range(len(trial.prompts)) if trial.last_tag(row) is None]
    if len(texts) == 1 or not any(all(trial.earns(text, row) for text in texts) for row in rows):
        return None
    return (
        f"the rendered prompts open no tag, yet {trial.untagged!r}, which leaves out its first "
        "tag, earns the full reward. Give TagFormat prefilled=None."
    )


def _parsed_away(trial: _Trial) -> str | None:
    if not getattr(trial.tokenizer, "response_template", None) or isinstance(trial.prompts[0], str):
        return None
    try:
        ids = trial.encode(trial.right() + (trial.tokenizer.eos_token or ""))
        message = trial.tokenizer.parse_response(ids, prefix=trial.rendered[0])
        seen = message_text(message)
    except (ValueError, TypeError):  # TRL hands over the text then
        return None
    if trial.earns(seen):
        return None
    return (
        f"the tokenizer has a response_template: of {trial.right()!r} the reward sees what its "
        f"parser leaves, {seen!r}. Set tokenizer.response_template = None, unless there are tools, "
        "or reward the form of what is left."
    )


def _special_tokens(trial: _Trial) -> str | None:
    added = trial.tokenizer.added_tokens_decoder.values()
    special = {*trial.tokenizer.all_special_tokens, *(t.content for t in added if t.special)}
    lost = [token for token in sorted(special) if token in trial.right()]
    if not lost:
        return None
    return (
        f"the format asks for {', '.join(lost)}, special to the tokenizer: completions are decoded "
        "without special tokens, so the reward never sees them. Drop them from the format, or add "
        "them to the tokenizer as ordinary tokens (special=False)."
    )


def _lost_in_tokens(trial: _Trial) -> str | None:
    if _special_tokens(trial):
        return None
    text = trial.right()
    decoded = trial.tokenizer.decode(trial.encode(text), skip_special_tokens=True)
    if trial.earns(decoded) or not trial.earns(text):
        return None
    return (
        f"{text!r} comes back from the tokenizer as {decoded!r}, which earns less. Choose tags that"
        " it can spell, or add them to it as ordinary tokens."
    )


def _whitespace_around(trial: _Trial) -> str | None:
    text = trial.right()
    for padded in (f"\n{text}", f"{text}\n"):
        if trial.earns(text) and not trial.earns(padded):
            return (
                f"{padded!r} earns less than {text!r}: models often write a line break there. Strip"
                " the completion before matching."
            )
    return None


def _line_break_inside(trial: _Trial) -> str | None:
    text = trial.right()
    for i in range(1, min(len(text), 500)):
        space, line_break = (f"{text[:i]}{blank}{text[i:]}" for blank in " \n")
        if trial.earns(space) and not trial.earns(line_break):
            return (
                f"a line break inside makes it fail: {line_break!r} earns less than {space!r}. Put "
                "(?s) before the pattern, so that `.` matches line breaks too."
            )
    return None


_PROBES: dict[Literal["error", "warning"], tuple[Callable[[_Trial], str | None], ...]] = {
    "error": (_cannot_fail, _cannot_fire, _parsed_away, _special_tokens, _lost_in_tokens),
    "warning": (_forgives_missing_tag, _whitespace_around, _line_break_inside, _hollow),
}
