"""`CuttingTrainer`: TRL's trainer whose forward passes hold rows of like length.

`grpo_credit.batching` plans which rows are in which, and says what leaves the gradient as it is.
Here are the passes without gradient, and what those with gradient (`grpo_credit.trainer.passes`)
have in common with them.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from transformers.utils import logging
from trl import GRPOTrainer

from grpo_credit.batching import shared_prompts_check
from grpo_credit.batching.eligibility import Batching, Extent, Trial, as_trl, extent_of
from grpo_credit.batching.planner import Budget, Lengths, count_parameters, cut, pass_cost, places
from grpo_credit.batching.rows import Rows, take
from grpo_credit.batching.shared_prompts import number_prompts, pays, score_sharing_prompts
from grpo_credit.batching.shared_prompts_check import self_test
from grpo_credit.batching.trial import Reference
from grpo_credit.trainer.config import Plan

logger = logging.get_logger(__name__)

TEXT = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")


class Cutout(NamedTuple):
    """Rows of one pass, trimmed, and the number of each one's prompt if prompts are shared."""

    rows: Rows
    prompt_of: Tensor | None


class CuttingTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer` with passes of our own cut, where they are without gradient."""

    args: Any
    model: Any
    plan: Plan
    _batching = as_trl()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prompt_of: Tensor | None = None  # of the pass at hand, where its prompts are shared
        self._tried = Extent()  # between which widths our own passes were tried
        self._said: Batching | None = None
        self._generating = False  # whether TRL scores a generation batch, on every rank
        super().__init__(*args, **kwargs)
        # now, because each rank may later hold a shard of another size, and all must plan alike
        self._pass_cost = pass_cost(self.accelerator.device.type, count_parameters(self.model))

    # ---- what is exact ------------------------------------------------------------------------

    def overrides(self, method: str) -> bool:
        """Return whether a subclass, or an attribute of the trainer, overrides a method of ours."""
        ours = next(c for c in type(self).__mro__ if c.__module__.startswith("grpo_credit."))
        known = getattr(ours, method)
        here = known.__module__.startswith(("grpo_credit.", "trl.", "transformers."))
        return not here or getattr(getattr(self, method), "__func__", None) is not known

    def _settle_batching(self, rows: Rows, batch_size: int) -> Batching:
        """Try on the model what is done to passes, at first and where widths outgrow the last try.

        Args:
            rows: prompts and completions of a window, on every rank.
            batch_size: rows of a micro-batch of TRL.
        """
        extent = extent_of(rows)
        if not self._tried.holds(extent):
            trial = Trial(self._score_alone, rows, batch_size)
            self._batching = trial(self._batching, self._reference)
            if self._batching.shares_prompts and (reason := self._shared_wrongly(rows)):
                self._batching = self._batching.without_sharing(reason)
            self._tried = self._tried.joined(extent).joined(trial.extent)
        return self._batching

    def _say_batching(self) -> None:
        """Say what is done to passes, once and where it changes."""
        if self.accelerator.is_main_process and self._batching != self._said:
            say = logger.warning if self._batching.left_out else logger.info
            say(f"grpo-credit: {self._batching}")
        self._said = self._batching

    def _score_alone(self, rows: Rows) -> Tensor:
        ids, mask = (
            torch.cat([rows[f"prompt_{kind}"], rows[f"completion_{kind}"]], dim=1)
            for kind in ("ids", "mask")
        )
        width = rows["completion_ids"].size(1)
        return self._get_per_token_logps_and_entropies(self.model, ids, mask, width)[0]

    def _reference(self, score: Callable[[], Tensor]) -> Reference:
        checkpoints = self.args.gradient_checkpointing_kwargs or {}
        sharded = self.accelerator.distributed_type not in shared_prompts_check.PLAIN_TRAINING
        reentrant = self.args.gradient_checkpointing and checkpoints.get("use_reentrant")
        with_gradient = not (sharded or reentrant)  # neither gives one to `autograd.grad`
        return Reference(self.model, score, with_gradient=with_gradient, agree=self._first_reason)

    def _first_reason(self, reason: str | None) -> str | None:
        return next((told for told in gather_object([reason]) if told), None)

    def _shared_wrongly(self, rows: Rows) -> str | None:
        with self.accelerator.autocast():
            return self._first_reason(self_test(self.model, *(rows[name] for name in TEXT)))

    def _budget(self, rows: int, prompt: int, completion: int) -> Budget:
        """Give a pass what a micro-batch of TRL with so many rows takes."""
        return Budget(
            tokens=rows * (prompt + completion),
            completion_tokens=rows * completion,
            pass_cost=self._pass_cost,
            multiple=int(self.pad_to_multiple_of or 1),
        )

    def _lengths(self, rows: Rows) -> Lengths:
        lengths = Lengths.of(rows["prompt_mask"], rows["completion_mask"])
        if not self._batching.trims_prompts:
            width = rows["prompt_mask"].size(1)
            lengths = lengths._replace(prompt=np.full_like(lengths.prompt, width))
        if self._batching.keeps_shapes:
            width = rows["completion_mask"].size(1)
            lengths = lengths._replace(completion=np.full_like(lengths.completion, width))
        if self._batching.shares_prompts:
            numbers = number_prompts(rows["prompt_ids"], rows["prompt_mask"])
            lengths = lengths._replace(prompt_of=numbers.cpu().numpy())
        return lengths

    def _cut_out(self, rows: Rows, index: np.ndarray, lengths: Lengths, budget: Budget) -> Cutout:
        """Pick the rows of a pass, trim them, and share their prompts where that pays."""
        own = lengths.take(index)
        at = torch.from_numpy(index).to(rows["completion_ids"].device)
        prompt, completion = (int(budget.rounded(own[half]).max()) for half in (0, 1))
        prompts, of_row = np.unique(own.prompt_of, return_inverse=True)
        shared = self._batching.shares_prompts and pays(
            len(index), len(prompts), prompt, completion, pass_cost=budget.pass_cost
        )
        return Cutout(
            take(rows, at, prompt, completion), torch.from_numpy(of_row).to(at) if shared else None
        )

    # ---- scoring ------------------------------------------------------------------------------

    @contextmanager
    def _sharing(self, prompt_of: Tensor | None) -> Generator[None, None, None]:
        """Let the pass within share prompts."""
        self._prompt_of = prompt_of
        try:
            yield
        finally:
            self._prompt_of = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> Any:
        def score(rows: Rows, batch_size: int | None = None) -> tuple[Tensor | None, ...]:
            return self._score_pass(model, rows, compute_entropy, batch_size, **kwargs)

        plain = not any(value is not None and value is not False for value in kwargs.values())
        prompt = input_ids.size(1) - logits_to_keep
        rows = {
            "prompt_ids": input_ids[:, :prompt], "prompt_mask": attention_mask[:, :prompt],
            "completion_ids": input_ids[:, prompt:], "completion_mask": attention_mask[:, prompt:],
        }  # fmt: skip
        if not self._generating or batch_size is None:  # elsewhere other ranks may not come by
            return score(rows, batch_size)
        return self._in_passes(score, rows, batch_size, plain)

    def _score_pass(
        self, model: Any, rows: Rows, compute_entropy: bool, batch_size: int | None, **kwargs: Any
    ) -> tuple[Tensor | None, ...]:
        """Score one pass: log-probabilities, entropies, and the auxiliary loss of experts."""
        if self._prompt_of is not None:
            with self.accelerator.autocast():
                return *score_sharing_prompts(
                    model, *(rows[name] for name in TEXT), self._prompt_of,
                    compute_entropy=compute_entropy,
                ), None  # fmt: skip
        return super()._get_per_token_logps_and_entropies(
            model,
            torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1),
            torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1),
            rows["completion_ids"].size(1),
            batch_size=batch_size,
            compute_entropy=compute_entropy,
            **kwargs,
        )

    def _in_passes(
        self,
        score: Callable[..., tuple[Tensor | None, ...]],
        rows: Rows,
        batch_size: int,
        plain: bool,
    ) -> tuple[Tensor | None, ...]:
        """Score rows without gradient by passes of our own cut, and put the values back in place.

        Args:
            score: gives values by completion token, (b, T), of the rows of a pass; of all rows, in
                passes of a given size, if it is called with that.
            rows: prompts and completions of this rank.
            batch_size: rows of a pass of TRL.
            plain: whether the rows are all that the model gets on this rank. A batch without any
                image has none of their inputs: TRL's passes are kept if one rank has some.

        Returns:
            What `score` gives, (B, T); 0 where a pass was trimmed.
        """
        if not self._batching.recuts or self._most(np.array([not plain], dtype=int)).any():
            return score(rows, batch_size)
        extent = extent_of(rows)
        widest = Extent(*self._most(np.array([*extent[:3]])), *-self._most(-np.array(extent[3:])))
        if not self._tried.holds(widest):  # which an optimizer step will do
            return score(rows, batch_size)
        lengths = self._lengths(rows)
        width = rows["completion_ids"].size(1)
        budget = self._budget(batch_size, *map(int, widest[:2]))
        orders = [lengths.longest_first(), lengths.by_prompt()]
        cuts = [cut(self._most(places(lengths, order[:, None])), budget) for order in orders]
        best, order = min(zip(cuts, orders, strict=True), key=lambda pair: pair[0].cost)
        out: list[Tensor | None] = []
        for part in best.passes:
            cutout = self._cut_out(rows, order[part], lengths, budget)
            with self._sharing(cutout.prompt_of):
                values = score(cutout.rows)
            out = out or [v if v is None else v.new_zeros(len(order), width) for v in values]
            at = torch.from_numpy(order[part]).to(rows["completion_ids"].device)
            for whole, value in zip(out, values, strict=True):
                if whole is not None and value is not None:
                    whole[at, : value.size(1)] = value
        return tuple(out)

    def _most(self, numbers: np.ndarray) -> np.ndarray:
        """Take the largest over ranks, element by element, so that all cut at the same places."""
        told = gather(torch.from_numpy(numbers)[None].to(self.accelerator.device))
        return told.amax(dim=0).cpu().numpy()
