"""What is no list of scores, or of completions, is refused by the reward's name."""

import asyncio
import functools
import inspect

import pytest

from rewards import (
    CodeTests,
    CosineLength,
    ExactAnswer,
    ExactText,
    GroupLength,
    JsonAnswer,
    LanguageConsistency,
    LLMJudge,
    MathAnswer,
    NumericAnswer,
    RegexReward,
    Repetition,
    SoftOverlong,
    ToolCalls,
    clip,
    gate,
    guard,
    think_answer_format,
    weighted,
)
from rewards.guarded import Guarded


def scored(answer):
    def odd(completions, **_):
        return answer

    return odd


@pytest.mark.parametrize(
    "combine",
    [
        lambda part: weighted({part: 1.0}),
        lambda part: gate(part, by=scored([1.0, 1.0])),
        lambda part: gate(scored([1.0, 1.0]), by=part),
        lambda part: clip(part, 0, 1),
    ],
    ids=["weighted", "gate", "by", "clip"],
)
@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (1.0, TypeError, "returned 1.0, expected a list of 2 scores"),
        (None, TypeError, "returned None, expected a list of 2 scores"),
        ("ab", TypeError, "returned 'ab', expected a list"),
        ({"a": 1.0, "b": 0.0}, TypeError, "returned {'a': 1.0, 'b': 0.0}, expected a list"),
        (["1", "0"], TypeError, "the score is '1', expected a number"),
        ([[1.0], [0.0]], TypeError, r"the score is \[1.0\], expected a number"),
        ([{"score": 1.0}, 0.0], TypeError, "the score is {'score': 1.0}, expected a number"),
        ([1.0], ValueError, "returned 1 scores for 2 completions"),
        ([float("inf"), 0.0], ValueError, "the score is inf, expected a finite number"),
        ([0.0, -float("inf")], ValueError, "the score is -inf, expected a finite number"),
    ],
    ids=str,
)
def test_a_reward_that_returns_no_scores_is_named(combine, answer, error, message):
    with pytest.raises(error, match=f"reward 'odd':? {message}"):
        combine(scored(answer))(["a", "b"])


def test_scores_of_other_libraries_are_numbers():
    numpy = pytest.importorskip("numpy")
    nan = float("nan")
    assert weighted({scored(numpy.array([0.5, nan])): 2.0})(["a", "b"]) == [1.0, None]
    assert weighted({scored((True, None)): 2.0})(["a", "b"]) == [2.0, None]


JUDGE = LLMJudge("grader", "Is it right?", api_key="none", column="answer")


@functools.wraps(JUDGE)
def judged(*arguments, **columns):
    scores = JUDGE(*arguments, **columns)
    assert inspect.isawaitable(scores)
    return asyncio.run(scores)


IN_WRONG_PLACES = [
    think_answer_format, RegexReward("a"), RegexReward("a", mode="count", limit=2), Repetition(),
    NumericAnswer(), ExactAnswer(), ExactText(), SoftOverlong(9, 2), Repetition(unit="tokens"),
    weighted({think_answer_format: 1.0}), gate(NumericAnswer(), by=think_answer_format),
    clip(Repetition(), 0, 1), CosineLength(NumericAnswer(), 9),
    guard(NumericAnswer(), timeout=None), GroupLength(NumericAnswer(), 2), MathAnswer("answer"),
    JsonAnswer(), JsonAnswer(column="answer"), ToolCalls([{"name": "a"}]), judged,
    ToolCalls([{"name": "a"}], column="answer"), LanguageConsistency(),
    LanguageConsistency(None, column="answer"), CodeTests(run_untrusted_code=True, column="answer"),
]  # fmt: skip


@pytest.mark.parametrize("reward", IN_WRONG_PLACES, ids=lambda reward: type(reward).__name__)
def test_one_text_in_place_of_a_list_is_refused(reward):
    columns = {"answer": ["4"] * 2, "completion_ids": [[1]] * 2, "prompts": ["a"] * 2}
    for one in ("42", {"role": "assistant", "content": "42"}, 7):
        with pytest.raises(TypeError, match=r"completions of reward '.*' is .*, expected a list"):
            reward(one, **columns)
    for method in {"spans", "decided"} & {*dir(reward)}:
        if not (hasattr(reward, "parts") or isinstance(reward, Guarded)):
            with pytest.raises(TypeError, match=r"completions of reward .* is '42', expected a li"):
                getattr(reward, method)("42")
    for column in set(getattr(reward, "columns", ())):
        with pytest.raises(TypeError, match=f"{column}.* of reward '.*' is '42', expected a list"):
            reward(["a", "b"], **{**columns, column: "42"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftOverlong("100", 20), "max_completion_length is '100', expected a number"),
        (lambda: SoftOverlong(100, "20"), "soft_punish_cache is '20', expected a number"),
        (lambda: SoftOverlong(None, 20), "max_completion_length is None, expected a number"),
        (lambda: CosineLength(Repetition(), [9]), r"max_completion_length is \[9\], expected a"),
        (
            lambda: CosineLength(Repetition(), 9, min_value_wrong="-1"),
            "min_value_wrong is '-1', expected a number",
        ),
    ],
)
def test_a_number_in_quotes_is_refused_by_its_name(make, message):
    with pytest.raises(TypeError, match=message):
        make()
