"""Where the credit of a window lies, as numbers."""

import json
import math
from dataclasses import replace

import pytest
import torch
from drawn import double, one_group
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_credit import Rollouts, compute_credit
from grpo_credit.credit import diagnostics


def window(lengths=(1, 2, 4), count=(1, 2, 1), **changes):
    """Make one group; as many tokens as the longest, used as often as `count` says."""
    given = {"advantages": double(2.0, -1.0, 0.0), "window_count": torch.tensor(count)}
    return one_group(lengths, [1.0, 0.0, 0.0], **given | changes)


def matrix(*rows):
    """Pad rows of credit with zeros."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in rows]).double()


CREDIT = matrix([3], [1, -1], [0, -2, 0, 0])


def test_gini_by_hand():
    # |C| with the second row twice: 0 0 0 1 1 1 1 2 3, n = 9, sum 9
    # G = Σ (2k - n - 1) x_k / (n Σ x), k = 1..9: 1·(-2 + 0 + 2 + 4) + 2·6 + 3·8 = 40; / 81
    assert diagnostics.gini(CREDIT, window()) == pytest.approx(40 / 81)


def test_gini_runs_from_even_to_one_token():
    rollouts = window()
    assert diagnostics.gini(0.1 * rollouts.mask, rollouts) == pytest.approx(0, abs=1e-12)
    single = matrix([0], [0, 0], [0, 0, 0, -5])
    assert diagnostics.gini(single, rollouts) == pytest.approx(1 - 1 / 9)


def test_sign_flips_by_hand():
    # even is + on the first row, - on the second (twice), nothing on the third: 1 + 2·2 tokens
    # count; the first token of the second row is flipped, twice
    assert diagnostics.sign_flip_rate(CREDIT, window()) == pytest.approx(2 / 5)
    even = compute_credit("even/dapo", window())
    assert diagnostics.sign_flip_rate(even, window()) == 0
    assert diagnostics.sign_flip_rate(-even, window()) == 1
    assert diagnostics.sign_flip_rate(0 * even, window()) == 0


def test_mass_by_position_by_hand():
    # first row, 1 token: tenth 0. Second row, 2 tokens: tenths 0 and 5, twice.
    # Third row, 4 tokens: tenths 0, 2, 5, 7. Masses: tenth 0: 3 + 2·1 + 0, 2: 2, 5: 2·1; sum 9
    found = diagnostics.mass_by_position(CREDIT, window())
    assert found == pytest.approx([5 / 9, 0, 2 / 9, 0, 0, 2 / 9, 0, 0, 0, 0])


def test_positions_are_those_of_counted_tokens():
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1]]).bool()
    found = diagnostics.mass_by_position(matrix([0], [0, 0], [0, 0, 0, 1]), window(mask=mask))
    assert found.index(1.0) == 5  # the second of two


def test_mass_by_length_by_hand():
    # lengths 1, 2, 2, 4: quartiles (linear) at 1.75, 2, 2.5; so row 0 is in quarter 1, row 1 in 2,
    # row 2 in 4; masses 3, 2·2, 2
    found = diagnostics.mass_by_length(CREDIT, window())
    assert found == pytest.approx([3 / 9, 4 / 9, 0, 2 / 9])
    same = diagnostics.mass_by_length(matrix([1, 1], [1, 1], [1, 1]), window((2, 2, 2)))
    assert same == [1, 0, 0, 0]


def test_mass_before_decided_by_hand():
    # settled after 0, 1 and 2 columns: mass before is 0, 2·1 and 2, of 9
    decided = torch.tensor([[0], [1], [2]])
    assert diagnostics.mass_before_decided(CREDIT, window(decided=decided)) == pytest.approx(4 / 9)


def test_the_last_reward_that_weighs_settles_the_completion():
    rollouts = window(
        decided=torch.tensor([[1, 0, 1], [0, 1, 2], [1, 2, 4]]),
        reward_names=("a", "b", "logged"),
        reward_weights=(1.0, -0.5, 0.0),
        rewards_per_func=torch.zeros(3, 3, dtype=torch.float64),
    )  # 1, 1 and 2 columns: 3, 2·1, 2
    assert diagnostics.mass_before_decided(CREDIT, rollouts) == pytest.approx(7 / 9)


def test_mass_before_decided_needs_to_know_it():
    with pytest.raises(ValueError, match=r"rollouts\.decided is None; expected \(B, K\)"):
        diagnostics.mass_before_decided(CREDIT, window())


def test_norm_ratio_by_hand():
    rollouts = window()
    even = compute_credit("even/seq", rollouts)  # 2/4; -1/4 twice, used twice; 0
    # Σ C² = 9 + 2·2 + 4 = 17; Σ even² = 1/4 + 2·2/16 = 1/2
    assert diagnostics.norm_ratio(CREDIT, rollouts, even) == pytest.approx(math.sqrt(34))
    assert diagnostics.norm_ratio(even, rollouts, even) == 1
    assert diagnostics.norm_ratio(CREDIT, rollouts, 0 * even) == 0


def test_norm_ratio_is_that_of_gradients_with_orthogonal_scores():
    # a policy with logits of its own at each place has orthogonal score vectors; with the token's
    # index and the logits the same everywhere they are equally long
    rollouts = window(count=(1, 1, 1))
    logits = torch.zeros(3, 4, 5, dtype=torch.float64, requires_grad=True)
    logps = logits.log_softmax(dim=2)[:, :, 0]

    def gradient_norm(credit):
        return torch.autograd.grad((credit * logps).sum(), logits, retain_graph=True)[0].norm()

    even = compute_credit("even/length", rollouts)
    expected = gradient_norm(CREDIT) / gradient_norm(even)
    assert diagnostics.norm_ratio(CREDIT, rollouts, even) == pytest.approx(float(expected))


ALWAYS = {
    "mass", "mass_positive", "mass_negative", "effective_tokens", "gini", "zero_share",
    "sign_flip_rate",
    *(f"position_{k}" for k in range(1, 11)), *(f"length_{k}" for k in range(1, 5)),
}  # fmt: skip


def test_what_is_logged():
    rollouts = window()
    assert set(diagnostics.summary(CREDIT, rollouts)) == ALWAYS
    decided = window(decided=torch.tensor([[0], [1], [2]]))
    per_row = rollouts.advantages[:, None] / 4  # `even/seq` as one number per row
    found = diagnostics.summary(CREDIT, decided, per_row)
    assert set(found) == {*ALWAYS, "before_decided", "norm_ratio"}
    assert found["norm_ratio"] == pytest.approx(math.sqrt(34))
    assert (found["position_6"], found["length_2"]) == pytest.approx((2 / 9, 4 / 9))


@pytest.mark.parametrize(
    "rollouts",
    [window(), window(count=(0, 0, 0)), window((0, 0, 0)), window(mask=torch.zeros(3, 4).bool())],
)
def test_without_credit_every_number_is_finite(rollouts):
    none = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    decided = replace(rollouts, decided=torch.zeros(3, 1).long())
    found = diagnostics.summary(none, decided, none)
    assert all(math.isfinite(value) for value in found.values())
    spread = {name: found[name] for name in found if name.startswith(("position", "length"))}
    assert set(spread.values()) == {0.0}
    assert (found["gini"], found["norm_ratio"], found["before_decided"]) == (0, 0, 0)


def repeated(rollouts, credit):
    """Write a window that uses rows several times as one that uses each row once."""
    every = torch.arange(len(rollouts.group)).repeat_interleave(rollouts.window_count)
    once = replace(rollouts.rows(every), window_count=torch.ones_like(every))
    return once, credit[every]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_row_counts_as_often_as_it_is_used(data):
    lengths = data.draw(st.lists(st.integers(0, 15), min_size=3, max_size=3))
    count = data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any))
    rollouts = window(lengths, count, decided=torch.tensor([[n // 2] for n in lengths]))
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    credit = torch.randn(rollouts.mask.shape, generator=seed).double() * rollouts.mask
    even = compute_credit("even/dapo", rollouts)
    once, credit_once = repeated(rollouts, credit)
    _, even_once = repeated(rollouts, even)
    found = diagnostics.summary(credit, rollouts, even)
    expected = diagnostics.summary(credit_once, once, even_once)
    assert found == pytest.approx(expected)
    if credit_once.any():
        slow = slow_gini(credit_once[once.mask].abs().tolist())
        assert found["gini"] == pytest.approx(slow)
        assert sum(found[f"position_{k}"] for k in range(1, 11)) == pytest.approx(1)
        assert sum(found[f"length_{k}"] for k in range(1, 5)) == pytest.approx(1)


def slow_gini(sizes):
    """Write the mean absolute difference out."""
    pairs = sum(abs(a - b) for a in sizes for b in sizes)
    return pairs / (2 * len(sizes) * sum(sizes))


def test_a_float32_window_is_measured_well():
    # half of a million tokens at 1e-9, half at 3e-9: G = 1/4
    size = torch.tensor([1e-9, 3e-9]).repeat(500, 1000)
    rollouts = Rollouts.from_lists(
        [2000] * 500, [1.0, 0.0] * 250, num_generations=2, max_completion_length=2000
    )
    assert diagnostics.gini(size, rollouts) == pytest.approx(0.25, rel=1e-4)
    assert sum(diagnostics.mass_by_position(size, rollouts)) == pytest.approx(1, rel=1e-4)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_dead_groups_are_those_of_a_loop_over_groups(data):
    of = lambda values, shape: st.lists(st.sampled_from(values), min_size=shape, max_size=shape)  # noqa: E731
    group = torch.tensor(data.draw(of([7, 2, 9], 8)))  # in any order, of any size
    rewards = torch.tensor(
        data.draw(st.lists(of([0.0, 0.5, 1.0, math.nan], 2), min_size=8, max_size=8))
    )
    total = rewards.nansum(dim=1).masked_fill(rewards.isnan().all(dim=1), math.nan)
    rollouts = replace(
        Rollouts.from_lists([1] * 8, [0.0] * 8, num_generations=8, max_completion_length=1),
        group=group, rewards_per_func=rewards, reward_names=("a", "b"), reward_weights=(1.0, 1.0),
        rewards=total, advantages=torch.tensor(data.draw(of([0.0, 1e-7, 0.5, -0.5], 8))),
        window_count=torch.tensor(data.draw(of([0, 1, 2], 8))),
    )  # fmt: skip
    assert diagnostics.dead_groups(rollouts, 0.75) == pytest.approx(slow_dead(rollouts, 0.75))


def slow_dead(rollouts, midpoint):
    """Look at one group after the other, and at one number after the other."""
    rows = list(range(8))
    groups = {int(rollouts.group[r]) for r in rows if rollouts.window_count[r] > 0}
    low = high = 0
    for group in groups:
        members = [r for r in rows if rollouts.group[r] == group]
        columns = [[float(rollouts.rewards_per_func[r, k]) for r in members] for k in range(2)]
        same = all(len({x for x in column if not math.isnan(x)}) <= 1 for column in columns)
        if same or all(abs(float(rollouts.advantages[r])) <= 1e-6 for r in members):
            totals = [float(rollouts.rewards[r]) for r in members]
            is_high = any(x > midpoint for x in totals)
            low, high = low + (not is_high), high + is_high
    count = max(1, len(groups))
    shares = {"_low": low / count, "_high": high / count, "": (low + high) / count}
    return {f"dead_groups{name}": share for name, share in shares.items()}


def test_numbers_about_credit_by_hand():
    credit = double([2, 0, 0, 0, 0], [-1, 0, 1, 0, 0], [0, 0, 0, 0, -3])
    rollouts = window((1, 3, 5))
    assert diagnostics.mass(credit, rollouts) == {
        "mass": -1.0, "mass_positive": 4.0, "mass_negative": -5.0,
    }  # fmt: skip
    # |C|: 2 + 2·(1 + 1) + 3 = 9; C²: 4 + 2·2 + 9 = 17
    assert diagnostics.effective_tokens(credit, rollouts) == pytest.approx(81 / 17)
    # zeros: none, 2 · one, four; tokens: 1 + 2·3 + 5
    assert diagnostics.zero_share(credit, rollouts) == pytest.approx(6 / 12)
    assert diagnostics.effective_tokens(0 * credit, rollouts) == 0


def test_effective_tokens_of_even_credit_is_the_number_of_tokens():
    rollouts = window((1, 3, 5), (1, 1, 1), advantages=double(1.0, -1.0, 1.0))
    assert diagnostics.effective_tokens(compute_credit("seq", rollouts), rollouts) == pytest.approx(
        9
    )


def test_dead_groups_are_split_into_low_and_high():
    rewards = [0.0, 0.0, 1.0, 1.0, 0.0, 1.0, None, None, 0.1 + 0.2, 0.3]
    rollouts = Rollouts.from_lists([1] * 10, rewards, num_generations=2, max_completion_length=1)
    found = diagnostics.dead_groups(rollouts, midpoint=0.5)
    assert found == pytest.approx(
        {"dead_groups": 4 / 5, "dead_groups_low": 3 / 5, "dead_groups_high": 1 / 5}
    )


def test_a_group_is_alive_as_long_as_it_has_an_advantage():
    big = Rollouts.from_lists([1, 1], [1e6, 1e6 + 0.5], num_generations=2, max_completion_length=1)
    assert diagnostics.dead_groups(big, 0.0)["dead_groups"] == 0
    routed = replace(  # as with normalize_then_sum: the sum is constant, the advantages are not
        Rollouts.from_lists(
            [1, 1], [1.0, 1.0], num_generations=2, max_completion_length=1, advantages=[1, -1]
        ),
        rewards_per_func=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        reward_names=("a", "b"),
        reward_weights=(0.5, 2.0),
    )
    assert diagnostics.dead_groups(routed, 0.0)["dead_groups"] == 0


def test_reward_range_remembers():
    seen = {}
    assert diagnostics.midpoint(torch.tensor([math.nan]), seen) == 0.0
    assert diagnostics.midpoint(torch.tensor([1.0, 1.0]), seen) == 0.0  # all equal: above 0 is high
    assert diagnostics.midpoint(torch.tensor([math.nan, 4.0]), seen) == 2.5
    assert diagnostics.midpoint(torch.tensor([2.0]), json.loads(json.dumps(seen))) == 2.5
