"""What may be done to the passes of a step, so that the gradient stays TRL's, and why not more."""

from dataclasses import dataclass, replace
from typing import Any

from accelerate.utils import DistributedType, DynamoBackend

from grpo_credit import sharing_checks

RELATIVE_ROPE = ("default", "linear", "llama3", "yarn")  # frequencies do not depend on the width
RELATIVE_LAYERS = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class Batching:
    """What is done to the passes of a step, and what is left as TRL does it, and why.

    Args:
        recuts: rows are sorted by length, cut anew, and trimmed to the longest of their pass.
        skips: rows without credit are not run.
        trims_prompts: padding on the left of prompts is trimmed, too.
        shares_prompts: a prompt is run once for all its completions of a pass, where that pays.
        one_pass_per_turn: there are as many passes as accumulation steps.
        left_out: what is not done, and why.
    """

    recuts: bool
    skips: bool = False
    trims_prompts: bool = False
    shares_prompts: bool = False
    one_pass_per_turn: bool = False
    left_out: tuple[str, ...] = ()

    def without_sharing(self, reason: str) -> "Batching":
        """Leave prompts unshared for a reason."""
        said = f"sharing prompts ({reason})"
        return replace(self, shares_prompts=False, left_out=(*self.left_out, said))

    def __str__(self) -> str:
        does = {
            "skips rows without credit": self.skips,
            "sorts rows by length and cuts anew": self.recuts,
            "trims padding": self.recuts,
            "shares prompts where it pays": self.shares_prompts,
        }
        used = ", ".join(words for words, done in does.items() if done)
        without = f" | left out: {'; '.join(self.left_out)}" if self.left_out else ""
        return f"batching: {used or 'the micro-batches of TRL'}{without}"


def choose(trainer: Any) -> Batching:
    """Say what leaves the gradient as it is under the configuration of a trainer.

    Args:
        trainer: TRL's, after its constructor.
    """
    args = trainer.args
    if getattr(args, "efficient_batching", "off") == "off":
        return Batching(recuts=False)
    if reasons := _reasons({
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
        return Batching(recuts=False, left_out=reasons)
    distributed = trainer.accelerator.distributed_type
    counts_passes = distributed == DistributedType.DEEPSPEED
    relative = positions_are_relative(trainer.model.config)
    reasons = _reasons({
        f"skipping (beta={args.beta} gives every row a KL term)": args.beta != 0,
        "trimming prompts (positions of this model may count their padding)": not relative,
        "another number of passes (DeepSpeed counts them)": counts_passes,
    })  # fmt: skip
    chosen = Batching(True, args.beta == 0, relative, True, counts_passes, reasons)
    dynamo = trainer.accelerator.state.dynamo_plugin.backend
    to_come = _reasons({  # what the model does not show yet
        "gradient checkpointing runs layers again without a cache": args.gradient_checkpointing,
        "a micro-batch is one row, and the self-test takes three": (
            args.per_device_train_batch_size == 1
        ),
        "the model is compiled": dynamo != DynamoBackend.NO,
    })  # fmt: skip
    refusal = next(iter(to_come), None) or sharing_checks.refusal(trainer.model, distributed)
    return chosen.without_sharing(refusal) if refusal else chosen


def _reasons(applies: dict[str, bool]) -> tuple[str, ...]:
    return tuple(reason for reason, does in applies.items() if does)


def positions_are_relative(config: Any) -> bool:
    """Say whether padding on the left of a prompt leaves the log-probabilities as they are.

    So it is with rotary positions whose frequencies do not depend on the width, and attention that
    sees all or the last tokens. Of other models nothing is assumed.

    Args:
        config: of the model, as transformers has it.
    """
    config = config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    by_layer = list(rope.values()) if all(isinstance(v, dict) for v in rope.values()) else [rope]
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        bool(rope)
        and all(one.get("rope_type", "default") in RELATIVE_ROPE for one in by_layer)
        and not any("llama_4_scaling_beta" in one for one in by_layer)  # grows with the position
        and all(layer in RELATIVE_LAYERS for layer in layers)
    )
