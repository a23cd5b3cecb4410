"""`PassEngine`: the forward passes of a trainer, as many and as wide as the rows at hand need.

`Trainer` runs `training_step` once per accumulation step. Here each of these *microsteps* holds any
number of passes (`planner` plans which rows are in which, `packing` runs them as one row,
`exactness` says what leaves the gradient as it is): all but the last of a microstep are backed by
`PassEngine.run`, the last one by `Trainer` as ever. Passes without gradient are cut likewise.
"""

from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from transformers.utils import logging

from grpo_credit.batching.packing import Packed
from grpo_credit.batching.planner import plan, spread
from grpo_credit.batching.rows import Joined, Rows, as_input, counted, has_no_holes, join
from grpo_credit.trainer.passes.cutting import Cutter
from grpo_credit.trainer.passes.eligibility import Batching
from grpo_credit.trainer.passes.exactness import Exactness
from grpo_credit.trainer.passes.host import Host
from grpo_credit.trainer.passes.metrics import Counts, PassMetrics, merge

logger = logging.get_logger(__name__)

KEPT = (
    "grpo-credit: batching: the micro-batches of TRL, at least in one step | left out: packing and "
    "cutting anew (the step has images, completions of one token, an entry that is not by row or "
    "token, or, of a model whose positions may count padding, prompts that would be padded further)"
)

Values = tuple[Tensor | None, ...]  # by completion token, (b, T)


@dataclass(frozen=True)
class Pass:
    """A micro-batch as TRL's `_compute_loss` takes it.

    Args:
        batch: the micro-batch.
        counts: what it holds over all ranks.
        packed: whether the model runs it as one packed row.
    """

    batch: dict[str, Any]
    counts: Counts
    packed: bool


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
        self._cutter = Cutter(host)
        self._exactness = Exactness(host, self._cutter, self._score_alone)
        self._packs_now = False  # whether the pass at hand is to be one packed row
        self._packed = False  # whether it was
        self._metrics: list[PassMetrics] = []  # of the optimizer step so far

    @property
    def batching(self) -> Batching:
        """What is done to the passes, and why not more."""
        return self._exactness.batching

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
        self._exactness.say()
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
        else:
            self._exactness.settle(joined.rows, sizes[0], with_gradient=True)
        return joined

    def _passes(
        self, rows: Rows, batch_size: int, microsteps: int, scalars: dict[str, Any]
    ) -> tuple[list[Pass], Counts]:
        """Plan the passes of all ranks; return this rank's, and what no pass runs."""
        run = rows.pop("live").bool().cpu().numpy() | (not self.batching.skips)
        accelerator = self._host.accelerator
        budget = self._cutter.budget(rows, batch_size, self.batching)
        planned = plan(
            self._cutter.lengths(rows), run, budget,
            packs=self.batching.packs, ranks=accelerator.num_processes,
            passes=microsteps if self.batching.one_pass_per_microstep else None,
        )  # fmt: skip
        tokens = counted(rows).sum(dim=1).cpu().numpy()
        passes = []
        for dealt in planned.rows:
            index = dealt[:, accelerator.process_index]
            own, counts = (
                self._cutter.cut_out(rows, index, budget, planned.packed),
                _counts(tokens, dealt),
            )
            passes.append(Pass({**scalars, **own}, counts, planned.packed))
        left = np.delete(np.arange(len(tokens)), np.concatenate(planned.rows).ravel())
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
            with self._packing(one.packed):
                return loss(one.batch)
        finally:
            self._host._metrics["train"] = kept
            self._metrics.append(PassMetrics(one.counts, found))

    def _score_alone(self, model: Any, rows: Rows, packed: bool) -> Tensor:
        with self._packing(packed):
            return self._host._get_per_token_logps_and_entropies(model, *as_input(rows))[0]

    @contextmanager
    def _packing(self, packed: bool) -> Generator[None, None, None]:
        """Let the pass within be one packed row, or not.

        Raises:
            RuntimeError: if it was to be one and was not, and so had more tokens than TRL's.
        """
        self._packs_now, self._packed = packed, False
        try:
            yield
        finally:
            self._packs_now = False
        if packed and not self._packed:
            raise RuntimeError("_get_per_token_logps_and_entropies of your own calls no super()")

    # ---- scoring ------------------------------------------------------------------------------

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
            ids, mask, width = as_input(rows)
            runs, cutter = model, self._cutter
            if self._packs_now and cutter.attention is not None:
                self._packed = True
                runs = Packed(model, width, cutter.attention, cutter.packed_length)
            return score(runs, ids, mask, width, batch_size=batch_size, **options)

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
        if not self.batching.recuts or not self._try_to_score(rows, batch_size, plain):
            return score(rows, batch_size)
        budget, lengths = (
            self._cutter.budget(rows, batch_size, self.batching),
            self._cutter.lengths(rows),
        )
        every, packs = np.ones(len(lengths.prompt), dtype=bool), self.batching.packs
        planned = plan(lengths, every, budget, packs=packs)
        most = max(self._of_ranks(len(planned.rows)))
        if len(planned.rows) < most:
            planned = plan(lengths, every, budget, packs=packs, passes=most)
        width, out = rows["completion_ids"].size(1), []
        for index in map(np.ravel, planned.rows):
            with self._packing(planned.packed):
                values = score(self._cutter.cut_out(rows, index, budget, planned.packed))
            out = out or [v if v is None else v.new_zeros(len(every), width) for v in values]
            at = torch.from_numpy(index).to(rows["completion_ids"].device)
            for whole, value in zip(out, values, strict=True):
                if whole is not None and value is not None:
                    whole[at, : value.size(1)] = value
        return tuple(out)

    def _try_to_score(self, rows: Rows, batch_size: int, plain: bool) -> bool:
        """Return, on every rank, whether rows may be cut anew; try it where it is untried.

        It is tried before anything is scored, so that a run that is resumed scores as it would
        have. In evaluation nothing is tried.
        """
        known = self._of_ranks((1 + self._exactness.knows(rows)) * (plain and has_no_holes(rows)))
        if min(known) == 1 and self._host.model.training and (joined := join([rows])) is not None:
            self._exactness.settle(joined.rows, batch_size, with_gradient=False)
            return self.batching.recuts
        return min(known) == 2

    def _of_ranks(self, number: int) -> list[int]:
        """Return a number of each rank."""
        return gather(torch.tensor([number], device=self._host.accelerator.device)).tolist()


def _without_exchange(model: Any) -> AbstractContextManager[Any]:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _counts(tokens: np.ndarray, rows: np.ndarray) -> Counts:
    return Counts(rows.size, int(tokens[rows].sum()))
