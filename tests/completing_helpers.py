"""Really generated completions, on one process or, run under torchrun, on several."""

import json
import sys
import tempfile
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from datasets import Dataset
from harness import TOKENIZER, policy
from torchrun import leave

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer
from grpo_credit.run.evaluation import measure

ROWS = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(5)]


def reward(completions, **_):
    return [len(text) % 3 for text in completions]


def trainer_of(model=None, **options):
    settings = {
        "report_to": [], "use_cpu": True, "bf16": False, "disable_tqdm": True, "max_steps": 1,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 8,
        "save_strategy": "no", "output_dir": tempfile.mkdtemp(), **options,
    }  # fmt: skip
    data = Dataset.from_dict({"prompt": ["1+1=", "1+2=", "2+3=", "7+1="]})
    args = CreditGRPOConfig(**settings)
    return CreditGRPOTrainer(model or policy(), reward, args, data, processing_class=TOKENIZER)


def held_out():
    """Test a policy on held-out rows, and say how often the checker ran on this process."""
    judged = []

    def check(text, row):
        judged.append(text)
        return {"right": float(len(text) % 2), "length": float(len(text))}

    trainer = trainer_of()
    prompts = [row["prompt"] for row in ROWS]
    return {
        "greedy": trainer.complete(prompts, greedy=True),
        "sampled": trainer.complete(prompts * 3),
        "other seed": trainer.complete(prompts * 3, seed=1),
        "numbers": measure(trainer, ROWS, check, samples=3),
        "judged": len(judged),
    }


if __name__ == "__main__":
    found = held_out()
    rank = torch.distributed.get_rank()
    (Path(sys.argv[1]) / f"rank{rank}.json").write_text(json.dumps(found))
    leave()
