"""Run by torchrun: what two processes play, and what each of them is told of it."""

import json
import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
from accelerate.utils import gather_object
from test_playing import ROWS, half, make, said_of
from torchrun import begin, leave

if __name__ == "__main__":
    begin()
    folder = Path(sys.argv[1])
    trainer = make(folder, 12, tools=[half])
    told = gather_object([said_of(trainer, ROWS)])
    if trainer.accelerator.is_main_process:
        (folder / "told.json").write_text(json.dumps(told))
    leave()
