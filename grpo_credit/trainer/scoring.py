"""Reading what TRL's fused head computes beside the log-probabilities."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def fused_outputs(model: nn.Module, field: str, width: int) -> Generator[list[Tensor], None, None]:
    """Keep one field of every fused forward pass, its last `width` columns.

    Args:
        model: the model that the fused head was added to.
        field: of TRL's `FusedCausalLMOutput`.
        width: columns of the completion, in tokens.

    Yields:
        A list that grows by a `(b, width)` tensor with each pass; it stays empty where the head
        does not compute the field.
    """
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        value = getattr(output, field, None)
        if value is not None:
            kept.append(value[:, -width:])

    handle = model.register_forward_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()
