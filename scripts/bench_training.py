"""Time whole optimizer steps of a 0.5B-shaped model: where they go, and what they take.

    python scripts/bench_training.py --json training.json
    OMP_NUM_THREADS=1 python scripts/bench_training.py --device cpu --steps 2   # a tiny model

Real training by `CreditGRPOTrainer` on random weights of the shape of Qwen2.5-0.5B in bfloat16,
with an adapter and without, with efficient batching and without: 64 completions a step in groups of
8, of up to `--tokens`. One token in a hundred ends a completion, so that lengths vary as in real
runs; a reward of chance leaves about a third of the groups without variance. Nothing is downloaded.

Seconds are medians over all steps but the first two. A part's seconds are its own, without those
of the parts inside it; `rest` is what no part claims: the optimizer, the data, the logs.
`tokens/s` are tokens generated over seconds of whole steps. `memory` is the device's peak.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Qwen2Config,
    TrainerCallback,
)

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.tiny import build_tokenizer

TOKENIZER = build_tokenizer()
PARTS = {  # method of the trainer -> what its time is called
    "_generate": "generation",
    "_calculate_rewards": "rewards",
    "_get_per_token_logps_and_entropies": "forward",
    "_window.with_credit": "credit",
    "training_step": "backward",
}
SHAPES = {
    "cuda": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936},
    "cpu": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000},
}  # fmt: skip


class Stopwatch(TrainerCallback):
    """Charge the seconds of a step to the innermost part that is running."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.steps: list[dict[str, float]] = []
        self.running = ["rest"]
        self.spent: dict[str, float] = defaultdict(float)
        self.since = time.perf_counter()

    def charge(self) -> None:
        """Charge the time since the last call."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.spent[self.running[-1]] += now - self.since
        self.since = now

    def watch(self, owner: Any, method: str, part: str) -> None:
        """Charge a method's time to a part."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self.running.append(part)
            try:
                return inner(*args, **kwargs)
            finally:
                self.charge()
                self.running.pop()

        setattr(owner, method, timed)

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Close a step's account."""
        self.charge()
        self.steps.append(dict(self.spent))
        self.spent.clear()


def chance(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Reward a seventh of all completions, whatever they say."""
    return [float(sum(ids) % 7 == 0) for ids in completion_ids]


def model(device: str) -> PreTrainedModel:
    """Build random weights that end a completion at one token in a hundred."""
    torch.manual_seed(0)
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    config = Qwen2Config(**SHAPES[device], tie_word_embeddings=True, dtype=kind)
    with torch.device(device):
        built = AutoModelForCausalLM.from_config(config)
    built.generation_config.eos_token_id = list(range(1, config.vocab_size, 100))
    return built


def train(asked: argparse.Namespace, adapter: bool, batching: str) -> dict[str, Any]:
    """Train and return medians by part, tokens per second and peak memory."""
    device = asked.device
    prompts = [f"{i} + {i} is how much? Say it in one number. " * 4 for i in range(512)]
    trainer = CreditGRPOTrainer(
        model=model(device),
        reward_funcs=chance,
        args=CreditGRPOConfig(
            tempfile.mkdtemp(), credit=asked.credit, efficient_batching=batching,
            max_steps=asked.steps,
            per_device_train_batch_size=8, gradient_accumulation_steps=8, num_generations=8,
            max_completion_length=asked.tokens, learning_rate=1e-6, gradient_checkpointing=False,
            bf16=device == "cuda", save_strategy="no", logging_steps=1, report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=TOKENIZER,
        peft_config=LoraConfig(r=16, target_modules="all-linear") if adapter else None,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    watch = Stopwatch(device)
    for method, part in PARTS.items():
        *owner, name = method.split(".")
        watch.watch(getattr(trainer, owner[0]) if owner else trainer, name, part)
    trainer.add_callback(watch)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return summary(watch, trainer, device)


def summary(watch: Stopwatch, trainer: Any, device: str) -> dict[str, Any]:
    """Take medians over the steps after the second."""
    kept = watch.steps[2:] or watch.steps
    parts = {p: statistics.median(s.get(p, 0.0) for s in kept) for p in (*PARTS.values(), "rest")}
    seconds = statistics.median(sum(step.values()) for step in kept)
    lengths = [log["completions/mean_length"] for log in trainer.state.log_history[:-1]]
    return {
        "seconds": seconds,
        **parts,
        "credit share": parts["credit"] / seconds,
        "tokens/s": 64 * statistics.mean(lengths) / seconds,
        "memory GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }


def main() -> None:
    """Measure every kind of training and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=sorted(SHAPES), default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=128, help="longest completion")
    parser.add_argument("--credit", default="entropy_soft/seq")
    parser.add_argument("--json", type=Path, help="file for the figures")
    asked = parser.parse_args()
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    found = {}
    for adapter, batching in product((False, True), ("off", "auto")):
        kind = f"{'adapter' if adapter else 'full'}, efficient_batching={batching}"
        found[kind] = train(asked, adapter, batching)
        print(f"{kind}: {found[kind]['seconds']:.2f} s a step", file=sys.stderr, flush=True)
        if asked.json:  # after each, so that nothing measured is lost
            asked.json.write_text(json.dumps({"device": name, "found": found}, indent=1) + "\n")
    print(f"{asked.credit}, {asked.steps} steps, {name}")
    print(pd.DataFrame(found).T.to_string(float_format="{:.4g}".format, na_rep="-"))


if __name__ == "__main__":
    main()
