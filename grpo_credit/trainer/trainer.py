"""`CreditGRPOTrainer`: TRL's `GRPOTrainer` with the credit matrix in place of its advantages.

Nothing of TRL is copied; these of its methods are extended with `super()`, each by a part:

* `_generate`, `_generate_single_turn`, `_tool_call_loop`: `TurnWatch` notes what the model wrote;
* `_calculate_rewards`, `_generate_and_score_completions`: `RolloutCollector` keeps what a strategy
  may see, for whole groups over all ranks, before TRL shuffles and splits the batch;
* `get_batch_samples`, `_prepare_inputs`: `CreditWindow` prepares all micro-batches of an optimizer
  step (the window) when its first one is due, and computes the credit once;
* `compute_loss`: `PassEngine` runs the window in passes of our own cut;
* `_compute_loss`, `_get_per_token_logps_and_entropies`: `CreditLoss` puts the credit in place of
  the advantages; what a subclass sees before is TRL's (`subclasses`);
* `train`, `_save_checkpoint`, `log`: `Resuming` makes whole checkpoints, `StepLog` tells of a step.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor
from trl import GRPOConfig, GRPOTrainer

from grpo_credit.batching.rows import as_rows
from grpo_credit.credit import needs
from grpo_credit.credit.strategy import Strategy
from grpo_credit.trainer import playing, subclasses
from grpo_credit.trainer.collector import RolloutCollector
from grpo_credit.trainer.config import Plan, announce, default_config, plan
from grpo_credit.trainer.loss import CreditLoss, check_loss
from grpo_credit.trainer.micro_batches import CreditWindow
from grpo_credit.trainer.model_card import complete_card
from grpo_credit.trainer.passes.engine import PassEngine
from grpo_credit.trainer.reference import check_origin, referring
from grpo_credit.trainer.resuming import Resuming
from grpo_credit.trainer.scoring import add_sum_sq_probs
from grpo_credit.trainer.seams import check_attributes, check_class
from grpo_credit.trainer.step_log import StepLog
from grpo_credit.trainer.turns import TurnWatch


class CreditGRPOTrainer(GRPOTrainer):
    """TRL's `GRPOTrainer` with a pluggable credit strategy; a drop-in.

    Every constructor argument of `GRPOTrainer` and every option of `GRPOConfig` works, or is
    refused here with a message that names both sides of the clash. Without `credit` the training is
    TRL's own, but that the token count of `dapo`, `cispo` and `vespo` is the optimizer step's also
    where `steps_per_generation` differs from the accumulation steps; TRL takes an average there.

    Args:
        model: as in `GRPOTrainer`, like all arguments that are not named here.
        args: a `CreditGRPOConfig`, or a plain `GRPOConfig`.
        credit: strategy name, `"pkg.mod:obj"`, or a function of `Rollouts`; before `args.credit`.
        credit_kwargs: options of the strategy; instead of `args.credit_kwargs`.

    Raises:
        SeamError: if the installed TRL lacks a seam.
        CreditError: (a ValueError) unknown strategy, wrong option, or settings that clash.

    Logged as `credit/*`: `credit.diagnostics.summary` of the last step before a log, `dead_groups`
    as means over its steps. `log_completions` leaves the credit of every token in `credit/` of the
    output directory (`grpo_credit.load_credit`), `save_rollouts=N` every N-th step in `rollouts/`.

    Example:
        >>> trainer = CreditGRPOTrainer(  # doctest: +SKIP
        ...     model="Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=my_reward, train_dataset=dataset,
        ...     args=CreditGRPOConfig("out"), credit="seq")
    """

    _tag_names = ["trl", "grpo", "grpo-credit"]  # noqa: RUF012 (TRL's way of naming tags)

    args: Any  # a GRPOConfig, after its __post_init__
    model: Any

    def __init__(
        self,
        model: Any, reward_funcs: Any = None, args: GRPOConfig | None = None, *rest: Any,
        credit: str | Callable[..., Any] | Strategy | None = None,
        credit_kwargs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        check_class(GRPOTrainer)
        check_loss(GRPOTrainer)
        args = default_config(model) if args is None else args
        self.plan: Plan = plan(args, credit, credit_kwargs)
        subclasses.check(type(self), CreditGRPOTrainer, self.plan)
        self.credit_scale: float = getattr(args, "credit_scale", 1.0)
        self.save_every: int = getattr(args, "save_rollouts", 0)
        host: Any = self  # what its parts see: `seams.Host`
        self._turns = TurnWatch(host)
        self._collector, self._window = RolloutCollector(host), CreditWindow(host)
        self._loss, self._resuming, self._step_log = CreditLoss(host), Resuming(host), StepLog(host)
        given = signature(GRPOTrainer.__init__).bind_partial(self, *([None] * 3), *rest, **kwargs)
        needs.check_arguments(self.plan.strategy, given.arguments)
        check_origin(model, given.arguments, self.plan)
        with referring(args, self.plan.refers):
            super().__init__(model, reward_funcs, args, *rest, **kwargs)
        self.beta = args.beta
        check_attributes(self)
        self._collector.check()
        add_sum_sq_probs(self)
        self._engine = PassEngine(host)
        self.loss_type = args.loss_type or self.plan.loss_type
        self.importance_sampling_level = self.plan.ratio
        self.add_callback(self._step_log)
        announce(self.plan, args)

    def overrides(self, method: str) -> bool:
        """Return whether a subclass, or an attribute of the trainer, overrides a method of ours."""
        return subclasses.overrides(self, CreditGRPOTrainer, method)

    def _generate(self, prompts: Any) -> Any:
        return self._turns.generate(super()._generate, prompts)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        return self._turns.turn(super()._generate_single_turn, *args, **kwargs)

    def _tool_call_loop(self, *args: Any, **kwargs: Any) -> Any:
        return self._turns.loop(super()._tool_call_loop, *args, **kwargs)

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> Tensor:
        given = inputs, prompts, completions, completion_ids_list
        return self._collector.rewarded(*given, super()._calculate_rewards(*given))

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        return self._collector.generate(super()._generate_and_score_completions, inputs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Remember the batches of the coming optimizer step; there is none beyond the last."""
        if self._resuming.is_over():
            return [], None
        samples = super().get_batch_samples
        return self._window.begin(lambda: samples(*args, **kwargs))

    def _prepare_inputs(  # ty: ignore[lost-keyword-for-regular-parameter] (TRL's own name for it)
        self, generation_batch: Any
    ) -> dict[str, Any]:
        prepare, gather = super()._prepare_inputs, self._collector.gather
        return self._window.inputs(lambda batch: gather(prepare(batch)), generation_batch)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss, of all passes of an accumulation step."""
        loss = super().compute_loss
        return self._engine.run(lambda batch: loss(model, batch, *args, **kwargs), model, inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._window.check(inputs)
        return self._loss.around(super()._compute_loss, model, inputs)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int,
        batch_size: int | None = None, compute_entropy: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        return self._loss.anchored(self._engine.score(
            super()._get_per_token_logps_and_entropies, model,
            as_rows(input_ids, attention_mask, logits_to_keep), batch_size,
            {"compute_entropy": compute_entropy, **kwargs}, everyone=self._collector.generating,
        ))  # fmt: skip

    def complete(self, prompts: list[Any], *, greedy: bool = False, seed: int = 0) -> list[str]:
        """Return a text per prompt, on every rank, by the backend that training uses, evaluating.

        The same call gives the same texts on any number of ranks, but for the rounding of sharded
        models; a vLLM server draws anew each time. With tools or environments: the last assistant
        text of a dialogue (`playing.play` tells all of it). A `rollout_func` is not called.

        Args:
            prompts: texts or conversations, the same list on every rank.
            greedy: take the likeliest token each time instead of sampling as in training.
            seed: of the samples, >= 0.

        Raises:
            CreditError: with tools, if a prompt is no conversation or a `rollout_func` generates.
        """
        return playing.complete(self, prompts, greedy=greedy, seed=seed)

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train as transformers does; a checkpoint that is damaged is refused by ValueError."""
        with self._resuming.from_whole(resume_from_checkpoint) as checkpoint:
            return super().train(checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self._resuming.whole(trial):
            super()._save_checkpoint(model, trial)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if not self._resuming.over:  # else an epoch that ended before would end a second time
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, and write the credit of each token beside the completions table."""
        with self._step_log.around():
            if not self._resuming.over:  # no mean loss over no step
                super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Create TRL's model card, with the held-out numbers and the credit of the training."""
        super().create_model_card(*args, **kwargs)
        if self.accelerator.is_main_process:
            complete_card(self)
