"""Places that rewards name in a conversation: found in the turn that was written, or refused."""

import re

import pytest
import torch
from chat_model import chat_tokenizer
from harness import TOKENIZER
from trl.chat_template_utils import (
    add_response_schema,
    parse_response,
    qwen3_chat_template,
)

from grpo_credit import CreditError
from grpo_credit.credit.turns import Turn
from grpo_credit.rewards import TagFormat, completion_text, think_answer_format
from grpo_credit.trainer.places import Said, thought_end
from grpo_credit.trainer.reward_annotations import Annotations
from grpo_credit.trainer.turns import Told

NAN = float("nan")
# ---- what rewards read ------------------------------------------------------------------------

WROTE = [
    "<think>2+2</think><answer>4</answer>",
    "<answer>4</answer>",
    "<think>\n2+2\n</think>\n\n<answer>4</answer>",
    "<think>a</think>\n<answer>b</answer>",
    "<think></think><answer>4</answer>",
    "<think>never closed <answer>4</answer>",
    "<think>a</think> so <answer>4</answer>",
    "",
]


@pytest.fixture(scope="module")
def parsing():
    return add_response_schema(chat_tokenizer(qwen3_chat_template))


def parsed(tokenizer, text):
    """Return what TRL makes of a text once there are tools."""
    prompt = [{"role": "user", "content": "?"}]
    prefix = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    return parse_response(tokenizer, ids_of(tokenizer, text), prefix=prefix)


def ids_of(tokenizer, text):
    return [*tokenizer.encode(text), tokenizer.eos_token_id]


@pytest.mark.parametrize("reward", [think_answer_format, TagFormat(("think", "answer"))])
def test_a_format_with_a_thought_earns_with_tools_what_it_earns_without(parsing, reward):
    chats = [[parsed(parsing, text)] for text in WROTE]
    assert "reasoning_content" in chats[0][0]
    assert reward(chats) == reward(WROTE) == [1, 0, 1, 1, 0, 0, 0, 0]
    told = [Said(parsing, ids_of(parsing, t), c) for t, c in zip(WROTE, chats, strict=True)]
    for text, chat, said, spans in zip(WROTE, chats, told, reward.spans(chats), strict=True):
        for name, places in spans.items():
            for place in places:
                columns = said.span(*place)
                spelled = parsing.decode(ids_of(parsing, text)[columns])
                named = completion_text(chat)[slice(*place)]
                assert "".join(named.split()) in "".join(spelled.split())
                assert name == "think" or "2+2" not in spelled


def test_the_end_of_a_thought_is_counted_in_tokens(parsing):
    for text in WROTE:
        ids = ids_of(parsing, text)
        count = thought_end(parsing, ids, parsed(parsing, text))
        opened, closed, _ = text.partition("</think>")
        thought = opened + closed if count else ""
        assert parsing.decode(ids[:count], skip_special_tokens=True).startswith(thought)
        assert bool(count) == ("reasoning_content" in parsed(parsing, text))


# ---- what is refused --------------------------------------------------------------------------

CALLED = [Turn(0, 2, 0, "call"), Turn(3, 5, 3, "answer")]
CHAT = [{"role": "assistant", "content": "1,"}, {"role": "tool", "content": "9"},
        {"role": "assistant", "content": "2,"}]  # fmt: skip


def told(methods, chat=CHAT, turns=CALLED, ids="1,92,", **columns):
    reward = type("Own", (), methods)()
    given = Told([turns], [[]], [False])
    return Annotations(
        [("own", reward)], [1.0], [chat], [TOKENIZER.encode(ids)], 6, TOKENIZER, columns, given
    )


def method(name, answer):
    return {name: lambda self, completions: [answer]}


@pytest.mark.parametrize(
    ("name", "answer", "why"),
    [
        ("spans", {"a": [(1, 0, 1)]}, "'a' is in message 1, which the model did not write"),
        ("spans", {"a": [(3, 0, 1)]}, "'a' is in message 3, none of 0 to 2"),
        ("spans", {"a": [(0, 0, 3)]}, "'a' is from 0 to 3 in a text of 2 characters"),
        ("steps", [(0, 3, 1.0)], "a step is from 0 to 3 in a text of 2 characters"),
        ("steps", [(0, 1.0)], "ends before the first character of a message, in none of several"),
        ("turn_rewards", [(2, 1.0)], "turn 2 is none of 0 to 1"),
        ("turn_rewards", [(-1, 1.0)], "turn -1 is none of 0 to 1"),
        ("turn_rewards", [(0, NAN)], "a step's reward is nan"),
        ("turn_rewards", [(0.5, 1.0)], "as an integer"),
        ("turn_rewards", [3], "unpack"),
    ],
)
def test_what_names_no_place_is_refused_by_name(name, answer, why):
    find = {"spans": "spans"}.get(name, "step_rewards")
    with pytest.raises(CreditError, match=f"reward 'own': `{name}` gave .*{re.escape(why)}"):
        told(method(name, answer)).find(frozenset({find}), torch.device("cpu"))


def test_a_method_that_asks_for_what_there_is_not_is_refused_by_name():
    def steps(self, completions, enviroments):
        return [[]]

    with pytest.raises(
        CreditError,
        match=r"reward 'own': `steps` asks for 'enviroments'; there are environments, written. D",
    ):
        told({"steps": steps}, environments=[None]).step_rewards()


def test_steps_of_an_earlier_message_end_there():
    rewards = told(method("steps", [(0, 2, 3.0), (1, 5.0)])).step_rewards()
    assert rewards.nan_to_num().tolist() == [[0, 3.0, 0, 5.0, 0, 0]]


def test_the_end_of_a_call_without_content_is_its_turns_end():
    chat = [*CHAT[:2], {"role": "assistant", "content": "", "tool_calls": [{}]}]
    rewards = told(method("steps", [(0, 5.0)]), chat=chat).step_rewards()
    assert rewards.nan_to_num().tolist() == [[0, 0, 0, 0, 5.0, 0]]


def test_one_text_of_model_and_environment_says_so(caplog):
    spans = told(method("spans", {"a": [(2, 3)]}), chat="1,92,").spans()
    assert spans["own/a"].nonzero().tolist() == [[0, 2]]
    assert "span 'own/a' of a completion is in text that the environment wrote" in caplog.text
