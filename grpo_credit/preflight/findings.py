"""What a check says: how bad it is, what was seen, which setting to change."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
from rich.text import Text

from grpo_credit import terminal
from grpo_credit.credit import shading
from grpo_credit.text import in_line, visible

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_STYLE = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_SHADE = {"error": shading.BELOW, "warning": "230,190,0", "note": ""}  # behind it in a notebook


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


class Findings(list[Finding]):
    """Findings as a notebook shows them and as a table.

    Example:
        >>> Findings([Finding("note", "pace", "slow")]).to_pandas()["kind"].tolist()
        ['pace']
    """

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each finding."""
        return pd.DataFrame(list(self), columns=list(Finding._fields))

    def _repr_html_(self) -> str:
        shades = [_SHADE[finding.severity] for finding in self]
        return shading.listing("findings", Finding._fields, list(map(tuple, self)), shades)


def ordered(findings: Iterable[Finding]) -> Findings:
    """Sort findings, errors first; otherwise as they came."""
    return Findings(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


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
