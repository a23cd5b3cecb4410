"""Run by test_run_manifest under torchrun: one rank fails while the other waits for it."""

import sys

import conftest  # noqa: F401 (environment variables)
import torch
from accelerate import PartialState
from run_helpers import describe

from grpo_credit.records import directory, manifest
from grpo_credit.run.callbacks import StopOnSignal

if __name__ == "__main__":
    rank = PartialState(cpu=True).process_index
    directory.claim(sys.argv[1], describe(), resume=False)
    with manifest.recorded(sys.argv[1], StopOnSignal(), lambda: None):
        if rank == 1:
            raise ValueError("row 7 has no answer")
        torch.distributed.all_reduce(torch.ones(1))
