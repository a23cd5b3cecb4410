"""Weights inside a completion: by hand, by slow loops, identities."""

import math
import random
import re
import statistics
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from drawn import NAN, characters, close, double, one_group, random_rollouts, scored

from grpo_credit import CreditError, Rollouts, compute_credit, resolve_credit

SEEDS = [0, 1, 3, *range(5, 14)]  # 2 and 4 draw no group with a right and a wrong completion
RULES = [
    ("conflict", {}),
    ("conflict", {"weight": 3.0}),
    ("decided", {}),
    ("empg", {}),
    ("empg", {"k": -0.5, "k_next": 2.0, "zeta": 1.0}),
    ("entropy_top", {}),
    ("entropy_top", {"share": 0.5}),
    ("entropy_soft", {}),
    ("entropy_soft", {"beta": 3.0}),
    ("gtpo", {}),
    ("gtpo", {"alpha1": 0.2, "alpha2": 3.0}),
    ("trace", {}),
    ("trace", {"decay": 0.5, "floor": 0.2}),
    ("trace", {"decay": 0.5, "style": "both"}),
    ("trace", {"decay": 0.7, "style": "both", "floor": 0.4}),
    ("trace", {"decay": 1.0}),
    ("patterns", {}),
    ("patterns", {"patterns": [r"b+", r"[ab]\s", r"$"], "alpha": 0.5}),
]


def weighed(lengths, advantages, **changes):
    rewards = [float(a > 0) for a in advantages]
    return one_group(lengths, rewards, advantages=double(*advantages), **changes)


def landed(rule, rollouts, **options):
    return resolve_credit(rule, **options).allocation(rollouts)


# ---- slow loops ---------------------------------------------------------------------------------


def counted(rollouts, i):
    return rollouts.mask[i].nonzero().flatten().tolist()


def slow_decided(r, i, t):
    judges = [
        k
        for k in range(3)
        if r.reward_weights[k] and r.rewards_per_func[i, k] == r.rewards_per_func[i, k]
    ]
    return float(r.advantages[i]) * any(t < r.decided[i, k] for k in judges)


def slow_entropy_top(r, i, t, share=0.2):
    everyone = r.entropies[r.mask].tolist()
    more = sum(h > float(r.entropies[i, t]) for h in everyone)
    return float(r.advantages[i]) * (Fraction(more, len(everyone)) < Fraction(str(share)))


def slow_entropy_soft(r, i, t, beta=0.1):
    entropies = {s: float(r.entropies[i, s]) for s in counted(r, i)}
    mean = statistics.fmean(entropies.values())
    weights = {
        s: max(0.0, 1 + beta * (h / mean - 1)) if mean else 1.0 for s, h in entropies.items()
    }
    return float(r.advantages[i]) * weights[t] * len(weights) / sum(weights.values())


def eligible(s, t, decay, style, floor):
    """Say how eligible the token at t still is at s, not before it."""
    return max(decay ** (s - t), decay**t if style == "both" else 0.0, floor)


def slow_trace(r, i, t, decay=0.99, style="recent", floor=0.0):
    tokens = counted(r, i)
    n = len(tokens)
    weights = [
        sum(eligible(s, place, decay, style, floor) for s in range(place, n)) for place in range(n)
    ]
    return float(r.advantages[i]) * weights[tokens.index(t)] * n / sum(weights)


def slow_gtpo(r, i, t, alpha1=1.0, alpha2=0.1):
    members = [j for j in scored(r) if r.group[j] == r.group[i]]
    if i not in members:
        return 0.0
    mean = sum(float(r.rewards[j]) for j in members) / len(members)
    right = [j for j in members if r.rewards[j] > mean + 1e-9]
    wrong = [j for j in members if j not in right]

    def certain(j, position):
        return max(float(r.entropies[j, counted(r, j)[position]]), 1e-3)

    shaped = {}
    for side, sign in ((right, 1), (wrong, -1)):
        for j in side:
            for position, s in enumerate(counted(r, j)):
                active = [k for k in side if len(counted(r, k)) > position]
                x = {k: certain(k, position) ** sign for k in active}
                share = len(active) * x[j] / sum(x.values())
                shaped[j, s] = sign * (alpha1 + alpha2 * share)
    if len({value > 0 for value in shaped.values()}) < 2:
        return 0.0
    std = {"group": statistics.stdev(shaped.values()) + 1e-4, "none": 1.0}[r.scale_rewards]
    return (shaped[i, t] - statistics.fmean(shaped.values())) / std


def slow_patterns(r, i, t, patterns=(r"\bwait\b",), alpha=0.2):
    matches = [m.span() for p in patterns for m in re.finditer(p, r.texts[i], re.IGNORECASE)]
    characters = {c for start, end in matches for c in range(start, end)}
    a = float(r.advantages[i])
    return a + alpha * abs(a) * bool(characters & set(range(*r.offsets[i, t].tolist())))


def shared_from(r, i, tokens, side):
    """Count the tokens, in the order given, that stand at the same place in one of the side."""
    for place, (token, others) in enumerate(zip(tokens, side, strict=True)):
        if token not in others:
            return place
    return len(tokens)


def slow_conflict(r, i, t, weight=2.0):
    a = float(r.advantages[i])
    ids = {j: r.completion_ids[j][r.mask[j]].tolist() for j in range(len(r.group))}
    group = [j for j in ids if r.group[j] == r.group[i]]
    runs = 0
    place = counted(r, i).index(t)
    for turned in (1, -1):
        own = ids[i][::turned]

        def run(sign, own=own, turned=turned):
            side = [ids[j][::turned] for j in group if sign * float(r.advantages[j]) > 0]
            return shared_from(
                r, i, own, [{s[p] for s in side if p < len(s)} for p in range(len(own))]
            )

        at = place if turned == 1 else len(own) - 1 - place
        runs += at < min(run(1), run(-1))
    return a * (weight**runs if a > 0 else not runs)


def slow_empg(r, i, t, k=1.0, k_next=1.0, zeta=0.1):
    turns = {}
    for j in scored(r):
        number, before = 0, False
        for s in range(r.mask.shape[1]):
            now = bool(r.mask[j, s])
            number += now and not before
            before = now
            if now:
                turns.setdefault((j, number), []).append(s)
    if i not in scored(r):
        return 0.0
    mean = {turn: statistics.fmean(r.entropies[turn[0], s].item() for s in tokens)
            for turn, tokens in turns.items()}  # fmt: skip
    low, high = min(mean.values()), max(mean.values())
    relative = {turn: (h - low) / (high - low) if high > low else 0.0 for turn, h in mean.items()}
    average = statistics.fmean(math.exp(-k * h) for h in relative.values())
    credit = {}
    for (j, m), h in relative.items():
        bonus = math.exp(-k_next * relative[j, m + 1]) if (j, m + 1) in relative else 0.0
        credit[j, m] = float(r.advantages[j]) * math.exp(-k * h) / average + zeta * bonus
    own = next(turn for turn, tokens in turns.items() if turn[0] == i and t in tokens)
    return credit[own] - statistics.fmean(credit.values())


SLOW = {
    "conflict": slow_conflict,
    "empg": slow_empg,
    "decided": slow_decided,
    "entropy_top": slow_entropy_top,
    "entropy_soft": slow_entropy_soft,
    "gtpo": slow_gtpo,
    "trace": slow_trace,
    "patterns": slow_patterns,
}


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_allocation_equals_its_loop(rule, options, seed):
    rollouts = random_rollouts(seed, "none" if seed % 2 else "group")
    expected = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    for i, t in rollouts.mask.nonzero().tolist():
        expected[i, t] = SLOW[rule](rollouts, i, t, **options)
    assert expected.any()
    close(landed(rule, rollouts, **options), expected)


# ---- identities ---------------------------------------------------------------------------------

EVEN = [
    ("trace", {"decay": 0.0}),
    ("entropy_soft", {"beta": 0.0}),
    ("entropy_top", {"share": 1.0}),
    ("patterns", {"alpha": 0.0}),
    ("patterns", {"patterns": []}),
    ("patterns", {"patterns": ["no such text", "(?=b)"]}),
]


@pytest.mark.parametrize(("rule", "options"), EVEN)
def test_some_options_make_it_even(rule, options):
    for seed in range(4):
        rollouts = random_rollouts(seed)
        assert torch.equal(landed(rule, rollouts, **options), landed("even", rollouts))


@pytest.mark.parametrize("seed", range(4))
def test_decided_at_the_end_is_even(seed):
    rollouts = random_rollouts(seed)
    rollouts = replace(rollouts, decided=torch.full_like(rollouts.decided, rollouts.mask.shape[1]))
    assert torch.equal(landed("decided", rollouts), landed("even", rollouts))


@pytest.mark.parametrize("rule", ["entropy_top", "entropy_soft"])
@pytest.mark.parametrize("level", [0.0, 0.7])
def test_equal_entropies_make_it_even(rule, level):
    rollouts = random_rollouts(0)
    rollouts = replace(rollouts, entropies=torch.full_like(rollouts.entropies, level))
    close(landed(rule, rollouts), landed("even", rollouts))


# ---- decided ------------------------------------------------------------------------------------


def test_a_token_is_dropped_once_all_functions_that_scored_have_decided():
    rollouts = replace(
        weighed([4, 4, 4, 4], [1.0, 1.0, -1.0, -1.0]),
        rewards_per_func=torch.tensor([[1.0, 1.0], [1.0, NAN], [NAN, 0.0], [NAN, NAN]]).double(),
        reward_names=("a", "b"),
        reward_weights=(1.0, 1.0),
        decided=torch.tensor([[1, 3], [1, 3], [1, 3], [1, 3]]),
    )
    expected = [[1, 1, 1, 0], [1, 0, 0, 0], [-1, -1, -1, 0], [0, 0, 0, 0]]
    close(landed("decided", rollouts), expected)
    close(landed("decided", replace(rollouts, reward_weights=(1.0, 0.0)))[0], [1, 0, 0, 0])


# ---- entropies ----------------------------------------------------------------------------------


def entropies_of(*rows):
    advantages = [1.0] * len(rows)
    made = weighed([len(row) for row in rows], advantages)
    wide = [[*row, *[NAN] * (made.mask.shape[1] - len(row))] for row in rows]
    return replace(made, entropies=torch.tensor(wide, dtype=torch.float64))


@pytest.mark.parametrize("share", [0.07, 0.29, 0.58])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_entropy_top_takes_the_share_asked_for_however_often_the_rows_are_there(share, copies):
    one = random.Random(0)
    rows = [[one.random() for _ in range(5)] for _ in range(20)] * copies
    kept = landed("entropy_top", entropies_of(*rows), share=share)
    assert float(kept[:20].sum()) == round(100 * share)  # the advantages are 1


def test_rounding_below_zero_is_no_entropy():
    close(landed("entropy_soft", entropies_of([-1e-7, 1.1e-7]), beta=0.1), [[0.9, 1.1]])


def test_entropy_soft_survives_tiny_entropies():
    found = landed("entropy_soft", entropies_of([1e-300, 3e-300]), beta=1.0)
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.5]]).double())


# ---- empg ---------------------------------------------------------------------------------------


def test_empg_by_hand():
    rollouts = replace(
        entropies_of([0.25, NAN, 1.0, 2.0], [0.5, 1.0]), advantages=double(1.0, -1.0),
        mask=torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]]).bool(),
    )  # fmt: skip
    # turns of mean entropy 1/4, 3/2 and 3/4: relative 0, 1, 2/5; the first has a next
    third = math.exp(-0.4)
    average = (1 + math.exp(-1) + third) / 3
    raw = [1 / average + 0.1 * math.exp(-1), math.exp(-1) / average, -third / average]
    first, second, other = (value - sum(raw) / 3 for value in raw)
    found = landed("empg", rollouts)
    close(found, [[first, 0, second, second], [other, other, 0, 0]])
    close(landed("empg", rollouts, k=0.0, zeta=0.0)[:, 0], [2 / 3, -4 / 3])  # A_i less 1/3


# ---- conflict -----------------------------------------------------------------------------------


def test_conflict_by_hand():
    tokens = [[1, 2, 3, 9, 8], [1, 4, 3, 9, 8], [1, 2, 5, 8]]
    rollouts = one_group(tokens, [1.0, 1.0, 0.0], advantages=double(1.0, 2.0, -3.0))
    # the bad one shares 1 2 with the first, 1 with the second, and the last token with both
    expected = [[2, 2, 1, 1, 2], [4, 2, 2, 2, 4], [0, 0, -3, 0, 0]]
    close(landed("conflict", rollouts), expected)
    tool = rollouts.mask & (rollouts.completion_ids != 2)  # as if 2 were a tool's output
    found = landed("conflict", replace(rollouts, mask=tool))
    close(found, [[2, 0, 1, 1, 2], [4, 2, 2, 2, 4], [0, 0, -3, 0, 0]])


def test_what_only_one_side_writes_is_in_no_conflict():
    rollouts = one_group([[1, 2], [1, 2], [3, 4]], [1.0, 1.0, 0.0], advantages=double(1, 1, -2))
    assert torch.equal(landed("conflict", rollouts), landed("even", rollouts))


# ---- gtpo ---------------------------------------------------------------------------------------


def torn(entropies, rewards, scale_rewards="none"):
    made = entropies_of(*entropies)
    scores = torch.tensor(rewards, dtype=torch.float64)
    return replace(
        made, rewards=scores, rewards_per_func=scores[:, None], scale_rewards=scale_rewards
    )


@pytest.mark.parametrize(
    "rewards",
    [[1.0, 1.0, 1.0], [0.1, 0.1, 0.1], [NAN, NAN, 1.0], [NAN, 0.0, 0.0]],
)
def test_gtpo_gives_nothing_where_nobody_differs(rewards):
    rollouts = torn([[0.5, 0.1], [1.0, 2.0], [0.3, 0.2]], rewards, "group")
    assert not landed("gtpo", rollouts).any()


def test_gtpo_gives_nothing_where_one_side_has_no_token():
    rollouts = torn([[0.5, 0.1], [], [0.3, 0.2]], [0.0, 1.0, 0.0], "group")
    assert not landed("gtpo", rollouts).any()


@pytest.mark.parametrize("rewards", [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
def test_gtpo_calls_a_reward_at_the_mean_wrong_in_any_order(rewards):
    """In floating point 0.2 · 3 is above 0.3 + 0.2 + 0.1, and is not above 0.1 + 0.2 + 0.3."""
    credit = landed("gtpo", torn([[1.0], [1.0], [1.0]], rewards))
    # r = 1.1 for the best, -1.1 for the others, mean -1.1 / 3
    close(credit.flatten(), [4.4 / 3 if r == 0.3 else -2.2 / 3 for r in rewards])


@pytest.mark.parametrize(("tokens", "flips"), [(20, False), (22, True)])
def test_gtpo_flips_a_sign_only_beyond_its_bound(tokens, flips):
    """Right ones have 20/21 = 0.9524 or 22/23 = 0.9565 of the tokens; the bound is 0.9545."""
    sure = [[1e-3] * tokens, [9.0] * tokens, [1.0] * 2]
    lengths = [sure[0][: tokens // 2], sure[1][: tokens // 2], [1.0]]
    credit = landed("gtpo", torn(lengths, [1.0, 1.0, 0.0]))
    assert bool((credit[0, : tokens // 2] < 0).any()) == flips
    assert float(credit[2, 0]) < 0


# ---- traces -------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["recent", "both"])
def test_a_trace_of_a_long_completion_is_finite_in_float32(style):
    rollouts = Rollouts.from_lists(
        [20_000, 1], [1.0, 0.0], num_generations=2, max_completion_length=20_000
    )
    credit = landed("trace", rollouts, decay=0.5, style=style)
    assert credit.isfinite().all()
    assert float(credit[0].sum()) == pytest.approx(20_000 * float(rollouts.advantages[0]), rel=1e-5)


# ---- patterns -----------------------------------------------------------------------------------


def written(*completions, advantages=None):
    """Give completions as lists of the texts of their tokens."""
    made = weighed([len(c) for c in completions], advantages or [1.0] * len(completions))
    places = characters(completions, made.mask.shape[1])
    return replace(made, texts=tuple(map("".join, completions)), offsets=places)


def marks(rollouts, **options):
    """Tell which tokens get more than the advantage 1."""
    return (landed("patterns", rollouts, alpha=1.0, **options) == 2).int().tolist()


def test_a_token_is_marked_by_a_single_character():
    rollouts = written(["ab", "cd", "ef"], ["ab", "", "cd"], [])
    assert marks(rollouts, patterns=["bc"]) == [[1, 1, 0], [1, 0, 1], [0, 0, 0]]
    assert marks(rollouts, patterns=["d"]) == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert marks(rollouts, patterns=["A", "F"]) == [[1, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_a_match_does_not_run_into_the_next_completion():
    assert marks(written(["wa"], ["it"])) == [[0], [0]]
    assert marks(written(["wait"], ["it"])) == [[1], [0]]


@pytest.mark.parametrize("text", ["WAIT", "let me", "Alternatively,", "So that means", "let's"])
def test_planning_is_marked(text):
    assert marks(written([text, " 42"])) == [[1, 0]]


@pytest.mark.parametrize("text", ["waiter", "outlet mention", "x = 4", "", "actual"])
def test_other_words_are_not_marked(text):
    assert marks(written([text, "."])) == [[0, 0]]


@pytest.mark.parametrize(
    "text",
    [
        "\0wait\0",
        "\ud800 wait \udfff",
        "ẞ wait İ",
        "<b>wait</b>",
        "\x1b[31m wait",
        "wait " * 200_000,
    ],
)
def test_hostile_text_is_searched(text):
    assert marks(written([text])) == [[1]]


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("trace", {"decay": -0.1}, "decay is -0.1, expected 0 to 1"),
        ("trace", {"decay": 1.1}, "decay is 1.1, expected 0 to 1"),
        ("trace", {"decay": NAN}, "decay is nan, expected 0 to 1"),
        ("trace", {"floor": -0.5}, "floor is -0.5, expected 0 to 1"),
        ("trace", {"style": "middle"}, "option 'style' of 'trace' is 'middle'"),
        ("entropy_top", {"share": 0.0}, "share is 0, expected above 0, to 1"),
        ("entropy_top", {"share": 20.0}, "share is 20, expected above 0, to 1"),
        ("entropy_soft", {"beta": -1.0}, "beta is -1, expected a finite number, 0 or more"),
        ("entropy_soft", {"beta": math.inf}, "beta is inf, expected a finite number"),
        ("gtpo", {"alpha1": -1.0}, "alpha1 is -1, expected a finite number, 0 or more"),
        ("gtpo", {"alpha2": NAN}, "alpha2 is nan, expected a finite number, 0 or more"),
        ("conflict", {"weight": -1.0}, "weight is -1, expected a finite number, 0 or more"),
        ("empg", {"zeta": NAN}, "zeta is nan, expected a finite number"),
        ("empg", {"k": math.inf}, "k is inf, expected a finite number"),
        ("patterns", {"alpha": 1.5}, "alpha is 1.5, expected 0 to 1"),
        ("patterns", {"alpha": -0.1}, "alpha is -0.1, expected 0 to 1"),
        ("patterns", {"patterns": "wait"}, "option 'patterns' of 'patterns' is 'wait' .str."),
        ("patterns", {"patterns": ["a", "(b"]}, r"invalid pattern '\(b': missing \) at position 2"),
    ],
)
def test_options_out_of_range_are_refused(rule, options, message):
    with pytest.raises(CreditError, match=message):
        compute_credit(rule, random_rollouts(0), **options)


def test_a_pattern_that_takes_too_long_is_named():
    rollouts = written(["fine"], ["a" * 80 + "!"])
    message = r"pattern '\(a\|aa\)\+\$' took more than 1 s on completion 1 \(81 characters\)"
    with pytest.raises(CreditError, match=message):
        landed("patterns", rollouts, patterns=["(a|aa)+$"])
