"""Where a completion's advantage lands inside the completion: one family per file."""

from grpo_credit.allocations.even import even

__all__ = ["even"]
