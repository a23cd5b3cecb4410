"""Run by test_rules_in_training under torchrun: save the gradients of each rule over two ranks."""

import os
import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from rules import RULES, train
from test_rules_in_training import ACROSS

if __name__ == "__main__":
    gradients = {name: train(name, **ACROSS).gradients for name in RULES}
    assert torch.distributed.get_world_size() == 2
    if torch.distributed.get_rank() == 0:
        torch.save(gradients, Path(sys.argv[1]) / "gradients.pt")
    torch.distributed.barrier()
    os._exit(0)  # as in two_processes.py
