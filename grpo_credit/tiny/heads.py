"""Further heads of a causal language model, for objectives that name several tokens at one state.

    p_k(x | s) = softmax(U M_k h_s)[x],   p_0(x | s) = softmax(U h_s)[x]

h_s is the model's last state after its norm, U its unembedding, M_k a square matrix, the identity
at first. They are for training only: without them the model is as any other.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from grpo_credit.tiny.objectives import Terms


class Headed(nn.Module):
    """A model with further heads.

    Args:
        model: A causal language model whose logits are its unembedding of its last state.
        further: How many heads besides its own.
    """

    def __init__(self, model: PreTrainedModel, further: int) -> None:
        super().__init__()
        self.model = model
        width = model.config.hidden_size
        self.maps = nn.Parameter(torch.eye(width).repeat(further, 1, 1))

    def log_probs(self, states: Float[Tensor, "*n width"]) -> Float[Tensor, "*n heads words"]:
        """Return what each head says at each state, the model's own first."""
        further = torch.einsum("kvw,...w->...kv", self.maps, states)
        every = torch.cat([states.unsqueeze(-2), further], -2)
        return self.model.get_output_embeddings()(every).log_softmax(-1)

    def states(self, inputs: Tensor) -> Tensor:
        """Return the last state at each token."""
        return self.model.base_model(input_ids=inputs, use_cache=False).last_hidden_state


def loss_of(learner: Headed, terms: Terms) -> Tensor:
    """Return the sum of the weighed cross entropies, see `Terms`, in nats."""
    first = int(terms.weights.any(-1).any(0).nonzero()[0])  # nothing is asked before
    said = learner.log_probs(learner.states(terms.inputs)[:, first:])
    picked = said[..., list(terms.heads), :].gather(-1, terms.targets[:, first:, :, None])
    return -(terms.weights[:, first:] * picked.squeeze(-1)).sum()
