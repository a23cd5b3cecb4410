"""The findings of `strings`, in words, numbers and figures."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grpo_credit.experiments.figures.forest import Forest
from grpo_credit.lab.output import ERROR, Cell, Figure, Findings, Table, disc, plus_minus
from grpo_credit.lab.strings import ChainRule, Estimate, Search


class Setting(NamedTuple):
    """What was varied where the most likely string was looked for.

    Args:
        length: of the longest string, in tokens.
        spread: standard deviation of the policies' logits.
    """

    length: int
    spread: float


def findings(
    chain: Sequence[ChainRule],
    searches: Mapping[Setting, Mapping[str, Search]],
    command: str,
    settings: Mapping[str, Any],
) -> Findings:
    """Put the chain rule and the searches into words, tables and figures."""
    lengths = sorted({setting.length for setting in searches})
    return Findings(
        "Token by token, and whole strings",
        [*_chain_sentences(chain), *(_sentence(length, searches) for length in lengths)],
        [
            Table(
                "chain_rule",
                f"Windows of n tokens of strings of at most {len(chain)}, nats",
                [_chain_row(each) for each in chain],
                formats=dict.fromkeys(_chain_row(chain[0]), ".4f") | {"difference": ".1g"},
            ),
            *(table for length in lengths for table in _tables(length, searches)),
        ],
        [_figure(length, searches) for length in lengths],
        command,
        settings,
    )  # fmt: skip


def _chain_sentences(chain: Sequence[ChainRule]) -> list[str]:
    worst, last = max(c.difference for c in chain), chain[-1]
    return [
        f"Chain rule: the loss of n = 1 to {last.tokens} tokens at once is the sum of n next-token "
        f"losses. In every window of every string the two differ by {worst:.1g} nats at most, "
        "which is rounding: next-token cross entropy is the sequence's cross entropy.",
        "Multi-token prediction is not that: its n heads see what is before the window and not one "
        f"another. For n = {last.tokens} the best of such heads lose {last.heads:.3f} nats a "
        f"window where the string's own loss is {last.joint:.3f}; the difference, "
        f"{last.heads - last.joint:.3f}, is what the tokens of a window tell of one another.",
    ]


def _chain_row(chain: ChainRule) -> dict[str, Cell]:
    return {
        "n": chain.tokens,
        "n tokens at once": chain.joint,
        "n next tokens": chain.summed,
        "difference": chain.difference,
        "n heads": chain.heads,
        "heads lose": max(0.0, chain.heads - chain.joint),
    }


def _sentence(length: int, searches: Mapping[Setting, Mapping[str, Search]]) -> str:
    """Compare the searches where the policies are flattest, and where they are sharpest."""
    spreads = [setting.spread for setting in searches if setting.length == length]
    ends = [Setting(length, spread) for spread in dict.fromkeys((min(spreads), max(spreads)))]
    parts = [
        f"{way} {' and '.join(_pm(searches[end][way].missed) for end in ends)}"
        for way in searches[ends[0]]
    ]
    return (
        f"Strings of at most {length} tokens, logits of spread "
        f"{' and '.join(f'{end.spread:g}' for end in ends)}: the most likely one is missed by "
        f"{'; '.join(parts)}, as shares of random policies. What greedy decoding returns is "
        f"{' and '.join(_pm(searches[end]['greedy'].nats) for end in ends)} nats less likely."
    )


def _tables(length: int, searches: Mapping[Setting, Mapping[str, Search]]) -> list[Table]:
    *beams, sample = next(iter(searches.values()))
    strings = f"strings of at most {length} tokens"
    titles = {
        "missed": (f"Share of policies whose most likely string is missed: {strings}", beams[:3]),
        "nats": (f"How much less likely is what comes out, nats: {strings}", beams[:2]),
    }
    return [
        Table(
            f"{number}_{length}",
            title,
            [_row(each, searches, number) for each in searches if each.length == length],
            {name: name for name in ("spread", *narrow, sample)},
            {"spread": "g"},
        )
        for number, (title, narrow) in titles.items()
    ]


def _row(
    setting: Setting, searches: Mapping[Setting, Mapping[str, Search]], number: str
) -> dict[str, Cell]:
    row: dict[str, Cell] = {"spread": setting.spread}
    for way, search in searches[setting].items():
        estimate: Estimate = getattr(search, number)
        row |= {way: estimate.mean, f"{way}{ERROR}": estimate.error}
    return row


def _figure(length: int, searches: Mapping[Setting, Mapping[str, Search]]) -> Figure:
    rows = [
        disc(f"{way}, spread {setting.spread:g}", search.missed.mean, search.missed.error)
        for setting, found in searches.items()
        if setting.length == length
        for way, search in found.items()
    ]
    return Figure(
        "Share of random policies whose most likely string a search does not return, with its "
        "standard error. One sample: one draw from the policy.",
        Forest(f"Strings of at most {length} tokens", "share missed", rows, reference=0),
    )


def _pm(estimate: Estimate) -> str:
    return plus_minus(*estimate)
