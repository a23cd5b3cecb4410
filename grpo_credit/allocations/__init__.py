"""Where a completion's advantage lands inside the completion: one family per file."""

from grpo_credit.allocations.contrast import contrast
from grpo_credit.allocations.even import even
from grpo_credit.allocations.potential import potential
from grpo_credit.allocations.spans import spans
from grpo_credit.allocations.steps import steps, turns

__all__ = ["contrast", "even", "potential", "spans", "steps", "turns"]
