"""`CreditSFTTrainer`: TRL's `SFTTrainer` with the credit matrix in place of its token mean.

    loss of a window = -Σ_i Σ_t C[i, t] · log p(x[i, t] | x[i, <t])

C is allocation × aggregation of the documents of an optimizer step (the window), with advantages 1.
Nothing of TRL is copied; these of its methods are extended with `super()`:

* `get_batch_samples`: sees all micro-batches of the window, and computes the credit once;
* `compute_loss`: gives TRL a model whose log-probabilities are weighed, see `Weighed`;
* `training_step`: notices where a subclass has lost the credit;
* `_set_signature_columns_if_needed`: keeps the column `old_logps` for a rule that reads it.
* `train`, `_save_checkpoint`: `Resuming` makes whole checkpoints, and no step beyond the last.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import Tensor
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from grpo_credit.credit.documents import looks_at_limit
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.trainer.config import asked
from grpo_credit.trainer.model_card import complete_card
from grpo_credit.trainer.resuming import Resuming
from grpo_credit.trainer.sft_config import (
    CreditSFTConfig,
    Supervision,
    check_parallelism,
    supervised,
)
from grpo_credit.trainer.sft_logps import COLUMN, WithLogps, check_column
from grpo_credit.trainer.sft_loss import check_supervised_loss
from grpo_credit.trainer.sft_window import DocumentWindow
from grpo_credit.trainer.step_log import write_table

logger = logging.get_logger(__name__)
_SEEN = "sft_seen"


class CreditSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer` with a pluggable credit strategy; a drop-in.

        loss of a window = -Σ_i Σ_t C[i, t] · log p(x[i, t] | x[i, <t])

    C is computed with advantages 1 from the documents of all ranks and accumulation steps, so that
    the gradient is the same however they are cut, padded or packed. A document is what TRL makes of
    an example (a fragment of it with `packing_strategy="bfd_split"`); one without a predicted token
    counts nowhere. Without `credit` the training is TRL's own, and so is `dapo`, to the last bit.
    Evaluation is always TRL's: nats per token. With `save_rollouts=N`, every N-th step leaves its
    documents in `<output_dir>/rollouts/`, for `grpo-credit show`.

    Args:
        model: as in `SFTTrainer`, like all arguments that are not named here.
        args: a `CreditSFTConfig`, or a plain `SFTConfig`.
        credit: strategy name, `"pkg.mod:obj"`, or a function of `Rollouts`; before `args.credit`.
            It sees what `Rollouts.from_documents` has; `L_max` is `args.max_length`. One that needs
            `old_logps` reads them from a column of the data: a number per token of `input_ids`.
        credit_kwargs: options of the strategy; instead of `args.credit_kwargs`.

    Raises:
        SeamError: if the installed TRL lacks a seam.
        CreditError: (a ValueError) unknown strategy, wrong option, one that needs rewards or
            groups, or a setting whose loss cannot be weighed; see `sft_config.supervised`.

    Example:
        >>> trainer = CreditSFTTrainer(  # doctest: +SKIP
        ...     model="Qwen/Qwen2.5-0.5B", train_dataset=dataset,
        ...     args=CreditSFTConfig("out"), credit="seq")
    """

    _tag_names = ["trl", "sft", "grpo-credit"]  # noqa: RUF012 (TRL's way of naming tags)

    args: Any  # an SFTConfig, after its __post_init__
    state: Any

    def __init__(
        self, model: Any, args: SFTConfig | None = None, *rest: Any,
        credit: str | Callable[..., Any] | Strategy | None = None,
        credit_kwargs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        check_supervised_loss(SFTTrainer)
        args = _default_config(model) if args is None else args
        given = signature(SFTTrainer.__init__).bind_partial(self, model, args, *rest, **kwargs)
        own_loss = given.arguments.get("compute_loss_func")
        self.strategy: Any = supervised(args, *asked(args, credit, credit_kwargs), own_loss)
        self.plan = Supervision.of(self.strategy)
        self._save_every: int = getattr(args, "save_rollouts", 0)
        host: Any = self  # what its part sees: `seams.Host`
        self._resuming = Resuming(host)
        if self._reads_logps:
            check_column(self.strategy.name, given.arguments.get("train_dataset"))
        super().__init__(model, args, *rest, **kwargs)
        limited = self.strategy and looks_at_limit(self.strategy)
        self._limit = self.args.max_length if limited else None
        if self.strategy:
            check_parallelism(self)
            if self._reads_logps:
                self.data_collator = WithLogps(self.data_collator)
            logger.info(f"grpo-credit: {self.plan}")

    @property
    def _reads_logps(self) -> bool:
        return self.strategy is not None and COLUMN in self.strategy.needs

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        if self._reads_logps and COLUMN not in columns:
            self._signature_columns = [*columns, COLUMN]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of an optimizer step, each with its credit; none beyond the last."""
        if self._resuming.is_over():
            return [], None
        seen = self.state.stateful_callbacks.get(_SEEN, {})  # which a resume brings back
        self._total_train_tokens = max(self._total_train_tokens, seen.get("tokens", 0))
        samples, items = super().get_batch_samples(*args, **kwargs)
        if self.strategy and samples and items is None:
            raise CreditError(
                f"credit={self.strategy.name!r} needs batches with labels and a model that takes "
                "num_items_in_batch (**kwargs in its forward); this one is trained by the mean of "
                "each micro-batch, whatever the others hold."
            )
        step = self.state.global_step + 1
        kept = self._save_every > 0 and step % self._save_every == 0
        if not samples or not (self.strategy or kept):
            return samples, items
        window = DocumentWindow(
            samples, self.accelerator.process_index, self._limit, self._reads_logps
        )
        if kept:
            self._keep(window, step)
        if self.strategy:
            credit = self.strategy.credit(window.rollouts) * self._divisor(items)
            samples = window.weighed(credit)
        return samples, items

    def _keep(self, window: DocumentWindow, step: int) -> None:
        """Keep the documents of the step to come in `<output_dir>/rollouts/`."""
        heads, strategy = window.heads(), self.plan.strategy
        options = {k: v for given in strategy.options.values() for k, v in given.items()}
        named = getattr(self.args, "credit", None) or strategy.name  # with its module, where it has
        told = heads, self.processing_class, named, options
        write_table(self, "rollouts", lambda path: window.save(path, *told), step)

    def _divisor(self, items: Any) -> float:
        """Return what TRL, and the mean over ranks, will divide the loss by."""
        averaged = self.args.average_tokens_across_devices
        return max(float(items), 1.0) * (1 if averaged else self.accelerator.num_processes)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Train on a micro-batch as TRL does; refuse to go on where its credit was not used."""
        self._used = self.strategy is None
        loss = super().training_step(*args, **kwargs)
        self.state.stateful_callbacks[_SEEN] = {"tokens": self._total_train_tokens}
        if not self._used:
            raise CreditError(
                f"{type(self).__name__} has trained without its credit: get_batch_samples or "
                "compute_loss is overridden and does not call super() with the batch; call it."
            )
        return loss

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute TRL's loss, of a weighed model where the batch has credit."""
        weighed = inputs.pop("credit", None)
        inputs.pop(COLUMN, None)  # no input of the model
        if weighed is not None:
            self._used, model = True, weighed(model)
        return super().compute_loss(model, inputs, *args, **kwargs)

    # ---- checkpoints, logs ---------------------------------------------------------------------

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
        """Log as TRL does, but no mean loss over no step."""
        if not self._resuming.over:
            super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Create TRL's model card, with the held-out numbers and the credit of the training."""
        super().create_model_card(*args, **kwargs)
        if self.accelerator.is_main_process:
            complete_card(self)


def _default_config(model: Any) -> CreditSFTConfig:
    name = model if isinstance(model, str) else model.config._name_or_path
    return CreditSFTConfig(f"{name.split('/')[-1]}-SFT")
