"""The recipe of supervised training: what a denominator makes of a mixture, and a user's data."""

import json
import runpy
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from fork_server import ForkServer
from harness import TOKENIZER, policy
from resume_helpers import digest, lines, logged

from grpo_credit import cli
from grpo_credit.run.recipe import prepare

RECIPE = Path(__file__).parent.parent / "recipes" / "sft_credit.py"
QUICK = ["--logging_steps=200", "--save_strategy=no", "--save_rollouts=0"]
SETTINGS = {
    "model_name_or_path": "model", "dataset_name": "data.jsonl", "test_prompts": 4, "max_steps": 6,
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.01,
    "gradient_checkpointing": False, "save_steps": 2, "save_rollouts": 2, "packing": True,
    "max_length": 24, "use_peft": True, "test_every": 2,
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    policy().save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    rows = [{"text": f"{i} and {i} make {2 * i}" + "!" * (i % 7)} for i in range(60)]
    Dataset.from_list(rows).to_json(folder / "data.jsonl")
    Dataset.from_list([{"question": "1+1="}] * 9).to_json(folder / "wrong.jsonl")
    (folder / "own.yaml").write_text(yaml.dump(SETTINGS))
    server = ForkServer(RECIPE, folder)
    yield server
    server.close()


# ---- the mixture --------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "documents"), [(1, 1000), (4, 6400), (16, 3200)])
def test_a_denominator_learns_what_theory_says(server, window, documents):
    """Standard deviations over draws are 0.007 to 0.02."""
    for credit in ("dapo", "seq"):
        name = f"{credit}-{window}"
        options = [f"--per_device_train_batch_size={window}", f"--documents={documents}"]
        code, _, out = server.run(f"--credit={credit}", f"--output_dir={name}", *options, *QUICK)
        assert code == 0, out
        learned = lines(server.folder / name / "held_out.jsonl")[-1]
        assert abs(learned["P(short) - theory"]) <= 0.04
        if credit == "seq":
            assert abs(learned["P(short) - the data"]) <= 0.04
        assert "in theory, by documents in a window: 1 " in out
        assert "the model's P(short), beside the data 0." in " ".join(out.split())


# ---- a user's data ------------------------------------------------------------------------------


def attempt(server, name, *more, **how):
    options = ["--config", "own.yaml", "--credit=seq", f"--output_dir={name}", *more]
    code, _, out = server.run(*options, **how)
    return code, out


def outcome(run):
    kept = [run / "held_out.jsonl", *(run / "rollouts").iterdir()]
    kept += (run / "model").glob("adapter_model*")
    assert len(kept) == 5
    return logged(run), {path.name: digest(path) for path in kept}


def test_a_run_that_was_stopped_ends_like_one_that_was_not(server):
    """Its adapter, held-out numbers, documents and logs are the same to the last bit."""
    code, out = attempt(server, "whole")
    assert code == 0, out
    run = server.folder / "whole"
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["status"], manifest["extra"]["metric"]) == ("finished", "nats per document")
    assert manifest["extra"]["plan"] == "credit even/seq | surrogate: cross entropy"
    tested = lines(run / "held_out.jsonl")
    assert [line["step"] for line in tested] == [0, 2, 4, 6]
    assert tested[-1]["nats per document"] < tested[0]["nats per document"]
    card = (run / "README.md").read_text()
    assert "On 4 held-out documents, before training and at step 6." in card
    assert "Trained with `credit=even/seq` (cross entropy)" in card
    assert "nats per document" in out

    struck = {"at": "grpo_credit.run.callbacks:StopOnSignal.on_step_end", "nth": 3, "how": "SIGINT"}
    code, out = attempt(server, "stopped", strikes=[struck])
    assert code == 130, out
    assert "to go on: the same command with --resume --output_dir stopped" in out
    code, out = attempt(server, "stopped", "--resume", "--learning_rate=0.02")
    assert (code, "learning_rate: 0.01 in the run, 0.02 now" in out) == (2, True)
    code, out = attempt(server, "stopped", "--resume")
    assert code == 0, out
    assert outcome(server.folder / "stopped") == outcome(run)


MISTAKES = {
    "no data": (["--model_name_or_path=model"], "--dataset_name is missing; the mixture suits"),
    "no model": (["--dataset_name=data.jsonl"], "--model_name_or_path is missing; the tiny model"),
    "no documents": (
        ["--dataset_name=wrong.jsonl", "--model_name_or_path=model"],
        "wrong.jsonl has the columns question; expected 'text', 'messages', or 'prompt' and",
    ),
    "no log-probabilities in the mixture": (
        ["--credit=lhts", "--credit_kwargs={\"tau\": 0.5}"], "a column 'old_logps' beside",
    ),
    "no log-probabilities in the data": (
        ["--credit=prob_mask", "--dataset_name=data.jsonl", "--model_name_or_path=model"],
        "a column 'old_logps' beside",
    ),
    "a rule of rewards": (["--credit=loo"], "'loo/dapo' looks at rewards or groups"),
    "a mixture of one kind": (["--share=1"], "share is 1.0, expected a number between 0 and 1"),
    "an option of completions": (["--num_generations=8"], "unknown option 'num_generations'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_exit_code_2(server, mistake):
    options, message = MISTAKES[mistake]
    code, _, out = server.run(*options, "--output_dir=none")
    assert code == 2
    assert out.startswith("sft_credit.py: error: ")
    assert message in out
    assert not (server.folder / "none").exists()


def test_what_would_look_at_completions_says_that_there_are_none(capsys):
    assert cli.main(["preflight", str(RECIPE)]) == 2
    assert "trains on documents and samples nothing" in capsys.readouterr().err
    from grpo_credit.experiments.study.check import answer

    assert "a study compares runs by rewards" in answer(str(RECIPE), [[]])["wrong"]


def test_a_plan_says_how_many_documents_and_steps(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["plan", str(RECIPE), "--credit=dapo"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "4 documents (per device 4 x accumulation 1 x processes 1)" in out
    assert "optimizer steps 1,600 (1 epochs)" in out
    assert "the model's P(short), beside the data 0.5" in out


def test_of_nats_less_is_better_and_held_out_documents_stay_whole(server, monkeypatch):
    monkeypatch.chdir(server.folder)
    options = ["--config", "own.yaml", "--packing_strategy=wrapped", "--dry_run"]
    best = "--metric_for_best_model=eval_nats per document"
    args = prepare(runpy.run_path(str(RECIPE))["RECIPE"], [*options, best]).args
    assert (args.greater_is_better, args.packing, args.eval_packing) == (False, True, False)
