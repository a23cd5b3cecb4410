"""Run by test_partition under torchrun: save the gradient of one step, averaged over two ranks."""

import os
import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from test_partition import STRATEGIES, gradient

if __name__ == "__main__":
    folder, prompts, rows, steps = sys.argv[1], *map(int, sys.argv[2:])
    strategies = {name: {"credit": name} for name in STRATEGIES}
    strategies["sapo"] = {"credit": "length", "loss_type": "sapo"}
    gradients = {
        name: gradient(rows, steps, prompts=prompts, tools=True, **options)
        for name, options in strategies.items()
    }
    assert torch.distributed.get_world_size() == 2
    if torch.distributed.get_rank() == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads, one set per trainer, now and then abort the interpreter's exit
