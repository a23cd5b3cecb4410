"""True advantages and what they bound, by enumeration."""

import math
from dataclasses import replace

import pytest
import torch

from grpo_credit import resolve_credit
from grpo_credit.credit.advantages import group_advantages
from grpo_credit.credit.headroom import captured, effective_tokens, predicted_gain
from grpo_credit.lab.ceiling import true_advantages
from grpo_credit.lab.enumerable import Language, TabularPolicy, probabilities
from grpo_credit.lab.measurement import Problem, effective, list_windows, measure
from grpo_credit.lab.report_exact import Setting, findings
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.transformer import TransformerPolicy
from rewards import RegexReward

SMALL = Language("ab", 3)
ENDS = RegexReward("a+b", alphabet="ab", name="ends")
POLICIES = [TabularPolicy(SMALL, spread=1.0), TransformerPolicy(SMALL)]
UNBIASED = ("seq", "loo/seq", "decided/seq", "automaton/seq")


def chances(policy, language=SMALL):
    return probabilities(language, policy().detach().double())


@pytest.mark.parametrize("policy", POLICIES)
def test_advantages_are_what_a_token_adds_to_the_expected_reward(policy):
    rewards = torch.rand(15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, pi = true_advantages(SMALL, chances(policy), rewards), policy().detach().exp()

    def value(prefix):  # backwards, prefix by prefix
        row = pi[SMALL.prefixes.index(prefix)]
        return sum(float(row[token]) * worth(prefix, token) for token in range(3))

    def worth(prefix, token):
        over = token == SMALL.end or len(prefix) == SMALL.length - 1
        text = "".join("ab"[i] for i in prefix) + ("ab"[token] if token < SMALL.end else "")
        return float(rewards[SMALL.texts.index(text)]) if over else value((*prefix, token))

    for row, text in enumerate(SMALL.texts):
        for t in range(SMALL.length):
            prefix = tuple("ab".index(c) for c in text[:t])
            counted = bool(SMALL.mask[row, t])
            token = int(SMALL.ids[row, t])
            expected = worth(prefix, token) - value(prefix) if counted else 0.0
            assert float(found[row, t]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
def test_true_advantages_divide_one_variance_among_the_tokens(policy):
    """Σ_t E[A*_t²] = Var R, where `seq` pays Var R at every token that is written."""
    rewards, p = Problem(SMALL, policy, ENDS).rewards(), chances(policy)
    variance = p @ (rewards - p @ rewards).square()
    advantages = true_advantages(SMALL, p, rewards)
    torch.testing.assert_close(p @ advantages.square().sum(1), variance)
    torch.testing.assert_close(advantages.sum(1), rewards - p @ rewards)


def test_t_eff_is_the_ratio_of_sums_where_uncertainty_does_not_go_with_the_stakes():
    """Σ h_t / Σ h_t w_t: three even tokens of which the last one alone decides."""
    language = Language("ab", 3)
    rewards = torch.tensor([float(t.endswith("a") and len(t) == 3) for t in language.texts])
    p = torch.tensor([0.125 * (len(t) == 3) for t in language.texts], dtype=torch.float64)
    p = p + 1e-300  # a completion that ends earlier is never seen
    advantages = true_advantages(language, p, rewards.double())
    deviation = rewards.double() - p @ rewards.double()
    half = torch.full((15, 3), 0.5, dtype=torch.float64)
    assert effective_tokens(p, deviation, half, advantages.square()) == pytest.approx(3.0)
    forced = half * torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert effective_tokens(p, deviation, forced, advantages.square()) == pytest.approx(1.0)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_unbiased_rule_has_a_second_moment_below_seqs_over_t_eff(policy):
    """Over all windows of one group, with what differs from true advantages by a state counted."""
    problem, sampling = Problem(SMALL, policy, ENDS), Sampling(2, 1, 2)
    everything, p = problem.rollouts(), chances(policy)
    windows = list_windows(problem, sampling)
    assert windows.chance is not None
    uncertain = torch.where(everything.mask, 1 - everything.sum_sq_probs, 0.0)
    deviation = (everything.rewards - p @ everything.rewards)[:, None]
    seq = float(p @ (uncertain * deviation.square()).sum(1))
    for name in UNBIASED:
        moment = 0.0
        for rows, chance in zip(windows.rows, windows.chance, strict=True):
            window = everything.rows(rows)
            group = torch.zeros(2, dtype=torch.long)
            advantages = group_advantages(window.rewards, group, "none")
            window = replace(window, group=group, advantages=advantages, scale_rewards="none")
            # seq and decided land (G - 1)/G = 1/2 of the advantage, loo and automaton all of it
            scale = 2 * (2 if "even" in f"{resolve_credit(name)}" else 1)
            credit = resolve_credit(name).credit(window) * scale
            moment += float(chance * (uncertain[rows] * credit.square()).sum() / 2)
        assert moment >= seq / effective(problem) * (1 - 1e-9), name


def test_truth_has_the_least_variance_and_captures_everything():
    problem = Problem(SMALL, TabularPolicy(SMALL, spread=0.5), ENDS)
    rules = {name: resolve_credit(name) for name in (*UNBIASED, "tree_td/seq")}
    found = measure(problem, rules, Sampling(2, 1, 2))
    assert found.truth.exact
    assert found.truth.direction.error == 0
    assert found.truth.direction.factor == pytest.approx(1)
    for rule in found.rules[: len(UNBIASED)]:
        assert rule.variance >= found.truth.variance
    assert found.captured(found.truth) == (1.0, 0.0)
    assert found.captured(found.rules[0]) == (0.0, 0.0)
    report = findings({"ends": problem}, {Setting("ends", 2, "none"): found}, "tabular", "x")
    rows = {row["credit"]: row for row in report.tables[0].rows}
    assert rows["truth"]["captured"] == 1
    assert 0 < rows["decided/seq"]["captured"] < 1
    assert rows["tree_td/seq"]["captured"] is None  # biased
    assert rows["tree_td/seq"]["gain"] > 0
    assert report.sentences[-1].startswith("With true advantages (truth) ")
    assert "a table shares no parameters between prefixes" in report.sentences[-1]


def test_the_share_of_a_sampled_rule_has_the_error_that_other_samples_show():
    """The spread over 12 samples is within a factor of 2 of the mean error that each tells."""
    problem = Problem(SMALL, TabularPolicy(SMALL, spread=0.5), ENDS)
    rules = {"decided/seq": resolve_credit("decided/seq")}
    shares = []
    for seed in range(12):
        found = measure(problem, rules, Sampling(60, 2, 4, seed=seed))
        shares.append(found.captured(found.rules[0]))
    values, errors = torch.tensor(shares).unbind(1)
    assert 0.5 < float(values.std() / errors.mean()) < 2


def test_a_gain_is_the_root_of_the_ratio_of_noise_and_curvature():
    assert predicted_gain(7.5, 1.5) == 2.0
    assert predicted_gain(1.0, math.inf) == 0.0
    assert captured(2.0, 4.0) == pytest.approx((100 - 50) / (100 - 25))  # steps 100, 50 and 25
    assert math.isnan(captured(1.0, 1.0))
