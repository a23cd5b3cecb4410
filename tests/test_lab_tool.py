"""A small tool task, listed exactly: what rules teach of calls, answers and filler."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import pad

from grpo_credit import CreditError, resolve_credit
from grpo_credit.credit.allocations import tree
from grpo_credit.credit.parse import resolve_text
from grpo_credit.lab.direction import exact_direction
from grpo_credit.lab.enumerable import TabularPolicy, exact_gradient, probabilities
from grpo_credit.lab.measurement import Problem, _rule, _updates, list_windows, measure
from grpo_credit.lab.problem import Space
from grpo_credit.lab.sampling import Sampling
from grpo_credit.lab.tool_language import Relayed, ToolLanguage

SMALL = ToolLanguage("oc", 2)
LONGER = ToolLanguage("ocf", 3)  # a word at once, or a call and a word; filler says nothing
PAIRS = Sampling(2, 1, 2, "none", 0)  # all windows are listed


def problem(seed, language=LONGER, spread=0.5):
    policy = TabularPolicy(language, seed, spread)
    return Problem(language, policy, Relayed(language))


def test_every_completion_is_listed_with_the_luck_of_the_tool():
    assert SMALL.texts == ("oo", "oc", "o", "c+", "c-", "")
    longer = ToolLanguage("ocf", 4, answers=(("+", 0.25), ("-", 0.75)))
    assert len(set(longer.texts)) == len(longer.texts)
    logps = TabularPolicy(longer, 3)().detach()
    assert float(probabilities(longer, logps).sum()) == pytest.approx(1, abs=1e-12)
    row = longer.texts.index("fc-o")
    assert longer.luck[row] == 0.75
    assert longer.mask[row].tolist() == [True, True, False, True]
    first, last = longer.turns[row]
    assert (first.start, first.end, first.role) == (0, 2, "call")
    assert (last.start, last.end, last.role) == (3, 4, "answer")
    assert longer.texts.count("c+c") == 1  # a call that is not answered is the end
    assert longer.truncated[longer.texts.index("c+c")]


def test_the_tool_answers_and_the_last_turn_is_what_earns():
    earns = dict(zip(SMALL.texts, Relayed(SMALL)(SMALL.texts), strict=True))
    assert earns == {"oo": 0, "oc": 0, "o": 1, "c+": 0, "c-": 0, "": 0}
    longer = ToolLanguage("ocf", 4)
    assert Relayed(longer)(["c+o", "c-o", "c+fo", "fo", "oc+", "co"]) == [1, 0, 1, 1, 0, 0]


def test_the_gradient_is_that_of_the_expectation_over_tool_and_model():
    policy = TabularPolicy(LONGER, 5)
    rewards = torch.tensor(Relayed(LONGER)(LONGER.texts), dtype=torch.float64)
    (probabilities(LONGER, policy()) @ rewards).backward()
    assert torch.allclose(exact_gradient(LONGER, policy, rewards), policy.logits.grad.flatten())


def test_the_answer_is_as_likely_before_a_turn_as_the_policy_has_it():
    asked, policy = problem(2), TabularPolicy(LONGER, 2, 0.5)
    found, word = asked.rollouts().answer_logps, LONGER.alphabet.index("o")
    chances = dict(zip(LONGER.prefixes, policy().detach().exp()[:, word].tolist(), strict=True))
    for row, text in enumerate(LONGER.texts):
        ids = LONGER.ids[row].tolist()
        before = {turn.start: chances[tuple(ids[: turn.start])] for turn in LONGER.turns[row]}
        assert before.keys() == set((~found[row].isnan()).nonzero().flatten().tolist()), text
        for start, chance in before.items():
            assert float(found[row, start].exp()) == pytest.approx(chance, rel=1e-6)


def test_a_gain_of_the_answers_odds_is_not_the_reward():
    found = measure(problem(0), {"igpo/seq": resolve_credit("igpo/seq")}, PAIRS)
    assert found.rules[0].direction.error > 0.05


UNBIASED = ["seq", "uniform", "loo/seq", "turns/seq", "steps/seq", "to_go/seq"]


@pytest.mark.parametrize("credit", ["decided/seq", "automaton/seq", "loo+decided/dapo"])
def test_rules_of_what_is_settled_refuse_a_tool(credit):
    with pytest.raises(
        CreditError, match=r"cannot be used with tools: .* would call a message set"
    ):
        measure(problem(0), {credit: resolve_credit(credit)}, PAIRS)


# Of those that accept tools, what they teach of each kind of token against the truth.
BIASED = [
    "length",
    "dapo",
    "gigpo/seq",
    "prefix_tree/seq",
    "tree_td/seq",
    "tempo/seq",
    "treerl/seq",
]
KINDS = {"answer": 0, "call": 1, "filler": 2}


def taught(problem, credits):
    """Return the expected update of each rule as (prefix, token), over all windows."""
    windows = list_windows(problem, PAIRS)
    rules = [_rule(resolve_text(credit)) for credit in credits]
    updates = _updates(Space.of(problem), PAIRS, windows.rows, rules, None)
    return {
        credit: (windows.chance @ update).view(-1, problem.language.end + 1)
        for credit, update in zip(credits, updates, strict=True)
    }


@pytest.fixture(scope="module", params=range(3))
def setting(request):
    one = problem(request.param)
    credits = ["seq", "turns/seq"] if request.param else [*UNBIASED, *BIASED]
    truth = exact_gradient(LONGER, one.policy, one.rewards()).view(-1, LONGER.end + 1)
    return taught(one, credits), truth


def test_no_rule_teaches_the_opposite_of_the_truth(setting):
    updates, truth = setting
    for credit, update in updates.items():
        for kind, token in KINDS.items():
            assert update[:, token] @ truth[:, token] > 0, (credit, kind)
        if credit in UNBIASED:
            direction = exact_direction(update.flatten(), truth.flatten())
            assert direction.error < 1e-9, credit


def test_luck_of_the_tool_is_nobodys(monkeypatch):
    """After the tool has spoken the model has no choice to make, so nobody earns what it says."""
    language = ToolLanguage("c", 3, answers=(("+", 0.5), ("-", 0.5)))
    everything = Problem(language, TabularPolicy(language), Relayed(language, word="")).rollouts()
    rows = torch.tensor([language.texts.index(text) for text in ("c+", "c-")])
    window = everything.rows(rows)
    window = replace(window, advantages=window.rewards - window.rewards.mean())
    assert window.rewards.tolist() == [1, 0]
    assert (tree.tree_td(window) * window.mask == 0).all()
    assert torch.equal(tree.tempo(window), window.advantages[:, None] * window.mask)

    def paid_to_the_next(after, start, final, mask):  # as it would be otherwise
        number = torch.where(mask, torch.arange(mask.shape[1]) + 1, 0)
        previous = pad(number.cummax(dim=1).values[:, :-1], (1, 0))
        return after - torch.cat([start[:, None], after], dim=1).gather(1, previous)

    monkeypatch.setattr(tree, "temporal_differences", paid_to_the_next)
    assert (tree.tree_td(window) * window.mask).abs().sum(dim=1).tolist() == [0.5, 0.5]
