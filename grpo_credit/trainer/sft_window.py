"""`DocumentWindow`: the documents of an optimizer step, and the weights of their tokens."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.rollouts import Rollouts
from grpo_credit.credit.saved import save_rollouts
from grpo_credit.trainer.sft_logps import logps_of
from grpo_credit.trainer.sft_loss import Weighed, documents_of, heads_of
from grpo_credit.trainer.window import token_texts


class DocumentWindow:
    """The documents of an optimizer step, of all ranks and accumulation steps.

    Args:
        batches: this rank's; make it on every rank.
        rank: this process.
        limit: `L_max` in tokens; None for the longest document.
        with_logps: whether the batches have the column `old_logps`, and the credit reads it.
    """

    def __init__(
        self, batches: list[dict[str, Any]], rank: int, limit: int | None, with_logps: bool = False
    ) -> None:
        self._batches, self._layouts = batches, [documents_of(batch) for batch in batches]
        told = zip(self._batches, self._layouts, strict=True)
        ranks = gather_object([[each for one in told for each in _told(*one, with_logps)]])
        every = [each for own in ranks for each in own]
        self._first = sum(len(ids) for own in ranks[:rank] for ids, _ in own)
        self.rollouts = Rollouts.from_documents(
            [len(ids) for ids, _ in every] or [0],
            max_length=limit, token_ids=[ids for ids, _ in every],
            old_logps=[logps for _, logps in every] if with_logps else None,
            dtype=torch.float64,
        )  # fmt: skip

    def weighed(self, credit: Float[Tensor, "B T"]) -> list[dict[str, Any]]:
        """Give each batch what makes of a model one whose log-probabilities are weighed."""
        sizes = [int(predicted.sum()) for predicted, _ in self._layouts]
        own = credit[self.rollouts.mask][self._first :][: sum(sizes)].float().split(sizes)
        return [
            {**batch, "credit": partial(Weighed, where=predicted, weights=weights)}
            for batch, (predicted, _), weights in zip(
                self._batches, self._layouts, own, strict=True
            )
        ]

    def heads(self) -> list[list[int]]:
        """Return the ids before the first predicted token of each document; call on every rank."""
        return gather_object([head for batch in self._batches for head in heads_of(batch)])

    def save(
        self, path: Path, heads: list[list[int]], tokenizer: Any, credit: str, options: Any
    ) -> None:
        """Keep the window, so that any strategy can be computed of it later.

        Args:
            path: the file.
            heads: as `heads` returns them; they take the place of prompts.
            tokenizer: knows the text of a token.
            credit: the strategy that is trained with.
            options: its options.
        """
        prompts = tokenizer.batch_decode(heads) if heads else [""]
        tokens = token_texts(self.rollouts, tokenizer)
        save_rollouts(path, self.rollouts, prompts, tokens, credit, options)


def _told(batch: Any, layout: Any, with_logps: bool) -> list[tuple[list[int], list[float]]]:
    """Return the ids of each document of a batch, and log-probabilities where they are read."""
    _, documents = layout
    logps = logps_of(batch, *layout) if with_logps else [[]] * len(documents)
    return list(zip(documents, logps, strict=True))
