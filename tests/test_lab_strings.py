"""Whole strings in the lab against enumerations that share no code with it."""

import itertools
import json
import math
import re
from collections import Counter

import pytest
import torch
from html_reader import Read

from grpo_credit import cli
from grpo_credit.lab import decoding, learning, strings, tempering
from grpo_credit.lab.enumerable import Language, TabularPolicy, log_probabilities
from grpo_credit.lab.particles import TableWalk, shares, steer

LANGUAGE = Language("ab", 3)
STRINGS = ["lab", "strings", "--length", "2", "3", "--spread", "1", "2", "--policies", "20"]
TEMPER = ["lab", "temper", "--alphabet", "ab", "--length", "3", "--policies", "3", "--steps", "4",
          "--windows", "4", "--completions", "6", "--draws", "400"]  # fmt: skip


def tables(policies):
    """Return each policy as prefix -> token -> probability, "$" the end."""
    prefixes = ["".join(p) for n in range(3) for p in itertools.product("ab", repeat=n)]
    return [
        {p: dict(zip("ab$", row, strict=True)) for p, row in zip(prefixes, table, strict=True)}
        for table in policies.exp().tolist()
    ]


def written(text):
    return text if len(text) == 3 else f"{text}$"


def likelihood(table, text):
    return math.prod(table[text[:t]][token] for t, token in enumerate(written(text)))


@pytest.fixture(scope="module", params=[0, 3])
def policy(request):
    return TabularPolicy(LANGUAGE, request.param, 1.5)().detach()


@pytest.fixture(scope="module")
def problem():
    return tempering.Tempering(LANGUAGE, tempering.random_policies(LANGUAGE, 3, 1.5, 0), 0.5)


# ---- the chain rule, and the most likely string -------------------------------------------------


def test_the_loss_of_n_tokens_is_the_sum_of_n_next_token_losses(policy):
    (table,) = tables(policy[None])
    chances = {text: likelihood(table, text) for text in LANGUAGE.texts}

    def begins(with_):
        return sum(p for text, p in chances.items() if written(text).startswith(with_))

    windows = [
        (t, p, written(text)) for text, p in chances.items() for t in range(len(written(text)))
    ]
    for found in strings.chain_rule(LANGUAGE, policy):
        losses = [
            (p, math.log(begins(text[:t]) / begins(text[: t + found.tokens])),
             -sum(math.log(table[text[:u]][text[u]]) for u in range(t, len(text))[: found.tokens]))
            for t, p, text in windows
        ]  # fmt: skip
        assert max(abs(joint - summed) for _, joint, summed in losses) <= 1e-12
        assert found.difference <= 1e-12
        weight = sum(p for p, _, _ in losses)
        for number, mean in ((1, found.joint), (2, found.summed)):
            expected = sum(loss[0] * loss[number] for loss in losses) / weight
            assert mean == pytest.approx(expected, abs=1e-12)


def test_heads_that_do_not_see_one_another_lose_what_the_tokens_tell_of_one_another(policy):
    (table,) = tables(policy[None])
    ended = {text: f"{text}$$$"[:3] for text in LANGUAGE.texts}
    chances = {ended[text]: likelihood(table, text) for text in LANGUAGE.texts}
    for found in strings.chain_rule(LANGUAGE, policy):
        loss = weight = 0.0
        for text, p in chances.items():
            for t in range(len(written(text.rstrip("$")))):
                same = {other: q for other, q in chances.items() if other[:t] == text[:t]}
                for u in range(t, 3)[: found.tokens]:
                    agreeing = sum(q for other, q in same.items() if other[u] == text[u])
                    loss -= p * math.log(agreeing / sum(same.values()))
                weight += p
        assert found.heads == pytest.approx(loss / weight, abs=1e-12)
        assert found.heads >= found.joint - 1e-12


def beam(table, width):
    live, done = {"": 1.0}, {}
    for _ in range(3):
        grown = {p + v: chance * q for p, chance in live.items() for v, q in table[p].items()}
        best = sorted((grown | done).items(), key=lambda item: -item[1])[:width]
        live = {text: p for text, p in best if text[-1] != "$"}
        done = {text: p for text, p in best if text[-1] == "$"}
    return max((live | done).values())


@pytest.mark.parametrize("width", [1, 2, 4])
def test_searches_find_what_a_plain_beam_does(width):
    policies = tempering.random_policies(LANGUAGE, 20, 1.0, 5)
    found = strings.beam_search(LANGUAGE, policies, width).exp().tolist()
    plain = [beam(table, width) for table in tables(policies)]
    assert found == pytest.approx(plain, rel=1e-12)
    best = [max(likelihood(table, t) for t in LANGUAGE.texts) for table in tables(policies)]
    lost = [math.log(b / p) if p < b * (1 - 1e-9) else 0 for b, p in zip(best, plain, strict=True)]
    search = strings.most_likely(LANGUAGE, 1.0, strings.Searching([width], 20, 5))
    (beams, sample) = search.values()
    assert beams.missed.mean == pytest.approx(sum(nats > 0 for nats in lost) / 20)
    assert beams.nats.mean == pytest.approx(sum(lost) / 20, abs=1e-12)
    assert sample.missed.mean == pytest.approx(1 - sum(best) / 20)


def test_a_beam_as_wide_as_the_language_misses_nothing():
    found = strings.most_likely(LANGUAGE, 1.0, strings.Searching([15], 50, 0))
    assert found["beam 15"] == strings.Search(strings.Estimate(0, 0), strings.Estimate(0, 0))


# ---- temperature --------------------------------------------------------------------------------


def tempered(table, tau):
    weights = {text: likelihood(table, text) ** (1 / tau) for text in LANGUAGE.texts}
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}


@pytest.mark.parametrize("tau", [0.25, 0.5, 0.9, 1.5, 2.0])
def test_looking_ahead_over_the_whole_string_is_the_target(tau):
    policies = tempering.random_policies(LANGUAGE, 4, 1.5, 0)
    problem = tempering.Tempering(LANGUAGE, policies, tau)
    targets = [[*tempered(table, tau).values()] for table in tables(policies)]
    torch.testing.assert_close(problem.target.exp(), torch.tensor(targets, dtype=torch.float64))
    horizons = [tempering.divergence(problem.target, problem.ahead(h)) for h in (1, 2, 3)]
    assert horizons[2].max() <= 1e-12
    assert (horizons[1] < horizons[0]).all()
    assert tempering.measure(problem).horizons == [float(kl.mean()) for kl in horizons]


def test_a_horizon_of_two_weighs_a_token_by_what_the_next_can_be_worth(policy):
    (table,) = tables(policy[None])
    found = tempering.look_ahead(LANGUAGE, policy, 0.5, 2).exp()

    def worth(prefix):
        return sum(q**2 for q in table[prefix].values()) if prefix in table else 1.0

    for prefix, row in zip(table, found.tolist(), strict=True):
        weights = [q**2 * worth(prefix + v) for v, q in table[prefix].items()]
        assert row == pytest.approx([weight / sum(weights) for weight in weights], rel=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_resampling_is_the_sum_over_all_tuples(samples):
    language = Language("ab", 2)
    generator = torch.Generator().manual_seed(samples)
    proposal = torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)
    weight = 4 * torch.randn(7, generator=generator, dtype=torch.float64)
    found = tempering.resampled(proposal, weight, samples).exp()
    expected = torch.zeros_like(found)
    for rows in itertools.product(range(len(language.texts)), repeat=samples):
        drawn = proposal[[*rows]].sum().exp()
        expected.index_add_(0, torch.tensor(rows), drawn * weight[[*rows]].softmax(0))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_one_of_sixteen_samples_is_nearly_the_target():
    language = Language("abc", 5)
    problem = tempering.Tempering(language, tempering.random_policies(language, 5, 1.5, 0), 0.5)
    found = decoding.measure(problem, [16], draws=16, seed=0)
    near = next(each.distance for each in found if each.way == "samples of p")
    assert near.mean() <= 0.002
    assert near.mean() < tempering.divergence(problem.target, problem.ahead(1)).mean() / 50


@pytest.mark.parametrize("particles", [1, 2, 8])
def test_steered_strings_come_out_as_often_as_a_plain_run_of_the_method_says(policy, particles):
    """One particle is next-token temperature; many come near the target. Bounds: 5 sigma."""
    draws, tau = 40_000 // particles * particles, 0.5
    walk = TableWalk(LANGUAGE, policy, tau, draws)
    ids, weight = steer(walk, particles, 3, torch.Generator().manual_seed(1))
    found = shares(LANGUAGE, ids, weight)
    assert float(found.sum()) == pytest.approx(1)
    problem = tempering.Tempering(LANGUAGE, torch.stack([policy, policy]), tau)
    myopic, target = problem.ahead(1)[0].exp(), problem.target[0].exp()
    if particles == 1:
        assert ((found - myopic).abs() <= 5 * (myopic * (1 - myopic) / draws).sqrt()).all()
    if particles == 8:
        assert (found - target).abs().sum() < (myopic - target).abs().sum() / 2


def test_strings_at_temperature_one_are_samples_of_p(policy):
    """Nothing is drawn anew: the proposal is the target."""
    ids, weight = steer(TableWalk(LANGUAGE, policy, 1.0, 40_000), 4, 3, torch.Generator())
    assert weight.abs().max() <= 1e-12
    chances = log_probabilities(LANGUAGE, policy).exp()
    error = (chances * (1 - chances) / 40_000).sqrt()
    assert ((shares(LANGUAGE, ids, weight) - chances).abs() <= 5 * error).all()


# ---- training -----------------------------------------------------------------------------------


def test_the_gradient_of_the_reward_is_that_of_the_distance_to_the_target(problem):
    logits = problem.reference.clone().requires_grad_(True)
    q = log_probabilities(LANGUAGE, logits.log_softmax(2))
    tempering.divergence(q, problem.target).sum().backward()
    found = learning.reward_gradient(problem, problem.reference)
    torch.testing.assert_close(found, -logits.grad)


def test_a_true_advantage_is_what_a_token_adds_to_the_expected_reward(problem):
    found = learning.true_advantage(problem, problem.reference)
    for table, row in zip(tables(problem.reference), found.tolist(), strict=True):
        reward = {text: math.log(likelihood(table, text)) for text in LANGUAGE.texts}  # 1/τ - 1 = 1

        def value(begin, table=table, reward=reward):
            those = [t for t in LANGUAGE.texts if written(t).startswith(begin)]
            chances = [likelihood(table, text) for text in those]
            return sum(p * reward[t] for p, t in zip(chances, those, strict=True)) / sum(chances)

        for prefix, advantages in zip(table, row, strict=True):
            expected = [value(prefix + v) - value(prefix) for v in "ab$"]
            assert advantages == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["reward, even", "temper", "exact critic"])
def test_unbiased_rules_are_seen_to_be(problem, name):
    method = learning.methods(0.5, 3)[name]
    where = learning.on_the_way(problem, 0.5)
    found = learning.scatter(problem, where, method, learning.Budget(windows=400, completions=16))
    assert (found.bias <= 3 * found.floor).all()


def test_the_kl_term_of_the_loss_is_biased_and_ends_elsewhere(problem):
    every, budget = learning.methods(0.5, 3), learning.Budget()
    biased = every["TRL, beta=1"]
    where = learning.on_the_way(problem, 0.5)
    found = learning.scatter(problem, where, biased, budget)
    assert (found.bias > 3 * found.floor).any()
    ends = {
        name: learning.distance(problem, learning.train(problem, every[name], budget)).forward
        for name in ("temper", "TRL, beta=1", "lhts")
    }
    assert ends["temper"].mean() <= 0.005
    assert ends["lhts"].mean() <= 0.005
    assert ends["TRL, beta=1"].mean() > 5 * ends["temper"].mean()


def test_a_windows_gradient_is_autograds(problem):
    """The groups' gradients, against one backward pass for each."""
    budget = learning.Budget(windows=3, completions=4)
    method = learning.methods(0.5, 3)["temper"]
    found = learning.scatter(problem, problem.reference, method, budget)
    generator = torch.Generator().manual_seed(0)
    whole = learning.sample(problem, problem.reference, False, 12, generator)
    gradients = []
    for group in range(3):
        rows = whole.rows[:, 4 * group : 4 * group + 4]
        window = learning.Window(problem, problem.reference, rows, 4)
        logits = problem.reference.clone().requires_grad_(True)
        logq = window.of(logits.log_softmax(2))
        (3 * method.credit(window) * logq).sum().backward()  # 3 policies share the mean
        gradients.append(logits.grad.flatten(1))
    variance = torch.stack(gradients).var(dim=0).sum(dim=1)
    torch.testing.assert_close(found.variance, variance)


# ---- the verbs ----------------------------------------------------------------------------------


def run(arguments, out):
    assert cli.main([*arguments, "--out", str(out)]) == 0
    page = Read((out / "page.html").read_text())
    assert {"svg", "script"} & {tag for tag, _ in page.tags} == {"svg"}
    assert page.of("src") == page.of("href") == []
    return json.loads((out / "lab.json").read_text())


@pytest.mark.parametrize("arguments", [STRINGS, TEMPER])
def test_the_same_seed_gives_the_same_tables(arguments, tmp_path, capsys):
    one, two = (run(arguments, tmp_path / name)["tables"] for name in ("one", "two"))
    other = run([*arguments, "--seed", "1"], tmp_path / "other")["tables"]
    assert one == two != other
    assert "100%" in capsys.readouterr().err


def test_strings_tells_the_chain_rule_from_multi_token_prediction(tmp_path, capsys):
    found = run(STRINGS, tmp_path / "out")
    assert [row["n"] for row in found["tables"]["chain_rule"]] == [1, 2, 3]
    assert all(row["difference"] <= 1e-12 for row in found["tables"]["chain_rule"])
    assert {"missed_2", "nats_2", "missed_3", "nats_3"} <= set(found["tables"])
    said = " ".join(found["sentences"])
    assert "next-token cross entropy is the sequence's cross entropy" in said
    assert "Multi-token prediction is not that" in said
    assert "version" not in found["settings"]


def test_temper_names_every_method_and_its_noise(tmp_path, capsys):
    found = run(TEMPER, tmp_path / "out")
    rows = {row["method"]: row for row in found["tables"]["training_0.5"]}
    assert [*rows] == [
        "reward, even",
        "temper",
        "exact critic",
        "TRL, beta=1",
        "lhts",
        "lhts, h = 2",
    ]
    assert rows["reward, even"]["variance at p"] == 1
    assert rows["lhts"]["variance at p"] is None
    whole = [row["h = 3"] for row in found["tables"]["look_ahead"]]
    assert max(whole) <= 1e-12


def numbers(arguments, columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    return max(map(len, shown.splitlines())), Counter(re.findall(r"\d[\d.,e-]*", shown))


@pytest.mark.parametrize(
    "arguments",
    [
        [*STRINGS, "--beam", "2", "4", "8", "16"],
        TEMPER,
        [*TEMPER, "--length", "7", "--sampled_tau"],
    ],
)
def test_at_80_columns_every_number_is_whole(arguments, monkeypatch, capsys):
    width, found = numbers(arguments, "80", monkeypatch, capsys)
    assert width <= 80
    assert found == numbers(arguments, "300", monkeypatch, capsys)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["strings", "--policies", "1"],
            "there are 1 policies and beams of 1; expected at least 2",
        ),
        (["strings", "--beam", "0"], "there are 400 policies and beams of 0; expected at least 2"),
        (["strings", "--spread", "-1"], "spread is -1, expected at least 0"),
        (["strings", "--length", "20"], "more than the 50,000 that can be listed"),
        (["temper", "--tau", "0"], "tau is 0, for 5 policies; expected a finite number above 0"),
        (["temper", "--tau", "nan"], "tau is nan, for 5 policies"),
        (["temper", "--policies", "0"], "there are 0 policies, expected at least 1"),
        (["temper", "--policies", "1"], "for 1 policies; expected a finite number above 0, and at"),
        (["temper", "--samples", "0"], "64000 draws are to be kept one of 0; expected 1 or more"),
        (["temper", "--draws", "8"], "8 draws are to be kept one of 4, 16, 64"),
        (["temper", "--steps", "0"], "there are 0 steps of 64 completions, and 200 windows"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert cli.main(["lab", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""
    assert [line for line in shown.err.splitlines() if "error" in line] == [shown.err.strip()]


@pytest.mark.parametrize("arguments", [STRINGS, TEMPER])
def test_findings_are_not_overwritten(arguments, tmp_path, capsys):
    (tmp_path / "lab.json").write_text("mine")
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 2
    assert "holds findings already; name another --out" in capsys.readouterr().err
    assert (tmp_path / "lab.json").read_text() == "mine"
