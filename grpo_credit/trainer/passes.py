"""`PassTrainer`: TRL's trainer whose optimizer step makes as many forward passes as it needs.

`Trainer` runs `training_step` once per accumulation step. Here each of these *turns* holds any
number of passes (`grpo_credit.batching` plans which rows are in which): all but the last of a turn
are backed within `compute_loss`, the last one by `Trainer` as ever.
"""

import math
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.utils import logging

from grpo_credit.batching import eligibility
from grpo_credit.batching.metrics import Counts, PassMetrics, merge
from grpo_credit.batching.planner import plan, spread
from grpo_credit.batching.rows import Joined, Rows, join
from grpo_credit.trainer.cutting import CuttingTrainer
from grpo_credit.trainer.loss import counted

logger = logging.get_logger(__name__)

KEPT = (
    "grpo-credit: batching: the micro-batches of TRL, at least in one step | left out: sorting and "
    "cutting anew (the step has images, completions of one token, an entry that is not by row or "
    "token, or, of a model whose positions may count padding, prompts that would be padded further)"
)


@dataclass(frozen=True)
class Pass:
    """A micro-batch as TRL's `_compute_loss` takes it.

    Args:
        batch: the micro-batch.
        counts: what it holds over all ranks.
        prompt_of: number of each row's prompt, if the prompts are shared.
    """

    batch: dict[str, Any]
    counts: Counts
    prompt_of: Tensor | None


@dataclass(frozen=True)
class Turn:
    """What one accumulation step runs.

    Args:
        passes: one after another.
        skipped: what no pass of the optimizer step runs, if this is its last turn.
    """

    passes: list[Pass]
    skipped: Counts | None


class PassTrainer(CuttingTrainer):
    """TRL's `GRPOTrainer` with passes of our own cut in training."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pass_metrics: list[PassMetrics] = []  # of the optimizer step so far
        super().__init__(*args, **kwargs)

    # ---- a window in turns --------------------------------------------------------------------

    def _turns(self, batches: list[dict[str, Any]], live: Tensor) -> list[Turn] | None:
        """Cut this rank's share of a window into passes.

        Args:
            batches: the micro-batches that TRL made of it.
            live: for each of their rows in turn, whether it carries credit.

        Returns:
            As many turns as micro-batches; None, on every rank, if they are not to be re-cut.
        """
        if not self.model.training:
            return None
        joined = self._joined(batches, live) if self._batching.recuts else None
        self._say_batching()
        if joined is None or not self._batching.recuts:
            return None
        if joined.shifted and not self._batching.trims_prompts:
            logger.warning_once(KEPT)
            return None
        rows = joined.rows
        scalars = {name: value for name, value in batches[0].items() if name not in rows}
        size = len(batches[0]["completion_ids"])
        passes, skipped = self._passes(rows, size, len(batches), scalars)
        *first, last = spread(passes, len(batches))
        return [*(Turn(some, None) for some in first), Turn(last, skipped)]

    def _joined(self, batches: list[dict[str, Any]], live: Tensor) -> Joined | None:
        """Join the rows of a window over all ranks, and try on them what is done to passes."""
        sizes = [len(batch["completion_ids"]) for batch in batches]
        named = [
            {**batch, "live": own}
            for batch, own in zip(batches, live.long().split(sizes), strict=True)
        ]
        joined = join(named)
        if joined is None:
            logger.warning_once(KEPT)
        elif late := self._first_reason(eligibility.seen_by_users(self)):
            self._batching = eligibility.as_trl(late)
        else:
            self._settle_batching(joined.rows, sizes[0])
        return joined

    def _passes(
        self, rows: Rows, batch_size: int, turns: int, scalars: dict[str, Any]
    ) -> tuple[list[Pass], Counts]:
        """Plan the passes of all ranks; return this rank's, and what no pass runs."""
        lengths = self._lengths(rows)
        budget = self._budget(
            batch_size, rows["prompt_ids"].size(1), rows["completion_ids"].size(1)
        )
        run = rows.pop("live").bool().cpu().numpy() | (not self._batching.skips)
        ranks = self.accelerator.num_processes
        whole = math.ceil(max(1, run.sum()) / (ranks * batch_size))  # passes of TRL's size
        fixed = self._batching.keeps_shapes
        number = turns if self._batching.one_pass_per_turn else whole if fixed else None
        planned = plan(lengths, run, ranks, budget, number, batch_size if fixed else 1)
        tokens = counted(rows).sum(dim=1).cpu().numpy()
        passes = []
        for dealt in planned:
            own = dealt[:, self.accelerator.process_index]
            batch, prompt_of = self._cut_out(rows, own, lengths, budget)
            passes.append(Pass({**scalars, **batch}, _counts(tokens, dealt), prompt_of))
        left = np.delete(np.arange(len(tokens)), np.concatenate(planned).ravel())
        return passes, _counts(tokens, left)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the passes of a turn; return the last one's loss, with the value of the others.

        Backward passes of the others are done here. Ranks exchange gradients in the last one only,
        where the model is replicated; a sharded one adds up its shards pass by pass.
        """
        if "turn" not in inputs:
            return super().compute_loss(model, inputs, *args, **kwargs)
        turn: Turn = inputs["turn"]
        done = torch.zeros((), device=self.accelerator.device)
        loss = done.clone().requires_grad_()  # a turn without passes touches no model
        for number, one in enumerate(turn.passes, 1):
            last = number == len(turn.passes)
            with nullcontext() if last else _without_exchange(model):
                loss = self._pass_loss(model, one, *args, **kwargs)
                if not last:
                    self.accelerator.backward(loss)
                    done = done + loss.detach()
        if turn.skipped is not None:
            self._merge_metrics(turn.skipped)
        return loss + done

    def _pass_loss(self, model: Any, one: Pass, *args: Any, **kwargs: Any) -> Tensor:
        kept, found = self._metrics["train"], defaultdict(list)
        self._metrics["train"] = found
        try:
            with self._sharing(one.prompt_of):
                return super().compute_loss(model, one.batch, *args, **kwargs)
        finally:
            self._metrics["train"] = kept
            self._pass_metrics.append(PassMetrics(one.counts, found))

    def _merge_metrics(self, skipped: Counts) -> None:
        per_sequence = self.plan.trl_ratio == "sequence"
        for name, value in merge(self._pass_metrics, skipped, per_sequence).items():
            self._metrics["train"][name].append(value)
        self._pass_metrics = []


def _without_exchange(model: Any) -> AbstractContextManager[Any]:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _counts(tokens: np.ndarray, rows: np.ndarray) -> Counts:
    return Counts(rows.size, int(tokens[rows].sum()))
