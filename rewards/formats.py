"""Rewards for the form of a completion."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import regex

from rewards.contract import Completion, completion_text


class RegexReward:
    r"""Reward a completion that matches a regular expression.

        R = 1 if pattern matches the completion, else 0

    Leading and trailing whitespace of the completion is ignored. `.` does not match a newline
    unless the pattern says `(?s)`: the commonest reason for a format reward that never fires.

    Args:
        pattern: in the syntax of the `regex` package.
        mode: `"fullmatch"`: the whole completion is one match; `"search"`: it contains one.
        timeout: seconds of matching per completion, after which the reward abstains (None) and
            `<name>/timeouts` is logged; a pattern with nested quantifiers can take for ever.
        name: what TRL calls the reward in its logs.

    Returns:
        (when called) One of 1.0, 0.0 or None per completion; dimensionless.

    Raises:
        ValueError: if the pattern is invalid, with the position; if the mode is unknown or the
            timeout not positive.

    How it can be hacked: it sees the form alone, so any content in the right form earns 1.

    Example:
        >>> digits = RegexReward(r"<answer>\d+</answer>", name="digits")
        >>> chat = [{"role": "assistant", "content": "<answer>1</answer>"}]
        >>> digits(["<answer>12</answer>", "12", chat])
        [1.0, 0.0, 1.0]

    Source: the format reward of DeepSeek-R1, arXiv:2501.12948, section 2.2.2.
    """

    def __init__(
        self,
        pattern: str,
        *,
        mode: Literal["fullmatch", "search"] = "fullmatch",
        timeout: float = 1.0,
        name: str = "regex_format",
    ) -> None:
        if mode not in ("fullmatch", "search"):
            raise ValueError(f"mode is {mode!r}, expected 'fullmatch' or 'search'.")
        if timeout <= 0:
            raise ValueError(f"timeout is {timeout}, expected more than 0 seconds.")
        self.pattern = _compiled(pattern)
        self.mode = mode
        self.timeout = timeout
        self.__name__ = name

    def __call__(
        self,
        completions: Sequence[Completion],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        """Score completions; see the class."""
        scores = [self._score(completion_text(completion)) for completion in completions]
        if log_metric is not None:
            log_metric(f"{self.__name__}/timeouts", scores.count(None) / max(1, len(scores)))
        return scores

    def _score(self, text: str) -> float | None:
        match = getattr(self.pattern, self.mode)
        try:
            return float(match(text.strip(), timeout=self.timeout) is not None)
        except TimeoutError:
            return None

    def __repr__(self) -> str:
        return f"RegexReward({self.pattern.pattern!r}, mode={self.mode!r}, name={self.__name__!r})"


def _compiled(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        where = f" at position {error.pos}" if error.pos is not None else ""
        pointer = f"\n  {pattern}\n  {' ' * error.pos}^" if error.pos is not None else ""
        raise ValueError(f"invalid pattern: {error.msg}{where}.{pointer}") from None


think_answer_format = RegexReward(
    r"(?s)<think>(?:(?!</?(?:think|answer)>).)+</think>\s*"
    r"<answer>(?:(?!</?(?:think|answer)>).)+</answer>",
    name="think_answer_format",
)
"""1 for `<think>…</think><answer>…</answer>`, each tag once, neither part empty, nothing around."""
