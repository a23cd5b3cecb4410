"""The rows of a window as tensors: joined over micro-batches and ranks, picked and trimmed."""

from typing import Any, NamedTuple

import torch
from accelerate.utils import gather
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import pad

PROMPT = ("prompt_ids", "prompt_mask")

Rows = dict[str, Tensor]


def counted(batch: dict[str, Any]) -> Tensor:
    """Return TRL's loss mask (b, T): completion mask x tool mask."""
    return batch["completion_mask"] * batch.get("tool_mask", 1)


def as_input(rows: Rows) -> tuple[Tensor, Tensor, int]:
    """Return rows as a model takes them: ids and mask (b, P + T), and T."""
    ids, mask = (
        torch.cat([rows[f"prompt_{kind}"], rows[f"completion_{kind}"]], dim=1)
        for kind in ("ids", "mask")
    )
    return ids, mask, rows["completion_ids"].size(1)


def as_rows(ids: Tensor, mask: Tensor, completion: int) -> Rows:
    """Return what a model takes, (b, P + T), as rows; the inverse of `as_input`."""
    prompt = ids.size(1) - completion
    return {
        "prompt_ids": ids[:, :prompt], "prompt_mask": mask[:, :prompt],
        "completion_ids": ids[:, prompt:], "completion_mask": mask[:, prompt:],
    }  # fmt: skip


def number_prompts(prompt_ids: Tensor, prompt_mask: Tensor) -> Int[Tensor, " b"]:
    """Number the distinct prompts (b, P) among rows, from 0."""
    columns = torch.cat([prompt_ids * prompt_mask, prompt_mask], dim=1)
    return columns.unique(dim=0, return_inverse=True)[1]


def has_no_holes(rows: Rows) -> bool:
    """Return whether prompts are padded on the left, completions on the right, and none is empty.

    The first token of a completion after an empty prompt is predicted at a padded column.
    """
    masks = rows["prompt_mask"].flip(1), rows["completion_mask"]
    filled = all(bool((mask[:, 1:] <= mask[:, :-1]).all()) for mask in masks)
    return filled and bool(masks[0][:, 0].all())


def row_tensors(batch: dict[str, Any]) -> Rows:
    """Pick what a batch says row by row; nothing if it holds something that cannot be re-cut.

    Prompts (b, P), values by completion token (b, T), and values by row, (b,) or (b, 1), can.
    Scalars are left out. Images, and tokens typed over prompt and completion, cannot; nor can
    completions of one token, where (b, 1) and (b, T) cannot be told apart.
    """
    rows, width = batch["completion_ids"].shape
    found = {name: value for name, value in batch.items() if not _is_scalar(value)}
    can = all(_by_row(name, value, rows, width) for name, value in found.items())
    return found if can and width > 1 and has_no_holes(batch) else {}


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 0
    return value is None or isinstance(value, (bool, int, float, str))


def _by_row(name: str, value: Any, rows: int, width: int) -> bool:
    if not isinstance(value, Tensor) or len(value) != rows:
        return False
    return name in PROMPT or value.ndim == 1 or (value.ndim == 2 and value.size(1) in (1, width))


class Joined(NamedTuple):
    """The rows of all ranks, one rank after another, padded to the widest.

    Args:
        rows: as tensors.
        shifted: whether some prompt is padded further than TRL padded it.
    """

    rows: Rows
    shifted: bool


def join(batches: list[dict[str, Any]]) -> Joined | None:
    """Join what the micro-batches of every rank say row by row.

    Args:
        batches: of this rank; every rank has as many, of as many rows.

    Returns:
        None, on every rank, if one of them has something that cannot be re-cut.
    """
    found = [row_tensors(batch) for batch in batches]
    prompts, completions = zip(*map(_widths, batches), strict=True)
    cannot = any(not rows or rows.keys() != found[0].keys() for rows in found)
    told = [[cannot, min(prompts), max(prompts), max(completions)]]
    told = gather(torch.tensor(told, device=batches[0]["completion_ids"].device))
    refused, shortest, prompt, completion = *told[:, :2].T, *told[:, 2:].amax(dim=0).tolist()
    if bool(refused.any()):
        return None
    rows = {
        name: gather(
            torch.cat([
                _widen(name, rows[name], prompt, completion, width)
                for rows, width in zip(found, completions, strict=True)
            ])
        )
        for name in sorted(found[0])
    }  # fmt: skip
    return Joined(rows, bool((shortest != prompt).any()))


def _widths(batch: dict[str, Any]) -> tuple[int, int]:
    return batch["prompt_ids"].size(1), batch["completion_ids"].size(1)


def _widen(name: str, value: Tensor, prompt: int, completion: int, narrow: int) -> Tensor:
    """Pad prompts on the left, and what is as wide as completions are, `narrow`, on the right."""
    if name in PROMPT:
        return pad(value, (prompt - value.size(1), 0))
    if value.ndim == 2 and value.size(1) == narrow:
        return pad(value, (0, completion - narrow))
    return value


def take(rows: Rows, index: Tensor, prompt: int, completion: int) -> Rows:
    """Pick rows and trim their padding to widths that hold the longest of them."""
    width = rows["completion_ids"].size(1)
    return {name: _trim(name, rows[name][index], prompt, completion, width) for name in rows}


def _trim(name: str, value: Tensor, prompt: int, completion: int, width: int) -> Tensor:
    if name in PROMPT:
        return value[:, max(0, value.size(1) - prompt) :]
    return value[:, :completion] if value.ndim == 2 and value.size(1) == width else value
