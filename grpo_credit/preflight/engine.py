"""On what vLLM and the trainer may not agree: probabilities, lengths, room.

Nothing is said of chat templates: TRL renders the prompts itself, and vLLM reads token ids.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from grpo_credit.preflight.findings import Finding
from grpo_credit.preflight.memory import Engine
from grpo_credit.text import size_of

NOTED, FAR = 0.02, 0.1  # nats per token, between what sampled and what is trained
METRICS = "sampling/"  # of TRL, where it corrects for vLLM
NEUTRAL = {  # sampling options that change no probability
    "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "logit_bias": None, "min_tokens": 0, "structured_outputs": None,
}  # fmt: skip


def differences(metrics: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the means of TRL's figures on vLLM's probabilities; empty where there are none."""
    return {
        name.removeprefix(METRICS): sum(values) / len(values)
        for name, values in metrics.items()
        if name.startswith(METRICS) and values
    }


def check_probabilities(found: Mapping[str, float], args: Any) -> list[Finding]:
    """Judge how far the probabilities that sampled are from those that are trained.

    Args:
        found: of `differences`.
        args: the `GRPOConfig`.
    """
    if not found:
        return []
    mean, least = found["sampling_logp_difference/mean"], found["importance_sampling_ratio/min"]
    dropped = args.vllm_importance_sampling_mode.endswith("mask") and least == 0
    if mean < NOTED and not dropped:
        return []
    what = "completions" if "sequence" in args.vllm_importance_sampling_mode else "tokens"
    lost = f" Some {what} are left out for it (importance ratio 0)." if dropped else ""
    return [
        Finding(
            "warning" if dropped or mean > FAR else "note",
            "vLLM: probabilities",
            f"the log-probability of a sampled token differs by {mean:.2g} nats on average between "
            f"vLLM and the trainer.{lost}",
            _causes(args),
        )
    ]


def _causes(args: Any) -> str:
    own = {name: getattr(args, name, None) for name in NEUTRAL} | (args.generation_kwargs or {})
    changed = sorted(n for n, v in NEUTRAL.items() if own.get(n) not in (None, v))
    if changed:
        return f"vLLM's count {', '.join(changed)}, the trainer's do not: leave out what can be."
    types = "" if args.bf16 or args.fp16 else "vLLM casts float32 to 16 bits (try --bf16); "
    return f"The usual causes: {types}another attention kernel, a quantised model, a router (MoE)."


def check_context(args: Any, prompt_tokens: int) -> list[Finding]:
    """Judge whether `vllm_max_model_length` holds the longest prompt and its completion."""
    limit = args.vllm_max_model_length if args.use_vllm and args.vllm_mode == "colocate" else None
    longest = prompt_tokens + args.max_completion_length
    if limit is None or longest <= limit:
        return []
    return [
        Finding(
            "error" if prompt_tokens >= limit else "warning",
            "vLLM: max_model_len",
            f"a prompt of {prompt_tokens:,} tokens and a completion of "
            f"{args.max_completion_length:,} need {longest:,}, and vLLM stops at {limit:,}: such "
            "completions end early, and a prompt that long is refused.",
            f"Set --vllm_max_model_length {longest} or more, or lower --max_completion_length.",
        )
    ]


def check_room(engine: Engine | None, available: int | None, context: int) -> list[Finding]:
    """Judge whether keys and values of one sequence of `context` tokens fit into vLLM's share."""
    if engine is None or not available or engine.tokens(available) >= context:
        return []
    return [
        Finding(
            "error",
            "vLLM: memory",
            f"its {engine.share:.0%} of the device hold {size_of(engine.weights)} of weights and "
            f"{engine.tokens(available):,} tokens, and it does not start where a sequence of "
            f"{context:,} finds no room.",
            "Lower --vllm_max_model_length (a prompt and its completion), or raise "
            "--vllm_gpu_memory_utilization or --vllm_tensor_parallel_size.",
        )
    ]


def check_prefix_caching(trainer: Any) -> list[Finding]:
    """Tell where vLLM reads the prompt anew for each completion of a group."""
    llm = getattr(getattr(trainer, "vllm_generation", None), "llm", None)
    if llm is None or llm.llm_engine.vllm_config.cache_config.enable_prefix_caching:
        return []
    return [
        Finding(
            "note",
            "vLLM: prefix caching",
            "it is off (vLLM turns it off for models that it cannot do it for): each of the "
            f"{trainer.args.num_generations} completions of a prompt reads the prompt anew.",
        )
    ]
