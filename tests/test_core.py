"""Rollouts, the four strategies by slow loops, and the laws of every rule."""

import math
from dataclasses import replace

import pytest
import torch
from drawn import broken, close, random_rollouts
from harness import OPTIONS, shipped

from grpo_credit import CreditError, Rollouts, chain, compute_credit, resolve_credit
from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.conformance import examine, examples
from grpo_credit.credit.rollouts import OPTIONAL
from grpo_credit.credit.strategy import Rule


def unregistered(kind):
    """Decorate without a trace in the registry, so that lambdas may share a name."""

    def decorate(function=None, **about):
        if function is None:
            return lambda function: decorate(function, **about)
        about["needs"] = frozenset(about.get("needs", ()))
        function.__credit_rule__ = Rule(kind, function, function.__name__, **about)
        return function

    return decorate


aggregation, allocation = unregistered("aggregation"), unregistered("allocation")


def three(**options):
    """Lengths 1, 3, 5 in one group; advantages given, so that the numbers are easy."""
    settings = {"advantages": [2.0, -1.0, -1.0], "max_completion_length": 5, "num_generations": 3}
    return Rollouts.from_lists([1, 3, 5], [1.0, 0.0, 0.0], **settings | options)


def slow(credit, rollouts):
    """Write the four formulas as loops over a window, row by row."""
    lengths = [sum(row) for row in rollouts.mask.tolist()]
    count = rollouts.window_count.tolist()
    completions = max(1, sum(count))
    tokens = sum(c * n for c, n in zip(count, lengths, strict=True))
    weight = {
        "uniform": lambda n: 1 / (completions * rollouts.max_completion_length),
        "length": lambda n: 1 / (completions * max(n, 1)),
        "seq": lambda n: 1 / completions,
        "dapo": lambda n: 1 / max(tokens, 1),
    }[credit]
    return [
        [a * weight(n) if m else 0.0 for m in row]
        for a, n, row in zip(
            rollouts.advantages.tolist(), lengths, rollouts.mask.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("credit", ["uniform", "length", "seq", "dapo"])
def test_strategy_equals_its_loop(credit, seed):
    rollouts = random_rollouts(seed)
    close(compute_credit(credit, rollouts), slow(credit, rollouts))


BY_DEFAULT = [(rule.name, OPTIONS.get(rule.name, {})) for rule in shipped()]
ANOTHER_WAY = [  # through a rule, which these options make it take
    ("asymre", {"shift": 0.5}),
    ("automaton", {"mode": "td"}),
    ("automaton", {"mode": "td", "shrinkage": 0.0}),
    ("automaton", {"mode": "td", "clock": 2}),
    ("clip_cov", {"share": 0.2, "lower": -0.1, "upper": 0.3}),
    ("conflict", {"weight": 0.5}),
    ("contrast", {"clip": 0.0}),
    ("contrast", {"clip": 1.0, "mix": 1.0}),
    ("delta_l", {"alpha": 0.0}),
    ("delta_l", {"alpha": 0.75}),
    ("empg", {"k": -0.5, "k_next": 2.0, "zeta": 1.0}),
    ("entropy_soft", {"beta": 3.0}),
    ("entropy_top", {"share": 0.5}),
    ("gtpo", {"alpha1": 0.2, "alpha2": 3.0}),
    ("omega", {"target": "passk", "k": 2}),
    ("omega", {"target": "passk_scaled", "k": 2}),
    ("known", {"visits": 1}),
    ("lhts", {"tau": 2.0, "horizon": 2, "clamp": 0.5}),
    ("patterns", {"patterns": [r"b+", r"[ab]\s", r"$"], "alpha": 0.5}),
    ("potential", OPTIONS["potential"] | {"immediate": True, "gamma": 0.5}),
    ("prob_mask", {"below": 0.4}),
    ("prob_weight", {"alpha": 1.0}),
    ("softmax_length", {"lam": -5.0}),
    ("softmax_length", {"lam": 7.0}),
    ("spurious", {"below": 0.8, "share": 0.6}),
    ("steps", {"temperature": 0.0}),
    ("steps", {"temperature": 0.1}),
    ("temper", {"tau": 3.0}),
    ("trace", {"decay": 0.5, "floor": 0.2}),
    ("trace", {"decay": 0.5, "style": "both"}),
    ("trace", {"decay": 0.7, "style": "both", "floor": 0.4}),
    ("trace", {"decay": 1.0}),
    ("tree_td", {"leave_one_out": True}),
    ("turn_deltas", {"gamma": 0.0, "coef": 2.0}),
    ("vine", {"mode": "baseline"}),
    ("turns", {"coef": 0.7}),  # at 1 the two parts may cancel in a group of two
    ("turns", {"coef": -2.0}),
    ("wreinforce", {"positive": 0.0, "above": 0.0}),
]


@pytest.mark.parametrize(
    ("rule", "options"),
    BY_DEFAULT + [pytest.param(*pair, marks=pytest.mark.slow) for pair in ANOTHER_WAY],
)
def test_every_registered_rule_obeys_the_laws(quick_laws, rule, options):
    assert broken(rule, **options) == {}


PROMISES = {
    "linear": "decided entropy_soft entropy_top even known lhts prefix_tree prob_mask prob_weight "
    "roles "
    "trace",
    "conserves_mass": "entropy_soft even trace",
    "keeps_sign": "clip_cov conflict contrast decided entropy_soft entropy_top even known lhts "
    "patterns prefix_tree prob_mask prob_weight spurious trace",
    "sign_free": "dapo delta_l length prompt seq softmax_length uniform",
}


@pytest.mark.parametrize("promise", PROMISES)
def test_who_promises_what(promise):
    kind = "aggregation" if promise == "sign_free" else "allocation"
    able = [rule.name for rule in shipped() if rule.kind == kind and getattr(rule, promise)]
    assert " ".join(sorted(able)) == PROMISES[promise]


NEEDED = [(rule.name, need) for rule in shipped() for need in sorted(rule.needs)]


@pytest.mark.parametrize(("rule", "need"), NEEDED)
def test_what_a_rule_needs_and_lacks_is_named(rule, need):
    rollouts = replace(next(examples()), **dict.fromkeys(OPTIONAL[need]))
    with pytest.raises(CreditError, match=rf"'{rule}/seq' needs rollouts\.{need}, which is None"):
        compute_credit(f"{rule}/seq", rollouts, **OPTIONS.get(rule, {}))


def counted(value):
    """Make an allocation that gives each row's number to its counted tokens."""
    return allocation(lambda r: value(r)[:, None] * r.mask)


BROKEN = {  # the law that a rule breaks
    "micro_batch_mean": (
        "other_windows_change_nothing", aggregation(lambda r: 1 / r.mask.sum().clamp(min=1))
    ),
    "padded_width": ("padding_changes_nothing", aggregation(lambda r: 1 / r.mask.shape[1])),
    "by_row_number": (
        "rows_may_be_permuted", counted(lambda r: r.advantages * torch.arange(len(r.group)))
    ),
    "by_group_number": ("groups_may_be_relabelled", counted(lambda r: r.advantages * r.group)),
    "by_generation_number": (
        "groups_may_be_relabelled", counted(lambda r: r.advantages * r.generation)
    ),
    "positive_only": ("allocation_is_linear", counted(lambda r: r.advantages.clamp(min=0))),
    "sign_only": (
        "allocation_is_linear", counted(lambda r: r.advantages.sign() * r.advantages.abs().max())
    ),
    "raises": ("zero_outside_the_mask", allocation(lambda r: [][0])),
    "spills": (
        "zero_outside_the_mask", allocation(lambda r: r.advantages[:, None].expand(r.mask.shape))
    ),
    "claims_mass": (
        "mass_is_conserved",
        allocation(conserves_mass=True)(lambda r: r.advantages[:, None] * 2 * r.mask),
    ),
    "claims_sign": (
        "sign_is_kept", allocation(keeps_sign=True)(lambda r: -r.advantages[:, None] * r.mask)
    ),
    "peeks": (
        "weights_are_nonnegative_and_blind_to_sign",
        aggregation(lambda r: (r.advantages > 0)[:, None] / r.num_tokens),
    ),
    "learns": (
        "no_gradient_flows", allocation(lambda r: torch.ones(r.mask.shape, requires_grad=True))
    ),
    "reads_padding": (
        "masked_values_mean_nothing",
        allocation(needs="entropies")(
            lambda r: r.advantages[:, None] * r.entropies.mean() * r.mask
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_caught_by_its_law(quick_laws, name):
    law, rule = BROKEN[name]
    found = next(f for f in examine(resolve_credit(rule)) if f.law == law)
    assert found.verdict == "fails"


# ---- rollouts ---------------------------------------------------------------------------------


def test_advantages_are_trls():
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.5, 0.5, math.nan, math.nan])
    group = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    # group 0: mean 1/3, unbiased std sqrt(1/3); group 1: mean 2/3, std sqrt(1/12)
    a, b = 3**-0.5 + 1e-4, 12**-0.5 + 1e-4
    expected = [2 / 3 / a, -1 / 3 / a, -1 / 3 / a, 1 / 3 / b, -1 / 6 / b, -1 / 6 / b, 0, 0]
    torch.testing.assert_close(group_advantages(rewards, group), torch.tensor(expected))
    centred = group_advantages(rewards, group, "none")
    torch.testing.assert_close(centred[:3], torch.tensor([2 / 3, -1 / 3, -1 / 3]))
    batch = group_advantages(rewards, group, "batch")
    torch.testing.assert_close(batch, centred / (rewards[:6].std() + 1e-4))
    two = group_advantages(rewards, group, "batch", (group > 0).long())
    torch.testing.assert_close(two[:3], centred[:3] / a)
    torch.testing.assert_close(two[3:], centred[3:] / (rewards[3:6].std() + 1e-4))


def test_position_counts_only_counted_tokens():
    rollouts = replace(
        three(), mask=torch.tensor([[1, 0, 0, 0, 0], [1, 0, 1, 1, 0], [1] * 5]).bool()
    )
    assert rollouts.position[1].tolist() == [0, 1, 1, 2, 3]
    assert rollouts.lengths.tolist() == [1, 3, 5]


def test_totals_are_the_windows():
    rollouts = replace(three(), window_count=torch.tensor([2, 0, 1]))
    assert (rollouts.num_completions, rollouts.num_tokens, rollouts.num_prompts) == (3, 7, 1)


def test_joining_keeps_groups_apart_and_pads():
    joined = Rollouts.cat([three(), three(max_completion_length=9)])
    assert joined.group.tolist() == [0, 0, 0, 1, 1, 1]
    wide = Rollouts.cat([three(), three().padded(8)])
    assert wide.mask.shape == (6, 8)
    assert wide.mask.sum() == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(3, 4).bool()}, r"mask has shape \(3, 4\), expected \(3, 5\)"),
        ({"group": torch.zeros(2).long()}, r"group has shape \(2,\), expected \(3,\)"),
        ({"advantages": torch.tensor([1.0, math.nan, 0.0])}, r"advantages\[1\] is nan"),
        ({"max_completion_length": 0}, "max_completion_length is 0"),
        ({"window_count": torch.tensor([1, -1, 1])}, "smallest window_count -1"),
        ({"reward_names": ("a", "b")}, r"rewards_per_func has shape \(3, 1\), expected \(3, 2\)"),
    ],
)
def test_malformed_rollouts_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(three(), **change)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (([1, 2], [1.0]), "2 lengths and 1 rewards"),
        (([1, 2, 3], [1.0, 0.0, 1.0]), "in groups of num_generations=2"),
        (([1, 9], [1.0, 0.0]), "lengths span 1 to 9, expected 0 to max_completion_length=5"),
    ],
)
def test_malformed_lists_are_refused(lists, message):
    with pytest.raises(ValueError, match=message):
        Rollouts.from_lists(*lists, num_generations=2, max_completion_length=5)


# ---- what a rule may return -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            allocation(lambda r: r.advantages),
            r"returned \(3,\), expected a tensor of shape \(3, 5\)",
        ),
        (allocation(lambda r: 1.0), "returned float, expected a tensor"),
        (allocation(lambda r: r.mask * math.inf), r"inf to token 0 of completion 0 \(length 1\)"),
        (allocation(lambda r: torch.ones(3, 5, requires_grad=True)), "carries a gradient"),
        (allocation(lambda r: r.advantages[:, None].expand(3, 5)), "gave 2.0 to token 1 of"),
        (lambda r: 1.0 * (r.position < 2), "gave 1.0 to token 1 of completion 0, which is not"),
        (aggregation(lambda r: 1 / r.lengths), r"shape \(3,\), expected \(3, 1\)"),
        (aggregation(lambda r: r.advantages[:, None]), "weight -1.0 to completion 1"),
        (aggregation(lambda r: math.nan), "weight nan to completion 0"),
    ],
)
def test_a_wrong_return_value_is_refused_by_name(rule, message):
    with pytest.raises(CreditError, match=message) as error:
        compute_credit(rule, three())
    assert "<lambda>" in str(error.value)


@pytest.mark.parametrize("value", [0.5, math.nan, -math.inf])
def test_credit_on_a_token_that_is_not_counted_is_refused(value):
    tool = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 1]]).bool()
    rollouts = replace(three(), mask=tool)

    def spills(r):
        return torch.where(r.mask | (r.group[:, None] > 0), 1.0, 0.0).index_put(
            (torch.tensor(2), torch.tensor(2)), torch.tensor(value)
        )

    message = (
        rf"'spills' gave {value} to token 2 of completion 2, which is not counted; "
        r"multiply by rollouts\.mask\."
    )
    for rule in (spills, allocation(spills)):
        with pytest.raises(CreditError, match=message):
            compute_credit(rule, rollouts)


def test_a_weight_on_a_token_that_is_not_counted_is_refused():
    wide = allocation(lambda r: r.advantages[:, None].expand(r.mask.shape))
    with pytest.raises(CreditError, match="to token 1 of completion 0, which is not counted"):
        compute_credit(chain("even", wide), three())  # a weight is the allocation of 1


def test_a_product_that_is_not_finite_is_refused_by_the_strategys_name():
    big = allocation(lambda r: 1e30 * r.mask)
    weight = aggregation(lambda r: 1e30)
    # 1e60 is no float32
    strategy = replace(resolve_credit(big), name="big/weight", aggregation=weight.__credit_rule__)
    with pytest.raises(CreditError, match="'big/weight' gave inf to token 0 of completion 0"):
        strategy.credit(three())
    with pytest.raises(CreditError, match=r"\+<lambda>/dapo' gave inf to token 0 of completion 0"):
        compute_credit(chain(big, big), three())
    shares = tuple(replace(part, share=math.nan) for part in chain("even"))
    with pytest.raises(CreditError, match="'even@nan/dapo' gave nan to token 0 of completion 0"):
        compute_credit(shares, three())


def test_credit_and_the_weights_in_it_take_one_call_of_the_aggregation():
    calls, plain = [], resolve_credit("loo/seq")
    rule = replace(
        plain.aggregation, function=lambda r: calls.append(r) or plain.aggregation.function(r)
    )
    rollouts = three()
    credit, weights = replace(plain, aggregation=rule).credit_and_weights(rollouts)
    assert len(calls) == 1
    assert credit.equal(plain.credit(rollouts))
    assert weights.equal(plain.weights(rollouts))
    whole = resolve_credit(lambda r: r.advantages[:, None] * r.mask)
    credit, weights = whole.credit_and_weights(rollouts)
    assert credit.equal(rollouts.advantages[:, None] * rollouts.mask)
    assert weights is None


def test_a_float32_rule_holds_the_laws():
    spread = allocation(conserves_mass=True)(
        lambda r: (
            (r.advantages * r.lengths)[:, None]
            * torch.where(r.mask, r.position.float(), -1e9).softmax(dim=1)
        )
    )
    assert broken(spread) == {}
