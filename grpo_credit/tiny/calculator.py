"""A tool that a tiny model has to call twice: sums and products of two numbers, one at a time.

    user       7 * 8 + 5
    assistant  <call> calculate expression : 7 * 8 </call>
    tool       56
    assistant  <call> calculate expression : 56 + 5 </call>
    tool       61
    assistant  61

The model is shown dialogues of four kinds (`KINDS`), of which one is right. What is left to learn
is to call, to call twice, and to ask for one operation at a time; how to copy a number it knows.
"""

import random
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.task import split_of, split_random
from grpo_credit.tiny.tokenizer import build_word_tokenizer
from grpo_credit.tiny.training import IGNORED, Example, Lesson, Settings, learned

LARGEST = 90  # of the numbers: 9 * 9 + 9
MARKS = ("<user>", "<assistant>", "<tool>", "<call>", "</call>", "calculate", "expression")
SHAPE = {"hidden_size": 64, "layers": 2, "heads": 4}
STEPS = 600
KINDS = {"twice": 0.25, "once": 0.35, "whole": 0.15, "guess": 0.25}  # shares of the dialogues
FAILED = "error"  # what the model is shown of a call that failed
TEMPLATE = """\
{%- for m in messages %}{{ '<' + m.role + '> ' }}
{%- if m.role == 'tool' and "'error'" in m.content %}{{ 'error' }}
{%- else %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}{{ '<call> ' + call.function.name }}
{%- for key, value in call.function.arguments.items() %}{{ ' ' + key + ' : ' + value }}{% endfor %}
{{- ' </call>' }}{% endfor %}
{{- ' <eos> ' if m.role == 'assistant' else ' ' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"""
RESPONSES = {  # how transformers reads what TEMPLATE writes
    "defaults": {"role": "assistant"},
    "start_anchor": "<assistant>",
    "fields": {
        "tool_calls": {
            "open_pattern": r"<call>\s+(?P<name>\w+)",
            "close_pattern": r"</call>\s*",
            "repeats": True,
            "content": "xml-inline",
            "content_args": {"tag_pattern": r"(?P<key>\w+) : (?P<value>[^:]*[^:\s])"},
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"close_pattern": r"<eos>\s*", "content": "text"},
    },
}

Row = dict[str, Any]


def calculate(expression: str) -> str:
    """Add or multiply two whole numbers.

    Args:
        expression: Two numbers from 0 to 90 with + or * between them, parted by blanks.

    Returns:
        The sum or the product.
    """
    left, sign, right = expression.split()  # one operation, or a ValueError
    found = {"+": int.__add__, "*": int.__mul__}[sign](int(left), int(right))
    if found > LARGEST:
        raise ValueError(f"{found} is more than {LARGEST}")
    return str(found)


def questions(n: int, seed: int, split: str) -> list[Row]:
    """Draw questions with their answers, as conversations; a question is of one split for good.

    Returns:
        Rows {"prompt": [{"role": "user", "content": "7 * 8 + 5"}], "answer": "61"}.

    Raises:
        ValueError: If the split is neither "train" nor "test".
    """
    rng = split_random(split, seed)
    return [
        {
            "prompt": [{"role": "user", "content": f"{a} * {b} + {c}"}],
            "answer": str(a * b + c),
        }
        for a, b, c in islice(_terms(rng, split), n)
    ]


def _terms(rng: random.Random, split: str) -> Iterator[tuple[int, int, int]]:
    while True:
        a, b, c = (rng.randint(2, 9) for _ in range(3))
        if split_of(f"{a} * {b} + {c}") == split:
            yield a, b, c


def build_tokenizer() -> PreTrainedTokenizerBase:
    """Build a tokenizer with one id per number, sign and mark, and a template of tool calls."""
    words = [*map(str, range(LARGEST + 1)), "+", "*", ":", FAILED, *MARKS]
    tokenizer = build_word_tokenizer(words)
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = RESPONSES
    return tokenizer


def outline() -> tuple[Any, PreTrainedTokenizerBase]:
    """Describe the model of `calculator_model` without teaching one: configuration, tokenizer."""
    tokenizer = build_tokenizer()
    return build_model(tokenizer, **SHAPE).config, tokenizer


def calculator_model(seed: int = 0, cache_dir: Path | None = None, progress: bool = True) -> Path:
    """Return a folder with a model that was shown dialogues, right in a quarter of them.

    See `training.learned` for the arguments, and for what the folder depends on.
    """
    settings = Settings(seed, STEPS, batch_size=64, warmup_steps=50)
    lesson = Lesson(
        name="tiny-calculator",
        about="showing the tiny model dialogues with a calculator (about half a minute, once)",
        settings=settings,
        tokenizer=build_tokenizer,
        model=lambda tokenizer: build_model(tokenizer, seed, **SHAPE),
        batches=lambda tokenizer: _batches(tokenizer, settings),
    )
    return learned(lesson, cache_dir, progress)


def dialogue(kind: str, a: int, b: int, c: int, rng: random.Random) -> list[tuple[str, bool]]:
    """Return a dialogue of one of `KINDS` in parts, and whether the model writes each part."""
    call = "<call> calculate expression : {} </call> <eos>".format
    heard = "<tool> {} <assistant>".format
    guess, product = str(rng.randint(0, LARGEST)), a * b
    asked = (f"<user> {a} * {b} + {c} <assistant>", False)
    first = [(call(f"{a} * {b}"), True), (heard(product), False)]
    second = [(call(f"{product} + {c}"), True), (heard(product + c), False)]
    failing = [(call(f"{a} * {b} + {c}"), True), (heard(FAILED), False)]
    calls, answer = {
        "twice": ([*first, *second], product + c),
        "once": (first, product),
        "whole": (failing, guess),
        "guess": ([], guess),
    }[kind]
    return [asked, *calls, (f"{answer} <eos>", True)]


def _batches(tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Iterator[list[Example]]:
    rng = random.Random(f"calculator/{settings.seed}")
    terms = _terms(rng, "train")
    for _ in range(settings.steps):
        kinds = rng.choices([*KINDS], [*KINDS.values()], k=settings.batch_size)
        drawn = [dialogue(kind, *next(terms), rng) for kind in kinds]
        yield [_example(tokenizer, parts) for parts in drawn]


def _example(tokenizer: PreTrainedTokenizerBase, parts: list[tuple[str, bool]]) -> Example:
    ids = [(tokenizer(text).input_ids, own) for text, own in parts]
    labels = [part if own else [IGNORED] * len(part) for part, own in ids]
    return [*chain.from_iterable(part for part, _ in ids)], [*chain.from_iterable(labels)]
