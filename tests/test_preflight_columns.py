"""Columns that a reward reads: misspelt, missing, empty, constant."""

import functools

import pytest

from grpo_credit.preflight.columns import check_columns, check_values, columns_read, reward_name

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


def test_names_are_those_that_trl_logs():
    assert reward_name(functools.partial(by_key)) == "by_key"
    assert reward_name(Called()) == "Called"
    assert reward_name("a/reward-model") == "a/reward-model"
