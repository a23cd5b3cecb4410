"""Where a completion's advantage lands inside the completion: one family per file."""

from grpo_credit.credit.allocations import (  # noqa: F401, each registers its rules
    anchors,
    automaton,
    baselines,
    conflict,
    contrast,
    decided,
    entropy,
    even,
    ktae,
    omega,
    patterns,
    potential,
    probability,
    spans,
    steps,
    temperature,
    traces,
    tree,
    vine,
)
