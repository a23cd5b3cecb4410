"""The recipe of a temperature of strings, and the tiny model whose strings are listed."""

import json
import math
import os
import runpy
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from harness import reference

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.run.recipe import prepare
from grpo_credit.tiny.letters import (
    LONGEST,
    PROMPT,
    Distance,
    build_letter_tokenizer,
    divergence,
    letter_model,
    string_logps,
)
from grpo_credit.tiny.model import build_model

RECIPE = Path(__file__).parent.parent / "recipes" / "temper.py"
TOKENIZER = build_letter_tokenizer()


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_listed_strings_are_those_of_one_forward_pass_each(tau):
    model = build_model(TOKENIZER, seed=3, hidden_size=16, layers=1, heads=2)
    prompt, end, words = TOKENIZER.encode(PROMPT), TOKENIZER.eos_token_id, len(TOKENIZER)
    logps, lengths = string_logps(model, prompt, 3, tau)
    symbols = [v for v in range(words) if v != end]
    written = [(*s, end) for n in range(3) for s in product(symbols, repeat=n)]
    written += product(symbols, repeat=3)
    assert lengths.tolist() == [len(string) for string in written]
    for string, found in list(zip(written, logps.tolist(), strict=True))[::11]:
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *string]])).logits[0, :-1].double()
        table = (logits / tau).log_softmax(-1)
        assert found == pytest.approx(sum(float(table[t, v]) for t, v in enumerate(string)))
    assert float(logps.exp().sum()) == pytest.approx(1.0)
    assert divergence(logps, logps) == 0


@pytest.mark.slow
def test_a_transformer_is_trained_to_the_temperature_of_strings(tmp_path):
    folder = str(letter_model(0, progress=False))
    trainer = CreditGRPOTrainer(
        model=folder, reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=CreditGRPOConfig(
            str(tmp_path), credit="temper/seq", credit_kwargs={"tau": 0.5}, scale_rewards="none",
            per_device_train_batch_size=64, num_generations=64, max_completion_length=LONGEST,
            max_steps=100, learning_rate=1e-3, gradient_checkpointing=False, report_to=[],
            save_strategy="no", disable_tqdm=True, gradient_accumulation_steps=1,
        ),
        train_dataset=Dataset.from_dict({"prompt": [PROMPT] * 64}),
    )  # fmt: skip
    distance = Distance(folder, 0.5)
    before = distance.distances(trainer.model)
    trainer.train()
    after = distance.distances(trainer.model.eval())
    assert before["target || policy"] > 0.4
    assert after["target || policy"] <= 0.1
    assert after["policy || target"] <= 0.1
    assert after["tokens"] < before["tokens"]


@pytest.mark.slow
def test_a_short_run_says_how_far_the_policy_is(tmp_path):
    done = subprocess.run(
        [sys.executable, str(RECIPE), "--tau=0.5", "--max_steps=2", "--test_prompts=4",
         "--test_samples=2", "--output_dir=run", "--num_generations=16",
         "--per_device_train_batch_size=16", "--preflight=strict"],
        cwd=tmp_path, text=True, capture_output=True, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "constant" not in done.stderr + done.stdout
    assert "before: KL(target || policy) 0.4" in done.stderr
    assert "after:  KL(target || policy) 0." in done.stderr
    assert "log p of a completion: -" in done.stderr
    lines = (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()
    names = {"characters (sampled)", "repeated (sampled)"}
    assert all(names <= set(json.loads(line)) for line in lines)
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert all(step["credit/ref_logp"] < 0 for step in steps if "loss" in step)


def test_the_likelihood_is_told_of_the_first_and_the_last_tenth_of_the_steps():
    likelihood = runpy.run_path(str(RECIPE))["likelihood"]
    steps = [{"credit/ref_logp": float(-step)} for step in range(20, 0, -1)]
    said = "log p of a completion: -19.50 in the first 2 steps, -1.50 in the last"
    assert likelihood([*steps, {"train_runtime": 3.0}]) == said
    assert "-4.00 in the first 1 steps, -4.00" in likelihood([{"credit/ref_logp": -4.0}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--credit=seq"], "--credit is temper/seq here; --tau is its option"),
        (['--credit_kwargs={"tau": 0.9}'], "--tau is its option, not --credit_kwargs"),
        (["--dataset_name=some.jsonl"], "--model_name_or_path is missing; the tiny model knows"),
        (["--tau=0"], "tau is 0, expected a finite number above 0"),
        (["--beta=0.1"], "beta=0.1 cannot go with credit='temper/seq'"),
        (["--model_name_or_path=some/model"], "--dataset_name is missing"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(options, message):
    recipe = runpy.run_path(str(RECIPE))["RECIPE"]
    with pytest.raises(ValueError, match=message):
        prepare(recipe, options)


def test_a_model_of_ones_own_is_tempered_on_its_prompts(tmp_path):
    data = Dataset.from_list([{"prompt": f"{n}+"} for n in range(90)])
    data.to_json(tmp_path / "prompts.jsonl")
    TOKENIZER.save_pretrained(reference())
    options = ["--model_name_or_path", reference(), "--dataset_name",
               str(tmp_path / "prompts.jsonl"), "--tau=2", "--dry_run"]  # fmt: skip
    setup = prepare(runpy.run_path(str(RECIPE))["RECIPE"], options)
    assert setup.args.credit_kwargs == {"tau": 2.0}
    assert setup.args.scale_rewards == "none"
    assert setup.task.check("to be or not to be or not", {}) == {
        "characters": 25, "repeated": pytest.approx(2 / 6),
    }  # fmt: skip
    assert math.isclose(sum(setup.task.rewards[0](["a", "b"])), 0)
