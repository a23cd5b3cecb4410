"""Find the answer in a completion.

Everything is linear in the length of the completion but `ByPattern`, which has a time limit.
"""

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field

import regex

Span = tuple[int, int]


@dataclass
class Extract:
    """Where the answer is in a text; a subclass says how in `find`.

    Args:
        unique: whether different answers in one text are no answer, so that answering everything
            earns nothing; otherwise the last one is taken.

    Returns:
        (when called) The span of characters of the answer without whitespace around, or None.
    """

    unique: bool = field(default=True, kw_only=True)

    def __call__(self, text: str, read: Callable[[str], Hashable] = str) -> Span | None:
        """Return the span of the answer; answers that `read` the same are the same."""
        spans = [_trimmed(text, *span) for span in self.find(text)]
        different = {" ".join(text[start:end].split()) for start, end in spans}
        if not spans or (self.unique and len(different) > 1 and len({*map(read, different)}) > 1):
            return None
        return spans[-1]

    def find(self, text: str) -> Iterable[Span]:
        """Give the span of each answer in the text; no two may overlap."""
        raise NotImplementedError


@dataclass
class InTag(Extract):
    """Take what is between an opening tag and the closing one before the next opening.

    Example:
        >>> text = "Put it in <answer>: <answer> 42 </answer>"
        >>> InTag("answer")(text), text[29:31]
        ((29, 31), '42')
        >>> InTag()("<answer>A</answer> or <answer>B</answer>")
    """

    tag: str = "answer"

    def find(self, text: str) -> Iterator[Span]:
        """Give the span of each answer in the text."""
        opening, closing = f"<{self.tag}>", f"</{self.tag}>"
        start = text.find(opening)
        while start >= 0:
            start += len(opening)
            following = text.find(opening, start)
            stop = following if following >= 0 else len(text)
            end = text.find(closing, start, stop)
            if end >= 0:
                yield start, end
            start = following


@dataclass
class InBox(Extract):
    r"""Take what is in `\boxed{…}` or `\fbox{…}`, braces balanced, or stands after `\boxed `.

    Of boxes inside each other the outermost counts. Where the last box never closes there is no
    answer: what was in a box before has been taken back.

    Example:
        >>> text = r"so \boxed{\frac{1}{2}}"
        >>> start, end = InBox()(text)
        >>> text[start:end]
        '\\frac{1}{2}'
    """

    def find(self, text: str) -> list[Span]:
        """Give the span of each answer in the text."""
        open_braces: list[int | None] = []  # where the box begins, if the brace opens one
        boxes: list[Span] = []
        for token in _BRACE.finditer(text):
            if token["bare"] is not None:
                boxes.append(token.span("bare"))
            elif token[0].endswith("{"):
                open_braces.append(token.end() if "box" in token[0] else None)
            elif open_braces and (start := open_braces.pop()) is not None:
                while boxes and boxes[-1][0] > start:
                    boxes.pop()
                boxes.append((start, token.start()))
        broken = max((start for start in open_braces if start is not None), default=0)
        return boxes if boxes and boxes[-1][0] > broken else []


_BRACE = re.compile(
    r"\\(?:boxed|fbox)(?:\s*\{|\s+(?P<bare>[^\s{}\\$]+))|(?<!\\)(?:\\\\)*[{}]"
)


@dataclass
class AfterMarker(Extract):
    r"""Take the rest of the line after a marker, GSM8K's by default.

    Example:
        >>> AfterMarker()("9 * 2 = 18\n#### 18\n")
        (16, 18)
    """

    marker: str = "####"

    def find(self, text: str) -> Iterator[Span]:
        """Give the span of each answer in the text."""
        marker = re.escape(self.marker)
        for match in re.finditer(rf"{marker}((?:(?!{marker})[^\n])*)", text):
            yield match.span(1)


@dataclass
class ByPattern(Extract):
    r"""Take what a named group of a regular expression matches.

    Args:
        pattern: in the syntax of the `regex` package.
        group: the name of the group.
        timeout: seconds of matching per completion, in processor time of all threads, as the engine
            counts; after them the reward abstains.
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
        """Give the span of each answer in the text."""
        for match in regex.finditer(self.pattern, text, timeout=self.timeout):
            if match[self.group] is not None:
                yield match.span(self.group)


@dataclass
class WholeText(Extract):
    """Take the whole text."""

    def find(self, text: str) -> Iterator[Span]:
        """Give the span of each answer in the text."""
        yield 0, len(text)


@dataclass
class AfterThought(Extract):
    r"""Look for the answer after the thought alone; nothing if the thought never closed.

    The thought ends with the last closing tag, and has not ended where the tag opens again after
    it. What is written in it counts for nothing, whether an opening tag is there or not: chat
    templates may have written that one.

    Args:
        inner: where the answer is in what follows; all of it by default.
        tag: of the thought.
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

    def __post_init__(self) -> None:
        """Let the inner one say whether the last of several answers counts."""
        self.unique = self.unique and self.inner.unique

    def find(self, text: str) -> Iterator[Span]:
        """Give the span of each answer in the text."""
        closing = f"</{self.tag}>"
        start = text.rfind(closing)
        if start >= 0 and text.find(f"<{self.tag}>", start) < 0:
            start += len(closing)
            for first, end in self.inner.find(text[start:]):
                yield start + first, start + end


def _trimmed(text: str, start: int, end: int) -> Span:
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return start, start + len(inside.strip())
