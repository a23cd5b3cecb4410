"""Run by test_sft under torchrun: save losses and gradients of one step over two ranks."""

import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from sft_helpers import FOUR, FREE, PACKED, PADDED, TEMPERED, sampled, trained
from torchrun import begin, leave
from trl import SFTConfig, SFTTrainer

HALVED = [{**layout, "rows": layout["rows"] // 2} for layout in (*PADDED[:3], PACKED[0], FREE[0])]

if __name__ == "__main__":
    begin()
    runs = {
        (number, name): trained(**layout, credit=name)
        for number, layout in enumerate(HALVED)
        for name in FOUR
        if name != "uniform" or layout.get("max_length", 1)
    }
    runs[0, None] = trained(**HALVED[0], cls=SFTTrainer, config=SFTConfig)
    runs[0, "own mean"] = trained(**HALVED[0], credit="length", average_tokens_across_devices=False)
    runs[0, "lhts"] = trained(**HALVED[0], **TEMPERED, given={"train_dataset": sampled()})
    assert torch.distributed.get_world_size() == 2
    if torch.distributed.get_rank() == 0:
        said = {key: (run.losses.train[0], run.trace.gradients[0]) for key, run in runs.items()}
        torch.save(said, Path(sys.argv[1]) / "said.pt")
    leave()
