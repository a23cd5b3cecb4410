import pickle
import subprocess
import sys

import pytest

from rewards import (
    answered,
    completion_text,
    numeric_answer,
    texts_after,
    think_answer_format,
)

TABLE = [
    ("<think>a</think><answer>b</answer>", 1.0),
    ("<think>a\nb</think>\n<answer>b</answer>", 1.0),  # more than one line
    ("\n <think>a</think><answer>b</answer> \n", 1.0),  # whitespace around
    ("<think>ä</think><answer>日本</answer>", 1.0),  # non-ASCII
    ("<answer>b</answer>", 0.0),  # no thinking
    ("<think>a</think>", 0.0),  # no answer
    ("<think></think><answer>b</answer>", 0.0),  # empty thinking
    ("<think>a</think><answer></answer>", 0.0),  # empty answer
    ("<think>a</think><answer>b</answer>c", 0.0),  # text after
    ("<think>a</think>c<answer>b</answer>", 0.0),  # text between
    ("<think>a<think>b</think><answer>b</answer>", 0.0),  # opened twice
    ("<think>a</think><answer>b</answer><answer>b</answer>", 0.0),  # answered twice
    ("<answer>b</answer><think>a</think>", 0.0),  # wrong order
    ("", 0.0),
]


@pytest.mark.parametrize(("text", "score"), TABLE)
def test_think_answer_format(text, score):
    chat = [{"role": "assistant", "content": text}]
    assert think_answer_format([text, chat], prompts=["", ""], trainer_state=None) == [score, score]


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


def test_a_reward_survives_pickling():
    copy = pickle.loads(pickle.dumps(think_answer_format))
    assert copy.__name__ == "think_answer_format"
    assert copy(["<think>a</think><answer>b</answer>"]) == [1.0]


def test_importing_rewards_imports_no_torch():
    code = "import sys, rewards; print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
