from fractions import Fraction

import pytest

from rewards.answers import (
    ChoiceAnswer,
    ExactAnswer,
    NumericAnswer,
    choice_answer,
    exact_answer,
    numeric_answer,
)
from rewards.extraction import AfterMarker, AfterThought, ByPattern, InBox, InTag, WholeText

WHOLE = WholeText()
ALL = [
    InTag(),
    InBox(),
    AfterMarker(),
    ByPattern(r"is (?P<answer>\w+)"),
    WHOLE,
    AfterThought(),
    AfterThought(InBox()),
]


def found(extract, text):
    span = extract(text)
    return None if span is None else text[slice(*span)]


# ---- finding ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer> 42\n</answer>", "42"),
        ("<answer></answer>", ""),
        ("<answer>42", None),  # never closed
        ("42</answer>", None),
        ("42", None),
        ("I write <answer> first. <answer>42</answer>", "42"),  # a mention is no answer
        ("<answer>42</answer>, no, <answer>43", None),  # cut off while it takes that back
        ("<answer>1</answer><answer>1 </answer>", "1"),  # twice the same
        ("<answer>1</answer><answer>2</answer>", None),  # two answers
        ("<answer>a\0\udc80</answer>", "a\0\udc80"),
        ("<ANSWER>1</ANSWER>", None),
    ],
)
def test_between_tags(text, answer):
    assert found(InTag(), text) == answer


def test_the_tag_can_be_named_and_the_last_of_several_taken():
    assert found(InTag("result"), "<result>1</result>") == "1"
    assert found(InTag(unique=False), "<answer>1</answer><answer>2</answer>") == "2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed {42}", "42"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),  # escaped braces do not count
        (r"\boxed{\\{a}}", r"\\{a}"),  # the backslash is escaped, the brace is not
        (r"a } b { \boxed{1}", "1"),  # loose braces in the prose
        (r"\boxed{1", None),
        (r"\boxed{2 \boxed{1}", "1"),  # the first is never closed
        (r"\boxed{2 \boxed{1}}", r"2 \boxed{1}"),
        (r"\boxed{1} \boxed{ 1 }", "1"),
        (r"\boxed{1} \boxed{2}", None),
        (r"\boxed{1}, no, \boxed{2", None),  # cut off while it takes that back
        (r"\fbox{1} \\boxed{1}", "1"),
        (r"\boxed 1", None),
        ("", None),
    ],
)
def test_in_a_box(text, answer):
    assert found(InBox(), text) == answer


def test_the_last_box_can_be_taken():
    assert found(InBox(unique=False), r"\boxed{1} \boxed{2}") == "2"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("9*2=18\n#### 18\nbye", "18"),
        ("#### 18", "18"),
        ("#### 18 #### 18", "18"),
        ("#### 17\n#### 18", None),
        ("18", None),
        ("####\n\n18\nbye", "18"),  # the rest of the line is empty
        ("####\n#### 18\n####", "18"),
        ("#### Step 1\nadd\n#### **Step 2**\n#### 18", "18"),  # headings
        ("##### 17\n#### 18", "18"),  # a heading of another level
        ("#### Bern\n#### Basel", None),
    ],
)
def test_after_a_marker(text, answer):
    assert found(AfterMarker(), text) == answer


def test_what_cannot_be_read_is_no_rival_after_a_marker():
    reward = NumericAnswer(AfterMarker("Answer:"))
    texts = ["Answer: what is asked\nAnswer: 18", "Answer: 17\nAnswer: 18", "Answer: none"]
    assert reward(texts, answer=[18] * 3) == [1.0, 0.0, 0.0]
    assert NumericAnswer(AfterMarker())(["#### 18\n#### 17 or 18"], answer=[18]) == [1.0]
    last = NumericAnswer(AfterMarker("Answer:", unique=False))
    assert last(["Answer: 17\nAnswer: 18\nAnswer: it is"], answer=[18]) == [1.0]


@pytest.mark.parametrize("extract", ALL, ids=lambda extract: type(extract).__name__)
def test_a_hundred_different_answers_are_none(extract):
    forms = {InTag: "<answer>{}</answer>", InBox: r"\boxed{{{}}}", AfterMarker: "#### {}\n"}
    form = forms.get(type(extract), "</think>{}")
    text = "".join(form.format(f"{n} or so, at least {n}") for n in range(200))
    assert NumericAnswer(extract)([text], answer=[199]) == [0.0]


def test_the_marker_is_no_pattern():
    assert found(AfterMarker("A: (.)"), "A: (.) 7") == "7"


def test_by_a_pattern():
    pattern = r"(?i)answer(?: is)? (?P<answer>\w+)|(?P<other>x)"
    assert found(ByPattern(pattern), "The Answer is Bern.") == "Bern"
    assert found(ByPattern(pattern), "x") is None
    assert found(ByPattern(pattern, group="other"), "x") == "x"
    assert found(ByPattern(pattern, unique=False), "answer a answer b") == "b"


def test_a_pattern_must_be_valid_and_have_the_group():
    with pytest.raises(ValueError, match=r"has no group 'answer'; named groups: city, river\."):
        ByPattern(r"(?P<city>\w+) (?P<river>\w+)")
    with pytest.raises(ValueError, match="named groups: none"):
        ByPattern("a")
    with pytest.raises(ValueError, match=r"invalid pattern '\(a': missing \) at position 2"):
        ByPattern("(a")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>7</think>\n\n42\nor so", "42\nor so"),
        ("7</think>42", "42"),  # the template opened the thought
        ("<think>7", None),  # cut off
        ("42", None),
        ("<think>7</think>", ""),
        ("<think>a</think>b<think>c</think>d", "d"),
        ("<think>a</think>b<think>c", None),  # thinks again, and is cut off
        ("<think>I close it by </think></think>42", "42"),
    ],
)
def test_after_a_thought(text, answer):
    assert found(AfterThought(), text) == answer


def test_after_a_thought_another_extractor_may_look():
    text = r"<think>\boxed{1} <answer>1</answer> [2]</think> \boxed{3} <answer>4</answer>"
    assert found(AfterThought(InBox()), text) == "3"
    assert found(AfterThought(InTag()), text) == "4"
    assert found(AfterThought(InBox(), tag="x"), text) is None
    two = r"</think>\boxed{1} \boxed{2}"
    assert found(AfterThought(InBox()), two) is None
    assert found(AfterThought(InBox(unique=False)), two) == "2"


def test_the_whole_text_without_whitespace_around():
    assert found(WHOLE, " a b\n") == "a b"
    assert WHOLE(" \n") == (2, 2)


def test_spans_are_where_the_answer_is():
    chat = [{"role": "assistant", "content": "<answer> 7 </answer>"}]
    assert numeric_answer.spans([chat, "none"]) == [{"answer": [(9, 10)]}, {"answer": []}]


HOSTILE = [
    "",
    "\0",
    "\udc80\ud800",
    "\x1b[31m\x07",
    "<script>alert(1)</script>",
    "<answer>" * 125_000,
    "<answer>1</answer>" * 55_000,
    r"\boxed{" * 140_000,
    r"\boxed{" * 110_000 + "}" * 110_000,
    "{" * 1_000_000,
    "\\" * 1_000_000,
    "\\boxed" + " " * 1_000_000,
    "####" * 250_000,
    "#### 1\n" * 140_000,
    "9" * 1_000_000,
    "<answer>" + "9" * 1_000_000 + "</answer>",
    "<answer>" + "1," * 400 + "</answer>",
    "<answer>1e999999999</answer>",
    "<answer>10^999999999</answer>",
    "<answer>e" + "̖́" * 500_000 + "</answer>",  # accents to be put in order
    "<answer>" + " " * 1_000_000 + "</answer>",
    "A" + "不" * 200_000 + " not ",
    "A wait " * 30_000 + "?",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("extract", ALL, ids=lambda extract: type(extract).__name__)
def test_hostile_texts_earn_nothing_and_take_no_time(extract):
    for text in HOSTILE:
        for reward in (ExactAnswer(extract), NumericAnswer(extract), ChoiceAnswer(extract)):
            assert reward([text], answer=["B 42"]) in ([0.0], [None])
            assert len(reward.spans([text])) == 1


# ---- comparing: any answer --------------------------------------------------------------------


@pytest.mark.parametrize("reward", [exact_answer, numeric_answer, choice_answer])
def test_nothing_to_compare_with_abstains(reward):
    texts = ["<answer></answer>", "<answer>1</answer>", "none"]
    assert reward(texts, answer=[None, "", " \n"]) == [None, None, None]


@pytest.mark.parametrize("reward", [exact_answer, numeric_answer, choice_answer])
def test_no_answer_and_two_answers_earn_nothing(reward):
    gold = {"exact_answer": "1", "numeric_answer": "1", "choice_answer": "B"}[reward.__name__]
    right, other = f"<answer>{gold}</answer>", "<answer>C 3</answer>"
    texts = [right, gold, "", right + other, other + right, "<answer></answer>"]
    assert reward(texts, answer=[gold] * 6) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_the_gold_may_be_written_like_a_completion():
    gold = ["<answer>4</answer>", "#### 4", "6 - 2 = 4\n#### 4", "4", 4, 4.0, r"\boxed{4}"]
    assert numeric_answer(["<answer>4</answer>"] * 7, answer=gold) == [1.0] * 7
    boxed = ExactAnswer(InBox())
    assert boxed([r"\boxed{a}"] * 2, answer=[r"Hence \boxed{a}", "a"]) == [1.0, 1.0]


def test_the_column_can_be_named_even_text():
    reward = ExactAnswer(WHOLE, column="text", name="mine")
    assert reward.columns == ("text",)
    assert reward.__name__ == "mine"
    assert reward(["a", "b"], text=["a", "a"], answer=["x", "x"]) == [1.0, 0.0]
    with pytest.raises(ValueError, match="'mine' needs the column 'text'; the data have answer"):
        reward(["a"], answer=["a"])


# ---- comparing: texts -------------------------------------------------------------------------


def test_case_can_matter():
    reward = ExactAnswer(WHOLE, ignore_case=False)
    assert reward(["Bern", "bern"], answer=["Bern", "Bern"]) == [1.0, 0.0]
    assert reward(["\u03b1\u0313\u0301\u0345"], answer=["ᾄ"]) == [1.0]  # four times as long


# ---- comparing: numbers -----------------------------------------------------------------------


NUMBERS = [
    ("42", 42), ("+42", 42), ("-42", -42), ("042", 42), ("4.20", Fraction(42, 10)),
    (".5", Fraction(1, 2)), ("-.5", Fraction(-1, 2)), ("42.", 42),
    ("1,234,567.5", Fraction(12345675, 10)), ("1_000", 1000), ("1,234 567", None), ("12,34", None),
    ("1,2345", None), ("1.234,5", None), ("1.2.3", None), ("1e3", 1000),
    ("1.5E-3", Fraction(15, 10000)), ("1.2 × 10^5", 120000), ("2*10^{3}", 2000), ("1e9999", None),
    ("3/4", Fraction(3, 4)), ("½", Fraction(1, 2)), ("3/4/5", None), ("50%", Fraction(1, 2)),
    (r"50\%", Fraction(1, 2)), ("50 percent", Fraction(1, 2)), ("$5", 5),
    (r"\$5.50", Fraction(11, 2)), ("-$-5", None), ("5 €", 5), ("5km", 5), (r"1,\!000", 1000),
    (r"\log 5", None), ("log 5", None), ("Great! It is *5*", 5), ("$5/hour", 5), ("3 + 4", None),
    ("2^3", None), (r"\sqrt{4}", None), ("forty-two", None), ("nan", None), ("inf", None),
    ("", None), ("9" * 65, None), ("9" * 64, 10**64 - 1), ("1 " + "x" * 1000, None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_equals_itself_and_not_its_neighbour(text, value):
    reward = NumericAnswer(WHOLE)
    assert reward.read(text) == value
    expected = [None, None] if value is None else [1.0, 0.0]
    assert reward([text, "999"], answer=[text, text]) == expected


def test_decimal_commas():
    reward = NumericAnswer(WHOLE, decimal=",")
    values = {"1,5": Fraction(3, 2), "1.234,5": Fraction(12345, 10), "1.5": None, "1,234.5": None}
    assert {text: reward.read(text) for text in values} == values


def test_tolerances():
    def score(answer, gold, **options):
        return NumericAnswer(WHOLE, **options)([answer], answer=[gold])[0]

    assert score("0.333333", "1/3") == 1.0  # off by 1e-6 / 3, just the tolerance
    assert score("0.33333", "1/3") == 0.0  # 3.3e-6 off
    assert score("0", "6.626e-34") == 0.0
    assert score("6.626e-34", "0.6626 * 10^-33") == 1.0
    assert score("0", "0.0") == 1.0
    assert score("1e-9", "0") == 0.0
    assert score("0.33", "1/3", abs_tol=0.01) == 1.0
    assert score("101", "100", rel_tol=0.01) == 1.0
    assert score("99", "100", rel_tol=0.01) == 1.0
    assert score("101.1", "100", rel_tol=0.01) == 0.0
    assert score("-101", "-100", rel_tol=0.01) == 1.0
    assert score(f"1{'0' * 20}1", f"1{'0' * 21}", rel_tol=0) == 0.0  # not as floats
    assert score("0.5", "1/2", abs_tol=0) == 1.0


def test_units_may_follow_and_nothing_else():
    reward = NumericAnswer(WHOLE, units=["km", "kilometers", "km/h", "m²"])
    values = {"5 km": 5, "5": 5, "5KM.": 5, "5 kilometers": 5, "5 km/h": 5, "5 m²": 5, "$5": 5}
    values |= {"5 miles": None, "5 km away": None, "5 apples": None, "4 or 5 km": None}
    assert {text: reward.read(text) for text in values} == values
    assert NumericAnswer(WHOLE, units="%").read("50%") == 50
    assert NumericAnswer(WHOLE, units="%").read(r"50 \%") == 50
    assert NumericAnswer(WHOLE, units="m").read("5 km") is None


def test_impossible_options_of_numbers_are_refused():
    with pytest.raises(ValueError, match=r"decimal is ';', expected one of \., ,\."):
        NumericAnswer(decimal=";")
    with pytest.raises(ValueError, match=r"rel_tol and abs_tol are -1 and 0\.0, expected finite"):
        NumericAnswer(rel_tol=-1)
    with pytest.raises(ValueError, match=r"are 1e-06 and nan"):
        NumericAnswer(abs_tol=float("nan"))


# ---- comparing: choices -----------------------------------------------------------------------


def test_other_letters_can_be_choices():
    reward = ChoiceAnswer(WHOLE, choices="JN")
    assert reward(["J", "n", "B"], answer=["J", "N", "J"]) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("choices", ["", "A", "ab", "AA", "A B", "12"])
def test_choices_are_different_capitals(choices):
    with pytest.raises(ValueError, match=f"choices are '{choices}', expected different capitals"):
        ChoiceAnswer(choices=choices)


def test_numbers_of_the_same_value_are_one_answer():
    texts = [f"<answer>42</answer> <answer>{other}</answer>" for other in ("42.0", "43", "x")]
    assert numeric_answer(texts, answer=["42"] * 3) == [1.0, 0.0, 0.0]
    assert exact_answer(texts, answer=["42"] * 3) == [0.0, 0.0, 0.0]


def test_answers_that_are_not_found_in_time_are_counted():
    metrics = {}
    reward = ExactAnswer(ByPattern(r"(?:a|aa)+(?P<answer>b)", timeout=0.05), name="slow")
    texts, golds = ["a" * 60, "ab", "ab", "ab"], ["b", "b", None, "c"]
    assert reward(texts, answer=golds, log_metric=metrics.__setitem__) == [0.0, 1.0, None, 0.0]
    assert metrics == {"reward/slow/timeout_rate": 0.25, "reward/slow/unreadable_rate": 0.25}
