"""Key-token advantages: the statistics against brute force, the rule against a slow loop."""

import itertools
import math
import random

import pytest
import torch
from drawn import close, double, one_group, random_rollouts, scored

from grpo_credit.credit.allocations.ktae import fisher_exact, information_gain, ktae

# every table of up to 7 right and 7 wrong completions: with the type, right and wrong; all
TABLES = [
    (a, b, right, wrong)
    for right, wrong in itertools.product(range(1, 8), repeat=2)
    for a in range(right + 1)
    for b in range(wrong + 1)
]


def rollouts_of(completions, rewards, **changes):
    """Give one group whose completions are all cut off, so that every token may be a key."""
    return one_group(
        completions, rewards, **{"truncated": torch.ones(len(rewards)).bool()} | changes
    )


# ---- slow -------------------------------------------------------------------------------------


def slow_fisher(a, b, right, wrong):
    ways = {k: math.comb(right, k) * math.comb(wrong, a + b - k) for k in range(a + b + 1)}
    return sum(w for w in ways.values() if w <= ways[a]) / math.comb(right + wrong, a + b)


def bits(*counts):
    total = sum(counts)
    return -sum(n / total * math.log2(n / total) for n in counts if n)


def slow_gain(a, b, right, wrong):
    present, absent = (a, b), (right - a, wrong - b)
    left = sum(sum(part) * bits(*part) for part in (present, absent))
    return bits(right, wrong) - left / (right + wrong)


def slow_key(token, right, wrong):
    """Give the key-token value of a type in lists of counted tokens, right and wrong."""
    a, b = (sum(token in tokens for tokens in side) for side in (right, wrong))
    p = slow_fisher(a, b, len(right), len(wrong))
    strength = ((math.exp(-2 * p) if p < 1 else 0) + slow_gain(a, b, len(right), len(wrong))) / 2
    angle = math.asin(math.sqrt(a / len(right))) - math.asin(math.sqrt(b / len(wrong)))
    tokens = [[*itertools.chain(*side)] for side in (right, wrong)]
    mean = (len(tokens[0]) + len(tokens[1])) / 2
    f = []
    for side in tokens:
        q = side.count(token) / len(side)
        f.append(q * (2 + 1) / (q + 2 * (1 - 0.5 + 0.5 * len(side) / mean)))
    x = angle + f[0] / (f[1] + 1e-5) - f[1] / (f[0] + 1e-5)
    return 2 * (1 / (1 + math.exp(-max(strength * x, -700))) - 0.5)


def slow_ktae(rollouts):
    reward, ids = rollouts.rewards.tolist(), rollouts.completion_ids.tolist()
    counted = [[t for t, m in enumerate(row) if m] for row in rollouts.mask.tolist()]
    result = torch.zeros_like(rollouts.mask, dtype=torch.float64)
    for i, places in enumerate(counted):
        group = [j for j in scored(rollouts) if rollouts.group[j] == rollouts.group[i]]
        mean = math.fsum(reward[j] for j in group) / len(group) if group else 0.0
        with_tokens = [j for j in group if counted[j]]
        right = [[ids[j][t] for t in counted[j]] for j in with_tokens if reward[j] > mean]
        wrong = [[ids[j][t] for t in counted[j]] for j in with_tokens if not reward[j] > mean]
        for t in places:
            key = 0.0
            ended = t == places[-1] and not rollouts.truncated[i]
            if reward[i] == reward[i] and right and wrong and not ended:
                key = slow_key(ids[i][t], right, wrong)
            result[i, t] = rollouts.advantages[i].item() + key
    return result


# ---- the statistics ---------------------------------------------------------------------------


def test_fishers_exact_test_equals_its_sum_over_tables():
    tables = torch.tensor(TABLES)
    expected = double(*(slow_fisher(*table) for table in TABLES))
    found = fisher_exact(tables[:, :2], tables[:, 2:])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_fishers_exact_test_equals_scipys():
    scipy = pytest.importorskip("scipy.stats")
    rng = random.Random(0)
    tables = [*rng.sample(TABLES, 200), (3, 30, 40, 50), (64, 0, 64, 64), (0, 1, 1, 500)]
    expected = [
        scipy.fisher_exact([[a, b], [right - a, wrong - b]]).pvalue for a, b, right, wrong in tables
    ]
    tables = torch.tensor(tables)
    found = fisher_exact(tables[:, :2], tables[:, 2:])
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=1e-300)


def test_the_information_gain_equals_its_definition():
    tables = torch.tensor(TABLES)
    expected = double(*(slow_gain(*table) for table in TABLES))
    found = information_gain(tables[:, :2], tables[:, 2:])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    assert (found >= 0).all()


def test_a_type_that_tells_the_classes_apart_gains_a_bit():
    present, members = torch.tensor([[4, 0]]), torch.tensor([[4, 4]])
    assert information_gain(present, members).item() == 1
    assert fisher_exact(present, members).item() == pytest.approx(2 / 70)  # 2 of C(8, 4) tables


# ---- the rule ---------------------------------------------------------------------------------


def test_the_key_by_hand():
    # 5 is in 2 of 2 right and 1 of 2 wrong completions: p = 1, which counts as no evidence;
    # IG = 1 - 3/4 · H(2/3); angle = π/2 - π/4; of 4 tokens each 2 and 1: q = 1/2 and 1/4,
    # f = 3q / (q + 2) = 3/5 and 1/3
    rollouts = rollouts_of([[5, 6], [5, 7], [8, 7], [5, 6]], [1.0, 1.0, 0.0, 0.0])
    gain = 1 - 0.75 * (-(2 / 3) * math.log2(2 / 3) - (1 / 3) * math.log2(1 / 3))
    ratios = 0.6 / (1 / 3 + 1e-5) - (1 / 3) / (0.6 + 1e-5)
    key = math.tanh(gain / 2 * (math.pi / 4 + ratios) / 2)
    added = ktae(rollouts) - rollouts.advantages[:, None]
    close(added[[0, 1, 3]], [[key, 0]] * 3)
    close(added[2], [-1, 0])


@pytest.mark.parametrize("seed", range(25))
def test_ktae_equals_its_loop(seed):
    rollouts = random_rollouts(seed, largest=8, tokens=6)
    found = ktae(rollouts) * rollouts.mask
    torch.testing.assert_close(found, slow_ktae(rollouts), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rewards", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [0.1 + 0.2, 0.3, 0.3]])
def test_a_group_without_both_classes_keeps_its_advantages(rewards):
    rollouts = rollouts_of([[5], [6], [7]], rewards, advantages=torch.tensor([1.0, 2, 3]).double())
    assert ktae(rollouts)[:, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_reward_at_the_mean_is_wrong_in_any_order():
    rewards = [0.1, 0.2, 0.3]  # whose mean is 0.2 or next to it, depending on the order
    for order in itertools.permutations(range(3)):
        rollouts = rollouts_of([[5 + i] for i in order], [rewards[i] for i in order])
        added = ktae(rollouts) - rollouts.advantages[:, None]
        assert (added.sign()[:, 0].int().tolist()) == [1 if i == 2 else -1 for i in order]


def test_the_end_of_a_completion_is_added_nothing_unless_it_was_cut_off():
    rollouts = rollouts_of(
        [[5, 5], [5, 5], [6], [6]],
        [1.0, 1.0, 0.0, 0.0],
        truncated=torch.tensor([True, False, True, False]),
    )
    added = (ktae(rollouts) - rollouts.advantages[:, None]) * rollouts.mask
    assert (added[0] > 0.9).all()
    assert added[1, 0] == added[0, 0]
    assert added[1, 1] == 0
    assert (added[2, 0] < -0.9, added[3, 0]) == (True, 0)


def test_a_completion_without_a_score_gets_nothing_and_is_in_no_table():
    scored = rollouts_of([[5, 6], [6, 7], [7, 5]], [1.0, 0.0, 0.0])
    more = rollouts_of([[5, 6], [6, 7], [7, 5], [6, 6]], [1.0, 0.0, 0.0, None])
    assert torch.equal(ktae(more)[:3], ktae(scored))
    assert ktae(more)[3].tolist() == [0, 0]
