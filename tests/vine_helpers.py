"""Trainings by `vine`, of sampled completions or of ones that a prefix decides, on any ranks."""

import random
import sys
from pathlib import Path

import conftest  # noqa: F401 (environment variables)
import torch
from datasets import Dataset
from harness import DEFAULTS, GROUP, LONGEST, PROMPTS, TOKENIZER, Trace, policy
from torchrun import begin, leave

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer


def reward(completions, log_metric=None, log_extra=None, **_):
    """Pay for digits; say how many completions were seen."""
    if log_metric is not None:
        log_metric("seen", float(len(completions)))
        log_extra("length", [len(text) for text in completions])
    return [sum(map(int, filter(str.isdigit, text))) % 7 / 3 for text in completions]


class Watched(CreditGRPOTrainer):
    """Keep what is asked of the generation, what it gives, and the rollouts of each window."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations):
        given = prompt_ids, images, multimodal_fields, num_generations
        ids, logps = self._generated(given)
        self.__dict__.setdefault("calls", []).append((num_generations, prompt_ids, ids))
        return ids, logps

    def _generated(self, given):
        return super()._generate_single_turn(*given)

    @property
    def rollouts(self):
        return [generation.rollouts for generation in self._collector.generations.values()]

    def continued(self):
        """Return what was asked and given beside the completions."""
        return [(asked, got) for size, prompts, ids in self.calls if size == 1
                for asked, got in zip(prompts, ids, strict=True)]  # fmt: skip


class Decided(Watched):
    """Let a prefix decide how it goes on, and the place in the group how it begins."""

    def _generated(self, given):
        prompts, _, _, size = given
        first = self.accelerator.process_index * len(prompts)
        limit = self.generation_config.max_new_tokens
        made = []
        for row, ids in enumerate(prompts):
            rng = random.Random(f"{ids} {(first + row) % GROUP if size > 1 else ''}")
            length = rng.randrange(1, LONGEST)
            more = [rng.choice(TOKENIZER.encode("0123456789,")) for _ in range(length)]
            made.append([*more, TOKENIZER.eos_token_id][:limit])
        return made, None


def trained(kind=Watched, prompts=4, resume=None, before=None, **options):
    """Train a few steps and return the trainer, with its trace."""
    trace = Trace()
    arguments = options.pop("arguments", {})
    vine = {"credit": "vine/seq", "vine_cuts": "every:2", "vine_tokens": 10**6}
    settings = {**DEFAULTS, "gradient_accumulation_steps": 1, "per_device_train_batch_size": 8}
    args = CreditGRPOConfig(**{"output_dir": "unused", **settings, **vine, **options})
    given = {
        "model": policy(), "reward_funcs": reward, "processing_class": TOKENIZER,
        "train_dataset": Dataset.from_dict({"prompt": PROMPTS[:prompts]}), **arguments,
    }  # fmt: skip
    trainer = kind(args=args, callbacks=[trace], **given)
    trainer.trace = trace
    if before is not None:
        before(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


# Three prompts on two ranks of six rows: the second group lies on both.
ACROSS = {"prompts": 3, "per_device_train_batch_size": 6, "max_steps": 2}
BUDGET = 150


def across(rows):
    """Return gradients by prefixes that decide, and what a small budget was spent on."""
    settings = {**ACROSS, "per_device_train_batch_size": rows}
    gradients = trained(Decided, **settings).trace.gradients
    small = trained(**{**settings, "vine_tokens": BUDGET})
    name = "credit/vine_tokens"
    return {
        "gradients": gradients,
        "spent": [log[name] for log in small.trace.logs if name in log],
        "drawn": sum(len(got) for _, got in small.continued()),
        "values": [rollouts.prefix_values for rollouts in small.rollouts],
    }


if __name__ == "__main__":
    begin()
    found = across(6)
    torch.save(found, Path(sys.argv[1]) / f"rank{torch.distributed.get_rank()}.pt")
    leave()
