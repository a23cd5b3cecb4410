"""The rules on the terminal: all of them in a line each, or one with all that is known of it."""

import inspect
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from grpo_credit.credit.documents import serves
from grpo_credit.credit.laws import PROMISES
from grpo_credit.credit.parse import DEFAULT_AGGREGATION, DEFAULT_ALLOCATION, option_type
from grpo_credit.credit.registry import find
from grpo_credit.credit.strategy import Rule

TITLES = {
    "aggregation": "aggregations: how completions weigh against each other",
    "allocation": "allocations: where in a completion its advantage lands",
}
CLOSE = f"""\
N completions, P prompts, L_i counted tokens, L_max the limit; totals are over the optimizer step.
--credit takes AGGREGATION, ALLOCATION or ALLOCATION/AGGREGATION (without the other part: \
{DEFAULT_ALLOCATION}, {DEFAULT_AGGREGATION}), or your own function as pkg.mod:obj; options by \
--credit_kwargs.
grpo-credit list NAME tells all of one; --long of every one."""
COSTS = {
    "old_logps": "a forward pass over each generation",
    "entropies": "a forward pass over each generation",
    "sum_sq_probs": "a forward pass over each generation",
    "ref_logps": "a forward pass of the reference model over each generation",
    "privileged_logps": "a forward pass after the prompts of the privileged column",
    "spans": "told by the rewards: which characters each is about",
    "decided": "told by the rewards: the character after which it was settled",
    "states": "told by the rewards: the automaton's state before each character",
    "step_rewards": "told by the rewards: rewards of the steps of a completion",
    "prefix_values": "continuations drawn from prefixes, and their rewards: --vine_tokens at most",
    "answer_logps": "a forward pass per turn, over all before it and the answer of the data set",
    "texts": "the completions as text",
    "turns": "where each call of the model began, by TRL's tool loop or a rollout_func",
}
_OF_KIND = {"aggregation": ["sign_free"], "allocation": ["linear", "conserves_mass", "keeps_sign"]}
_SECTION = re.compile(r"^(Args|Returns|Raises|Example|Degenerate cases|Deviation|Source):", re.M)
_ARGUMENT = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.M)


def print_rules(rules: Sequence[Rule], console: Console) -> None:
    """Print rules in a line each: the name, what it does, its options."""
    for kind, title in TITLES.items():
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, header_style="dim",
            padding=(0, 2, 0, 0),
        )  # fmt: skip
        table.add_column("name", no_wrap=True, min_width=max(len(rule.name) for rule in rules))
        table.add_column("what it does")
        table.add_column("options", no_wrap=True)
        for rule in rules:
            if rule.kind == kind:
                about = " Caution: ".join(filter(None, (rule.summary, rule.caution)))
                table.add_row(*map(escape, (rule.name, about, _settings(rule))))
        console.print(table)
        console.print()
    console.print(Text(CLOSE))


def print_rule(name: str, rule: Rule, console: Console) -> None:
    """Print all that is known of a rule.

    Args:
        name: as it was named, such as "my_rules:half".
        rule: what it is.
        console: where to print.
    """
    parts = sections(rule)
    console.print(Text.assemble((name, "bold"), f"  {rule.kind}"))
    console.print(Padding(Text(_reflowed(parts["about"])), (0, 0, 1, 2), expand=False))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for label, text in (*_options(rule, parts), *facts(rule, parts)):
        table.add_row(label, text)
    table.add_row("try it", Text(_example(name, rule)))
    console.print(Padding(table, (0, 0, 1, 2), expand=False))


def described(name: str, rule: Rule) -> dict[str, Any]:
    """Return all that is known of a rule, as JSON can hold it; see `print_rule`."""
    parts = sections(rule)
    explained = dict(_ARGUMENT.findall(parts.get("Args", "")))
    options = {
        option: {
            "type": _written(option_type(rule, option)),
            **({} if value.default is value.empty else {"default": value.default}),
            "about": _joined(explained.get(option, "")),
        }
        for option, value in rule.options.items()
    }
    told = {label: str(text) for label, text in facts(rule, parts)}
    return {
        "name": name, "kind": rule.kind, "summary": rule.summary, "about": parts["about"],
        "options": options, **told, "needs": sorted(rule.needs), "promises": promises(rule),
    }  # fmt: skip


def promises(rule: Rule) -> list[str]:
    """Return the laws that a rule declares to keep."""
    return [law for law in _OF_KIND.get(rule.kind, ()) if getattr(rule, law)]


def rules_in(name: str) -> dict[str, Rule]:
    """Return the rules of a name or a composition, such as `decided+trace/seq`, by their names.

    Raises:
        CreditError: if there is none of that name.
    """
    parts = [part.partition("@")[0].strip() for part in re.split("[/+,]", name)]
    return {part: find(part) for part in parts}


def _settings(rule: Rule) -> str:
    """Return the options with their defaults, one a line where they are several."""
    named = (
        f"{name} (required)" if option.default is option.empty else f"{name}={_value(option)}"
        for name, option in rule.options.items()
    )
    return "\n".join(named)


def _options(rule: Rule, parts: Mapping[str, str]) -> Iterator[tuple[str, RenderableType]]:
    explained = dict(_ARGUMENT.findall(parts.get("Args", "")))
    label = "options"
    for name, option in rule.options.items():
        default = ", required" if option.default is option.empty else f" = {option.default!r}"
        yield label, Text(f"{name}: {_written(option_type(rule, name))}{default}")
        if about := explained.get(name):
            yield "", Padding(Text(_joined(about)), (0, 0, 0, 2), expand=False)
        label = ""
    if not rule.options:
        yield label, "none"


def facts(rule: Rule, parts: Mapping[str, str]) -> Iterator[tuple[str, Text]]:
    """Yield what is known of a rule beside its options, label and text; `parts` of `sections`."""
    promised = [
        f"{law.replace('_', ' ')}: {inspect.getdoc(PROMISES[law])}" for law in promises(rule)
    ]
    facts = {
        "needs": "\n".join(f"{n}: {COSTS[n]}" for n in sorted(rule.needs)) or "nothing more",
        "promises": "\n".join(promised) or "nothing",
        "stages": "alignment, supervised" if serves(rule) else "alignment",
        "TRL": f"loss_type={rule.trl}" if rule.trl else "-",
        "verl": rule.verl or "-",
        "paper": rule.paper or "-",
        **({"caution": rule.caution} if rule.caution else {}),
    }
    for title in ("Degenerate cases", "Deviation", "Source"):
        if text := parts.get(title):
            facts[title.split()[0].lower()] = _joined(text)
    yield from ((label, Text(text)) for label, text in facts.items())


def _example(name: str, rule: Rule) -> str:
    required = [f'"{n}": …' for n, option in rule.options.items() if option.default is option.empty]
    given = f" --credit_kwargs '{{{', '.join(required)}}}'" if required else ""
    return f"grpo-credit check {name}{given}"


def _value(option: inspect.Parameter) -> str:
    return option.default if isinstance(option.default, str) else repr(option.default)


def _written(kind: object) -> str:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " | ".join(map(_written, typing.get_args(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(repr, typing.get_args(kind)))
    if "Callable" in str(kind):
        return "callable"
    plain = isinstance(kind, type) and not typing.get_args(kind) and kind is not type(None)
    return kind.__name__ if plain else str(kind).replace("<class 'NoneType'>", "None")


def sections(rule: Rule) -> dict[str, str]:
    """Return a docstring by its sections; "about" is what stands before the first."""
    about, *rest = _SECTION.split(inspect.getdoc(rule.function) or "")
    return {"about": about.strip(), **dict(zip(rest[::2], rest[1::2], strict=True))}


def _reflowed(text: str) -> str:
    """Join the lines of paragraphs, so that they fill any width; what is indented stays."""
    parts = re.split(r"\n{2,}", text)
    return "\n\n".join(part if part.startswith(" ") else _joined(part) for part in parts)


def _joined(text: str) -> str:
    return " ".join(text.split())
