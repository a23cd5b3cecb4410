import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.rewards import get_repetition_penalty_reward

from rewards.repetition import Repetition, repetition_rate

WORDS = st.lists(st.sampled_from("abc"), max_size=12)


def slow_rate(items, n):
    """Count, for each n-gram, whether it stands somewhere before."""
    starts = range(len(items) - n + 1)
    repeats = [any(items[i : i + n] == items[j : j + n] for j in range(i)) for i in starts]
    return sum(repeats) / len(repeats) if repeats else 0.0


def slow_repeated(items, n):
    """Name the items inside an n-gram that stands somewhere before."""
    starts = range(len(items) - n + 1)
    repeats = [i for i in starts if any(items[i : i + n] == items[j : j + n] for j in range(i))]
    return {place for i in repeats for place in range(i, i + n)}


@given(items=WORDS, n=st.integers(1, 4))
def test_the_rate_is_the_share_of_ngrams_that_stand_before(items, n):
    assert repetition_rate(" ".join(items), n) == pytest.approx(slow_rate(items, n), abs=1e-15)
    assert repetition_rate([ord(item) for item in items], n) == repetition_rate(" ".join(items), n)


@given(items=WORDS, n=st.integers(1, 4))
def test_repeated_spans_are_the_words_inside_repeated_ngrams(items, n):
    text = "  " + "\n ".join(items)  # word k is the character at 2 + 3k
    (spans,) = Repetition(n).spans([text])
    named = {place for start, end in spans["repeated"] for place in range(start, end)}
    assert {k for k in range(len(items)) if 2 + 3 * k in named} == slow_repeated(items, n)
    assert all(not text[start].isspace() for start, _ in spans["repeated"])
    assert all(not text[end - 1].isspace() for _, end in spans["repeated"])


@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=4), st.integers(1, 4))
def test_repetition_of_tokens_is_that_of_trl(ids, n):
    theirs = get_repetition_penalty_reward(ngram_size=n, max_penalty=-0.7)
    ours = Repetition(n, -0.7, unit="tokens")
    assert ours([""] * len(ids), completion_ids=ids) == theirs(completion_ids=ids)


def test_no_repetition_is_no_negative_zero():
    assert str(Repetition(2)(["a b"])) == "[0.0]"


def test_runs_of_repeated_words_are_one_span():
    # the second "a b c" is repeated; "d" between the third and it breaks the run
    text = "a b c a b c d a b c"
    assert Repetition(3).spans([text]) == [{"repeated": [(6, 11), (14, 19)]}]
    assert Repetition(1).spans(["a a a b"]) == [{"repeated": [(2, 5)]}]


def test_spans_of_tokens_are_not_guessed():
    assert Repetition(1, unit="tokens").spans(["a a", "b"]) == [{}, {}]


@pytest.mark.parametrize(
    "text", ["\0" * 9, "\ud800 \ud800 \ud800", "a " * 500_000, "a" * 1_000_000]
)
def test_hostile_text_is_scored(text):
    (score,) = Repetition(3)([text])
    assert -1.0 <= score <= 0.0
    assert len(Repetition(3).spans([text])[0]["repeated"]) == (len(text) > 1_000)


@pytest.mark.parametrize(
    "loop", ["所以我们得到", "so_we_get_", "1,2,", "ha", "-", r"\frac{1}{2}+", "\u200b"]
)
def test_a_loop_without_spaces_is_one(loop):
    assert Repetition()([loop * 1_000]) == [pytest.approx(-1, abs=0.02)]
    [spans] = Repetition().spans(["Then " + loop * 1_000])
    [(start, end)] = spans["repeated"]
    assert (start, end) == (5 + len(loop), 5 + 1_000 * len(loop))  # all but the first time


def test_long_words_count_by_the_stretch():
    text = "the sum of 3 and 4 " + 31 * "-"
    # 5 trigrams of 7 words, and 8 stretches of 24 dashes, which weigh as one; 1 of them is new
    assert repetition_rate(text) == pytest.approx(1 - (5 + 1 / 8) / 6)
    assert repetition_rate("Donaudampfschifffahrtsgesellschaft 0123456789abcdefghijklmnop") == 0
    assert Repetition().spans([24 * "-" + " a " + 24 * "-"]) == [{"repeated": []}]


def test_counters_hide_a_loop_unless_they_are_skipped():
    text = " ".join(f"wait {n} wait" for n in range(100))
    assert Repetition()([text]) == [0.0]
    assert Repetition(skip_counters=True)([text]) == [pytest.approx(-1, abs=0.01)]
    [spans] = Repetition(skip_counters=True).spans([text])
    assert spans["repeated"] == [(text.index("wait wait"), len(text))]  # all but the first word
    with pytest.raises(ValueError, match="skip_counters=True goes with unit='words'"):
        Repetition(skip_counters=True, unit="tokens")


def test_columns_follow_the_unit():
    assert Repetition().columns == ()
    assert Repetition(unit="tokens").columns == ("completion_ids",)
    with pytest.raises(ValueError, match="'repetition' needs the column 'completion_ids'"):
        Repetition(unit="tokens")(["a"])


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="unit is 'letters', expected one of words, tokens"):
        Repetition(unit="letters")
    with pytest.raises(ValueError, match="n-grams of 0 items were asked for, expected at least 1"):
        Repetition(0)
    with pytest.raises(ValueError, match="n-grams of 0 items"):
        repetition_rate("a", 0)
    for penalty in (0.1, float("nan"), -float("inf")):
        with pytest.raises(ValueError, match=f"max_penalty is {penalty}, expected a finite number"):
            Repetition(3, penalty)
