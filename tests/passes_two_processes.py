"""Run by test_sharded under torchrun: save the gradients of two steps and count forward passes."""

import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import harness
import torch
from sharding import gradients_of_zero, shard
from torchrun import leave
from transformers import LlamaForCausalLM
from workloads import WORKLOADS

from grpo_credit.batching.planner import PASS_COST

FORWARDS = []


def recorded(self, *args, inner=LlamaForCausalLM.__call__, **kwargs):
    """Count the pass, with and without gradient."""
    FORWARDS.append((len(kwargs["input_ids"]), torch.is_grad_enabled()))
    return inner(self, *args, **kwargs)


if __name__ == "__main__":
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    shard(kind.removesuffix(" static graph"))
    one_turn = {"ddp_static_graph": True, "per_device_train_batch_size": 8}
    one_turn["gradient_accumulation_steps"] = 1  # of which PyTorch counts the passes
    options = one_turn if kind.endswith("static graph") else {"per_device_train_batch_size": 4}
    LlamaForCausalLM.__call__ = recorded
    PASS_COST["cpu"] = 4  # so that a turn has several passes
    if kind == "zero3":  # which steps within the backward pass, and frees the gradients
        of_zero = gradients_of_zero()
        harness.whole_gradient = lambda _: of_zero.pop()
    found = {}
    for name in ("reference", "dead", "long prompt"):
        FORWARDS.clear()
        trace = harness.ours(
            loss_type="grpo", arguments=WORKLOADS[name].arguments, num_iterations=2, max_steps=2,
            **options,
        )  # fmt: skip
        found[name] = {"gradients": trace.gradients, "forwards": list(FORWARDS)}
    rank = torch.distributed.get_rank()
    torch.save(found, folder / f"rank{rank}.pt")
    leave()
