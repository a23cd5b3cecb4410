"""Columns that a reward reads: misspelt, missing, empty, constant."""

import functools

import pytest

from grpo_credit.preflight.columns import (
    check_columns,
    check_golds,
    check_values,
    columns_read,
    reward_name,
)
from rewards import (
    ChoiceAnswer,
    CosineLength,
    ExactAnswer,
    NumericAnswer,
    gate,
    guard,
    think_answer_format,
    weighted,
)

COLUMNS = ["prompt", "ground_truth", "level"]


def by_parameter(completions, ground_truths, **kwargs):
    return [0.0] * len(completions)


def by_default(completions, ground_truths=None, **kwargs):
    return [0.0] * len(completions)


def by_key(completions, **kwargs):
    return [float(t == c) for t, c in zip(kwargs.get("ground_truths") or [], completions)]  # noqa: B905


def by_inner_key(completions, **kwargs):
    return [float(kwargs["ground_truths"][i] == c) for i, c in enumerate(completions)]


class ByAttribute:
    columns = ("ground_truths",)

    def __call__(self, completions, **kwargs):
        return [0.0] * len(completions)


class Called:
    def __call__(self, completions, ground_truths, **kwargs):
        return [0.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "severity"),
    [
        (by_parameter, "error"),
        (functools.partial(by_parameter), "error"),
        (Called(), "error"),
        (ByAttribute(), "error"),
        (by_default, "warning"),
        (by_key, "warning"),
        (by_inner_key, "warning"),
    ],
)
def test_a_misspelt_column_is_named_with_the_one_that_was_meant(reward, severity):
    [found] = check_columns([("truth", reward)], COLUMNS)
    assert (found.severity, found.kind) == (severity, "columns of truth")
    assert "'ground_truths', which the data lack (prompt, ground_truth, level)" in found.message
    assert "Did you mean 'ground_truth'?" in found.remedy


def test_what_trl_hands_over_and_what_is_there_is_no_mistake():
    def reward(prompts, completions, completion_ids, ground_truth, trainer_state, **kwargs):
        kwargs["log_metric"]("ground_truths", 1.0)  # the right column is read as well
        return [1.0] * len(ground_truth)

    assert check_columns([("r", reward)], COLUMNS) == []


def test_strings_that_are_no_columns_are_not_taken_for_slips():
    def reward(completions, **kwargs):
        """Look for an answer."""
        return [float("answer" in c and "boxed" in c) for c in completions]

    assert check_columns([("r", reward)], COLUMNS) == []


def test_a_default_that_is_far_from_every_column_is_an_option():
    def reward(completions, strength=1.0):
        return [strength] * len(completions)

    assert check_columns([("r", reward)], COLUMNS) == []


def test_a_builtin_and_a_model_are_let_be():
    import torch

    assert check_columns([("len", len), ("model", torch.nn.Linear(1, 1))], COLUMNS) == []


def test_columns_that_say_nothing_are_named():
    def reward(completions, ground_truth, level, **kwargs):
        return [0.0] * len(completions)

    rows = [{"prompt": str(i), "ground_truth": "", "level": 3, "unread": None} for i in range(5)]
    read = columns_read([("r", reward)], [*rows[0]])
    assert read == {"ground_truth": "r", "level": "r"}
    empty, same = check_values(read, rows)
    assert (empty.severity, same.severity) == ("error", "warning")
    assert "'ground_truth', which reward 'r' reads, is empty in all 5 rows" in empty.message
    assert "'level', which reward 'r' reads, is 3 in all 5 rows" in same.message


def test_a_constant_beside_a_column_that_differs_is_only_noted():
    rows = [{"task": "gcd", "index": i} for i in range(4)]
    [found] = check_values({"task": "r", "index": "r"}, rows)
    assert (found.severity, "'task'" in found.message) == ("note", True)
    [found] = check_values({"task": "r", "index": "other"}, rows)
    assert found.severity == "warning"


def test_columns_that_differ_are_fine():
    assert check_values({"level": "r"}, [{"level": i} for i in range(3)]) == []
    assert check_values({"level": "r"}, [{"level": 1}]) == []
    assert check_values({"level": "r"}, []) == []


NUMBER = NumericAnswer(column="truth")


@pytest.mark.parametrize(
    "reward",
    [
        NUMBER,
        gate(NUMBER, by=think_answer_format),
        weighted({NUMBER: 1.0, think_answer_format: 0.2}),
        guard(NUMBER, timeout=None),
        gate(guard(NUMBER, timeout=None), by=think_answer_format),
        CosineLength(NUMBER, 100),
    ],
    ids=lambda reward: type(reward).__name__,
)
def test_right_answers_that_cannot_be_read_are_told_with_the_first_of_them(reward):
    golds = ["4", 4.0, "x + 1", "#### 7", "1 and 2", "", *range(20)]
    [found] = check_golds([("right", reward)], [{"truth": gold} for gold in golds])
    assert (found.severity, found.kind) == ("warning", "answers for right")
    told = (
        "'right' cannot read 3 of 26 values of the column 'truth', such as 'x + 1': there it abst"
    )
    assert told in found.message


def test_how_grave_unreadable_answers_are_depends_on_their_share():
    def severities(golds, reward=NUMBER):
        return [f.severity for f in check_golds([("r", reward)], [{"truth": g} for g in golds])]

    assert severities([1, "2"]) == []
    assert severities(["x", *range(20)]) == ["note"]
    assert severities(["x", "y"]) == ["error"]
    assert severities(["x", float("nan")], ExactAnswer(column="truth")) == ["warning"]
    assert check_golds([("r", NUMBER), ("len", len)], [{"other": "x"}]) == []  # told elsewhere


def test_numbers_for_letters_are_told_with_what_to_do():
    [found] = check_golds([("r", ChoiceAnswer())], [{"answer": 2}])
    assert (found.severity, "give index_base=0 if 0 stands for A" in found.message) == (
        "error",
        True,
    )


def test_names_are_those_that_trl_logs():
    assert reward_name(functools.partial(by_key)) == "by_key"
    assert reward_name(Called()) == "Called"
    assert reward_name("a/reward-model") == "a/reward-model"
