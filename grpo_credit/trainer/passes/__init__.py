"""Passes of a step: run as `batching` plans them, and tried, so that the gradient stays TRL's."""
