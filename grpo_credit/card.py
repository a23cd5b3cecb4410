"""What a model card says about the credit that a model was trained with."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_credit.run.provenance import hide_in_text
from grpo_credit.run.sources import own_sources
from grpo_credit.strategy import Rule, Strategy

_ARXIV = re.compile(r"(?:arXiv:)?(\d{4}\.\d{4,5})")


def add_credit(folder: Path, strategy: Strategy, surrogate: str) -> None:
    """Add the section on credit to the model card of a run directory, before its citations."""
    card, manifest = folder / "README.md", folder / "manifest.json"
    text = card.read_text(encoding="utf-8")
    known = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else None
    before, heading, after = text.partition("## Citations")
    section = credit_section(strategy, surrogate, known)
    card.write_text(f"{before}{section}\n{heading}{after}", encoding="utf-8")


def credit_section(strategy: Strategy, surrogate: str, manifest: Mapping[str, Any] | None) -> str:
    """Describe a strategy in Markdown: formulas, options, papers, and how to train it again.

    Args:
        strategy: of the training.
        surrogate: the loss and its ratio, in words.
        manifest: of the run, as in manifest.json; None where there is none.

    Returns:
        A section for a model card.
    """
    lines = [
        "## Credit assignment",
        "",
        f"Trained with `credit={strategy.name}` ({surrogate}), by grpo-credit: each token's "
        "log-probability gradient was multiplied by allocation × aggregation.",
        "",
        "| rule | kind | formula | options | source |",
        "|---|---|---|---|---|",
        *(_row(rule, strategy.options.get(rule.name, {})) for rule in strategy.rules),
    ]
    return "\n".join([*lines, *_own(strategy), *(_again(manifest) if manifest else []), ""])


def _row(rule: Rule, options: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    formula = _code(rule.formula) if rule.formula else rule.summary or "–"
    cells = (f"`{rule.name}`", rule.kind, formula, said or "–", _linked(rule.paper))
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _own(strategy: Strategy) -> list[str]:
    """Show the source of the rules that are a user's own."""
    lines: list[str] = []
    for rule in own_sources(strategy.rules):
        source = hide_in_text(rule["function"] or "(no source)").splitlines()
        about = f"`{rule['rule']}` of {rule['file']}, sha256 {rule['sha256']}:"
        lines += ["", about, "", *(f"    {line}" for line in source)]
    return lines


def _again(manifest: Mapping[str, Any]) -> list[str]:
    versions = manifest.get("versions") or {}
    git = manifest.get("git") or {}
    kept = {
        "command": (manifest.get("command") or {}).get("shell"),
        "seed": manifest.get("seed"),
        "commit": git.get("commit"),
        "changed since": git.get("dirty"),
        "versions": versions,
        "datasets": manifest.get("datasets"),
    }
    return ["", "Its manifest:", "", "```json", json.dumps(kept, indent=1), "```"]


def _code(text: str) -> str:
    return f"`{text}`" if text else "–"


def _linked(paper: str) -> str:
    return _ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", paper) or "–"


def _cell(text: str) -> str:
    """Keep a bar from ending the cell, a line break the row."""
    return text.replace("|", r"\|").replace("\n", " ")
