"""`PassEngine`: the forward passes of a trainer, as many and as wide as the rows at hand need.

`Trainer` runs `training_step` once per accumulation step. Here each of these *microsteps* holds any
number of passes (`planner` plans which rows are in which, `eligibility` says what leaves the
gradient as it is): all but the last of a microstep are backed by `PassEngine.run`, the last one by
`Trainer` as ever. Passes without gradient are cut in the same way.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import gather, gather_object
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.utils import logging

from grpo_credit.batching import eligibility, shared_prompts_check
from grpo_credit.batching.eligibility import Batching, Extent, Trial, as_trl, extent_of
from grpo_credit.batching.metrics import Counts, PassMetrics, merge
from grpo_credit.batching.planner import (
    Budget,
    Lengths,
    count_parameters,
    cut,
    deal,
    pass_cost,
    places,
    spread,
)
from grpo_credit.batching.rows import Joined, Rows, as_input, counted, join, take
from grpo_credit.batching.shared_prompts import number_prompts, pays, score_sharing_prompts
from grpo_credit.batching.shared_prompts_check import self_test
from grpo_credit.batching.trial import Reference

logger = logging.get_logger(__name__)

TEXT = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
KEPT = (
    "grpo-credit: batching: the micro-batches of TRL, at least in one step | left out: sorting and "
    "cutting anew (the step has images, completions of one token, an entry that is not by row or "
    "token, or, of a model whose positions may count padding, prompts that would be padded further)"
)

Values = tuple[Tensor | None, ...]  # by completion token, (b, T)


class Host(Protocol):
    """What the engine needs of a trainer whose constructor has ended; all but `plan` is TRL's."""

    args: Any
    model: Any
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
class Microstep:
    """What one accumulation step runs.

    Args:
        passes: one after another.
        skipped: what no pass of the optimizer step runs, if this is its last microstep.
    """

    passes: list[Pass]
    skipped: Counts | None


class PassEngine:
    """Cuts rows into passes, and runs them.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.batching: Batching = eligibility.choose(host)
        # now, because each rank may later hold a shard of another size, and all must plan alike
        self._pass_cost = pass_cost(host.accelerator.device.type, count_parameters(host.model))
        self._prompt_of: Tensor | None = None  # of the pass at hand, where its prompts are shared
        self._tried = Extent()  # between which widths our own passes were tried
        self._said: Batching | None = None
        self._metrics: list[PassMetrics] = []  # of the optimizer step so far

    # ---- a window in microsteps -----------------------------------------------------------------

    def microsteps(self, batches: list[dict[str, Any]], live: Tensor) -> list[Microstep] | None:
        """Cut this rank's share of a window into passes.

        Args:
            batches: the micro-batches that TRL made of it.
            live: for each of their rows, one after another, whether it carries credit.

        Returns:
            As many microsteps as micro-batches; None, on every rank, if they are not to be re-cut.
        """
        if not self._host.model.training:
            return None
        joined = self._joined(batches, live) if self.batching.recuts else None
        self._say_batching()
        if joined is None or not self.batching.recuts:
            return None
        if joined.shifted and not self.batching.trims_prompts:
            logger.warning_once(KEPT)
            return None
        rows = joined.rows
        scalars = {name: value for name, value in batches[0].items() if name not in rows}
        size = len(batches[0]["completion_ids"])
        passes, skipped = self._passes(rows, size, len(batches), scalars)
        *first, last = spread(passes, len(batches))
        return [*(Microstep(some, None) for some in first), Microstep(last, skipped)]

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
        elif late := _first_reason(eligibility.seen_by_users(self._host)):
            self.batching = as_trl(late)
        else:
            self._settle(joined.rows, sizes[0])
        return joined

    def _passes(
        self, rows: Rows, batch_size: int, microsteps: int, scalars: dict[str, Any]
    ) -> tuple[list[Pass], Counts]:
        """Plan the passes of all ranks; return this rank's, and what no pass runs."""
        lengths = self._lengths(rows)
        budget = self._budget(
            batch_size, rows["prompt_ids"].size(1), rows["completion_ids"].size(1)
        )
        run = rows.pop("live").bool().cpu().numpy() | (not self.batching.skips)
        accelerator = self._host.accelerator
        ranks = accelerator.num_processes
        whole = math.ceil(max(1, run.sum()) / (ranks * batch_size))  # passes of TRL's size
        fixed = self.batching.keeps_shapes
        number = microsteps if self.batching.one_pass_per_microstep else whole if fixed else None
        planned = deal(lengths, run, ranks, budget, number, batch_size if fixed else 1)
        tokens = counted(rows).sum(dim=1).cpu().numpy()
        passes = []
        for dealt in planned:
            own = dealt[:, accelerator.process_index]
            batch, prompt_of = self._cut_out(rows, own, lengths, budget)
            passes.append(Pass({**scalars, **batch}, _counts(tokens, dealt), prompt_of))
        left = np.delete(np.arange(len(tokens)), np.concatenate(planned).ravel())
        return passes, _counts(tokens, left)

    def run(
        self, loss: Callable[[dict[str, Any]], Tensor], model: Any, inputs: dict[str, Any]
    ) -> Tensor:
        """Run a micro-batch, or the passes of a microstep; return its loss.

        Backward passes of all but the last one are done here; the loss has the value of all. Ranks
        exchange gradients in the last one only, where the model is replicated; a sharded one adds
        up its shards pass by pass.

        Args:
            loss: TRL's, of a micro-batch.
            model: as `compute_loss` is given it.
            inputs: a micro-batch of TRL, or {"microstep": one of `microsteps`}.
        """
        if "microstep" not in inputs:
            return loss(inputs)
        microstep: Microstep = inputs["microstep"]
        accelerator = self._host.accelerator
        done = torch.zeros((), device=accelerator.device)
        last_loss = done.clone().requires_grad_()  # a microstep without passes touches no model
        for number, one in enumerate(microstep.passes, 1):
            last = number == len(microstep.passes)
            with nullcontext() if last else _without_exchange(model):
                last_loss = self._pass_loss(loss, one)
                if not last:
                    accelerator.backward(last_loss)
                    done = done + last_loss.detach()
        if microstep.skipped is not None:
            per_sequence = self._host.plan.trl_ratio == "sequence"
            for name, value in merge(self._metrics, microstep.skipped, per_sequence).items():
                self._host._metrics["train"][name].append(value)
            self._metrics = []
        return last_loss + done

    def _pass_loss(self, loss: Callable[[dict[str, Any]], Tensor], one: Pass) -> Tensor:
        kept, found = self._host._metrics["train"], defaultdict(list)
        self._host._metrics["train"] = found
        try:
            with self._sharing(one.prompt_of):
                return loss(one.batch)
        finally:
            self._host._metrics["train"] = kept
            self._metrics.append(PassMetrics(one.counts, found))

    # ---- what is exact ------------------------------------------------------------------------

    def _settle(self, rows: Rows, batch_size: int) -> None:
        """Try on the model what is done to passes, at first and where widths outgrow the last try.

        Args:
            rows: prompts and completions of a window, on every rank.
            batch_size: rows of a micro-batch of TRL.
        """
        extent = extent_of(rows)
        if self._tried.holds(extent):
            return
        trial = Trial(self._score_alone, rows, batch_size)
        self.batching = trial(self.batching, self._reference)
        if self.batching.shares_prompts and (reason := self._shared_wrongly(rows)):
            self.batching = self.batching.without_sharing(reason)
        self._tried = self._tried.joined(extent).joined(trial.extent)

    def _say_batching(self) -> None:
        """Say what is done to passes, once and where it changes."""
        if self._host.accelerator.is_main_process and self.batching != self._said:
            say = logger.warning if self.batching.left_out else logger.info
            say(f"grpo-credit: {self.batching}")
        self._said = self.batching

    def _score_alone(self, rows: Rows) -> Tensor:
        return self._host._get_per_token_logps_and_entropies(self._host.model, *as_input(rows))[0]

    def _reference(self, score: Callable[[], Tensor]) -> Reference:
        args, distributed = self._host.args, self._host.accelerator.distributed_type
        checkpoints = args.gradient_checkpointing_kwargs or {}
        sharded = distributed not in shared_prompts_check.PLAIN_TRAINING
        reentrant = args.gradient_checkpointing and checkpoints.get("use_reentrant")
        with_gradient = not (sharded or reentrant)  # neither gives one to `autograd.grad`
        return Reference(self._host.model, score, with_gradient=with_gradient, agree=_first_reason)

    def _shared_wrongly(self, rows: Rows) -> str | None:
        with self._host.accelerator.autocast():
            return _first_reason(self_test(self._host.model, *(rows[name] for name in TEXT)))

    # ---- cutting ------------------------------------------------------------------------------

    def _budget(self, rows: int, prompt: int, completion: int) -> Budget:
        """Give a pass what a micro-batch of TRL with so many rows takes."""
        return Budget(
            tokens=rows * (prompt + completion),
            completion_tokens=rows * completion,
            pass_cost=self._pass_cost,
            multiple=int(self._host.pad_to_multiple_of or 1),
        )

    def _lengths(self, rows: Rows) -> Lengths:
        lengths = Lengths.of(rows["prompt_mask"], rows["completion_mask"])
        if not self.batching.trims_prompts:
            width = rows["prompt_mask"].size(1)
            lengths = lengths._replace(prompt=np.full_like(lengths.prompt, width))
        if self.batching.keeps_shapes:
            width = rows["completion_mask"].size(1)
            lengths = lengths._replace(completion=np.full_like(lengths.completion, width))
        if self.batching.shares_prompts:
            numbers = number_prompts(rows["prompt_ids"], rows["prompt_mask"])
            lengths = lengths._replace(prompt_of=numbers.cpu().numpy())
        return lengths

    def _cut_out(
        self, rows: Rows, index: np.ndarray, lengths: Lengths, budget: Budget
    ) -> tuple[Rows, Tensor | None]:
        """Pick the rows of a pass, trimmed, and the number of each one's prompt if it is shared."""
        own = lengths.take(index)
        at = torch.from_numpy(index).to(rows["completion_ids"].device)
        prompt, completion = (int(budget.rounded(own[half]).max()) for half in (0, 1))
        prompts, of_row = np.unique(own.prompt_of, return_inverse=True)
        shared = self.batching.shares_prompts and pays(
            len(index), len(prompts), prompt, completion, pass_cost=budget.pass_cost
        )
        prompt_of = torch.from_numpy(of_row).to(at) if shared else None
        return take(rows, at, prompt, completion), prompt_of

    # ---- scoring ------------------------------------------------------------------------------

    @contextmanager
    def _sharing(self, prompt_of: Tensor | None) -> Generator[None, None, None]:
        """Let the pass within share prompts."""
        self._prompt_of = prompt_of
        try:
            yield
        finally:
            self._prompt_of = None

    def score(
        self,
        score: Callable[..., Values],
        model: Any,
        rows: Rows,
        batch_size: int | None,
        options: dict[str, Any],
        *,
        everyone: bool,
    ) -> Values:
        """Score rows: log-probabilities, entropies, and the auxiliary loss of experts.

        Args:
            score: TRL's `_get_per_token_logps_and_entropies`.
            model: as `compute_loss` is given it.
            rows: prompts and completions of this rank.
            batch_size: rows of a pass of TRL; None where the rows are one pass.
            options: `compute_entropy`, and what else TRL gives the model.
            everyone: whether all ranks come by, so that rows can be cut anew.
        """

        def one_pass(rows: Rows, batch_size: int | None = None) -> Values:
            if self._prompt_of is None:
                return score(model, *as_input(rows), batch_size=batch_size, **options)
            text, entropy = (rows[name] for name in TEXT), options["compute_entropy"]
            with self._host.accelerator.autocast():
                return *score_sharing_prompts(
                    model, *text, self._prompt_of, compute_entropy=entropy
                ), None  # fmt: skip

        if batch_size is None or not everyone:
            return one_pass(rows, batch_size)
        others = [value for name, value in options.items() if name != "compute_entropy"]
        plain = not any(value is not None and value is not False for value in others)
        return self.in_passes(one_pass, rows, batch_size, plain)

    def in_passes(
        self, score: Callable[..., Values], rows: Rows, batch_size: int, plain: bool
    ) -> Values:
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
        if not self.batching.recuts or self._most(np.array([not plain], dtype=int)).any():
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
            own, prompt_of = self._cut_out(rows, order[part], lengths, budget)
            with self._sharing(prompt_of):
                values = score(own)
            out = out or [v if v is None else v.new_zeros(len(order), width) for v in values]
            at = torch.from_numpy(order[part]).to(rows["completion_ids"].device)
            for whole, value in zip(out, values, strict=True):
                if whole is not None and value is not None:
                    whole[at, : value.size(1)] = value
        return tuple(out)

    def _most(self, numbers: np.ndarray) -> np.ndarray:
        """Take the largest over ranks, element by element, so that all cut at the same places."""
        told = gather(torch.from_numpy(numbers)[None].to(self._host.accelerator.device))
        return told.amax(dim=0).cpu().numpy()


def _first_reason(reason: str | None) -> str | None:
    """Return the first rank's reason, on every rank; None if none has one."""
    return next((told for told in gather_object([reason]) if told), None)


def _without_exchange(model: Any) -> AbstractContextManager[Any]:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _counts(tokens: np.ndarray, rows: np.ndarray) -> Counts:
    return Counts(rows.size, int(tokens[rows].sum()))
