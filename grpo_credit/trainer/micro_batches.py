"""`CreditWindow`: the micro-batches of an optimizer step, with their credit.

All are prepared when the first one is due, so that the credit is computed once, over the whole
window, and is handed to TRL beside its advantages.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor

from grpo_credit.errors import CreditError
from grpo_credit.trainer import subclasses
from grpo_credit.trainer.seams import Host
from grpo_credit.trainer.subclasses import HandedOut
from grpo_credit.trainer.window import Window, first_rows


class CreditWindow:
    """Hands out the micro-batches of a window with their credit.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._samples: list[Any] = []  # the data loader's batches of the coming optimizer step
        self._prepared: Iterator[dict[str, Any]] = iter(())  # its micro-batches, with credit
        self._handed_out: HandedOut | None = (
            None  # the micro-batch whose turn it is, if it is TRL's
        )

    def begin(self, samples: Callable[[], tuple[list[Any], Any]]) -> tuple[list[Any], Any]:
        """Remember the batches of the coming optimizer step, which `samples` gives."""
        name = type(self._host).__name__
        if self._host.overrides("get_batch_samples") and next(self._prepared, None) is not None:
            raise CreditError(
                f"{name}.get_batch_samples returned fewer batches than super() did, and the credit "
                "of a step is over all of them; leave rows out of the data, or in "
                "_generate_and_score_completions."
            )
        batches, num_items = samples()
        self._samples, self._prepared = batches, iter(())
        return batches, num_items

    def inputs(self, prepare: Callable[[Any], dict[str, Any]], batch: Any) -> dict[str, Any]:
        """Return the micro-batch that is due, with its credit; `prepare` is TRL's own way."""
        self._refuse_loss_without_credit()
        if self._host.model.training:
            prepared = self._next(prepare)
        else:
            prepared = self.with_credit([prepare(batch)])[0]
        whole = "microstep" not in prepared
        self._handed_out = HandedOut(prepared, self._host.plan.strategy) if whole else None
        return prepared

    def check(self, inputs: dict[str, Any]) -> None:
        """Refuse inputs of a loss that were changed since their credit was computed."""
        if self._handed_out is not None:
            self._handed_out.check(inputs)

    def _next(self, prepare: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        if self._samples:
            self._prepared = iter(self.with_credit(self._micro_batches(prepare)))
            self._samples = []
        try:
            return next(self._prepared)
        except StopIteration:
            raise RuntimeError(
                "_prepare_inputs was called without a batch of an optimizer step, so the totals of "
                "its window are unknown; call get_batch_samples first, as Trainer.train does, and "
                "super().get_batch_samples in one of your own."
            ) from None

    def _refuse_loss_without_credit(self) -> None:
        host, given = self._host, self._handed_out
        if given is None or given.reached or not host.plan.explicit:
            return
        if own := next(filter(host.overrides, subclasses.LOSSES), None):
            raise CreditError(subclasses.without_credit(type(host).__name__, own, host.plan))

    def _micro_batches(self, prepare: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
        """Let TRL prepare every micro-batch of the step now, each as if its turn had come."""
        host, first, batches = self._host, self._host._step, []
        try:
            for offset, samples in enumerate(self._samples):
                host._step = first + offset
                batches.append(prepare(samples))
        finally:
            host._step = first
        return batches

    def with_credit(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Compute the credit of a window, and put it beside TRL's advantages."""
        host, strategy = self._host, self._host.plan.strategy
        window, rows = self._join(batches)
        rollouts = window.rollouts
        subclasses.refuse_second_allocation(type(host).__name__, window.advantages, strategy)
        matrix, weights = strategy.credit_and_weights(rollouts)
        even = None if weights is None else window.advantages * weights * host.credit_scale
        matrix = matrix * host.credit_scale if even is None or not strategy.even else even
        credit = torch.where(rollouts.mask, matrix, 0.0)
        host._step_log.record(window, credit, even)
        weights = torch.ones_like(rollouts.advantages)[:, None] if weights is None else weights
        credited = [
            {**batch, "credit_weights": weights[own], "credit_steps": len(batches)}
            | ({} if strategy.even else {"credit": matrix[own, : batch["completion_ids"].size(1)]})
            for batch, own in zip(batches, rows, strict=True)
        ]
        microsteps = host._engine.microsteps(credited, credit[torch.cat(rows)].any(dim=1))
        return credited if microsteps is None else [{"microstep": each} for each in microsteps]

    def _join(self, batches: list[dict[str, Any]]) -> tuple[Window, list[Tensor]]:
        """Join the generations that the window draws on, and locate each micro-batch's rows."""
        collector, buffered = self._host._collector, self._host._buffered_inputs or []
        drawn = {int(batch["generation"]) for batch in batches}
        generations = {n: g for n, g in collector.generations.items() if n in drawn}
        start = first_rows(generations)
        rows = [batch["row"] + start[int(batch["generation"])] for batch in batches]
        kept = drawn | {int(batch["generation"]) for batch in buffered}
        collector.generations = {n: g for n, g in collector.generations.items() if n in kept}
        return Window.join(list(generations.values()), gather(torch.cat(rows))), rows
