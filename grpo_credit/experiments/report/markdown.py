"""The report for pasting: verdict, tables, and how to repeat it, as Markdown."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from grpo_credit.experiments import html
from grpo_credit.experiments.report import view_diagnostics, view_results, view_run
from grpo_credit.experiments.report.data import Report
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
    text = _environment().get_template("experiments/report/templates/report.md").render(
        report=report, figures=figures, shown=_SHOWN, table=table,
        runs=view_run, results=view_results, diagnostics=view_diagnostics,
        command=Markup("\n    ").join(map(Markup, visible(report.study.command).splitlines())),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


@cache
def _environment() -> Environment:
    """Return that of the pages, for Markdown: what is not `Markup` is escaped by `plain`."""
    return html.environment().overlay(autoescape=False, finalize=_escaped)


def _escaped(value: Any) -> Any:
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def table(content: Table) -> Markup:
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
    return Markup("\n").join(map(Markup, [written[0], rule, *written[1:]]))


def plain(text: str) -> str:
    r"""Escape what Markdown or HTML would obey; one line.

    Example:
        >>> plain("<b>*a* | `b`\n[c](d) tree_td [0, 1]")
        '&lt;b&gt;\\*a\\* \\| \\`b\\`⏎ [c]\\(d) tree_td [0, 1]'
    """
    text = " ".join(visible(text).split("\n"))
    text = re.sub(r"[\\`*|]", r"\\\g<0>", text).replace("](", "]\\(")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
