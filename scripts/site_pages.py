"""Pages of the documentation that are made: one of every rule, the API, and what lies elsewhere.

A hook of `mkdocs build --strict`; see mkdocs.yml.
"""

import inspect
import itertools
import re
from dataclasses import replace
from functools import cache
from html import escape
from importlib import import_module
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

import griffe
import notebooks
import pandas as pd
import torch
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from grpo_credit import Rollouts, compute_credit, list_credit
from grpo_credit.credit.catalogue import facts
from grpo_credit.credit.conformance import examine
from grpo_credit.credit.parse import resolve_with
from grpo_credit.credit.strategy import Rule
from grpo_credit.credit.turns import Turn

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md",
    "recipes/README.md": "recipes.md", "rewards/README.md": "rewards.md",
}  # fmt: skip
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)([^)#\s]*)((?:#[^)\s]*)?)\)")
OPTIONS = {
    "softmax_length": {"lam": 1.0}, "lhts": {"tau": 0.5}, "temper": {"tau": 0.5},
    "potential": {"function": lambda rollouts: thoughts(rollouts)},
}  # fmt: skip

# The group of the pictures: what is 2 + 3? Right is the number, whatever is around it.
WORDS = [
    "<think> 2 plus 3 </think> <answer> 5 </answer>",
    "<think> 2 plus 3 </think> <answer> 6 </answer>",
    "well <answer> 5 </answer>",
    "<think> 2 plus 2 plus 2 plus 2",
]
RIGHT = [1.0, 0.0, 1.0, 0.0]
NUMBER = [6, 6, 2, None]  # where the answer stands
SURE = ("<", "2", "3")  # tokens that the policy is nearly certain of begin so
THOUGHT = 3  # the id of </think>
PACKAGES = ("grpo_credit", "grpo_credit.lab", "grpo_credit.experiments.study",
            "grpo_credit.experiments.report")  # fmt: skip
OPTIONS_OF_API = "{heading_level: 2, show_root_full_path: false}"
SHOWN = ("needs", "promises", "stages", "TRL", "verl", "paper")


class Examples(griffe.Extension):
    """Read `Example:` in a docstring as the section `Examples:`."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rename the section."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the rules."""
    nav = {title: pages for entry in config.nav for title, pages in entry.items()}
    nav["Rules"] += [f"rule/{rule.name}.md" for rule in list_credit()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    made = {target: (ROOT / source).read_text("utf-8") for source, target in ELSEWHERE.items()}
    made |= {f"rule/{rule.name}.md": rule_page(rule) for rule in list_credit()}
    made |= {"api.md": "\n".join(map(api_page, PACKAGES)), "api-rewards.md": api_page("rewards")}
    made |= {f"notebooks/{path.stem}.md": notebooks.page(notebooks.run(path))
             for path in sorted(notebooks.FOLDER.glob("*.ipynb"))}  # fmt: skip
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages; of source, to text."""
    here = page.file.src_uri
    origin = dirname({v: k for k, v in ELSEWHERE.items()}.get(here, f"docs/{here}"))

    def turned(link: re.Match[str]) -> str:
        text, path, anchor = link.groups()
        if not path:
            return link[0]
        there = normpath(join(origin, path))
        target = ELSEWHERE.get(there, there.removeprefix("docs/")).replace(".ipynb", ".md")
        if target not in files.src_uris:
            return text
        return f"[{text}]({relpath(target, dirname(here) or '.')}{anchor})"

    return LINK.sub(turned, markdown)


def api_page(package: str) -> str:
    """Return the page of a package's public objects."""
    home = import_module(package)
    found = [getattr(home, name) for name in sorted(home.__all__)]
    documented = [
        f"::: {each.__module__}.{each.__qualname__}\n    options: {OPTIONS_OF_API}\n"
        for each in found
        if inspect.isclass(each) or inspect.isfunction(each)
    ]
    return "\n".join([f"# `{package}`\n", *documented])


def turns_of(words: list[str]) -> tuple[Turn, ...]:
    """Return the thought as a turn of its own, and the answer as one of the state it leaves."""
    if "</think>" not in words:
        return (Turn(0, len(words), 0, "answer"),)
    at = words.index("</think>") + 1
    return (Turn(0, at, 0, "call", ("note",)), Turn(at, len(words), at, "answer", state="noted"))


def thoughts(rollouts: Rollouts) -> torch.Tensor:
    """Return a potential: 0.5 once the thought is closed."""
    ids = torch.nn.functional.pad(rollouts.completion_ids, (1, 0), value=-1)
    return 0.5 * (ids == THOUGHT).cumsum(dim=1).clamp(max=1).double()


# ---- rules ------------------------------------------------------------------------------------


def rule_page(rule: Rule) -> str:
    """Return the page of a rule: picture, facts, what was measured, laws, docstring."""
    known = {label: text.plain for label, text in facts(rule, {}) if label in SHOWN}
    if rule.name in costs():
        known["cost"] = f"{costs()[rule.name]} ms for 1,024 completions of up to 1,024 tokens"
    rows = "\n".join(f"| {label} | {cell(text)} |" for label, text in known.items())
    function = f"{rule.function.__module__}.{rule.function.__qualname__}"
    return f"""# `{rule.name}`

{rule.summary}

{picture(rule)}

| | |
|---|---|
{rows}

{measured(rule.name)}

Laws on random rollouts, `grpo-credit check {rule.name}`: {laws(rule)}

::: {function}
    options: {{heading_level: 2}}
"""


def cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return escape(text, quote=False).replace("|", "\\|").replace("\n", "<br>")


def group() -> Rollouts:
    """Return the four completions of the pictures, with all that a rule may need."""
    words = [text.split() for text in WORDS]
    vocabulary = list(dict.fromkeys(word for row in words for word in row))
    ids = [[vocabulary.index(word) for word in row] for row in words]
    rollouts = Rollouts.from_lists(
        [len(row) for row in words], RIGHT, num_generations=4, max_completion_length=8,
        completion_ids=ids, dtype=torch.float64,
    )  # fmt: skip
    surprise = torch.zeros_like(rollouts.mask, dtype=torch.float64)
    answer, steps = torch.zeros_like(rollouts.mask), torch.full_like(surprise, torch.nan)
    for row, (tokens, at) in enumerate(zip(words, NUMBER, strict=True)):
        for place, word in enumerate(tokens):
            surprise[row, place] = 0.05 if word.startswith(SURE) else 1.2
            steps[row, place] = {"</think>": 0.25, "</answer>": RIGHT[row]}.get(word, torch.nan)
        if at is not None:
            answer[row, at], surprise[row, at] = True, 0.9
    decided = torch.tensor([[len(row) if at is None else at + 1]
                            for row, at in zip(words, NUMBER, strict=True)])  # fmt: skip
    tags = [[0, *itertools.accumulate(word.startswith("<") for word in row)] for row in words]
    width = rollouts.mask.size(1) + 1
    ends = [list(itertools.accumulate(len(word) + 1 for word in row)) for row in words]
    values = torch.full((len(words), width), torch.nan, dtype=torch.float64)
    values[:2, 5] = 0.5  # of the thought that two of them share
    answers = torch.full_like(values, -1.0)  # 0.37, whatever was thought
    answers[:2, 1:] = -0.1  # 0.9 after the thought that leads there
    offsets = [[(end - len(word) - 1, end - 1) for word, end in zip(row, found, strict=True)]
               for row, found in zip(words, ends, strict=True)]  # fmt: skip
    return replace(
        rollouts, old_logps=-surprise, entropies=surprise, sum_sq_probs=(-surprise).exp(),
        ref_logps=-1.5 * surprise, privileged_logps=-surprise + 0.5 * answer * surprise,
        spans={"reward/answer": answer}, decided=decided, step_rewards=steps, texts=tuple(WORDS),
        states=torch.tensor([row + row[-1:] * (width - len(row)) for row in tags]),
        turns=tuple(map(turns_of, words)), prefix_values=values,
        answer_logps=answers,
        offsets=torch.tensor([row + row[-1:] * (width - 1 - len(row)) for row in offsets]),
    )  # fmt: skip


def picture(rule: Rule) -> str:
    """Return a table of the group's tokens, shaded by their credit."""
    rollouts = group()
    name = rule.name if rule.kind == "aggregation" else f"{rule.name}/seq"
    credit = compute_credit(name, rollouts, **OPTIONS.get(rule.name, {}))
    options = {k: v for k, v in OPTIONS.get(rule.name, {}).items() if not callable(v)}
    return (
        f"Its credit on one group, {name}{f' with {options}' if options else ''}: "
        "blue rewards, orange blames; what is 2 + 3?\n\n"
        f"{rollouts.shaded(credit)}"
    )


def laws(rule: Rule) -> str:
    """Return how many laws hold, and which more than it promises."""
    found = list(examine(resolve_with(rule.name, OPTIONS.get(rule.name, {}))))
    held = sum(law.verdict.startswith("holds") for law in found)
    free = [law.declaration for law in found if law.verdict == "declared otherwise"]
    rest = f"; not promised: {', '.join(free)}" if free else ""
    return f"{held} of {len(found)} hold{rest}."


@cache
def table() -> pd.DataFrame:
    """Return what `grpo-credit lab exact --windows 300 --credit …` found, by strategy."""
    return pd.read_csv(ROOT / "docs" / "measured" / "rules.csv").set_index("credit")


def measured(name: str) -> str:
    """Return a sentence on bias and variance."""
    found = [each for each in (name, f"{name}/seq") if each in table().index]
    if not found:
        return ""
    row = table().loc[found[0]]
    share = row.variance / table().loc["seq"].variance
    return (
        f"In `lab exact` (a+b[abc]\\*|c+, groups of 8, rewards unscaled) `{found[0]}` is "
        f"{row.verdict}; a step has {share:.2f} of the variance of `seq`."
    )


@cache
def costs() -> dict[str, str]:
    """Return what an allocation costs, as docs/rules.md has it."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs/rules.md").read_text("utf-8"), re.M)
    cells = {name: rest.split(" | ") for name, rest in rows}
    return {name: each[-2].strip() for name, each in cells.items() if each[-2].strip().isdigit()}
