"""The lab's truth against autograd and hand; strategies against the truth."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from grpo_credit import CreditError, allocation, chain, compute_credit, resolve_credit
from grpo_credit.credit.advantages import group_advantages
from grpo_credit.lab.direction import sampled_direction
from grpo_credit.lab.enumerable import (
    Language,
    TabularPolicy,
    exact_gradient,
    jacobian,
    probabilities,
)
from grpo_credit.lab.measurement import Problem, draw, measure
from grpo_credit.lab.report_exact import Setting, findings, verdict
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.transformer import TransformerPolicy
from rewards import RegexReward

SMALL = Language("ab", 3)
TAILS = RegexReward(r"a+b[abc]*|c+", name="tails")  # settled early, by long dead or sure tails


def policies(language):
    return [TabularPolicy(language), TransformerPolicy(language)]


# ---- the truth --------------------------------------------------------------------------------


def test_every_completion_is_listed_once():
    texts = {"".join(p) for n in range(4) for p in itertools.product("ab", repeat=n)}
    assert set(SMALL.texts) == texts
    assert len(SMALL.texts) == len(texts) == 15
    row = SMALL.texts.index("ab")
    assert SMALL.ids[row].tolist() == [0, 1, 2]
    assert SMALL.mask[row].all()
    assert SMALL.truncated.tolist() == [len(t) == 3 for t in SMALL.texts]
    assert SMALL.mask[SMALL.texts.index("")].tolist() == [True, False, False]


@pytest.mark.parametrize("policy", policies(SMALL))
def test_probabilities_are_products_and_sum_to_one(policy):
    logps = policy().detach()
    chances = probabilities(SMALL, logps)
    assert float(chances.sum()) == pytest.approx(1)
    # "b" = (b after nothing) · (end after b); prefixes in order: "", a, b, aa, ...
    by_hand = logps[0, 1] + logps[2, 2]
    assert float(chances[SMALL.texts.index("b")].log()) == pytest.approx(float(by_hand))


@pytest.mark.parametrize("policy", policies(SMALL))
def test_the_exact_gradient_is_that_of_the_enumerated_expectation(policy):
    rewards = torch.rand(15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expectation = (probabilities(SMALL, policy()) * rewards).sum()
    grads = torch.autograd.grad(expectation, [*policy.parameters()])
    expected = torch.cat([g.flatten() for g in grads])
    torch.testing.assert_close(exact_gradient(SMALL, policy, rewards), expected)


@pytest.mark.parametrize("policy", policies(SMALL))
def test_the_jacobian_has_the_gradient_of_each_event(policy):
    found = jacobian(policy)
    for event in (0, 4, 20):
        grads = torch.autograd.grad(policy().flatten()[event], [*policy.parameters()])
        torch.testing.assert_close(found[event], torch.cat([g.flatten() for g in grads]))


def test_the_transformer_sees_the_prefix_alone():
    policy = TransformerPolicy(SMALL)
    alone = policy.model(torch.tensor([[SMALL.end + 1, 0]])).logits[0, 1, :3].log_softmax(0)
    torch.testing.assert_close(policy()[1], alone)


def tabulated(policy):
    """Make the table that says what another policy over `SMALL` says."""
    table = TabularPolicy(SMALL)
    with torch.no_grad():
        table.logits.copy_(policy())
    return table


def test_the_transformers_gradient_is_its_tables_through_the_logits():
    """∇_θ E[R] = (∂ logits / ∂θ)ᵀ ∇_logits E[R]: what differs is the parameters, not the lab."""
    transformer = TransformerPolicy(SMALL)
    rewards = torch.rand(15, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_table = exact_gradient(SMALL, tabulated(transformer), rewards).view_as(transformer())
    grads = torch.autograd.grad(transformer(), [*transformer.parameters()], by_table)
    expected = torch.cat([g.flatten() for g in grads])
    torch.testing.assert_close(exact_gradient(SMALL, transformer, rewards), expected)


def trained_to_match(table):
    transformer = TransformerPolicy(SMALL, hidden_size=16)
    goal, steps = table().detach(), 400
    optimizer = torch.optim.Adam(transformer.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        (goal.exp() * (goal - transformer())).sum(1).mean().backward()  # KL(table, transformer)
        optimizer.step()
        schedule.step()
    return transformer


def test_the_transformer_agrees_with_the_table_it_is_trained_to_match():
    table = TabularPolicy(SMALL)
    transformer = trained_to_match(table)
    copy = tabulated(transformer)
    torch.testing.assert_close(copy(), table(), rtol=0, atol=1e-4)
    reward = RegexReward("a+b", name="ab")
    rewards = Problem(SMALL, table, reward).rewards()
    exact, found = (exact_gradient(SMALL, p, rewards) for p in (table, copy))
    assert float((found - exact).norm() / exact.norm()) < 1e-3
    sampling = Sampling(windows=300, groups=2, num_generations=4)
    rules = {"seq": resolve_credit("seq"), "length": resolve_credit("length")}
    found = {
        kind: measure(Problem(SMALL, policy, reward), rules, sampling)
        for kind, policy in {"table": table, "copy": copy, "transformer": transformer}.items()
    }
    measured = {kind: {m.strategy: m for m in each.rules} for kind, each in found.items()}
    for name in rules:  # in the space of the table the same windows give the same figures
        one, two = measured["table"][name], measured["copy"][name]
        assert two.direction.error == pytest.approx(one.direction.error, rel=0.01, abs=1e-3)
        assert two.direction.factor == pytest.approx(one.direction.factor, rel=0.01)
        assert two.variance == pytest.approx(one.variance, rel=0.01)
    for policy in ("table", "transformer"):  # and in its own space the verdicts are the same
        assert measured[policy]["seq"].direction.high == 0
        length = measured[policy]["length"].direction
        assert length.low > 0
        assert length.error > 0.1


def test_draws_have_the_policys_frequencies():
    problem = Problem(SMALL, TabularPolicy(SMALL), TAILS)
    drawn = draw(problem, Sampling(windows=1000, groups=4, num_generations=4)).flatten()
    chances = probabilities(SMALL, problem.policy().detach())
    found = torch.bincount(drawn, minlength=15) / len(drawn)
    error = (chances * (1 - chances) / len(drawn)).sqrt()
    assert ((found - chances).abs() <= 5 * error + 1e-9).all()


def test_too_large_a_language_is_refused_with_the_count():
    with pytest.raises(ValueError, match=r"make 5,592,405 completions, more than the 50,000"):
        Language("abcd", 11)
    with pytest.raises(ValueError, match="expected different characters"):
        Language("aa", 2)


def test_a_reward_that_abstains_has_no_expectation():
    def shy(completions, **_):
        return [None if c == "a" else 1.0 for c in completions]

    with pytest.raises(ValueError, match="the reward abstains on 'a'"):
        Problem(SMALL, TabularPolicy(SMALL), shy).rewards()


# ---- the strategies ---------------------------------------------------------------------------

GROUP = 8


NAMES = [
    "seq", "length", "decided/seq", "loo/seq", "loo+decided/seq", "automaton/seq", "tree_td/seq",
    "prefix_tree/seq", "tempo/seq",
]  # fmt: skip


def on_the_same_windows(problem, names, windows=400, **sampling):
    rules = {name: resolve_credit(name) for name in names}
    drawn = Sampling(windows=windows, num_generations=GROUP, **sampling)
    return {m.strategy: m for m in measure(problem, rules, drawn).rules}


@pytest.fixture(scope="module")
def measured():
    language = Language("abc", 5)
    return on_the_same_windows(Problem(language, TabularPolicy(language, spread=0.5), TAILS), NAMES)


def unbiased(found):
    return found.direction.factor > 0 and found.direction.low == 0


def factor_is(found, expected):
    return abs(found.direction.factor - expected) <= 4 * found.direction.factor_error + 1e-12


def test_seq_is_unbiased_up_to_the_group_mean(measured):
    assert measured["seq"].direction.high == 0
    assert factor_is(measured["seq"], (GROUP - 1) / GROUP)


def test_leave_one_out_is_unbiased_with_factor_one(measured):
    assert measured["loo/seq"].direction.high == 0
    assert factor_is(measured["loo/seq"], 1)


def test_length_is_biased(measured):
    assert measured["length"].direction.low > 0.1


def graded(completions, **_):
    """Reward a rare success by 1 and each c by a twentieth."""
    return [1.0 if c.startswith("ab") else 0.05 * c.count("c") for c in completions]


def test_group_scaled_advantages_are_biased():
    """Groups without a rare success are blown up to the size of those with one."""
    language = Language("abc", 4)
    problem = Problem(language, TabularPolicy(language, spread=0.5), graded)
    plain = on_the_same_windows(problem, ["seq"])["seq"]
    scaled = on_the_same_windows(problem, ["seq"], scale_rewards="group")["seq"]
    assert plain.direction.high == 0
    assert scaled.direction.low > 0.5


PAIRS = [("decided/seq", "seq"), ("loo+decided/seq", "loo/seq")]


def test_dropping_decided_tokens_keeps_the_gradient(measured):
    for name, whole in PAIRS:
        decided, seq = measured[name], measured[whole]
        assert unbiased(decided)
        assert factor_is(decided, seq.direction.factor)
        assert decided.variance <= seq.variance  # on the same windows


def test_dropping_long_dead_tails_lowers_the_variance():
    """The first of up to seven symbols decides: a ratio of 0.69 ± 0.01 was seen."""
    language = Language("ab", 7)
    policy = TabularPolicy(language, spread=0.3, stop=-2.0)
    problem = Problem(language, policy, RegexReward("a[ab]*", name="first"))
    found = on_the_same_windows(problem, ["seq", "decided/seq", "loo/seq", "loo+decided/seq"], 600)
    for name, whole in PAIRS:
        decided, seq = found[name], found[whole]
        assert unbiased(decided)
        margin = math.hypot(decided.variance_error, seq.variance_error)
        assert decided.variance < 0.8 * seq.variance + 2 * margin
        assert decided.variance < seq.variance - 4 * margin


def test_the_automaton_baseline_is_unbiased(measured):
    assert unbiased(measured["automaton/seq"])
    assert factor_is(measured["automaton/seq"], 1)


def test_the_biases_of_the_tree_rules_are_seen(measured):
    for name in ("tree_td/seq", "prefix_tree/seq", "tempo/seq"):
        assert measured[name].direction.low > 0.02, name


def test_the_biases_of_the_tree_rules_are_reported_by_group_size():
    """Each with its error; what a rule of groups does depends on how large they are."""
    language = Language("abc", 3)
    problem = Problem(language, TabularPolicy(language, spread=0.5), TAILS)
    rules = {name: resolve_credit(name) for name in ("seq", "tree_td/seq", "prefix_tree/seq")}
    found = {
        Setting("tails", size, "none"): measure(problem, rules, Sampling(150, 32 // size, size))
        for size in (2, 8)
    }
    tables = findings({"tails": problem}, found, "tabular", "x").tables
    assert [t.title for t in tables] == [f"tails, G = {g}, scale_rewards none" for g in (2, 8)]
    rows = [row for table in tables for row in table.rows]
    names = [*rules, "truth"]
    assert [(r["credit"], r["size"]) for r in rows] == [(n, g) for g in (2, 8) for n in names]
    low = {(r["credit"], r["size"]): r["low"] for r in rows}
    error = {(r["credit"], r["size"]): r["directional error"] for r in rows}
    assert low["tree_td/seq", 2] > 0.1
    assert low["prefix_tree/seq", 8] > 0.1
    # of two members that part at once the tree knows nothing but themselves
    assert error["tree_td/seq", 2] > error["tree_td/seq", 8]


def test_pairing_with_seq_sees_what_sampling_alone_would_hide():
    """The noise that `dapo` shares with `seq` is gone: the interval is a fifth as wide."""
    problem = Problem(SMALL, TabularPolicy(SMALL), RegexReward("a+b", name="ab"))
    sampling = Sampling(300, 4, 4)
    found = measure(problem, {"dapo": resolve_credit("dapo")}, sampling).rules[0].direction
    windows = draw(problem, sampling)
    everything, scores = problem.rollouts(), jacobian(problem.policy)
    alone = torch.zeros(len(windows), scores.shape[0], dtype=torch.float64)
    for number, rows in enumerate(windows):
        group = torch.arange(16) // 4
        advantages = group_advantages(everything.rewards[rows], group, "none")
        window = replace(
            everything.rows(rows), group=group, advantages=advantages, scale_rewards="none"
        )
        credit = compute_credit("dapo", window)
        alone[number].index_add_(0, SMALL.events[rows].flatten(), credit.flatten())
    truth = exact_gradient(SMALL, problem.policy, problem.rewards())
    unpaired = sampled_direction(alone @ scores, truth)
    assert found.high - found.low < 0.3 * (unpaired.high - unpaired.low)
    assert unpaired.low <= found.high
    assert found.low <= unpaired.high


def test_a_reward_without_a_difference_has_no_gradient():
    problem = Problem(SMALL, TabularPolicy(SMALL), RegexReward("[ab]*", name="all"))
    with pytest.raises(CreditError, match="every completion earns the same, so there is no grad"):
        measure(problem, {"seq": resolve_credit("seq")}, Sampling(windows=2))


def test_a_rule_without_a_step_is_told_so():
    @allocation
    def nothing_at_all(rollouts):
        return torch.zeros_like(rollouts.mask, dtype=rollouts.advantages.dtype)

    problem = Problem(SMALL, TabularPolicy(SMALL), TAILS)
    rules = {"seq": resolve_credit("seq"), "none": resolve_credit(chain(nothing_at_all))}
    for sampling in (Sampling(5, 2, 4), Sampling(5, 1, 2)):  # sampled, and all 120 windows
        measured = measure(problem, rules, sampling)
        assert verdict(measured.rules[1]) == "no step along the gradient seen"
        report = findings({"x": problem}, {Setting("x", 2, "none"): measured}, "tabular", "x")
        table = report.tables[0]
        assert table.rows[1]["directional error"] is None
        assert table.rows[1]["variance"] is None
        assert table.rows[1]["gain"] is None


def test_a_second_prompt_is_refused():
    problem = Problem(SMALL, TabularPolicy(SMALL), TAILS)
    with pytest.raises(CreditError, match="needs a second prompt; there is none in the lab"):
        measure(problem, {"x": resolve_credit("contrast/seq")}, Sampling(windows=2))
