"""What a sample says of tools: whether they are called, fail, are slow, and answer in vain."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpo_credit.preflight.findings import Finding
from grpo_credit.text import in_line

SLOW_TOOL = 0.5  # seconds of a call
SOME = 0.2  # share beyond which it is a warning
SHOWN = 160  # characters of an error


@dataclass
class ToolUse:
    """What the completions of a sample did with tools.

    Args:
        offered: the tools' names.
        completions: how many there are.
        calls: of each tool, those that do not exist included.
        failed: of these, calls that came back with an error.
        error: what one of them said.
        exhausted: completions whose last call was not run, as they had used up their turns.
        dropped: completions whose tools answered, and TRL left that out for its length.
        seconds: of each tool, in all calls.
    """

    offered: list[str]
    completions: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    error: str = ""
    exhausted: int = 0
    dropped: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def see(self, conversation: Any, limit: int) -> bool:
        """Take note of a completion, of at most `limit` turns that call; return if it was cut off.

        It was if its last call has no answer although there were turns left: TRL leaves out an
        answer with which the completion would be too long.
        """
        self.completions += 1
        if not isinstance(conversation, Sequence) or isinstance(conversation, str):
            return False
        for name, answer in _answered(conversation):
            self.calls[name] += 1
            if answer.startswith("{'error':"):  # as TRL writes what a tool raised
                self.failed[name] += 1
                self.error = self.error or answer
        turns = sum(bool(message.get("tool_calls")) for message in conversation)
        if not (conversation and conversation[-1].get("tool_calls")):
            return False
        self.exhausted += turns > limit
        self.dropped += turns <= limit
        return turns <= limit

    def took(self, seconds: Mapping[str, float]) -> None:
        """Add the time of calls."""
        for name, more in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + more


def joined(parts: Iterable[ToolUse | None]) -> ToolUse | None:
    """Add what the ranks saw; None where no tools are offered."""
    found = [part for part in parts if part is not None]
    if not found:
        return None
    whole = ToolUse(found[0].offered)
    for part in found:
        whole.calls.update(part.calls)
        whole.failed.update(part.failed)
        whole.took(part.seconds)
        whole.error = whole.error or part.error
        for name in ("completions", "exhausted", "dropped"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
    return whole


def _answered(conversation: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield the calls that were answered: the tool's name, and what came of it."""
    asked: list[str] = []
    for message in conversation:
        if message.get("tool_calls"):
            asked = [
                str(call.get("function", call).get("name", "")) for call in message["tool_calls"]
            ]
        elif message.get("role") == "tool" and asked:
            yield asked.pop(0), str(message.get("content", ""))


def check_tools(use: ToolUse | None) -> list[Finding]:
    """Find what keeps tools from helping."""
    if use is None or not use.completions:
        return []
    if not use.calls and not use.exhausted and not use.dropped:
        return [never_called(use)]
    findings = (failing(use), exhausted(use), slowest(use))
    return [finding for finding in findings if finding is not None]


def never_called(use: ToolUse) -> Finding:
    """Say that no completion calls a tool."""
    return Finding(
        "warning",
        "tools: never called",
        f"none of the {use.completions} completions calls a tool; offered: "
        f"{', '.join(use.offered)}. What is never tried is never learned.",
        "Say in the prompt when to call them, see that the chat template shows them and that the "
        "model writes calls in its format, or begin with supervised fine-tuning on calls.",
    )


def failing(use: ToolUse) -> Finding | None:
    """Judge the share of calls that come back with an error, and name tools that always do."""
    called, failed = use.calls.total(), use.failed.total()
    if not called or failed / called <= SOME:
        return None
    always = [name for name, count in use.calls.items() if use.failed[name] == count]
    every = f" Always: {', '.join(map(in_line, always))}." if always and failed < called else ""
    return Finding(
        "error" if failed == called else "warning",
        "tools: failing",
        f"{failed} of {called} calls come back with an error, such as "
        f"{in_line(use.error)[:SHOWN]}.{every}",
        "Call the tool by hand with what the model wrote; see names and types of its parameters "
        "and their descriptions, which are all that the model is told.",
    )


def exhausted(use: ToolUse) -> Finding | None:
    """Judge the share of completions that end in a call that is not run."""
    share = use.exhausted / use.completions
    if not share:
        return None
    return Finding(
        "warning" if share > SOME else "note",
        "tools: turns used up",
        f"{share:.0%} of the completions end in a call that is not run: they have used up "
        "--max_tool_calling_iterations.",
        "Raise it, or say in the prompt how many calls there may be.",
    )


def slowest(use: ToolUse) -> Finding | None:
    """Name the tool whose calls take longest, if that is long."""
    means = {name: use.seconds[name] / use.calls[name] for name in use.seconds if use.calls[name]}
    if not means or max(means.values()) <= SLOW_TOOL:
        return None
    name = max(means, key=means.__getitem__)
    return Finding(
        "note",
        "tools: slow",
        f"a call of {in_line(name)} takes {means[name]:.1f} s; TRL runs the calls of a batch one "
        "after another, those of async tools together.",
        "Make it an async function, cache what it finds, or give it a time limit.",
    )
