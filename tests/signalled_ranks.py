"""Run by test_run_signals: a rank gets signals in the middle of its third step of forty."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from run_helpers import describe
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from grpo_credit.records import directory, manifest
from grpo_credit.run.callbacks import LiveLine, MetricsJsonl, StopOnSignal


class Signals(TrainerCallback):
    def __init__(self, names):
        self.names = names

    def on_pre_optimizer_step(self, args, state, control, **_):
        for name in self.names if state.global_step == 2 else ():
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(0.2)  # beyond REPEAT_S


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)

    def forward(self, x, labels):
        return {"loss": ((self.linear(x).squeeze(-1) - labels) ** 2).mean()}


def train(out, rank, names):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args = TrainingArguments(
        output_dir=str(out), max_steps=40, per_device_train_batch_size=1, logging_steps=1,
        save_steps=1000, use_cpu=True, report_to=[], disable_tqdm=True, bf16=False,
    )  # fmt: skip
    data = [{"x": [float(i), 1.0], "labels": float(i % 2)} for i in range(64)]
    stop = StopOnSignal()
    stop.REPEAT_S = 0.1
    own = [MetricsJsonl(out / "metrics.jsonl"), LiveLine(), stop]
    own += [Signals(names)] if args.process_index == rank else []
    trainer = Trainer(Model(), args, train_dataset=data, callbacks=own)
    trainer.remove_callback(PrinterCallback)
    directory.claim(out, describe(), resume=False)
    with stop, manifest.recorded(out, stop, lambda: trainer.state.global_step):
        trainer.train()
    time.sleep(1.1 * args.process_index)  # left alone, the ranks would make different names
    end = {"code": 128 + (stop.signum or 0), "step": trainer.state.global_step,
           "name": directory.fresh_name(out.parent, "x").name}  # fmt: skip
    try:
        directory.claim(out, describe(), resume=False)
    except directory.RunExists as error:
        Path(f"{out}.{args.process_index}").write_text(json.dumps({**end, "error": str(error)}))


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
