"""`CreditGRPOConfig`: every option of TRL's `GRPOConfig`, and a credit strategy.

`plan` decides, before any model is loaded, what will be trained, or says what clashes with what.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers.utils import logging
from trl import GRPOConfig

from grpo_credit.credit.conformance import examples, smallest
from grpo_credit.credit.needs import READS
from grpo_credit.credit.parse import DEFAULT_AGGREGATION, parse_credit_kwargs, resolve_with
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.trainer.hardware import fit_to_hardware
from grpo_credit.trainer.options import CreditOptions
from grpo_credit.trainer.vine import Vine

logger = logging.get_logger(__name__)

# TRL's loss types and how they aggregate. The first four are one surrogate, the clipped ratio.
CLIPPED = {"dapo": "dapo", "grpo": "length", "dr_grpo": "uniform", "luspo": "seq"}
SURROGATE_AGGREGATION = {"cispo": "dapo", "vespo": "dapo", "sapo": "length"}


@dataclass
class CreditGRPOConfig(CreditOptions, GRPOConfig):
    """Configuration of `CreditGRPOTrainer`: TRL's `GRPOConfig` with a credit strategy.

    Every option of `GRPOConfig` is an option here, with TRL's default, but for these:

    * `privileged_column`: for strategies that score completions after a second prompt.
    * `vine_cuts`, `vine_continuations`, `vine_tokens`: for `vine`, which continues completions.
    * `efficient_batching`: whether prompts and completions of a step run in packed rows.
    * `credit`, `credit_kwargs`: the strategy and its options. Without `credit`, the strategy is the
      one that `loss_type` stands for.
    * `credit_scale`: a constant that multiplies the credit, not the KL term.
    * `loss_type` (default None): which surrogate. `cispo`, `sapo` and `vespo` go with every
      strategy; TRL's `dapo`, `grpo`, `dr_grpo` and `luspo` are one surrogate (the clipped ratio)
      with four denominators, so with `credit` they must agree with its aggregation. None is the
      clipped ratio.
    * `importance_sampling_level` (default None): `"sequence"` where `credit` aggregates by `seq`
      (and the surrogate is not `vespo`), otherwise TRL's `"token"`.
    * `bf16`, `use_cpu` (default: from the hardware): bfloat16 where an accelerator supports it;
      the CPU where there is no accelerator. TRL stops with an error instead.

    Raises:
        CreditError: (a ValueError) if the strategy is unknown, its options are wrong, or another
            setting clashes with it.

    Example:
        >>> args = CreditGRPOConfig("out", credit="seq", use_cpu=True, bf16=False)
        >>> args.credit, args.importance_sampling_level
        ('seq', None)
    """

    loss_type: str | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None,
        metadata={
            "help": "Surrogate of the loss: 'cispo', 'sapo', 'vespo', or the clipped ratio (the "
            "default; TRL's 'dapo', 'grpo', 'dr_grpo', 'luspo' are the clipped ratio with the "
            "denominators that `credit` calls 'dapo', 'length', 'uniform', 'seq')."
        },
    )
    importance_sampling_level: str | None = field(  # ty: ignore[incompatible-attribute-override]
        default=None,
        metadata={
            "help": "'token' or 'sequence'. Default: 'sequence' for credit=seq, otherwise 'token'."
        },
    )

    def __post_init__(self) -> None:
        fit_to_hardware(self)
        super().__post_init__()
        refuse_functions(self.credit, "CreditGRPOTrainer")
        self._check_batching()
        if not 0 < self.credit_scale < math.inf:
            raise CreditError(
                f"credit_scale is {self.credit_scale}, expected a finite number > 0; 1 changes "
                "nothing."
            )
        self.credit_kwargs = parse_credit_kwargs(self.credit_kwargs)
        if self.credit is not None or not self.credit_kwargs:
            plan(self)  # options without a strategy wait for the one that the trainer is given

    def _check_batching(self) -> None:
        if self.efficient_batching is False:
            self.efficient_batching = "off"  # as YAML reads the bare word
        if self.efficient_batching not in ("auto", "off"):
            raise CreditError(
                f"efficient_batching is {self.efficient_batching!r}, expected 'auto' or 'off'."
            )


def refuse_functions(credit: object, trainer: str) -> None:
    """Refuse a function where only a name can be saved and read again.

    Raises:
        CreditError: naming the trainer that takes it.
    """
    if credit is not None and not isinstance(credit, str):
        raise CreditError(
            f"credit is {credit!r}; a configuration holds names only, so pass a function "
            f"to the trainer: {trainer}(..., credit=function)."
        )


# ---- what will be trained ---------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a configuration comes to.

    Args:
        strategy: the credit.
        loss_type: the name under which TRL computes the surrogate.
        ratio: `"token"` or `"sequence"`.
        columns: what a strategy may read of the data set (`needs.READS`), by the option's name.
        explicit: whether the credit was asked for, and is not what `loss_type` stands for.
        refers: whether there is a reference model: for the KL term, or because a rule asks.
        alone: whether the strategy teaches where all rewards are equal, too.
        vine: what is drawn beside the completions, if a rule asks.
    """

    strategy: Strategy
    loss_type: str
    ratio: str
    columns: Mapping[str, str] = field(default_factory=dict)
    explicit: bool = True
    refers: bool = False
    alone: bool = False
    vine: Vine | None = None

    @property
    def trl_ratio(self) -> str:
        """The level at which TRL computes the ratio."""
        return "token" if self.sequence_token else self.ratio

    @property
    def sequence_token(self) -> bool:
        """Whether the ratio is s_i · π/sg[π]: a sequence-level ratio that keeps token credit."""
        return self.ratio == "sequence" and not self.strategy.even

    @property
    def surrogate(self) -> str:
        """The surrogate and its ratio, in words."""
        name = "clipped ratio" if self.loss_type in CLIPPED else self.loss_type
        return f"{name}, {self.ratio}-level"

    def __str__(self) -> str:
        return said(self.strategy, self.surrogate)


def said(strategy: Strategy, surrogate: str) -> str:
    """Say in a line how tokens are weighed, and in which loss."""
    options = {k: v for given in strategy.options.values() for k, v in given.items()}
    return f"credit {strategy.name}{f' {options}' if options else ''} | surrogate: {surrogate}"


def plan(
    args: GRPOConfig,
    credit: str | Callable[..., Any] | Strategy | None = None,
    credit_kwargs: dict[str, Any] | str | None = None,
) -> Plan:
    """Decide what a configuration trains, or say what clashes with what.

    A plain `GRPOConfig` is read as it is but for TRL's two defaults `loss_type="dapo"` and
    `importance_sampling_level="token"`, which count as not given there.

    Args:
        args: the configuration.
        credit: takes the place of `args.credit`.
        credit_kwargs: takes the place of `args.credit_kwargs`.

    Raises:
        CreditError: with both settings and what to change.
    """
    ours = isinstance(args, CreditGRPOConfig)
    loss_type = args.loss_type if ours or args.loss_type != "dapo" else None
    level = args.importance_sampling_level
    level = level if ours or level != "token" else None
    credit, options = asked(args, credit, credit_kwargs)
    _refuse_bnpo(loss_type)
    strategy = resolve_with(credit, options, _aggregation_of(loss_type))
    if credit is not None:
        _refuse_second_aggregation(strategy, loss_type)
    by_seq = credit is not None and _aggregates_by(strategy) == "seq"
    ratio = level or ("sequence" if by_seq and loss_type != "vespo" else "token")
    _refuse_distortions(args, strategy, loss_type, ratio)
    _refuse_other_optima(args, strategy)
    _try_options(strategy)
    surrogate = loss_type if loss_type in SURROGATE_AGGREGATION else DEFAULT_AGGREGATION
    read = [option for option, _ in READS.values()]
    columns = {name: getattr(args, name, getattr(CreditOptions, name)) for name in read}
    refers = args.beta != 0.0 or "ref_logps" in strategy.needs
    alone = teaches_alone(strategy)
    vine = Vine.of(args, strategy)
    return Plan(strategy, surrogate, ratio, columns, credit is not None, refers, alone, vine)


def asked(args: Any, credit: Any, credit_kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Return the strategy that is asked for and its options, from the trainer or its configuration.

    Raises:
        CreditError: if both name a strategy, and not the same.
    """
    named = getattr(args, "credit", None)
    if credit is not None and named is not None and credit != named:
        raise CreditError(
            f"credit is {credit!r} as an argument of the trainer and {named!r} in the "
            "configuration; give it once."
        )
    if credit is None:
        credit = named
    if credit_kwargs is None:
        credit_kwargs = getattr(args, "credit_kwargs", None)
    return credit, parse_credit_kwargs(credit_kwargs)


def _aggregates_by(strategy: Strategy) -> str | None:
    return strategy.aggregation.name if strategy.aggregation else None


def _aggregation_of(loss_type: str | None) -> str:
    if loss_type in SURROGATE_AGGREGATION:
        return SURROGATE_AGGREGATION[loss_type]
    if loss_type is not None and loss_type not in CLIPPED:
        known = sorted([*CLIPPED, *SURROGATE_AGGREGATION])
        raise CreditError(f"loss_type is {loss_type!r}, expected one of {', '.join(known)}.")
    return CLIPPED.get(loss_type or "", DEFAULT_AGGREGATION)


def _refuse_bnpo(loss_type: str | None) -> None:
    if loss_type == "bnpo":
        raise CreditError(
            "loss_type='bnpo' divides by the tokens of whatever micro-batch is at hand, so its "
            "gradient changes with the batch split; drop it and use credit='dapo', which divides "
            "by the tokens of the whole optimizer step."
        )


def _refuse_second_aggregation(strategy: Strategy, loss_type: str | None) -> None:
    if loss_type not in CLIPPED or _aggregates_by(strategy) == _aggregation_of(loss_type):
        return
    raise CreditError(
        f"loss_type={loss_type!r} aggregates by {_aggregation_of(loss_type)!r}, but "
        f"credit={strategy.name!r} by {_aggregates_by(strategy) or 'itself'!r}; drop loss_type "
        "(the surrogate is the same clipped ratio), or drop credit."
    )


def _refuse_distortions(
    args: GRPOConfig, strategy: Strategy, loss_type: str | None, ratio: str
) -> None:
    if ratio not in ("token", "sequence"):
        raise CreditError(
            f"importance_sampling_level is {ratio!r}, expected 'token' or 'sequence'."
        )
    if args.beta != 0.0 and strategy.aggregation is None:
        raise CreditError(
            f"beta={args.beta} adds a KL term, which takes the strategy's aggregation weights, but "
            f"{strategy.name!r} returns the whole credit; decorate it with @allocation or "
            "@aggregation, or set beta=0."
        )
    if args.multi_objective_aggregation != "sum_then_normalize" and ignores_advantages(strategy):
        raise CreditError(
            f"multi_objective_aggregation={args.multi_objective_aggregation!r} is about TRL's "
            f"advantages, which {strategy.name!r} replaces by its own from the rewards; drop the "
            "setting, or use an allocation of the advantages."
        )
    if args.top_entropy_quantile < 1 and any(r.name == "entropy_top" for r in strategy.rules):
        raise CreditError(
            f"top_entropy_quantile={args.top_entropy_quantile} and {strategy.name!r} both choose "
            "tokens by entropy; drop the setting, which looks at one micro-batch at a time."
        )
    by_sign = {
        "off_policy_mask_threshold": args.off_policy_mask_threshold is not None,
        "loss_type='vespo'": loss_type == "vespo",
    }
    for setting, used in by_sign.items():
        if used and not strategy.keeps_sign:
            raise CreditError(
                f"{setting} decides by the sign of a completion's advantage, but "
                f"{strategy.name!r} may give tokens of one completion both signs; drop the "
                "setting, or use an allocation declared with keeps_sign=True."
            )


def _refuse_other_optima(args: GRPOConfig, strategy: Strategy) -> None:
    reasons = {
        f"beta={args.beta}": (
            args.beta != 0.0,
            "adds a KL term to the loss, which looks at the next token alone and has another "
            "optimum than p^(1/tau); set beta=0: the rule itself holds the policy to the reference",
        ),
        "an entropy bonus": (
            args.entropy_coef != 0.0 or args.use_adaptive_entropy,
            "rewards the entropy of the next token on top of that of strings; set entropy_coef=0",
        ),
        "sync_ref_model=True": (
            args.sync_ref_model,
            "moves the reference p after the policy, so that p^(1/tau) runs away; drop it",
        ),
    }
    for setting, (used, reason) in reasons.items():
        if used and any(rule.name == "temper" for rule in strategy.rules):
            raise CreditError(f"{setting} cannot go with credit={strategy.name!r}: it {reason}.")


def _try_options(strategy: Strategy) -> None:
    """Let the package's own rules say what they think of their options before a model is loaded."""
    if any(strategy.options.values()) and _is_shipped(strategy):
        for rollouts in examples(0):
            strategy.credit(rollouts)


def _is_shipped(strategy: Strategy) -> bool:
    """Whether all of it is the package's own, which holds on any rollouts."""
    given = {key for options in strategy.options.values() for key in options}
    return "function" not in given and all(
        rule.function.__module__.startswith("grpo_credit.")
        for rule in strategy.rules
        if hasattr(rule.function, "__module__")
    )


def teaches_alone(strategy: Strategy) -> bool:
    """Return whether a strategy of the package gives credit where all rewards are equal.

    It is tried out, as `ignores_advantages` is.
    """
    few = [rollouts for rollouts in smallest() if (rollouts.rewards == 1).all()]
    equal = [
        replace(
            rollouts, advantages=0 * rollouts.advantages,
            rewards=torch.full_like(rollouts.rewards, reward),
            rewards_per_func=torch.full_like(rollouts.rewards_per_func, reward),
        )
        for rollouts in [*few, next(examples(0))]  # which has several turns
        for reward in (1.0, 0.0)
    ]  # fmt: skip
    return _is_shipped(strategy) and any(bool(strategy.credit(r).any()) for r in equal)


def ignores_advantages(strategy: Strategy) -> bool:
    """Return whether a strategy gives the same credit whatever TRL's advantages are.

    It is tried out on a small example, without the strategy's wish for what only a run can give.
    """
    if strategy.linear or strategy.whole is not None:
        return False
    for rollouts in examples(2):
        credit = strategy.credit(rollouts)
        if credit.any():
            other = replace(rollouts, advantages=1 - 2 * rollouts.advantages)
            return bool(torch.equal(strategy.credit(other), credit))
    return False


def announce(planned: Plan, args: GRPOConfig) -> None:
    """Say what is trained, and what of it a user may not expect."""
    logger.info(f"grpo-credit: {planned}")
    other = planned.ratio != args.importance_sampling_level
    if other and not isinstance(args, CreditGRPOConfig):
        logger.warning_once(
            f"credit {planned.strategy.name!r} goes with the {planned.ratio}-level ratio; "
            "for another, pass CreditGRPOConfig(importance_sampling_level=...) as args."
        )
    if args.top_entropy_quantile < 1.0:
        logger.warning_once(
            "top_entropy_quantile is taken by TRL over each micro-batch: the gradient depends "
            "on how the step is cut into micro-batches."
        )


def default_config(model: Any) -> CreditGRPOConfig:
    """Return the configuration that a trainer without one takes, as TRL does, by the model's name.

    Args:
        model: a name, or a model.
    """
    name = model if isinstance(model, str) else model.config._name_or_path
    return CreditGRPOConfig(f"{name.split('/')[-1]}-GRPO")
