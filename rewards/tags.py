"""Rewards for completions made of tagged blocks: `<think>…</think><answer>…</answer>`."""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from .contract import Completion, Decided, Spans, TextReward, completion_text

if TYPE_CHECKING:  # numpy is not needed for scores
    from .automaton import Automaton
    from .characters import CharClasses

TAGS = "tags"  # the name of the spans of the tags themselves


class _Place(NamedTuple):
    """Where in the form a text has got to."""

    whole: int = 0  # how many tags of the order have their blocks
    block: int | None = None  # the open block, by the number of its tag
    inked: bool = False  # since the last tag there is text other than whitespace
    pending: str = ""  # the text ends with this beginning of a tag


class TagFormat(TextReward):
    """Reward a completion that consists of one block per tag, in order.

        R = 1 if the completion is  _ <t₁> body </t₁> _ <t₂> body </t₂> _ …  else 0

    The tags of the format are exact strings: `<think >`, `<Think>` and `<think id="1">` are text.
    They cut a completion into bodies and the text outside (`_`). No body contains a tag of the
    format, so blocks neither nest nor cross. Whitespace is what `str.isspace` says it is.

    Args:
        tags: the names, in order; letters, digits, `_` and `-`.
        exactly_once: each tag occurs once, outside included. Otherwise the completion is any
            sequence of whole blocks in which `tags` can be read in order.
        require_nonempty: each body has a character that is no whitespace.
        allow_outside: text may stand outside; otherwise whitespace alone.
        tail: text stands after the last block, and is no mere whitespace: an answer without a tag.
        prefilled: the tag that the prompt has opened already, as the chat templates of reasoning
            models do: the completion is judged with that tag put before it. Only the first tag can
            be. None: the completion opens it itself. `"auto"`: a prompt that is a text decides by
            its end, `<think>` and whitespace; without one, and for conversations, whose rendered
            prompt no reward sees, the tag counts as prefilled if its closing tag is the first tag.
        partial_credit: a completion in a wrong form gets the share of the tags in their place, but
            never all: min(k, 2n − 1) / 2n for k of the 2n tags. A tag is in its place if it occurs
            (once, with `exactly_once`) and first occurs after those that the format has before it.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One number in [0, 1] per completion; dimensionless.

    Raises:
        TypeError: if `tags` is one string.
        ValueError: if a name is invalid, reserved (`tags`) or given twice, there is none, or
            `prefilled` is not the first; (when called) if there are not as many prompts as
            completions.

    Degenerate cases: a truncated completion, its last block open, is wrong. An empty body is wrong
    unless `require_nonempty=False`. An opening tag after a prefilled one is nested, so wrong.

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

    Source: the format reward of DeepSeek-R1, arXiv:2501.12948, section 2.2.2.
    """

    def __init__(
        self,
        tags: Sequence[str] = ("think", "answer"),
        *,
        exactly_once: bool = True,
        require_nonempty: bool = True,
        allow_outside: bool = False,
        tail: bool = False,
        prefilled: str | None = "auto",
        partial_credit: bool = False,
        name: str = "tag_format",
    ) -> None:
        super().__init__(name)
        self.tags = _checked_names(tags)
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
        self._order = [literal for tag in self.tags for literal in (f"<{tag}>", f"</{tag}>")]
        self._tag = re.compile(f"({'|'.join(self._order)})")
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
        found: dict[tuple[str, Any], int | None] = {}
        for inside in {self._inside(prompt) for _, prompt in rows}:
            texts = [text for text, prompt in rows if self._inside(prompt) is inside]
            places = self._automaton(inside).settled_in(texts)
            found.update({(text, inside): n for text, n in zip(texts, places, strict=True)})
        return [Decided(found[text, self._inside(prompt)]) for text, prompt in rows]

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
        blocks = [f"<{tag}>x</{tag}>" for tag in self.tags]
        return "\n".join([*blocks, "x"] if self.tail else blocks)

    def _rows(
        self, completions: Sequence[Completion], prompts: Sequence[Any] | None
    ) -> list[tuple[str, Any]]:
        if prompts is None:
            prompts = [None] * len(completions)
        if len(prompts) != len(completions):
            raise ValueError(
                f"reward {self.__name__!r} got {len(prompts)} prompts for {len(completions)} "
                "completions; expected one per completion."
            )
        return list(zip(map(completion_text, completions), prompts, strict=True))

    def _inside(self, prompt: Any) -> bool | None:
        """Tell whether a completion starts inside the first block; None if nobody can know."""
        if self.prefilled != "auto":
            return self.prefilled is not None
        return prompt.rstrip().endswith(self._order[0]) if isinstance(prompt, str) else None

    def _parts(self, text: str, prompt: Any) -> list[str]:
        """Cut a text into text, tag, text, …, tag, text; a prefilled tag is put before."""
        parts = self._tag.split(text)
        inside = self._inside(prompt)
        if inside is None:
            inside = parts[1:2] == self._order[1:2]
        return ["", self._order[0], *parts] if inside else parts

    def _well_formed(self, stretches: list[str], tags: list[str]) -> bool:
        return (
            (tags == self._order if self.exactly_once else self._can_read_order(tags))
            and not (self.require_nonempty and any(map(_blank, stretches[1::2])))
            and self._outside_allowed(stretches[::2])
        )

    def _can_read_order(self, tags: list[str]) -> bool:
        opening = tags[::2]
        if [f"</{tag[1:]}" for tag in opening] != tags[1::2]:
            return False
        later = iter(opening)
        return all(tag in later for tag in self._order[::2])

    def _outside_allowed(self, outside: list[str]) -> bool:
        if self.tail and _blank(outside.pop()):
            return False
        return self.allow_outside or all(map(_blank, outside))

    def _automaton(self, inside: bool | None) -> "Automaton":
        if inside not in self._automata:
            self._automata[inside] = self._explored(inside)
        return self._automata[inside]

    def _explored(self, inside: bool | None) -> "Automaton":
        from .automaton import Automaton

        own, prefilled = _Place(), _Place(block=0)
        readings = {False: (own,), True: (prefilled,), None: (own, prefilled)}
        classes, char_of = _classes(set("".join(self._order)))
        return Automaton.explore(
            classes,
            readings[inside],
            lambda places, kind: tuple(self._after(place, char_of[kind]) for place in places),
            lambda places: any(map(self._right_if_ended, places)),
        )

    def _after(self, place: _Place | None, char: str) -> _Place | None:
        """Say where one more character leads; None is where nothing can become right."""
        if place is None:
            return None
        tag = place.pending + char
        if tag in self._order:
            return self._after_tag(place, *divmod(self._order.index(tag), 2))
        if any(whole.startswith(tag) for whole in self._order):
            return place._replace(pending=tag)
        pending = "<" if char == "<" else ""  # what was pending is text; this may begin a tag
        inked = place.inked or place.pending != "" or not (pending or char.isspace())
        return place._replace(inked=inked, pending=pending)

    def _after_tag(self, place: _Place, block: int, closing: int) -> _Place | None:
        if closing:
            if place.block != block or (self.require_nonempty and not place.inked):
                return None
            return _Place(whole=place.whole + (place.whole == block))
        misplaced = self.exactly_once and block != place.whole
        if misplaced or place.block is not None or (place.inked and not self.allow_outside):
            return None
        return _Place(whole=place.whole, block=block)

    def _right_if_ended(self, place: _Place | None) -> bool:
        if place is None or place.block is not None or place.whole < len(self.tags):
            return False
        text = place.inked or place.pending != ""
        return text if self.tail else self.allow_outside or not text

    def _share_in_place(self, tags: list[str]) -> float:
        in_place, latest = 0, -1
        for tag in self._order:
            if tag in tags:
                first = tags.index(tag)
                in_place += first > latest and not (self.exactly_once and tags.count(tag) > 1)
                latest = max(first, latest)
        return min(in_place, len(self._order) - 1) / len(self._order)

    def _spans(self, text: str, parts: list[str]) -> Spans:
        start = len(text) - sum(map(len, parts))  # below 0 by a prefilled tag
        edges = list(accumulate(map(len, parts), initial=start))
        spans: Spans = {TAGS: [], **{tag: [] for tag in self.tags}}
        for i in range(1, len(parts), 2):
            if edges[i] >= 0:
                spans[TAGS].append((edges[i], edges[i + 1]))
            if parts[i + 2 : i + 3] == [f"</{parts[i][1:]}"]:
                spans[parts[i][1:-1]].append((edges[i + 1], edges[i + 2]))
        return spans

    def __repr__(self) -> str:
        return f"TagFormat({self.tags!r}, name={self.__name__!r})"


def _classes(characters: set[str]) -> "tuple[CharClasses, dict[int, str]]":
    """Tell some characters apart, whitespace and the rest; return one character of each class."""
    import numpy as np

    from .characters import CharClasses

    blank = [code for code in range(0x3001) if chr(code).isspace()]  # none lies beyond
    sets = [[ord(char), ord(char) + 1] for char in characters]
    sets.append([edge for code in blank for edge in (code, code + 1)])
    classes, inside = CharClasses.of([np.array(edges) for edges in sets])
    char_of = dict.fromkeys(range(classes.count), "\0")
    char_of.update({kind: char for char, [kind] in zip([*characters, " "], inside, strict=True)})
    return classes, char_of


def _blank(text: str) -> bool:
    return not text or text.isspace()


def _checked_names(tags: Sequence[str]) -> tuple[str, ...]:
    if isinstance(tags, str):
        raise TypeError(f"tags is {tags!r}, expected a sequence of names: ({tags!r},).")
    for tag in tags:
        if not re.fullmatch(r"[\w-]+", tag) or tag == TAGS:
            raise ValueError(
                f"tag {tag!r} is no name, expected letters, digits, '_' and '-' without brackets, "
                f"and not {TAGS!r}, under which the tags' own spans are found."
            )
    if not tags or len(set(tags)) < len(tags):
        raise ValueError(f"tags is {tuple(tags)!r}, expected one or more names, each once.")
    return tuple(tags)


think_answer_format = TagFormat(("think", "answer"), name="think_answer_format")
"""1 for `<think>…</think><answer>…</answer>`, each tag once, neither part empty, nothing around."""

think_format = TagFormat(("think",), tail=True, name="think_format")
"""1 for `<think>…</think>` and an answer after it, each tag once, neither part empty."""
