"""What other packages' rewards give for the same completions, and where ours differ on purpose.

TRL's are called. What those of open-r1 (commit 1416fa0) and verifiers (a60a606, its `ThinkParser`
and `MathRubric`) gave when they were run on these completions is written down beside what ours do.
"""

from pathlib import Path

import pytest
from trl.rewards import accuracy_reward, think_format_reward

from rewards import (
    AfterThought,
    MathAnswer,
    Repetition,
    TagFormat,
    think_answer_format,
    think_format,
)

GOOD = "<think>\n2 + 2 is 4\n</think>\n<answer>\n4\n</answer>"
README = Path(__file__).parents[1] / "rewards" / "README.md"


def chat(text):
    return [{"role": "assistant", "content": text}]


SHOWN = [  # completion, right answer (None: the form is judged), TRL, open-r1, verifiers, ours
    ("<think></think>b", None, 1, None, 1, 0),
    ("<think>a</think>", None, 1, None, 0, 0),
    ("<think>a</think>b</think>", None, 1, None, 0, 0),
    (f"{GOOD}\n<answer>\n5\n</answer>", None, None, 1, None, 0),
    (r"\boxed{2}", "2k+2", 1, 1, 0, 0),
    (r"\boxed{2k+2}", "2k+2", 0, 0, 1, 1),
    (r"\boxed{0.0}", r"$1.6\times 10^{-19}$", 1, 1, 1, 0),
    (r"<think>\boxed{4}</think>It is 5.", "$4$", 1, 1, 0, 0),
    (r"<think>\boxed{4}", "$4$", 1, 1, 1, 0),
    (r"$-\boxed{5}$", "$5$", 1, 1, 1, 0),
]


@pytest.mark.parametrize(("text", "gold", "trl", "open_r1", "verifiers", "ours"), SHOWN)
def test_the_table_of_the_readme_is_what_is_paid(
    formulas, text, gold, trl, open_r1, verifiers, ours
):
    form = think_format if trl is not None else think_answer_format
    judge, theirs = (form, think_format_reward) if gold is None else (formulas, accuracy_reward)
    assert judge([chat(text)], solution=[gold]) == [ours]
    assert trl is None or theirs([chat(text)], solution=[gold]) == [trl]
    cells = [f"`{gold}`" if gold else None, trl, open_r1, verifiers, ours]
    shown = " | ".join("–" if cell is None else str(cell) for cell in cells)
    assert f"| `{text}` | {shown} |".replace("\n", "⏎") in README.read_text(encoding="utf-8")


# ---- TRL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<think>a</think>b",
        "<think>\na\nb\n</think>\nc",
        "<think>a<think>b</think>c",
        "<think>a</think>b<think>c</think>",
        "<think>a",
        "a</think>b",
        "a<think>b</think>c",
        "",
    ],
)
def test_the_form_of_a_thought_is_trls(text):
    ours = TagFormat(["think"], tail=True, require_nonempty=False, prefilled=None)
    assert ours([chat(text)]) == think_format_reward([chat(text)])


@pytest.mark.parametrize(
    ("text", "theirs", "ours"),
    [
        ("<think> </think>b", 1.0, 0.0),  # thinks nothing
        ("  <think>a</think>b", 0.0, 1.0),  # blanks around a completion are nothing
        ("a</think>b", 0.0, 1.0),  # the template may have opened it
    ],
)
def test_where_our_form_of_a_thought_differs_from_trls(text, theirs, ours):
    assert think_format_reward([chat(text)]) == [theirs]
    assert think_format([chat(text)]) == [ours]


@pytest.mark.parametrize(
    ("text", "gold", "theirs", "ours"),
    [
        (r"\boxed{4}", "$4$", 1.0, 1.0),
        (r"\boxed{5}", "$4$", 0.0, 0.0),
        (r"\boxed{\frac{2}{8}}", r"$\frac{1}{4}$", 1.0, 1.0),
        (r"\boxed{5\text{ cm}}", r"$5\text{ m}$", 1.0, 0.0),  # they leave units out
        (r"\boxed{3}, or rather \boxed{4}", "$4$", 0.0, 1.0),  # and take both boxes for a set
    ],
)
def test_where_our_verdict_on_formulas_differs_from_trls(formulas, text, gold, theirs, ours):
    assert accuracy_reward([chat(text)], solution=[gold]) == [theirs]
    assert formulas([chat(text)], solution=[gold]) == [ours]


@pytest.fixture(scope="module")
def formulas():
    reward = MathAnswer(timeout=60, processes=1)
    yield reward
    reward.close()


# ---- open-r1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        (GOOD, 1.0),
        (f"{GOOD}\n\n", 1.0),
        ("<think>2 + 2</think>", 0.0),
        ("<answer>4</answer>", 0.0),
        ("4", 0.0),
        ("<think>2 + 2</think><answer>4", 0.0),
        ("<think>2 + 2</answer><answer>4</think>", 0.0),
    ],
)
def test_the_form_of_thought_and_answer_is_open_r1s(text, theirs):
    assert think_answer_format([chat(text)]) == [theirs]


@pytest.mark.parametrize(
    ("text", "theirs", "ours"),
    [
        (GOOD.replace("\n", ""), 0.0, 1.0),  # each tag needs a line of its own
        (f"{GOOD}\nbut", 1.0, 0.0),  # the form may end where any line does
        ("<think>\n\n</think>\n<answer>\n\n</answer>", 1.0, 0.0),
    ],
)
def test_where_our_form_of_thought_and_answer_differs_from_open_r1s(text, theirs, ours):
    assert theirs != ours
    assert think_answer_format([chat(text)]) == [ours]


@pytest.mark.parametrize(
    ("words", "n", "penalty", "theirs"),
    [
        ("we add two and two", 2, -1.0, 0.0),
        ("so so so so so", 2, -1.0, -3 / 4),
        ("we are a we are a team", 2, -1.0, -1 / 3),
        ("we are a we are a team", 3, -2.0, -2 / 5),
        ("so so so so", 3, -0.5, -1 / 4),
        ("", 2, -1.0, 0.0),
        ("so", 3, -1.0, 0.0),
        ("so we add", 3, -1.0, 0.0),
        ("a b c a b c", 3, -1.0, -1 / 4),
        ("a b c a b c e f g a b c a b c", 3, -1.0, -5 / 13),
    ],
)
def test_repetition_of_words_is_open_r1s(words, n, penalty, theirs):
    assert Repetition(n, penalty)([chat(words)]) == pytest.approx([theirs])


# ---- verifiers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        ("<think>a</think> 4 ", "4"),
        ("a</think>4", "4"),
        ("<think>a</think>b</think>4", "4"),
        ("<think>4", None),
        ("4", None),
    ],
)
def test_what_follows_the_thought_is_that_of_verifiers(text, theirs):
    span = AfterThought()(text)
    assert (None if span is None else text[slice(*span)]) == theirs
