"""Reward functions with TRL's signature, importable without torch: `from rewards import …`.

A reward is called as `f(completions, **columns)` and returns one number per completion, or None
where it does not apply. Completions are plain strings or lists of messages. See README.md beside
this file for all of them. Names are loaded when they are first used.
"""

# ruff: noqa: F401 - what type checkers import is exported by `_NAMES`
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers import (
        ChoiceAnswer,
        ExactAnswer,
        NumericAnswer,
        choice_answer,
        exact_answer,
        numeric_answer,
    )
    from .attacks import attack
    from .automaton import Automaton
    from .code import CodeTests
    from .combination import checked_scores
    from .contract import (
        Completion,
        Decided,
        Spans,
        TextReward,
        answered,
        completion_text,
        message_pieces,
        message_text,
        texts_after,
    )
    from .exact import ExactText
    from .extraction import AfterMarker, AfterThought, ByPattern, InBox, InFence, InTag, WholeText
    from .format_check import check_format
    from .formats import RegexReward
    from .gates import gate
    from .guarded import guard
    from .json_answer import JsonAnswer
    from .judge import LLMJudge
    from .language import LanguageConsistency
    from .latex import Stated, plain_latex
    from .lengths import CosineLength, GroupLength, SoftOverlong
    from .mathematics import MathAnswer, math_answer
    from .patience import SlowPatternWarning, slow_patterns
    from .repetition import Repetition, repetition_rate
    from .scaling import clip, schedule, weighted
    from .specimen import specimen_of
    from .tags import TagFormat, think_answer_format, think_format
    from .tasks import TaskScore
    from .tools import ToolCalls

_NAMES = {  # module -> what it defines
    "answers": "ChoiceAnswer ExactAnswer NumericAnswer choice_answer exact_answer numeric_answer",
    "attacks": "attack",
    "automaton": "Automaton",
    "code": "CodeTests",
    "combination": "checked_scores",
    "contract": "Completion Decided Spans TextReward answered completion_text message_pieces "
    "message_text texts_after",
    "exact": "ExactText",
    "extraction": "AfterMarker AfterThought ByPattern InBox InFence InTag WholeText",
    "format_check": "check_format",
    "formats": "RegexReward",
    "gates": "gate",
    "guarded": "guard",
    "json_answer": "JsonAnswer",
    "judge": "LLMJudge",
    "language": "LanguageConsistency",
    "latex": "Stated plain_latex",
    "lengths": "CosineLength GroupLength SoftOverlong",
    "mathematics": "MathAnswer math_answer",
    "patience": "SlowPatternWarning slow_patterns",
    "repetition": "Repetition repetition_rate",
    "scaling": "clip schedule weighted",
    "specimen": "specimen_of",
    "tags": "TagFormat think_answer_format think_format",
    "tasks": "TaskScore",
    "tools": "ToolCalls",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
