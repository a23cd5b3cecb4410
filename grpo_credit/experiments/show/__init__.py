"""Completions of a run, each token shaded by its credit under one strategy or several."""
