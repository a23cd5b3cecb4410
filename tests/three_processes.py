"""Run by test_partition under torchrun: completions come back in the order of their prompts."""

import os
import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from datasets import Dataset
from harness import TOKENIZER, policy, reward

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer


class Echo(CreditGRPOTrainer):
    """Complete each prompt by itself."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations):
        return prompt_ids, None


if __name__ == "__main__":
    args = CreditGRPOConfig(
        sys.argv[1], report_to=[], per_device_train_batch_size=2, num_generations=2
    )
    data = Dataset.from_dict({"prompt": ["1+1="] * 8})
    trainer = Echo(policy(), reward, args, data, processing_class=TOKENIZER)
    for count in (1, 6, 7, 8):
        prompts = [f"{i}+{i}=" for i in range(count)]
        assert trainer.complete(prompts) == prompts
    assert torch.distributed.get_world_size() == 3
    (Path(sys.argv[1]) / f"rank{torch.distributed.get_rank()}").touch()
    torch.distributed.barrier()
    os._exit(0)  # as in two_processes.py
