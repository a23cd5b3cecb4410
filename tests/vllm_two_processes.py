"""Run by test_vllm under torchrun: an engine of its own for each process, or one over both."""

import itertools
import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
import torchrun
from harness import ROUNDING, difference
from vllm_helpers import expected, one_engine, saved, trainer_of

if __name__ == "__main__":
    folder, tensor_parallel = sys.argv[1:]
    saved()  # before there are ranks, of which one alone would write
    with one_engine():
        trainer, seen = trainer_of(
            credit="seq", per_device_train_batch_size=8, max_steps=2, learning_rate=1.0,
            vllm_tensor_parallel_size=int(tensor_parallel),
        )  # fmt: skip
        trainer.train()
    rank = torch.distributed.get_rank()
    for model, rows, found in zip(seen.before, seen.calls, seen.gradients, strict=True):
        ranks = [[], []]
        torch.distributed.all_gather_object(ranks, rows)
        assert ranks[0] != ranks[1]
        together = list(itertools.chain.from_iterable(ranks))
        theirs = expected("seq", model, together, how="sequence_mask")
        assert found.norm() > 0
        assert difference(found, theirs) <= ROUNDING, (rank, difference(found, theirs))
    (Path(folder) / f"rank{rank}").touch()
    torchrun.leave()
