"""Completions of a run, each token shaded by its credit under one strategy or several."""

from grpo_credit.experiments.show.picture import picture

__all__ = ["picture"]
