"""What leaves the gradient as it is on the model at hand: `Exactness` tries it, by `Trial`."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad
from transformers.utils import logging

from grpo_credit.batching.rows import Rows, take
from grpo_credit.trainer.passes import eligibility
from grpo_credit.trainer.passes.cutting import Cutter
from grpo_credit.trainer.passes.eligibility import COMPILED, Batching, as_trl
from grpo_credit.trainer.passes.host import Host
from grpo_credit.trainer.passes.trial import Reference, Score

logger = logging.get_logger(__name__)

TRIED = 4  # rows of a trial
BESIDE = 5  # rows in TRL's micro-batch beside them, at most: what rows share, few show


class Extent(NamedTuple):
    """Widths of passes, in tokens: the widest of TRL's, and the narrowest of our own."""

    prompt: int = 0
    completion: int = 0
    both: int = 0
    shortest_prompt: int = 2**62
    shortest_completion: int = 2**62

    def joined(self, other: "Extent") -> "Extent":
        """Return what holds both."""
        widest = map(max, self[:3], other[:3])
        return Extent(*widest, *map(min, self[3:], other[3:]))

    def holds(self, other: "Extent") -> bool:
        """Return whether passes of the other extent are no wider and no narrower."""
        return self.joined(other) == self


class Trial:
    """Rows that a pass of our own trims most, run by themselves, packed, and as TRL pads them.

    One is the most trimmed on the left: half of the shortest prompt, the longest completion; one on
    the right: the longest prompt, one token of a completion; one on both sides, with the prompt of
    the first. They come last in their micro-batch, so that random numbers alone would differ. In a
    packed row as many of the longest stand before them as a pass may hold, so that no completion
    will be further from its prompt. The longest prompt with the longest completion comes first: a
    window that cuts it alone would not be seen in the others.

    Args:
        score: runs a pass, packed or not: log-probabilities (n, T) of rows as they are.
        rows: prompts and completions of a window, padded as TRL pads them.
        batch_size: rows of a micro-batch of TRL.
        room: says how many more tokens a packed row of some rows may have.
    """

    def __init__(
        self,
        score: Callable[[Rows, bool], Tensor],
        rows: Rows,
        batch_size: int,
        room: Callable[[Rows], int],
    ) -> None:
        tried = _longest_and_most_trimmed(rows)
        others = {name: rows[name][: min(BESIDE, max(0, batch_size - TRIED))] for name in tried}
        self._rows = {name: torch.cat([others[name], tried[name]]) for name in tried}
        self._score = score
        every = torch.arange(len(self._rows["prompt_ids"]))
        self._as_trl, self._tried = every.split(batch_size), every[-TRIED:]
        # rows of a pass of our own: padded rows of one micro-batch do not show what several share
        self._groupings = {False: [1] if batch_size > 1 else [1, TRIED], True: [1, TRIED]}
        masks = self._rows["prompt_mask"], self._rows["completion_mask"]
        self._lengths = torch.stack([mask.sum(dim=1) for mask in masks])
        one_more = {name: torch.cat([tried[name][:1], tried[name]]) for name in tried}
        left = room(tried)
        self._longest = every[-TRIED].repeat(max(0, left // (left - room(one_more))))

    @property
    def extent(self) -> Extent:
        """Between which widths passes were tried."""
        widths = [self._rows[name].size(1) for name in ("prompt_ids", "completion_ids")]
        shortest = self._lengths[:, self._tried].amin(dim=1).tolist()
        return Extent(*widths, sum(widths), *shortest)

    def __call__(
        self, chosen: Batching, reference: Callable[..., Reference], cause: str = ""
    ) -> Batching:
        """Leave out of a batching what the model does not allow.

        Args:
            chosen: what the configuration allows.
            reference: makes a `Reference` of a pass.
            cause: `likely_cause` of the model.
        """
        theirs = reference(self.as_trl)
        if chosen.packs and (refused := self._refused(theirs, trims=True, packed=True)):
            chosen = chosen.without("packs", f"{cause}: {refused}" if cause else refused)
        if chosen.compiled:
            return chosen if chosen.packs else as_trl(*chosen.left_out, COMPILED)
        if chosen.trims_prompts:
            if (refused := self._refused(theirs, trims=True)) is None:
                return chosen
            chosen = chosen.without("trims_prompts", f"a row by itself: {refused}")
        if refused := self._refused(theirs, trims=False):
            return as_trl(f"sorting, trimming and skipping (a row by itself: {refused})")
        return chosen

    def _refused(self, theirs: Reference, *, trims: bool, packed: bool = False) -> str | None:
        runs = (partial(self.ours, trims, n, packed) for n in self._groupings[packed])
        return next(filter(None, map(theirs.refuses, runs)), None)

    def as_trl(self) -> Iterator[Tensor]:
        """Score the rows in passes of TRL's size and width."""
        for index in self._as_trl:
            yield self._scored(index)[-TRIED:]

    def ours(self, trims_prompts: bool, rows: int, packed: bool = False) -> Iterator[Tensor]:
        """Score the rows in passes of so many, packed or as wide as their longest."""
        width = self._rows["completion_ids"].size(1)
        for tried in self._tried.split(rows):
            own = torch.cat([self._longest, tried]) if packed and rows > 1 else tried
            prompt, completion = self._lengths[:, own].amax(dim=1).tolist()
            if packed or not trims_prompts:
                prompt = self._rows["prompt_ids"].size(1)
            logps = self._scored(own, prompt, completion, packed=packed)[-rows:]
            yield pad(logps, (0, width - logps.size(1)))

    def _scored(self, index: Tensor, *widths: int, packed: bool = False) -> Tensor:
        full = [self._rows[name].size(1) for name in ("prompt_ids", "completion_ids")]
        rows = take(self._rows, index.to(self._rows["prompt_ids"].device), *(widths or full))
        return self._score(rows, packed) * rows["completion_mask"]


def extent_of(rows: Rows) -> Extent:
    """Return the widths of rows as TRL pads them, and of their shortest prompt and completion."""
    widths = [rows[name].size(1) for name in ("prompt_ids", "completion_ids")]
    shortest = [int(rows[name].sum(dim=1).min()) for name in ("prompt_mask", "completion_mask")]
    return Extent(*widths, sum(widths), *(max(1, length) for length in shortest))


def _longest_and_most_trimmed(rows: Rows) -> Rows:
    """Make the rows of a trial: the longest; trimmed on the left, on the right, on both sides."""
    prompts, completions = (rows[f"{half}_mask"].sum(dim=1) for half in ("prompt", "completion"))
    seen = completions.masked_fill(completions == 0, completions.max())  # not masked as a whole
    prompt = torch.stack([prompts.argmax(), prompts.argmin()]).repeat(2)
    completion = torch.stack([completions.argmax(), seen.argmin()]).repeat_interleave(2)
    prompt_mask, mask = rows["prompt_mask"][prompt], rows["completion_mask"][completion]
    left = prompt_mask.flip(1).cumsum(1).flip(1)  # tokens from here on
    prompt_mask[1::2] *= left[1::2] <= (prompts.min() + 1) // 2
    mask[2] *= mask[2].cumsum(0) <= 1  # so that no later completion is shorter
    mask[3] *= mask[3].cumsum(0) <= (seen.min() + 1) // 2
    mask[:, 0] = 1  # of completions that are masked as a whole
    return {
        "prompt_ids": rows["prompt_ids"][prompt],
        "prompt_mask": prompt_mask,
        "completion_ids": rows["completion_ids"][completion],
        "completion_mask": mask,
    }


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
