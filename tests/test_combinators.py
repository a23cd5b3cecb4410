import functools
import operator
from types import SimpleNamespace

import pandas as pd
import pytest
from harness import trl

from rewards import (
    CosineLength,
    NumericAnswer,
    clip,
    gate,
    guard,
    schedule,
    think_answer_format,
    weighted,
)
from rewards.contract import TextReward
from rewards.repetition import Repetition

NAN, INF = float("nan"), float("inf")


def length(completions, **_):
    """Score a text by its characters; abstain on an empty one."""
    return [float(len(text)) if text else None for text in completions]


def digits(completions, **_):
    """Score 1 for a text of digits alone."""
    return [float(text.isdecimal()) for text in completions]


def short(completions, **_):
    """Score 1 for up to three characters."""
    return [float(len(text) <= 3) for text in completions]


def negative(completions, **_):
    return [-1.0 for _ in completions]


def logging(completions, answer, log_metric=None, log_extra=None, **_):
    """Score 1, log the answers it was given and how many."""
    log_extra("gold", list(answer))
    log_metric("seen", len(completions))
    return [1.0 for _ in completions]


logging.columns = ("answer",)


class Recorder:
    """Remember the arguments of each call."""

    def __init__(self, columns=()):
        self.calls = []
        self.columns = columns

    def __call__(self, **given):
        self.calls.append(given)
        return [1.0 for _ in given["completions"]]


class Logs:
    """Collect what rewards log, as TRL does."""

    def __init__(self):
        self.metrics, self.extra = {}, {}

    def given(self):
        return {"log_metric": self.metrics.__setitem__, "log_extra": self.extra.__setitem__}


@pytest.mark.parametrize("wrap", [lambda part: part, lambda part: guard(part, timeout=None)])
def test_what_a_partial_function_wraps_says_its_columns_and_places(wrap):
    answer, text = NumericAnswer(column="gold"), "<think>a</think><answer>4</answer>"
    plain = gate(answer, by=think_answer_format)
    reward = gate(
        wrap(functools.partial(answer, a=1)), by=wrap(functools.partial(think_answer_format, a=1))
    )
    assert reward.columns == plain.columns == ("gold",)
    assert reward.spans([text]) == plain.spans([text])
    with pytest.raises(ValueError, match="needs the column 'gold'; the data have prompts"):
        reward([text], prompts=["a"])
    bound = clip(wrap(functools.partial(answer, gold=["4"])), 0, 1)
    assert (bound.columns, bound([text])) == ((), [1.0])


def test_a_gate_pays_only_where_the_form_is_earned():
    reward = gate(length, by=digits)
    assert reward(["12", "ab", "12345"]) == [2.0, 0.0, 5.0]


def test_a_gate_abstains_where_either_abstains_but_not_after_a_failure():
    def by(completions, **_):
        return [None if "?" in text else float("a" in text) for text in completions]

    def abstaining(completions, **_):
        return [None for _ in completions]

    assert gate(length, by=by)(["a", "b", "?"]) == [1.0, 0.0, None]
    assert gate(abstaining, by=by)(["a", "b", "?"]) == [None, 0.0, None]


def test_a_gate_opens_from_its_threshold_on():
    texts = ["a", "ab", "abc"]
    assert gate(negative, by=length, at_least=2)(texts) == [0.0, -1.0, -1.0]
    assert gate(negative, by=length, at_least=2.5)(texts) == [0.0, 0.0, -1.0]


def test_what_fails_never_reaches_the_gated_reward():
    reward, state = Recorder(), SimpleNamespace(global_step=1, max_steps=2)
    given = {"answer": [1, 2, 3], "completion_ids": [[1], [2], [3]], "note": "abc", "pair": [4, 5]}
    gate(reward, by=digits)(completions=["1", "b", "3"], trainer_state=state, **given)
    assert reward.calls == [
        {
            "completions": ["1", "3"],
            "answer": [1, 3],
            "completion_ids": [[1], [3]],
            "note": "abc",  # no column: as long as the completions, but no list
            "pair": [4, 5],  # no column: another length
            "trainer_state": state,
        }
    ]
    assert gate(reward, by=digits)(completions=["b"]) == [0.0]
    assert len(reward.calls) == 1


def test_extra_columns_of_a_gated_reward_are_padded():
    logs, reward = Logs(), gate(logging, by=digits)
    reward(["a", "1", "b", "2"], answer=[4, 5, 6, 7], **logs.given())
    assert logs.extra == {"gold": [None, 5, None, 7]}
    assert logs.metrics == {"seen": 2, "reward/logging_gated_by_digits/passed": 0.5}


def test_an_extra_column_seen_once_is_emptied_when_nothing_passes():
    logs, reward = Logs(), gate(logging, by=digits)
    reward(["a"], answer=[4], **logs.given())
    assert logs.extra == {}
    reward(["1"], answer=[4], **logs.given())
    reward(["a", "b"], answer=[4, 5], **logs.given())
    assert logs.extra == {"gold": [None, None]}
    assert reward(["a"], answer=[4]) == [0.0]  # without log_extra too


def test_an_extra_column_of_another_length_is_refused():
    def careless(completions, log_extra, **_):
        log_extra("gold", [1])
        return [1.0 for _ in completions]

    with pytest.raises(ValueError, match=r"'careless' logged 1 values of 'gold' for 2 completions"):
        gate(careless, by=digits)(["1", "2", "b"], **Logs().given())


def test_a_missing_column_is_found_before_anything_passes():
    reward = gate(Recorder(("answer",)), by=digits)
    with pytest.raises(ValueError, match="needs the column 'answer'; the data have solution"):
        reward(["a"], solution=["4"])


def test_tables_of_trl_stay_aligned_under_a_gate(tmp_path):
    class Told:
        """Pass the completions that begin with a digit, in the first step alone."""

        def __call__(self, completions, trainer_state, **_):
            first = trainer_state.global_step == 0
            return [float(first and text[0].isdigit()) for text in completions]

    def echo(completions, log_extra, **_):
        log_extra("echo", list(completions))
        return [1.0 for _ in completions]

    options = {"log_completions": True, "num_completions_to_print": 0, "max_steps": 2}
    reward = gate(echo, by=Told(), name="gated")
    trace = trl(arguments={"reward_funcs": reward}, output_dir=str(tmp_path), **options)
    one, two = (
        pd.read_parquet(tmp_path / "completions" / f"completions_0000{step}.parquet")
        for step in (1, 2)
    )
    passed = one.completion.str[0].str.isdigit()
    assert 0 < passed.sum() < len(one)
    assert one.echo.where(passed, "").tolist() == one.completion.where(passed, "").tolist()
    assert one.echo[~passed].isna().all()
    assert one.gated.tolist() == passed.astype(float).tolist()
    assert two.echo.isna().all()
    assert trace.logs[0]["reward/gated/passed"] == pytest.approx(passed.mean())


def test_a_weighted_reward_is_the_sum_of_what_does_not_abstain():
    reward = weighted({length: 0.5, digits: 2.0})
    # "12": 0.5·2 + 2·1; "abc": 0.5·3; "": length abstains, and no digits
    assert reward(["12", "abc", ""]) == [3.0, 1.5, 0.0]
    assert weighted([(length, 1.0)])(["", "a"]) == [None, 1.0]


class Full(TextReward):
    """Score 1."""

    def score(self, text):
        return 1.0


def test_a_full_sum_is_a_full_mark():
    parts = [Full(str(part)) for part in range(10)]
    assert functools.reduce(operator.add, [0.1] * 10) < 1.0  # sum() of Python 3.12 is exact
    assert gate(length, by=weighted(dict.fromkeys(parts, 0.1)))(["ab"]) == [2.0]


def test_each_part_is_logged_by_its_mean():
    logs = Logs()
    weighted({length: 0.5, digits: 2.0}, name="sum")(["12", "", "abcd"], **logs.given())
    assert logs.metrics == {
        "reward/sum/length": 3.0,  # of the two that it judged
        "reward/sum/digits": pytest.approx(1 / 3),
    }
    logs = Logs()
    weighted({length: 1.0})([""], **logs.given())
    assert logs.metrics == {}  # a mean of nothing is no number


def test_nan_counts_as_an_abstention():
    def lost(completions, **_):
        return [float("nan") for _ in completions]

    assert weighted({lost: 1.0, length: 1.0})(["ab"]) == [2.0]
    assert gate(length, by=lost)(["ab"]) == [None]


def test_clip_keeps_scores_within_bounds():
    assert clip(length, 2, 4)(["a", "abc", "abcdef", ""]) == [2.0, 3.0, 4.0, None]
    assert clip(length, -float("inf"), 4)(["a", "abcdef"]) == [1.0, 4.0]


@pytest.mark.parametrize(
    ("progress", "factor"),
    [(0, 2.0), (0.2, 2.0), (0.3, 1.5), (0.4, 1.0), (0.6, 0.5), (0.8, 0.0), (1.0, 0.0)],
)
def test_a_factor_is_linear_between_points_and_constant_outside(progress, factor):
    # 2 at 0.2, 1 at 0.4, 0 at 0.8; given in no order
    reward = schedule(length, {0.8: 0.0, 0.2: 2.0, 0.4: 1.0})
    logs = Logs()
    assert reward(["abc", ""], progress=progress, **logs.given()) == [
        pytest.approx(3 * factor, abs=1e-12),
        None,
    ]
    assert logs.metrics == {"reward/length_scheduled/factor": pytest.approx(factor, abs=1e-12)}


def test_progress_is_the_step_over_the_last_step():
    reward = schedule(length, {0.0: 1.0, 1.0: 0.0})

    def at(step, last):
        return reward(["a"], trainer_state=SimpleNamespace(global_step=step, max_steps=last))

    assert [at(0, 4), at(1, 4), at(4, 4)] == [[1.0], [0.75], [0.0]]
    assert at(0, 0) == [1.0]  # an evaluation before training


def test_a_schedule_follows_the_steps_of_trl():
    reward = schedule(negative, {0.0: 1.0, 1.0: 0.0}, name="fading")
    trace = trl(arguments={"reward_funcs": reward}, max_steps=4, num_iterations=1)
    assert [log["reward/fading/factor"] for log in trace.logs[:4]] == [1.0, 0.75, 0.5, 0.25]
    assert [log["rewards/fading/mean"] for log in trace.logs[:4]] == [-1.0, -0.75, -0.5, -0.25]


def test_a_schedule_without_progress_says_how_to_give_it():
    reward = schedule(length, {0.0: 1.0})
    with pytest.raises(ValueError, match=r"'length_scheduled' follows .* call it with progress="):
        reward(["a"])
    for progress in (1.5, -0.1, float("nan"), [0.5]):
        with pytest.raises(ValueError, match=r"progress of reward 'length_scheduled' is .*0 to 1"):
            reward(["a"], progress=progress)


def nested():
    form = schedule(weighted({digits: 1.0, short: 0.5}, name="form"), {0.0: 1.0, 1.0: 2.0})
    return gate(weighted({length: 1.0, logging: 2.0}), by=clip(form, 0, 2), at_least=2)


def test_combinations_nest():
    # progress 1/2: factor 1.5, so a short number has 2.25, clipped to 2, and a long one 1.5
    logs, reward = Logs(), nested()
    scores = reward(["12", "12345", "ab"], answer=[1, 2, 3], progress=0.5, **logs.given())
    assert scores == [4.0, 0.0, 0.0]
    assert reward.columns == ("answer",)
    assert reward.__name__ == "length_plus_logging_gated_by_form_scheduled_clipped"
    assert logs.extra == {"gold": [1, None, None]}


def test_names_are_those_of_trl():
    partial = functools.partial(functools.partial(length, a=1), b=2)
    assert gate(partial, by=Recorder()).__name__ == "length_gated_by_Recorder"
    assert clip(length, 0, 1, name="mine").__name__ == "mine"
    assert repr(weighted({length: 1.0, digits: 1.0}, name="sum")) == (
        "<reward sum of length, digits>"
    )


def test_columns_are_those_of_all_parts():
    first, second = Recorder(("answer", "unit")), Recorder(("unit", "gold"))
    assert gate(first, by=second).columns == ("answer", "unit", "gold")
    assert weighted({length: 1.0}).columns == ()


class Later:
    async def __call__(self, completions, **_):
        return [1.0 for _ in completions]


async def later(completions, **_):
    return [1.0 for _ in completions]


@pytest.mark.parametrize(
    "part", [later, functools.partial(later, a=1), Later(), functools.partial(Later())]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda part: gate(part, by=length),
        lambda part: gate(length, by=part),
        lambda part: weighted({part: 1.0}),
        lambda part: clip(part, 0, 1),
        lambda part: schedule(part, {0: 1}),
    ],
)
def test_async_parts_are_waited_for(make, part):
    assert make(part)(["a"], progress=0.0) == [1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weighted([(digits, 1.0), (functools.partial(digits, a=1), 1.0)]),
         "two parts are named 'digits', and their metrics"),
        (lambda: weighted({digits: INF}), "weight of 'digits' is inf, expected a finite number"),
        (lambda: weighted({}), "weighted got no parts"),
        (lambda: clip(length, 2, 1), "low is 2 and high is 1; expected low"),
        (lambda: clip(length, NAN, 1), "low is nan and high is 1; expected low"),
        (lambda: clip(length, 0, NAN), "low is 0 and high is nan; expected low"),
        (lambda: schedule(length, {}), r"schedule got no points; expected \{progress: factor\}"),
        (lambda: schedule(length, {1.5: 1.0}), "point 1.5: 1.0; expected progress in"),
        (lambda: schedule(length, {-0.1: 1.0}), "point -0.1: 1.0; expected progress in"),
        (lambda: schedule(length, {0.5: INF}), "point 0.5: inf; expected progress in"),
        (lambda: gate("accuracy", by=digits), "part is 'accuracy', expected a reward"),
        (lambda: weighted({Repetition: 1.0}), r"part is <class .*Repetition'>, expected a reward"),
        (lambda: gate(length, by=digits, at_least=NAN), "at_least is nan, expected a number"),
        (lambda: gate(length, by=digits, at_least="1"), "at_least is '1', expected a number"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_leaving_the_form_earns_no_more_than_a_wrong_answer_within_it():
    wrong = CosineLength(lambda completions, **_: [0.0] * len(completions), 100)
    scores = gate(wrong, by=digits)(["12", "ab"], completion_ids=[[1], [1]])
    assert scores[1] == -1.0 < scores[0]
    assert gate(length, by=digits)(["ab"]) == [0.0]


def test_a_gate_that_abstains_where_it_fails_guards_nothing_that_pays_less_than_nothing():
    wrong = CosineLength(lambda completions, **_: [0.0] * len(completions), 100)
    abstains = guard(Repetition(), timeout=None, on_error="abstain")
    with pytest.raises(ValueError, match=r"abstains .* pays less than that for a wrong one"):
        gate(wrong, by=abstains)
