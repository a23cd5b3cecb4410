"""The tag formats: the scanner against the automaton, spans, prompts, hostile text."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.contract import Decided
from rewards.tags import TagFormat, think_answer_format, think_format

LETTERS = ["<t>", "</t>", "<a>", "</a>", "x", " ", "<", "/t>"]
CHOICES = (  # steps that may be left out, or be one of several
    ((("t", "a"),), {}),
    (("t", "a"), {"optional": ["t"]}),
    (("t", "a"), {"optional": ["a"]}),
    (("t", ("a", "b")), {"optional": ["t"]}),
    ((("t", "a"), "b"), {"optional": ["a"], "exactly_once": False}),
)
SWITCHES = ("exactly_once", "require_nonempty", "allow_outside", "tail")
OPTIONS = [
    {**dict(zip(SWITCHES, switches, strict=True)), "prefilled": prefilled}
    for switches in product((True, False), repeat=4)
    for prefilled in (None, "t", "auto")
]


def edited(word):
    """Return the words with one letter of a word left out, replaced, or put in."""
    for i in range(len(word) + 1):
        yield from ((*word[:i], letter, *word[i:]) for letter in LETTERS)
        yield from ((*word[:i], letter, *word[i + 1 :]) for letter in LETTERS if i < len(word))
        yield word[:i] + word[i + 1 :]


RIGHT = ("<t>", "x", "</t>", "<a>", "x", "</a>")
NEAR_RIGHT = sorted({"".join(twice) for once in edited(RIGHT) for twice in edited(once)})
SHORT = ["".join(word) for size in range(5) for word in product(LETTERS, repeat=size)]


# --- two implementations of one definition


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_scanner_and_automaton_agree(options):
    for tags, texts in ((("t",), SHORT), (("t", "a"), NEAR_RIGHT)):
        reward = TagFormat(tags, **options)
        accepts = reward.automaton.accepts
        scores = reward(texts)
        assert [
            text for text, score in zip(texts, scores, strict=True) if accepts(text) != score
        ] == []
        assert 0 < sum(scores) < len(texts)


@pytest.mark.parametrize("prefilled", [None, "t", "auto"])
@pytest.mark.parametrize(("tags", "options"), CHOICES, ids=str)
def test_scanner_and_automaton_agree_on_steps_with_a_choice(tags, options, prefilled):
    reward = TagFormat(tags, **options, prefilled=prefilled)
    texts = [*SHORT[::3], *NEAR_RIGHT[::17], *BLOCKS]
    scores = reward(texts)
    assert [t for t, s in zip(texts, scores, strict=True) if reward.automaton.accepts(t) != s] == []
    assert 0 < sum(scores) < len(texts)
    assert reward([reward.specimen.removeprefix("<t>" if prefilled == "t" else "")]) == [1.0]
    for text in texts[::41]:
        endings = [*ENDINGS, *(f"{ending}<b>x</b>" for ending in ENDINGS), *B_ENDINGS]
        assert reward.decided([text]) == [Decided(by_definition(reward, text, endings))], text


B_ENDINGS = [
    "".join(w) for w in product(("", ">", "b>", "/b>"), ("", "x"), ("", "</b>"), ("", "<b>x</b>"))
]
BLOCKS = [
    begun + "".join(f"<{tag}>x</{tag}>" for tag in word)
    for begun in ("", "x</t>")
    for size in range(4)
    for word in product("tab", repeat=size)
]


@settings(deadline=None)  # the first text has the automata made
@given(st.lists(st.sampled_from([*LETTERS, "\n", "é", "\0", "\ud800", ">", "<t"])).map("".join))
def test_scanner_and_automaton_agree_on_long_texts(text):
    for options in OPTIONS:
        reward = REWARDS[str(options)]
        assert reward.automaton.accepts(text) == (reward([text]) == [1.0]), options


REWARDS = {str(options): TagFormat(("t", "a"), **options) for options in OPTIONS}

# Whatever can still be made right is made right by one of these: they end the tag that has begun,
# give the open block a body, close it, and add the blocks that are missing and text after them.
# One more opening tag makes it wrong.
ENDINGS = ["".join(parts) for parts in product(
    ("", ">", "t>", "/t>", "a>", "/a>"), ("", "x"), ("", "</t>", "</a>"),
    ("", "<a>x</a>", "<t>x</t><a>x</a>"), ("", "x"),
)] + ["<t>"]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_decided_is_when_no_continuation_changes_the_score(options):
    reward = REWARDS[str(options)]
    for text in NEAR_RIGHT[::211]:
        assert reward.decided([text]) == [Decided(by_definition(reward, text))], text


def by_definition(reward, text, endings=ENDINGS):
    for chars in range(len(text) + 1):
        scores = (reward([text[:chars] + ending]) for ending in endings)
        if all(score == first for first in [next(scores)] for score in scores):
            return chars
    return None


# --- prompts


def test_prefilled_means_judged_with_the_tag_before():
    ended = TagFormat(("t", "a"), prefilled="t")
    opened = TagFormat(("t", "a"), prefilled=None)
    assert ended(SHORT + NEAR_RIGHT) == opened([f"<t>{text}" for text in SHORT + NEAR_RIGHT])


def test_auto_without_prompts_is_the_better_of_both_readings():
    readings = [TagFormat(("t", "a"), prefilled=prefilled)(NEAR_RIGHT) for prefilled in ("t", None)]
    assert TagFormat(("t", "a"))(NEAR_RIGHT) == list(map(max, *readings))


def test_conversations_hide_whether_the_tag_is_prefilled():
    prompt = [{"role": "user", "content": "Think inside <think>"}]  # a template renders more
    for text in ("<think>a</think><answer>b</answer>", "a</think><answer>b</answer>"):
        chat = [{"role": "assistant", "content": text}]
        assert think_answer_format([chat], prompts=[prompt]) == [1.0]
        assert think_answer_format.decided([chat], [prompt]) == [Decided(None)]


def test_a_fixed_prefill_ignores_prompts():
    never, always = TagFormat(prefilled=None), TagFormat(prefilled="think")
    text = "a</think><answer>b</answer>"
    for prompt in ("2+2?", "2+2?<think>"):
        assert never([text], prompts=[prompt]) == [0.0]
        assert always([text], prompts=[prompt]) == [1.0]


def test_prompts_are_one_per_completion():
    for method in (think_format, think_format.decided, think_format.spans):
        with pytest.raises(
            ValueError, match=r"'prompts' has 1 values for 2 completions of reward 'think_fo"
        ):
            method(["a", "b"], prompts=["c"])


# --- partial credit


@pytest.mark.parametrize(
    ("text", "quarters"),
    [
        ("<think>a</think><answer>b</answer>", 4),
        ("<think></think><answer></answer>", 3),  # all tags in place, but nothing in them
        ("", 0),
        ("<think>", 1),
        ("</think>", 1),  # nothing that belongs before it comes after it
        ("<think></think>", 2),
        ("<answer>b</answer><think>a</think>", 2),  # thinking is in place, the answer is not
        ("</answer><answer></think><think>", 1),  # think alone; each other one is too early
        ("<think><think></think><answer></answer>", 3),  # think occurs twice
    ],
)
def test_partial_credit_counts_tags_in_place(text, quarters):
    reward = TagFormat(partial_credit=True, prefilled=None)
    assert reward([text]) == [quarters / 4]


def test_partial_credit_counts_a_prefilled_tag():
    assert TagFormat(partial_credit=True, prefilled="think")(["a"]) == [0.25]
    assert TagFormat(partial_credit=True)(["a", "a</think>"]) == [0.0, 0.5]


def test_partial_credit_forgives_repeats_where_the_format_does():
    reward = TagFormat(partial_credit=True, prefilled=None, exactly_once=False)
    # think, think, /think, answer, /answer: no whole blocks, yet each is first seen in order
    assert reward(["<think><think>a</think><answer>b</answer>"]) == [0.75]
    assert reward(["<answer>a</answer><think>a</think><answer>b</answer>"]) == [1.0]


@given(st.lists(st.sampled_from(LETTERS)).map("".join))
def test_partial_credit_is_full_for_the_right_form_only(text):
    for exactly_once in (True, False):
        whole = TagFormat(("t", "a"), exactly_once=exactly_once)([text])[0]
        part = TagFormat(("t", "a"), exactly_once=exactly_once, partial_credit=True)([text])[0]
        assert (part == 1) == (whole == 1)
        assert part in (0, 0.25, 0.5, 0.75, 1)


def test_partial_credit_is_no_acceptance():
    reward = TagFormat(partial_credit=True)
    assert reward.automaton is None
    assert reward.decided(["Sure!"]) == [Decided(None, exact=False)]


def test_partial_credit_goes_by_the_steps_that_are_there():
    agent = TagFormat(
        ("t", ("a", "b")), optional=["t"], partial_credit=True, exactly_once=False, prefilled=None
    )
    assert agent(["<b>", "<t>x</t><b>", "<t><b></b>", "<a>x</a>", ""]) == [0.5, 0.75, 0.75, 1, 0]


# --- steps with a choice


def test_a_step_may_have_one_of_several_tags_or_be_left_out():
    agent = TagFormat(("think", ("tool", "answer")), optional=["think"], prefilled=None)
    think, tool, answer = (f"<{tag}>x</{tag}>" for tag in ("think", "tool", "answer"))
    right = [tool, answer, think + tool, think + "\n" + answer]
    wrong = [think, tool + answer, answer + think, tool + tool, "", "x" + answer, think + think]
    assert agent(right + wrong) == [1.0] * len(right) + [0.0] * len(wrong)
    assert agent.spans([think + tool]) == [
        {"tags": [(0, 7), (8, 16), (16, 22), (23, 30)], "think": [(7, 8)], "tool": [(22, 23)],
         "answer": []}
    ]  # fmt: skip


def test_what_is_optional_is_checked():
    with pytest.raises(TypeError, match=r"optional is 'think', expected names in a list"):
        TagFormat(optional="think")
    with pytest.raises(ValueError, match="optional names 'plan', expected some of the tags: think"):
        TagFormat(optional=["plan"])
    with pytest.raises(ValueError, match="every tag is optional, so that nothing is asked for"):
        TagFormat(("a", "b"), optional=["a", "b"])
    with pytest.raises(ValueError, match=r"tags is \('a', \(\)\), expected one or more names"):
        TagFormat(("a", ()))


# --- blanks


@pytest.mark.parametrize(
    "blank", list(" \n\0\u200b\u2060\u00ad\u3164\u2800\ufeff\ufe0f\u200d\U000e0041")
)
def test_what_shows_nothing_is_no_content_and_no_text_outside(blank):
    for tail, form in (
        (False, "<think>{}</think>{}<answer>b</answer>{}"),
        (True, "{1}<think>{0}</think>b{2}"),
    ):
        reward = TagFormat(("think",) if tail else ("think", "answer"), tail=tail)
        texts = [form.format(body, blank, blank) for body in (blank, blank + "." + blank)]
        assert reward(texts) == [0.0, 1.0]
        assert [reward.automaton.accepts(text) for text in texts] == [False, True]
    assert TagFormat(require_nonempty=False)([f"<think>{blank}</think><answer></answer>"]) == [1.0]


# --- spans


@pytest.mark.parametrize(
    ("text", "think", "answer", "tags"),
    [
        ("<think>ab</think> <answer>c</answer>", ["ab"], ["c"], 4),
        ("<think></think>", [""], [], 2),
        ("ab</think><answer>c</answer>", ["ab"], ["c"], 3),  # prefilled: no tag of the text
        ("<think>a<answer>b</answer></think>", [], ["b"], 4),  # whole: no tag between
        ("<answer>b</answer><think>a", [], ["b"], 3),
        ("<answer>b</answer>-<answer>c</answer>", [], ["b", "c"], 4),
        ("<think>a</answer>", [], [], 2),
        ("no tag", [], [], 0),
        ("", [], [], 0),
    ],
)
def test_spans_are_the_bodies_of_whole_blocks(text, think, answer, tags):
    [spans] = think_answer_format.spans([text])
    assert [text[start:end] for start, end in spans["think"]] == think
    assert [text[start:end] for start, end in spans["answer"]] == answer
    assert len(spans["tags"]) == tags
    assert {text[start:end] for start, end in spans["tags"]} <= set(TAGS)


TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@given(st.lists(st.sampled_from([*TAGS, "x", "<"])).map("".join), st.sampled_from(["", "<think>"]))
def test_spans_lie_in_the_text_and_never_overlap(text, prompt):
    [spans] = think_answer_format.spans([text], prompts=[prompt])
    every = sorted(span for name in spans for span in spans[name])
    edges = [edge for span in every for edge in span]
    assert edges == sorted(edges)
    assert not edges or (edges[0] >= 0 and edges[-1] <= len(text))
    assert "".join(text[start:end] for start, end in spans["tags"]).count("<") == len(spans["tags"])


def test_spans_of_chat_are_in_its_last_message():
    chat = [{"role": "assistant", "content": "?"}, {"role": "assistant", "content": "<answer>b"}]
    assert think_answer_format.spans([chat]) == [{"tags": [(0, 8)], "think": [], "answer": []}]


# --- ready formats, options, errors


def test_a_specimen_is_right():
    for options in OPTIONS:
        reward = TagFormat(("t", "a"), **options)
        text = reward.specimen.removeprefix("<t>" if options["prefilled"] == "t" else "")
        assert reward([text]) == [1.0]


def test_tag_names_are_taken_literally():
    reward = TagFormat(("a-1", "思考_"), prefilled=None)
    assert reward(["<a-1>x</a-1><思考_>x</思考_>", "<a.1>x</a.1><思考_>x</思考_>"]) == [1.0, 0.0]
    nested = TagFormat(("a", "ab"), prefilled=None)  # one name begins the other
    assert nested(["<a>x</a><ab>x</ab>", "<a>x</ab><ab>x</a>"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>" * 10_000, 0.0),
        ("<" * 1_000_000, 0.0),
        ("</think" * 100_000, 0.0),
        (f"<think>{'<' * 1_000_000}</think><answer>b</answer>", 1.0),
        (f"<think>{' ' * 1_000_000}</think><answer>b</answer>", 0.0),
        (f"<think>\0\ud800\x1b[2J{'<script>' * 1000}</think><answer>\udfff</answer>", 1.0),
    ],
)
def test_hostile_text_is_text(text, score):
    assert think_answer_format([text]) == [score]
    assert think_answer_format.automaton.accepts(text) == score
    assert TagFormat(partial_credit=True)([text])[0] >= score
    assert set(think_answer_format.spans([text])[0]) == {"tags", "think", "answer"}


def test_the_automaton_is_made_once_and_not_for_scores():
    reward = TagFormat()
    reward(["<think>a</think><answer>b</answer>"])
    assert reward._automata == {}
    assert reward.automaton is reward.automaton


def test_invalid_tags_are_refused():
    with pytest.raises(TypeError, match=r"tags is 'think', expected a sequence of names: \('think"):
        TagFormat("think")
    for name in ("<think>", "", "a b", "a\n", "tags"):
        with pytest.raises(ValueError, match="is no name, expected letters, digits"):
            TagFormat((name,))
    for tags in ((), ("a", "a")):
        with pytest.raises(ValueError, match=r"tags is \(.*expected one or more names, each once"):
            TagFormat(tags)


def test_only_the_first_tag_can_be_prefilled():
    with pytest.raises(ValueError, match="prefilled is 'answer', expected 'auto', None or the fir"):
        TagFormat(prefilled="answer")


def test_a_format_names_itself():
    assert repr(think_format) == "TagFormat(('think',), name='think_format')"


def test_the_prompt_decides_which_automaton_holds():
    reward = TagFormat(("think", "answer"))
    texts = ["a</think><answer>b</answer>", "<think>a</think><answer>b</answer>", "a"]
    for prompt in ("2+2? <think>\n", "2+2?", [{"role": "user", "content": "2+2?"}], None):
        accepts = reward.automaton_for(prompt).accepts
        scores = reward(texts, prompts=[prompt] * 3)
        assert [float(accepts(text)) for text in texts] == scores, prompt
    assert reward.automaton_for(None) is reward.automaton
    assert reward.automaton_for("a<think>") is reward.automaton_for("b<think>")
    assert reward.automaton_for("a<think>") is not reward.automaton_for("a")
    assert TagFormat(partial_credit=True).automaton_for("a") is None
