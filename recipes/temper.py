# /// script
# dependencies = ["grpo-credit"]
# ///
r"""Give a model a temperature of whole strings: p(x)^(1/tau), learned from its own samples.

    accelerate launch recipes/temper.py --tau=0.5
    accelerate launch recipes/temper.py --tau=0.7 --dataset_name my_prompts.jsonl --use_peft \
        --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct

No reward is needed: each token earns log p / tau - log q, p the model as it was and q as it is. A
temperature below 1 shortens strings, since each token costs probability. Without
--model_name_or_path it trains a tiny model whose strings can be listed, and says how far it is.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpo_credit
from grpo_credit.rewards import Repetition
from grpo_credit.run.options import DataArguments, TinyArguments, option
from grpo_credit.run.recipe import Recipe, Setup, Task
from grpo_credit.run.training import run_recipe

DEFAULTS = {"scale_rewards": "none"}  # what a string earns is in nats already
# A larger step drops strings: KL(policy || target) does not see what the policy never writes.
TINY_DEFAULTS = {
    "per_device_train_batch_size": 64, "num_generations": 64, "max_completion_length": 5,
    "max_steps": 100, "learning_rate": 1e-3, "lr_scheduler_type": "linear", "save_rollouts": 0,
    "save_steps": 100,
}  # fmt: skip


@dataclass
class TemperArguments(DataArguments, TinyArguments):
    """Options of this recipe."""

    tau: float = option(0.5, "Temperature of whole strings, above 0; 1 changes nothing.")


def make_task(
    script: TemperArguments, args: "grpo_credit.CreditGRPOConfig", model_args: Any
) -> Task:
    """Reward nothing: the credit holds the temperature. Add a reward in nats, and they compose."""
    from datasets import Dataset

    from grpo_credit.run.data import load_prompts
    from grpo_credit.tiny import letters

    if args.credit is not None or args.credit_kwargs:
        raise ValueError("--credit is temper/seq here; --tau is its option, not --credit_kwargs.")
    args.credit, args.credit_kwargs = "temper/seq", {"tau": script.tau}
    own = model_args.model_name_or_path
    if own and not script.dataset_name:
        raise ValueError("--dataset_name is missing; there are no prompts for your own model.")
    if script.dataset_name and not own:
        raise ValueError("--model_name_or_path is missing; the tiny model knows its letters alone.")
    if script.dataset_name:
        train, test = load_prompts(script)
    else:
        train = Dataset.from_dict({"prompt": [letters.PROMPT] * 4096})
        test = [{"prompt": letters.PROMPT}] * script.test_prompts
    return Task(
        train, test, [nothing], check,
        title=f"held-out prompts (temperature {script.tau:g}; below 1 strings get shorter)",
        tiny=lambda: letters.letter_model(script.warm_start_seed),
        tiny_outline=letters.outline,
        live="credit/ref_logp",
    )  # fmt: skip


def train(setup: Setup, run: "grpo_credit.Run") -> None:
    """Train as TRL does; `run` is what is around it, see docs/own-script.md."""
    from grpo_credit.tiny.letters import Distance

    listed = not (setup.model_args.model_name_or_path or setup.script.dataset_name)
    trainer = grpo_credit.CreditGRPOTrainer(
        model=setup.model(), reward_funcs=setup.task.rewards, args=setup.args,
        train_dataset=setup.task.train, eval_dataset=setup.eval_dataset(),
        callbacks=[*run.callbacks, *([Distance(setup.model(), setup.script.tau)] * listed)],
        **setup.adapters(),
    )  # fmt: skip
    run.train(trainer)
    if trainer.accelerator.is_main_process:
        print(likelihood(trainer.state.log_history), file=sys.stderr, flush=True)


def likelihood(steps: Sequence[Mapping[str, float]]) -> str:
    """Return what the first and the last tenth of the steps sampled, in nats under p."""
    seen = [step["credit/ref_logp"] for step in steps if "credit/ref_logp" in step]
    tenth = max(1, len(seen) // 10)
    first, last = (sum(part) / tenth for part in (seen[:tenth], seen[-tenth:]))
    return f"log p of a completion: {first:.2f} in the first {tenth} steps, {last:.2f} in the last"


def nothing(completions: Sequence[Any], **_: Any) -> list[float]:
    """Reward every completion alike."""
    return [0.0] * len(completions)


def check(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Measure a completion; `likelihood` tells its log-probability."""
    repeated = -(Repetition(ngram_size=3)([completion])[0] or 0.0)
    return {"characters": float(len(completion)), "repeated": repeated}


RECIPE = Recipe(__file__, __doc__ or "", TemperArguments, make_task, train, DEFAULTS, TINY_DEFAULTS)

if __name__ == "__main__":
    sys.exit(run_recipe(RECIPE, sys.argv[1:]))
