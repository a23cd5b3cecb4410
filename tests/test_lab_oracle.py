"""Scores of credit against known causes: by hand, by slow loops, and of the rules."""

import pytest
import torch

from grpo_credit import Rollouts, resolve_credit
from grpo_credit.credit.needs import tells
from grpo_credit.credit.parse import resolve_text
from grpo_credit.lab.batches import Batch, draw
from grpo_credit.lab.oracle import by_chance, measure, missing, truth
from grpo_credit.lab.report_oracle import Scored, findings
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.scores import Scores, auroc, pick, score
from grpo_credit.lab.tasks import TASKS, Keys, PathStar
from grpo_credit.lab.verbs import ORACLE


def batch_of(advantage, lengths):
    rollouts = Rollouts.from_lists(
        lengths, [0.0] * len(lengths), num_generations=len(lengths), max_completion_length=8
    )
    return Batch(rollouts, torch.tensor(advantage, dtype=torch.float64))


# ---- scores by hand ---------------------------------------------------------------------------

# Two completions; three tokens decide, one of them hurts, and one (0.005) moves next to nothing.
TRUTH = [[0.5, 0.0, 0.005, -0.5], [0.0, 0.3, 0.0, 0.0]]


def test_scores_by_hand():
    batch = batch_of(TRUTH, [4, 3])
    found = score(torch.tensor([[0.2, 0.1, -0.3, -0.4], [0.7, 0.0, 0.7, 0.0]]), batch)
    # pairs of the first: 0.2 against 0.1, 0.3: one of two; 0.4: both. Of the second: none of two
    assert found.auroc == pytest.approx(3 / 6)
    # picked: two of the first (0.4 hits, 0.3 does not), and of the second both of 0.7, which tie
    assert found.precision == pytest.approx(1 / 4)
    assert found.recall == pytest.approx(1 / 3)
    # signs: + and - are right; no credit counts half
    assert found.sign == pytest.approx(2.5 / 3)


def test_the_same_credit_everywhere_says_nothing():
    batch = batch_of(TRUTH, [4, 3])
    even = torch.tensor([[2.0], [-3.0]]) * batch.rollouts.mask
    found = score(even, batch)
    # all are picked: three of seven decide; signs of the first: one of two, of the second none
    assert found[:4] == pytest.approx((0.5, 3 / 7, 1.0, 1 / 3))
    assert found.order == 0.5
    assert score(torch.zeros(2, 4), batch) == (0.5, 0.0, 0.0, 0.5, 0.0, 0.5)


def test_rounding_breaks_no_tie():
    batch = batch_of(TRUTH, [4, 3])
    noise = 1 + 1e-12 * torch.arange(8).view(2, 4).double()
    assert score(noise * batch.rollouts.mask, batch).auroc == 0.5


def test_the_truth_has_every_score():
    batch = batch_of(TRUTH, [4, 3])
    assert score(truth(batch), batch) == pytest.approx((1, 1, 1, 1, 1, 1))
    turned = score(-truth(batch), batch)
    assert turned == pytest.approx((1, 1, 1, 0, -1, 0))


def test_the_order_by_hand_and_under_a_shift():
    batch = batch_of(TRUTH, [4, 3])
    credit = torch.tensor([[0.2, 0.1, -0.3, -0.4], [0.7, 0.0, 0.7, 0.0]])
    # first: 0.5 above the other three, and all above -0.5: five pairs, all right (0 and 0.005 are
    # no pair); second: 0.3 above 0 twice, both wrong
    found = score(credit, batch)
    assert found.order == pytest.approx(5 / 7)
    shifted = score(credit + torch.tensor([[3.0], [-5.0]]), batch)
    assert shifted.order == found.order
    assert shifted.auroc != found.auroc


def test_auroc_is_that_of_midranks():
    """Per row U = Σ rank of the positives - n(n + 1)/2, ranks of equal ones averaged."""
    from scipy.stats import rankdata

    generator = torch.Generator().manual_seed(0)
    size = torch.randint(0, 4, (300, 9), generator=generator).double()
    kind = torch.randint(0, 3, (300, 9), generator=generator)  # 2: not counted
    wins, pairs = 0.0, 0
    for values, kinds in zip(size, kind, strict=True):
        counted = kinds < 2
        ranks = torch.tensor(rankdata(values[counted].numpy()))
        positive = kinds[counted] == 1
        n, m = int(positive.sum()), int((~positive).sum())
        wins += float(ranks[positive].sum()) - n * (n + 1) / 2
        pairs += n * m
    assert auroc(size, kind == 1, kind == 0) == pytest.approx(wins / pairs, abs=1e-12)


def test_picking_takes_ties_and_leaves_zeros():
    size = torch.tensor([[3.0, 2.0, 2.0, 1.0], [0.0, 5.0, 0.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True] * 4])
    found = pick(size, mask, torch.tensor([2, 2, 0]))
    assert found.tolist() == [[True, True, True, False], [False, True, False, False], [False] * 4]


def test_a_batch_in_which_nothing_decides_has_no_score():
    found = score(torch.ones(2, 4), batch_of([[0.0] * 4] * 2, [4, 4]))
    assert torch.tensor(found[:1] + found[3:4]).isnan().all()
    assert (found.precision, found.recall) == (0, 0)


# ---- drawing ----------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_batches():
    sampling, others = Sampling(10, 16), Sampling(10, 16, seed=1)
    first, again = draw(PathStar(), sampling, 1), draw(PathStar(), sampling, 1)
    assert first.rollouts.texts == again.rollouts.texts
    for other in (
        draw(PathStar(), sampling, 2),
        draw(PathStar(), others, 1),
    ):
        assert other.rollouts.texts != first.rollouts.texts
    assert first.rollouts.group.bincount().tolist() == [8] * 16


@pytest.mark.parametrize("few", [{"windows": 1}, {"groups": 0}, {"num_generations": 1}])
def test_too_few_to_compare_are_refused(few):
    with pytest.raises(ValueError, match="expected at least 2 of them, for standard errors, 1 gro"):
        Sampling(**{"windows": 2, **few})


# ---- the rules --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=TASKS)
def scored(request):
    task = TASKS[request.param]()
    rules = {name: resolve_text(name) for name in ORACLE}
    lacks = {name: missing(task, rule) for name, rule in rules.items()}
    fed = {name: rule for name, rule in rules.items() if not lacks[name]}
    return request.param, Scored(measure(task, fed, Sampling(5, 16)), lacks)


def test_the_truth_ranks_first(scored):
    _, found = scored
    assert found.ranked[0] == "truth"
    best = found.scores["truth"]
    assert [best[s].mean for s in Scores._fields] == pytest.approx([1] * 6)
    for rule in found.measured:
        assert best["auroc"].mean >= found.scores[rule]["auroc"].mean
        assert found.scores[rule]["correlation"].mean < 1 - 1e-4, rule


def test_chance_is_at_one_half(scored):
    _, found = scored
    for name in ("auroc", "sign", "order"):
        mean, error = found.scores["random"][name]
        assert 0 < error < 0.05
        assert abs(mean - 0.5) < 0.1  # not by `error`, which five batches know badly


def test_even_credit_is_at_one_half_exactly(scored):
    _, found = scored
    assert found.scores["seq"]["auroc"] == (0.5, 0)


WHAT_IS_NOT_TOLD = {
    "keys": {"automaton/seq": ["states"], 'automaton/seq {"mode": "td"}': ["states"]},
    "regex": {"steps/seq": ["step_rewards"]},
    "arithmetic": {"spans/seq": ["spans"], "steps/seq": ["step_rewards"]},
    "path_star": {"spans/seq": ["spans"], "steps/seq": ["step_rewards"]},
    "recovery": {"steps/seq": ["step_rewards"]},
    "horizon": {"steps/seq": ["step_rewards"]},
}


def test_what_a_task_does_not_tell_is_reported(scored):
    name, found = scored
    assert {r: needs for r, needs in found.lacks.items() if needs} == WHAT_IS_NOT_TOLD[name]
    report = findings({name: found}, Sampling(10, 16), "x")
    for rule, (need,) in WHAT_IS_NOT_TOLD[name].items():
        assert {"credit": rule, "task": name, "not told": need} in report.tables[-1].rows
        assert f"{rule} ({need})" in report.sentences[-1]


def test_rules_that_know_the_cause_find_it(scored):
    """What is known of the tasks by construction, with room for chance."""
    name, found = scored
    auroc = {rule: scores["auroc"].mean for rule, scores in found.scores.items()}
    if name == "keys":
        assert auroc["spans/seq"] > 0.9  # 1 but for groups without a difference
        assert auroc["entropy_top/seq"] < 0.5  # filler is less certain
    if name == "regex":
        assert auroc['automaton/seq {"mode": "td"}'] > 0.9
        assert auroc["decided/seq"] > 0.6  # tails are left out
    if name == "path_star":
        # the one uncertain token; all but groups without a success, (3/4)^8 = 0.1, which tie
        assert auroc["entropy_soft/seq"] == pytest.approx(0.95, abs=0.1)
        assert auroc["tree_td/seq"] == pytest.approx(auroc["entropy_soft/seq"])
    if name == "arithmetic":
        assert 0.5 < auroc["tree_td/seq"] < 0.8


def test_the_aggregation_does_not_matter_within_completions():
    names = ("tree_td/seq", "tree_td/length", "tree_td/dapo")
    found = measure(Keys(), {n: resolve_credit(n) for n in names}, Sampling(2, 16))
    one, two, three = (found[name] for name in names)
    for score_name in ("auroc", "precision", "recall", "sign"):
        assert one[score_name] == two[score_name] == three[score_name]


def test_errors_are_those_of_independent_batches():
    sampling = Sampling(3, 2)
    strategy = resolve_credit("tree_td/seq")
    found = measure(PathStar(), {"x": strategy}, sampling)["x"]["correlation"]
    each = [draw(PathStar(), sampling, number) for number in range(3)]
    values = torch.tensor([score(strategy.credit(b.rollouts), b).correlation for b in each])
    assert found.mean == pytest.approx(float(values.mean()))
    assert found.error == pytest.approx(float(values.std()) / 3**0.5, abs=1e-6)


def test_a_second_prompt_is_not_told():
    assert missing(PathStar(), resolve_credit("contrast/seq")) == ["privileged_logps"]


def test_a_reward_may_tell_prompt_by_prompt():
    assert tells(PathStar().reward, "states")
    assert not tells(Keys().reward, "states")
    by_prompt = type("R", (), {"automaton_for": lambda self, prompt: None})()
    assert tells(by_prompt, "states")
    by_prompt.automaton = None  # says itself that it has none
    assert not tells(by_prompt, "states")


def test_chance_is_drawn_anew_and_the_same_for_a_seed():
    batch = batch_of(TRUTH, [4, 3])
    rule, again = by_chance(5), by_chance(5)
    first = rule(batch)
    assert first.equal(again(batch))
    assert not rule(batch).equal(first)
    assert float(first[1, 3]) == 0  # not counted
