"""What stands between a format reward and the completions of a tokenizer is found beforehand."""

import re

import pytest
from tokenizers import AddedToken
from trl.chat_template_utils import (
    add_response_schema,
    deepseek_r1_distill_chat_template,
    qwen3_5_think_chat_template,
    qwen3_chat_template,
)
from trl.rewards import think_format_reward

from grpo_credit.tiny import build_tokenizer
from rewards import RegexReward, clip, gate, schedule, weighted
from rewards.format_check import check_format
from rewards.tags import TagFormat, think_answer_format, think_format

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{{ opening }}{% endif %}"
)
CHAT = [[{"role": "user", "content": "2+2?"}], [{"role": "user", "content": "3+3?"}]]
LINES = r"(?s)<think>[^<>]*[\p{L}\p{N}][^<>]*</think>\s*<answer>[^<>]*[\p{L}\p{N}][^<>]*</answer>"
BODY = r"[^<>]*[a-z0-9][^<>]*"
SPECIMEN = "<think>x</think><answer>x</answer>"


def tokenizer(opening="", special=()):
    made = build_tokenizer()
    made.chat_template = TEMPLATE.replace("{{ opening }}", opening)
    made.add_tokens([AddedToken(token, special=True) for token in special], special_tokens=True)
    return made


def messages(reward, made=None, prompts=CHAT, **options):
    return [
        str(finding) for finding in check_format(reward, made or tokenizer(), prompts, **options)
    ]


# --- nothing to find


@pytest.mark.parametrize("prompts", [CHAT, ["2+2?", "3+3?"]])
def test_a_format_that_fits_the_prompts_has_no_findings(prompts):
    assert messages(TagFormat(prefilled=None), prompts=prompts) == []
    assert messages(RegexReward(LINES), prompts=prompts, specimen=SPECIMEN) == []


@pytest.mark.parametrize("prefilled", ["auto", "think"])
def test_a_format_that_knows_of_the_prefilled_tag_has_no_findings(prefilled):
    reward = TagFormat(prefilled=prefilled)
    assert messages(reward, tokenizer("<think>\n")) == []
    assert messages(reward, prompts=["2+2?<think>\n"]) == []
    assert messages(TagFormat(("think",), tail=True), tokenizer("<think>\n")) == []


def test_auto_fits_text_prompts_of_both_kinds():
    assert messages(think_answer_format, prompts=["2+2?", "2+2?<think>"]) == []


# --- the prompt has said it already


def test_a_prefilled_tag_that_the_format_asks_for_is_an_error():
    [found] = messages(TagFormat(prefilled=None), tokenizer("<think>\n"))
    assert found.startswith("error: 2 of 2 prompts, rendered, end with <think>, so that 'x</think>")
    assert found.endswith("instead of 1.0. Give TagFormat prefilled='think', or drop <think> from "
                          "the start of the pattern.")  # fmt: skip
    [found] = messages(RegexReward(LINES), tokenizer("<think>\n"), specimen=SPECIMEN)
    assert "end with <think>" in found


def test_some_prefilled_prompts_are_counted():
    [found] = messages(TagFormat(prefilled=None), prompts=["2+2?", "2+2?<think>", "3+3?"])
    assert found.startswith("error: 1 of 3 prompts, rendered, end with <think>")
    assert messages(TagFormat(prefilled=None), prompts=["2+2?", "2?<think>"], max_prompts=1) == []


def test_trl_s_think_format_cannot_fire_after_a_prefilled_tag():
    found = messages(think_format_reward, tokenizer("<think>\n"), specimen="<think>x</think>x")
    assert found[0].startswith("error: 2 of 2 prompts, rendered, end with <think>")


def test_a_format_that_waits_for_a_prefilled_tag_is_an_error_without_one():
    [found] = messages(TagFormat(prefilled="think"))
    assert found.startswith(
        "error: 2 of 2 prompts, rendered, open no tag, so that '<think>x</think>"
    )
    assert "Give TagFormat prefilled=None" in found


@pytest.mark.parametrize("reward", [think_answer_format, TagFormat(prefilled=None)])
def test_thinking_switched_off_by_the_template_is_an_error(reward):
    off = tokenizer("{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}")
    [found] = messages(reward, off, enable_thinking=False)
    assert found.startswith("error: 2 of 2 prompts, rendered, end with </think>, so that '<answer>")
    assert 'chat_template_kwargs={"enable_thinking": True}' in found
    assert not any("</think>, so" in found for found in messages(reward, off, enable_thinking=True))


def test_auto_that_forgives_a_missing_tag_is_a_warning():
    [found] = messages(think_format)
    assert found.startswith("warning: the rendered prompts open no tag, yet 'x</think>\\nx', which")
    assert found.endswith("Give TagFormat prefilled=None.")


# --- what the tokenizer and TRL make of a completion


def test_tags_that_are_special_tokens_are_an_error():
    [found] = messages(
        TagFormat(("plan", "do"), prefilled=None), tokenizer(special=["<plan>", "</plan>"])
    )
    assert found.startswith("error: the format asks for </plan>, <plan>, special to the tokenizer")
    assert "special=False" in found


def test_an_end_of_turn_in_the_pattern_is_an_error():
    [found] = messages(RegexReward(f"<think>{BODY}</think><eos>"), specimen="<think>x</think><eos>")
    assert found.startswith("error: the format asks for <eos>, special to the tokenizer")


def test_what_the_tokenizer_cannot_spell_is_an_error():
    # without < among its characters it knows the tags <think> and <answer> alone
    [found] = messages(TagFormat(("plan",), prefilled=None))
    assert found == (
        "error: '<plan>x</plan>' comes back from the tokenizer as 'planx/plan', which earns less. "
        "Choose tags that it can spell, or add them to it as ordinary tokens."
    )


def test_a_response_template_sets_the_thinking_apart_and_the_reward_reads_it():
    parsing = add_response_schema(qwen(qwen3_chat_template))
    assert messages(TagFormat(prefilled=None), parsing) == []
    spaced = "<think>x</think>\n\n<answer>x</answer>"
    [found] = messages(RegexReward(re.escape(spaced)), parsing, specimen=spaced)
    assert found.startswith("error: the tokenizer has a response_template: of '<think>x</think>")
    assert "what its parser leaves, '<think>x</think><answer>x</answer>'." in found
    assert messages(TagFormat(("answer",), prefilled=None), parsing) == []  # kept


def test_what_a_response_template_cannot_parse_is_taken_as_text():
    parsing = add_response_schema(qwen(qwen3_chat_template))
    no_json = "<tool_call>\n2+2\n</tool_call>"  # TRL hands over the text then
    assert messages(RegexReward(f"<tool_call>{BODY}</tool_call>"), parsing, specimen=no_json) == []


@pytest.mark.parametrize(
    ("template", "options", "tag"),
    [
        (qwen3_chat_template, {}, None),
        (qwen3_chat_template, {"enable_thinking": False}, "</think>"),
        (qwen3_5_think_chat_template, {}, "<think>"),
        (deepseek_r1_distill_chat_template, {}, "<think>"),
    ],
)
def test_templates_of_reasoning_models(template, options, tag):
    found = messages(TagFormat(prefilled=None), qwen(template), **options)
    assert [line.split(", ")[2] for line in found] == ([f"end with {tag}"] if tag else [])
    assert (messages(think_answer_format, qwen(template), **options) == []) == (tag == "<think>")


def qwen(template):
    made = tokenizer(special=["<|im_start|>", "<|im_end|>"])
    made.eos_token = "<|im_end|>"
    made.add_tokens([AddedToken(tag) for tag in ("<tool_call>", "</tool_call>")])
    made.chat_template = template
    return made


# --- whitespace


def test_a_dot_that_matches_no_line_break_is_a_warning():
    [found] = messages(RegexReward("<think>.*?[0-9].*?</think>"), specimen="<think>4</think>")
    assert found == (
        "warning: a line break inside makes it fail: '<think>\\n4</think>' earns less than "
        "'<think> 4</think>'. Put (?s) before the pattern, so that `.` matches line breaks too."
    )


def test_whitespace_around_that_makes_it_fail_is_a_warning():
    def strict(completions, **_):
        return [float(text == "<think>x</think>") for text in completions]

    [found] = messages(strict, prompts=["2+2?"], specimen="<think>x</think>")
    assert found.startswith("warning: '\\n<think>x</think>' earns less than '<think>x</think>'")


# --- the reward itself


def test_a_format_that_accepts_anything_is_an_error():
    [found] = messages(RegexReward("(?s).*"), specimen="4")
    assert found.startswith("error: the completion '' earns 1.0, as much as '4'")
    [found] = messages(RegexReward(r"\w+"), specimen="4")
    assert found.startswith("error: the completion 'x' earns 1.0, as much as '4'")


@pytest.mark.parametrize(
    ("reward", "specimen", "cause"),
    [
        (RegexReward("(?s)<think>.+</think>"), "4", "Nothing that begins with '4', its first 1 "),
        (
            RegexReward("<a>.+</a><b>.</b>"),
            "<a>\n</a><b>.</b>",
            "It does with spaces for its line breaks: put (?s) before the pattern",
        ),
        (RegexReward("<a>.</a>", strip=False), "<a>1</a>\n", "It does without the white space aro"),
        (
            TagFormat(),
            "<think>a</think>\n4",
            "Nothing that begins with '<think>a</think>\\n4', its",
        ),
        (lambda completions, **_: [0.0], "4", "Change the pattern, or pass another specimen=."),
        (lambda completions, **_: [-1.0], "4", "Change the pattern, or pass another specimen=."),
    ],
)
def test_a_specimen_that_earns_nothing_is_an_error_with_its_cause(reward, specimen, cause):
    [found] = messages(reward, specimen=specimen)
    assert found.startswith(f"error: the specimen {specimen!r} earns ")
    assert f"the format does not accept it. {cause}" in found


@pytest.mark.parametrize("body", [".+", r"\s*\S+", "[^<]+"])
def test_a_form_that_pays_for_blanks_is_a_warning(body):
    [found] = messages(RegexReward(f"(?s)<think>{body}</think>\\s*<answer>{body}</answer>"))
    assert found.startswith("warning: '<think>")
    assert "with blanks for content, earns the full reward" in found
    assert messages(TagFormat(require_nonempty=False, prefilled=None))[-1].startswith("warning: '<")


def test_a_reward_that_abstains_or_raises_is_an_error():
    [found] = messages(lambda completions, **_: [None], specimen="4")
    assert found.startswith("error: the reward abstains (None) on '4', so it teaches nothing.")
    [found] = messages(think_format_reward, prompts=["2+2?"], specimen="<think>x</think>x")
    assert found.startswith("error: the reward raises TypeError on '<think>x</think>x'")
    [found] = messages(lambda completions: [0.0], specimen="4")
    assert "unexpected keyword argument" in found


def test_without_a_specimen_nothing_is_checked_and_that_is_said():
    [found] = messages(lambda completions, **_: [1.0])
    assert found.startswith("warning: nothing was checked: the reward has neither a specimen nor")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (
            LINES,
            "error: 2 of 2 prompts, rendered, end with <think>, so that 'x</think><answer>x</a",
        ),
        (
            "(?s)<思>.+</思>",
            "error: '<思>x</思>' comes back from the tokenizer as 'x/', which earns",
        ),
        ("(?s).*", "error: the completion '' earns 1.0, as much as ''"),
        (r"\Zx", "error: the pattern matches nothing: no completion can earn the reward"),
    ],
)
def test_the_specimen_of_an_automaton_is_a_shortest_text_that_it_accepts(pattern, found):
    assert messages(RegexReward(pattern), tokenizer("<think>\n"))[0].startswith(found)


def test_partial_credit_is_checked_at_its_full_score():
    reward = TagFormat(partial_credit=True, prefilled=None)
    assert messages(reward) == []
    [found] = messages(reward, tokenizer("<think>"))
    assert "it earns 0.75 instead of 1.0" in found


def test_errors_come_first():
    one_line = RegexReward("<think>.*x.*</think>")
    found = messages(one_line, tokenizer("<think>"), specimen="<think>x</think>")
    assert [line.split(":")[0] for line in found] == ["error"]
    found = messages(RegexReward("<plan>.*x.*</plan>"), specimen="<plan>x</plan>")
    assert [line.split(":")[0] for line in found] == ["error", "warning"]


def test_what_is_no_list_of_prompts_is_refused():
    with pytest.raises(ValueError, match="there is no prompt, expected some of the data set's"):
        check_format(think_format, tokenizer(), [])
    with pytest.raises(ValueError, match=r"prompts is '2\+2\?', expected a list.*pass \[prompt\]"):
        check_format(think_format, tokenizer(), "2+2?")


def one(completions, **_):
    return [1.0 for _ in completions]


@pytest.mark.parametrize(
    "combine",
    [
        lambda form: gate(one, by=form),
        lambda form: clip(form, 0, 1),
        lambda form: weighted({form: 1.0, one: 0.5}),
        lambda form: schedule(clip(form, 0, 1), {0.0: 0.0, 1.0: 1.0}),
    ],
)
@pytest.mark.parametrize(
    "form",
    [TagFormat(prefilled=None), RegexReward(f"<think>{BODY}</think>")],
    ids=["tags", "regex"],
)
def test_combinations_are_checked_with_the_specimen_of_their_form(combine, form):
    reward = combine(form)
    assert messages(reward) == messages(form) == []
    [finding] = messages(reward, tokenizer("<think>\n"))  # the template opens the first tag
    assert "2 of 2 prompts, rendered, end with <think>" in finding
