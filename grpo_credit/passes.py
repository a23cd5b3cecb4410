"""`PassTrainer`: TRL's trainer whose optimizer step makes as many forward passes as it needs.

`Trainer` runs `training_step` once per accumulation step. Here each of these *turns* holds any
number of passes (`grpo_credit.batching` plans which rows are in which): all but the last of a turn
are backed within `compute_loss`, the last one by `Trainer` as ever.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils import DistributedType, gather
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from trl import GRPOTrainer

from grpo_credit.batching import (
    PASS_COST,
    Budget,
    Lengths,
    cut,
    plan,
    positions_are_relative,
    spread,
)
from grpo_credit.folding import counted
from grpo_credit.pass_metrics import Counts, PassMetrics, merge
from grpo_credit.rows import join, take


@dataclass(frozen=True)
class Batching:
    """What is done to the passes of a step, and what is left as TRL does it, and why.

    Args:
        recuts: rows are sorted by length, cut anew, and trimmed to the longest of their pass.
        skips: rows without credit are not run.
        trims_prompts: padding on the left of prompts is trimmed, too.
        one_pass_per_turn: there are as many passes as accumulation steps.
        left_out: what is not done, and why.
    """

    recuts: bool
    skips: bool = False
    trims_prompts: bool = False
    one_pass_per_turn: bool = False
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        skips = ["skips rows without credit"] if self.skips else []
        used = [*skips, "sorts rows by length", "cuts anew", "trims padding"] * self.recuts
        said = f"batching: {', '.join(used) or 'the micro-batches of TRL'}"
        return said + (f" | left out: {'; '.join(self.left_out)}" if self.left_out else "")


@dataclass(frozen=True)
class Pass:
    """A micro-batch as TRL's `_compute_loss` takes it, and what it holds over all ranks."""

    batch: dict[str, Any]
    counts: Counts


@dataclass(frozen=True)
class Turn:
    """What one accumulation step runs.

    Args:
        passes: one after another.
        skipped: what no pass of the optimizer step runs, if this is its last turn.
    """

    passes: list[Pass]
    skipped: Counts | None

    def mapped(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> "Turn":
        """Change the micro-batch of every pass."""
        return replace(self, passes=[replace(one, batch=change(one.batch)) for one in self.passes])


class PassTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer` with passes of uneven size, in training and without gradient."""

    args: Any
    model: Any
    _batching = Batching(recuts=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._pass_metrics: list[PassMetrics] = []  # of the optimizer step so far
        super().__init__(*args, **kwargs)

    # ---- what is exact ------------------------------------------------------------------------

    def _choose_batching(self) -> Batching:
        """Say what leaves the gradient as it is under this configuration."""
        if getattr(self.args, "efficient_batching", "off") == "off":
            return Batching(recuts=False)
        clashes = {
            f"top_entropy_quantile={self.top_entropy_quantile} is taken over a micro-batch": (
                self.top_entropy_quantile < 1.0
            ),
            "the entropy bonus is a mean over a micro-batch": self._entropy_bonus_enabled,
            "the auxiliary loss of experts is a mean over a micro-batch": self.aux_loss_enabled,
            f"optim={self.args.optim} updates within a backward pass": "lomo" in self.args.optim,
            "DataParallel cuts micro-batches itself": self.args.n_gpu > 1,
        }
        if reasons := tuple(reason for reason, applies in clashes.items() if applies):
            return Batching(recuts=False, left_out=reasons)
        counts_passes = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        relative = positions_are_relative(self.model.config)
        partly = {
            f"skipping (beta={self.beta} gives every row a KL term)": self.beta != 0.0,
            "trimming prompts (positions of this model may count their padding)": not relative,
            "fewer or more passes (DeepSpeed counts them)": counts_passes,
        }
        reasons = tuple(reason for reason, applies in partly.items() if applies)
        return Batching(True, self.beta == 0.0, relative, counts_passes, reasons)

    def _budget(self, rows: int, prompt: int, completion: int) -> Budget:
        """Give a pass what a micro-batch of TRL with so many rows takes."""
        return Budget(
            tokens=rows * (prompt + completion),
            completion_tokens=rows * completion,
            pass_cost=PASS_COST["cpu" if self.accelerator.device.type == "cpu" else "accelerator"],
            multiple=int(self.pad_to_multiple_of or 1),
        )

    def _lengths(self, prompt_mask: Tensor, completion_mask: Tensor) -> Lengths:
        lengths = Lengths.of(prompt_mask, completion_mask)
        if self._batching.trims_prompts:
            return lengths
        return lengths._replace(prompt=np.full_like(lengths.prompt, prompt_mask.size(1)))

    # ---- a window in turns --------------------------------------------------------------------

    def _turns(self, batches: list[dict[str, Any]], live: Tensor) -> list[Turn] | None:
        """Cut this rank's share of a window into passes.

        Args:
            batches: the micro-batches that TRL made of it.
            live: for each of their rows in turn, whether it carries credit.

        Returns:
            As many turns as micro-batches; None, on every rank, if they are not to be re-cut.
        """
        if not (self._batching.recuts and self.model.training):
            return None
        told = live.long().split([len(batch["completion_ids"]) for batch in batches])
        batches = [{**batch, "live": own} for batch, own in zip(batches, told, strict=True)]
        rows = join(batches, self._batching.trims_prompts)
        if rows is None:
            return None
        lengths = self._lengths(rows["prompt_mask"], rows["completion_mask"])
        budget = self._budget(
            len(told[0]), rows["prompt_ids"].size(1), rows["completion_ids"].size(1)
        )
        run = rows.pop("live").bool().cpu().numpy() | (not self._batching.skips)
        passes = len(batches) if self._batching.one_pass_per_turn else None
        planned = plan(lengths, run, self.accelerator.num_processes, budget, passes)
        tokens = counted(rows).sum(dim=1).cpu().numpy()
        whole = Counts(len(tokens), int(tokens.sum()))
        made = [Counts(dealt.size, int(tokens[dealt].sum())) for dealt in planned]
        skipped = Counts(*(n - sum(ran) for n, *ran in zip(whole, *made, strict=True)))
        own = [dealt[:, self.accelerator.process_index] for dealt in planned]
        scalars = {k: v for k, v in batches[0].items() if k not in rows and k != "live"}
        cuts = [
            Pass({**scalars, **_trimmed(rows, index, lengths, budget)}, counts)
            for index, counts in zip(own, made, strict=True)
        ]
        *first, last = spread(cuts, len(batches))
        return [*(Turn(passes, None) for passes in first), Turn(last, skipped)]

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
            return super().compute_loss(model, one.batch, *args, **kwargs)
        finally:
            self._metrics["train"] = kept
            self._pass_metrics.append(PassMetrics(one.counts, found))

    def _merge_metrics(self, skipped: Counts) -> None:
        per_sequence = self.importance_sampling_level == "sequence"
        for name, value in merge(self._pass_metrics, skipped, per_sequence).items():
            self._metrics["train"][name].append(value)
        self._pass_metrics = []

    # ---- passes without gradient --------------------------------------------------------------

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        score = super()._get_per_token_logps_and_entropies
        asked = {name for name, value in kwargs.items() if value is not None and value is not False}
        other = torch.is_grad_enabled() or batch_size is None or asked - {"compute_entropy"}
        if other or not self._batching.recuts:
            return score(
                model, input_ids, attention_mask, logits_to_keep, batch_size=batch_size, **kwargs
            )
        return *self._in_passes(
            lambda ids, mask, width: score(model, ids, mask, width, **kwargs)[:2],
            input_ids, attention_mask, logits_to_keep, batch_size,
        ), None  # fmt: skip

    def _in_passes(
        self,
        score: Callable[[Tensor, Tensor, int], tuple[Tensor | None, ...]],
        input_ids: Tensor,
        attention_mask: Tensor,
        width: int,
        batch_size: int,
    ) -> list[Tensor | None]:
        """Score rows by passes of like length, and put the values back in place.

        Args:
            score: gives values (b, width) of ids and mask (b, P + width).
            input_ids: prompts padded on the left, completions on the right.
            attention_mask: likewise.
            width: of the completions.
            batch_size: rows per pass of TRL.

        Returns:
            What `score` gives, (B, width); 0 where a pass was trimmed.
        """
        prompt = input_ids.size(1) - width
        out: list[Tensor | None] = []
        lengths = self._lengths(attention_mask[:, :prompt], attention_mask[:, prompt:])
        order = lengths.longest_first()
        lengths = lengths.take(order)
        *agreed, budget = self._agreed(lengths, batch_size, prompt, width)
        for part in cut(Lengths(*agreed), budget):
            at = torch.from_numpy(order[part]).to(input_ids.device)
            before, after = _widths(lengths.take(part), budget)
            columns = slice(max(0, prompt - before), prompt + after)
            values = score(input_ids[at, columns], attention_mask[at, columns], min(after, width))
            out = out or [v if v is None else v.new_zeros(len(order), width) for v in values]
            for whole, value in zip(out, values, strict=True):
                if whole is not None and value is not None:
                    whole[at, : value.size(1)] = value
        return out

    def _agreed(
        self, lengths: Lengths, rows: int, prompt: int, completion: int
    ) -> tuple[np.ndarray, np.ndarray, Budget]:
        """Take the longest row of all ranks at each place, so that all cut at the same places."""
        own = np.array([[*lengths.prompt, prompt], [*lengths.completion, completion]])
        told = gather(torch.from_numpy(own)[None].to(self.accelerator.device))
        prompts, completions = told.amax(dim=0).cpu().numpy()
        budget = self._budget(rows, int(prompts[-1]), int(completions[-1]))
        return prompts[:-1], completions[:-1], budget


def _widths(lengths: Lengths, budget: Budget) -> tuple[int, int]:
    return int(budget.rounded(lengths.prompt).max()), int(budget.rounded(lengths.completion).max())


def _trimmed(
    rows: dict[str, Tensor], index: np.ndarray, lengths: Lengths, budget: Budget
) -> dict[str, Tensor]:
    at = torch.from_numpy(index).to(rows["completion_ids"].device)
    return take(rows, at, *_widths(lengths.take(index), budget))


def _without_exchange(model: Any) -> AbstractContextManager[Any]:
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()
