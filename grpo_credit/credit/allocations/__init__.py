"""Where a completion's advantage lands inside the completion: one family per file."""

from grpo_credit.credit.allocations.automaton import automaton
from grpo_credit.credit.allocations.baselines import loo, opo, token_baseline
from grpo_credit.credit.allocations.contrast import contrast
from grpo_credit.credit.allocations.decided import decided
from grpo_credit.credit.allocations.entropy import entropy_soft, entropy_top, gtpo
from grpo_credit.credit.allocations.even import even
from grpo_credit.credit.allocations.ktae import ktae
from grpo_credit.credit.allocations.patterns import patterns
from grpo_credit.credit.allocations.potential import potential
from grpo_credit.credit.allocations.spans import spans
from grpo_credit.credit.allocations.steps import steps, turns
from grpo_credit.credit.allocations.traces import trace
from grpo_credit.credit.allocations.tree import prefix_tree, tempo, tree_td

__all__ = [
    "automaton",
    "contrast",
    "decided",
    "entropy_soft",
    "entropy_top",
    "even",
    "gtpo",
    "ktae",
    "loo",
    "opo",
    "patterns",
    "potential",
    "prefix_tree",
    "spans",
    "steps",
    "tempo",
    "token_baseline",
    "trace",
    "tree_td",
    "turns",
]
