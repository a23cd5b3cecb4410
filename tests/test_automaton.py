"""The automaton of a pattern against the engine that scores, by enumeration."""

import itertools
import pickle
import random
import subprocess
import sys
from collections import deque

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import think_answer_format
from rewards.automaton import Automaton, NotRegular, TooLarge, automaton_of

LEAVES = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", r"\s", r"\w", "(?i:A)", "(?s:.)", "", "ab", "[a-b]"]
)
REPEATS = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{2,}", "*?", "+?", "??", "{0,2}?"])
PATTERNS = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.tuples(parts, parts).map("".join),
        st.tuples(parts, parts).map(lambda p: f"(?:{p[0]}|{p[1]})"),
        st.tuples(parts, REPEATS).map(lambda p: f"(?:{p[0]}){p[1]}"),
        parts.map(lambda p: f"({p})"),
    ),
    max_leaves=6,
)
ANCHORED = st.tuples(
    st.sampled_from(["", "", "^", r"\A"]), PATTERNS, st.sampled_from(["", "", "$", r"\Z"])
).map(lambda p: f"{p[0]}(?:{p[1]}){p[2]}")


def words(alphabet, longest):
    return ["".join(w) for n in range(longest + 1) for w in itertools.product(alphabet, repeat=n)]


def scored(pattern, search, strip):
    """Score as the definition says, by the engine."""
    compiled = regex.compile(pattern)
    match = compiled.search if search else compiled.fullmatch
    return lambda text: match(text.strip() if strip else text) is not None


def witness(automaton, state, alphabet, wanted):
    """Find a shortest continuation after which the automaton accepts, or does not."""
    kinds = dict(zip(alphabet, automaton.classes.classify("".join(alphabet)), strict=True))
    queue, seen = deque([(state, "")]), {state}
    while queue:
        at, text = queue.popleft()
        if automaton.accepting[at] == wanted:
            return text
        for character, kind in kinds.items():
            after = automaton.table[at][kind]
            if after not in seen:
                seen.add(after)
                queue.append((after, text + character))
    raise AssertionError(f"no continuation of {state} is {wanted}")


def hold_to_the_engine(pattern, search, strip, alphabet):
    automaton = Automaton.of_pattern(pattern, search=search, strip=strip)
    score = scored(pattern, search, strip)
    every = {text: score(text) for text in words(alphabet, 8)}
    assert {text: automaton.accepts(text) for text in every} == every
    ends = {automaton.dead, automaton.sure}
    for text in words(alphabet, 4):
        trace = automaton.trace(text)
        if trace[-1] in ends:  # then no continuation of up to four characters differs
            after = {every[text + more] for more in words(alphabet, 4)}
            assert after == {trace[-1] == automaton.sure}
        else:  # then there are two that differ, and the engine says so
            wide = [*alphabet, "z", "Z", " ", "\n", "\x1c"]
            for wanted in (True, False):
                more = witness(automaton, trace[-1], wide, wanted)
                assert score(text + more) == wanted
        decided = [k for k, state in enumerate(trace) if state in ends]
        assert automaton.settled(text) == (decided[0] if decided else None)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, derandomize=True)
@given(pattern=ANCHORED, search=st.booleans())
def test_it_decides_as_every_continuation_does(pattern, search):
    hold_to_the_engine(pattern, search, False, "ab\n")


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(pattern=ANCHORED, search=st.booleans())
def test_it_decides_as_every_continuation_does_where_whitespace_is_stripped(pattern, search):
    hold_to_the_engine(pattern, search, True, "ab ")


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([r"(?s)<a>.*</a>", "[ab]*", "a(?:b|é)+", r"[^\x00-\U0010ffff]", ""]),
    st.lists(st.sampled_from(["<a>", "</a>", "a", "b", "é", "🙂"]), max_size=9).map("".join),
    st.booleans(),
    st.integers(1, 5),
)
def test_where_blocks_of_a_text_end_changes_nothing(pattern, text, search, block):
    machine = Automaton.of_pattern(pattern, search=search, strip=False)
    trace = [0]
    for kind in machine.classes.classify(text).tolist():
        trace.append(machine.table[trace[-1]][kind])
    ends = [n for n, state in enumerate(trace) if state in (machine.dead, machine.sure)]
    alive = max([0, *(n for n, state in enumerate(trace) if state != machine.dead)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewards.automaton._BLOCK", block)
        assert machine.trace(text) == trace
        assert machine.settled(text) == (ends[0] if ends else None)
        assert machine.alive(text) == (alive, trace[alive])
        match = regex.search if search else regex.fullmatch
        assert machine.accepts(text) == (match(pattern, text) is not None)


# ---- by hand ----------------------------------------------------------------------------------

THINK = r"(?s)<think>.+</think>\s*<answer>\d+</answer>"


@pytest.mark.parametrize(
    ("pattern", "text", "settled"),
    [
        (r"<answer>\d+</answer>", "<answer>12</answer>", None),  # more text would spoil it
        (r"<answer>\d+</answer>", "<answer>12</answer>.", 20),  # and does
        (r"<answer>\d+</answer>", "<answer>12</answer> \n", None),  # whitespace does not
        (r"<answer>\d+</answer>", "The answer", 1),
        (r"<answer>\d+</answer>", "\n <answer>x", 11),  # leading whitespace is nothing
        (r"<answer>\d+</answer>.*", "<answer>1</answer>, I say", None),  # `.`: no line break
        (r"(?s)<answer>\d+</answer>.*", "<answer>1</answer>, I say", 18),  # sure at the last >
        (THINK, "<think>a\nb", None),
        (THINK, "<think></think>", None),  # </think> may be thought, too
        (THINK, "<answer>", 2),
        (r"[^<]*", "日本🙂<", 4),
        (r"\w+", "é日\ud800", 3),  # a lone surrogate is no letter
        (r"[^a]*", "\ud800\x00b", None),
        (r"\p{Lu}+", "ÀB.", 3),
        (r"\p{Lu}+", "\ufeffÀB\x00\u200b", None),  # nor do other blanks
        ("(?i)straße", "STRASSE", 5),  # simple case-folding: ß is one character
        ("(?i)k+", "Kkk", None),  # U+212A, the KELVIN SIGN
        (r"(?V1)[[a-z]--[aeiou]]+", "xyz" + "a", 4),
        ("a{2,3}b", "aaaa", 4),
        ("", "", None),
        ("a|", "b", 1),
        ("(?s).*", "", 0),  # everything matches before the first character
        (r"[^\x00-\U0010ffff]", "", 0),  # nothing does
    ],
)
def test_settled_by_hand(pattern, text, settled):
    assert Automaton.of_pattern(pattern).settled(text) == settled


def test_states_are_the_same_where_the_future_is():
    automaton = Automaton.of_pattern(r"(?:ab|cb)d", strip=False)
    a, c = automaton.trace("ab"), automaton.trace("cb")
    assert a[1] == c[1]
    assert a[2] == c[2]
    assert len(automaton.table) == 5  # before, within, before d, matched, dead
    assert automaton.trace("")[0] == 0
    assert automaton.sure is None
    assert automaton.trace("x")[-1] == automaton.dead


@pytest.mark.parametrize(
    "leaf", [r"\w", r"\d", r"\s", ".", "[^a-z]", "(?i:[k-s])", r"\p{L}", "(?a:\\w)", r"[^\W\d_]",
             "(?i:ǆ)", r"\p{Lu}", r"(?i:\p{Lu})", "[[:alpha:]]", r"\h"]
)  # fmt: skip
def test_character_sets_are_the_engines_on_all_code_points(leaf):
    automaton = Automaton.of_pattern(leaf, strip=False)
    engine = regex.compile(leaf)
    kinds = automaton.classes.classify("".join(map(chr, range(0x110000))))
    yes = [automaton.accepting[state] for state in automaton.table[0]]
    step = 1 if leaf in (r"\w", "(?i:[k-s])") else 7  # all of two, every seventh of the others
    assert all(
        yes[kinds[code]] == (engine.fullmatch(chr(code)) is not None)
        for code in range(0, 0x110000, step)
    )


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("a(?=b)c", "LookAround"), (r"(a)\1", "RefGroup"), ("a++b", "PossessiveRepeat"),
        ("(?>a|ab)b", "Atomic"), (r"\bfoo\b", "Boundary"), ("(?m)^a", "StartOfLine"),
        ("(?:foo){e<=1}", "Fuzzy"), ("(?r)ab", "REVERSE"), (r"(a)?(?(1)b|c)", "Conditional"),
        (r"a\Kb", "Keep"), (r"(a(?1)?b)", "CallGroup"), ("(?fi)straße", "full case-folding"),
    ],
)  # fmt: skip
def test_what_is_not_regular_is_named(pattern, what):
    with pytest.raises(NotRegular, match=rf"{what} is not regular"):
        Automaton.of_pattern(pattern)


def test_what_is_too_large_is_refused_before_the_memory_is_gone():
    with pytest.raises(TooLarge, match="more than 20,000 states"):
        Automaton.of_pattern("(?s).*a.{30}")
    with pytest.raises(TooLarge, match="more than 100,000 parts"):
        Automaton.of_pattern("((a{1,100}){1,100}){1,100}")


def test_hostile_text_is_read_in_one_sweep():
    automaton = Automaton.of_pattern(THINK)
    long = "<think>" + "\x00\ud800🙂" * 400_000
    assert automaton.settled(long) is None
    assert len(automaton.trace(long)) == len(long) + 1
    assert automaton.settled("<think>" * 10_000) is None
    assert automaton.settled("x" + long) == 1


def test_it_survives_pickling():
    automaton = Automaton.of_pattern(THINK)
    copy = pickle.loads(pickle.dumps(automaton))
    assert copy.table == automaton.table
    assert copy.trace("<think>é") == automaton.trace("<think>é")


def test_a_pattern_without_an_automaton_is_tried_once():
    pattern = "(?s).*a.{30}"
    before = automaton_of.cache_info().misses
    found = [automaton_of(pattern, 0, search=False, strip=strip) for strip in (True, True, False)]
    assert found == [None, None, None]
    assert automaton_of.cache_info().misses == before + 2  # two different questions
    assert automaton_of(r"(a)\1", 0, search=False, strip=True) is None


def test_an_automaton_of_few_but_huge_states_is_given_up():
    with pytest.raises(TooLarge, match="more than 2,000,000 visits to its parts"):
        Automaton.of_pattern("(?s)(?:.{0,50}){0,50}x")


@pytest.mark.parametrize("pattern", [r"\d+,x*", r"(?s).*a.{3}", r"<t>[^<]{1,40}</t>", "é|🙂+"])
def test_texts_read_side_by_side_go_through_the_same_states(pattern):
    automaton = Automaton.of_pattern(pattern)
    rng = random.Random(0)
    texts = ["".join(rng.choices("12,xa<t>/é🙂 \ud800", k=rng.randrange(60))) for _ in range(50)]
    traces = automaton.traces(["", *texts])
    for text, trace in zip(["", *texts], traces.tolist(), strict=True):
        one = automaton.trace(text)
        assert trace[: len(one)] == one
        assert set(trace[len(one) :]) <= {one[-1]}
    assert automaton.traces([]).shape == (0, 1)


def test_fingerprints_tell_automata_apart_and_are_the_same_elsewhere():
    patterns = ["a", "b", "[^a]", "a|b", "a*", "a+", r"\d+,x*"]
    found = [Automaton.of_pattern(pattern).fingerprint for pattern in patterns]
    assert len(set(found)) == len(patterns)
    found.append(think_answer_format.automaton.fingerprint)
    code = (
        "from rewards import Automaton, think_answer_format as tags\n"
        f"found = [Automaton.of_pattern(pattern).fingerprint for pattern in {patterns}]\n"
        "print([*found, tags.automaton.fingerprint])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found)
