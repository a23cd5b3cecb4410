"""Read which of several lettered options an answer names."""

from typing import Any

import regex

from .markup import folded, undressed
from .words import DENIAL, DENIED, DENYING, FLAGS, OWN, any_of

SHORT = 1000  # characters of an answer that may be in other forms of the letters
_WORD = rf"[\w--[_{OWN}]]"
_CUE = regex.compile(
    r"""
    \W*+ (?:(?:so|thus|hence|therefore)\W++)?
    (?:(?:the|my|correct|right|best|final)\s+)* (?:answer|option|choice)(?!\w)
    (?:\s+(?:is|would\s+be|should\s+be)(?!\w))? [\s:("'\[]* (?:(?:option|choice)\s+)?
    | \W*+ (?:正确|正確)? (?:答案|选项|選項|选择|选|選) [是为為：:\s]*
    """,
    FLAGS,
)


class Choices:
    """Read the letters of options in an answer.

    In this order count: a letter alone, also a small one; a list of letters; a label with the
    option's text after it ("C. A dog"); a letter after "the answer is", also a small one; the only
    capital that stands alone, unless a word denies it.

    Args:
        letters: the capitals that name options.
    """

    def __init__(self, letters: str) -> None:
        self.letters = letters
        self._letter = _compiled(_LETTER, letters)
        self._list = _compiled(_LIST, letters, small=True)
        self._only = _compiled(_ONLY, letters, small=True)
        self._label = _compiled(_LABEL, letters, small=True)
        self._initial = _compiled(_INITIAL, letters)
        self._rival = _compiled(_RIVAL, letters)
        self._later = _compiled(_LATER, letters)
        self._stated = _compiled(_STATED, letters)
        self._capital = _compiled(_CAPITAL, letters)
        self._aside = _compiled(_OTHER_DENIED, letters)
        self._denied = _compiled(_DENIED, letters)

    def read(self, text: str) -> str | None:
        """Return the letters that a text names, sorted; None if it is unclear which."""
        if len(text) <= SHORT:
            text = folded(text)
        text = _BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", undressed(text)).strip()
        bare = text.strip("()[]{}*_.:,$\"' \t\r\n。：，、").upper()
        if len(bare) == 1 and bare in self.letters:
            return bare
        if self._list.fullmatch(text):
            return "".join(sorted({*self._letter.findall(text.upper())}))
        named = self._labelled(text) or self._alone(text)
        return None if named and self._withdrawn(text, named) else named

    def _labelled(self, text: str) -> str | None:
        cue = _CUE.match(text)
        rest = text[cue.end() :] if cue else text
        if cue and (only := self._only.fullmatch(rest)):
            return only[1].upper()
        label = self._label.match(rest)
        if label is None or self._rival.search(self._initial.sub("", rest[label.end() :])):
            return None
        return label[1].upper()

    def _alone(self, text: str) -> str | None:
        if _ASIDE.search(text):
            text = self._aside.sub("", text)  # B, not A
        named = {*self._capital.findall(text)}
        denied = len(named) == 1 and _NO.search(text) and self._denied.search(text)
        return named.pop() if len(named) == 1 and not denied else None

    def _withdrawn(self, text: str, named: str) -> bool:
        """Return whether another letter, or none, follows words that take one back."""
        taken = _TAKEN_BACK.search(text)
        later = self._later.findall(text, taken.end()) if taken else []
        others = {letter.upper() for letter in (*later, *self._stated.findall(text))} - {named}
        return bool(others or (taken and taken["outright"] and not later))


def _compiled(pattern: str, letters: str, *, small: bool = False) -> Any:
    """Put the letters where a pattern has an @."""
    flags = regex.VERSION1 | regex.VERBOSE | (regex.IGNORECASE if small else 0)
    return regex.compile(pattern.replace("@", f"[{letters}]"), flags)


_LETTER = r"@(?<!\w@)(?!\w)"
_ONE, _BETWEEN = r"\(?@[).]?", r"\s*+(?:[,;&+、，]\s*+(?:and\s++)?|and\s++)"
_LIST = rf"{_ONE}(?:{_BETWEEN}{_ONE})+\W*"
_ONLY = r"\W*(@)\W*"
_LABEL = r"""
    [\s(\[*]*(@)
    (?: \s?[):\]：、）] | \s?[.．](?=\s|$) | \s[-–—]\s | \s*\n\s*(?=expla|reason|because) )
"""
_INITIAL = r"^\s*@\.\s+(?=\p{Ll})"  # of an option's text: E. coli
_RIVAL = r"""
    ^\W*+@\W*$  # A. B
    | ^\W*+ (?:(?i:or|and|oder|und|but|also|maybe|perhaps|possibly|alternatively|else)(?!\w)\W*+
        | [/&]\W*+ )+ @(?!\w)  # A) or maybe B) …
    | (?<![(\w])@(?:\)|[.:](?=\s+\S))  # A. … B. …
"""
# A capital that stands alone: not in C++, 37 °C, N/A or A-level. The letter first: that is fast.
_CAPITAL = rf"@(?<!(?:{_WORD}|°|\w[&/'’-]|\d\s)@)(?!{_WORD}|[+\#^°]|['’&/-]\w)"
_NEXT = r"[^\w,;.\n–—-]{1,9}+"
_WORDS = r"(?:\w{1,20}+\W{1,9}+)"
_DENIED = rf"(?i:{DENIAL})[\W\p{{Han}}]{{0,9}}+{_WORDS}{{0,3}}?@(?!\w)"
_DENIED += rf" | @(?<!\w@){_NEXT}(?:\w{{1,20}}+{_NEXT}){{0,2}}?(?:\w{{1,9}}?n['’]t|(?i:{DENIAL}))"
_DENIED += rf" | @(?<!\w@)\s?{DENYING}"
_NO = regex.compile(rf"{DENIED}|n['’]t|{DENYING}", FLAGS)  # fast, and more than `DENIAL`
_OTHER_DENIED = r"""
    (?<=(?<!\w)(@)[).]?) (?:
        ,\s(?:and\s)?not\s | \s(?:because|since|as)\s
        (?=\(?@\)?\sis\s(?:wrong|incorrect|false)(?!\w))
    ) \(?(?!\1)@(?!\w)\)? (?:\sis\s\w+)?
"""
_TAKEN_BACK = regex.compile(
    any_of(
        r"(?P<outright>no\W{1,9}wait|scratch\s+that|second\s+thoughts?|i\s+mean|oops|sorry"
        r"|chang\w+\s+my\s+mind|(?<=\?\W{1,3})no)|correction|wait|actually|rather|instead|mistake"
        r"|hm+|no\W|nope|reconsider|reflection|(?:should|could|may|might)\s+be|is\s+it|likely"
    ),
    FLAGS,
)
_LATER = r"(?<!\w)(?:@(?!\w)|(?i:@)\W*$)"  # small letters at the end alone: "wait for a dog"
_STATED = r"(?i:(?:answer|correct\s\w+)\s*(?:is|:)|final\s*:)[\s:(*]*+(@)(?!\w)"
_BLANKS = regex.compile(r"\s+")
_ASIDE = regex.compile(r"\snot\s|wrong|incorrect|false")
