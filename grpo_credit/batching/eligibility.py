"""What may be done to the passes of a step, so that the gradient stays TRL's, and why not more.

`choose` says what TRL's own loss allows; what the model allows is tried on it, by `Trial`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType, DynamoBackend
from torch import Tensor
from torch.nn.functional import pad

from grpo_credit.batching.packing import attention_of
from grpo_credit.batching.rows import Rows, take
from grpo_credit.batching.trial import Reference

TRIED = 4  # rows of a trial
BESIDE = 5  # rows in TRL's micro-batch beside them, at most: what rows share, few show
PLAIN_TRAINING = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
SEEN_BY_USERS = ("_prepare_inputs", "compute_loss", "_compute_loss", "training_step")


@dataclass(frozen=True)
class Batching:
    """What is done to the passes of a step, and what is left as TRL does it, and why.

    Args:
        recuts: rows are sorted by length, cut anew, and trimmed to the longest of their pass.
        skips: rows without credit are not run.
        packs: the rows of a pass are one packed row, where that pays.
        trims_prompts: padding on the left of prompts is trimmed, where they are not packed.
        compiled: each shape is compiled, so that only packed rows are worth a new one.
        one_pass_per_microstep: there are as many passes as accumulation steps.
        left_out: what is not done, and why.
    """

    recuts: bool
    skips: bool = False
    packs: bool = False
    trims_prompts: bool = False
    compiled: bool = False
    one_pass_per_microstep: bool = False
    left_out: tuple[str, ...] = ()

    def without(self, what: str, reason: str) -> "Batching":
        """Leave something out for a reason: `"packs"` or `"trims_prompts"`."""
        left_out = (*self.left_out, f"{LEAVABLE[what]} ({reason})")
        return replace(self, left_out=left_out, **{what: False})

    def __str__(self) -> str:
        does = {
            "skips rows without credit": self.skips,
            "packs prompts and completions in one row": self.packs,
            "sorts rows by length, cuts anew and trims padding": self.recuts and not self.packs,
        }
        used = ", ".join(words for words, done in does.items() if done)
        without = f" | left out: {'; '.join(self.left_out)}" if self.left_out else ""
        return f"batching: {used or 'the micro-batches of TRL'}{without}"


COMPILED = "sorting and trimming (each new shape would be compiled)"
LEAVABLE = {"packs": "packing rows", "trims_prompts": "trimming prompts"}


def as_trl(*reasons: str) -> Batching:
    """Keep TRL's micro-batches, for reasons."""
    return Batching(recuts=False, left_out=reasons)


def choose(trainer: Any) -> Batching:
    """Return what leaves the gradient as it is under the configuration of a trainer.

    Args:
        trainer: TRL's, after its constructor.
    """
    args = trainer.args
    if getattr(args, "efficient_batching", "off") == "off":
        return as_trl()
    users = seen_by_users(trainer)
    if reasons := _reasons({
        str(users): users is not None,
        f"top_entropy_quantile={args.top_entropy_quantile} is taken over a micro-batch": (
            args.top_entropy_quantile < 1
        ),
        "the entropy bonus is a mean over a micro-batch": trainer._entropy_bonus_enabled,
        "the auxiliary loss of experts is a mean over a micro-batch": trainer.aux_loss_enabled,
        f"optim={args.optim.value} updates within a backward pass": (
            "lomo" in args.optim or "layerwise" in args.optim
        ),
        "the noise of neftune_noise_alpha depends on the padded width": bool(
            args.neftune_noise_alpha
        ),
        "DataParallel cuts micro-batches itself": args.n_gpu > 1,
    }):  # fmt: skip
        return as_trl(*reasons)
    compiled = is_compiled(trainer)
    counts_passes = trainer.accelerator.distributed_type == DistributedType.DEEPSPEED
    reasons = _reasons({
        f"skipping (beta={args.beta} gives every row a KL term)": args.beta != 0,
        "another number of passes (DeepSpeed counts them)": counts_passes,
        "another number of passes (ddp_static_graph counts them)": bool(args.ddp_static_graph),
    })  # fmt: skip
    one_pass = counts_passes or bool(args.ddp_static_graph)
    if compiled and one_pass:
        return as_trl(*reasons, COMPILED)
    chosen = Batching(
        recuts=True, skips=args.beta == 0, packs=True, trims_prompts=not compiled,
        compiled=compiled, one_pass_per_microstep=one_pass, left_out=reasons,
    )  # fmt: skip
    if attention_of(trainer.model, compiled) is None:
        implementation = trainer.model.config._attn_implementation
        chosen = chosen.without("packs", f"the attention {implementation!r} was not tried")
    return chosen


def is_compiled(trainer: Any) -> bool:
    """Return whether the model of a trainer is compiled, shape by shape."""
    return trainer.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO


def is_sharded(trainer: Any) -> bool:
    """Return whether ranks hold parts of the model, which they gather pass by pass."""
    return trainer.accelerator.distributed_type not in PLAIN_TRAINING


def seen_by_users(trainer: Any) -> str | None:
    """Return what of a user's own sees each micro-batch, so that TRL's are kept; None if nothing.

    Args:
        trainer: TRL's, at any time: methods and hooks may be put in its place later.
    """
    for name in filter(trainer.overrides, SEEN_BY_USERS):
        if name != "training_step" or name not in vars(trainer):  # of timers, which call through
            return f"{name} of your own sees TRL's micro-batches"
    if not is_sharded(trainer) and any(p._backward_hooks for p in trainer.model.parameters()):
        return "a hook on a parameter's gradient sees the backward pass of each micro-batch"
    return None


def _reasons(applies: dict[str, bool]) -> tuple[str, ...]:
    return tuple(reason for reason, does in applies.items() if does)


def likely_cause(model: Any) -> str:
    """Name what about a model may forbid packed rows, as its configuration tells; "" if nothing.

    Args:
        model: may be wrapped by an adapter.
    """
    config, peft = model.config.get_text_config(), getattr(model, "active_peft_config", None)
    layers = {*(getattr(config, "layer_types", None) or ())}
    stateful = getattr(getattr(model, "base_model", model), "_is_stateful", False)
    return ", ".join(_reasons({
        "the adapter's tokens before the prompt": bool(peft and peft.is_prompt_learning),
        "the sliding window": "sliding_attention" in layers or bool(
            not layers and getattr(config, "sliding_window", None)
        ),
        "recurrent layers": stateful or any("mamba" in n or "linear" in n for n in layers),
        "ALiBi": config.model_type in ("bloom", "mpt") or getattr(config, "alibi", False) is True,
    }))  # fmt: skip


# ---- what the model allows --------------------------------------------------------------------


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
