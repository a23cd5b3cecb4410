"""What a check says: how bad it is, what was seen, which setting to change."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from rich.text import Text

from grpo_credit import terminal
from grpo_credit.text import in_line, visible

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}


class Finding(NamedTuple):
    """Something that keeps a run from learning, or may.

    An `"error"`: the run will not learn, or stop; a `"warning"`: it learns less than it could, or
    may not; a `"note"`: worth knowing. The same `kind`, such as "truncation", is told once. The
    `message` has numbers, and the `remedy` which setting to change, and to what.
    """

    severity: Severity
    kind: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {self.message} {self.remedy}".rstrip()


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings, errors first; otherwise as they came."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Keep the findings that stop a strict preflight."""
    return [finding for finding in findings if finding.severity == "error"]


def show(findings: Sequence[Finding], console: Any = None) -> None:
    """Print findings, errors first, each with what to change on a line of its own.

    Model output and error texts are shown as they are: nothing in them is markup or steers the
    terminal.
    """
    out = console or terminal.console()
    for finding in ordered(findings):
        out.print(
            Text.assemble(
                (f"{finding.severity:<8}", _STYLE[finding.severity]),
                (f"{visible(finding.kind)}: ", "bold"),
                in_line(finding.message),
            )
        )
        if finding.remedy:
            out.print(Text(f"      -> {visible(finding.remedy)}"))
