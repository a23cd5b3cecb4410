"""A pattern that explodes has a budget for each call, and is named once."""

import warnings

import pytest
from preflight_helpers import Clock, reward_sample, sample

from grpo_credit.preflight.checks import check_sample
from grpo_credit.preflight.watch import watch
from rewards import (
    ByPattern,
    CodeTests,
    ExactAnswer,
    JsonAnswer,
    RegexReward,
    SlowPatternWarning,
    TaskScore,
    TextReward,
    patience,
    slow_patterns,
)
from rewards.format_check import check_format

EXPLODES = r"(?:a|aa)+(?=x)[bx]+|c"
HOSTILE = ["a" * (60 + n) for n in range(8)]


def explosive(**options):
    """Return a reward whose limit alone would let each hostile text take ten minutes."""
    return RegexReward(EXPLODES, timeout=600, budget=1e-9, name="slow", **options)


@pytest.fixture(autouse=True)
def untold():
    patience._tell.cache_clear()
    yield
    patience._tell.cache_clear()


def test_texts_get_their_own_limit_or_what_is_left_and_always_a_moment(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(patience, "clock", lambda: clock.now)
    given = []
    with patience.at_most(4.0):
        for now in (0.0, 3.25, 3.99, 100.0):
            clock.now = now
            given.append(patience.granted(1.0))
        with patience.at_most(50.0):  # not more than the outer one
            given.append(patience.granted(1.0))
        given.append(patience.granted(0.001))
    assert given == [1.0, 0.75, patience.SHORT, patience.SHORT, patience.SHORT, 0.001]
    assert patience.granted(600.0) == 600.0


@pytest.mark.filterwarnings("ignore::rewards.patience.SlowPatternWarning")
def test_what_a_call_has_used_up_costs_hostile_texts_alone():
    metrics = {}
    with slow_patterns() as slow:
        scores = explosive()([*HOSTILE, "c"], log_metric=metrics.__setitem__)
    assert scores == [0.0] * 8 + [1.0]
    assert slow == {EXPLODES: 8}
    assert metrics == {"reward/slow/timeout_rate": 8 / 9}
    assert explosive(mode="search").spans([*HOSTILE, "c"])[-1] == {"match": [(0, 1)]}
    assert [d.exact for d in explosive().decided(HOSTILE)] == [False] * 8


@pytest.mark.filterwarnings("ignore::rewards.patience.SlowPatternWarning")
def test_answers_that_are_sought_by_a_pattern_share_a_budget(monkeypatch):
    monkeypatch.setattr(TextReward, "budget", 1e-9)
    pattern = r"(?P<answer>(?:x|xx)+y)"
    reward = ExactAnswer(ByPattern(pattern, timeout=600))
    with slow_patterns() as slow:
        texts = ["x" * (60 + n) + "z" for n in range(4)]
        assert reward([*texts, "xy"], answer=["xy"] * 5) == [0.0] * 4 + [1.0]
        assert reward.spans([*texts, "xy"]) == [{"answer": []}] * 4 + [{"answer": [(0, 2)]}]
    assert slow == {pattern: 8}
    assert reward(["xy"], answer=["x" * 60]) == [None]  # the gold, which nobody wrote to fail


@pytest.mark.filterwarnings("ignore::rewards.patience.SlowPatternWarning")
@pytest.mark.filterwarnings("ignore:the verifier of")
@pytest.mark.parametrize(
    ("make", "columns"),
    [
        (lambda extract: JsonAnswer(extract=extract), {}),
        (lambda extract: CodeTests(extract=extract, run_untrusted_code=True),
         {"tests": [["assert True"]] * 2}),
        (lambda extract: TaskScore({"spell_backward": {"seed": 1, "size": 2}}, extract),
         {"task": ["spell_backward"] * 2, "index": [0, 1]}),
    ],
    ids=["json", "code", "task"],
)  # fmt: skip
def test_an_answer_that_is_not_found_in_time_is_none(make, columns, monkeypatch):
    monkeypatch.setattr(TextReward, "budget", 1e-9)
    reward = make(ByPattern(r"(?P<answer>(?:x|xx)+y)", timeout=600))
    texts = ["x" * (60 + n) + "z" for n in range(2)]
    assert reward(texts, **columns) == [0.0, 0.0]
    assert [list(spans.values()) for spans in reward.spans(texts)] == [[[]]] * 2


def test_a_hopeless_pattern_is_told_once():
    reward = explosive()
    with pytest.warns(SlowPatternWarning, match=r"pattern '\(\?:a\|aa\)\+.* ran out of time.*Take"):
        reward(HOSTILE[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(HOSTILE[:1])


@pytest.mark.filterwarnings("ignore::rewards.patience.SlowPatternWarning")
def test_a_preflight_names_it_as_an_error():
    watched = watch(explosive(), 4, Clock())
    assert watched(completions=[*HOSTILE, "c"]) == [0.0] * 8 + [1.0]
    assert watched.slow == {EXPLODES: 8}
    [found] = check_sample(sample(reward_sample([1, 0] * 8, name="slow", slow=watched.slow)))
    assert (found.severity, found.kind) == ("error", "reward slow: pattern")
    assert f"{EXPLODES!r} ran out of time on 8 of 16 completions." in found.message
    assert "make the inner one possessive" in found.remedy


@pytest.mark.filterwarnings("ignore::rewards.patience.SlowPatternWarning")
def test_a_format_that_explodes_on_its_own_specimen_is_tried_once():
    from grpo_credit.tiny import build_tokenizer

    with slow_patterns() as slow:
        [found] = check_format(explosive(), build_tokenizer(), ["2+2?"], specimen=HOSTILE[0])
    assert found.level == "error"
    assert f"the pattern {EXPLODES!r} ran out of time on 'aaa" in found.message
    assert slow.total() == 1
