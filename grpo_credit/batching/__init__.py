"""Fewer padded tokens, with the same gradient. Tensors and callables, and never TRL."""
