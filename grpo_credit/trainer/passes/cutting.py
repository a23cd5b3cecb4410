"""`Cutter`: picks, measures and trims the rows of a pass."""

import numpy as np
import torch

from grpo_credit.batching.packing import attention_of
from grpo_credit.batching.planner import (
    Budget,
    Lengths,
    count_parameters,
    packed_length,
    pass_cost,
    token_pairs,
)
from grpo_credit.batching.rows import Rows, take
from grpo_credit.trainer.passes.eligibility import Batching, is_compiled
from grpo_credit.trainer.passes.host import Host


class Cutter:
    """Cuts rows for a trainer.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        # now, because each rank may later hold a shard of another size, and all must plan alike
        self._parameters = count_parameters(host.model)
        self._compiled = is_compiled(host)
        self.attention = attention_of(host.model, self._compiled)

    def budget(self, rows: Rows, batch_size: int, batching: Batching) -> Budget:
        """Give a pass what a micro-batch of TRL with these widths takes."""
        prompt, completion = (rows[f"{half}_ids"].size(1) for half in ("prompt", "completion"))
        every_pair = self.attention is not None and self.attention.every_pair
        return Budget(
            tokens=batch_size * (prompt + completion),
            pass_cost=pass_cost(self._host.accelerator.device.type, self._parameters),
            pairs=batch_size * (prompt + completion) ** 2 if every_pair else 0,
            token_pairs=token_pairs(self._host.model, self._parameters),
            prompt_columns=0 if batching.trims_prompts else prompt,
            multiple=int(self._host.pad_to_multiple_of or 1),
            few_sizes=self._compiled,
        )

    def cut_out(self, rows: Rows, index: np.ndarray, budget: Budget, packed: bool) -> Rows:
        """Pick the rows of a pass, trimmed; those that are packed keep the columns of prompts."""
        at = torch.from_numpy(index).to(rows["completion_ids"].device)
        prompt, completion = (
            int(rows[f"{half}_mask"][at].sum(dim=1).max()) for half in ("prompt", "completion")
        )
        if packed:
            return take(rows, at, rows["prompt_ids"].size(1), max(1, completion))
        prompt = max(prompt, budget.prompt_columns)
        return take(rows, at, *(int(budget.padded(width)) for width in (prompt, completion)))

    def lengths(self, rows: Rows) -> Lengths:
        """Measure rows; where prompts are not shared, each has a number of its own."""
        lengths = Lengths.of(rows)
        if self.attention is None or self.attention.shares_prompts:
            return lengths
        return lengths._replace(prompt_of=np.arange(len(lengths.prompt)))

    def packed_length(self, tokens: int) -> int:
        """Return how long a packed row of so many tokens is made."""
        multiple = int(self._host.pad_to_multiple_of or 1)
        return int(packed_length(tokens, multiple, few_sizes=self._compiled))
