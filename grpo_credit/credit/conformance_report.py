"""What came of the laws, on the terminal: the broken ones first, each cause once."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.padding import Padding
from rich.text import Text

from grpo_credit.credit.conformance import Finding


def print_findings(
    name: str, findings: Sequence[Finding], console: Any, *, every: bool = False
) -> None:
    """Print which laws a strategy breaks, and in a line each what it might declare.

    Args:
        name: of the strategy.
        findings: from `conformance.examine`.
        console: where to print.
        every: whether to name the laws that hold, too, and what breaks those not promised.
    """
    failed = [found for found in findings if found.failed]
    console.print(Text(f"the laws of {name}", "bold"))
    for (verdict, cause), sentences in _by_cause(findings if every else failed).items():
        for sentence in sentences:
            console.print(Text(f"{verdict}: {sentence}", "bold red" if verdict == "fails" else ""))
        if cause:
            console.print(Padding(Text(cause), (0, 0, 0, 6), expand=False))
    for line in _rest(findings):
        console.print(Text(line))
    console.print(Text(f"{len(failed)} of {len(findings)} laws broken", "bold"))


def _by_cause(findings: Iterable[Finding]) -> dict[tuple[str, str], list[str]]:
    """Return the sentences of the laws by verdict and counterexample."""
    found: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        key = finding.verdict, finding.counterexample
        found.setdefault(key, []).append(finding.sentence)
    return found


def _rest(findings: Sequence[Finding]) -> Iterator[str]:
    held = [found for found in findings if found.promised and not found.counterexample]
    yield f"{len(held)} hold: of those that bind every strategy, or that it promises"
    free = [found.declaration for found in findings if found.verdict == "declared otherwise"]
    if free:
        yield f"{len(free)} not promised, and so not asked of it: {', '.join(free)}"
    spare = [found for found in findings if found.verdict == "holds, though not declared"]
    if spare:
        names = ", ".join(found.declaration.replace("=False", "=True") for found in spare)
        yield f"{len(spare)} more hold and may be declared: {names}"
