"""`CreditSFTTrainer`: TRL's `SFTTrainer` with the credit matrix in place of its token mean.

    loss of a window = -Σ_i Σ_t C[i, t] · log p(x[i, t] | x[i, <t])

C is allocation × aggregation of the documents of an optimizer step (the window), with advantages 1.
Nothing of TRL is copied; these of its methods are extended with `super()`:

* `get_batch_samples`: sees all micro-batches of the window, and computes the credit once;
* `compute_loss`: gives TRL a model whose log-probabilities are weighed, see `Weighed`;
* `training_step`: notices where a subclass has lost the credit;
* `_set_signature_columns_if_needed`: keeps the column `old_logps` for a rule that reads it.
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer

from grpo_credit.credit.documents import looks_at_limit
from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.strategy import CreditError, Strategy
from grpo_credit.trainer.config import asked
from grpo_credit.trainer.sft_config import CreditSFTConfig, check_parallelism, supervised
from grpo_credit.trainer.sft_logps import COLUMN, WithLogps, check_column, logps_of
from grpo_credit.trainer.sft_loss import Weighed, check_supervised_loss, documents_of

logger = logging.get_logger(__name__)


class CreditSFTTrainer(SFTTrainer):
    """TRL's `SFTTrainer` with a pluggable credit strategy; a drop-in.

        loss of a window = -Σ_i Σ_t C[i, t] · log p(x[i, t] | x[i, <t])

    C is computed with advantages 1 from the documents of all ranks and accumulation steps, so that
    the gradient is the same however they are cut, padded or packed. A document is what TRL makes of
    an example (a fragment of it with `packing_strategy="bfd_split"`); one without a predicted token
    counts nowhere. Without `credit` the training is TRL's own, and so is `dapo`, to the last bit.
    Evaluation is always TRL's: nats per token.

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
        super().__init__(model, args, *rest, **kwargs)
        if self.strategy:
            check_parallelism(self)
            self._limit = self.args.max_length if looks_at_limit(self.strategy) else None
            if self._reads_logps:
                check_column(self.strategy.name, self.train_dataset)
                self.data_collator = WithLogps(self.data_collator)
            logger.info(f"grpo-credit: credit {self.strategy.name} | supervised")

    @property
    def _reads_logps(self) -> bool:
        return self.strategy is not None and COLUMN in self.strategy.needs

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        if self._reads_logps and COLUMN not in columns:
            self._signature_columns = [*columns, COLUMN]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the batches of an optimizer step, each with its credit."""
        samples, items = super().get_batch_samples(*args, **kwargs)
        if not self.strategy or not samples:
            return samples, items
        if items is None:
            raise CreditError(
                f"credit={self.strategy.name!r} needs batches with labels and a model that takes "
                "num_items_in_batch (**kwargs in its forward); this one is trained by the mean of "
                "each micro-batch, whatever the others hold."
            )
        return self._weighed(samples, self._divisor(items)), items

    def _weighed(self, samples: list[Any], divisor: float) -> list[dict[str, Any]]:
        """Give each batch what makes of a model one that is weighed by C · divisor."""
        layouts = [documents_of(batch) for batch in samples]
        told = [self._told(*each) for each in zip(samples, layouts, strict=True)]
        ranks = gather_object([[document for batch in told for document in batch]])
        every = [document for rank in ranks for document in rank]
        window = Rollouts.from_documents(
            [len(ids) for ids, _ in every] or [0],
            max_length=self._limit, token_ids=[ids for ids, _ in every],
            old_logps=[own for _, own in every] if self._reads_logps else None,
            dtype=torch.float64,
        )  # fmt: skip
        credit = self.strategy.credit(window)[window.mask] * divisor
        earlier = ranks[: self.accelerator.process_index]
        sizes = [int(predicted.sum()) for predicted, _ in layouts]
        own = credit[sum(len(ids) for rank in earlier for ids, _ in rank) :][: sum(sizes)]
        return [
            {**batch, "credit": partial(Weighed, where=predicted, weights=weights)}
            for batch, (predicted, _), weights in zip(
                samples, layouts, own.float().split(sizes), strict=True
            )
        ]

    def _told(self, batch: Any, layout: Any) -> list[tuple[list[int], list[float]]]:
        """Return the ids of each document of a batch, and log-probabilities where they are read."""
        _, documents = layout
        logps = logps_of(batch, *layout) if self._reads_logps else [[]] * len(documents)
        return list(zip(documents, logps, strict=True))

    def _divisor(self, items: Any) -> float:
        """Return what TRL, and the mean over ranks, will divide the loss by."""
        averaged = self.args.average_tokens_across_devices
        return max(float(items), 1.0) * (1 if averaged else self.accelerator.num_processes)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Train on a micro-batch as TRL does; refuse to go on where its credit was not used."""
        self._used = self.strategy is None
        loss = super().training_step(*args, **kwargs)
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


def _default_config(model: Any) -> CreditSFTConfig:
    name = model if isinstance(model, str) else model.config._name_or_path
    return CreditSFTConfig(f"{name.split('/')[-1]}-SFT")
