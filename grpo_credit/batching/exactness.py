"""`Exactness`: what is done to the passes of a trainer, chosen once and tried on its model."""

from collections.abc import Callable
from functools import partial
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from transformers.utils import logging

from grpo_credit.batching import eligibility
from grpo_credit.batching.cutting import Cutter
from grpo_credit.batching.eligibility import Batching, Extent, Trial, as_trl, extent_of
from grpo_credit.batching.host import Host
from grpo_credit.batching.rows import Rows
from grpo_credit.batching.trial import Reference, Score

logger = logging.get_logger(__name__)


class Exactness:
    """Says what leaves the gradient as it is.

    Args:
        host: the trainer.
        cutter: of its rows.
        score: runs rows on a model, packed or not: log-probabilities (n, T).
    """

    def __init__(
        self, host: Host, cutter: Cutter, score: Callable[[Any, Rows, bool], Tensor]
    ) -> None:
        self._host, self._cutter, self._score = host, cutter, score
        self.batching: Batching = eligibility.choose(host)
        # between which widths our own passes were tried, without gradient and with it
        self._tried = {False: Extent(), True: Extent()}
        self._said: Batching | None = None

    def knows(self, rows: Rows) -> bool:
        """Return whether rows of these widths were tried, as far as scoring needs it."""
        return self._tried[False].holds(extent_of(rows))

    def settle(self, rows: Rows, batch_size: int, *, with_gradient: bool) -> None:
        """Try on the model what is done to passes, at first and where widths outgrow the last try.

        Args:
            rows: prompts and completions of a window, on every rank.
            batch_size: rows of a micro-batch of TRL.
            with_gradient: whether gradients are compared, too; TRL scores without room for them.
        """
        if late := first_reason(eligibility.seen_by_users(self._host)):
            self.batching = as_trl(late)
            return
        extent = extent_of(rows)
        if self._tried[with_gradient].holds(extent):
            return
        host, cutter = self._host, self._cutter
        most = cutter.budget(rows, batch_size, self.batching).longest_packed
        for model in (host.model, host.ref_model):  # which may differ in more than its weights
            if model is None or not self.batching.recuts:
                continue
            trial = Trial(
                partial(self._score, model), rows, batch_size,
                lambda tried: most - cutter.lengths(tried).packed,
            )  # fmt: skip
            cause = eligibility.likely_cause(model)
            reference = partial(self._reference, model, with_gradient)
            self.batching = trial(self.batching, reference, cause)
            extent = extent.joined(trial.extent)
        for kind in {False, with_gradient}:
            self._tried[kind] = self._tried[kind].joined(extent)

    def say(self) -> None:
        """Say what is done to passes, once and where it changes."""
        if self._host.accelerator.is_main_process and self.batching != self._said:
            say = logger.warning if self.batching.left_out else logger.info
            say(f"grpo-credit: {self.batching}")
        self._said = self.batching

    def _reference(self, model: Any, with_gradient: bool, score: Score) -> Reference:
        args = self._host.args
        checkpoints = args.gradient_checkpointing_kwargs or {}
        reentrant = args.gradient_checkpointing and checkpoints.get("use_reentrant")
        # neither gives a gradient to `autograd.grad`
        cannot = eligibility.is_sharded(self._host) or reentrant
        with_gradient &= model is self._host.model and not cannot
        return Reference(model, score, with_gradient=with_gradient, agree=first_reason)


def first_reason(reason: str | None) -> str | None:
    """Return the first rank's reason, on every rank; None if none has one."""
    return next(filter(None, gather_object([reason])), None)
