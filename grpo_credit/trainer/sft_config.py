"""`CreditSFTConfig`: every option of TRL's `SFTConfig`, and a credit strategy."""

from dataclasses import dataclass
from typing import Any

from trl import SFTConfig

from grpo_credit.credit.documents import check_documents, looks_at_bounds, looks_at_limit
from grpo_credit.credit.parse import DEFAULT_AGGREGATION, parse_credit_kwargs, resolve_with
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.trainer.config import refuse_functions, said
from grpo_credit.trainer.hardware import fit_to_hardware
from grpo_credit.trainer.options import SupervisedOptions


@dataclass
class CreditSFTConfig(SupervisedOptions, SFTConfig):
    """Configuration of `CreditSFTTrainer`: TRL's `SFTConfig` with a credit strategy.

    Every option of `SFTConfig` is an option here, with TRL's default, but for these:

    * `credit`, `credit_kwargs`: the strategy and its options; without, TRL's own mean over tokens.
    * `save_rollouts`: how often the documents of a step are kept.
    * `bf16`, `use_cpu` (default: from the hardware): bfloat16 where an accelerator supports it;
      the CPU where there is no accelerator. TRL stops with an error instead.

    Raises:
        CreditError: (a ValueError) if the strategy is unknown, its options are wrong, or another
            setting clashes with it; see `supervised`.

    Example:
        >>> CreditSFTConfig("out", credit="seq", use_cpu=True, bf16=False).credit
        'seq'
    """

    def __post_init__(self) -> None:
        fit_to_hardware(self)
        super().__post_init__()
        refuse_functions(self.credit, "CreditSFTTrainer")
        self.credit_kwargs = parse_credit_kwargs(self.credit_kwargs)
        supervised(self, self.credit, self.credit_kwargs if self.credit else {})


@dataclass(frozen=True)
class Supervision:
    """What a supervised configuration comes to.

    Args:
        strategy: the credit; `dapo` for TRL's own mean over tokens, which it is.
        surrogate: the loss, in words.
        refers: whether there is a reference model.
        alone: whether what is trained on teaches without others beside it.
    """

    strategy: Strategy
    surrogate: str = "cross entropy"
    refers: bool = False
    alone: bool = True

    @classmethod
    def of(cls, strategy: Strategy | None) -> "Supervision":
        """Describe what `supervised` returns."""
        return cls(strategy or resolve_with(DEFAULT_AGGREGATION, {}))

    def __str__(self) -> str:
        return said(self.strategy, self.surrogate)


def supervised(
    args: Any, credit: Any, options: dict[str, Any], own_loss: object = None
) -> Strategy | None:
    """Resolve the strategy of a supervised run, or say what it cannot go with.

    Args:
        args: a `TrainingArguments`; what it lacks of `SFTConfig` has TRL's default.
        credit: the strategy, or None.
        options: of the strategy.
        own_loss: the trainer's `compute_loss_func`.

    Returns:
        The strategy; None for TRL's own training.

    Raises:
        CreditError: if the strategy is unknown or needs rewards or groups, or with the setting.
    """
    if credit is None:
        if options:
            raise CreditError(f"credit_kwargs={options!r} are options of no strategy; set credit.")
        return None
    strategy = resolve_with(credit, options)
    check_documents(strategy)
    _refuse_other_losses(strategy.name, args, own_loss)
    _refuse_lost_bounds(strategy, args)
    return strategy


def _of(args: Any, name: str) -> Any:
    return getattr(args, name, getattr(SFTConfig, name))


def _refuse_other_losses(name: str, args: Any, own_loss: object) -> None:
    reasons = {
        "loss_type='dft'": (
            _of(args, "loss_type") == "dft",
            "weighs each token by its probability, which it takes from the log-probability that "
            "credit has weighed; use loss_type='nll'",
        ),
        f"label_smoothing_factor={args.label_smoothing_factor}": (
            args.label_smoothing_factor != 0,
            "is a loss of the full logits, without the log-probabilities that credit weighs; set 0",
        ),
        "compute_loss_func": (
            own_loss is not None,
            "computes the loss itself, without the log-probabilities that credit weighs; drop it, "
            "or make a rule of it: a function of Rollouts that returns the weight of each token",
        ),
    }
    for setting, (used, reason) in reasons.items():
        if used:
            raise CreditError(f"{setting} cannot go with credit={name!r}: it {reason}.")


def _refuse_lost_bounds(strategy: Strategy, args: Any) -> None:
    if _of(args, "packing") and "old_logps" in strategy.needs:
        raise CreditError(
            f"packing=True keeps input_ids and labels alone, and {strategy.name!r} needs the "
            "column 'old_logps'; set packing=False (padding_free=True takes it along)."
        )
    wrapped = _of(args, "packing") and _of(args, "packing_strategy") == "wrapped"
    if wrapped and looks_at_bounds(strategy):
        raise CreditError(
            f"packing_strategy='wrapped' forgets where documents end, which {strategy.name!r} "
            "weighs by; use packing_strategy='bfd', or credit='dapo'."
        )
    if _of(args, "max_length") is None and looks_at_limit(strategy):
        raise CreditError(
            f"{strategy.name!r} weighs by L_max, but max_length is None (TRL wants that where "
            "padding_free goes without packing); name L_max itself, credit_kwargs={'limit': 1024}, "
            "or use credit='seq', which differs from 'uniform' by that constant alone."
        )


def check_parallelism(trainer: Any) -> None:
    """Refuse what shows a rank parts of documents, or columns that are no tokens.

    Raises:
        CreditError: naming the kind of parallelism, or the adapter.
    """
    parallel = trainer.accelerator.parallelism_config
    kinds = {"sp": "sequence", "cp": "context", "tp": "tensor"}
    for kind, name in kinds.items():
        if parallel is not None and getattr(parallel, f"{kind}_enabled"):
            raise CreditError(
                f"{name} parallelism ({kind}_size > 1) cannot go with credit: ranks then share "
                f"documents, and each would count them as its own; set {kind}_size=1."
            )
    adapter = getattr(trainer.accelerator.unwrap_model(trainer.model), "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False):
        raise CreditError(
            f"{type(adapter).__name__} puts virtual tokens before a document, which the credit of "
            "its tokens does not cover; use an adapter of the weights, such as LoRA."
        )
