"""`CreditGRPOTrainer`: TRL's `GRPOTrainer` with the credit matrix in place of its advantages.

Nothing of TRL is copied; these of its methods are extended with `super()`:

* `_calculate_rewards`, `_generate_and_score_completions`: keep what a strategy may see, for whole
  groups over all ranks, before TRL shuffles and splits the batch (`grpo_credit.trainer.collector`);
* `get_batch_samples`, `_prepare_inputs`: prepare all micro-batches of an optimizer step (the
  window) when its first one is due, compute the credit once, and hand it to TRL as advantages;
* `compute_loss`: run the window in passes of our own cut (`grpo_credit.trainer.passes`);
* `_compute_loss`, `_get_per_token_logps_and_entropies`: put the credit in place of the advantages,
  weigh the KL term as the strategy does, and move the anchor of a sequence-level ratio over token
  credit (`grpo_credit.trainer.loss`). What a subclass sees before is TRL's (`.subclasses`).
* what saves and resumes (`grpo_credit.trainer.resuming`).
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import trl
from accelerate.utils import gather
from jaxtyping import Float
from torch import Tensor
from transformers import TrainerCallback
from transformers.utils import logging
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from grpo_credit.batching import eligibility
from grpo_credit.credit import diagnostics, needs
from grpo_credit.credit.saved import save_rollouts
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.records.files import aside
from grpo_credit.trainer import completing, subclasses
from grpo_credit.trainer.config import CreditGRPOConfig, Plan, plan
from grpo_credit.trainer.credit_tables import save_credit
from grpo_credit.trainer.loss import (
    RowBeta,
    counted,
    host_weight,
    items_for_unit_weight,
    sequence_token_anchor,
)
from grpo_credit.trainer.model_card import complete_card
from grpo_credit.trainer.resuming import ResumableTrainer
from grpo_credit.trainer.seams import SeamError, check_seams
from grpo_credit.trainer.subclasses import HandedOut
from grpo_credit.trainer.window import Generation, Window, first_rows, token_texts

logger = logging.get_logger(__name__)


class CreditGRPOTrainer(ResumableTrainer):
    """TRL's `GRPOTrainer` with a pluggable credit strategy; a drop-in.

    Every constructor argument of `GRPOTrainer` and every option of `GRPOConfig` works, or is
    refused here with a message that names both sides of the clash. Without `credit` the training is
    TRL's own, but that the token count of `dapo`, `cispo` and `vespo` is the optimizer step's also
    where `steps_per_generation` differs from the accumulation steps; TRL takes an average there.

    Args:
        model: as in `GRPOTrainer`, like all arguments that are not named here.
        reward_funcs: as in `GRPOTrainer`.
        args: a `CreditGRPOConfig`, or a plain `GRPOConfig`.
        *rest: as in `GRPOTrainer`.
        credit: strategy name, `"pkg.mod:obj"`, or a function of `Rollouts`; instead of
            `args.credit`.
        credit_kwargs: options of the strategy; instead of `args.credit_kwargs`.
        **kwargs: as in `GRPOTrainer`.

    Raises:
        SeamError: if the installed TRL lacks a seam.
        CreditError: (a ValueError) unknown strategy, wrong option, or settings that clash.

    Logged as `credit/*`, besides TRL's metrics: `credit.diagnostics.summary` of the last optimizer
    step before a log, and `dead_groups` as means over the steps that it is about. With
    `log_completions`, each log writes the credit of every token of its last step to
    `<output_dir>/credit/credit_<step>.parquet` (`grpo_credit.load_credit` reads it); with
    `save_rollouts=N`, every N-th step leaves its whole rollouts in `<output_dir>/rollouts/`.

    Example:
        >>> trainer = CreditGRPOTrainer(  # doctest: +SKIP
        ...     model="Qwen/Qwen2.5-0.5B-Instruct", reward_funcs=my_reward, train_dataset=dataset,
        ...     args=CreditGRPOConfig("out"), credit="seq")
    """

    _tag_names = ["trl", "grpo", "grpo-credit"]  # noqa: RUF012 (TRL's way of naming tags)

    args: Any  # a GRPOConfig, after its __post_init__
    model: Any
    processing_class: Any
    _handed_out: HandedOut | None = None  # the micro-batch whose turn it is, if it is TRL's

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *rest: Any,
        credit: str | Callable[..., Any] | Strategy | None = None,
        credit_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_seams(GRPOTrainer, trl.__version__)
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = CreditGRPOConfig(f"{name.split('/')[-1]}-GRPO")
        self.plan: Plan = plan(args, credit, credit_kwargs)
        subclasses.check(type(self), CreditGRPOTrainer, self.plan)
        self._window: list[Any] = []  # the data loader's batches of the coming optimizer step
        self._prepared: Iterator[dict[str, Any]] = iter(())  # its micro-batches, with credit
        self._generations: dict[int, Generation] = {}  # what the window and TRL's buffer draw on
        self._anchored: dict[str, Any] | None = None  # inputs whose ratio is to be re-anchored
        self._trained_on: tuple[Window, Tensor] | None = None
        self._undescribed: tuple[Any, ...] = ()  # the credit of a step that is not yet logged
        given = signature(GRPOTrainer.__init__).bind_partial(self, *([None] * 3), *rest, **kwargs)
        needs.check_loop(self.plan.strategy, given.arguments)
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        self._check_columns()
        needs.check_told(
            self.plan.strategy.name, self.plan.strategy.needs, self._named_rewards(), self._weights
        )
        self._save_every = getattr(args, "save_rollouts", 0)
        self._credit_scale = getattr(args, "credit_scale", 1.0)
        if "sum_sq_probs" in self.plan.strategy.needs or self._save_every:
            add_fused_lm_head(  # TRL's own, with one output more
                self._host_model,
                temperature=self.temperature,
                cast_lm_head_to_fp32=args.cast_lm_head_to_fp32,
                outputs=("log_probs", "entropy", "log_sum_sq_probs"),
            )
        self._batching = eligibility.choose(self)
        self.loss_type = args.loss_type or self.plan.loss_type
        self.importance_sampling_level = self.plan.ratio
        if self._save_every:
            self.add_callback(SaveRollouts(self, self._save_every))
        self._announce(args)

    def _announce(self, args: GRPOConfig) -> None:
        logger.info(f"grpo-credit: {self.plan}")
        if not isinstance(args, CreditGRPOConfig) and self.plan.ratio != (
            args.importance_sampling_level
        ):
            logger.warning_once(
                f"credit {self.plan.strategy.name!r} goes with the {self.plan.ratio}-level ratio; "
                "for another, pass CreditGRPOConfig(importance_sampling_level=...) as args."
            )
        if self.top_entropy_quantile < 1.0:
            logger.warning_once(
                "top_entropy_quantile is taken by TRL over each micro-batch: the gradient depends "
                "on how the step is cut into micro-batches."
            )

    def _check_columns(self) -> None:
        columns = getattr(self.train_dataset, "column_names", None)
        if columns is None:
            return  # a stream does not know them before its first row
        given = ("prompts", "completions", "completion_ids", "trainer_state")  # by TRL
        needs.check_columns(self._named_rewards(), [*columns, *given])
        privileged = self.plan.privileged_column
        if "privileged_logps" in self.plan.strategy.needs and privileged not in columns:
            raise CreditError(
                f"{self.plan.strategy.name!r} scores completions after the prompts of the column "
                f"{privileged!r}; the data set has {', '.join(columns)}. Add the column, or name "
                "another with privileged_column."
            )

    # ---- the window: credit once per optimizer step -------------------------------------------

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Remember the batches of the coming optimizer step."""
        if self.overrides("get_batch_samples") and next(self._prepared, None) is not None:
            raise CreditError(
                f"{type(self).__name__}.get_batch_samples returned fewer batches than super() did, "
                "and the credit of a step is over all of them; leave rows out of the data, or in "
                "_generate_and_score_completions."
            )
        samples, num_items = super().get_batch_samples(*args, **kwargs)
        self._window, self._prepared = samples, iter(())
        return samples, num_items

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        self._refuse_loss_without_credit()
        if self._mode == "eval":
            batch = self._with_credit([super()._prepare_inputs(generation_batch)])[0]
        else:
            batch = self._next_of_window()
        whole = "turn" not in batch
        self._handed_out = HandedOut(batch, self.plan.strategy) if whole else None
        return batch

    def _next_of_window(self) -> dict[str, Any]:
        if self._window:
            self._prepared = iter(self._with_credit(self._micro_batches()))
            self._window = []
        try:
            return next(self._prepared)
        except StopIteration:
            raise RuntimeError(
                "_prepare_inputs was called without a batch of an optimizer step, so the totals of "
                "its window are unknown; call get_batch_samples first, as Trainer.train does, and "
                "super().get_batch_samples in one of your own."
            ) from None

    def _refuse_loss_without_credit(self) -> None:
        if self._handed_out is None or self._handed_out.reached or not self.plan.explicit:
            return
        if own := next(filter(self.overrides, subclasses.LOSSES), None):
            raise CreditError(subclasses.without_credit(type(self).__name__, own, self.plan))

    def _micro_batches(self) -> list[dict[str, Any]]:
        """Let TRL prepare every micro-batch of the step now, each as if its turn had come."""
        first, batches = self._step, []
        try:
            for offset, samples in enumerate(self._window):
                self._step = first + offset
                batches.append(super()._prepare_inputs(samples))
        finally:
            self._step = first
        return batches

    def _with_credit(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Compute the credit of a window, and put it beside TRL's advantages."""
        window, rows = self._join(batches)
        rollouts, strategy = window.rollouts, self.plan.strategy
        subclasses.refuse_second_allocation(type(self).__name__, window.advantages, strategy)
        matrix, weights = strategy.credit_and_weights(rollouts)
        even = None if weights is None else window.advantages * weights * self._credit_scale
        matrix = matrix * self._credit_scale if even is None or not strategy.even else even
        credit = torch.where(rollouts.mask, matrix, 0.0)
        self._record(window, credit, even)
        weights = torch.ones_like(rollouts.advantages)[:, None] if weights is None else weights
        credited = [
            {**batch, "credit_weights": weights[own], "credit_steps": len(batches)}
            | ({} if strategy.even else {"credit": matrix[own, : batch["completion_ids"].size(1)]})
            for batch, own in zip(batches, rows, strict=True)
        ]
        turns = self._turns(credited, credit[torch.cat(rows)].any(dim=1))
        return credited if turns is None else [{"turn": turn} for turn in turns]

    def _join(self, batches: list[dict[str, Any]]) -> tuple[Window, list[Tensor]]:
        """Join the generations that the window draws on, and locate each micro-batch's rows."""
        drawn = {int(batch["generation"]) for batch in batches}
        generations = {n: g for n, g in self._generations.items() if n in drawn}
        start = first_rows(generations)
        rows = [batch["row"] + start[int(batch["generation"])] for batch in batches]
        buffered = {int(batch["generation"]) for batch in self._buffered_inputs or []}
        self._generations = {n: g for n, g in self._generations.items() if n in drawn | buffered}
        return Window.join(list(generations.values()), gather(torch.cat(rows))), rows

    # ---- the loss -----------------------------------------------------------------------------

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        if self._handed_out is not None:
            self._handed_out.check(inputs)
        weights, steps = inputs["credit_weights"], inputs["credit_steps"]
        training, ranks = self._mode == "train", self.accelerator.num_processes
        host = host_weight(self.plan.loss_type, inputs, steps, ranks)
        items = items_for_unit_weight(ranks, self.args.steps_per_generation if training else 1)
        inputs = {
            **inputs,
            "advantages": self._credit_of(inputs) / host,
            "num_items_in_batch": inputs["completion_mask"].new_tensor(items),
        }
        if self.plan.sequence_token and inputs.get("old_per_token_logps") is not None:
            self._anchored = inputs
        try:
            with self._as_planned(), self._kl_by_strategy(weights / host):
                loss = super()._compute_loss(model, inputs)
            if self._anchored is not None:
                raise CreditError(
                    f"{type(self).__name__}._get_per_token_logps_and_entropies does not call "
                    f"super(), where credit={self.plan.strategy.name!r} moves the anchor of its "
                    "sequence-level ratio; call it, or set importance_sampling_level='token'."
                )
            return loss
        finally:
            self._anchored = None

    def _credit_of(self, inputs: dict[str, Any]) -> Float[Tensor, "b _"]:
        """Return the credit of a micro-batch: with `even`, of the advantages as they are now."""
        if not self.plan.strategy.even:
            return inputs["credit"]
        advantages = inputs["advantages"]
        per_row = advantages if advantages.dim() == 2 else advantages[:, None]
        return per_row * inputs["credit_weights"] * self._credit_scale

    @contextmanager
    def _as_planned(self) -> Generator[None, None, None]:
        """Let TRL compute the surrogate that the credit goes through."""
        kept = self.loss_type, self.importance_sampling_level
        self.loss_type, self.importance_sampling_level = self.plan.loss_type, self.plan.trl_ratio
        try:
            yield
        finally:
            self.loss_type, self.importance_sampling_level = kept

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        logps, entropies, aux_loss = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._anchored is not None:
            inputs, self._anchored = self._anchored, None
            inputs["old_per_token_logps"] = sequence_token_anchor(
                logps.detach(), inputs["old_per_token_logps"], counted(inputs)
            )
        return logps, entropies, aux_loss

    @contextmanager
    def _kl_by_strategy(self, weights: Float[Tensor, "b _"]) -> Generator[None, None, None]:
        if self.beta == 0.0:
            yield
            return
        beta, self.beta = self.beta, RowBeta.of(self.beta, weights)
        try:
            yield
            if not self.beta.used:
                raise SeamError("`self.beta * per_token_kl` in _compute_loss", trl.__version__)
        finally:
            self.beta = beta

    # ---- completions outside of training ------------------------------------------------------

    def complete(self, prompts: list[Any], *, greedy: bool = False, seed: int = 0) -> list[str]:
        """Complete prompts with the current policy, by the backend that training uses.

        In evaluation mode, a generation batch of a rank at once; modes and random states are left
        as they were. The same call gives the same texts on any number of ranks, but for the
        rounding of sharded models; samples of a vLLM server are drawn anew each time. See
        `grpo_credit.trainer.completing`.

        Args:
            prompts: texts or conversations, the same list on every rank.
            greedy: take the likeliest token each time instead of sampling as in training.
            seed: of the samples, >= 0.

        Returns:
            One text per prompt, on every rank; tools and a `rollout_func` are not called.
        """
        return completing.complete(self, prompts, greedy=greedy, seed=seed)

    # ---- what was trained on is what is logged ------------------------------------------------

    def _record(
        self,
        window: Window,
        credit: Float[Tensor, "B T"],
        even: Float[Tensor, "B _"] | None,
    ) -> None:
        kept: Any = self.state.stateful_callbacks  # which a resume brings back
        seen = kept.setdefault(f"credit_rewards_{self._mode}", {})
        midpoint = diagnostics.midpoint(window.rollouts.rewards, seen)
        self._append_metrics(diagnostics.dead_groups(window.rollouts, midpoint))
        described = credit, window.rollouts, even
        if self._mode == "eval":
            return self._append_metrics(diagnostics.summary(*described))
        self._undescribed = described
        if self.log_completions or self._save_every:
            self._trained_on = window, credit

    def _append_metrics(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._metrics[self._mode][f"credit/{name}"].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, and write the credit of each token beside the completions table."""
        training = self._mode == "train"
        if training and self._undescribed:
            self._append_metrics(diagnostics.summary(*self._undescribed))
            self._undescribed = ()
        super().log(logs, start_time)
        if training and self.log_completions and self._trained_on is not None:
            told = *self._trained_on, self._tokenizer, self.state.global_step
            self._write("credit", lambda path: save_credit(path, *told))

    def _write(self, kind: str, write: Callable[[Path], Any]) -> None:
        """Write a file of the last optimizer step on the main process."""
        if self.accelerator.is_main_process:
            folder = Path(self.args.output_dir) / kind
            folder.mkdir(parents=True, exist_ok=True)
            with aside(folder / f"{kind}_{self.state.global_step:05d}.parquet") as temporary:
                write(temporary)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Create TRL's model card, with the held-out numbers and the credit of the training."""
        super().create_model_card(*args, **kwargs)
        if self.accelerator.is_main_process:
            complete_card(self)

    def save_rollouts(self) -> None:
        """Keep the rollouts of the last optimizer step in `<output_dir>/rollouts/`."""
        if self._trained_on is None:
            raise RuntimeError("there was no optimizer step yet whose rollouts could be saved.")
        window, strategy = self._trained_on[0], self.plan.strategy
        named = getattr(self.args, "credit", None)  # with its module, where it has one
        tokens = token_texts(window.rollouts, self._tokenizer)
        options = {k: v for given in strategy.options.values() for k, v in given.items()}
        self._write(
            "rollouts",
            lambda path: save_rollouts(
                path,
                window.rollouts,
                window.prompts,
                tokens,
                named if isinstance(named, str) else strategy.name,
                options,
                window.prompt_ids,
                self.temperature,
            ),
        )


class SaveRollouts(TrainerCallback):
    """Save the rollouts of every N-th optimizer step, once it is done."""

    def __init__(self, trainer: CreditGRPOTrainer, every: int) -> None:
        self.trainer, self.every = trainer, every

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save, if it is this step's turn."""
        if state.global_step % self.every == 0:
            self.trainer.save_rollouts()
