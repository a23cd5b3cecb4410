"""Every completion of the golden table, plain and as chat, under every format."""

import pytest
from golden_formats import CASES, DECIDED, FORMATS
from trl.rewards import think_format_reward

from rewards import RegexReward
from rewards.contract import Decided
from rewards.tags import TagFormat, think_answer_format

REWARDS = {
    "own": TagFormat(prefilled=None),
    "auto": think_answer_format,
    "prefilled": TagFormat(prefilled="think"),
    "outside": TagFormat(prefilled=None, allow_outside=True),
    "repeats": TagFormat(prefilled=None, exactly_once=False),
    "think": TagFormat(("think",), tail=True, prefilled=None),
    "regex": RegexReward(r"(?s)<think>.+?</think>\s*<answer>.+?</answer>"),
}
PARTIAL = TagFormat(prefilled=None, partial_credit=True)
IDS = [f"{i}-{case.kind}" for i, case in enumerate(CASES)]


def shapes(text):
    """Return a text as TRL hands it over: plain, as chat, in content blocks, after a tool call."""
    half = len(text) // 2
    blocks = [{"type": "text", "text": text[:half]}, {"type": "text", "text": text[half:]}]
    call = [{"role": "assistant", "content": "?"}, {"role": "tool", "content": "4"}]
    message = {"role": "assistant", "content": text}
    return [text, [message], [{"role": "assistant", "content": blocks}], [*call, message]]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_format_scores_the_golden_completions(case):
    for name, expected in zip(FORMATS[:-1], case.scores[:-1], strict=True):
        assert REWARDS[name](shapes(case.text)) == [float(expected)] * 4, name
    assert PARTIAL(shapes(case.text)) == [case.quarters / 4] * 4


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_trl_column_is_what_trl_does(case):
    expected = float(case.scores[FORMATS.index("trl")])
    assert think_format_reward([[{"role": "assistant", "content": case.text}]]) == [expected]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_text_prompt_decides_whether_the_tag_is_prefilled(case):
    own, _, prefilled, *_ = map(float, case.scores)
    prompts = ["2+2?", "<think> first", "2+2?<think>", "2+2?<think>\n "]
    scores = think_answer_format([case.text] * 4, prompts=prompts, completion_ids=[[]] * 4)
    assert scores == [own, own, prefilled, prefilled]


@pytest.mark.parametrize(("text", "chars"), DECIDED)
def test_decided(text, chars):
    assert REWARDS["own"].decided([text]) == [Decided(chars)]
    assert think_answer_format.decided([text], prompts=["2+2?"]) == [Decided(chars)]


def test_the_table_has_no_completion_twice():
    assert len({case.text for case in CASES}) == len(CASES) >= 60
