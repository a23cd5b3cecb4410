"""Races: the truth on chains by enumeration, rules through the package, and who wins where."""

import itertools
import json
import math
from dataclasses import replace

import pytest
import race_rules
import torch
from harness import shipped

from grpo_credit import cli
from grpo_credit.credit.needs import OF_A_TRAINER
from grpo_credit.credit.parse import resolve_text
from grpo_credit.lab import verbs
from grpo_credit.lab.race.chain import TASKS, Chain
from grpo_credit.lab.race.compare import EXACT, SEQ, TRUTH, Raced, Ratio, Told, _guess, run
from grpo_credit.lab.race.racing import Race, Start, at_start, tell, tune
from grpo_credit.lab.race.rules import missing, through, truth
from grpo_credit.lab.race.runs import Runs

ALL = Chain(length=4, decisions=2, symbols=3, pool=3, groups=2, num_generations=4)
SHARE = replace(ALL, graded=True)
APART = replace(ALL, apart=True)
FORCED = replace(ALL, forced=True)
CHAINS = [ALL, SHARE, APART, FORCED, replace(SHARE, early=True)]


def trained(chain, seeds=3, steps=3):
    """Make runs whose policies are no longer those of the start."""
    runs = Runs(chain, [1.0, 2.0], seeds)
    for _ in range(steps):
        runs.step(runs.gradient(runs.policy()))
    return runs


def everything(chain):
    return torch.tensor(list(itertools.product(range(chain.symbols), repeat=chain.length)))


def enumerated(runs):
    """List every completion: whether it is right, its probability, for each run and prompt."""
    chain, pi = runs.chain, runs.policy().double()
    tokens = everything(chain)
    ok = (tokens == runs.right[:, :, None]) | ~chain.decides  # (S, M, C, T)
    by_token = pi[:, :, None].expand(-1, -1, len(tokens), -1, -1)
    index = tokens.expand(*ok.shape)[..., None]
    return ok, by_token.gather(-1, index)[..., 0].prod(-1)


@pytest.mark.parametrize("chain", CHAINS)
def test_height_and_gradient_are_those_of_the_enumerated_expectation(chain):
    runs = trained(chain)
    ok, chances = enumerated(runs)
    torch.testing.assert_close(chances.sum(-1), torch.ones_like(chances[..., 0]))
    earned = (chances * chain.pay.columns(ok).mean(-1)).sum(-1).mean(-1)
    torch.testing.assert_close(
        runs.height(runs.policy()).flatten().double(), earned, rtol=1e-5, atol=0
    )
    runs.theta.requires_grad_()
    ok, chances = enumerated(runs)
    expected = (chances * chain.pay.columns(ok).mean(-1)).sum(-1).mean(-1).sum()
    (by_autograd,) = torch.autograd.grad(expected, runs.theta)
    found = runs.gradient(runs.policy().detach())
    torch.testing.assert_close(found, by_autograd.flatten(0, 1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chain", CHAINS)
def test_values_are_expectations_over_what_may_follow(chain):
    runs = trained(chain)
    ok, chances = enumerated(runs)
    p = runs.right_chance(runs.policy()).double()[:, :, None]
    rewards, values = chain.pay.columns(ok).mean(-1).double(), chain.pay.values(ok, p)
    tokens = everything(chain)
    for t in range(chain.length + 1):
        same = (tokens[:, None, :t] == tokens[None, :, :t]).all(-1).double()
        expected = (same @ (chances * rewards)[..., None]) / (same @ chances[..., None])
        seen = chances > 1e-9  # forced filler says nothing else
        torch.testing.assert_close(
            values[..., t][seen], expected[..., 0][seen], rtol=1e-5, atol=1e-7
        )
    variance = (chances * rewards.square()).sum(-1) - (chances * rewards).sum(-1).square()
    divided = (chances * values.diff(dim=-1).square().sum(-1)).sum(-1)
    torch.testing.assert_close(divided, variance, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chain", [ALL, SHARE])
def test_states_and_decided_tell_what_the_rest_can_still_change(chain):
    ok, _ = enumerated(trained(chain))
    ok = ok[0, 0]
    rewards, states, settled = chain.pay.columns(ok), chain.pay.states(ok), chain.pay.settled(ok)
    differ = rewards.mean(-1)[:, None] != rewards.mean(-1)
    for t in range(chain.length + 1):
        tail = (ok[:, None, t:] == ok[None, :, t:]).all(-1)
        assert not (differ & tail & (states[:, None, t] == states[:, t])).any()
        head = (ok[:, None, :t] == ok[None, :, :t]).all(-1)
        by_now = (settled <= t)[:, None] & head[..., None]
        assert not (by_now & (rewards[:, None] != rewards)).any()


@pytest.mark.parametrize("chain", [TASKS["base"], TASKS["graded"], TASKS["noisy"], TASKS["early"]])
def test_rules_through_the_package_are_those_written_for_all_runs_at_once(chain):
    runs = Runs(chain, [0.0], 3, first=5)
    draw = runs.draw(runs.policy())
    written = race_rules.EVERYWHERE | (race_rules.GRADED if chain.graded else {})
    for name, rule in written.items():
        found = through(chain, resolve_text(name))(draw)
        torch.testing.assert_close(found, rule(draw) / chain.completions, rtol=0, atol=1e-6)


def test_runs_are_credited_together_where_that_is_the_same_and_apart_where_not():
    pooled = {name: through(ALL, resolve_text(name)).__name__ for name in ("seq", "automaton/seq")}
    assert pooled == {"seq": "together", "automaton/seq": "apart"}


@pytest.mark.parametrize("chain", [ALL, SHARE])
def test_every_registered_rule_is_raced_or_said_to_be_unfed(chain):
    options = {"potential": None, "softmax_length": {"lam": 1.0}}
    options |= {name: {"tau": 0.5} for name in ("lhts", "temper")}
    untold = OF_A_TRAINER | {"turns"} | (set() if chain.graded else {"spans", "step_rewards"})
    runs = Runs(chain, [0.0], 2)
    draw = runs.draw(runs.policy())
    for rule in shipped():
        given = options.get(rule.name, {})
        if given is None:
            continue  # a potential is a function of the user's
        name = rule.name if rule.kind == "aggregation" else f"{rule.name}/seq"
        strategy = resolve_text(f"{name} {json.dumps(given)}" if given else name)
        lacks = missing(chain, strategy)
        assert set(lacks) == strategy.needs & untold
        if not lacks:
            assert through(chain, strategy)(draw).isfinite().all()


def test_the_update_is_the_credit_times_the_gradients_of_the_tokens():
    runs = trained(ALL)
    draw = runs.draw(runs.policy())
    credit = torch.randn(draw.ok.shape)
    found = runs.update(draw, credit)
    weights = torch.zeros(len(found), ALL.features, ALL.symbols, requires_grad=True)
    logits = draw.features @ weights[:, None]  # the softmax at `pi`, moved by the weights
    logps = (draw.pi.log() + logits).log_softmax(-1)[:, :, None].expand(*draw.ok.shape, -1)
    total = (credit * logps.gather(-1, draw.tokens[..., None])[..., 0]).sum()
    torch.testing.assert_close(found, torch.autograd.grad(total, weights)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("chain", "expected"), [(ALL, 1.0), (SHARE, 1.0)])
def test_true_advantages_are_unbiased(chain, expected):
    """The factor over 24 x 16 steps has a standard error of about 0.05 here."""
    assert at_start(chain, truth).factor == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_same_seed_gives_the_same_table(optimizer, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["lab", "race", "--task", "forced", "--optimizer", optimizer, "--seeds", "3",
                 "--tuning_seeds", "2", "--limit", "6", "--credit", "seq",
                 "spans/seq", "raced_rules:half"]  # fmt: skip
    (tmp_path / "raced_rules.py").write_text(
        "def half(rollouts):\n    return rollouts.advantages[:, None] * rollouts.mask / 64\n"
    )
    tables = []
    for number, seed in enumerate(("0", "0", "1")):
        out = tmp_path / str(number)
        assert cli.main([*arguments, "--seed", seed, "--out", str(out)]) == 0
        tables.append(json.loads((out / "lab.json").read_text())["tables"]["race"])
    assert tables[0] == tables[1] != tables[2]  # another seed gives another one
    rows = {row["credit"]: row for row in tables[0]}
    assert rows["spans/seq"]["steps"] is None
    assert rows[arguments[-1]]["predicted"] == pytest.approx(1)  # half the step, the same noise
    assert "Not raced, as the task does not tell: spans/seq (spans)." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1"], "there are 1 seeds, 8 to tune on, and 800 steps at most; expected 2"),
        (["--limit", "0"], "and 0 steps at most"),
        (["--credit", "tree_tt/seq"], "tree_td"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert cli.main(["lab", "race", *arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)


def test_a_chain_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="is no chain; expected as many tokens as decisions"):
        Chain(length=2, decisions=3)


def test_the_command_line_names_every_chain():
    assert set(verbs.CHAINS) == set(TASKS)


def test_a_race_ends_behind_the_target_or_at_the_limit():
    race = Race(replace(ALL, target=0.5), seeds=4, limit=60)
    curve = tell(race, None, 8.0)
    assert float(curve[-1].mean()) >= 0.5
    assert len(curve) <= 61
    still = tell(replace(race, limit=5), None, 0.0)
    assert len(still) == 6
    torch.testing.assert_close(still[-1], still[0])


@pytest.mark.slow
def test_where_every_token_but_one_is_forced_there_is_nothing_to_win():
    raced = run(Race(TASKS["forced"]), {})
    assert 0.9 <= raced.headroom.value <= 1.15
    assert raced.captured(TRUTH) is None


@pytest.mark.slow
def test_perfect_credit_wins_on_the_base_task_and_a_baseline_is_between():
    raced = run(Race(TASKS["base"]), {"automaton/seq": resolve_text("automaton/seq")})
    assert 4 <= raced.headroom.value <= 6
    assert raced.told[EXACT].steps < raced.told[TRUTH].steps < raced.told[SEQ].steps
    heights = [raced.height(rule) for rule in (TRUTH, "automaton/seq", SEQ)]
    for above, below in itertools.pairwise(heights):
        difference = above - below  # over the same seeds
        assert difference.mean() > -2 * difference.std() / len(difference) ** 0.5
    assert raced.told[TRUTH].start.variance < raced.told["automaton/seq"].start.variance
    assert raced.told["automaton/seq"].start.variance < raced.told[SEQ].start.variance


# ---- what a race says ---------------------------------------------------------------------------


def told(steps, variance=1.0, factor=1.0, rate=1.0, optimizer="sgd"):
    """Make a rule whose seeds all come to the target after so many steps, of 20 at most."""
    curve = torch.full((min(steps, 20) + 1, 4), 0.5)
    curve[steps:] = 0.9
    return Told(Race(ALL, optimizer, limit=20), rate, Start(variance, factor), curve)


def raced(seq, best, **rules):
    return Raced(seq.race, {SEQ: seq, TRUTH: best, **rules}, {})


def test_what_a_rule_saves_by_hand():
    made = raced(told(12, variance=7.5), told(3), half=told(6, variance=1.5), late=told(21))
    assert made.headroom == Ratio(4.0, 4.0, 4.0)
    assert made.tokens("half") == Ratio(0.5, 0.5, 0.5)
    shares = [made.captured(rule) for rule in (TRUTH, "half", SEQ, "late")]
    for share, expected in zip(shares, (1, (1 - 1 / 2) / (1 - 1 / 4), 0, -8 / 9), strict=True):
        assert (share.value, share.low, share.high) == pytest.approx((expected,) * 3)
    assert made.predicted("half") == 2.0
    heights = [told(3).heights(horizon) for horizon in (1, 3, 5)]  # 0.5 three times, then 0.9
    assert [float(own[0]) for own in heights] == pytest.approx([0.5, 0.6, 0.7])


def test_there_are_no_shares_of_what_saves_too_little_or_never_arrives():
    assert raced(told(20), told(19)).captured(TRUTH) is None
    never = raced(told(21), told(3), half=told(6), late=told(21))
    assert never.captured("late") is None
    assert never.captured("half").value > 0


@pytest.mark.parametrize("limit", [800, 5])  # 5: nobody arrives, and heights decide
@pytest.mark.parametrize(("best", "guess"), [(1.0, None), (16.0, None), (2048.0, None), (6.0, 3.0)])
def test_the_best_rate_is_found_on_seeds_that_are_not_told(best, guess, limit, monkeypatch):
    streams = []

    def slower_off_the_best(race, rule, rates, seeds, first, over, limit):
        streams.append(first)
        steps = torch.tensor([20 + 10 * abs(math.log2(rate / best)) for rate in rates])
        heights = []
        while len(heights) <= limit and not (heights and over(heights)):
            heights.append((len(heights) / steps).clamp(max=1)[:, None].expand(-1, seeds))
        return torch.stack(heights)

    monkeypatch.setattr(Race, "run", slower_off_the_best)
    race = Race(ALL, limit=limit)
    assert tune(race, None, guess) == best
    tell(race, None, best)
    assert streams[-1] not in streams[:-1]


@pytest.mark.parametrize(
    ("variance", "factor", "optimizer", "rate"),
    [
        (3.5, 1.0, "sgd", 4.0),  # log(1/2 + 3.5) is half-way between those of 7.5 and 1.5
        (3.5, 0.5, "sgd", 8.0),  # half the step wants twice the rate
        (3.5, 0.5, "adamw", 4.0),
        (99.0, 1.0, "sgd", 1.0),
        (3.5, 0.0, "sgd", 1.0),
    ],
)
def test_tuning_starts_between_the_rates_of_seq_and_the_truth(variance, factor, optimizer, rate):
    seq = told(12, variance=7.5, optimizer=optimizer)
    best = told(3, variance=1.5, rate=16.0, optimizer=optimizer)
    assert _guess(Start(variance, factor), seq, best) == pytest.approx(rate)


def test_half_the_credit_is_half_the_step_and_as_noisy():
    whole, half = at_start(ALL, truth), at_start(ALL, lambda draw: truth(draw) / 2)
    assert half.factor == pytest.approx(whole.factor / 2)
    assert half.variance == pytest.approx(whole.variance)


def test_before_training_the_right_symbol_has_the_chance_of_the_chain():
    runs = Runs(replace(ALL, chance=0.3), [0.0], 2)
    pi = runs.policy()
    places = runs.right_chance(pi)[..., ALL.places]
    torch.testing.assert_close(places, torch.full_like(places, 0.3))
    assert pi[..., ~ALL.decides, :].allclose(torch.tensor(1 / ALL.symbols))
