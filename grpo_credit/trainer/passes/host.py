"""What batching needs of a trainer."""

from typing import Any, Protocol

from torch import Tensor


class Host(Protocol):
    """What the engine needs of a trainer whose constructor has ended; all but `plan` is TRL's."""

    args: Any
    model: Any
    ref_model: Any
    accelerator: Any
    plan: Any
    pad_to_multiple_of: int | None
    _metrics: dict[str, dict[str, list[float]]]

    def overrides(self, method: str) -> bool:
        """Return whether a user has put a method of their own in place of the trainer's."""
        ...

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]: ...
