import asyncio
import inspect
import pickle
import subprocess
import sys

import pytest
import regex

from rewards import (
    AfterMarker,
    AfterThought,
    ByPattern,
    ChoiceAnswer,
    CodeTests,
    CosineLength,
    ExactAnswer,
    ExactText,
    InBox,
    InTag,
    JsonAnswer,
    LanguageConsistency,
    LLMJudge,
    NumericAnswer,
    RegexReward,
    Repetition,
    SoftOverlong,
    ToolCalls,
    WholeText,
    answered,
    clip,
    completion_text,
    gate,
    numeric_answer,
    schedule,
    texts_after,
    think_answer_format,
    think_format,
    weighted,
)


def test_content_blocks_are_joined():
    blocks = [{"role": "assistant", "content": [{"type": "text", "text": "1"}, {"type": "image"}]}]
    assert completion_text(blocks) == "1"
    assert completion_text([{"role": "assistant", "content": None}]) == ""


CALL = {"role": "assistant", "content": "<answer>5</answer>", "tool_calls": [{"type": "function"}]}
TOOL = {"role": "tool", "name": "echo", "content": "<think>a</think><answer>4</answer>"}
USER = {"role": "user", "content": "<answer>4</answer>"}


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ([CALL | {"content": ""}, TOOL], ""),  # the model was cut off before it said anything
        ([CALL | {"content": None}, TOOL], ""),
        ([CALL, TOOL], "<answer>5</answer>"),
        ([CALL, TOOL, {"role": "assistant", "content": "6"}], "6"),
        ([CALL, TOOL, {"role": "assistant", "content": "6"}, USER], "6"),
        ([TOOL, {"content": "7"}], "7"),  # no role
    ],
)
def test_only_what_the_assistant_wrote_last_is_scored(completion, text):
    assert completion_text(completion) == text
    said = completion[answered(completion) + 1 :]
    assert texts_after(completion) == [message["content"] for message in said]
    right = [float(f"<answer>{gold}</answer>" in text) for gold in (4, 5)]
    assert numeric_answer([completion] * 2, answer=[4, 5]) == right
    assert think_answer_format([completion]) == [0.0]


def test_a_completion_without_the_assistant_is_refused():
    with pytest.raises(ValueError, match=r"no message .* the roles are tool, user\. Only what"):
        completion_text([TOOL, USER])


def test_a_completion_of_another_type_is_refused():
    with pytest.raises(TypeError, match="completion is 3, expected a string"):
        completion_text(3)
    with pytest.raises(TypeError, match=r"completion is \[\], expected"):
        completion_text([])
    with pytest.raises(TypeError, match=r"content is \['<think>'\], expected"):
        completion_text([{"role": "assistant", "content": ["<think>"]}])


EXTRACTS = [InTag(), InBox(), AfterMarker(), ByPattern(r"is (?P<answer>\w+)"), WholeText(),
            AfterThought(), AfterThought(InBox())]  # fmt: skip
FORM = schedule(weighted({think_format: 1.0, RegexReward("1", name="1"): 0.5}), {0.0: 1.0, 1.0: 2})
PICKLED = [
    think_format, think_answer_format, RegexReward("(?P<n>X)+", name="digits", flags=regex.I),
    Repetition(2, -0.5, unit="tokens", name="again"), SoftOverlong(10, 4, name="soft"),
    CosineLength(ExactAnswer(), 8, name="cosine"),
    gate(clip(NumericAnswer(), 0, 0.5), by=FORM, at_least=2),
    *(kind(e) for kind in (ExactAnswer, NumericAnswer, ChoiceAnswer) for e in EXTRACTS),
]  # fmt: skip


@pytest.mark.parametrize("reward", PICKLED, ids=lambda reward: reward.__name__)
def test_a_reward_survives_pickling(reward):
    texts = ["<think>1</think><answer>12</answer>", "x", "#### 12", r"\boxed{12}", "is 12"]
    columns = {"completion_ids": [[1, 1, 1]] * 5, "answer": ["12"] * 5, "progress": 1.0}
    places = [name for name in ("spans", "decided") if hasattr(reward, name)]
    before = {name: getattr(reward, name)(texts) for name in places}  # automata are made
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.__name__ == reward.__name__
    assert copy(texts, **columns) == reward(texts, **columns)
    assert {name: getattr(copy, name)(texts) for name in before} == before
    assert getattr(copy, "extract", None) == getattr(reward, "extract", None)


CODE = CodeTests(run_untrusted_code=True, column="gold")
CALLS = ToolCalls([{"name": "now"}, {"name": "then"}], column="gold")
TEST = "assert x == 4"
FOUND = [  # reward, right answer, a completion that gives it, one that gives another
    (JsonAnswer(column="gold"), "4", "4", "5"),
    (JsonAnswer(column="gold"), "4", "```json\n4\n```", "```\n5\n```"),
    (CODE, [TEST], "```python\nx = 4\n```", "```python\nx = 5\n```"),
    (CALLS, '[{"name": "now"}]', '<tool_call>{"name": "now"}</tool_call>',
     '<tool_call>{"name": "then"}</tool_call>'),
]  # fmt: skip


@pytest.mark.parametrize(("reward", "gold", "right", "wrong"), FOUND)
def test_what_is_written_in_a_thought_is_no_answer(reward, gold, right, wrong):
    scored = {
        f"<think>{wrong}</think>\n{right}": 1.0,
        f"{wrong}\n</think>\n{right}": 1.0,  # the template opened it
        f"<think>\n{right}\n</think>\n{wrong}": 0.0,
        f"<think>\n{right}\n</think>\n": 0.0,
        f"<think>\n{right}\n": 0.0,  # cut off
        f"{right}\n<think>\n{wrong}\n": 0.0,
        f"<think>a</think>\n{right}\n<think>\n": 0.0,
    }
    assert reward([*scored], gold=[gold] * len(scored)) == [*scored.values()]
    for text, spans in zip(scored, reward.spans([*scored]), strict=True):
        [places] = spans.values()
        assert all(start >= text.rfind("</think>") for start, _ in places)
        assert any(start < end for start, end in places) == (
            scored[text] == 1.0 or text.endswith(f"</think>\n{wrong}")
        )


def test_not_to_call_anything_is_right_only_where_the_thought_ends():
    texts = ["It rains.", "<think>a</think>", "<think>a", f"<think>{FOUND[-1][2]}</think>No."]
    assert CALLS(texts, gold=["[]"] * 4) == [1.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("reward", "gold"),
    [
        (ExactAnswer(column="gold"), "a"), (ExactText("gold"), "a"),
        (NumericAnswer(column="gold"), 4), (ChoiceAnswer(column="gold"), "A"),
        (JsonAnswer(column="gold"), "null"), (CODE, [TEST]), (CALLS, "[]"),
        (LanguageConsistency(None, column="gold"), "en"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_where_a_column_says_nothing_it_abstains_and_counts(reward, gold):
    golds = [None, float("nan"), "", " \u200b\n", gold]
    metrics = {}
    scores = reward(["We add both numbers."] * 5, gold=golds, log_metric=metrics.__setitem__)
    assert scores[:4] == [None] * 4
    assert scores[4] is not None
    assert reward.unreadable(golds) == golds[:4]
    assert metrics[f"reward/{reward.__name__}/unreadable_rate"] == 0.8


def test_a_grader_is_not_asked_without_a_reference():
    judge = LLMJudge("g", "?", base_url="http://127.0.0.1:9/v1", api_key="none", column="gold")
    golds = [None, float("nan"), "", " \u200b\n"]
    scores = judge(["a"] * 4, gold=golds)
    assert inspect.isawaitable(scores)
    assert asyncio.run(scores) == [None] * 4
    assert judge.unreadable([*golds, "b"]) == golds


def test_importing_rewards_and_attacking_one_imports_nothing_heavy():
    heavy = {
        "torch", "transformers", "trl", "numpy", "datasets", "openai", "multiprocessing",
        "math_verify", "sympy", "psutil", "ctypes",
    }  # fmt: skip
    code = (
        "import sys, rewards.workers, rewards.guarded, rewards.mathematics; "
        "from rewards import attack, think_answer_format as form; "
        f"attack(form, [{{'prompt': '2+2?'}}]); print(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
