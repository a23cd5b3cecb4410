import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("math_verify")

from trl.rewards import accuracy_reward

from rewards import AfterThought, InBox, InTag, MathAnswer, Stated, plain_latex

EXPRESSIONS = [  # gold, completion
    (r"\frac{1}{3}", r"My answer is \boxed{\frac{1}{3}}"),
    (r"$\frac{1}{3}$", r"My answer is \boxed{\frac{2}{6}}"),
    (r"$\frac{1}{3}$", r"\boxed{0.333333}"), (r"$\frac{1}{3}$", r"\boxed{0.33}"),
    (r"$\frac{1}{3}$", r"\boxed{\frac{1}{2}}"), (r"$\frac{1}{3}$", r"The answer is $\frac{1}{3}$."),
    (r"$\frac{1}{3}$", "The answer is 1/3."),
    (r"$\frac{1}{3}$", r"We get $\frac{1}{3}$ on the way."), ("42", r"\boxed{42}"),
    ("42", r"\boxed{42.0}"), ("42", r"\boxed{43}"), ("42", "42"), ("$1{,}234$", r"\boxed{1234}"),
    ("1,234", r"\boxed{1,234}"), ("-5", r"\boxed{-5}"), ("-5", r"\boxed{5}"),
    (r"$50\%$", r"\boxed{50\%}"), (r"$50\%$", r"\boxed{0.5}"), (r"$50\%$", r"\boxed{50}"),
    (r"$5\text{ cm}$", r"\boxed{5}"), ("5", r"\boxed{5\text{ cm}}"),
    (r"$\sqrt{8}$", r"\boxed{2\sqrt{2}}"), (r"$\sqrt{8}$", r"\boxed{2\sqrt{3}}"),
    (r"$x^2+2x+1$", r"\boxed{(x+1)^2}"), (r"$x^2+2x+1$", r"\boxed{(x-1)^2}"),
    (r"$\sin^2 x+\cos^2 x$", r"\boxed{1}"), (r"$\pi$", r"\boxed{3.141593}"),
    (r"$\pi$", r"\boxed{\frac{22}{7}}"), (r"$2\pi r$", r"\boxed{2 r \pi}"),
    (r"$x = 3$", r"\boxed{3}"), (r"$3$", r"\boxed{x = 3}"),
    (r"$y = 2x + 1$", r"\boxed{y - 2x = 1}"), (r"$\{1, 2\}$", r"\boxed{\{2, 1\}}"),
    (r"$(1, 2)$", r"\boxed{(1, 2)}"), (r"$(1, 2)$", r"\boxed{(2, 1)}"),
    (r"$[0, 1)$", r"\boxed{[0, 1)}"), (r"$[0, 1)$", r"\boxed{0 \le x < 1}"),
    (r"$x > 2$", r"\boxed{(2, \infty)}"),
    (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}"),
    (r"$\begin{pmatrix}1\\2\end{pmatrix}$", r"\boxed{\begin{pmatrix}2\\1\end{pmatrix}}"),
    (r"$3+4i$", r"\boxed{4i+3}"), (r"$2^{10}$", r"\boxed{1024}"), (r"$\log_2 8$", r"\boxed{3}"),
    (r"$\int_0^1 x\,dx$", r"\boxed{\frac{1}{2}}"), (r"$\binom{5}{2}$", r"\boxed{10}"),
    (r"$1$ and $2$", r"$\boxed{1}$ and $\boxed{2}$"), ("3", r"first \boxed{2}, then \boxed{3}"),
    ("3", r"first \boxed{3}, then \boxed{2}"), ("1", r"$\boxed{1}$ and later $\boxed{\frac{2}{}}$"),
    ("3", r"\boxed{3}. The final answer is $2$."), ("2", r"\boxed{3}. The final answer is $2$."),
    ("2", r"\boxed{1 = 2}"), ("3", r"\boxed{3"), ("3", r"\boxed{}"), ("3", ""),
    ("3", r"\boxed{\frac{1}{0}}"), ("3", "\\boxed{3\0}"), ("3", "\udc80 \\boxed{3}"),
    ("", r"\boxed{3}"), ("blue", r"\boxed{blue}"), (r"$\text{blue}$", r"\boxed{\text{blue}}"),
    ("no formula", "none"),
]  # fmt: skip


@pytest.fixture(scope="module")
def reward():
    reward = MathAnswer(timeout=60)
    yield reward
    reward.close()


def chats(texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


DIFFERENT = {  # gold, completion: ours, where TRL says something else
    (r"$\frac{1}{3}$", "The answer is 1/3."): 1.0,  # without delimiters
    (r"$[0, 1)$", r"\boxed{0 \le x < 1}"): 1.0,  # a relation for a set
    ("3", r"first \boxed{2}, then \boxed{3}"): 1.0,  # the last box, however near the first
    ("2", r"\boxed{1 = 2}"): 0.0,
    ("blue", r"\boxed{blue}"): 1.0,  # a gold without delimiters
    ("no formula", "none"): 0.0,
}


def test_the_verdicts_are_those_of_trl_or_differ_on_purpose(reward):
    golds, texts = zip(*EXPRESSIONS, strict=True)
    theirs = accuracy_reward(chats(texts), solution=list(golds))
    ours = [DIFFERENT.get(pair, score) for pair, score in zip(EXPRESSIONS, theirs, strict=True)]
    assert {0.0, 1.0, None} <= set(theirs)
    assert [pair for pair in DIFFERENT if theirs[EXPRESSIONS.index(pair)] == DIFFERENT[pair]] == []
    assert reward(chats(texts), solution=list(golds)) == ours
    assert reward(list(texts), solution=list(golds)) == ours  # plain strings too


# ---- golds ------------------------------------------------------------------------------------

GOLDS = [  # a gold without delimiters, and what a part of it or a slip would be
    ("2k+2", "2"), (r"\left( 3, \frac{\pi}{2} \right)", "3"), ("y = 2x + 3", "3"),
    (r"1 \pm \sqrt{19}", "1"), ("2^{10}", "2"), (r"x \ge 3", "3"), ("3, 5, 7", "7"),
    ("2 2/3", "2"), ("3*x-y+13=0", "0"), ("4210_5", "4210"), ("2516_8", "2516_7"),
    ("1331 and 1728", "1728"), ("3 and 4", "4"), ("p - q", "p"), (r"\sqrt{51}", "51"),
    (r"\pi", "3"), (r"\dfrac{1}{2}", "1"), ("[-2,7]", "(-2,7)"), (r"\{1,2,3\}", "3"),
    (r"\text{Evelyn}", r"\text{Angela}"), ("C", "B"), (r"\frac12", "12"), (r"11\sqrt2", "2"),
    ("Evelyn", "nylevE"), ("no", "yes"), ("42", "4"), ("-7", "7"), ("1.5", "1"),
    (r"50\%", "51"), (r"90^\circ", "9"), (r"\$18.90", "18"), ("1,234", "234"),
    (r"10,\!080", "10"), (r"(-\infty, 3] \cup [5, \infty)", r"(-\infty, 3]"),
    (r"\begin{pmatrix} -2 \\ 1 \\ 5 \end{pmatrix}", r"\begin{pmatrix} 5 \\ 1 \\ -2 \end{pmatrix}"),
    ("6 - 5i", "6"), (r"\frac{3\sqrt{3}}{4}", "3"), ("x^3+3x-6", "x^3"), ("(3,4]", "[3,4]"),
    (r"\left\{-1,0\right\}", "0"), (r"5\text{ cm}", r"5\text{ m}"),
    (r"12\pi\text{ square inches}", "12"), (r"\text{(B)}", "A"), (r"2\sqrt{2}-1", "2"),
    (r"\frac{1}{3}x+2", "2"), (r"5.4 \text{ cents}", "5"), (r"\cot x", r"\tan x"),
    ("1 < x < 3", "3"), ("3^{2005}", "3"), (r"15\mbox{ cm}^2", r"15\text{ cm}"), ("a+b", "ab"),
]  # fmt: skip


def test_a_gold_without_delimiters_is_read_whole(reward):
    golds, slips = zip(*GOLDS, strict=True)
    for written in (r"\boxed{%s}", r"The answer is $%s$.", "\\[\\boxed{ %s }\\]"):
        right = reward([written % gold for gold in golds], solution=list(golds))
        assert dict(zip(golds, right, strict=True)) == dict.fromkeys(golds, 1.0)
    wrong = reward([rf"\boxed{{{slip}}}" for slip in slips], solution=list(golds))
    assert dict(zip(GOLDS, wrong, strict=True)) == dict.fromkeys(GOLDS, 0.0)
    delimited = [rf"${gold}$" for gold in golds]
    assert set(reward([rf"\boxed{{{gold}}}" for gold in golds], solution=delimited)) == {1.0}


SOLUTIONS = [
    r"Since $2x=16$, so $x=8$; the sum is \boxed{2}",
    "Then $x=8$. The answer is $2$.",
    "She makes $9 - 7 = 2$ dollars.\n#### 2",
    r"$\boxed{7}$? No: $$\boxed{2}$$ dollars",
    "<answer>2</answer>",
    ["17", "$2$"],
    2,
    2.0,
    Fraction(4, 2),
]
NO_GOLDS = [
    None, "", " ", float("nan"), float("inf"), Decimal("-Infinity"), [], [None],
    ["2", r"so $x=2$ and we take some"],
    "so $x=8$, hence the sum is 2", "2" * 1001, "(" * 11 + "2" + ")" * 11, r"\frac{1}{0}",
    "2 3", r"\boxed{2} then \boxed{3", "<think>the answer is 2",
]  # fmt: skip


def test_a_gold_may_be_a_solution_or_a_list_or_a_number(reward):
    tagged = MathAnswer(extract=InTag(), timeout=60, processes=1)
    both = [tagged([f"<answer>{x}</answer>"] * 9, solution=SOLUTIONS) for x in (2, 8)]
    assert both == [[1.0] * 9, [0.0] * 9]
    tagged.close()


def test_a_gold_of_which_a_part_could_be_read_abstains_and_is_told(reward):
    metrics = {}
    golds = [*NO_GOLDS, "3", "2"]
    texts = [r"\boxed{2}"] * len(golds)
    scores = reward(texts, solution=golds, log_metric=metrics.__setitem__)
    assert scores == [None] * len(NO_GOLDS) + [0.0, 1.0]
    assert metrics["reward/math_answer/unreadable_rate"] == len(NO_GOLDS) / len(golds)
    assert list(map(str, reward.unreadable(golds))) == list(map(str, NO_GOLDS))


# ---- where the answer is ----------------------------------------------------------------------

FOUND = [
    ("Final Answer: **73**", "73"), ("Answer: 2", "2"), ("The final answer is 2/3", "2/3"),
    ("答案是 $2$", "$2$"), ("答案：2。", "2"), ("The answer is x + 1. I hope so.", "x + 1"),
    ("the answer is $1$ and $2$, since $y=3$", "$1$ and $2$"), ("answer:\n$$4$$", "$$4$$"),
    ("The answer is 3. No, the answer is 4.", "4"), ("is 4 the answer? Yes", None),
    ("**Final Answer**\n\n5", "5"), ("### Answer\n5", "5"), ("## The answer\n\n$5$.", "$5$"),
    (r"\boxed{7} and, some lines later, \boxed{42}", "42"), (r"so \fbox{2}", "2"),
    (r"so \boxed 2", "2"), (r"$\boxed{\frac{1}{2}}$. The answer is $3$", r"\frac{1}{2}"),
    (r"\boxed{42} then \boxed{7", None), (r"\boxed{", None), (r"we get $42$", None),
    (r"<think>\boxed{7}</think><answer>42</answer>", None), (r"<think>\boxed{42}", None),
    (r"<think>\boxed{7}</think>The answer is $42$.", "$42$"), (r"7</think>\boxed{42}", "42"),
    (r"<think>a</think>\boxed{1}<think>\boxed{2}", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), FOUND)
def test_the_answer_is_stated_after_the_thought(text, answer):
    span = Stated()(text)
    assert (text[slice(*span)] if span else None) == answer


def test_boxes_that_a_comma_or_a_word_parts_are_one_answer(reward):
    texts = [r"$\boxed{1}$ and $\boxed{2}$", r"\boxed{2}, \boxed{1}", r"\boxed{1} or \boxed{2}"]
    assert reward(texts, solution=[r"\{1, 2\}"] * 3) == [1.0] * 3
    assert reward(texts, solution=["2"] * 3) == [0.0] * 3


def test_another_extractor_says_where_the_answer_is():
    texts = ["<answer>1/2</answer>", r"\boxed{.5}", r"a</think>\boxed{\frac12}", "42</think> ½",
             r"<answer>\frac12</answer> <answer>0.25</answer>",
             r"<answer>½</answer> <answer>\frac12</answer>"]  # fmt: skip
    for extract, scores in [
        (InTag(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]),
        (InBox(), [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        (AfterThought(), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
    ]:
        reward = MathAnswer(extract=extract, timeout=60, processes=1)
        assert reward(texts, solution=[r"\frac{1}{2}"] * 6) == scores
        [spans] = reward.spans(texts[:1])
        assert spans == {"answer": [(8, 11)] if isinstance(extract, InTag) else []}
        reward.close()


ATTACHED = [  # text, gold, score
    (r"$-\boxed{5}$", "-5", 1), (r"$-\boxed{5}$", "5", 0), (r"$-\boxed{x+1}$", "-x-1", 1),
    (r"$\boxed{5}\%$", "5", 1), (r"\boxed{5}\%", r"5\%", 1), (r"$\boxed{5}^2$", "25", 1),
    (r"$\boxed{5}^2$", "5", 0), (r"\boxed{5} million", "5000000", 1),
    (r"$\boxed{101}_2$", "101_2", 1), ("The answer is given by $5$.", "5", 1),
    ("The answer is minus $5$.", "-5", 1), ("The answer is -$5$.", "-5", 1),
    ("The answer is -$5$.", "5", 0),
    ("so \\boxed{5} apples", "5", 1), (r"$2 + \boxed{5}$", "7", 0),
]  # fmt: skip


def test_what_is_attached_to_an_answer_is_read_with_it_or_makes_it_none(reward):
    texts, golds, _ = zip(*ATTACHED, strict=True)
    scored = [
        (*pair, score)
        for *pair, score in zip(
            texts, golds, reward(list(texts), solution=list(golds)), strict=True
        )
    ]
    assert scored == ATTACHED


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "\\[", "\\(", "$", "x=", "answer \\[", "<think>", "答案\\("]
)
def test_what_states_nothing_is_not_handed_to_the_verifier(piece):
    text = piece * (100_000 // len(piece))
    assert Stated()(text) is None or plain_latex(text[slice(*Stated()(text))]) is None


# ---- what is equal ----------------------------------------------------------------------------

EQUAL = [  # answer, gold
    ("5.", "5"), ("½", r"\frac12"), (r"\tfrac12", "0.5"), (r"\frac12", "1/2"), ("2 1/2", "2.5"),
    ("1½", r"\frac32"), ("5e3", "5000"), ("1 234", "1234"), (r"1\,234", "1234"), ("２", "2"),
    ("٣", "3"), ("2。", "2"), ("10⁻³", "0.001"), ("√2", r"\sqrt{2}"), ("x²", "x^2"), ("−3", "-3"),
    ("2(3)", "6"), ("(2)(3)", "6"), (r"2\binom42", "12"), ("2^10", "1024"),
    ("5 million", "5000000"), ("0.333333", r"\frac13"), ("3.141593", r"\pi"),
    ("1.6e-19", r"1.6\times 10^{-19}"), (r"[3,\infty)", r"x \ge 3"), ("5 m", r"5\text{ m}"),
    (r"x \in [3,\infty)", r"x \ge 3"), ("m+n=256+37=293", "293"), ("50 percent", r"50\%"),
    (r"x=3 \text{ or } x=-3", r"x=\pm 3"), (r"\mathbf{42}", "42"), ("3 hours", r"3\text{ hours}"),
    (r"180\text{ minutes}", r"3\text{ hours}"), ("5cm", r"5\text{ cm}"), ("5 apples", "5"),
    (r"5\text{ meters}", r"5\text{ m}"), ("yes", "Yes"), ("5", r"5\text{ m}"), ("yx", "xy"),
    (r"\log_2 8", "3"), ("x**2", "x^2"), ("sqrt(2)", r"\sqrt2"),
    ("minus 5", "-5"), ("5 hundred", "500"), (r"8\pi \text{ square units}", r"8\pi"), ("*5*", "5"),
    (r"5\text{ km/h}", "5"), ("ABC", "ABC"), ("1+1=x=2", "2"),
    (r"0.\overline{3}", r"\frac13"), (r"2.1\overline{6}", r"\frac{13}{6}"), (r"50\%", "0.5"),
    (r"\varnothing", r"\emptyset"), ("∅", r"\varnothing"), (r"\approx 3.14", "3.14"), ("≈ 5", "5"),
    (r"\textbf{(A)}\ 5", "A"), (r"\textbf{(A)}\ 5", "5"), ("5", r"\textbf{(A)}\ 5"), ("A) 5", "5"),
    ("A", r"\textbf{(A) } 5"), ("(A)", r"\text{(A)}\ 5"), (r"\textbf{(C)}\ \frac12", "0.5"),
    ("(B) 5", r"\textbf{(B)}\ 5"), ("2ⁿ", "2^n"), ("-\u200b5", "-5"),
]  # fmt: skip
UNEQUAL = [
    ("0.0", r"1.6\times 10^{-19}"), (r"9\times 10^{-31}", r"6.6\times 10^{-34}"), ("3 4", "7"),
    ("0.0000001", "0.0000002"), ("0.0", r"\frac{1}{2^{99}}"), ("0", r"1.6\times 10^{-19}"),
    ("0.0000001", "0"), (r"10^{-18}", r"10^{-17}"), (r"\{0.0000001, 3\}", r"\{0.0000002, 3\}"),
    ("(0.0, 2)", r"(1.6\times 10^{-19}, 2)"), (r"2^{-26}", r"2^{-25}"), ("2(3)", "5"),
    (r"\begin{pmatrix}0.0\\1\end{pmatrix}", r"\begin{pmatrix}10^{-9}\\1\end{pmatrix}"),
    (r"5\text{ cm}", r"5\text{ m}"), (r"5\text{ kg}", r"5\text{ m}"), ("2", "2xy"),
    (r"3\text{ minutes}", r"3\text{ hours}"), (r"15\text{ cm}", r"15\text{ cm}^2"),
    ("555", "4210_5"),
    (r"1,2,\ldots,10", "1,2,10"), ("1=2", "2"), ("0=1=2=3", "3"), ("x=1=2", "2"), ("42_5", "42"),
    ("42 million", "42"), ("5 or more", "5"), (r"42\text{ squared}", "42"), ("42 squared", "42"),
    (r"42\text{ or more}", "42"), ("not 42", "42"), ("42, 43", "42"), ("eulb", "blue"),
    ("no", "on"),
    ("act", "cat"), ("CBA", "ABC"), ("act", r"\text{cat}"), ("1=x=7", "7"),
    ("--5", "5"), ("5_", "5"), ("*5", "5"), ("[5]", "5"), ("5 incorrect", "5"),
    (r"\textbf{(A)}\ 5", "B"), (r"\textbf{(A)}\ 5", "6"), ("6", r"\textbf{(A)}\ 5"),
    (r"\textbf{(B)}\ 5", r"\textbf{(A)}\ 5"), (r"\textbf{(A)}\ 6", r"\textbf{(A)}\ 5"),
    ("(A)", "5"), ("A", "(A)(B)"), ("A", "(A) + 5"), ("2n", "2ⁿ"), ("5 doubled", "5"),
    *(("(A) B", gold) for gold in "AB"), *((r"\textbf{(A)} \textbf{(B)}", gold) for gold in "AB"),
    ("(A) or (B)", "A"), ("A) b", "B"), (r"A) \text{b}", "B"), ("5 or 6", "6"),
    (r"x=5 \lor x=6", "6"),
    *((rf"5\text{{ {words}}}", "5") for words in (
        "hundred", "dozen", "thousandths", "halves", "k", "negative", "below zero", "is wrong",
        "plus one", "base two", "over seven", "pi",
    )), (r"5\,\mathrm{i}", "5"),
]  # fmt: skip


def test_what_is_equal_and_what_is_not(reward):
    for pairs, score in ((EQUAL, 1.0), (UNEQUAL, 0.0)):
        answers, golds = zip(*pairs, strict=True)
        scores = reward([rf"\boxed{{{answer}}}" for answer in answers], solution=list(golds))
        assert dict(zip(pairs, scores, strict=True)) == dict.fromkeys(pairs, score)
        itself = reward([rf"\boxed{{{gold}}}" for gold in golds], solution=list(golds))
        assert dict(zip(golds, itself, strict=True)) == dict.fromkeys(golds, 1.0)


def writings(value):
    """Write a fraction in many ways."""
    sign, above, below = "-" if value < 0 else "", abs(value.numerator), value.denominator
    yield rf"{sign}\frac{{{above}}}{{{below}}}"
    yield rf"{sign}\dfrac{{{3 * above}}}{{{3 * below}}}"
    yield f"{sign}{above}/{below}"
    yield rf"\({sign} {above} / {below}\)"
    yield f"**{sign}{above}/{below}**"
    if above > below > 1:
        yield rf"{sign}{above // below}\frac{{{above % below}}}{{{below}}}"
        yield f"{sign}{above // below} {above % below}/{below}"
    if below == 1:
        yield from (f"{sign}{above}", f"{sign}{above}.0", f"{sign}{above:,}".replace(",", r"\,"))
        yield from (f"{sign}{above * 1000}e-3", f"{sign}{above}.".translate(FULL_WIDTH))


FULL_WIDTH = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
FRACTIONS = st.fractions(-2000, 2000, max_denominator=12)


@settings(max_examples=25, deadline=None)
@given(FRACTIONS, FRACTIONS)
def test_equal_numbers_earn_the_same_however_they_are_written(reward, value, other):
    texts = [rf"so \boxed{{{written}}}" for written in writings(value)]
    for gold in list(writings(value))[::2]:
        assert reward(texts, solution=[gold] * len(texts)) == [1.0] * len(texts)
    for gold in list(writings(other))[::2] if value != other else []:
        assert reward(texts, solution=[gold] * len(texts)) == [0.0] * len(texts)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 10**6 - 1), st.integers(-40, 6), st.integers(1, 9))
def test_no_size_of_a_number_makes_a_changed_one_right(reward, digits, exponent, change):
    gold, scaled = rf"{digits}\times 10^{{{exponent}}}", f"{digits}.0e{exponent}"
    wrong = [f"{digits + change}.0e{exponent}", "0.0", f"{digits}.0e{exponent - 1}", f"-{scaled}"]
    texts = [rf"\boxed{{{answer}}}" for answer in [scaled, *wrong]]
    assert reward(texts, solution=[gold] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert reward(texts, solution=[scaled] * 5) == [1.0, 0.0, 0.0, 0.0, 0.0]


@settings(max_examples=50)
@given(st.text(max_size=60))
def test_any_text_is_written_plainly_or_not_at_all(text):
    written = plain_latex(text)
    assert written is None or written.strip()


def test_the_column_can_be_named():
    named = MathAnswer(column="answer", timeout=60, processes=1)
    assert named([r"\boxed{3}"], answer=["3"]) == [1.0]
    with pytest.raises(ValueError, match="'math_answer' needs the column 'answer'; the data have"):
        named([r"\boxed{3}"], solution=["3"])
    named.close()


def test_a_wrong_argument_is_refused_by_its_name():
    with pytest.raises(TypeError, match=r"column is InTag\(.*extract="):
        MathAnswer(InTag())


POISON = [  # gold, completion
    ("3", r"\boxed{9^{9^{9^9}}}"),  # an integer of 10^8 digits, computed in C
    (r"$9^{9^{9^9}}$", r"\boxed{3}"),
    ("3", r"\boxed{" + "(" * 50_000 + ")" * 50_000 + "}"),  # too deep to be handed on
]


def test_endless_formulas_are_killed_and_counted_and_the_pool_recovers():
    metrics = {}
    reward = MathAnswer(timeout=2.0, name="math")
    golds, texts = map(list, zip(*POISON, strict=True))
    scores = reward([*texts, r"\boxed{3}"], solution=[*golds, "3"], log_metric=metrics.__setitem__)
    assert scores == [0.0, None, 0.0, 1.0]  # the second hangs on its gold
    assert metrics["reward/math/timeout_rate"] == 0.5
    assert metrics["reward/math/unreadable_rate"] == 0.25
    assert metrics["reward/math/error_rate"] == 0.0
    assert metrics["reward/math/ms_p95"] >= 2000
    assert reward([r"\boxed{\frac{4}{2}}", r"\boxed{3}"], solution=["2", "2"]) == [1.0, 0.0]
    reward.close()


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_ready_made_one_is_found_by_its_path_and_imports_nothing():
    done = run(
        "import importlib, sys\n"
        "module = importlib.import_module('rewards.mathematics')\n"
        "assert module.math_answer is module.math_answer\n"
        "print(module.math_answer.__name__, 'math_verify' in sys.modules)\n"
        "module.nothing"
    )
    assert done.stdout == "math_answer False\n"
    assert "module 'rewards.mathematics' has no attribute 'nothing'" in done.stderr


def test_without_math_verify_it_says_what_to_install():
    hidden = "import sys; sys.modules['math_verify'] = None; import rewards.mathematics as m\n"
    for made in ("m.MathAnswer()", "m.math_answer", "from rewards.mathematics import math_answer"):
        done = run(hidden + made)
        assert "pip install 'grpo-credit[math]'" in done.stderr
        assert "ImportError: math-verify is not installed" in done.stderr


def test_nothing_is_printed(capfd):
    reward = MathAnswer(timeout=60, processes=1)
    reward([r"\boxed{3", "no"], solution=["3", "4"])
    assert capfd.readouterr() == ("", "")
    reward.close()
