"""Completions with the scores that format rewards owe them, worked out from the definitions.

The nine columns of a case, in the order of `FORMATS`:

    own       think, then answer; the completion opens both
    auto      the same; a closing think first means that the prompt has opened it
    prefilled the same; the prompt has opened think
    outside   own, text allowed outside
    repeats   own, any whole blocks in which think, answer can be read in order
    think     one think block, opened by the completion, then an answer without a tag
    regex     the pattern that is passed around; its `.+?` runs over tags
    trl       TRL's think_format_reward
    quarters  own with partial credit, in quarters: tags in their place, 4 for the right form only
"""

from typing import NamedTuple


class Case(NamedTuple):
    kind: str
    text: str
    scores: str
    quarters: int


FORMATS = ("own", "auto", "prefilled", "outside", "repeats", "think", "regex", "trl")

GOOD = "<think>a</think><answer>b</answer>"  # 34 characters
LINES = "a\n" * 50_000

CASES = [
    # own auto prefilled outside repeats think regex trl, quarters
    Case("right", GOOD, "11011111", 4),
    Case("right: several lines", "<think>\na\nb\n</think>\n<answer>\nb\n</answer>", "11011111", 4),
    Case("right: newline first", "\n" + GOOD, "11011110", 4),  # TRL anchors at the first character
    Case("right: whitespace last", GOOD + " \n", "11011111", 4),
    Case("right: CRLF", "<think>\r\na\r\n</think>\r\n<answer>b</answer>\r\n", "11011111", 4),
    Case("right: \\v and \\f around", f"\v{GOOD}\f", "11011110", 4),
    Case("right: non-ASCII", "<think>Überlegung</think><answer>日本</answer>", "11011111", 4),
    Case(
        "right: astral, combining", "<think>🤔e\u0301</think><answer>שלום</answer>", "11011111", 4
    ),
    Case("right: no-break space first", "\u00a0" + GOOD, "11011110", 4),
    Case("right: no-break space", "<think>a</think>\u00a0<answer>b</answer>", "11011111", 4),
    Case("right: brackets", "<think>1 < 2 > 0 <<think</think><answer>b</answer>", "11011111", 4),
    Case("right: others' tags", "<think><b>a</b></think><answer><x/></answer>", "11011111", 4),
    Case("right: code fence", "<think>a</think><answer>```\nb\n```</answer>", "11011111", 4),
    Case("right: hedged", "<think>a</think><answer>A or B</answer>", "11011111", 4),  # form alone
    Case("right: joiner in a word", "<think>ن\u200cا</think><answer>b</answer>", "11011111", 4),
    Case("blank: NUL", "<think>\0</think><answer>\0b</answer>", "00000011", 3),
    Case("right: lone surrogate", "<think>\ud800</think><answer>b</answer>", "11011111", 4),
    Case("blank: zero-width", "<think>\u200b</think><answer>b</answer>", "00000011", 3),
    Case(
        "blank: fillers",
        "<think>a</think><answer>\u3164\u2800\u00ad\u2060\ufeff</answer>",
        "00000111",
        3,
    ),
    Case("right: very long", f"<think>{LINES}</think><answer>b</answer>", "11011111", 4),
    Case("prefilled", "a</think><answer>b</answer>", "01100000", 3),
    Case("prefilled: lines", "\na\n</think>\n\n<answer>b</answer>", "01100000", 3),
    Case("prefilled: blank", "\n</think><answer>b</answer>", "00000000", 3),
    Case("prefilled: nothing", "</think><answer>b</answer>", "00000000", 3),
    Case("prefilled: answer untagged", "a</think>b", "00000000", 1),
    Case("prefilled: truncated", "a</think><answer>b", "00000000", 2),
    Case("opened twice at once", "<think>\n" + GOOD, "00000010", 3),
    Case("tag: upper case", "<THINK>a</THINK><ANSWER>b</ANSWER>", "00000000", 0),
    # a first opening tag that is none leaves its closing tag first: read as prefilled
    Case("tag: title case", "<Think>a</think><answer>b</answer>", "01100000", 3),
    Case("tag: attribute", '<think lang="en">a</think><answer>b</answer>', "01100000", 3),
    Case("tag: attribute", '<think>a</think><answer type="int">b</answer>', "00000101", 3),
    Case("tag: space before", "< think>a</think><answer>b</answer>", "01100000", 3),
    Case("tag: space after", "<think >a</think><answer>b</answer>", "01100000", 3),
    Case("tag: zero-width", "<think\u200b>a</think><answer>b</answer>", "01100000", 3),
    Case("tag: newline", "<think\n>a</think><answer>b</answer>", "01100000", 3),
    Case("tag: space in closing", "<think>a</ think><answer>b</answer>", "00000000", 3),
    Case("tag: escaped", "&lt;think&gt;a&lt;/think&gt;&lt;answer&gt;b", "00000000", 0),
    Case("tag: square", "[think]a[/think][answer]b[/answer]", "00000000", 0),
    Case("tag: full width", "＜think＞a＜/think＞＜answer＞b＜/answer＞", "00000000", 0),
    Case("tag: another name", "<thinking>a</thinking><answer>b</answer>", "00000000", 2),
    Case("tag: no slash", "<think>a<think><answer>b<answer>", "00000000", 0),
    Case("tag: backslash", "<think>a<\\think><answer>b<\\answer>", "00000000", 2),
    Case("tag: self-closing", "<think/><answer>b</answer>", "00000000", 2),
    Case("special token after", GOOD + "<|im_end|>", "00010101", 3),
    Case("special token after", GOOD + "</s>", "00010101", 3),
    Case("special token between", "<think>a</think><|im_end|><answer>b</answer>", "00010101", 3),
    Case("special token before", "<|im_start|>assistant\n" + GOOD, "00010000", 3),
    Case("next turn", GOOD + "\n<|im_start|>user\n", "00010101", 3),
    Case("nothing", "", "00000000", 0),
    Case("nothing: whitespace", "\n \n", "00000000", 0),
    Case("no tags", "4", "00000000", 0),
    Case("no thinking", "<answer>b</answer>", "00000000", 2),
    Case("no answer", "<think>a</think>", "00000001", 2),
    Case("no answer: whitespace", "<think>a</think> \n", "00000001", 2),
    Case("answer untagged", "<think>a</think>b", "00000101", 2),
    Case("empty thinking", "<think></think><answer>b</answer>", "00000001", 3),
    Case("blank thinking", "<think> \n</think><answer>b</answer>", "00000011", 3),
    Case("empty answer", "<think>a</think><answer></answer>", "00000101", 3),
    Case("blank answer", "<think>a</think><answer> </answer>", "00000111", 3),
    Case("answer twice", GOOD + "<answer>c</answer>", "00001111", 2),
    Case("thinking twice", "<think>a</think>" + GOOD, "00001010", 2),
    Case("everything twice", GOOD + GOOD, "00001010", 0),
    Case("answer before and after", "<answer>b</answer>" + GOOD, "00001000", 2),
    Case("wrong order", "<answer>b</answer><think>a</think>", "00000000", 2),
    Case("answer in thinking", "<think>a<answer>b</answer></think>", "00000001", 2),
    Case("answer in thinking too", f"<think>{GOOD[16:]}</think>{GOOD[16:]}", "00000111", 2),
    Case("thinking in answer", f"<think>a</think><answer>{GOOD[:16]}</answer>", "00000010", 2),
    Case("thinking in thinking", "<think>a<think>b</think><answer>c</answer>", "00000010", 3),
    Case("closed twice", "<think>a</think>b</think><answer>c</answer>", "00000011", 3),
    Case("crossing", "<think>a<answer>b</think>c</answer>", "00000101", 3),
    Case("opened again after", GOOD + "<think>", "00000000", 3),
    Case("tag quoted before", "I use <think> tags. " + GOOD, "00000000", 3),
    Case("tag quoted in thinking", "<think>`<answer>`</think><answer>b</answer>", "00000111", 3),
    Case("tag quoted in thinking", "<think></answer>?</think><answer>b</answer>", "00000111", 3),
    Case("text before", "Sure! " + GOOD, "00010000", 3),
    Case("text between", "<think>a</think>So: <answer>b</answer>", "00010101", 3),
    Case("text after", GOOD + " Done.", "00010101", 3),
    Case("text everywhere", "1<think>a</think>2<answer>b</answer>3", "00010000", 3),
    Case("in a code fence", f"```xml\n{GOOD}\n```", "00010000", 3),
    Case("in bold", "**<think>**a**</think>** **<answer>**b**</answer>**", "00010000", 3),
    Case("after a tool call", "<tool_call>{}</tool_call>" + GOOD, "00010000", 3),
    Case("after a terminal escape", "\x1b[1m" + GOOD, "00010000", 3),
    Case("after NUL", "\0" + GOOD, "11011110", 4),
    Case("after a zero-width space", "\u200b" + GOOD, "11011110", 4),
    Case("after a byte-order mark", "\ufeff" + GOOD, "11011110", 4),
    Case("before a lone surrogate", GOOD + "\udfff", "00010101", 3),
    Case("truncated thinking", "<think>a", "00000000", 1),
    Case("truncated answer", "<think>a</think><answer>b", "00000101", 3),
    Case("truncated tag", "<think>a</think><answer>b</answ", "00000101", 3),
    Case("truncated first tag", "<thi", "00000000", 0),
    Case("very long: never closed", "<think>" * 10_000, "00000000", 0),
    Case("very long: never opened", "</answer>" * 10_000, "00000000", 0),
]

DECIDED = [  # text, after how many characters `own` is settled
    (GOOD, None),  # whitespace may follow
    (GOOD + " \n", None),
    ("\n" + GOOD, None),
    ("", None),
    ("\n \n", None),
    ("<thi", None),
    ("<think>a", None),
    ("<think>a</think>\u00a0<answer>b</answer>", None),
    ("<think>a</think><answer>b</answ", None),
    ("Sure! " + GOOD, 1),  # S
    ("\0" + GOOD, None),
    ("\u200b" + GOOD, None),
    (f" ```xml\n{GOOD}", 2),  # the space is allowed
    ("&lt;think&gt;", 1),
    ("a</think><answer>b</answer>", 1),
    ("<answer>b</answer><think>a</think>", 2),  # <a cannot become <think>
    ("<Think>a</think><answer>b</answer>", 2),
    ("< think>a</think><answer>b</answer>", 2),
    ('<think lang="en">a</think>', 7),  # the space
    ("<think></think><answer>b</answer>", 15),  # 7 + 8: the tag is whole
    ("<think> \n</think><answer>b</answer>", 17),
    ("<think>a<think>b</think>", 15),  # 7 + 1 + 7
    ("<think>" * 10_000, 14),
    ("<think>a<answer>b</think>c</answer>", 16),  # 7 + 1 + 8
    ("<think>a<\\think><answer>b<\\answer>", 24),  # 7 + 1 + 8 + 8
    ("<think>a</think>So: <answer>b</answer>", 17),  # 16 and the S
    ("<think>a</think>b</think><answer>c</answer>", 17),
    ("<think>a</think></think><answer>c</answer>", 18),  # </ cannot become <answer>
    ('<think>a</think><answer type="int">b</answer>', 24),  # 16 + 7 and the space
    ("<think>a</think><answer></answer>", 33),  # 16 + 8 + 9
    (GOOD + " Done.", 36),  # 34, the space and the D
    (GOOD + "<|im_end|>", 35),  # nothing that begins with < may follow
    (GOOD + "<answer>c</answer>", 35),
]
