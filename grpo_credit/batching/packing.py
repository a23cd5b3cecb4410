"""A prompt and its completions in one row: no padding, and no prompt is run twice.

    q₁ o₁ o₂ o₃ | q₂ o₄ o₅ | ...

Every token keeps the position that it has in TRL's padded rows, and sees the prompt and the tokens
before it of its own completion, nothing else. It is an ordinary forward pass of one row: adapters,
gradient checkpointing and sharding treat it as any other. The last token of a prompt, whose output
predicts the first of each completion, stands before every one of them; a *tree* is a prompt, but
for that token, and its completions.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import pad
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from grpo_credit.batching.rows import number_prompts

RUN = 64  # tokens; shorter calls take as long
METADATA = {"__get__", "__set__", "dim", "size", "is_floating_point"}  # what may be asked of a mask
CARRIED = {"to", "detach"}  # what leaves it a mask

attend: Any = torch.nn.functional.scaled_dot_product_attention


class Tree(NamedTuple):
    """A prompt and its completions, as they stand in a packed row; in tokens."""

    prompt: int
    completions: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of both."""
        return self.prompt + sum(self.completions)

    @property
    def runs(self) -> list[list[int]]:
        """Completions one after another, in runs no longer than the prompt, or than `RUN` tokens.

        A run is one call, which copies the prompt and computes pairs of its completions in vain: at
        most as many tokens, and pairs, as it has itself.
        """
        runs: list[list[int]] = []
        for tokens in self.completions:
            if not runs or sum(runs[-1]) + tokens > max(self.prompt, RUN):
                runs.append([])
            runs[-1].append(tokens)
        return runs


@dataclass(frozen=True)
class Packing:
    """Padded rows (b, P + T) in one row of S tokens.

    Args:
        trees: one after another; they are all tokens but the last ones, which fill up.
        row: of which padded row each token is, (S,).
        column: in which of its columns.
        of_completion: whether it predicts a token of a completion.
        place: where the token stands that predicts token t of completion i, (b, T); S if none does.
    """

    trees: list[Tree]
    row: Int[Tensor, " S"]
    column: Int[Tensor, " S"]
    of_completion: Bool[Tensor, " S"]
    place: Int[Tensor, "b T"]

    @classmethod
    def of(
        cls,
        input_ids: Int[Tensor, "b columns"],
        attention_mask: Tensor,
        completion: int,
        *,
        shares_prompts: bool = True,
        rounded: Callable[[int], int] = int,
    ) -> "Packing":
        """Lay out padded rows.

        Args:
            input_ids: prompts padded on the left, completions on the right.
            attention_mask: 0 at padding; a completion that is all padding keeps its first column.
            completion: T, columns of the completions.
            shares_prompts: whether equal prompts are run once.
            rounded: gives the length of the row from its tokens; the rest is filled up.
        """
        width, mask = input_ids.size(1) - completion, attention_mask != 0
        prompts = mask[:, :width].sum(dim=1).tolist()
        completions = mask[:, width:].sum(dim=1).clamp(min=1).tolist()
        numbers = number_prompts(input_ids[:, :width], mask[:, :width]).tolist()
        trees, pieces = [], []  # a piece: its row, its first column, its columns
        for own in _alike(numbers if shares_prompts else range(len(prompts))):
            shared = prompts[own[0]] - 1
            trees.append(Tree(shared, [completions[row] for row in own]))
            pieces.append((own[0], width - 1 - shared, shared))
            pieces.extend((row, width - 1, completions[row]) for row in own)
        tokens = sum(tree.tokens for tree in trees)
        # a single token is an attention of another shape, as in decoding
        pieces.append((0, 0, max(rounded(tokens), 2) - tokens))
        row, first, size = np.array(pieces).T
        starts = np.cumsum([0, *(1 + len(tree.completions) for tree in trees)])
        of_completion = ~np.isin(np.arange(len(size)), starts)
        piece = np.repeat(np.arange(len(size)), size)
        column = np.arange(len(piece)) + (first - np.cumsum(size) + size)[piece]
        column[tokens:] = 0  # there may be more of them than columns
        predicts = np.flatnonzero(of_completion[piece])
        place = np.full((len(prompts), completion), len(piece))
        place[row[piece[predicts]], column[predicts] - (width - 1)] = predicts
        arrays = row[piece], column, of_completion[piece], place
        return cls(trees, *(torch.from_numpy(array).to(input_ids.device) for array in arrays))

    def pick(self, padded: Tensor, after: int = 0) -> Tensor:
        """Return the values (1, S) of the tokens, or of those that come `after` them."""
        return padded[self.row, self.column + after][None]

    def unpack(self, values: Tensor, columns: int) -> Tensor:
        """Put values (1, S) by token where the head has them for padded rows: (b, columns)."""
        by_token = pad(values[0], (0, 1))[self.place]
        return pad(by_token, (columns - by_token.size(1), 0))


def _alike(numbers: Iterable[int]) -> list[list[int]]:
    """Return the places of equal numbers, in the order of the first."""
    places: dict[int, list[int]] = {}
    for place, number in enumerate(numbers):
        places.setdefault(number, []).append(place)
    return [*places.values()]


class Packed:
    """A model that runs padded rows as one packed row, for TRL's fused head.

    Args:
        model: may be wrapped.
        completion: T, columns of the completions.
        attention: of `attention_of`.
        rounded: see `Packing.of`.
    """

    def __init__(
        self, model: Any, completion: int, attention: "Attention", rounded: Callable[[int], int]
    ) -> None:
        self._model, self._completion = model, completion
        self._attention, self._rounded = attention, rounded

    def __call__(
        self, *, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **options: Any
    ) -> Any:
        """Return what the model says of padded rows (b, P + T): by column but the last."""
        packing = Packing.of(
            input_ids, attention_mask, self._completion,
            shares_prompts=self._attention.shares_prompts, rounded=self._rounded,
        )  # fmt: skip
        after = packing.pick(labels, after=1) if labels.size(1) > 1 else labels
        outputs = self._model(
            input_ids=packing.pick(input_ids),
            position_ids=packing.column[None],
            shift_labels=after.masked_fill(~packing.of_completion, -100),
            **self._attention.told(packing),
            **options,
        )
        for name, value in outputs.items():
            if isinstance(value, Tensor) and value.shape == after.shape:
                outputs[name] = packing.unpack(value, labels.size(1) - 1)
        return outputs


# ---- who sees whom ------------------------------------------------------------------------------


class TreeMask(Tensor):
    """The mask of a packed row, by which PyTorch's attention goes tree by tree.

    It takes no memory, and few pairs of tokens are computed that do not see each other; as
    `torch.nn.attention.bias.CausalBias` does, it stands where a mask may.
    """

    trees: list[Tree]

    @classmethod
    def of(cls, packing: Packing) -> Tensor:
        """Make the mask (1, 1, S, S) of a packed row."""
        size = len(packing.row)
        mask = torch.ones((), dtype=torch.bool, device=packing.row.device)
        mask = mask.expand(1, 1, size, size).as_subclass(cls)
        mask.trees = packing.trees
        return mask

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Attend by trees; let nobody compute with a mask that is not there."""
        if func is attend:
            return attend_by_trees(*args, **(kwargs or {}))
        if func.__name__ not in METADATA | CARRIED:
            raise NotImplementedError(f"{func.__name__} of the mask of a packed row")
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if func.__name__ in CARRIED:
            result = result.as_subclass(cls)
            result.trees = args[0].trees
        return result


def attend_by_trees(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: TreeMask, **options: Any
) -> Tensor:
    """Compute the attention of a packed row: of each prompt, then of its completions, run by run.

    Args:
        query: (1, heads, S, _), like the others.
        key: likewise.
        value: likewise.
        attn_mask: of the row.
        options: of PyTorch's function.
    """
    kind, parts = query.device.type, (query, key, value)
    if torch.is_autocast_enabled(kind):  # which comes too late for a causal bias
        parts = tuple(part.to(torch.get_autocast_dtype(kind)) for part in parts)
    trees = attn_mask.trees
    sizes = [n for tree in trees for n in (tree.prompt, *map(sum, tree.runs))]
    rest = query.size(2) - sum(sizes)
    pieces = zip(*(part.split([*sizes, rest], dim=2) for part in parts), strict=True)
    out = []
    for tree in trees:
        prompt = next(pieces)
        if tree.prompt:
            out.append(attend(*prompt, **{**options, "is_causal": True}))
        for lengths, run in zip(tree.runs, pieces, strict=False):
            whole = [torch.cat(both, dim=2) for both in zip(prompt, run, strict=True)]
            if kind == "cpu" and [tree.prompt] < lengths[:1] == lengths:
                # its kernel skips what a triangle hides, and only of a square
                attended = attend(*whole, **{**options, "is_causal": True})
                out.append(attended[:, :, tree.prompt :])
                continue
            shown = {**options, "attn_mask": _shown(tree.prompt, lengths, query.device)}
            out.append(attend(run[0], *whole[1:], **shown))
    return torch.cat([*out, next(pieces)[2]], dim=2)  # what fills up is seen by nobody


def _shown(prompt: int, lengths: list[int], device: torch.device) -> Tensor:
    """Return the mask (tokens, prompt + tokens) of a run."""
    tokens = sum(lengths)
    if len(lengths) == 1:
        return causal_lower_right(tokens, prompt + tokens)
    number = torch.tensor(lengths, device=device)
    of = torch.arange(len(lengths), device=device).repeat_interleave(number, output_size=tokens)
    own = (of[:, None] == of).tril()
    return torch.cat([own.new_ones(tokens, prompt), own], dim=1)


def by_trees(packing: Packing) -> dict[str, Any]:
    """Let PyTorch's attention go tree by tree."""
    return {"attention_mask": TreeMask.of(packing)}


def by_mask(implementation: str, dtype: torch.dtype) -> Callable[[Packing], dict[str, Any]]:
    """Let the attention have a mask of its own kind: numbers, truth values, or blocks."""

    def attention(packing: Packing) -> dict[str, Any]:
        trees = [tree.tokens for tree in packing.trees]
        size, device = len(packing.row), packing.row.device
        tree = torch.from_numpy(np.repeat(np.arange(len(trees) + 1), [*trees, size - sum(trees)]))
        tree = tree.to(device)
        prompt = ~packing.of_completion

        def sees(_: Any, __: Any, q: Tensor, k: Tensor) -> Tensor:
            own = prompt[k] | (packing.of_completion[q] & (packing.row[q] == packing.row[k]))
            return (tree[q] == tree[k]) & own & (k <= q)

        mask = ALL_MASK_ATTENTION_FUNCTIONS[implementation](
            batch_size=1, q_length=size, kv_length=size, mask_function=sees,
            allow_is_causal_skip=False, dtype=dtype, device=device,
        )  # fmt: skip
        return {"attention_mask": mask}

    return attention


def variable_lengths(packing: Packing) -> dict[str, Any]:
    """Tell flash attention where the rows end, each of which has its own prompt."""
    lengths = [tree.tokens for tree in packing.trees]
    lengths.append(len(packing.row) - sum(lengths))  # what fills up
    ends = torch.tensor([0, *filter(None, lengths)]).cumsum(0).to(packing.row.device, torch.int32)
    longest = max(lengths)
    return {
        "attention_mask": None, "cu_seq_lens_q": ends, "cu_seq_lens_k": ends,
        "max_length_q": longest, "max_length_k": longest,
    }  # fmt: skip


class Attention(NamedTuple):
    """How the attention of a model learns who sees whom.

    Args:
        told: what the model is told of a packed row.
        shares_prompts: whether several completions may see one prompt.
        every_pair: whether pairs of tokens that do not see each other are computed, too.
    """

    told: Callable[[Packing], dict[str, Any]]
    shares_prompts: bool = True
    every_pair: bool = False


def attention_of(model: Any, compiled: bool) -> Attention | None:
    """Choose how the attention of a model learns who sees whom; None if it cannot.

    Args:
        model: may be wrapped by an adapter.
        compiled: whether it is compiled, and so takes plain tensors.
    """
    implementation = model.config._attn_implementation
    if "flash" in implementation:
        return Attention(variable_lengths, shares_prompts=False)
    if implementation == "sdpa" and not compiled:
        return Attention(by_trees)
    if implementation in ("sdpa", "eager", "flex_attention"):
        every_pair = implementation != "flex_attention"
        return Attention(by_mask(implementation, model.dtype), every_pair=every_pair)
    return None
