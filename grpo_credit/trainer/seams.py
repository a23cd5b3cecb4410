"""What of TRL this package builds on: one `Protocol`, checked before and after the constructor."""

import inspect
from importlib import metadata
from typing import Any, Protocol

from torch import Tensor
from trl.trainer import utils

TESTED = "1.16.0"  # the version of TRL whose pieces these are; the same in constraints.txt


class Seams(Protocol):
    """The private pieces of TRL's `GRPOTrainer`, and of transformers' `Trainer` beneath it."""

    args: Any
    model: Any
    accelerator: Any
    state: Any
    control: Any
    is_in_train: bool
    beta: float
    loss_type: str
    importance_sampling_level: str
    temperature: float
    top_entropy_quantile: float
    num_generations: int
    num_generations_eval: int
    num_iterations: int
    scale_rewards: Any
    tools: Any
    environments: Any
    environment_factories: Any
    rollout_func: Any
    max_tool_calling_iterations: Any
    train_dataset: Any
    use_vllm: bool
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    chat_template_kwargs: Any
    log_completions: bool
    aux_loss_enabled: bool
    pad_to_multiple_of: int | None
    reward_funcs: list[Any]
    reward_func_names: list[str]
    reward_weights: Tensor
    eos_token_ids: Any
    _entropy_bonus_enabled: bool
    _tokenizer: Any
    _logs: dict[str, Any]
    _metrics: dict[str, Any]
    _pending_extra_logs: dict[str, list[Any]]
    _pending_metrics: dict[str, list[float]]
    _step: int
    _buffered_inputs: list[dict[str, Any]] | None

    # Methods: those that are extended, and those that are called.

    def get_batch_samples(self, epoch_iterator: Any, num_batches: Any) -> tuple[list[Any], Any]:
        """Return the data loader's batches of an optimizer step."""
        ...

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]: ...

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor: ...

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]: ...

    def _tokenize_prompts(self, prompts: Any) -> tuple[Any, Any, Any]: ...

    def _generate(self, prompts: Any) -> Any: ...

    def _tool_call_loop(
        self,
        prompts: Any,
        prompt_ids: Any,
        completion_ids: Any,
        completions: Any,
        logprobs: Any,
        images: Any,
        multimodal_fields: Any,
    ) -> Any: ...

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, multimodal_fields: Any, num_generations: int
    ) -> tuple[Any, Any]: ...

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
    ) -> tuple[Any, Any, Any]: ...

    def compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        """Return the loss of a micro-batch."""
        ...

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor: ...

    def _log_metric(self, name: str, value: float) -> None: ...

    def _log_completion_extra(self, column: str, values: list[Any]) -> None: ...

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and forget what was logged."""
        ...

    def _save_checkpoint(self, model: Any, trial: Any) -> None: ...

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None: ...

    def _get_output_dir(self, trial: Any) -> str: ...


class Generating(Protocol):
    """What it has besides where transformers generates."""

    generation_config: Any
    generation_kwargs: dict[str, Any]


class UsingVLLM(Protocol):
    """What it has besides where vLLM generates."""

    vllm_generation: Any
    _last_loaded_step: int


class Host(Seams, Protocol):
    """A `CreditGRPOTrainer`, as its parts see it."""

    plan: Any
    credit_scale: float
    save_every: int
    _engine: Any
    _collector: Any
    _turns: Any
    _step_log: Any

    def overrides(self, method: str) -> bool:
        """Return whether a user has put a method of their own in place of the trainer's."""
        ...


def mode(host: Seams) -> str:
    """Return "train" or "eval", TRL's key of what it logs now."""
    return "train" if host.model.training else "eval"


class SeamError(RuntimeError):
    """The installed TRL lacks a piece that this package is built on."""

    def __init__(self, piece: str, version: str | None = None) -> None:
        version = version or metadata.version("trl")
        changed = "" if version != TESTED else (
            ". That is the version it was tested with, so something has changed TRL's files or "
            "classes, such as another package that patches its trainers"
        )  # fmt: skip
        again = "--force-reinstall --no-deps " if changed else ""
        super().__init__(
            f"TRL {version} has no {piece}, which grpo-credit builds on{changed}. It works with "
            f"TRL {TESTED}: pip install {again}trl=={TESTED}"
        )


def piece(name: str) -> Any:
    """Return a function of `trl.trainer.utils`.

    Raises:
        SeamError: if it is not there.
    """
    found = getattr(utils, name, None)
    if found is None:
        raise SeamError(f"trl.trainer.utils.{name}")
    return found


def check_class(trainer: type[Any]) -> None:
    """Check that a trainer class has the methods of `Seams`.

    Args:
        trainer: TRL's `GRPOTrainer`.

    Raises:
        SeamError: naming the version and the first missing piece.
    """
    for name, method in vars(Seams).items():
        if inspect.isfunction(method) and not name.startswith("__"):
            _check_method(trainer, name, method)
    if not getattr(trainer, "loss_is_scaled_for_ga", False):
        raise SeamError(f"{trainer.__name__}.loss_is_scaled_for_ga = True")


def _check_method(trainer: type[Any], name: str, expected: Any) -> None:
    method = getattr(trainer, name, None)
    if method is None:
        raise SeamError(f"{trainer.__name__}.{name}")
    parameters = inspect.signature(expected).parameters.values()
    named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    if missing := sorted(named - set(inspect.signature(method).parameters)):
        raise SeamError(f"parameter {missing[0]!r} of {trainer.__name__}.{name}")


def check_attributes(trainer: Any) -> None:
    """Check that a trainer, made, has the attributes of `Seams`.

    Raises:
        SeamError: naming the first missing one.
    """
    backend = UsingVLLM if getattr(trainer, "use_vllm", False) else Generating
    for name in [*Seams.__annotations__, *backend.__annotations__]:
        if not hasattr(trainer, name):
            raise SeamError(f"attribute {name!r} of GRPOTrainer")
