"""Rewards for completions made of tagged blocks: `<think>…</think><answer>…</answer>`."""

import re
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from .blanks import is_blank
from .contract import Completion, Decided, Spans, TextReward, one_each, texts_of

if TYPE_CHECKING:  # numpy is not needed for scores
    from .automaton import Automaton
    from .characters import CharClasses

TAGS = "tags"  # the name of the spans of the tags themselves


class _Place(NamedTuple):
    """Where in the form a text has got to."""

    whole: int = 0  # how many steps of the order are done
    block: int | None = None  # the open block, by the number of its tag
    inked: bool = False  # since the last tag there is text other than blanks
    pending: str = ""  # the text ends with this beginning of a tag


class TagFormat(TextReward):
    """Reward a completion that consists of one block per step, in order.

        R = 1 if the completion is  _ <t₁> body </t₁> _ <t₂> body </t₂> _ …  else 0

    The tags of the format are exact strings: `<think >`, `<Think>` and `<think id="1">` are text.
    They cut a completion into bodies and the text outside (`_`). No body contains a tag of the
    format, so blocks neither nest nor cross. Blanks are whitespace and the characters that show
    nothing, such as U+200B, U+FEFF and controls (`rewards.blanks`).

    Args:
        tags: the steps, in order: a name (letters, digits, `_` and `-`), or several of which the
            completion has one, such as `("think", ("tool", "answer"))`.
        optional: names of steps that may be left out.
        exactly_once: each step has one block, and no tag occurs elsewhere. Otherwise the completion
            is any sequence of whole blocks in which `tags` can be read in order.
        require_nonempty: each body has a character that is no blank.
        allow_outside: text may stand outside; otherwise blanks alone.
        tail: text stands after the last block, and is more than blanks: an answer without a tag.
        prefilled: the tag that the prompt has opened already, as the chat templates of reasoning
            models do: the completion is judged with that tag put before it. Only the first name can
            be. None: the completion opens it itself. `"auto"`: a prompt that is a text decides by
            its end, `<think>` and whitespace; without one, and for conversations, whose rendered
            prompt no reward sees, the tag counts as prefilled if its closing tag is the first tag.
        partial_credit: a completion in a wrong form gets the share of the tags in their place, but
            never all: min(k, 2n − 1) / 2n for k of the 2n tags. A tag is in its place if it occurs
            (once, with `exactly_once`) and first occurs after those that the format has before it.
            Of alternatives the first in the completion counts, of optional steps those there are.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number in [0, 1] per completion; dimensionless.

    Raises:
        TypeError: if `tags` or `optional` is one string; (when called) if `completions` is.
        ValueError: if a name is invalid, reserved (`tags`) or given twice, there is none that must
            occur, `optional` names none of them, or `prefilled` is not the first; (when called) if
            there are not as many prompts as completions.

    Degenerate cases: a truncated completion, its last block open, is wrong. An empty body is wrong
    unless `require_nonempty=False`. An opening tag after a prefilled one is nested, so wrong. So is
    a thought that names a tag, as in `<think>then I write <answer></think>`: no reader can tell it
    from one that opens the tag, and what may stand in a thought could hide a second answer.

    How it can be hacked: it sees the form alone, so any bodies earn 1. `"auto"` on conversations
    forgives a missing first opening tag; give `prefilled` where the template is known.
    `partial_credit` pays nearly all for bare tags around nothing. `allow_outside` lets an answer
    stand before its reasoning.

    Example:
        >>> reward = TagFormat(("think", "answer"))
        >>> reward(["<think>2+2</think> <answer>4</answer>", "<answer>4</answer>"])
        [1.0, 0.0]
        >>> reward(["2+2</think><answer>4</answer>"] * 2, prompts=["2+2? <think>", "2+2?"])
        [1.0, 0.0]
        >>> reward.spans(["<think>2+2</think>4"])
        [{'tags': [(0, 7), (10, 18)], 'think': [(7, 10)], 'answer': []}]
        >>> agent = TagFormat(("think", ("tool", "answer")), optional=["think"])
        >>> agent(["<tool>x</tool>", "<think>a</think><answer>b</answer>", "<think>a</think>"])
        [1.0, 1.0, 0.0]

    Source: the format reward of DeepSeek-R1, arXiv:2501.12948, section 2.2.2.
    """

    def __init__(
        self,
        tags: Sequence[str | Sequence[str]] = ("think", "answer"),
        *,
        optional: Collection[str] = (),
        exactly_once: bool = True,
        require_nonempty: bool = True,
        allow_outside: bool = False,
        tail: bool = False,
        prefilled: str | None = "auto",
        partial_credit: bool = False,
        name: str = "tag_format",
    ) -> None:
        super().__init__(name)
        steps = _checked_steps(tags)
        self.tags = tuple(name for step in steps for name in step)
        self._optional = [any(name in optional for name in step) for step in steps]
        _check_optional(optional, self.tags, self._optional)
        if prefilled not in ("auto", None, self.tags[0]):
            raise ValueError(
                f"prefilled is {prefilled!r}, expected 'auto', None or the first tag "
                f"{self.tags[0]!r}."
            )
        self.exactly_once = exactly_once
        self.require_nonempty = require_nonempty
        self.allow_outside = allow_outside
        self.tail = tail
        self.prefilled = prefilled
        self.partial_credit = partial_credit
        self._steps = [[f"<{name}>" for name in step] for step in steps]
        self._step_of = {tag: i for i, step in enumerate(self._steps) for tag in step}
        self._literals = [literal for tag in self._step_of for literal in (tag, _closing(tag))]
        self._closing_of = dict(zip(self._literals[::2], self._literals[1::2], strict=True))
        self._tag = re.compile(f"({'|'.join(self._literals)})")
        self._automata: dict[bool | None, Automaton] = {}

    def __call__(
        self,
        completions: Sequence[Completion],
        *,
        prompts: Sequence[Any] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Score completions; see the class."""
        return [self.score(text, prompt) for text, prompt in self._rows(completions, prompts)]

    def score(self, text: str, prompt: Any = None) -> float:
        """Score one text, given the prompt before it."""
        parts = self._parts(text, prompt)
        if self._well_formed(parts[::2], parts[1::2]):
            return 1.0
        return self._share_in_place(parts[1::2]) if self.partial_credit else 0.0

    def spans(
        self, completions: Sequence[Completion], prompts: Sequence[Any] | None = None
    ) -> list[Spans]:
        """Find the bodies of the whole blocks under their tags' names, and all tags under `tags`.

        Whole blocks count in wrong completions too. A prefilled tag is no part of the completion.
        """
        rows = self._rows(completions, prompts)
        return [self._spans(text, self._parts(text, prompt)) for text, prompt in rows]

    def decided(
        self, completions: Sequence[Completion], prompts: Sequence[Any] | None = None
    ) -> list[Decided]:
        """Find after how many characters each score can no longer change: exact, in one sweep.

        Under `"auto"`, prompts matter as they do for the score: without them a text before the
        first tag may be inside a prefilled block. With `partial_credit` nothing is claimed.
        """
        rows = self._rows(completions, prompts)
        if self.partial_credit:
            return [Decided(None, exact=False) for _ in rows]
        return [
            Decided(self._automaton(self._inside(prompt)).settled(text)) for text, prompt in rows
        ]

    @property
    def automaton(self) -> "Automaton | None":
        """The automaton that accepts what scores 1 without a prompt; None with `partial_credit`."""
        return self.automaton_for(None)

    def automaton_for(self, prompt: Any) -> "Automaton | None":
        """Return the automaton that accepts what scores 1 after a prompt.

        Args:
            prompt: as the reward is given it; under `"auto"` one that is a text decides whether the
                first tag is prefilled.

        Returns:
            The automaton, the same one for equal readings; None with `partial_credit`.
        """
        return None if self.partial_credit else self._automaton(self._inside(prompt))

    @property
    def specimen(self) -> str:
        """A completion that earns 1 after a prompt that opens no tag, unless one must be open."""
        blocks = [f"{tag}x{_closing(tag)}" for tag, *_ in self._steps]
        return "\n".join([*blocks, "x"] if self.tail else blocks)

    def _rows(
        self, completions: Sequence[Completion], prompts: Sequence[Any] | None
    ) -> list[tuple[str, Any]]:
        texts = texts_of(self, completions)
        if prompts is None:
            prompts = [None] * len(texts)
        one_each(self.__name__, "prompts", prompts, len(texts))
        return list(zip(texts, prompts, strict=True))

    def _inside(self, prompt: Any) -> bool | None:
        """Return whether a completion starts inside the first block; None if nobody can know."""
        if self.prefilled != "auto":
            return self.prefilled is not None
        return prompt.rstrip().endswith(self._literals[0]) if isinstance(prompt, str) else None

    def _parts(self, text: str, prompt: Any) -> list[str]:
        """Cut a text into text, tag, text, …, tag, text; a prefilled tag is put before."""
        parts = self._tag.split(text)
        inside = self._inside(prompt)
        if inside is None:
            inside = parts[1:2] == self._literals[1:2]
        return ["", self._literals[0], *parts] if inside else parts

    def _well_formed(self, stretches: list[str], tags: list[str]) -> bool:
        return (
            self._can_be_read(tags)
            and not (self.require_nonempty and any(map(is_blank, stretches[1::2])))
            and self._outside_allowed(stretches[::2])
        )

    def _can_be_read(self, tags: list[str]) -> bool:
        if self.exactly_once and len(tags) > 2 * len(self._steps):
            return False
        opening = tags[::2]
        if list(map(_closing, opening)) != tags[1::2]:
            return False
        done = 0
        for step in map(self._step_of.__getitem__, opening):
            if self._comes_next(step, done):
                done = step + 1
            elif self.exactly_once:
                return False
        return all(self._optional[done:])

    def _comes_next(self, step: int, done: int) -> bool:
        """Whether a step can follow when some are done: only optional ones lie between."""
        return step >= done and all(self._optional[done:step])

    def _outside_allowed(self, outside: list[str]) -> bool:
        if self.tail and is_blank(outside.pop()):
            return False
        return self.allow_outside or all(map(is_blank, outside))

    def _automaton(self, inside: bool | None) -> "Automaton":
        if inside not in self._automata:
            self._automata[inside] = self._explored(inside)
        return self._automata[inside]

    def _explored(self, inside: bool | None) -> "Automaton":
        from .automaton import Automaton

        own, prefilled = _Place(), _Place(block=0)
        readings = {False: (own,), True: (prefilled,), None: (own, prefilled)}
        classes, char_of = _classes(sorted(set("".join(self._literals))))
        return Automaton.explore(
            classes,
            readings[inside],
            lambda places, kind: tuple(self._after(place, char_of[kind]) for place in places),
            lambda places: any(map(self._right_if_ended, places)),
        )

    def _after(self, place: _Place | None, char: str) -> _Place | None:
        """Return where one more character leads; None is where nothing can become right."""
        if place is None:
            return None
        tag = place.pending + char
        if tag in self._literals:
            return self._after_tag(place, *divmod(self._literals.index(tag), 2))
        if any(whole.startswith(tag) for whole in self._literals):
            return place._replace(pending=tag)
        pending = "<" if char == "<" else ""  # what was pending is text; this may begin a tag
        inked = place.inked or place.pending != "" or not (pending or char == " ")
        return place._replace(inked=inked, pending=pending)

    def _after_tag(self, place: _Place, block: int, closing: int) -> _Place | None:
        step = self._step_of[self._literals[2 * block]]
        next_one = self._comes_next(step, place.whole)
        if closing:
            if place.block != block or (self.require_nonempty and not place.inked):
                return None
            return _Place(whole=step + 1 if next_one else place.whole)
        misplaced = self.exactly_once and not next_one
        if misplaced or place.block is not None or (place.inked and not self.allow_outside):
            return None
        return _Place(whole=place.whole, block=block)

    def _right_if_ended(self, place: _Place | None) -> bool:
        if place is None or place.block is not None or not all(self._optional[place.whole :]):
            return False
        text = place.inked or place.pending != ""
        return text if self.tail else self.allow_outside or not text

    def _share_in_place(self, tags: list[str]) -> float:
        in_place, latest, order = 0, -1, self._order_in(tags)
        for tag in order:
            if tag in tags:
                first = tags.index(tag)
                in_place += first > latest and not (self.exactly_once and tags.count(tag) > 1)
                latest = max(first, latest)
        return min(in_place, len(order) - 1) / len(order)

    def _order_in(self, tags: list[str]) -> list[str]:
        """Return the tags that a completion should have, by those it has."""
        order = []
        for step, optional in zip(self._steps, self._optional, strict=True):
            there = [tag for tag in tags if tag in step]
            if there or not optional:
                tag = (there or step)[0]
                order += [tag, _closing(tag)]
        return order

    def _spans(self, text: str, parts: list[str]) -> Spans:
        start = len(text) - sum(map(len, parts))  # below 0 by a prefilled tag
        edges = list(accumulate(map(len, parts), initial=start))
        tags, places = parts[1::2], zip(edges[1::2], edges[2::2], strict=False)
        bodies: Spans = {tag: [] for tag in self._closing_of}
        between = zip(edges[2::2], edges[3::2], strict=False)
        for tag, following, body in zip(tags, tags[1:], between, strict=False):
            if self._closing_of.get(tag) == following:
                bodies[tag].append(body)
        own = [place for place in places if place[0] >= 0]
        return {TAGS: own, **{tag[1:-1]: spans for tag, spans in bodies.items()}}

    def __repr__(self) -> str:
        return f"TagFormat({self.tags!r}, name={self.__name__!r})"


def _classes(characters: Sequence[str]) -> "tuple[CharClasses, dict[int, str]]":
    """Tell some characters apart, blanks (" ") and the rest ("."); give each class a character."""
    import numpy as np

    from .characters import CharClasses, blank

    sets = [np.array([ord(char), ord(char) + 1]) for char in characters]
    classes, inside = CharClasses.of([*sets, blank()])
    char_of = dict.fromkeys(range(classes.count), ".")
    char_of.update({kind: char for char, [kind] in zip([*characters, " "], inside, strict=True)})
    return classes, char_of


def _closing(tag: str) -> str:
    return f"</{tag[1:]}"


def _checked_steps(tags: Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    if isinstance(tags, str):
        raise TypeError(f"tags is {tags!r}, expected a sequence of names: ({tags!r},).")
    steps = [(step,) if isinstance(step, str) else tuple(step) for step in tags]
    names = [name for step in steps for name in step]
    for name in names:
        if not re.fullmatch(r"[\w-]+", name) or name == TAGS:
            raise ValueError(
                f"tag {name!r} is no name, expected letters, digits, '_' and '-' without brackets, "
                f"and not {TAGS!r}, under which the tags' own spans are found."
            )
    if not all(steps) or not names or len(set(names)) < len(names):
        raise ValueError(f"tags is {tuple(tags)!r}, expected one or more names, each once.")
    return steps


def _check_optional(optional: Collection[str], names: Sequence[str], steps: list[bool]) -> None:
    if isinstance(optional, str):
        raise TypeError(f"optional is {optional!r}, expected names in a list: [{optional!r}].")
    if unknown := set(optional) - set(names):
        raise ValueError(
            f"optional names {min(unknown)!r}, expected some of the tags: {', '.join(names)}."
        )
    if all(steps):
        raise ValueError("every tag is optional, so that nothing is asked for; leave one out.")


think_answer_format = TagFormat(("think", "answer"), name="think_answer_format")
"""1 for `<think>…</think><answer>…</answer>`, each tag once, neither part empty, nothing around."""

think_format = TagFormat(("think",), tail=True, name="think_format")
"""1 for `<think>…</think>` and an answer after it, each tag once, neither part empty."""
