"""Llamas whose rows depend on their pass in ways that their configuration does not tell of."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM


class Changed(LlamaForCausalLM):
    """A Llama that changes embeddings (b, T, hidden) before its first layer.

    Args:
        config: of the Llama.
        change: what is done to embeddings.
    """

    def __init__(self, config: LlamaConfig, change: nn.Module) -> None:
        super().__init__(config)
        self.model.change = change
        self.model.embed_tokens.register_forward_hook(lambda _, __, embedded: change(embedded))


class LearnedPositions(nn.Module):
    """A vector for every column."""

    def __init__(self, columns: int = 128, hidden: int = 16) -> None:
        super().__init__()
        self.table = nn.Embedding(columns, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table.weight[: x.size(1)]


class FirstColumn(nn.Module):
    """The state of the first column is added everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x[:, :1]


class Statistics(nn.Module):
    """Mean and deviation are taken over all rows and columns of the pass."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(dim=(0, 1))) / x.std(dim=(0, 1))


class WidthScale(nn.Module):
    """The scale is that of the width."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + x.size(1) / 50)


class Capacity(nn.Module):
    """Each of two experts takes the first tokens of the pass that want it, as many as its share."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(hidden, 2), nn.Linear(hidden, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x.flatten(0, 1)).softmax(-1).max(-1)
        wanted = F.one_hot(chosen, 2)
        taken = (wanted.cumsum(0) * wanted <= math.ceil(len(chosen) / 2)) * wanted
        out = self.experts(x.flatten(0, 1)).unflatten(1, (2, -1))
        return x + torch.einsum("nk,nkh,n->nh", taken.to(x.dtype), out, weights).view_as(x)


class CausalConvolution(nn.Module):
    """Each token sees the two before it, padding as well, and nothing before the pass."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(hidden, hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(F.pad(x.mT, (2, 0))).mT


class Dropout(nn.Module):
    """Drops by a rate that no name tells of."""

    rate = 0.2

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, self.training)


class Noise(nn.Module):
    """Noise on the embeddings, always."""

    def forward(self, x: Any) -> Tensor:
        return x + 0.1 * torch.randn_like(x)
