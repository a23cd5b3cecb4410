import pickle
import subprocess
import sys

import pytest

from rewards import RegexReward, completion_text, think_answer_format

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


def test_search_finds_the_pattern_anywhere():
    assert RegexReward(r"\d+", mode="search")(["a 12 b", "none"]) == [1.0, 0.0]
    assert RegexReward(r"\d+")(["a 12 b", "12"]) == [0.0, 1.0]


def test_content_blocks_are_joined():
    blocks = [{"role": "assistant", "content": [{"type": "text", "text": "1"}, {"type": "image"}]}]
    assert completion_text(blocks) == "1"
    assert completion_text([{"role": "assistant", "content": None}]) == ""


def test_a_completion_of_another_type_is_refused():
    with pytest.raises(TypeError, match="completion is 3, expected a string"):
        completion_text(3)
    with pytest.raises(TypeError, match=r"completion is \[\], expected"):
        completion_text([])
    with pytest.raises(TypeError, match=r"content is \['<think>'\], expected"):
        completion_text([{"role": "assistant", "content": ["<think>"]}])


def test_invalid_pattern_names_the_position():
    with pytest.raises(ValueError, match=r"(?s)invalid pattern: missing \) at position 9\..*\^"):
        RegexReward("<think>(a")


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode is 'match', expected 'fullmatch' or 'search'"):
        RegexReward("a", mode="match")
    with pytest.raises(ValueError, match="timeout is 0, expected more than 0 seconds"):
        RegexReward("a", timeout=0)


def test_a_pattern_that_explodes_abstains_and_is_counted():
    metrics = {}
    pattern = (
        r"(?s)^.*<reasoning>.*?</reasoning>.*<answer>.*?</answer>.*$"  # passed around as a fix
    )
    reward = RegexReward(pattern, timeout=0.05, name="slow")
    unfinished = "<reasoning>a</reasoning><answer>" * 200
    scores = reward([unfinished, unfinished[:32] + "b</answer>"], log_metric=metrics.__setitem__)
    assert scores == [None, 1.0]
    assert metrics == {"slow/timeouts": 0.5}


def test_a_reward_survives_pickling():
    copy = pickle.loads(pickle.dumps(think_answer_format))
    assert copy.__name__ == "think_answer_format"
    assert copy(["<think>a</think><answer>b</answer>"]) == [1.0]


def test_importing_rewards_imports_no_torch():
    code = "import sys, rewards; print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
