"""The report for pasting: verdict, tables, and how to repeat it, as Markdown."""

import re
from collections.abc import Mapping, Sequence

from grpo_credit.experiments.report.data import FINISHED, Report, RunResult
from grpo_credit.experiments.report.view_diagnostics import gradient_table
from grpo_credit.experiments.report.view_results import differences_table, strategies_table
from grpo_credit.experiments.report.view_run import cost_table, counted, seeds_vary
from grpo_credit.experiments.words import Table
from grpo_credit.text import visible

_SHOWN = ("git.commit", "git.dirty", "versions.torch", "versions.trl", "versions.transformers",
          "hardware.cpus", "hardware.gpus", "model.class", "model.parameters")  # fmt: skip


def markdown(report: Report, figures: Sequence[str] = ()) -> str:
    """Write what a colleague should read.

    Args:
        report: the study.
        figures: files to show below the verdict, relative to the Markdown.
    """
    study, comparison = report.study, report.comparison
    finished = [cell for cell in report.cells if cell.status == FINISHED]
    parts = [
        f"# {plain(study.recipe)}: credit strategies compared",
        f"**{plain(comparison.verdict)}**",
        f"{plain(study.metric or 'no metric')} on held-out prompts, "
        f"{'higher' if study.higher_is_better else 'lower'} is better; this is not the training "
        f"reward. {len(finished)} of {len(report.cells)} runs finished. {plain(counted(report))} "
        f"{seeds_vary(report.pairing)}",
        _list(
            {r.strategy: r.verdict.sentence for r in comparison.results if r.verdict is not None}
        ),
        _named(
            "Not comparable: a rule or the last step of these runs is not that of the others.",
            {c: c.unlike for c in report.cells if c.unlike},
        ),
        _named(
            "Not finished:",
            {c: c.reason or c.status for c in report.cells if c.status != FINISHED},
        ),
        *(f"![{name}]({name})" for name in figures),
        "## Each strategy",
        table(strategies_table(report)),
        f"## Against {plain(study.baseline)}, in pairs of the same seed",
        table(differences_table(report)),
        "\n".join(f"* {plain(limit)}" for limit in comparison.limits),
        "## Gradient norm relative to the baseline's",
        table(gradient_table(report)),
        "## Cost",
        table(cost_table(report)),
        "## To repeat it",
        _code(study.command),
        _list({f"rule {s.rule}": f"{s.file}, sha256 {s.sha256}" for s in report.sources}),
        _list({n: str(v) for n, v in report.manifest.get("common", {}).items() if n in _SHOWN}),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(content: Table) -> str:
    r"""Write a table.

    Example:
        >>> print(table(Table(["a", "b"], [["x|y", "1"]])))
        | a | b |
        |---|--:|
        | x\|y | 1 |
    """
    lines = [content.columns, *content.rows]
    written = [f"| {' | '.join(map(plain, line))} |" for line in lines]
    rule = "|---|" + "--:|" * (len(content.columns) - 1)
    return "\n".join([written[0], rule, *written[1:]])


def plain(text: str) -> str:
    r"""Escape what Markdown or HTML would obey; one line.

    Example:
        >>> plain("<b>*a* | `b`\n[c](d) tree_td [0, 1]")
        '&lt;b&gt;\\*a\\* \\| \\`b\\`⏎ [c]\\(d) tree_td [0, 1]'
    """
    text = " ".join(visible(text).split("\n"))
    text = re.sub(r"[\\`*|]", r"\\\g<0>", text).replace("](", "]\\(")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _list(entries: Mapping[str, str]) -> str:
    return "\n".join(f"* {plain(name)}: {plain(text)}" for name, text in entries.items())


def _named(title: str, cells: Mapping[RunResult, str]) -> str:
    """List runs with what is to be said of them."""
    entries = _list({f"{cell.credit}, seed {cell.seed}": text for cell, text in cells.items()})
    return f"{title}\n\n{entries}" if entries else ""


def _code(text: str) -> str:
    """Write a code block, whatever backticks the text has."""
    return "\n".join(f"    {line}" for line in visible(text).splitlines())
