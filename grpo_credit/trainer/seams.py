"""The pieces of TRL that this package extends, checked before anything else happens."""

import inspect
from typing import Any

TESTED = "1.16.0"  # the version of TRL whose pieces these are; the same in constraints.txt

METHODS: dict[str, tuple[str, ...]] = {
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
    "_prepare_inputs": ("generation_batch",),
    "_compute_loss": ("model", "inputs"),
    "compute_loss": ("model", "inputs"),
    "_get_per_token_logps_and_entropies": (
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
    ),
    "_tokenize_prompts": ("prompts",),
    "_generate_single_turn": ("prompt_ids", "images", "multimodal_fields", "num_generations"),
    "get_batch_samples": ("epoch_iterator", "num_batches"),
    "log": ("logs", "start_time"),
}
MENTIONED = {  # what these methods must read or write for the extension to take effect
    "_compute_loss": (
        'inputs["advantages"]',
        'inputs["num_items_in_batch"]',
        'inputs.get("old_per_token_logps")',
        "self._get_per_token_logps_and_entropies(",
        "advantages.dim() == 1",
        "self.beta * per_token_kl",
        "self.loss_type",
        "self.importance_sampling_level",
        "self.current_gradient_accumulation_steps",
        "self.args.steps_per_generation",
        "self._metrics[mode]",
        "_entropy_bonus_enabled",
        "self.aux_loss_enabled",
    ),
    "compute_loss": ("self._compute_loss(",),
    "_get_per_token_logps_and_entropies": ("fused_lm_head=True",),
    "_prepare_inputs": ("self._buffered_inputs", "self._step"),
    "_generate_and_score_completions": (
        "self._calculate_rewards(",
        'self._logs["prompt"]',
        "self.reward_weights",
        "self.reward_func_names",
        "self.num_generations_eval",
    ),
    "_calculate_rewards": ("gather(rewards_per_func)",),
    "log": ("self._metrics",),
}


class SeamError(RuntimeError):
    """The installed TRL lacks a piece that this package is built on."""

    def __init__(self, piece: str, version: str) -> None:
        changed = "" if version != TESTED else (
            ". That is the version it was tested with, so something has changed TRL's files or "
            "classes, such as another package that patches its trainers"
        )  # fmt: skip
        again = "--force-reinstall --no-deps " if changed else ""
        super().__init__(
            f"TRL {version} has no {piece}, which grpo-credit builds on{changed}. It works with "
            f"TRL {TESTED}: pip install {again}trl=={TESTED}"
        )


def check_seams(host: type[Any], version: str) -> None:
    """Check that the host trainer has what `CreditGRPOTrainer` extends.

    Args:
        host: TRL's `GRPOTrainer`.
        version: TRL's version, for the message.

    Raises:
        SeamError: naming the version and the first missing piece.
    """
    for name, parameters in METHODS.items():
        method = getattr(host, name, None)
        if method is None:
            raise SeamError(f"{host.__name__}.{name}", version)
        if missing := sorted(set(parameters) - set(inspect.signature(method).parameters)):
            raise SeamError(f"parameter {missing[0]!r} of {host.__name__}.{name}", version)
    for name, pieces in MENTIONED.items():
        source = inspect.getsource(inspect.unwrap(getattr(host, name)))
        for piece in pieces:
            if piece not in source:
                raise SeamError(f"`{piece}` in {host.__name__}.{name}", version)
    if not getattr(host, "loss_is_scaled_for_ga", False):
        raise SeamError(f"{host.__name__}.loss_is_scaled_for_ga = True", version)
