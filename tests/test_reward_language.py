import pytest

from rewards import LanguageConsistency

ENGLISH = "We add the two numbers. Then we divide the result by three!"
GERMAN = "Zuerst addieren wir die beiden Zahlen. Dann teilen wir das Ergebnis durch drei."
CHINESE = "我们先把这两个数字加起来。然后再把结果除以三得到答案。"


@pytest.mark.parametrize(
    ("text", "english"),
    [
        (ENGLISH, 1.0),
        (GERMAN, 0.0),
        (CHINESE, 0.0),
        ("", None),
        ("42.", None),
        ("```python\nfor zahl in zahlen: print(zahl)\n```", None),
        (r"$$\text{die Summe der Zahlen}$$", None),
        (f"<think>{ENGLISH}</think>", 1.0),
        ("See https://a.org/path?q=1 for the proof of this.", 1.0),
        ("https://" + CHINESE.replace("。", " https://"), 0.0),  # no address has such letters
        ("We get $x^2 + y^2$ and so the answer is nine.", 1.0),
    ],
)
def test_the_share_of_the_language_is_paid(text, english):
    assert LanguageConsistency("en", others=["de", "zh"])([text]) == [english]


def test_letters_are_counted():
    letters = [sum(map(str.isalpha, text)) for text in (ENGLISH, CHINESE)]
    mixed = f"{ENGLISH} {CHINESE}"
    share = letters[0] / sum(letters)
    assert LanguageConsistency("en", others=["zh"])([mixed]) == pytest.approx([share])


def test_a_column_may_say_the_language():
    reward = LanguageConsistency(None, column="language", others=["en", "zh", "de"])
    golds = ["en", "de", "zh", "DE"]
    assert reward([ENGLISH, GERMAN, CHINESE, ENGLISH], language=golds) == [1.0, 1.0, 1.0, 0.0]


def test_what_is_in_another_language_is_named():
    text = f"{ENGLISH}{CHINESE}"
    (spans,) = LanguageConsistency("en", others=["zh"]).spans([text])
    named = "".join(text[slice(*span)] for span in spans["other_language"])
    assert named == CHINESE.replace("。", "")


def test_of_a_long_completion_sentences_from_all_over_it_are_judged():
    half = 400 * "So we add the numbers again. " + 400 * "我们再把这些数字加起来看看结果。"
    (share,) = LanguageConsistency("en", others=["zh"])([half])
    assert share == pytest.approx(400 * 22 / (400 * 22 + 400 * 15), abs=0.05)


def test_letters_that_are_not_judged_do_not_count():
    head, tail = "so we add the numbers " * 14, "dann teilen wir das Ergebnis durch drei " * 10
    (share,) = LanguageConsistency("en", others=["de"])([head + tail])
    letters = [sum(map(str.isalpha, text)) for text in (head, tail)]
    assert share == pytest.approx(letters[0] / sum(letters), abs=0.05)  # a piece is in both


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="language is 'english', expected an ISO 639-1 code: af,"):
        LanguageConsistency("english")
    with pytest.raises(ValueError, match="expected one of the two"):
        LanguageConsistency("en", column="language")
    with pytest.raises(ValueError, match="language is 3, expected an ISO"):
        LanguageConsistency(None, column="language")([ENGLISH], language=[3])
