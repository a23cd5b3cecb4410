"""Reward a completion for being in one language.

Needs the extra: pip install 'grpo-credit[language]'.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .contract import ColumnReward, Completion, Spans, is_nothing, need, texts_of

READ = 1_500  # letters of a completion that are judged, about
FEWEST = 8  # letters that a sentence needs to be judged
LONGEST = 300  # characters of a sentence; a longer one is several

_OTHER = re.compile(  # what is in no language: code, formulas, commands of LaTeX, tags, addresses
    r"```.*?(?:```|\Z)|`[^`\n]*`|\$\$[^$]*\$\$|\$[^$\n]*\$|\\\[(?:(?!\\\[).)*?\\\]"
    r"|\\\((?:(?!\\\().)*?\\\)|\\[a-zA-Z]+"
    r"|</?\w+>|https?://[!-~]+",
    re.DOTALL,
)
_PIECE = re.compile(rf"[^.!?\n。！？；…]{{{FEWEST},{LONGEST}}}")  # a sentence, about


class LanguageConsistency(ColumnReward):
    """Reward the share of a completion that is in the right language.

        R = letters of sentences in the language / letters of sentences that could be judged

    A sentence ends at a point, a question or exclamation mark, or a line break. Code, formulas,
    tags and addresses are in no language, and left out, as are sentences of fewer than 8 letters.
    Every 300 characters are a sentence of their own; of a completion of more than 1,500 letters,
    sentences that are evenly spread over it are judged.

    Args:
        language: the right one, by its ISO 639-1 code (`"en"`), or None if a column has it.
        column: the column with the code, for data in several languages.
        others: codes of the languages that are told apart, besides the right one. Few are faster,
            and err less; what is in none of them counts as the nearest.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) a number in [0, 1]; None where no sentence could be judged, and where the
        column holds nothing; dimensionless.

    Raises:
        ImportError: if lingua is not installed.
        ValueError: if a language is not known, with those that are, or neither `language` nor
            `column` is given, or both.

    How it can be hacked: an answer in formulas or code alone is not judged; so are words strewn
    into sentences of another language. Never use it alone: one right sentence is full marks.

    Deviation: the paper counts words; a single word often belongs to several languages, so
    sentences are judged and their letters counted, which scripts without spaces have, too.

    Example:
        >>> reward = LanguageConsistency("en", others=["zh", "de"])
        >>> reward(["We add both numbers and divide by three.", "我们把这两个数字加起来。"])
        [1.0, 0.0]

    Source: DeepSeek-AI 2025, DeepSeek-R1, arXiv:2501.12948, section 2.3.2; lingua.
    """

    def __init__(
        self,
        language: str | None = "en",
        *,
        column: str | None = None,
        others: Iterable[str] = ("en", "zh", "de", "fr", "es", "ru", "ja", "ko", "ar", "hi"),
        name: str = "language_consistency",
    ) -> None:
        if (language is None) == (column is None):
            raise ValueError(
                f"language is {language!r} and column {column!r}; expected one of the two: "
                "language=None with a column."
            )
        super().__init__(name, column)
        self.language = None if language is None else _code(language)
        self.others = tuple(map(_code, others))

    def score(self, text: str, /, **row: Any) -> float | None:
        """Score one text."""
        right = self.language or self._gold_of(row)
        if right is None:
            return None
        judged = [(right == code, letters) for code, _, letters in self._sentences(text, right)]
        whole = sum(letters for _, letters in judged)
        return sum(letters for good, letters in judged if good) / whole if whole else None

    def gold(self, value: Any) -> str | None:
        """Read the code of a language; None if the column's value says nothing."""
        return None if is_nothing(value) else _code(value)

    def spans(self, completions: Sequence[Completion]) -> list[Spans]:
        """Return where each completion is in another language, as `other_language`.

        None where a column has the language.
        """
        right = self.language
        judged = (
            self._sentences(text, right) if right else () for text in texts_of(self, completions)
        )
        return [
            {"other_language": [span for language, span, _ in sentences if language != right]}
            for sentences in judged
        ]

    def _sentences(self, text: str, right: str) -> Iterator[tuple[str, tuple[int, int], int]]:
        """Return language, span and number of letters of the sentences that are judged."""
        detector = _detector(frozenset((right, *self.others)))
        plain = _OTHER.sub(lambda match: " " * len(match[0]), text)
        pieces = [(match, sum(map(str.isalpha, match[0]))) for match in _PIECE.finditer(plain)]
        pieces = [(match, letters) for match, letters in pieces if letters >= FEWEST]
        step = -(-sum(letters for _, letters in pieces) // READ) or 1
        for match, letters in pieces[::step]:
            language = detector(match[0])
            if language is not None:
                yield language.iso_code_639_1.name.lower(), match.span(), letters


@functools.lru_cache(maxsize=16)
def _detector(codes: frozenset[str]) -> Callable[[str], Any]:
    from lingua import IsoCode639_1, LanguageDetectorBuilder

    known = [getattr(IsoCode639_1, code.upper()) for code in sorted(codes)]
    detector = LanguageDetectorBuilder.from_iso_codes_639_1(*known).build()
    return functools.lru_cache(maxsize=65536)(detector.detect_language_of)


def _code(language: Any) -> str:
    need("lingua", "language", "LanguageConsistency judges by it")
    from lingua import Language

    known = sorted(each.iso_code_639_1.name.lower() for each in Language.all())
    if not isinstance(language, str) or language.lower() not in known:
        raise ValueError(
            f"language is {language!r}, expected an ISO 639-1 code: {', '.join(known)}."
        )
    return language.lower()
