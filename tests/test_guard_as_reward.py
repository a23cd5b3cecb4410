"""A guarded reward is one: it has what the reward has, travels, and is trained on."""

import functools
import pickle
import threading

import pytest
from harness import trl
from slow_rewards import (
    AsyncReward,
    ScoreReward,
    SpannedReward,
    async_reward,
    length_reward,
)

from rewards import (
    clip,
    gate,
    schedule,
)
from rewards.guarded import guard


def test_it_has_what_the_reward_has():
    reward = guard(SpannedReward())
    assert reward.__name__ == "spanned"
    assert reward.columns == ("answer",)
    assert reward.spans(["ab"]) == [{"all": [(0, 2)]}]
    assert not hasattr(reward, "automaton")
    assert guard(length_reward).columns == ()
    assert repr(guard(length_reward)).startswith("guard(<function length_reward")


def test_it_is_named_as_trl_would_name_it():
    assert guard(functools.partial(length_reward, a=1)).__name__ == "length_reward"
    assert guard(ScoreReward(), name="mine").__name__ == "mine"


def test_it_survives_pickling():
    reward = guard(length_reward, timeout=60)
    assert reward(["abc"]) == [3.0]
    copy = pickle.loads(pickle.dumps(reward))
    assert copy.__name__ == "length_reward"
    assert copy(["abcd"]) == [4.0]
    copy.close()
    reward.close()


@pytest.mark.parametrize("reward", [async_reward, functools.partial(async_reward), AsyncReward()])
def test_asynchronous_rewards_are_refused(reward):
    with pytest.raises(TypeError, match="is asynchronous, expected a plain function"):
        guard(reward)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"timeout": 0}, "timeout is 0, expected seconds above 0, or None"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"on_error": "ignore"}, "on_error is 'ignore', expected 'raise', 'abstain', 'wrong' or a"),
        ({"on_timeout": float("nan")}, "on_timeout is nan"),
        ({"on_error": True}, "on_error is True"),
        ({"processes": 0}, "size is 0, expected at least 1 process"),
    ],
)
def test_impossible_options_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        guard(length_reward, **options)


def test_trl_trains_with_it_and_logs_how_it_went():
    reward = guard(length_reward, timeout=60)
    [log, *_] = trl(max_steps=1, arguments={"reward_funcs": [reward]}).logs
    assert log["rewards/length_reward/mean"] > 0
    assert log["reward/length_reward/timeout_rate"] == 0
    assert log["reward/length_reward/error_rate"] == 0
    assert log["reward/length_reward/ms_p95"] > 0
    reward.close()


def test_a_schedule_is_not_guarded_by_processes():
    fading = schedule(length_reward, {0.0: 1.0, 1.0: 0.0})
    for reward in (fading, gate(length_reward, by=clip(fading, 0, 1))):
        with pytest.raises(TypeError, match=r"follows the progress.* Write schedule\(guard\(rew"):
            guard(reward)
    assert guard(fading, timeout=None)(["ab"], progress=0.5) == [1.0]  # 2 · 0.5


def test_a_declared_column_that_cannot_be_pickled_is_named():
    reward = guard(SpannedReward())
    with pytest.raises(TypeError, match=r"column 'answer' of reward 'spanned' cannot be sent"):
        reward(["1"], answer=[threading.Lock()])
    reward.close()
