import functools
import threading

import pytest
from slow_rewards import (
    PromptReward,
    ReturnsReward,
    ScoreReward,
    SpannedReward,
    allocates,
    column_reward,
    data_reward,
    length_reward,
    seen_reward,
    verdict_reward,
    work_reward,
)

from rewards import (
    CosineLength,
    Repetition,
    SoftOverlong,
    clip,
    gate,
    schedule,
    weighted,
)
from rewards.combination import score_range_of
from rewards.guarded import Health, _health, guard
from rewards.serving import Outcome


def length_or_fail(completions, log_metric=None, **_):
    if log_metric is not None:
        log_metric("inner", 1.0)
    return [1 / len(completion) for completion in completions]


def fails_together(completions, **_):
    if len(completions) > 1:
        raise ValueError("one at a time")
    return [1.0]


@pytest.fixture
def working():
    """A reward that hangs, dies or raises where the completion says so."""
    made = []

    def make(**options):
        made.append(guard(work_reward, **options))
        return made[-1]

    yield make
    for reward in made:
        reward.close()


# ---- in a process of its own ------------------------------------------------------------------


def test_a_hang_costs_only_itself_and_is_counted(working):
    metrics = {}
    reward = working(timeout=1.0)
    scores = reward(["aa", "hang", "b", "c"], log_metric=metrics.__setitem__)
    assert scores == [2.0, 0.0, 1.0, 1.0]  # as little as a wrong answer
    assert metrics["reward/work_reward/timeout_rate"] == 0.25
    assert metrics["reward/work_reward/error_rate"] == 0.0
    # nearest rank: 0.95 * 4 rounds up to the 4th of 4, which is the hang
    assert 1000 <= metrics["reward/work_reward/ms_p95"] == reward.last.ms_p95
    assert reward.last[:3] == Health(completions=4, timeouts=1, errors=0, ms_p95=0)[:3]
    assert reward(["dddd"]) == [4.0]
    assert reward.last.timeouts == 0


def test_what_a_timeout_and_an_error_earn_can_be_chosen(working):
    reward = working(timeout=1.0, on_timeout=-1, on_error="abstain")
    assert reward(["hang", "raise", "exit", "a"]) == [-1.0, None, None, 1.0]
    assert reward.last[:3] == (4, 1, 2)


def test_an_error_is_raised_by_default_with_the_completion(working):
    reward = working(timeout=60)
    expected = (
        r"'work_reward', completion 1 \('raise'\): ZeroDivisionError: division by zero\. Mend"
    )
    with pytest.raises(RuntimeError, match=expected) as caught:
        reward(["a", "raise"])
    assert "lambda: 1 / 0" in caught.value.__cause__.__notes__[0]
    with pytest.raises(RuntimeError, match=r"its process ended with exit code 3\. Mend"):
        reward(["exit"])
    assert reward(["a"]) == [1.0]


def test_a_timeout_is_raised_if_asked_for(working):
    reward = working(timeout=1.0, on_timeout="raise")
    expected = r"completion 1 \('hang'\): no result within 1 s\. Allow more \(timeout=, mem"
    with pytest.raises(TimeoutError, match=expected):
        reward(["a", "hang"])


def test_it_works_on_a_thread(working):
    reward = working(timeout=1.0)
    answers = []
    thread = threading.Thread(target=lambda: answers.extend(reward(["hang", "abc"])))
    thread.start()
    thread.join()
    assert answers == [0.0, 3.0]


def test_columns_travel_row_by_row_and_the_trainer_stays(working):
    reward = guard(column_reward)
    trainer = {"trainer_state": threading.Lock(), "environments": [threading.Lock()] * 2}
    assert reward(completions=["1", "2"], answer=["1", "1"], **trainer) == [1.0, 0.0]
    reward.close()
    seen = guard(seen_reward)
    # of six columns travel two: lists with one picklable value per completion
    columns = {"prompts": ["a", "b"], "answer": [1, 2], "short": [1], "scale": 2.0}
    assert seen(completions=["1", "2"], log_extra=print, **columns, **trainer) == [2.0, 2.0]
    seen.close()


def test_declared_columns_alone_travel_and_must_be_there():
    reward = guard(SpannedReward())  # counts columns; 10 more for having warmed up
    assert reward(["1", "2"], answer=["1", "1"], other=["a", "b"]) == [11.0, 11.0]
    assert reward(["1"], answer=("1",), other=["a"], prompts=["p"]) == [12.0]
    reward.close()
    for timeout in (1.0, None):
        reward = guard(SpannedReward(), timeout=timeout, on_error="abstain")
        with pytest.raises(
            ValueError, match="'spanned' needs the column 'answer'; the data have x"
        ):
            reward(["1", "2"], x=["1", "1"])


def test_a_reward_warms_up_before_its_clock_starts():
    reward = guard(SpannedReward(), timeout=1.0)  # its warm_up takes 1.5 s
    assert reward(["a"], answer=["b"]) == [11.0]
    reward.close()


def test_a_reward_that_cannot_travel_is_refused_when_made():
    expected = r"reward '<lambda>': cannot be sent to .* Define it at the top level of .* Or pass"
    with pytest.raises(TypeError, match=expected):
        guard(lambda completions: [0.0])
    assert guard(lambda completions: [0.0], timeout=None)(["a"]) == [0.0]


def test_prompts_reach_a_reward_without_columns():
    reward = guard(PromptReward())
    assert reward(["a", "a"], prompts=["a", "b"]) == [1.0, 0.0]
    reward.close()


# ---- what failing pays ------------------------------------------------------------------------


def test_failing_never_pays_more_than_a_wrong_answer():
    texts = ["4", "5", "hang", "raise", "exit", "memory"]
    verdict = guard(verdict_reward, timeout=1.0, on_error="wrong")
    scores = verdict(texts)
    assert verdict.last[:3] == (6, 2, 2)
    verdict.close()

    def judged(completions, **_):  # a gate asks about some alone
        return [scores[texts.index(text)] for text in completions]

    cosine = CosineLength(judged, 8)
    penalty = weighted({cosine: 1.0, Repetition(name="again"): 1.0})
    gated, gating = gate(cosine, by=length_reward), gate(length_reward, by=judged)
    fading = schedule(cosine, {0.0: 1.0})
    for reward in (judged, cosine, penalty, gated, gating, clip(cosine, -0.7, 1), fading):
        given = reward(completions=texts, completion_ids=[[1] * 3] * 6, progress=0.5)
        assert all(score <= given[1] < given[0] for score in given[2:])


def test_a_reward_that_fails_as_a_whole_earns_its_least_score():
    whole = guard(CosineLength(verdict_reward, 8), on_error="wrong", processes=1)
    given = whole(["4", "5", "exit"], completion_ids=[[1] * 3] * 3)
    assert given[0] > given[1] > given[2] == -1.0
    whole.close()


def test_a_reward_says_what_its_least_score_is():
    cosine, overlong = CosineLength(verdict_reward, 8, min_value_wrong=-3), SoftOverlong(8, 2)
    ranges = {
        cosine: (-3, 1),
        overlong: (-1, 0),
        Repetition(max_penalty=-0.5): (-0.5, 0),
        functools.partial(verdict_reward): (0, 1),
        gate(overlong, by=verdict_reward): (-1, 0),
        gate(cosine, by=verdict_reward): (-3, 1),
        clip(cosine, -2, 0.5): (-2, 0.5),
        schedule(cosine, {0.0: 1.0, 1.0: -2.0}): (-3, 6),  # 1 · −3 and −2 · −3
        weighted({cosine: 1.0, verdict_reward: -2.0}): (-5, 1),  # −3 − 2 and 1 − 0
        guard(cosine, timeout=None): (-3, 1),
    }
    assert {reward: score_range_of(reward) for reward in ranges} == ranges
    endless = ScoreReward()
    endless.score_range = (-float("inf"), 0.0)
    with pytest.raises(ValueError, match=r"least score of reward 'ScoreReward' is -inf.*a number"):
        guard(endless)


def test_an_abstention_that_would_pay_is_refused():
    abstaining = guard(verdict_reward, on_timeout="abstain")
    for correct in (abstaining, gate(verdict_reward, by=abstaining)):
        with pytest.raises(ValueError, match="failing would pay"):
            CosineLength(correct, 8)
        CosineLength(correct, 8, min_value_wrong=0.0, max_value_wrong=0.1)


def test_data_that_hang_with_any_completion_are_not_its_fault():
    reward = guard(data_reward, timeout=1.0, processes=1)
    assert reward(["a", "hang", "a"], answer=["hang", "a", "a"]) == [None, 0.0, 1.0]
    assert reward.last.timeouts == 2
    reward.close()


def test_memory_is_limited_and_more_can_be_allowed():
    reward = guard(verdict_reward, timeout=60, processes=1, on_timeout="raise")
    with pytest.raises(
        MemoryError, match=r"\('memory'\): its process ran out of memory\. Allow more"
    ):
        reward(["memory"])
    reward.close()
    with pytest.raises(ValueError, match="memory is 0, expected GiB above 0, or None for no limit"):
        guard(verdict_reward, memory=0)
    small = guard(allocates, timeout=60, processes=1, memory=0.5, on_timeout=-1)
    assert small(["0.25", "1"]) == [0.25, -1.0]
    small.close()
    large = guard(allocates, timeout=60, processes=1, memory=None)
    assert large(["1"]) == [1.0]
    large.close()


# ---- in this process --------------------------------------------------------------------------


def test_one_bad_completion_does_not_cost_the_batch():
    metrics = []
    reward = guard(length_or_fail, timeout=None, on_error="abstain")
    scores = reward(["ab", "", "abcd"], log_metric=lambda name, value: metrics.append(name))
    assert scores == [0.5, None, 0.25]
    assert reward.last[:3] == (3, 0, 1)
    prefix = "reward/length_or_fail"
    assert metrics == [
        "inner",
        *(f"{prefix}/{n}" for n in ("timeout_rate", "error_rate", "ms_p95")),
    ]
    assert guard(length_or_fail, timeout=None, on_error=-0.5)(["ab", ""]) == [0.5, -0.5]


def test_an_error_in_this_process_names_the_completion_and_its_cause():
    reward = guard(length_or_fail, timeout=None, name="lengths")
    with pytest.raises(RuntimeError, match=r"'lengths', completion 1 \(''\): ZeroDiv") as caught:
        reward(["ab", ""])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_the_columns_of_a_row_go_with_it():
    def judge(completions, answer, scale, **_):
        return [
            scale / (completion == right)
            for completion, right in zip(completions, answer, strict=True)
        ]

    reward = guard(judge, timeout=None, on_error="abstain")
    assert reward(["1", "2", "3"], answer=["1", "x", "3"], scale=2.0) == [2.0, None, 2.0]


def test_a_batch_that_fails_for_no_completion_alone_is_an_error_of_the_reward():
    with pytest.raises(ValueError, match="one at a time"):
        guard(fails_together, timeout=None)(["a", "b"])
    assert guard(fails_together, timeout=None, on_error="abstain")(["a", "b"]) == [1.0, 1.0]


def test_loggers_reach_the_reward_only_if_there_are_any():
    assert guard(lambda completions: [1.0], timeout=None)(["a"]) == [1.0]
    extra = {}
    reward = guard(lambda completions, log_extra: log_extra("k", [1]) or [1.0], timeout=None)
    assert reward(["a"], log_extra=extra.__setitem__) == [1.0]
    assert extra == {"k": [1]}


# ---- what a reward may return -----------------------------------------------------------------


def test_a_wrong_number_of_scores_is_an_error_whatever_the_policy():
    reward = guard(ReturnsReward([1.0] * 3), timeout=None, on_error="abstain")
    with pytest.raises(ValueError, match="'ReturnsReward' returned 3 scores for 4 completions; re"):
        reward(["a", "b", "c", "d"])
    nothing = guard(ReturnsReward(None), timeout=None, on_error="abstain")
    with pytest.raises(TypeError, match="returned None, expected a list of 1 scores"):
        nothing(["a"])


def test_in_a_process_a_wrong_number_of_scores_is_up_to_the_policy():
    reward = guard(ReturnsReward([1.0] * 3), timeout=60, name="three")  # nobody can trust it there
    with pytest.raises(RuntimeError, match=r"'three', completion 0.*returned 3 scores for 1 co"):
        reward(["a"])
    reward.on_error = "abstain"
    assert reward(["a"]) == [None]
    reward.close()


def test_infinity_and_no_number_are_errors_and_nan_abstains():
    reward = guard(ScoreReward(), timeout=None, on_error="abstain")
    scores = reward(["nan", "inf", "text", "none", "half", "huge"])
    assert scores == [None, None, None, None, 0.5, None]
    assert reward.last.errors == 3
    strict = guard(ScoreReward(), timeout=None)
    with pytest.raises(RuntimeError, match=r"completion 1 .* the score is inf, expected a finite"):
        strict(["half", "inf"])
    with pytest.raises(RuntimeError, match="the score is 'yes', expected a number or None"):
        strict(["text"])


def test_no_completions_are_no_scores():
    assert guard(length_reward)([], log_metric=pytest.fail) == []


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (4, 4), (20, 19), (100, 95)])
def test_the_95th_percentile_is_the_nearest_rank(count, rank):
    # the ceil(0.95 n)-th smallest: 0.95 * 4 = 3.8 is the 4th
    outcomes = [Outcome(1.0, seconds=second / 1000) for second in range(count, 0, -1)]
    assert _health(outcomes).ms_p95 == pytest.approx(rank)
