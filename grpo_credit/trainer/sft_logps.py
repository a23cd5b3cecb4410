"""A column of log-probabilities on its way from the data to the credit of documents."""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grpo_credit.errors import CreditError

COLUMN = "old_logps"
ROUNDING = 1e-3  # by which a log-probability may exceed 0


def check_column(strategy: str, data: Any) -> None:
    """Refuse data without the column, where its columns are known.

    Raises:
        CreditError: naming the columns there are.
    """
    columns = getattr(data, "column_names", None)
    if columns is not None and COLUMN not in columns:
        raise CreditError(
            f"{strategy!r} needs the log-probability of each token under the model that wrote it: "
            f"a column {COLUMN!r} beside 'input_ids', a number per token (the first is not read). "
            f"The data have {', '.join(columns)}."
        )


class WithLogps:
    """A collator that takes the column along, laid out as labels are: in rows, or flattened.

    Args:
        collate: of TRL, or a user's.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate examples.

        Raises:
            CreditError: if one has another number of log-probabilities than of tokens.
        """
        batch = self._collate(examples)
        if all(COLUMN in example for example in examples):
            rows = [_numbers(example) for example in examples]
            rows = rows if len(batch["labels"]) == len(rows) else [[*chain(*rows)]]
            laid_out = torch.zeros(batch["labels"].shape)
            for row, numbers in enumerate(rows):
                laid_out[row, : len(numbers)] = torch.tensor(numbers)
            batch[COLUMN] = laid_out
        return batch


def _numbers(example: dict[str, Any]) -> list[float]:
    given, tokens = example[COLUMN], len(example["input_ids"])
    if len(given) != tokens:
        raise CreditError(
            f"a document has {len(given)} {COLUMN} for {tokens} input_ids, expected one each; give "
            "token ids, not text, and no more of them than max_length."
        )
    return [math.nan if number is None else number for number in given]


def logps_of(
    batch: Any, predicted: Bool[Tensor, "rows columns"], documents: list[list[int]]
) -> list[list[float]]:
    """Return the log-probabilities of the predicted tokens, document by document.

    Args:
        batch: as `WithLogps` collates it.
        predicted: see `sft_loss.documents_of`, which gives this, and the documents.
        documents: the ids of the predicted tokens of each.

    Raises:
        CreditError: if there are none, or one is no log-probability.
    """
    if COLUMN not in batch:
        raise CreditError(
            f"a batch has no {COLUMN!r}: documents or the data_collator leave it out."
        )
    found: Float[Tensor, " n"] = batch[COLUMN][:, 1:][predicted]
    wrong = ~(found.isfinite() & (found <= ROUNDING))
    if wrong.any():
        raise CreditError(
            f"{COLUMN} holds {float(found[wrong][0]):g} for a predicted token; expected the "
            "logarithm of its probability: finite, and at most 0."
        )
    return [own.tolist() for own in found.split([len(ids) for ids in documents])]
