"""Fixed texts in place of sampling, so that TRL's own tool loop runs on a known conversation."""

import sys
from importlib.resources import files

from chat_model import save_chat_model
from datasets import Dataset
from harness import run
from trl import GRPOTrainer

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer, allocation

TEMPLATE = files("trl").joinpath("chat_templates/qwen3.jinja").read_text()
LOOPS = ("tools", "environment_factory")
SEEN = []


@allocation(needs=["spans", "step_rewards", "texts"])
def bystander(rollouts):
    """Remember the rollouts."""
    SEEN.append(rollouts)
    return rollouts.advantages[:, None] * rollouts.mask


def call(name, **arguments):
    """Write a call as Qwen does."""
    given = ", ".join(f'"{key}": {value}' for key, value in arguments.items())
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{{given}}}}}\n</tool_call>'


def script(monkeypatch, *rows):
    """Let the n-th completion of each group be the n-th row: one text for each turn."""
    monkeypatch.setitem(sys.modules, "jmespath", None)  # which older versions of transformers need
    at_work = []

    def write(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        begins = "<tool_response>" not in self._tokenizer.decode(prompt_ids[0])
        if begins:
            first = self.accelerator.process_index * len(prompt_ids)
            at_work[:] = [[*rows[(first + n) % len(rows)]] for n in range(len(prompt_ids))]
        texts = [turns.pop(0) for turns in at_work]
        at_work[:] = [turns for turns in at_work if turns]
        end = [self._tokenizer.eos_token_id]
        return [self._tokenizer.encode(text) + end for text in texts], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", write)


def tool_run(folder, rewards, credit="bystander/seq", prompts=1, **options):
    """Train one step on scripted completions of tools; return what happened and the rollouts."""
    SEEN.clear()
    if not (folder / "model").exists():
        save_chat_model(folder / "model", TEMPLATE)
    asked = [[{"role": "user", "content": f"{n}?"}] for n in range(prompts)]
    data = Dataset.from_dict({"prompt": asked} | options.pop("columns", {}))
    arguments = {"rollout_func": None, "reward_funcs": rewards, "processing_class": None,
                 "train_dataset": data, "eval_dataset": None}  # fmt: skip
    given = (*LOOPS, "train_dataset")
    arguments |= {name: options.pop(name) for name in given if name in options}
    settings = {"max_steps": 1, "per_device_train_batch_size": 4 * prompts,
                "gradient_accumulation_steps": 1, "max_completion_length": 300,
                "scale_rewards": "none"}  # fmt: skip
    trace = run(
        CreditGRPOTrainer, CreditGRPOConfig, model=str(folder / "model"), arguments=arguments,
        credit=credit, model_init_kwargs={"max_position_embeddings": 2048}, **settings | options,
    )  # fmt: skip
    return trace, SEEN[-1] if SEEN else None


if __name__ == "__main__":
    raise SystemExit("a helper of tests")
