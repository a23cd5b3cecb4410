"""Run by test_passes under torchrun: save the gradients of two steps and count forward passes."""

import os
import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from harness import ours
from transformers import LlamaForCausalLM
from workloads import WORKLOADS

from grpo_credit.batching import PASS_COST

FORWARDS = []


def recorded(self, *args, inner=LlamaForCausalLM.__call__, **kwargs):
    """Count the pass, with and without gradient."""
    FORWARDS.append((len(kwargs["input_ids"]), torch.is_grad_enabled()))
    return inner(self, *args, **kwargs)


if __name__ == "__main__":
    LlamaForCausalLM.__call__ = recorded
    PASS_COST["cpu"] = 4  # so that a turn has several passes
    found = {}
    for name in ("reference", "dead", "long prompt"):
        FORWARDS.clear()
        trace = ours(
            loss_type="grpo", arguments=WORKLOADS[name].arguments, num_iterations=2, max_steps=2,
            per_device_train_batch_size=4,
        )  # fmt: skip
        found[name] = {"gradients": trace.gradients, "forwards": list(FORWARDS)}
    rank = torch.distributed.get_rank()
    torch.save(found, Path(sys.argv[1]) / f"rank{rank}.pt")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads, one set per trainer, now and then abort the interpreter's exit
