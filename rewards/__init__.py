"""Reward functions with TRL's signature, importable without torch: `from rewards import …`.

A reward is called as `f(completions, **columns)` and returns one number per completion, or None
where it does not apply. Completions are plain strings or lists of messages. See README.md beside
this file for all of them. Names are loaded when they are first used.
"""

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
    from .scaling import clip, schedule
    from .specimen import specimen_of
    from .sums import weighted
    from .tags import TagFormat, think_answer_format, think_format
    from .tasks import TaskScore
    from .tools import ToolCalls

_HOME = {
    "AfterMarker": "extraction",
    "AfterThought": "extraction",
    "Automaton": "automaton",
    "ByPattern": "extraction",
    "ChoiceAnswer": "answers",
    "CodeTests": "code",
    "Completion": "contract",
    "CosineLength": "lengths",
    "Decided": "contract",
    "ExactAnswer": "answers",
    "ExactText": "exact",
    "GroupLength": "lengths",
    "InBox": "extraction",
    "InFence": "extraction",
    "InTag": "extraction",
    "JsonAnswer": "json_answer",
    "LLMJudge": "judge",
    "LanguageConsistency": "language",
    "MathAnswer": "mathematics",
    "Stated": "latex",
    "plain_latex": "latex",
    "NumericAnswer": "answers",
    "RegexReward": "formats",
    "Repetition": "repetition",
    "SlowPatternWarning": "patience",
    "SoftOverlong": "lengths",
    "Spans": "contract",
    "TagFormat": "tags",
    "TaskScore": "tasks",
    "TextReward": "contract",
    "ToolCalls": "tools",
    "WholeText": "extraction",
    "answered": "contract",
    "attack": "attacks",
    "check_format": "format_check",
    "checked_scores": "combination",
    "choice_answer": "answers",
    "clip": "scaling",
    "completion_text": "contract",
    "exact_answer": "answers",
    "gate": "gates",
    "guard": "guarded",
    "math_answer": "mathematics",
    "numeric_answer": "answers",
    "repetition_rate": "repetition",
    "schedule": "scaling",
    "slow_patterns": "patience",
    "specimen_of": "specimen",
    "texts_after": "contract",
    "think_answer_format": "tags",
    "think_format": "tags",
    "weighted": "sums",
}
__all__ = [
    "AfterMarker",
    "AfterThought",
    "Automaton",
    "ByPattern",
    "ChoiceAnswer",
    "CodeTests",
    "Completion",
    "CosineLength",
    "Decided",
    "ExactAnswer",
    "ExactText",
    "GroupLength",
    "InBox",
    "InFence",
    "InTag",
    "JsonAnswer",
    "LLMJudge",
    "LanguageConsistency",
    "MathAnswer",
    "NumericAnswer",
    "RegexReward",
    "Repetition",
    "SlowPatternWarning",
    "SoftOverlong",
    "Spans",
    "Stated",
    "TagFormat",
    "TaskScore",
    "TextReward",
    "ToolCalls",
    "WholeText",
    "answered",
    "attack",
    "check_format",
    "checked_scores",
    "choice_answer",
    "clip",
    "completion_text",
    "exact_answer",
    "gate",
    "guard",
    "math_answer",
    "numeric_answer",
    "plain_latex",
    "repetition_rate",
    "schedule",
    "slow_patterns",
    "specimen_of",
    "texts_after",
    "think_answer_format",
    "think_format",
    "weighted",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
