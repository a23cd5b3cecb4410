"""How many parameters are trained, and about how much memory a rank needs, without any weights.

Counts are exact: the model is built on the meta device from its configuration. Bytes of weights,
gradients and optimizer state follow from them; what activations and caches take is estimated by
the formulas at `estimate`.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from grpo_credit.trainer.completing import rows_at_once

# Tensors of the parameters' size that an optimizer keeps, and bytes of each value (None: as wide as
# the parameter). Adafactor keeps sums of rows and columns, next to nothing.
OPTIMIZER_STATE: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("adamw_torch", "adamw_torch_fused", "adamw_apex_fused"), (2, None)),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), (2, 1)),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), (2, 4)),
    **dict.fromkeys(("rmsprop", "adagrad", "lion", "lion_32bit"), (1, None)),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb_8bit"), (1, 1)),
    **dict.fromkeys(("sgd", "adafactor"), (0, None)),
}
SAVED_VALUES = 17  # per token, layer and hidden unit: 34 bytes at 16 bits, Korthikanti et al. 2022


@dataclass(frozen=True)
class ModelSize:
    """What a model's configuration comes to.

    With an adapter the trained parameters are its own, and the frozen ones are the reference model
    too. `weight_bytes` are of one frozen parameter (of any, where all are trained), `trained_bytes`
    of one trained; `cached` counts the key and value numbers of a token in each layer's cache.
    """

    frozen: int
    trained: int
    weight_bytes: float
    trained_bytes: int
    layers: int
    hidden: int
    cached: int
    vocabulary: int
    adapter: bool = False

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.frozen + self.trained


def model_size(
    config: Any, dtype: str | None = "float32", peft_config: Any = None, bits: int | None = None
) -> ModelSize:
    """Count the parameters of a model on the meta device, with the adapter of a `peft_config`.

    The weights are loaded as `dtype` ("auto": the configuration's own); `bits` is 4 or 8 where the
    frozen ones are quantised.
    """
    with torch.device("meta"):
        model: Any = _architecture(config)(config)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    text = config.get_text_config()
    width = _itemsize(dtype, config)
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    adapter = peft_config is not None
    return ModelSize(
        frozen=frozen,
        trained=trained,
        weight_bytes=bits / 8 if bits else width,
        trained_bytes=(2 if bits else 4) if adapter else width,  # peft trains in float32
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        cached=2 * head * (getattr(text, "num_key_value_heads", None) or heads),
        vocabulary=text.vocab_size,
        adapter=adapter,
    )


def _architecture(config: Any) -> Any:
    """Return the class that TRL will load: the first one that the configuration names."""
    named = next(iter(config.architectures or ()), "")
    kind = getattr(transformers, named, None)
    return kind or transformers.AutoModelForCausalLM.from_config


def _itemsize(dtype: str | None, config: Any) -> int:
    given = (config.dtype if dtype in ("auto", None) else dtype) or "float32"
    return (getattr(torch, given) if isinstance(given, str) else given).itemsize


@dataclass(frozen=True)
class Engine:
    """What vLLM holds of each device in the training process, where it is there.

    `share` of the device is taken, for `weights` (bytes) and the rest for keys and values, each
    token of which takes `token` bytes.
    """

    share: float
    weights: int
    token: float

    def tokens(self, available: int) -> int:
        """Count the tokens whose keys and values fit, on a device of `available` bytes."""
        return int(max(0, self.share * available - self.weights) // self.token)


def engine_of(size: ModelSize, args: Any) -> Engine | None:
    """Return what a colocated vLLM holds; None where there is none.

        weights  parameters · v / tensor parallel        v = 2 or less: vLLM casts float32
        token    layers · cached · v / tensor parallel

    What its passes need at their peak comes out of the same share and is not counted.
    """
    if not args.use_vllm or args.vllm_mode != "colocate":
        return None
    split = args.vllm_tensor_parallel_size
    parameters = size.frozen if size.adapter else size.parameters  # an adapter is merged
    return Engine(
        share=args.vllm_gpu_memory_utilization,
        weights=round(min(2.0, size.weight_bytes) * parameters / split),
        token=2 * size.layers * size.cached / split,
    )


@dataclass(frozen=True)
class Memory:
    """Bytes that a rank holds: weights of the policy, of a second model for the KL term, and so on.

    `gradients` have DDP's buckets for them, `optimizer` is None where it is not known here,
    `activations` are of one micro-batch, and `cache` is a generation's, with its logits.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int | None
    activations: int
    cache: int

    @property
    def peak(self) -> int:
        """The larger of what training and what generation holds; without fragmentation."""
        held = self.weights + self.reference + (self.optimizer or 0)
        return held + max(self.gradients + self.activations, self.cache)


def estimate(
    size: ModelSize, args: Any, prompt_tokens: int, test_tokens: int = 0, *, refers: bool = False
) -> Memory:
    """Estimate what a rank needs.

        weights      frozen · w + trained · t                     w, t bytes of a value
        gradients    trained · t                                  twice under DDP: its buckets
        optimizer    trained · (2 · t for Adam)
        activations  rows · tokens · hidden · v · (layers + 17)   with gradient checkpointing,
                     rows · tokens · hidden · v · 17 · layers     without
        cache        rows · tokens · layers · cached · v, and the last token's logits, of a
                     generation, in training or in a held-out test

    17 values per token, layer and hidden unit: Korthikanti et al. 2022 (34 bytes at 16 bits),
    without the attention matrix, which SDPA and flash attention do not keep. TRL's output layer
    computes log-probabilities tile by tile; its tile is left out. Fragmentation and the CUDA
    context are not counted, and vLLM by `engine_of`. ZeRO's stages spread the optimizer state, then
    the gradients, then the weights over the ranks.

    Args:
        size: of the model.
        args: a `GRPOConfig`.
        prompt_tokens: of the longest prompt to train on.
        test_tokens: of the longest one to test on.
        refers: whether there is a reference model.

    Returns:
        Bytes on one rank.
    """
    stage, ranks = sharding(args), args.world_size
    of_optimizer, of_gradients, of_weights = (ranks if stage >= n else 1 for n in (1, 2, 3))
    rows = args.per_device_train_batch_size
    generated = 0 if args.use_vllm else rows_at_once(args)
    longest = max(prompt_tokens, test_tokens) + args.max_completion_length
    value = 2 if args.bf16 or args.fp16 else 4
    weights = size.frozen * size.weight_bytes + size.trained * size.trained_bytes
    buckets = 2 if ranks > 1 and stage == 0 else 1
    checkpointed = size.layers + SAVED_VALUES
    saved = checkpointed if args.gradient_checkpointing else size.layers * SAVED_VALUES
    tokens = rows * (prompt_tokens + args.max_completion_length)
    state = optimizer_bytes(size, getattr(args.optim, "value", args.optim))
    return Memory(
        weights=round(weights / of_weights),
        reference=round(weights / of_weights) if refers and not size.adapter else 0,
        gradients=buckets * size.trained * size.trained_bytes // of_gradients,
        optimizer=None if state is None else state // of_optimizer,
        activations=tokens * size.hidden * value * saved,
        cache=generated * (longest * size.layers * size.cached * value + 4 * size.vocabulary),
    )


def sharding(args: Any) -> int:
    """Return ZeRO's stage; 3 for FSDP, 0 for one model per rank."""
    if args.deepspeed_plugin is not None:
        return args.deepspeed_plugin.zero_stage
    return 3 if args.fsdp or os.environ.get("ACCELERATE_USE_FSDP") == "true" else 0


def optimizer_bytes(size: ModelSize, optimizer: str) -> int | None:
    """Return the bytes of an optimizer's state; None for one that is not known here."""
    if optimizer not in OPTIMIZER_STATE:
        return None
    tensors, width = OPTIMIZER_STATE[optimizer]
    return tensors * size.trained * (width or size.trained_bytes)
