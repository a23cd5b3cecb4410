import functools
import math

import pytest
from trl.rewards import accuracy_reward, get_cosine_scaled_reward, get_soft_overlong_punishment

from rewards.lengths import CosineLength, GroupLength, SoftOverlong


def ids(*lengths):
    return [[1] * length for length in lengths]


def right(completions, solution, **_):
    """Say whether the boxed number is the solution; abstain without one."""
    return [
        float(f"\\boxed{{{gold}}}" in text) if gold else None
        for text, gold in zip(completions, solution, strict=True)
    ]


def test_overlong_completions_pay_along_a_ramp():
    # max 10, cache 4: free up to 6, then -1/4 per token down to -1 at 10
    scores = SoftOverlong(10, 4)([""] * 7, completion_ids=ids(0, 6, 7, 8, 9, 10, 11))
    assert scores == [0.0, 0.0, -0.25, -0.5, -0.75, -1.0, -1.0]


@pytest.mark.parametrize(("longest", "cache"), [(10, 4), (10, 0), (7, 7), (1, 1), (256, 51)])
def test_soft_overlong_is_that_of_trl(longest, cache):
    lengths = ids(*range(longest + 3))
    theirs = get_soft_overlong_punishment(max_completion_len=longest, soft_punish_cache=cache)
    ours = SoftOverlong(longest, cache)
    assert ours([""] * len(lengths), completion_ids=lengths) == theirs(completion_ids=lengths)


def test_a_ramp_outside_the_limit_is_refused():
    with pytest.raises(ValueError, match="max_completion_length is 0, expected at least 1 token"):
        SoftOverlong(0, 0)
    with pytest.raises(ValueError, match="soft_punish_cache is 11, expected 0 to 10 tokens"):
        SoftOverlong(10, 11)
    with pytest.raises(ValueError, match="soft_punish_cache is -1, expected 0 to 10 tokens"):
        SoftOverlong(10, -1)


@pytest.mark.parametrize("reward", [SoftOverlong(10, 4), CosineLength(right, 10)])
def test_without_token_ids_the_error_says_where_they_come_from(reward):
    message = rf"reward '{reward.__name__}' needs the column 'completion_ids'; .*\. TRL passes"
    with pytest.raises(ValueError, match=message):
        reward(["a"], solution=["4"])
    with pytest.raises(ValueError, match="'completion_ids' has 2 values for 1 completions"):
        reward(["a"], solution=["4"], completion_ids=ids(1, 2))


def test_cosine_length_goes_from_the_short_value_to_the_long_one():
    # half way the cosine is 0: the middle; at max it is -1 and beyond it stays so: the long value
    reward = CosineLength(
        right,
        8,
        min_value_wrong=-2.0,
        max_value_wrong=-1.0,
        min_value_correct=3.0,
        max_value_correct=5.0,
    )
    texts, lengths = ["\\boxed{4}"] * 4 + ["5"] * 4, ids(0, 4, 8, 99) * 2
    scores = reward(texts, solution=["4"] * 8, completion_ids=lengths)
    assert scores == pytest.approx([5, 4, 3, 3, -2, -1.5, -1, -1], abs=1e-12)


def test_cosine_length_is_that_of_trl():
    pytest.importorskip("math_verify")
    texts = [r"\boxed{4}", r"\boxed{5}", "four", r"\boxed{4}"] * 13
    given = {
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "solution": ["$4$", "$4$", "$4$", ""] * 13,  # without a solution both abstain
        "completion_ids": ids(*range(52)),
    }
    values = {
        "min_value_wrong": -3.0,
        "max_value_wrong": -0.1,
        "min_value_correct": 0.2,
        "max_value_correct": 2.0,
    }
    for options in ({}, values):
        ours = CosineLength(accuracy_reward, 40, **options)
        theirs = get_cosine_scaled_reward(max_len=40, **options)(**given)
        assert theirs[3] is None
        assert ours(**given) == theirs


def test_cosine_length_takes_the_columns_of_its_verdict_and_the_tokens():
    verdict = functools.partial(right)
    verdict.columns = ("solution",)
    assert CosineLength(verdict, 8).columns == ("solution", "completion_ids")
    assert SoftOverlong(10, 4).columns == ("completion_ids",)


def test_a_minimum_above_its_maximum_is_refused():
    with pytest.raises(ValueError, match=r"min_value_wrong is -0\.1 and max_value_wrong is -0\.5"):
        CosineLength(right, 8, min_value_wrong=-0.1)
    with pytest.raises(ValueError, match=r"min_value_correct is 2 and max_value_correct is 1\.0"):
        CosineLength(right, 8, min_value_correct=2)
    for value in ("min_value_wrong", "max_value_correct"):
        for number in (math.inf, -math.inf, math.nan):
            with pytest.raises(ValueError, match=rf"{value} is {number}.*both finite"):
                CosineLength(right, 8, **{value: number})
    with pytest.raises(ValueError, match="max_completion_length is 0, expected at least 1"):
        CosineLength(right, 0)


def kimi(lengths, rights):
    """Return the rewards of a group as the paper writes them: min(0, lambda) for wrong ones."""
    rewards = []
    for length, correct in zip(lengths, rights, strict=True):
        spread = max(lengths) - min(lengths)
        lam = 0.5 - (length - min(lengths)) / spread if spread else 0.0
        rewards.append(None if correct is None else lam if correct else min(0.0, lam))
    return rewards


@pytest.mark.parametrize(
    ("lengths", "rights"),
    [
        ([2, 6, 3], [1, 1, 0]),
        ([2, 6, 6], [0, 0, 1]),
        ([5, 5, 5], [1, 0, 1]),
        ([0, 1, 9], [None, 1, 0]),
        ([1, 2, 3, 4], [1, 1, 0, 0]),
    ],
)
def test_length_in_a_group_is_that_of_the_paper(lengths, rights):
    verdict = lambda completions, **_: rights * 2  # noqa: E731
    reward = GroupLength(verdict, len(lengths))
    longer = [length * 3 for length in lengths]  # another prompt, whose lengths are its own
    scores = reward(
        [""] * len(lengths) * 2,
        prompts=["a"] * len(lengths) + ["b"] * len(lengths),
        completion_ids=ids(*lengths, *longer),
    )
    assert scores == pytest.approx(kimi(lengths, rights) + kimi(longer, rights))


def test_groups_may_be_of_one_prompt():
    reward = GroupLength(lambda completions, **_: [1.0] * 4, 2)
    scores = reward([""] * 4, prompts=["a"] * 4, completion_ids=ids(1, 2, 5, 3))
    assert scores == [0.5, -0.5, -0.5, 0.5]


@pytest.mark.parametrize("prompts", ["ab", "aab", "aabbb", "aaab"])
def test_a_group_that_is_split_over_calls_is_refused(prompts):
    reward = GroupLength(lambda completions, **_: [1.0] * len(prompts), 2)
    with pytest.raises(ValueError, match="expected whole groups of 2: make per_device_train_batch"):
        reward([""] * len(prompts), prompts=list(prompts), completion_ids=ids(*[1] * len(prompts)))


def test_length_in_a_group_needs_prompts_and_a_verdict():
    reward = GroupLength(lambda completions, **_: [0.5, 1.0], 2, name="short")
    with pytest.raises(ValueError, match=r"'short' needs the column 'prompts'; .* TRL passes"):
        reward(["", ""], completion_ids=ids(1, 2))
    with pytest.raises(ValueError, match=r"scored 0\.5, expected 0 .* or 1 .*; 'short'"):
        reward(["", ""], prompts=["a", "a"], completion_ids=ids(1, 2))
    with pytest.raises(ValueError, match="num_generations is 1, expected a whole number of at"):
        GroupLength(right, 1)
