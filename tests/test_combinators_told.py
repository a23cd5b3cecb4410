"""What combinations say beside the score: spans, and when it is decided."""

import itertools
import random

from rewards import clip, gate, schedule, weighted
from rewards.contract import Decided, TextReward
from rewards.repetition import Repetition


def length(completions, **_):
    """Score a text by its characters; it says nothing beside that."""
    return [float(len(text)) for text in completions]


class Marked(TextReward):
    """Score 1, and name the characters of a letter."""

    def __init__(self, letter, name):
        super().__init__(name)
        self.letter = letter

    def score(self, text):
        return 1.0

    def spans(self, completions, prompts=None):
        letter = prompts[0] if prompts else self.letter
        return [
            {"here": [(i, i + 1) for i, c in enumerate(text) if c == letter]}
            for text in completions
        ]


A, B = Marked("a", "A"), Marked("b", "B")


def test_spans_are_those_of_all_parts():
    every = [(place, place + 1) for place in range(40)]
    assert gate(A, by=B).spans(["ba" * 20, "c"]) == [{"here": every}, {"here": []}]
    assert clip(A, 0, 1).spans(["ba"]) == [{"here": [(1, 2)]}]
    assert schedule(A, {0: 1}).spans(["ba"]) == [{"here": [(1, 2)]}]
    assert gate(length, by=A).spans(["ba"]) == [{"here": [(1, 2)]}]
    assert gate(length, by=length).spans(["ba"]) == [{}]


def test_spans_of_a_sum_keep_apart_by_part():
    both = weighted({A: 1.0, B: 1.0, length: 1.0}, name="sum")
    assert both.spans(["ba"]) == [{"A/here": [(1, 2)], "B/here": [(0, 1)]}]
    assert weighted({both: 1.0}).spans(["ba"]) == [{"sum/A/here": [(1, 2)], "sum/B/here": [(0, 1)]}]


def test_prompts_reach_the_parts_that_ask_for_them():
    both = gate(A, by=Repetition(1))
    assert both.spans(["x b b"], prompts=["b"]) == [
        {"here": [(2, 3), (4, 5)], "repeated": [(4, 5)]}
    ]


class Table(TextReward):
    """Score every text of at most three letters "ab" by a table; know when it is decided.

    `slack` characters too late, if not 0, and then inexact.
    """

    def __init__(self, scores, name, slack=0):
        super().__init__(name)
        self.scores, self.slack = scores, slack

    def score(self, text):
        return self.scores[text]

    def decided(self, completions):
        return [self._decided(truth(self.scores, text)) for text in completions]

    def _decided(self, chars):
        if not self.slack:
            return Decided(chars)
        return Decided(None if chars is None else chars + self.slack, exact=False)


WORLD = ["".join(text) for size in range(4) for text in itertools.product("ab", repeat=size)]


def truth(scores, text):
    """Find the shortest prefix that all texts of the world continue to the same score."""
    for chars in range(len(text) + 1):
        if len({scores[other] for other in WORLD if other.startswith(text[:chars])}) == 1:
            return chars
    return None


def table(rng, name, values):
    """Draw scores that are settled at some prefixes, as a format's are."""
    scores = {}
    for text in WORLD:
        parent = scores.get(text[:-1]) if text else None
        frozen = parent is not None and parent[1]
        value = parent[0] if frozen else rng.choice(values)
        scores[text] = (value, frozen or rng.random() < 0.35)
    slack = rng.choice([0, 0, 1])
    return Table({text: value for text, (value, _) in scores.items()}, name, slack)


def claims(make, values):
    """Compare what combinations of drawn tables claim with the truth; count the exact claims."""
    exact = 0
    for seed in range(150):
        rng = random.Random(seed)
        combined = make(table(rng, "one", values), table(rng, "two", values))
        scores = dict(zip(WORLD, combined(WORLD, progress=0.25), strict=True))
        for text, claim in zip(WORLD, combined.decided(WORLD), strict=True):
            chars = truth(scores, text)
            assert claim.chars is None or (chars is not None and chars <= claim.chars)
            assert not claim.exact or chars == claim.chars
            exact += claim.exact and claim.chars != 0
    return exact


def test_a_gated_score_is_decided_when_it_says():
    assert claims(lambda one, two: gate(one, by=two), [0.0, 1.0]) > 100
    assert claims(lambda one, two: gate(one, by=two), [0.0, 0.5, 1.0, None]) > 100


def test_a_sum_is_decided_when_it_says():
    assert claims(lambda one, two: weighted({one: 1.0, two: 1.0}), [0.0, 1.0]) > 100
    assert claims(lambda one, two: weighted({one: 1.0, two: -1.0}), [0.0, 1.0]) > 100
    assert claims(lambda one, two: weighted({one: 1.0, two: 0.0}), [0.0, 1.0]) > 100
    assert claims(lambda one, two: weighted({one: 1.0, two: 0.25}), [0.5, 1.0, None]) > 100


def test_a_clipped_score_is_decided_when_it_says():
    assert claims(lambda one, two: clip(one, 0.5, 1.0), [0.0, 0.25, 1.0, 2.0]) == 0


def test_a_scheduled_score_is_decided_when_it_says():
    assert claims(lambda one, two: schedule(one, {0.0: 2.0, 1.0: 1.0}), [0.0, 1.0]) > 100
    assert claims(lambda one, two: schedule(one, {0.25: 0.0, 1.0: 1.0}), [0.0, 1.0]) == 0


def test_nested_scores_are_decided_when_they_say():
    def make(one, two):
        by = weighted({two: 1.0}, name="by")
        return weighted({gate(one, by=by): 1.0, two: 0.5}, name="sum")

    assert claims(make, [0.0, 1.0]) > 0


def test_a_failed_gate_is_decided_where_the_form_failed():
    # what begins with "a" has failed there for good; "bb" has passed, but may still go on
    never = Table({text: float(not text.startswith("a")) for text in WORLD}, "by")
    ends = Table({text: float(text.endswith("b")) for text in WORLD}, "reward")
    assert gate(ends, by=never).decided(["ab", "bb"]) == [Decided(1, False), Decided(None)]


def test_a_gate_by_columns_or_progress_waits_for_both():
    early = Table(dict.fromkeys(WORLD, 0.0), "early")
    late = Table({text: float(text == "aa") for text in WORLD}, "late")
    assert gate(late, by=early).decided(["ab"]) == [Decided(0)]
    early.columns = ("answer",)  # what it scores is not known without them
    assert gate(late, by=early).decided(["ab"]) == [Decided(2, exact=False)]
    early.columns = ()
    paced = schedule(early, {0.0: 1.0})
    for by in (paced, weighted({paced: 1.0}), weighted({early: 1.0, undeclared: 0.0})):
        assert gate(late, by=by).decided(["ab"])[0].chars in (2, None)


def undeclared(completions, answer, **_):
    """Need a column without saying so."""
    return [1.0 for _ in completions]


def test_a_form_that_depends_on_the_prompt_is_judged_by_it():
    class Echo(TextReward):
        def __call__(self, completions, *, prompts, **_):
            return [float(a == b) for a, b in zip(completions, prompts, strict=True)]

        def decided(self, completions, prompts):
            return [Decided(1) for _ in completions]

    ends = Table({text: float(text.endswith("b")) for text in WORLD}, "ends")
    decided = gate(ends, by=Echo("echo")).decided(["bb", "bb"], prompts=["bb", "ba"])
    assert decided == [Decided(None), Decided(1, exact=False)]


def test_a_part_that_does_not_say_leaves_all_open():
    unknown = Decided(None, exact=False)
    known = Table(dict.fromkeys(WORLD, 1.0), "known")
    assert gate(length, by=known).decided(["ab"]) == [unknown]
    assert gate(known, by=length).decided(["ab"]) == [unknown]
    assert weighted({known: 1.0, length: 1.0}).decided(["ab"]) == [unknown]
    assert weighted({known: 1.0}).decided(["ab"]) == [Decided(0)]
    assert gate(known, by=weighted({length: 1.0, A: 1.0})).decided(["ab"]) == [unknown]
