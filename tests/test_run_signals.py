"""A signal on one of two ranks, and two signals in the middle of a step."""

import json

from run_helpers import forked
from signalled_ranks import train
from torchrun import ended

from grpo_credit.records import checkpoints, manifest


def test_two_ranks_stop_at_the_same_step_when_one_gets_the_signal(tmp_path):
    run = tmp_path / "run"
    done = ended(2, "signalled_ranks.py", run, 1, "SIGTERM")
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"run.{rank}").read_text()) for rank in (0, 1))
    assert first == second  # the new name and the refusal, too
    assert (first["code"], first["step"]) == (143, 3)
    assert "holds another run (manifest.json, metrics.jsonl, checkpoint-3)" in first["error"]
    assert (run / "checkpoint-3" / "optimizer.pt").exists()
    made = manifest.read_manifest(run)
    assert (made["status"], made["global_step"], made["world_size"]) == ("interrupted", 3, 2)
    assert done.stderr.count("SIGTERM: stopping after this step") == 1  # the main process says it


def test_a_second_signal_ends_the_run_in_the_middle_of_a_step(tmp_path):
    run = tmp_path / "run"
    code, _, err = forked(tmp_path, lambda: train(run, 0, ["SIGINT", "SIGINT"]))
    assert code == 1
    assert "KeyboardInterrupt" in err.splitlines()[-1]
    made = manifest.read_manifest(run)
    assert (made["status"], made["global_step"]) == ("interrupted", 2)
    assert not checkpoints.found_in(run)
