"""Other aims than E[R] in the lab: exact gradients, and which rule climbs which."""

import pytest
import torch
from drawn import close

from grpo_credit import CreditError, resolve_credit
from grpo_credit.credit.cuts import Cuts
from grpo_credit.credit.parse import resolve_text
from grpo_credit.lab.enumerable import Language, TabularPolicy, probabilities
from grpo_credit.lab.measurement import Problem, list_windows, measure
from grpo_credit.lab.prefixes import Continued, Prefixes
from grpo_credit.lab.problem import Space
from grpo_credit.lab.report_exact import Setting, findings
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.targets import Target
from rewards import RegexReward

LINE = Language("a", 3)  # "", a, aa, aaa
GROUP = 3
EASY, HARD = (
    Problem(LINE, TabularPolicy(LINE, seed), RegexReward(pattern, name="r"))
    for seed, pattern in enumerate(["a", "aaa"])
)
TARGETS = ["mean", "passk:2", "maxrl:3", "loglik"]
OBJECTIVES = {  # of the chance p to be right
    "mean": lambda p: p,
    "passk:2": lambda p: 2 * p - p**2,
    "maxrl:3": lambda p: -(1 - p) - (1 - p) ** 2 / 2,
    "loglik": torch.log,
}
CLIMBS = {  # which strategy has the gradient of a target, and how much of it
    "mean": ("loo/seq", 1.0),
    "passk:2": ('omega/seq {"target": "passk", "k": 2}', 1.0),
    "maxrl:3": ("omega/seq", 1.0),
}


@pytest.mark.parametrize("target", TARGETS)
def test_the_gradient_of_a_target_is_that_of_its_formula(target):
    """By automatic differentiation through the probabilities of all completions."""
    expected = []
    for problem in (EASY, HARD):
        chances = probabilities(LINE, problem.policy())
        value = OBJECTIVES[target](chances @ problem.rewards()) / 2
        expected.append(torch.autograd.grad(value, problem.policy.logits)[0].flatten())
    close(Space.of([EASY, HARD]).gradient(Target.parse(target)), torch.cat(expected))


def measured(target):
    """Measure every rule that climbs something, on all different windows of both prompts."""
    rules = {name: resolve_text(name) for name, _ in CLIMBS.values()}
    sampling = Sampling(2, 2, GROUP)
    found = measure([EASY, HARD], rules, sampling, target=Target.parse(target))
    return {m.strategy: m for m in [*found.rules, found.truth]}


@pytest.mark.parametrize("target", TARGETS)
def test_each_rule_is_unbiased_for_its_own_target_and_biased_for_every_other(target):
    found = measured(target)
    truth = found.pop("truth")
    own = CLIMBS.get(target, ("", 0.0))
    assert truth.direction.error == 0
    assert truth.direction.factor == pytest.approx(1)
    for name, each in found.items():
        assert each.exact
        if name == own[0]:
            assert each.direction.error == 0
            assert each.direction.factor == pytest.approx(own[1])
            assert each.variance > truth.variance
        else:
            assert each.direction.error > 0.01, name


def test_one_prompt_has_the_direction_of_the_mean_whatever_is_aimed_at():
    rule = {"omega": resolve_credit("omega/seq", target="passk", k=2)}
    [alone] = measure(HARD, rule, Sampling(2, 1, GROUP)).rules
    assert alone.direction.error == 0
    assert alone.direction.factor != pytest.approx(1)  # but not its length


def test_windows_of_two_prompts_are_all_pairs_of_their_groups():
    windows = list_windows([EASY, HARD], Sampling(2, 2, 2))
    close(windows.chance.sum(), 1)
    prompt = windows.rows >= len(LINE.texts)
    assert prompt.tolist() == [[False] * 2 + [True] * 2] * 100
    with pytest.raises(CreditError, match="3 groups in a window of 2 prompts; expected equally"):
        list_windows([EASY, HARD], Sampling(2, 3, 2))


def test_the_states_of_different_automata_are_different_numbers():
    states = Space.of([EASY, HARD]).rollouts.states
    easy, hard = states.split(len(LINE.texts))
    assert not {*easy.flatten().tolist()} & {*hard.flatten().tolist()}


def test_the_table_says_the_target_and_predicts_learning_for_the_mean_alone():
    settings = {target: Setting("2 prompts", 2, "none", target) for target in ("mean", "loglik")}
    rules = {"seq": resolve_credit("seq")}
    results = {
        setting: measure([EASY, HARD], rules, Sampling(2, 2, 2), target=Target.parse(target))
        for target, setting in settings.items()
    }
    report = findings({"a": EASY, "aaa": HARD}, results, "tabular", "x")
    mean, loglik = report.tables
    assert mean.title == "2 prompts, G = 2, scale_rewards none"
    assert loglik.title == "2 prompts, G = 2, scale_rewards none, target loglik"
    assert [row["target"] for row in loglik.rows] == ["loglik"] * 2
    assert mean.rows[0]["gain"] is not None
    assert loglik.rows[0]["gain"] is None
    assert loglik.rows[0]["verdict"].startswith("biased by")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pass:4", "target is 'pass:4', expected such as mean, passk:4, loglik, maxrl:8."),
        ("passk", "expected a number of 1 or more, as in"),
        ("passk:0", "expected a number of 1 or more, as in"),
        ("maxrl:1", "expected a number of 2 or more, as in"),
        ("mean:2", "expected no number, as in"),
        ("loglik:x", "expected no number, as in"),
    ],
)
def test_a_target_that_there_is_not_is_refused(text, message):
    with pytest.raises(CreditError, match=message):
        Target.parse(text)


def test_log_p_of_what_is_never_right_has_no_gradient():
    def never(completions):
        return [0.4 * (text == "a") for text in completions]

    problem = Problem(LINE, TabularPolicy(LINE), never)
    with pytest.raises(CreditError, match="loglik has no gradient where the chance to be right is"):
        measure(problem, {"seq": resolve_credit("seq")}, Sampling(2), target=Target("loglik"))


# ---- values of prefixes -------------------------------------------------------------------------

TREE = Language("ab", 3)


def share(completions):
    """Reward the share of a, so that no value is that of another prefix by chance."""
    return [text.count("a") / 3 + 0.1 * text.startswith("b") for text in completions]


def test_drawn_values_have_the_mean_of_the_prefix_and_cost_what_is_written():
    problems = [Problem(TREE, TabularPolicy(TREE, seed), share) for seed in (3, 4)]
    space, many = Space.of(problems), 20_000
    rows = torch.tensor([TREE.texts.index("aba"), 15 + TREE.texts.index("ba")])
    prefixes = Prefixes(space, Continued(Cuts("every", 1), many), seed=0)
    values = prefixes.values(space.rollouts.rows(rows), rows)
    longer = 0.0
    for n, (problem, text) in enumerate(zip(problems, ("aba", "ba"), strict=True)):
        for cut in (1, 2):
            ways = [i for i, t in enumerate(TREE.texts) if t.startswith(text[:cut])]
            chances = problem.chances[ways] / problem.chances[ways].sum()
            rewards = problem.rewards()[ways]
            mean = chances @ rewards
            error = ((chances @ (rewards - mean) ** 2) / many) ** 0.5
            assert abs(values[n, cut] - mean) <= 5 * error + 1e-12
            longer += float(chances @ (TREE.mask.sum(1)[ways] - cut).double())
    known = ~values.isnan()
    assert known.tolist() == [[False, True, True, False]] * 2
    assert prefixes.price == pytest.approx(1 + many * longer / 6, rel=0.02)


def test_vine_is_seen_to_be_unbiased_and_its_tokens_are_counted():
    problem = Problem(TREE, TabularPolicy(TREE, 1), RegexReward("a+b", name="r"))
    rules = {mode: resolve_credit("vine/seq", mode=mode) for mode in ("difference", "baseline")}
    rules |= {"loo": resolve_credit("loo/seq")}
    sampling = Sampling(400, 4, 4)
    results = measure(problem, rules, sampling, continued=Continued(Cuts("every", 1), 8))
    difference, baseline, loo = results.rules
    for each in (difference, baseline):
        assert each.direction.low == 0
        assert abs(each.direction.factor - 1) <= 4 * each.direction.factor_error
        assert each.tokens > 2
        assert each.variance < loo.variance
        assert each.variance * each.tokens > loo.variance  # not worth it at equal tokens
    assert loo.tokens == 1
    report = findings({"x": problem}, {Setting("x", 4, "none"): results}, "tabular", "x")
    assert {"tokens", "variance x tokens"} <= {*report.tables[0].shown}
    few = measure(problem, {"vine": rules["baseline"]}, Sampling(5, 1, 2))
    assert not few.rules[0].exact  # its credit is not the window's alone
    with pytest.raises(CreditError, match="vine_continuations is 0"):
        Continued(Cuts("every", 1), 0)
