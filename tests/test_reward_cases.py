"""What people report of answer rewards: an input, the right answer in the data, what is right."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import ChoiceAnswer, ExactAnswer, NumericAnswer, WholeText

NUMERIC, GERMAN = NumericAnswer(WholeText()), NumericAnswer(WholeText(), decimal=",")
PRECISE = NumericAnswer(WholeText(), rel_tol=0)
EXACT = ExactAnswer(WholeText())
CHOICE, INDEXED = ChoiceAnswer(WholeText()), ChoiceAnswer(WholeText(), index_base=0)
NAN = float("nan")


def score(reward, answer, gold):
    return reward([answer], **{reward.column: [gold]})[0]


# ---- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("1,234", 1.234, 1), ("1234", 1.234, 0), ("1,5", 1.5, 1), ("1000", 1000.0, 1),
        ("1.000", 1000, 1), ("1,5", Decimal("1.5"), 1), ("0,5", Fraction(1, 2), 1),
        ("1,5", "1,5", 1), ("1,5", NAN, None), ("1,5", Decimal("Infinity"), None),
        ("1", Decimal("1e999999999"), None), ("1", True, None),
    ],
)  # fmt: skip
def test_numbers_in_the_data_are_numbers_whatever_the_decimal_mark(answer, gold, right):
    assert score(GERMAN, answer, gold) == right


@pytest.mark.parametrize(
    "answer",
    ["minus 5", "negative 5", "-(5)", "-**5**", "-`5`", "-<b>5</b>", r"-\text{5}", r"\text{-}5",
     r"-\boxed{5}", "−5", "–5", "- 5", "-$5", "$-5", "(-5)", "x = -5", "⁻5", "－5", "-{5}",
     r"-\left(5\right)", "**-5**", "The answer is minus 5.", "It is -5", "答案是-5",
     "负5", "マイナス5", "moins 5", "-5 °C", "$-$5", "-5.0", "-10/2", "(−5)"],
)  # fmt: skip
def test_a_sign_apart_from_its_digits_is_a_sign(answer):
    assert score(NUMERIC, answer, -5) == 1
    assert score(NUMERIC, answer, 5) == 0
    assert score(NUMERIC, "-5", answer) == 1
    assert score(NUMERIC, "5", answer) == 0


@pytest.mark.parametrize("answer", ["|-42|", r"\left|-42\right|", r"x = \lvert -42 \rvert"])
def test_between_bars_a_sign_is_none(answer):
    assert [score(NUMERIC, answer, gold) for gold in (42, -42)] == [1, 0]


@pytest.mark.parametrize(
    ("text", "value", "misread"),
    [
        ("10²", 100, 102),
        ("1½", 1.5, 5.5),
        ("-1½", -1.5, 0.5),
        ("⅔", Fraction(2, 3), 23),
        ("1.5×10⁻³", 0.0015, 1.5),
        ("42 cm^2", 42, 422),
        ("42 cm²", 42, 422),
        ("42 m2", 42, 422),
        (r"42 \text{ cm}^{2}", 42, 2),
        (r"42^\circ", 42, None),
        (r"42^{\circ}\text{C}", 42, None),
        (r"5 \times 10^{3}", 5000, 5),
        ("5 x 10^3", 5000, 5),
        (r"5\cdot10^3", 5000, 5),
        (r"5\,000", 5000, 5),
        ("5’000", 5000, 5),
        (r"\frac{1}{2}", 0.5, 1),
        (r"\dfrac12", 0.5, 12),
        (r"-\tfrac{1}{2}", -0.5, 0.5),
        ("1 1/2", 1.5, 5.5),
        (r"1\frac{1}{2}", 1.5, 5.5),
        ("6*7 = 42", 42, 6),
        ("m+n = 256+37 = 293", 293, 37),
        ("x ≈ 3.14", 3.14, 3),
        ("42 = x", 42, None),
        ("١٢", 12, None),
        ("४२", 42, None),
        ("١٢٫٥", 12.5, 125),
        ("四十二", 42, None),
        ("-三百零五。", -305, 305),
        ("一亿二千万", 120_000_000, None),
        ("二〇二四", 2024, None),
        ("5 per cent", 0.05, 5),
        ("5 pct", 0.05, 5),
        ("5 Prozent", 0.05, 5),
        ("42千克", 42, None),
        ("She needs 42 dollars.", 42, None),
        ("$18 a day", 18, None),
        ("It is not hard. The answer is 42. Sure, it is not.", 42, None),
        ("42-inch", 42, -42),
        ("60 km/h", 60, None),
        ("**Answer:** 42 ✅", 42, None),
    ],
)  # fmt: skip
def test_what_makes_the_value_is_read(text, value, misread):
    assert score(NUMERIC, text, value) == 1
    assert score(NUMERIC, str(float(value)), text) == 1
    assert misread is None or score(NUMERIC, text, misread) == 0


NO_NUMBER = [
    "{}k", "{}M", "{} bn", "${}m", "{} million", "{} dozen", "{}万", r"\frac{{{}}}{{x}}",
    r"\frac{{x}}{{{}}}", "{} + x", "{}x", "{} x", "{}i", "x_{{{}}}", "x - {}", "{} - x", "{}π",
    "{} squared", "half of {}", "a third of {}", "square root of {}", "twice {}", "not {}",
    "less than {}", "anything but {}", "at least {}", "≥ {}", "x != {}", "> {}", "it isn't {}",
    "{}²", "{}⁵", "{}₂", "{}_2", "{}!", "{}^n", "√{}", "f({})", "x({})", "x{}", "{}(x+1)", "x/{}",
    "{}/x", "{}/0", "0x{}", "{} or more", "{} and a half", "{} is wrong", "{} or 7", "{}-50",
    "3:{}",
    "{} ± 1", "{}‰", "{} ppm", "-x = {}", "half of x = {}", "2x = {}", "7 = {}", "x = 7 or x = {}",
    "x = 1, y = {}", "Answer-{}", "x minus {}", "--{}", "-(-{})", "| {} |", "{}$3",
    "{}<sup>2</sup>",
    "{} doubled", "{} tripled", "{} increased by two", "five or {}", "{} or five", "five, {}",
    "either {} or six", "five and {}", "five to {}", "{} times two", "{} over six", "or {}",
    "{} vs six", "instead of {}", "{} instead of six", "doubling {}", "{} and one", "negated {}",
    "{}, six", "{}/six", "{} perhaps six", "{} → six", "{} per six", "~~{}~~",
    r"{}\sqrt{{2}}", r"{}\pi", "{}e", "{} % %", "2e^{}", "二三十{}", "{}̅",
]  # fmt: skip


@pytest.mark.parametrize("form", NO_NUMBER)
def test_what_changes_the_value_makes_it_no_number(form):
    answer = form.format(42)
    assert score(NUMERIC, answer, 42) == 0
    assert score(NUMERIC, answer, -42) == 0
    assert score(NUMERIC, "42", answer) is None  # as a gold it abstains
    assert NUMERIC.unreadable([answer, "42"]) == [answer]


@pytest.mark.parametrize("unit", ["cm²", "cm^2", "cm2"])
def test_a_raised_unit_is_one_unit_however_it_is_written(unit):
    reward = NumericAnswer(WholeText(), units=unit)
    for answer in ("18 cm^2", "18 cm²", "18cm2", r"18\text{ cm}^2", r"18 \mathrm{cm}^{2}", "18"):
        assert score(reward, answer, 18) == 1
    for answer in ("18 cm", "18 cm^3", "18 m²", "18 cm² or so", "18^2 cm²"):
        assert score(reward, answer, 18) == 0


def test_any_number_of_a_list_is_right():
    assert score(NUMERIC, "1/2", [0.25, "0.5", None]) == 1
    assert score(NUMERIC, "0.3", [0.25, "0.5"]) == 0
    assert score(NUMERIC, "0.25", [0.25, "x + 1"]) is None  # one of them cannot be read


# ---- after a marker, in a box -----------------------------------------------------------------


# ---- choices ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("C. A dog", "C", 1), ("D. Both A and B", "D", 1), ("D. Both (A) and (B)", "D", 1),
        ("B. E. coli", "B", 1), ("E: A polygenic trait", "E", 1), ("(c) a dog", "C", 1),
        ("**C.** A dog", "C", 1), ("The answer is C. A dog", "C", 1), ("C - a dog", "C", 1),
        ("C", "C. A map", 1), ("A", "C. A map", 0), ("D", "D. Both A and B", 1),
        ("B", "b. Bern", 1), ("答案是C。", "C", 1), ("选C", "C", 1), ("Ｃ", "C", 1),
        ("the answer is c", "C", 1), ("37 °C", "C", 0), ("37 C", "C", 0), ("C++", "C", 0),
        ("C#", "C", 0), ("A-level", "A", 0), ("Q&A", "A", 0), ("not A", "A", 0),
        ("A is wrong", "A", 0), ("It isn't A", "A", 0), ("答案不是C", "C", 0), ("A", "N/A", None),
        ("N/A", "A", 0), ("A, C", "A, C", 1), ("(A) and (C)", "A, C", 1), ("C, A", ["A", "C"], 1),
        ("A", "A, C", 0), ("A, B, C", "A, C", 0), ("A, C", "A", 0), ("A", "A or C", None),
        ("A) or B)", "A", 0), ("A. B. C. D.", "A", 0), ("A. B", "A", 0), ("A. cat\nB. dog", "A", 0),
        ("A, then B", "A", 0), ("A. No, wait, B", "A", 0), ("A. No, wait, b", "A", 0),
        ("A. No, wait", "A", 0), ("A. No, B", "A", 0), ("A: actually it is B.", "A", 0),
        ("The answer is A. On second thought, B", "A", 0),
        ("The answer is A. The answer is B.", "A", 0), ("A) Or maybe B", "A", 0),
        ("A. Wait, yes, A", "A", 1), ("Hmm, wait, B", "B", 1), ("A. No", "A", 1),
        ("A. Wait for rain", "A", 1), ("D.C.", "D", 0), ("A", None, None),
        ("B", "B", 1), ("b", "B", 1), ("(B)", "B", 1), ("(b)", "B", 1), ("B.", "B", 1),
        ("**B**", "B", 1), ("_B_", "B", 1), ("option B", "B", 1), ("The answer is B", "B", 1),
        ("The answer is (B).", "B", 1), ("B: 42", "B", 1), ("B) a dog", "B", 1),
        (r"\text{B}", "B", 1), ("B, that is B", "B", 1), ("A or B", "B", 0), ("A/B", "B", 0),
        ("AB", "B", 0), ("Bern", "B", 0), ("is b right?", "B", 0), ("F", "F", None), ("", "B", 0),
    ],
)  # fmt: skip
def test_choices_with_their_texts(answer, gold, right):
    assert score(CHOICE, answer, gold) == right


def test_numbers_name_choices_where_the_first_is_given():
    golds = [2, 2.0, 0, 5, -1, 1.5, "C"]
    scored = INDEXED(["C", "c", "A", "A", "E", "B", "C"], answer=golds)
    assert scored == [1, 1, 1, None, None, None, 1]
    assert ChoiceAnswer(WholeText(), index_base=1)(["B"], answer=[2]) == [1]
    told = r"'answer' holds the number 2, .*; give index_base=0 if 0 stands for A, 1 if 1 does"
    with pytest.raises(ValueError, match=told):
        score(CHOICE, "C", 2)


# ---- texts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("Paris", ["Paris", "City of Paris"], 1), ("city of paris", ("Paris", "City of Paris"), 1),
        ("['Paris']", ["Paris", "City of Paris"], 0), ("42", 42.0, 1), ("42.0", 42.0, 1),
        ("42", 42, 1), ("42", Decimal("42.0"), 1), ("4.2", 4.2, 1), ("4", 4.2, 0),
        ("nan", NAN, None), ("", "", None), ("x", [], None), ("x", {"value": "x"}, None),
        ("x", ["x", None, ""], 1), ("Paris.", "Paris", 1), ("**Paris**", "Paris", 1),
        ('"Paris"', "Paris", 1), ("“Paris.”", "Paris", 1), ("'Paris'.", "Paris", 1),
        ("*Paris*", "`Paris`", 1), ("it's", "it’s", 1), ("x-y", "x‑y", 1),
        (r"\text{Paris}", "Paris", 1), (r"\boxed{\text{Paris}}", "Paris", 1),
        ("$Paris$", "Paris", 1), ("Paris", "Par.is", 0), ("U.S", "U.S.", 1), ("...", "...", 1),
        (".", "...", 0), ("init", "__init__", 0), ("Paris, France", "Paris", 0), ("2", "1$2", 0),
        ("12", "1$2", 0), ("Bern", "bern", 1), ("São\n Paulo", "são paulo", 1),
        ("STRASSE", "Straße", 1), ("Sa\u0303o Paulo", "São Paulo", 1),  # the accent apart
        ("４２", "42", 1), ("٤٢", "42", 1), ("2ⁿ", "2n", 0), ("Bern!", "Bern", 0),
        ("Bern or Basel", "Bern", 0), ("", "Bern", 0), ("True", True, 1),
        ("\u03b1\u0313\u0301\u0345", "ᾄ", 1),  # alpha with breathing, accent and iota below

    ],
)  # fmt: skip
def test_texts_are_compared_without_their_dress(answer, gold, right):
    assert score(EXACT, answer, gold) == right


# ---- whatever the number, the letter, the text ------------------------------------------------

WHOLES = st.integers(0, 10**9)
PLACES = st.integers(1, 9999).filter(lambda n: n % 10 > 0)  # after the point
SIGNS = ["-{}", "−{}", "- {}", "minus {}", "-({})", "-**{}**", "-<i>{}</i>", r"-\text{{{}}}",
         "-${}$", "x = -{}", "The answer is -{}", "⁻{}", "負{}"]  # fmt: skip
DRESSES = ["{}", "**{}**", "${}$", r"\({}\)", r"\boxed{{{}}}", "<b>{}</b>", "x = {}", "It is {}.",
           "{} apples", "({})", " {} \n", "`{}`", "{} km/h", "y ≈ {}", "Answer: {}",
           "1 + 2 = x = {}", "答案是{}。"]  # fmt: skip
SCRIPTS = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "𝟎𝟏𝟐𝟑𝟒𝟓𝟔𝟕𝟖𝟗"]
GAPS = [",", " ", "'", "’", "\u202f", r"\,", "{,}"]


def read(text):
    return NUMERIC.read(text)


@given(WHOLES, PLACES, st.sampled_from(DRESSES), st.sampled_from(SCRIPTS), st.sampled_from(GAPS))
def test_one_number_is_itself_however_it_is_written(whole, places, dress, script, gap):
    value = Fraction(f"{whole}.{places}")
    plain = f"{whole}.{places}"
    grouped = f"{whole:,}".replace(",", gap) + f".{places}"
    in_script = plain.translate(str.maketrans("0123456789", script))
    scientific = rf"{plain} \times 10^{{0}}", f"{whole}{places} x 10^-{len(str(places))}"
    percent = f"{whole}{places}e{2 - len(str(places))}%"
    for written in (plain, grouped, in_script, *scientific, percent):
        assert read(dress.format(written)) == value


@given(WHOLES.filter(bool), st.sampled_from(SIGNS), st.sampled_from(DRESSES[:6]))
def test_a_sign_is_never_lost(whole, sign, dress):
    assert read(sign.format(dress.format(whole))) in (-whole, None)
    assert read(sign.format(whole)) == -whole


@given(WHOLES, st.integers(1, 99), st.integers(2, 100))
def test_a_fraction_is_itself_however_it_is_written(whole, top, bottom):
    value = Fraction(top, bottom)
    for written in (f"{top}/{bottom}", f"{top} / {bottom}", f"{top}⁄{bottom}",
                    rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac {{{top}}} {{{bottom}}}"):  # fmt: skip
        assert read(written) == value
        assert read(f"-{written}") == -value
    for written in (f"{whole} {top}/{bottom}", rf"{whole}\frac{{{top}}}{{{bottom}}}"):
        assert read(written) == (whole + value if top < bottom else None)


@given(WHOLES.filter(lambda n: n != 7), st.sampled_from(NO_NUMBER), st.sampled_from(DRESSES))
def test_what_changes_a_value_never_pays(whole, form, dress):
    assert read(dress.format(form.format(whole))) != whole
    assert read(form.format(f"**{whole}**")) is None


@given(st.integers(1, 10**6), st.integers(1, 99), st.sampled_from(DRESSES))
def test_a_changed_number_never_pays(number, other, dress):
    gold = str(number)
    for changed in (number + other, -number, f"{number}{other}", f"{number} {other}", f"{number}%",
                    f"{number}e{other}", f"{number}^{other}", f"{number}/{other + 1}",
                    f"{number}.{other}", f"{other + 1}*{number}", f"{other}-{number}"):  # fmt: skip
        assert score(PRECISE, dress.format(changed), gold) == 0


@given(st.text("0123456789-+*/^_.,=x(){}[]|\\$%½²₂ eEkminus", max_size=30))
def test_no_text_is_an_error_and_a_number_read_is_one_that_stands_there(text):
    value = read(text)
    assert value is None or any(character.isnumeric() for character in text)
    assert value == read(f" {text}\n")
    assert value is None or read(f"**{text.strip()}**") in (value, None)


LETTERS = st.sampled_from("ABCDE")
TEXTS = st.sampled_from(
    ["a dog", "E. coli", "Both A and B", "42", "Neither A nor C", "vitamin D", "I"]
)
LABELS = ["{}. {}", "({}) {}", "{}) {}", "{}: {}", "**{}.** {}", "The answer is {}. {}",
          "Option {}: {}", "答案是{}：{}"]  # fmt: skip


@given(LETTERS, TEXTS, st.sampled_from(LABELS), LETTERS)
def test_a_label_names_the_choice_whatever_its_text(letter, text, form, other):
    written = form.format(letter, text)
    assert CHOICE.read(written) == letter
    assert CHOICE.read(form.format(letter.lower(), text)) in (letter, None)
    assert score(CHOICE, written, other) == (letter == other)


@given(st.sets(LETTERS), st.permutations("ABCDE"), st.sampled_from([", ", " and ", "; ", "、"]))
def test_a_list_of_letters_is_right_as_a_whole(needed, order, between):
    named = between.join(letter for letter in order if letter in needed)
    assert CHOICE.read(named) == ("".join(sorted(needed)) or None)
    assert score(CHOICE, named, "B") == (needed == {"B"})
    assert score(CHOICE, named, sorted(needed)) == (1 if needed else None)


QUOTES = ['"{}"', "'{}'", "“{}”", "**{}**", "*{}*", "`{}`", "{}.", r"\text{{{}}}", r"\boxed{{{}}}",
          " {}\n", "${}$", "<b>{}</b>"]  # fmt: skip
WORDS = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=9).filter(
    lambda word: "'" not in (EXACT.read(word) or "'")  # ŉ is compatible with 'n
)


@given(WORDS, WORDS, st.sampled_from(QUOTES), st.sampled_from(QUOTES))
def test_a_text_is_itself_in_every_dress_and_another_is_not(text, other, one, two):
    assert score(EXACT, one.format(text), two.format(text)) == 1
    assert score(EXACT, one.format(text), other) == (EXACT.read(text) == EXACT.read(other))
