"""RegexReward: scores, partial credit, where it was decided, hostile input, wrong use."""

import functools
from itertools import product

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import Decided, RegexReward, SlowPatternWarning
from rewards.automaton import automaton_of
from rewards.edits import edits_of

AS_A_FIX = r"(?s)^.*<reasoning>.*?</reasoning>.*<answer>.*?</answer>.*$"  # n⁴ where unfinished


def test_fullmatch_and_search():
    texts = ["a 12 b", "none", "12", " 12\n"]
    assert RegexReward(r"\d+")(texts) == [0, 0, 1, 1]
    assert RegexReward(r"\d+", strip=False)(texts) == [0, 0, 1, 0]
    assert RegexReward(r"\d+", mode="search")(texts) == [1, 0, 1, 1]


def test_flags():
    assert RegexReward("a.b", flags=regex.DOTALL | regex.IGNORECASE)(["A\nB", "a b", "ab"]) == [
        1, 1, 0,
    ]  # fmt: skip
    assert RegexReward("a.b", flags=regex.DOTALL).automaton.accepts("a\nb")


def test_matches_are_counted_up_to_the_limit():
    reward = RegexReward(r"<step>", mode="count", limit=4)
    assert reward(["", "<step>", "<step><step> <step>", "<step>" * 9]) == [0, 0.25, 0.75, 1]


def test_a_prefix_earns_by_how_far_the_shortest_match_is():
    reward = RegexReward(r"<a>\d+</a>", partial="prefix", partial_weight=0.8)
    # 8 characters make the shortest match. "<a>12" lacks 4 of them; of "<a>1x" 4 of 5 are viable
    # and lack 4; "<" lacks 7; nothing earns nothing
    assert reward(["<a>1</a>", "<a>12", "<a>1x", "<a>1</a", "<", "x", ""]) == pytest.approx(
        [1, 0.8 * 4 / 8, 0.8 * 4 / 8 * 4 / 5, 0.8 * 7 / 8, 0.8 * 1 / 8, 0, 0]
    )
    rambling = RegexReward("(?s)<a>.+</a>", partial="prefix")
    assert rambling(["<a>x", "<a>" + 5_000 * "x"]) == [0.25, 0.25]  # 4 of 8, however long
    # the way may lead away from the shortest match, but no further than to nothing
    assert RegexReward("a|bc{9}", partial="prefix")(["b", "bc"]) == [0, 0]


@pytest.mark.parametrize("partial", ["prefix", "fuzzy"])
def test_partial_credit_needs_an_automaton(partial):
    with pytest.raises(ValueError, match=f"partial='{partial}' needs a regular pattern"):
        RegexReward(r"(?<=<a>)\d+|<a>\d+</a>", partial=partial)


def test_few_errors_earn_more_than_many():
    reward = RegexReward("<answer>12</answer>", partial="fuzzy", max_errors=3, partial_weight=0.4)
    # one letter missing: 1 error of 3 + 1; two letters wrong: 2; nothing like it: 0
    assert reward(["<answer>12</answer>", "<answer>12</answe>", "<onswer>13</answer>", "no"]) == (
        pytest.approx([1, 0.4 * 3 / 4, 0.4 * 2 / 4, 0])
    )


# ---- where ------------------------------------------------------------------------------------


def test_decided_is_exact_for_regular_patterns():
    reward = RegexReward(r"<a>\d</a>")
    assert reward.decided([" <a>x", "<a>1</a>", [{"role": "assistant", "content": "y"}]]) == [
        Decided(5), Decided(None), Decided(1),
    ]  # fmt: skip
    found = RegexReward(r"<a>\d</a>", mode="search").decided(["say <a>1</a> and so on"])
    assert found == [Decided(12)]


@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        (r"<(\w)>\d+</\1>", ["<a>1</b>", "<a>1</a>", "x", "  <a>x", "<a>1</a>  ", "<a>1</a>  x"]),
        (r"a(?=b)b*c", ["ab", "ac", "abd", "abc"]),
        (r"a++b", ["aab", "aac", "b"]),
    ],
)
def test_decided_is_an_upper_bound_otherwise(pattern, texts):
    reward = RegexReward(pattern)
    assert reward.automaton is None
    for text, (chars, exact) in zip(texts, reward.decided(texts), strict=True):
        assert not exact
        if chars is not None:  # then no continuation matches
            for more in ["", "b", "c", ">", "1</a>", "</a>", "</b>", " "]:
                assert reward([text[:chars] + more]) == [0]
    assert reward.decided(["#" + texts[0]])[0].chars is not None


def test_a_back_reference_is_dead_where_it_differs():
    assert RegexReward(r"<(\w)>\d+</\1>").decided(["<a>1</b>"]) == [Decided(7, exact=False)]
    assert RegexReward(r"(?=x)a", mode="search").decided(["a"]) == [Decided(None, exact=False)]


def test_scores_that_change_to_the_end_are_not_decided():
    for reward in (
        RegexReward("a", mode="count", limit=2),
        RegexReward("a", partial="prefix"),
        RegexReward("a", partial="fuzzy"),
    ):
        assert reward.automaton is None
        assert reward.decided(["b"]) == [Decided(None, exact=False)]


def test_spans_are_of_the_original_text():
    reward = RegexReward(r"(?s)<think>(?P<think>.+?)</think>(\d)+")
    (found, none) = reward.spans(["\n <think>é🙂</think>12 ", "x"])
    text = "\n <think>é🙂</think>12 "
    assert none == {}
    assert [text[s:e] for s, e in found["think"]] == ["é🙂"]
    assert [text[s:e] for s, e in found["2"]] == ["1", "2"]  # a repeated group, each time
    assert [text[s:e] for s, e in found["match"]] == [text.strip()]
    counted = RegexReward(r"\d", mode="count", limit=1).spans(["1a2"])
    assert counted == [{"match": [(0, 1), (2, 3)]}]


# ---- hostile ----------------------------------------------------------------------------------


def test_a_pattern_that_explodes_is_decided_by_its_automaton():
    metrics = {}
    reward = RegexReward(AS_A_FIX, name="fix")
    hostile = ("<reasoning>a</reasoning><answer>" * 200)[:6200]
    scores = reward([hostile, hostile + "</answer>"], log_metric=metrics.__setitem__)
    assert scores == [0, 1]
    assert metrics == {"reward/fix/timeout_rate": 0}
    assert RegexReward("(a+)+b")(["a" * 50, "a" * 50 + "b"]) == [0, 1]


def test_a_pattern_that_explodes_and_is_not_regular_earns_nothing_and_is_counted():
    metrics = {}
    pattern = r"(?:a|aa)+(?=x)[bx]+|c"
    reward = RegexReward(pattern, timeout=0.05, name="slow")
    with pytest.warns(SlowPatternWarning, match=r"pattern '\(\?:a\|aa\).* ran out of time.*Take"):
        scores = reward(["a" * 60, "c"], log_metric=metrics.__setitem__)
    assert scores == [0, 1]
    assert metrics == {"reward/slow/timeout_rate": 0.5}
    assert reward.spans(["a" * 60]) == [{}]
    assert reward.decided(["a" * 60]) == [Decided(None, exact=False)]


@pytest.mark.parametrize(
    "text",
    ["x\x00" * 1000, "\ud800" * 1000, "x" * 1_000_000, "<think>" * 10_000, "<think>" * 150_000],
    ids=["NUL", "lone surrogates", "1 MB", "unclosed tags", "1 MB of tags"],
)
@pytest.mark.parametrize("mode", ["fullmatch", "search"])
def test_hostile_text_earns_nothing(text, mode):
    reward = RegexReward(r"(?s)<think>.+</think>\s*<answer>.+</answer>", mode=mode)
    assert reward([text]) == [0]
    assert reward.decided([text])[0].chars == (
        1 if mode == "fullmatch" and text[0] != "<" else None
    )
    assert reward.spans([text]) == [{}]


# ---- wrong use --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("<think>(a", r"missing \) at position 9; a group is not closed"),
        ("a)", "unbalanced parenthesis at position 1; a group is closed that was not opened"),
        ("*a", r"nothing to repeat at position 0; \*, \+ and \? repeat what stands before"),
        ("[a", "unterminated character set at position 2; a set is not closed"),
        ("a\\", r"bad escape.*at position 2; write \\\\"),
    ],
)
def test_an_invalid_pattern_names_position_and_remedy(pattern, message):
    with pytest.raises(ValueError, match=rf"(?s)invalid pattern: {message}.*\n  .*\^"):
        RegexReward(pattern)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "match"}, "mode is 'match', expected one of fullmatch, search, count"),
        ({"timeout": 0}, "timeout is 0, expected more than 0 seconds"),
        ({"budget": 0}, "budget is 0, expected more than 0 seconds"),
        ({"mode": "count"}, "limit is None with mode 'count'; it goes with mode 'count', which"),
        ({"limit": 3}, "limit is 3 with mode 'fullmatch'"),
        ({"mode": "count", "limit": 0}, "limit is 0, expected 1 or more"),
        ({"partial": "suffix"}, "partial is 'suffix', expected None, prefix or fuzzy"),
        ({"partial": "prefix", "mode": "search"}, "goes with mode 'fullmatch', not 'search'"),
        ({"partial": "prefix", "partial_weight": 1}, "partial_weight is 1, expected a number bet"),
        ({"partial": "fuzzy", "max_errors": 0}, "max_errors is 0, expected 1 or more"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        RegexReward("a", **arguments)


def test_what_would_be_misread_is_refused():
    with pytest.raises(ValueError, match=r"searches backwards, \(\?r\), but completions are"):
        RegexReward("(?r)ab")
    with pytest.raises(ValueError, match="a group is called 'match', which names the whole match"):
        RegexReward("(?P<match>a)")
    with pytest.raises(TypeError, match=r"pattern is b'a', expected a string \(str\)"):
        RegexReward(b"a")


def test_nothing_is_viable_of_a_pattern_that_never_matches():
    assert RegexReward(r"a\Zb", partial="prefix")(["a", "b"]) == [0, 0]


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        (r"^<a>\n.*?\n</a>\n<b>\n.*?\n</b>\n$", {}),
        (r" <a>\d</a>", {}),
        (r"\s+x|x\t", {}),
        (r"(?s).*</a>\n$", {"mode": "search"}),
        (r"</a>\n\Z", {"mode": "count", "limit": 2}),
    ],
)
def test_a_pattern_that_matches_nothing_stripped_is_refused(pattern, options):
    with pytest.raises(ValueError, match=r"matches nothing that is stripped.* Pass strip=False"):
        RegexReward(pattern, **options)
    assert RegexReward(pattern, **options, strip=False).pattern.pattern == pattern


def test_white_space_that_a_pattern_only_allows_is_fine():
    for pattern in (r"\s*x\s*", "a b", r"a\n?$", r"x\Z|\n", r"(?=\n)x", r"\Zx"):
        assert RegexReward(pattern).strip


def test_characters_without_a_shape_are_stripped_as_white_space_is():
    reward = RegexReward("<a>(?P<body>.)</a>")
    text = "\ufeff\u200b <a>1</a>\u2060\n"
    assert reward([text, "\u200b", "\ufeff<a>1</a>."]) == [1, 0, 0]
    assert reward.spans([text]) == [{"match": [(3, 11)], "body": [(6, 7)]}]
    assert reward.decided([text, text + "."]) == [Decided(None), Decided(14)]
    assert RegexReward("<a>.</a>", strip=False)([text]) == [0]


# ---- what the automata say is what the engine says ----------------------------------------------

PIECES = st.sampled_from(["<a>", "</a>", "a", "b", " ", "\n", "12", "é"])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ["<a>.*?</a>", "(?s)<a>.*</a>", "a+b?", "ab|a", "(?:a|b)+?b", r"\d{2}|[^a]b", "a*(?P<b>b?)"]
    ),
    st.lists(PIECES, max_size=12).map("".join),
    st.sampled_from([{}, {"mode": "search"}, {"mode": "count", "limit": 3}]),
    st.booleans(),
)
def test_a_slow_matcher_changes_neither_scores_nor_spans(pattern, text, options, strip):
    reward = RegexReward(pattern, **options, strip=strip)
    scores, spans = reward([text]), reward.spans([text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewards.formats.brief", lambda *_: 1e-12)
        patch.setattr(reward, "_matches", functools.partial(out_of_time, reward._matches))
        assert reward([text]) == scores
        assert reward.spans([text]) == spans


def out_of_time(matches, text, seconds, *most):
    """Find matches as a matcher does that takes long."""
    if seconds < 1e-9:
        raise TimeoutError
    return matches(text, seconds, *most)


@pytest.mark.parametrize("pattern", ["ab*", "(?:ab|ba){2}", "a?", "1+ b|a", "[^a]a{3}"])
def test_errors_are_the_fewest_edits_to_a_match(pattern):
    words = ["".join(w) for n in range(6) for w in product("ab1 ", repeat=n)]  # one longer than any
    accepted = [word for word in words if regex.fullmatch(pattern, word)]
    edits = edits_of(automaton_of(pattern, 0), 3)
    for text in words[: 4**4 : 3]:
        fewest = min(edits_between(text, word) for word in accepted)
        assert edits.of(text) == (fewest if fewest <= 3 else None), text


@functools.cache
def edits_between(one, other):
    """Levenshtein's distance, as it is defined."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        edits_between(one[1:], other) + 1,
        edits_between(one, other[1:]) + 1,
        edits_between(one[1:], other[1:]) + (one[0] != other[0]),
    )


def test_fuzzy_matching_keeps_the_flags_of_the_pattern():
    # one error of 3 + 1 where a letter is missing: 0.5 * 3 / 4
    for pattern, flags in (("(?x) a b # both", 0), ("a b # both", regex.VERBOSE), ("ab", 0)):
        assert RegexReward(pattern, flags=flags, partial="fuzzy")(["ab", "a"]) == [1, 0.375]
    assert RegexReward("(?s)a.b", partial="fuzzy")(["a\nb", "a\nx"]) == [1, 0.375]
    assert RegexReward("a #", partial="fuzzy")(["a #", "a x"]) == [1, 0.375]


SHORT_ONES = [
    "ab[abc]*", "[abc]*", "a[bc]|b", "(ab)*c?", "[abc]{2,3}", "c+[ab]*", "(?s)ab.*", "a|ab",
]  # fmt: skip


@pytest.mark.parametrize("mode", ["fullmatch", "search"])
@pytest.mark.parametrize("pattern", SHORT_ONES)
@pytest.mark.parametrize("alphabet", ["abc", "abcX"])
def test_what_is_settled_is_what_no_continuation_changes(pattern, mode, alphabet):
    reward = RegexReward(pattern, mode=mode, strip=False, alphabet=alphabet)
    machine = reward.automaton
    assert len(machine.table) <= 5  # so that continuations of 4 characters come everywhere
    words = ["".join(w) for n in range(5) for w in product(alphabet, repeat=n)]

    @functools.cache
    def open_after(prefix):
        return len({bool(getattr(regex, mode)(pattern, prefix + word)) for word in words}) == 2

    texts = [word for word in words if len(word) < 4]
    for text, found in zip(texts, reward.decided(texts), strict=True):
        settled = [n for n in range(len(text) + 1) if not open_after(text[:n])]
        assert found == Decided(min(settled, default=None)), text
        assert machine.settled(text) == found.chars
        assert machine.accepts(text) == bool(getattr(regex, mode)(pattern, text))


def test_a_won_state_needs_to_know_what_can_follow():
    assert RegexReward("ab[abc]*").decided(["abc"]) == [Decided(None)]  # "abd" would lose
    known = RegexReward("ab[abc]*", alphabet="abc")
    assert known.decided(["abc", "ab", "ba"]) == [Decided(2), Decided(2), Decided(1)]
    with pytest.raises(ValueError, match="a text holds 'd', which is not in `alphabet`"):
        known.decided(["ab", "abd"])
    assert known(["abd", "abc"]) == [0.0, 1.0]  # scores are of the pattern alone
