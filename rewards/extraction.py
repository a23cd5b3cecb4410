"""Find the answer in a completion.

Everything is linear in the length of the completion but `ByPattern`, which has a time limit.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import regex

from .boxes import Span, boxes_of, with_attached
from .patience import granted, in_time, ran_out


@dataclass
class Extract(ABC):
    """Where the answer is in a text; a subclass says how in `find`.

    Args:
        unique: whether different answers in one text are no answer, so that answering everything
            earns nothing; otherwise the last one is taken. More than a hundred are never one.

    Returns:
        (when called) The span of characters of the answer without whitespace around, or None.
    """

    unique: bool = field(default=True, kw_only=True)

    def __call__(self, text: str, read: Callable[[str], Hashable] = str) -> Span | None:
        """Return the span of the answer; answers that `read` the same are the same."""
        last: dict[str, Span] = {}  # where each different answer is
        for start, end in self.find(text):
            last[text[start:end]] = start, end
            if len(last) > MOST and self.unique:
                return None
        trimmed = sorted(_trimmed(text, *span) for span in last.values())
        places = {" ".join(text[start:end].split()): (start, end) for start, end in trimmed}
        places = self.rivals(places, read) if len(places) > 1 else places
        if self.unique and len(places) > 1 and not _same(map(read, places)):
            return None
        return max(places.values(), default=None)

    def in_time(self, text: str) -> Span | None:
        """Return the span of the answer; None, too, where a pattern runs out of time."""
        return in_time(lambda: self(text))

    @abstractmethod
    def find(self, text: str) -> Iterable[Span]:
        """Return the span of each different answer in the text; no two may overlap."""

    def rivals(self, places: dict[str, Span], read: Callable[[str], Hashable]) -> dict[str, Span]:
        """Return which of several different answers, and where they are, are to be compared."""
        return places


MOST = 100  # different answers in one text; more are no answer


def _same(values: Iterable[Hashable]) -> bool:
    """Return whether all values are the same, looking no further than needed."""
    values = iter(values)
    first = next(values)
    return all(value == first for value in values)


@dataclass
class InTag(Extract):
    """Take what is between an opening tag and the closing one before the next opening.

    A text whose last opening tag is never closed has no answer: it was about to give another.

    Example:
        >>> text = "Put it in <answer>: <answer> 42 </answer>"
        >>> InTag("answer")(text), text[29:31]
        ((29, 31), '42')
        >>> InTag()("<answer>A</answer> or <answer>B</answer>")
    """

    tag: str = "answer"

    def find(self, text: str) -> list[Span]:
        """Return the span of each answer in the text."""
        opening, closing = f"<{self.tag}>", f"</{self.tag}>"
        spans, end = [], -1
        start = text.find(opening)
        while start >= 0:
            start += len(opening)
            following = text.find(opening, start)
            end = text.find(closing, start, following if following >= 0 else len(text))
            if end >= 0:
                spans.append((start, end))
            start = following
        return spans if end >= 0 else []


@dataclass
class InBox(Extract):
    r"""Take what is in `\boxed{…}` or `\fbox{…}`, braces balanced.

    Of boxes inside each other the outermost counts. A text whose last box is never closed has no
    answer: it was about to give another. A sign, a power, a percent sign or a scale at a box is of
    the answer (`-\boxed{5}`); a box that is part of a formula (`2 + \boxed{5}`), or denied, says
    nothing: see `rewards.boxes`.

    Example:
        >>> text = r"so \boxed{\frac{1}{2}}"
        >>> start, end = InBox()(text)
        >>> text[start:end]
        '\\frac{1}{2}'
        >>> InBox()(r"\boxed{42}, no, \boxed{7")
    """

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of each answer in the text."""
        for start, end in boxes_of(text):
            yield with_attached(text, start, end) or (start, start)


@dataclass
class AfterMarker(Extract):
    r"""Take the rest of the line after a marker, GSM8K's by default; the next line if it is empty.

    What cannot be read is no rival of what can: other text may follow the same marker. A marker of
    `#` is a heading in Markdown, too: where it is followed by a number, those lines that begin with
    a word are headings, and a longer run of `#` is another mark.

    Example:
        >>> AfterMarker()("9 * 2 = 18\n#### 18\n")
        (16, 18)
        >>> text = "#### Step 1\n9 * 2\n#### Step 2\n#### 18"
        >>> text[slice(*AfterMarker()(text))]
        '18'
    """

    marker: str = "####"

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of each answer in the text."""
        if self.marker not in text:
            return
        mark = re.compile(re.escape(self.marker) + ("#*" if self._is_heading else ""))
        marks = [m.span() for m in mark.finditer(text) if len(m[0]) == len(self.marker)]
        edges = pairwise([*marks, (len(text), len(text))])
        for piece, stop in {text[end:stop]: stop for (_, end), (stop, _) in edges}.items():
            rest = piece.lstrip()
            if rest:
                yield stop - len(rest), stop - len(rest) + len(rest.partition("\n")[0])

    def rivals(self, places: dict[str, Span], read: Callable[[str], Hashable]) -> dict[str, Span]:
        """Leave out headings, and what cannot be read, unless there is nothing else."""
        if self._is_heading:
            places = {words: places[words] for words in places if not _is_heading(words)} or places
        return {words: places[words] for words in places if read(words) is not None} or places

    @property
    def _is_heading(self) -> bool:
        return not self.marker.strip("#")


def _is_heading(words: str) -> bool:
    """Return whether the first letter or digit is a letter."""
    first = _LETTER_OR_DIGIT.search(words)
    return first is not None and first[0].isalpha()


_LETTER_OR_DIGIT = re.compile(r"[^\W_]")


@dataclass
class ByPattern(Extract):
    r"""Take what a named group of a regular expression matches.

    Args:
        pattern: in the syntax of the `regex` package.
        group: the name of the group.
        timeout: seconds of matching per completion, in processor time of all threads, as the engine
            counts; after them there is no answer. All completions of a call share
            `patience.BUDGET` seconds.
        unique: see `Extract`.

    Raises:
        ValueError: if the pattern is invalid or has no such group, with the groups it has.

    Example:
        >>> ByPattern(r"(?i)answer is (?P<answer>\w+)")("The answer is Bern.")
        (14, 18)
    """

    pattern: str
    group: str = "answer"
    timeout: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a pattern that cannot work."""
        try:
            groups = regex.compile(self.pattern).groupindex
        except regex.error as error:
            raise ValueError(f"invalid pattern {self.pattern!r}: {error}.") from None
        if self.group not in groups:
            raise ValueError(
                f"pattern {self.pattern!r} has no group {self.group!r}; named groups: "
                f"{', '.join(groups) or 'none'}. Write (?P<{self.group}>…) around the answer."
            )

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of each answer in the text."""
        try:
            for match in regex.finditer(self.pattern, text, timeout=granted(self.timeout)):
                if match[self.group] is not None:
                    yield match.span(self.group)
        except TimeoutError:
            ran_out(self.pattern)
            raise


@dataclass
class InFence(Extract):
    r"""Take what is in a Markdown code block; one that is never closed is none.

    Args:
        language: the first word after the opening fence, or several of which any will do, in any
            case; None takes every block.
        unique: see `Extract`.

    Example:
        >>> text = "Here it is:\n```json\n{}\n```\n"
        >>> InFence("json")(text), InFence("python")(text)
        ((20, 22), None)
    """

    language: str | tuple[str, ...] | None = None

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of each answer in the text."""
        opened: tuple[int, str, str] | None = None  # where its content begins, fence, language
        languages = (self.language,) if isinstance(self.language, str) else self.language
        known = None if languages is None else {word.casefold() for word in languages}
        for line in _FENCE.finditer(text):
            fence, words = line["fence"], line["words"].split()
            if opened is None:
                opened = line.end(), fence, words[0].casefold() if words else ""
            elif not words and fence.startswith(opened[1]):
                if known is None or opened[2] in known:
                    yield opened[0], line.start()
                opened = None


_FENCE = re.compile(r"(?m)^ {0,3}(?P<fence>`{3,}|~{3,})(?P<words>[^`\n]*)(?:\n|\Z)")


@dataclass
class WholeText(Extract):
    """Take the whole text.

    Example:
        >>> WholeText()(" 42 ")  # without white space around it
        (1, 3)
    """

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of each answer in the text."""
        yield 0, len(text)


def thought_end(text: str, tag: str = "think") -> int | None:
    """Return where what follows the thought begins: 0 without one, None if it never closed.

    The thought ends with the last closing tag, and has not ended where the tag opens again after
    it. It need not be opened in the text: chat templates may have done so.

    Example:
        >>> [thought_end(text) for text in ("a</think>b", "b", "<think>a</think>b<think>")]
        [9, 0, None]
    """
    closing = f"</{tag}>"
    start = text.rfind(closing) + len(closing) if closing in text else 0
    return None if text.find(f"<{tag}>", start) >= 0 else start


@dataclass
class AfterThought(Extract):
    r"""Look for the answer after the thought alone; nothing if the thought never closed.

    What is written in the thought counts for nothing; for where it ends see `thought_end`.

    Args:
        inner: where the answer is in what follows; all of it by default.
        tag: of the thought.
        required: whether a text without any thought has no answer.
        unique: see `Extract`; also False if `inner` takes the last of several.

    Example:
        >>> text = r"<think>\boxed{7}</think>Hence \boxed{42}"
        >>> start, end = AfterThought()(text)
        >>> text[start:end]
        'Hence \\boxed{42}'
        >>> start, end = AfterThought(InBox())(text)
        >>> text[start:end]
        '42'
        >>> AfterThought()(r"<think>\boxed{42}")
    """

    inner: Extract = field(default_factory=WholeText)
    tag: str = "think"
    required: bool = True

    def __post_init__(self) -> None:
        """Let the inner one say whether the last of several answers counts."""
        self.unique = self.unique and self.inner.unique

    def rivals(self, places: dict[str, Span], read: Callable[[str], Hashable]) -> dict[str, Span]:
        """Return what the inner one would compare."""
        return self.inner.rivals(places, read)

    def find(self, text: str) -> Iterator[Span]:
        """Return the span of each answer in the text."""
        start = thought_end(text, self.tag)
        if start or (start == 0 and not self.required):
            for first, end in self.inner.find(text[start:]):
                yield start + first, start + end


def _trimmed(text: str, start: int, end: int) -> Span:
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())
