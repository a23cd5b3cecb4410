"""Runs of two ranks, and one in the middle of a step, that get real signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_credit.records import checkpoints, manifest

SERVER = """
import json, os, signal, sys, time
from pathlib import Path
import torch
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from grpo_credit.records import directory
from grpo_credit.records import manifest
from grpo_credit.run import callbacks


class Slow(torch.nn.Module):
    def __init__(self, slow_from):
        super().__init__()
        self.linear, self.calls, self.slow_from = torch.nn.Linear(2, 1), 0, slow_from

    def forward(self, x, labels):
        self.calls += 1
        time.sleep(60 if self.slow_from and self.calls >= self.slow_from else 0.05)
        return {"loss": ((self.linear(x).squeeze(-1) - labels) ** 2).mean()}


def train(out, slow_from):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    args = TrainingArguments(
        output_dir=str(out), max_steps=40, per_device_train_batch_size=1, logging_steps=1,
        save_steps=1000, use_cpu=True, report_to=[], disable_tqdm=True, bf16=False,
        ddp_find_unused_parameters=False,
    )
    data = [{"x": [float(i), 1.0], "labels": float(i % 2)} for i in range(64)]
    model, stop = Slow(slow_from), callbacks.StopOnSignal()
    stop.REPEAT_S = 0.1
    own = [callbacks.MetricsJsonl(out / "metrics.jsonl"), callbacks.LiveLine(), stop]
    trainer = Trainer(model, args, train_dataset=data, callbacks=own)
    for other in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(other)
    described = manifest.manifest(["x"], args.to_dict(), {"train": data}, args.seed)
    directory.claim(out, described, resume=False)
    with stop, manifest.recorded(out, stop) as record:
        record.trainer = trainer
        trainer.train()
    code, step = 128 + stop.signum if stop.signum else 0, trainer.state.global_step
    time.sleep(1.1 * args.process_index)  # left alone, the ranks would make different names
    name = directory.fresh_name(out.parent, "x").name
    try:
        directory.claim(out, described, resume=False)
    except directory.RunExists as error:
        return [code, step, name, str(error)]


def child(out, name, slow_from=0, env={}):
    os.environ.update(env)
    err = os.open(f"{out}.{name}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(err, 2)
    end = ["died", None]
    try:
        end = train(Path(out), slow_from)
    except KeyboardInterrupt:
        end = ["KeyboardInterrupt", None]
    finally:
        Path(f"{out}.{name}.part").write_text(json.dumps(end))
        os.rename(f"{out}.{name}.part", f"{out}.{name}.end")


signal.signal(signal.SIGINT, signal.default_int_handler)
for line in sys.stdin:  # the imports are paid once, each run is a fork
    pid = os.fork()
    if pid == 0:
        try:
            child(**json.loads(line))
        finally:
            sys.stderr.flush()
            os._exit(0)
    print(pid, flush=True)
"""


def wait_for(condition, seconds: float = 240.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the run did not get there in time"
        time.sleep(0.02)
    return value


def steps_logged(run: Path) -> list[int]:
    file = run / "metrics.jsonl"
    lines = [json.loads(line) for line in file.open()] if file.exists() else []
    return [line["step"] for line in lines if "loss" in line]


def outcome(run: Path, name: str = "0") -> list:
    file = Path(f"{run}.{name}.end")
    wait_for(file.exists)
    return json.loads(file.read_text())


def free_port() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


class Server:
    """Starts runs, and ends those that are left."""

    def __init__(self, root: Path) -> None:
        self.root, self.pids = root, {}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    def start(self, run: str, name: str = "0", **options) -> None:
        request = {"out": str(self.root / run), "name": name, **options}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.pids[run, name] = int(self.process.stdout.readline())

    def signal_at_step(self, step: int, run: str, signum: int, name: str = "0") -> None:
        wait_for(lambda: len(steps_logged(self.root / run)) >= step)
        os.kill(self.pids[run, name], signum)

    def close(self) -> None:
        for (run, name), pid in self.pids.items():
            if not Path(f"{self.root / run}.{name}.end").exists():
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs side by side: one signalled twice, one of two ranks on rank 1 only."""
    server = Server(tmp_path_factory.mktemp("runs"))
    try:
        server.start("twice", slow_from=3)
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        for rank in ("0", "1"):
            ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            server.start("pair", rank, env={**address, **ranks})
        server.signal_at_step(2, "twice", signal.SIGINT)
        time.sleep(0.3)  # beyond REPEAT_S
        server.signal_at_step(2, "twice", signal.SIGINT)
        server.signal_at_step(2, "pair", signal.SIGTERM, "1")
        yield server.root
    finally:
        server.close()


def test_a_second_signal_ends_the_run_in_the_middle_of_a_step(runs):
    assert outcome(runs / "twice")[0] == "KeyboardInterrupt"
    made = manifest.read_manifest(runs / "twice")
    assert (made["status"], made["global_step"]) == ("interrupted", 2)
    assert not list((runs / "twice").glob("checkpoint-*"))


def test_two_ranks_stop_at_the_same_step_when_one_gets_the_signal(runs):
    first, second = outcome(runs / "pair", "0"), outcome(runs / "pair", "1")
    assert first[:2] == second[:2]
    assert first[0] == 143
    assert not checkpoints.damage(runs / "pair" / f"checkpoint-{first[1]}")
    assert manifest.read_manifest(runs / "pair")["world_size"] == 2
    assert "stopping after this step" in Path(f"{runs / 'pair'}.0.err").read_text()
    assert "stopping" not in Path(f"{runs / 'pair'}.1.err").read_text()


def test_every_rank_gets_the_same_name_and_the_refusal(runs):
    first, second = outcome(runs / "pair", "0"), outcome(runs / "pair", "1")
    assert first[2:] == second[2:]
    assert "holds another run (manifest.json, metrics.jsonl, checkpoint-" in first[3]
