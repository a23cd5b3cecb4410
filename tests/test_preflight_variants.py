"""Why a reward does not fire, and what a reward under observation does."""

import asyncio
import re

import pytest
from preflight_helpers import Clock

from grpo_credit.preflight.variants import Relief, edited, opened_tag, relieve
from grpo_credit.preflight.watch import WatchedAsync, watch
from rewards import TagFormat


def matching(pattern):
    def reward(completions, **_):
        return [float(re.fullmatch(pattern, c) is not None) for c in completions]

    return reward


def relief(reward, completions, rendered=None, rows=2, **columns):
    watched = watch(reward, rows, Clock())
    watched(completions=completions, **columns)
    found = relieve(watched, rendered or [""] * len(completions))
    return {kind: relief for kind, relief in found.items() if relief.helped}


ANSWER = "<think>.+</think><answer>.+</answer>"


def test_a_prefilled_tag_is_named():
    prompts = ["<|im_start|>assistant\n<think>\n"] * 4
    completions = ["a</think><answer>1</answer>"] * 3 + ["no"]
    found = relief(matching("(?s)" + ANSWER), completions, prompts)
    assert found == {"prefilled tag": Relief(3, 4)}


def test_a_format_that_does_not_know_of_the_prefilled_tag_is_named():
    format_reward = TagFormat(("think", "answer"), prefilled=None)
    prompts = ["Assistant: <think>"] * 2
    found = relief(format_reward, ["a</think><answer>1</answer>"] * 2, prompts, prompts=prompts)
    assert found == {"prefilled tag": Relief(2, 2)}


def test_a_pattern_without_dotall_is_named():
    completions = ["<think>a\nb</think><answer>1</answer>", "<think>a</think><answer>1</answer>"]
    assert relief(matching(ANSWER), completions) == {"missing DOTALL": Relief(1, 1)}
    assert relief(matching("(?s)" + ANSWER), completions) == {}


def test_special_tokens_left_in_are_named():
    completions = ["<answer>1</answer><|im_end|>", "<answer>2</answer></s>"]
    found = relief(matching("<answer>.+</answer>"), completions)
    assert found == {"special tokens left in": Relief(2, 2)}


def test_white_space_around_is_named():
    found = relief(matching("<answer>.+</answer>"), ["\n<answer>1</answer>"])
    assert found["white space around"] == Relief(1, 1)


def test_a_change_has_to_earn_as_much_as_the_best_completion():
    def shorter_is_better(completions, **_):
        return [1.0 / (1 + len(c)) for c in completions]

    assert relief(shorter_is_better, ["a\n" * 9, "a"]) == {}


def test_what_already_earns_most_is_not_tried():
    assert relief(matching(".*"), ["a", "b"]) == {}


def test_columns_go_with_their_completion():
    def equal(completions, truth, **_):
        return [float(c == t) for c, t in zip(completions, truth, strict=True)]

    found = relief(equal, ["1 ", "2", "3 "], truth=["1", "2", "4"])
    assert found == {"white space around": Relief(1, 2), "special tokens left in": Relief(1, 2)}


def test_slow_failing_and_asynchronous_rewards_are_not_called_again():
    clock, calls = Clock(), []

    def slow(completions, **_):
        clock.now += 0.3
        calls.append(len(completions))
        return [0.0] * len(completions)

    watched = watch(slow, 2, clock)
    watched(completions=["a\n", "b\n"])
    assert relieve(watched, ["", ""]) == {}
    assert calls == [2]

    async def later(completions, **_):
        return [0.0] * len(completions)

    assert relieve(watch(later, 2, clock), []) == {}


def test_the_opened_tag_is_the_last_thing_in_the_prompt():
    assert opened_tag("user <b>hi</b>\nassistant\n<think>\n") == "<think>\n"
    assert opened_tag("<think> go") == ""
    assert opened_tag("<|assistant|>") == ""
    assert opened_tag("</think>\n") == ""


def test_only_the_last_message_is_edited():
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    changed = edited(chat, str.upper)
    assert [m["content"] for m in changed] == ["a", "B"]
    assert chat[1]["content"] == "b"
    assert edited([{"role": "assistant", "content": None}], str.upper)[0]["content"] is None
    after = edited([*chat, {"role": "tool", "content": "c"}], str.upper)
    assert [message["content"] for message in after] == [m["content"] for m in changed] + ["c"]


# ---- under observation ------------------------------------------------------------------------


def test_a_reward_is_called_group_by_group_with_its_rows_of_each_column():
    seen = []

    def reward(completions, answer, trainer_state, **_):
        seen.append((completions, answer, trainer_state))
        return [float(a) for a in answer]

    watched = watch(reward, 2, Clock())
    scores = watched(completions=["a", "b", "c"], answer=[1, 2, 3], trainer_state=[0])
    assert scores == [1.0, 2.0, 3.0]
    assert seen == [(["a", "b"], [1, 2], [0]), (["c"], [3], [0])]


def test_time_is_that_of_the_clock():
    clock = Clock()

    def reward(completions, **_):
        clock.now += len(completions)
        return [0.0] * len(completions)

    watched = watch(reward, 2, clock)
    watched(completions=["a", "b", "c"])
    assert [call.seconds for call in watched.calls] == [2, 1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "ValueError: reward '<lambda>' returned 1 scores for 2 completions"),
        (3.0, "TypeError: reward '<lambda>' returned 3.0, expected a list of 2 scores"),
        ([1.0, float("inf")], "ValueError: reward '<lambda>': the score is inf, expected a finite"),
        (["a", 1], "TypeError: reward '<lambda>': the score is 'a', expected a"),
    ],
)
def test_what_trl_could_not_use_is_a_failure(answer, message):
    watched = watch(lambda completions, **_: answer, 2, Clock())
    assert watched(completions=["a", "b"]) == [0.0, 0.0]
    assert watched.failures[0].startswith(message)


def test_abstentions_stay_abstentions():
    watched = watch(lambda completions, **_: [None, float("nan")], 2, Clock())
    assert watched(completions=["a", "b"]) == [None, None]


def test_an_asynchronous_reward_stays_one():
    class Later:
        tag = "seen through"

        async def __call__(self, completions, **_):
            await asyncio.sleep(0)
            return [1.0] * len(completions)

    watched = watch(Later(), 1, Clock())
    assert isinstance(watched, WatchedAsync)
    assert watched.tag == "seen through"
    assert asyncio.run(watched(completions=["a", "b"])) == [1.0, 1.0]
    assert len(watched.calls) == 1

    async def broken(completions, **_):
        raise KeyError("answer")

    watched = watch(broken, 1, Clock())
    assert asyncio.run(watched(completions=["a"])) == [0.0]
    assert watched.failures == ["KeyError: 'answer' (completions from 'a')"]
