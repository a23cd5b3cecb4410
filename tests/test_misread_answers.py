r"""Answers that were taken for another: an input, the right answer in the data, what is right."""

import pytest

from rewards import (
    ChoiceAnswer,
    ExactAnswer,
    ExactText,
    InBox,
    InTag,
    NumericAnswer,
    WholeText,
)
from rewards.latex import Stated

NUMERIC, BOXED, STATED = map(NumericAnswer, (WholeText(), InBox(), Stated()))
CHOICE, EXACT = ChoiceAnswer(WholeText()), ExactAnswer(WholeText())


def scores(reward, answer, golds):
    return reward([answer] * len(golds), answer=golds)


@pytest.mark.parametrize(
    "answer",
    [r"$-\boxed{5}$", r"-\boxed{5}", r"The answer is -\boxed{5}.", r"$x = - \boxed{5}$",
     r"\[-\boxed{5}\]", r"-$\boxed{5}$", r"$-\left(\boxed{5}\right)$", r"$-(\boxed{5})$",
     r"-\$\boxed{5}", r"$x=-\$\boxed{5}$", r"\(−\fbox{5}\)", r"$$x = -\boxed{5}$$",
     r"negative \boxed{5}", r"minus $\boxed{5}$", r"$\text{-}\boxed{5}$",
     r"\text{minus }\boxed{5}", r"-{\boxed{5}}", r"-[\boxed{5}]", r"–\boxed{5}", r"-**\boxed{5}**",
     r"-`\boxed{5}`", r"-<b>\boxed{5}</b>", r"\textbf{-}\boxed{5}", r"$-\left({\boxed{5}}\right)$"],
)  # fmt: skip
def test_a_sign_at_a_box_is_of_the_answer(answer):
    assert scores(BOXED, answer, [5, -5]) == scores(STATED, answer, [5, -5]) == [0, 1]


@pytest.mark.parametrize(
    "answer",
    [r"\boxed{5}\%", r"$\boxed{5}$%", r"\boxed{5}^2", r"$\frac{1}{\boxed{5}}$",
     r"\frac{1}{\boxed{5}}", r"$\frac{\boxed{5}}{2}$", r"$2\cdot\boxed{5}$", r"$2 - \boxed{5}$",
     r"$\sqrt{\boxed{5}}$", r"$\boxed{5}!$", r"$\boxed{5}x$", r"$\boxed{5} - 2$",
     r"$2^{\boxed{5}}$", r"\boxed{5}/2", r"$\pi\boxed{5}$", r"$\boxed{5} - x$", r"$x + \boxed{5}$",
     r"√$\boxed{5}$",
     r"$3\boxed{5}$", r"$f(\boxed{5})$", r"$2(\boxed{5})$", r"$\boxed{5} × 2$", r"$x\ne\boxed{5}$",
     r"$x ≥ \boxed{5}$", r"\boxed{5} million", r"\boxed{5} squared", r"\boxed{5}‰",
     r"not \boxed{5}",
     r"{\boxed{5}}^2", r"\boxed{5},000", r"0.\boxed{5}", r"(**\boxed{5}**)^2",
     r"\text{not }\boxed{5}", r"is it \boxed{5}?", r"\boxed{5} is wrong", "The answer is not $5$.",
     "The answer isn't $5$.", "The answer is anything but $5$.", "The answer is 5? No, 7.",
     "The answer is less than $5$.", "The answer is $5$? No, 7.", "The answer is $5$ million.",
     "The answer $5$ is wrong."],
)  # fmt: skip
def test_a_box_that_is_a_part_of_its_formula_is_no_answer(answer):
    assert scores(BOXED, answer, [5, -5]) == scores(STATED, answer, [5, -5]) == [0, 0]


@pytest.mark.parametrize(
    "answer",
    [r"**\boxed{5}**", r"*\boxed{5}*", r"\boxed{5}!", r"- \boxed{5}", r"- $\boxed{5}$",
     r"$2+3=\boxed{5}$", r"\[\boxed{5}\text{ cm}\]", r"$\textbf{\boxed{5}}$", r"\boxed{5}^\circ",
     r"The answer - \boxed{5} - is", r"$4 and $6, so \boxed{5}", r"$2-7$ so $\boxed{5}$",
     r"$\boxed{5}$-inch", r"$\boxed{5}^{\text{th}}$", r"$\boxed{5}=x$", r"$x &= \boxed{5} \\$",
     r"**Answer:** **\boxed{5}**", r"<answer>\boxed{5}</answer>", r"a</think>\boxed{5}",
     r"=> \boxed{5}",
     "> \\boxed{5}\n\n2.", r"\begin{aligned} x &= 2 + 3 \\ &= \boxed{5} \end{aligned}",
     r"\(\therefore\boxed{5}\)", r"\text{The answer is } \boxed{5}", r"$\boxed{5} = 2 + 3$",
     r"<b>\boxed{5}</b>", r"1. \boxed{5}", r"\boxed{5} apples", "\\[\n\\boxed{5}\n\\]\n- done",
     r"**\boxed{5}** - 3 fewer", r"{\color{red}\boxed{5}}", r"($\boxed{5}$)", r"No. \boxed{5}"],
)  # fmt: skip
def test_what_only_stands_beside_a_box_changes_nothing(answer):
    assert scores(BOXED, answer, [5]) == scores(STATED, answer, [5]) == [1]


@pytest.mark.parametrize(
    "answer",
    ["-€5", "-£5", "-¥5", "-USD 5", "-'5'", "—5", "➖5", "minus about 5", "negative number 5",
     "零下5", "0-5", *(f"-{unseen}5" for unseen in "\u200b\u2060\ufeff\u00ad\u200e\u2063")],
)  # fmt: skip
def test_what_stands_between_a_sign_and_its_number_loses_no_sign(answer):
    assert scores(NUMERIC, answer, [5, -5]) == [0, 1]


@pytest.mark.parametrize(
    "answer",
    ["twenty 5", "5 point two", "5 grand", "5 hundredth", "5 lac", "5kk", "5倍", "5 !", "5xy",
     "no 5", "non 5", "5 (negative)", "x squared = 5", "point 5"],
)  # fmt: skip
def test_words_that_change_a_value_make_it_no_number(answer):
    assert scores(NUMERIC, answer, [5, -5]) == [0, 0]


@pytest.mark.parametrize(
    "answer",
    ["the answer — 5", "5 — done", "No, 5", "No. 5", "5 points", "USD 5", "5\u200b", "'5'"],
)
def test_words_that_change_no_value_are_ignored(answer):
    assert scores(NUMERIC, answer, [5]) == [1]


@pytest.mark.parametrize(
    "answer",
    ["B isn't right", "B can't be", "B doesn't work", "anything but B", "All but B", "rule out B",
     "Rule out B", "Not B", "B is definitely not the answer", "B 错误", "排除B", "nicht B", "¬B",
     "~~B~~", "❌ B", "B, not B", "It is not B, not A", "B, not A, or C",
     "Not B because A is wrong", "I ruled out B", "B ✗", "B不对", "B? No.",
     "B. I changed my mind: A", "B. Nope, A", "B. It should be A", "B. Or is it A?",
     "B. Final answer: A"],
)  # fmt: skip
def test_a_choice_that_is_denied_is_not_chosen(answer):
    assert scores(CHOICE, answer, ["B", "A"]) == [0, 0]


@pytest.mark.parametrize(
    "answer",
    ["B, not A", "(B), not (A)", "B because A is wrong", "B\n\nExplanation: A is too small.",
     "B, not the others", "B ✅", "\u200bB", "B is correct, anything else is wrong"],
)  # fmt: skip
def test_denying_another_choice_takes_nothing_back(answer):
    assert scores(CHOICE, answer, ["B", "A"]) == [1, 0]


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("2⁵", "25", 0), ("2⁵", "2⁵", 1), ("10²", "102", 0), ("H₂O", "H2O", 0), ("a<b>c", "ac", 0),
        ("a <b>c</b>", "a c", 1), ("Paris", "\u200b", None), ("\u200bParis", "Paris", 1),
        ("Pa\u00adris", "Paris", 1),
    ],
)  # fmt: skip
def test_raised_digits_tags_and_unseen_characters_of_texts(answer, gold, right):
    assert scores(EXACT, answer, [gold]) == [right]


def test_unseen_characters_around_a_whole_text_are_blanks():
    reward = ExactText()
    assert reward(["a", "\u200bParis\ufeff"], answer=["\u200b", "Paris"]) == [None, 1]
    decided = reward.decided(["\u200bParis\u200bx", "\u200bParis\u200b"], answer=["Paris"] * 2)
    assert [one.chars for one in decided] == [8, None]


@pytest.mark.parametrize(
    ("reward", "arguments", "told"),
    [
        (NumericAnswer, {"extract": "answer"}, "extract is 'answer', expected an instance"),
        (ChoiceAnswer, {"extract": "ABCD"}, "extract is 'ABCD', expected an instance"),
        (NumericAnswer, {"extract": InTag}, "extract is <class .*InTag'>, expected an instance"),
        (ChoiceAnswer, {"choices": ["A", "B"]}, r"choices is \['A', 'B'\], expected one text"),
        (NumericAnswer, {"rel_tol": "1"}, "rel_tol is '1', expected a number"),
        (NumericAnswer, {"abs_tol": None}, "abs_tol is None, expected a number"),
    ],
)
def test_an_argument_of_another_type_is_refused_by_its_name(reward, arguments, told):
    with pytest.raises(TypeError, match=told):
        reward(**arguments)
