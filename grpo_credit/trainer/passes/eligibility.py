"""What may be done to the passes of a step, so that the gradient stays TRL's, and why not more.

`choose` says what TRL's own loss allows; what the model allows is tried on it, by `exactness`.
"""

from dataclasses import dataclass, replace
from typing import Any

from accelerate.utils import DistributedType, DynamoBackend

from grpo_credit.batching.packing import attention_of

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
