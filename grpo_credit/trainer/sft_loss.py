"""The credit of documents on its way through TRL's supervised loss."""

import inspect
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from grpo_credit.trainer.seams import SeamError


def documents_of(batch: Any) -> tuple[Bool[Tensor, "rows columns"], list[list[int]]]:
    """Find the documents of a batch: its rows, or what position ids of packed rows tell apart.

    Args:
        batch: of TRL's collator; "labels" (rows, T), -100 where nothing is predicted, and
            "position_ids" alike where a row may hold several documents, each from 0 on.

    Returns:
        Which of the columns 1 to T - 1 are predicted, and the ids that are, document by document;
        one without any, such as padding, is left out.
    """
    labels = batch["labels"]
    predicted = labels[:, 1:] != -100
    number = _numbers(batch)[:, 1:]
    sizes = number[predicted].unique_consecutive(return_counts=True)[1].tolist()
    return predicted, [ids.tolist() for ids in labels[:, 1:][predicted].split(sizes)]


def heads_of(batch: Any) -> list[list[int]]:
    """Return the ids before the first predicted token of each document of `documents_of`."""
    number, ids = _numbers(batch).flatten(), batch["input_ids"].flatten()
    predicted = batch["labels"] != -100
    predicted[:, 0] = False
    places = [(number == each).nonzero().flatten() for each in number[predicted.flatten()].unique()]
    return [ids[own[: int(predicted.flatten()[own].int().argmax())]].tolist() for own in places]


def _numbers(batch: Any) -> Int[Tensor, "rows columns"]:
    """Number the documents of a batch from 1 on, column by column."""
    labels, positions = batch["labels"], batch.get("position_ids")
    starts = torch.zeros_like(labels, dtype=torch.bool)
    if positions is not None and positions.shape == labels.shape:
        starts = positions == 0
    starts[:, 0] = True
    return starts.flatten().cumsum(0).view_as(starts)


class Weighed:
    """A model whose log-probabilities are weighed on their way to TRL's loss.

    Entropy, accuracy and the loss of a mixture of experts stay as they are.

    Args:
        model: may be wrapped.
        where: which columns are weighed; the others are 0 in TRL's fused head.
        weights: of these, one after another.
    """

    def __init__(
        self, model: Any, where: Bool[Tensor, "rows columns"], weights: Float[Tensor, " n"]
    ) -> None:
        self._model, self._where, self._weights = model, where, weights

    def __call__(self, **inputs: Any) -> Any:
        """Return what the model says, with weighed `log_probs` where it is the fused head."""
        outputs = self._model(**inputs)
        if inputs.get("fused_lm_head"):
            logps = outputs.log_probs
            if logps.shape != self._where.shape:
                raise SeamError(f"log_probs of {tuple(self._where.shape)} in its fused head")
            weights = torch.zeros_like(logps)
            weights[self._where] = self._weights.to(logps)
            outputs.log_probs = logps * weights
        return outputs


def check_supervised_loss(trainer: type[Any]) -> None:
    """Try on TRL's own loss, with two rows of two tokens, whether weights go through it.

        loss = -Σ w · log p / items · ranks

    Args:
        trainer: TRL's `SFTTrainer`.

    Raises:
        SeamError: if it gives anything else.
    """
    if not callable(getattr(trainer, "get_batch_samples", None)):
        raise SeamError(f"{trainer.__name__}.get_batch_samples")
    logps, where = torch.tensor([[-1.0, -2.0], [-0.5, 0.0]]), torch.tensor([[1, 1], [1, 0]]).bool()
    outputs = SimpleNamespace(log_probs=logps, entropy=logps, is_top1=where, label_mask=where)
    model = Weighed(lambda **_: outputs, where, torch.tensor([3.0, -1.0, 0.5]))
    host = SimpleNamespace(
        model=SimpleNamespace(training=True), aux_loss_enabled=False, compute_loss_func=None,
        label_smoother=None, get_tp_size=lambda: 1, _tp_size=1, _total_train_tokens=0,
        _metrics={"train": defaultdict(list)}, current_gradient_accumulation_steps=4,
        accelerator=SimpleNamespace(
            parallelism_config=None, num_processes=2, gather_for_metrics=lambda value: value),
        args=SimpleNamespace(loss_type="nll", average_tokens_across_devices=True),
    )  # fmt: skip
    name = f"{trainer.__name__}.compute_loss that weights go through"
    inputs = {"labels": where.long(), "attention_mask": where.long()}
    try:
        loss = float(inspect.unwrap(trainer.compute_loss)(
            host, model, inputs, num_items_in_batch=torch.tensor(5)))  # fmt: skip
    except Exception as error:  # of whatever kind: the code of another version decides
        raise SeamError(f"{name} ({error!r})") from error
    expected = -(3 * -1.0 - 1 * -2.0 + 0.5 * -0.5) / 5 * 2
    if not math.isclose(loss, expected, rel_tol=1e-4):
        raise SeamError(f"{name} (it gave {loss:.6g}, expected {expected:.6g})")
