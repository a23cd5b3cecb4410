"""Values of prefixes: by hand, by a slow loop, and their expected update by enumeration."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from drawn import NAN, close, double, one_group, random_rollouts, scored

from grpo_credit import CreditError, Rollouts, compute_credit
from grpo_credit.credit.allocations.baselines import loo
from grpo_credit.credit.allocations.vine import vine
from grpo_credit.credit.cuts import KINDS, Cuts

MODES = ["difference", "baseline"]


def slow_vine(rollouts, mode):
    credit = torch.zeros(rollouts.mask.shape, dtype=torch.float64)
    rewards, values = rollouts.rewards.tolist(), rollouts.prefix_values.tolist()
    for i in scored(rollouts):
        others = [j for j in scored(rollouts) if rollouts.group[j] == rollouts.group[i] and j != i]
        counted = rollouts.mask[i].nonzero().flatten().tolist()
        known = {c: v for c, v in enumerate(values[i]) if v == v and counted and c <= counted[-1]}
        if 0 not in known and others:
            known[0] = sum(rewards[j] for j in others) / len(others)
        for t in counted:
            if not any(c <= t for c in known):
                continue
            start = known[max(c for c in known if c <= t)]
            later = [c for c in known if c > t]
            reached = known[min(later)] if later and mode == "difference" else rewards[i]
            credit[i, t] = reached - start
    return credit


@pytest.mark.parametrize("mode", MODES)
def test_vine_equals_its_loop(mode):
    for seed in range(24):
        rollouts = random_rollouts(seed)
        close(vine(rollouts, mode=mode), slow_vine(rollouts, mode))


def test_vine_by_hand():
    rollouts = one_group([4, 2], [1.0, 0.0])
    values = double([NAN, 0.25, NAN, 0.75, NAN], [NAN, NAN, NAN, 0.5, NAN])  # 0.5: after its end
    rollouts = replace(rollouts, prefix_values=values)
    close(vine(rollouts), [[0.25, 0.5, 0.5, 0.25], [-1.0, -1.0, 0.0, 0.0]])
    close(vine(rollouts, mode="baseline"), [[1.0, 0.75, 0.75, 0.25], [-1.0, -1.0, 0.0, 0.0]])


@pytest.mark.parametrize("mode", MODES)
def test_without_values_vine_is_loo(mode):
    rollouts = random_rollouts(3)
    nothing = replace(rollouts, prefix_values=torch.full_like(rollouts.prefix_values, NAN))
    close(vine(nothing, mode=mode), loo(nothing))


def test_the_stretches_of_a_completion_sum_to_its_reward_over_the_start():
    rollouts = one_group([6, 6, 6], [1.0, 0.5, 0.0])
    values = torch.rand(3, 7, dtype=torch.float64)  # a cut at every token
    found = vine(replace(rollouts, prefix_values=values)).sum(1)
    close(found, rollouts.rewards - values[:, 0])


# ---- the expected update, over everything that may be drawn -------------------------------------


class Tree:
    """Completions of up to three tokens, 2 stops; right or wrong by chance, all of it listed."""

    def __init__(self, seed):
        rng = random.Random(seed)
        symbols = [p for n in range(3) for p in itertools.product((0, 1), repeat=n)]
        logits = {prefix: [rng.gauss(0, 1) for _ in range(3)] for prefix in symbols}
        self.number = {prefix: n for n, prefix in enumerate(symbols)}
        self.pi = {p: [math.exp(x) / sum(map(math.exp, row)) for x in row]
                   for p, row in logits.items()}  # fmt: skip
        self.paths = [(*p, 2) for p in symbols] + [*itertools.product((0, 1), repeat=3)]
        self.right = {path: float(rng.random() < 0.5) for path in self.paths}

    def chance(self, path, start=0):
        return math.prod(self.pi[path[:t]][path[t]] for t in range(start, len(path)))

    def value(self, prefix):
        """Give the chance to be right of a completion that goes on from a prefix."""
        n = len(prefix)
        ways = [path for path in self.paths if path[:n] == prefix]
        return sum(self.chance(path, n) * self.right[path] for path in ways)

    def estimates(self, prefix, count):
        """List what the mean of `count` continuations may be, and how likely it is."""
        v = self.value(prefix)
        return [(k / count, math.comb(count, k) * v**k * (1 - v) ** (count - k))
                for k in range(count + 1)]  # fmt: skip

    def score(self, prefix, token):
        """Return ∇ log π(token | prefix) with respect to all logits."""
        row = torch.zeros(len(self.number), 3, dtype=torch.float64)
        row[self.number[prefix]] = torch.eye(3)[token].double() - double(*self.pi[prefix])
        return row

    def gradient(self):
        return sum(
            self.chance(path) * self.right[path] * self.score(path[:t], path[t])
            for path in self.paths for t in range(len(path))
        )  # fmt: skip

    def rollouts(self, places=None):
        """Return each completion once, with what cuts look at."""
        lengths = [*map(len, self.paths)]
        made = Rollouts.from_lists(
            lengths, [*self.right.values()], num_generations=1, max_completion_length=3,
            completion_ids=self.paths, dtype=torch.float64,
        )  # fmt: skip
        pi = torch.full(made.mask.shape, 0.5, dtype=torch.float64)
        entropies = pi.clone()
        for row, path in enumerate(self.paths):
            for t, token in enumerate(path):
                at = self.pi[path[:t]]
                pi[row, t], entropies[row, t] = at[token], -sum(p * math.log(p) for p in at)
        return replace(made, old_logps=pi.log(), entropies=entropies)

    def expected_update(self, mode, count, places):
        """Average over the other completion, and over the values at the cuts of one."""
        pairs, values, chances = [], [], []
        for one, path in enumerate(self.paths):
            cuts = places[one].nonzero().flatten().tolist()
            each = [self.estimates(path[:c], count) for c in cuts]
            for drawn in itertools.product(*each):
                row = [NAN] * 4
                for c, (value, _) in zip(cuts, drawn, strict=True):
                    row[c] = value
                likely = self.chance(path) * math.prod(p for _, p in drawn)
                for other, second in enumerate(self.paths):
                    pairs += [one, other]
                    values += [row, [NAN] * 4]
                    chances.append(likely * self.chance(second))
        found = self.rollouts().rows(torch.tensor(pairs))
        group = torch.arange(len(pairs)) // 2
        found = replace(found, group=group, prefix_values=double(*values))
        credit = compute_credit("vine/seq", found, mode=mode)[::2] * len(pairs)
        assert sum(chances) == pytest.approx(1)
        by_path = torch.zeros(len(self.paths), 3, dtype=torch.float64)
        by_path.index_add_(0, torch.tensor(pairs[::2]), credit * double(*chances)[:, None])
        return sum(
            by_path[row, t] * self.score(path[:t], path[t])
            for row, path in enumerate(self.paths) for t in range(len(path))
        )  # fmt: skip


TREE = Tree(1)
PLACES = ["every:1", "every:2", "entropy:0.95", "probability:0.35"]


@pytest.mark.parametrize("cuts", PLACES)
@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("mode", MODES)
def test_the_expected_update_of_vine_is_the_gradient_for_any_number_of_continuations(
    mode, count, cuts
):
    places = Cuts.parse(cuts).places(TREE.rollouts(), str)
    assert places.any()
    assert cuts == "every:1" or not places[:, 1:].equal(TREE.rollouts().mask[:, 1:])
    close(TREE.expected_update(mode, count, places), TREE.gradient())


@pytest.mark.parametrize("mode", MODES)
def test_cuts_that_look_ahead_have_a_bias(mode):
    """Cut before the least likely token of the whole completion."""
    rollouts, truth = TREE.rollouts(), TREE.gradient()
    least = rollouts.old_logps.masked_fill(~rollouts.mask, 0.0).argmin(dim=1)
    places = (torch.arange(3) == least[:, None]) & (torch.arange(3) > 0)
    assert (TREE.expected_update(mode, 2, places) - truth).norm() > 0.02 * truth.norm()


# ---- cuts ---------------------------------------------------------------------------------------


def text_of(token):
    return ["a", "b. ", "c\n"][token % 3]


@pytest.mark.parametrize("cuts", [kind.example for kind in KINDS.values()] + ["every:2"])
def test_whether_a_completion_is_cut_hangs_on_its_past_alone(cuts):
    cuts = replace(Cuts.parse(cuts), number={"entropy": 0.3, "probability": 0.5}.get(
        cuts.split(":")[0], Cuts.parse(cuts).number % 61))  # fmt: skip
    found = False
    for seed in range(6):
        one, other = (random_rollouts(s, tokens=9) for s in (seed, seed + 50))
        one = one.rows(torch.arange(3))
        other = other.rows(torch.arange(3))
        places = cuts.places(one, text_of)
        found |= bool(places.any())
        assert not places[:, 0].any()
        assert not (places & ~one.mask).any()
        for c in range(1, 7):
            own = torch.arange(7) < c
            later = replace(
                one,
                completion_ids=torch.where(own, one.completion_ids, other.completion_ids),
                old_logps=torch.where(own, one.old_logps, other.old_logps),
                entropies=torch.where(torch.arange(7) <= c, one.entropies, other.entropies),
                mask=torch.where(torch.arange(7) <= c, one.mask, other.mask),
            )
            assert cuts.places(later, text_of)[:, : c + 1].equal(places[:, : c + 1])
    assert found


def test_cuts_by_hand():
    rollouts = one_group([[0, 1, 2, 0, 1], [1, 2]], [1.0, 0.0])
    logps = torch.full((2, 5), 0.5, dtype=torch.float64)
    logps[0, 1] = 0.05
    entropies = torch.zeros(2, 5, dtype=torch.float64)
    entropies[0, 3] = entropies[1, 0] = 2.0
    rollouts = replace(rollouts, old_logps=logps.log(), entropies=entropies)

    def columns(cuts):
        places = Cuts.parse(cuts).places(rollouts, text_of)
        return [row.nonzero().flatten().tolist() for row in places]

    assert columns("every:2") == [[2, 4], []]
    assert columns("sentence") == [[2, 3], [1]]  # not after the last token
    assert columns("probability:0.1") == [[2], []]
    assert columns("entropy:2") == [[3], []]  # not before the first token


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("evry:4", r"vine_cuts is 'evry:4', expected such as 'every:64', .* Did you mean 'every'"),
        ("every", "whose number '' does not fit"),
        ("every:0", "whose number '0' does not fit"),
        ("every:2.5", "whose number '2.5' does not fit"),
        ("every:inf", "whose number 'inf' does not fit"),
        ("sentence:2", "whose number '2' does not fit"),
        ("entropy:x", "whose number 'x' does not fit"),
        ("probability:1", "a probability below 1"),
    ],
)
def test_places_that_there_are_not_are_refused(text, message):
    with pytest.raises(CreditError, match=message):
        Cuts.parse(text)
