# /// script
# dependencies = ["grpo-credit"]
# ///
r"""GRPO for a format: reward completions that match a regular expression.

    accelerate launch recipes/grpo_regex.py --credit=seq
    accelerate launch recipes/grpo_regex.py --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct \
        --dataset_name trl-lib/DeepMath-103K --pattern '(?s)<think>.+</think>.*' --use_peft

Without --model_name_or_path it trains a tiny character model, made on the spot, on running sums.
"""

import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grpo_credit.options import CreditOptions
from grpo_credit.run.commandline import mistakes_in_one_line, names_option, parse, short_help
from rewards import RegexReward

PROG = "grpo_regex.py"
RUNS = Path("runs")

# What a half-million-parameter model on a laptop needs; flags and YAML override it.
TINY_DEFAULTS = {
    "per_device_train_batch_size": 64,
    "num_generations": 8,
    "max_completion_length": 64,
    "max_steps": 80,
    "learning_rate": 3e-4,
    "lr_scheduler_type": "constant",
    "gradient_checkpointing": False,
    "logging_steps": 1,
    "save_steps": 20,
    "save_rollouts": 20,
    "ddp_find_unused_parameters": False,
}
DEFAULTS = {
    "report_to": [],
    "log_completions": True,
    "num_completions_to_print": 0,  # the tables are in the run directory
    "save_total_limit": 2,
}


@dataclass
class RegexArguments:
    """Options of this recipe."""

    pattern: str = field(
        default="",
        metadata={"help": "Regular expression that the whole completion must match."},
    )
    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Prompts: hub name, folder or file with a column 'prompt'."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the data set, if it has several."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test", metadata={"help": "Split to test on; held out of the first if missing."}
    )
    test_prompts: int = field(default=64, metadata={"help": "Held-out prompts to test on."})
    test_samples: int = field(
        default=4, metadata={"help": "Sampled completions per held-out prompt."}
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Go on with the run in --output_dir, or with the last unfinished one."},
    )


@dataclass
class Job:
    """What is to be run, checked before any model is loaded."""

    script: RegexArguments
    args: Any
    model_args: Any
    reward: RegexReward
    train: Any
    test: list[dict[str, Any]]
    check: Any
    out: Path
    checkpoint: Path | None


def main(arguments: list[str]) -> int:
    """Train, test before and after, leave a run directory; return the exit code."""
    if {"-h", "--help"} & set(arguments):
        print(short_help(PROG, __doc__ or "", RegexArguments, CreditOptions))
        return 0
    with mistakes_in_one_line(PROG):
        job = prepare(arguments)
    return run(job)


def prepare(arguments: list[str]) -> Job:
    """Read the command line, the data and the model's description; take a run directory."""
    from grpo_credit.run.data import look_up_model

    script, args, model_args = read(arguments)
    reward = RegexReward(script.pattern, name="format")
    train, test, check = load_task(script, args)
    if model_args.model_name_or_path:
        look_up_model(
            model_args.model_name_or_path,
            [row["prompt"] for row in test],
            revision=model_args.model_revision,
            trust_remote_code=args.trust_remote_code,
        )
    data = {"train": train, "test": test}
    out, checkpoint = claim_directory(arguments, script, args, model_args, data)
    return Job(script, args, model_args, reward, train, test, check, out, checkpoint)


def read(arguments: list[str]) -> tuple[RegexArguments, Any, Any]:
    """Parse the command line; what nothing reads is a mistake."""
    from trl import ModelConfig, TrlParser

    from grpo_credit import CreditGRPOConfig

    warnings.filterwarnings("ignore", "`.*gradient_checkpointing.*` is deprecated", FutureWarning)
    tiny = not names_option(arguments, "model_name_or_path")
    kinds: Any = (RegexArguments, CreditGRPOConfig, ModelConfig)
    parser = TrlParser(kinds, prog=PROG)
    if "--help-all" in arguments:
        parser.print_help()
        raise SystemExit(0)
    script, args, model_args = parse(parser, arguments, DEFAULTS | (TINY_DEFAULTS if tiny else {}))
    if tiny and script.dataset_name is None:
        from grpo_credit.tiny.task import PATTERN

        script.pattern = script.pattern or PATTERN
    if not script.pattern:
        raise ValueError("--pattern is missing; there is no default for your own model or data.")
    if not tiny and script.dataset_name is None:
        raise ValueError(
            "--dataset_name is missing; the built-in prompts suit the tiny model only."
        )
    return script, args, model_args


def load_task(script: RegexArguments, args: Any) -> tuple[Any, list[dict[str, Any]], Any]:
    """Return prompts to train on, rows to test on, and a checker that is not the reward."""
    if script.dataset_name is None:
        from grpo_credit.tiny import task

        built_in = script.pattern == task.PATTERN
        return (
            task.dataset(4096, args.seed, "train"),
            task.prompts(script.test_prompts, args.seed, "test"),
            check_sum if built_in else checker(script.pattern),
        )
    from grpo_credit.run.data import load_prompts

    train, test = load_prompts(
        script.dataset_name,
        script.dataset_config,
        script.dataset_train_split,
        script.dataset_test_split,
        script.test_prompts,
        args.seed,
    )
    return train, test, checker(script.pattern)


def check_sum(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Judge a running sum by a scanner that knows nothing of regular expressions."""
    from grpo_credit.tiny import task

    verdict = task.check(completion, row["answer"])
    return {
        "format rate": float(verdict.well_formed),
        "right answers": float(verdict.correct),
        "characters": float(len(completion)),
    }


def checker(pattern: str) -> Any:
    """Judge by Python's own regex engine, and say whether the row's answer is named at all."""
    try:
        matches = re.compile(pattern).fullmatch
    except re.error as error:
        raise ValueError(
            f"--pattern works in `regex` but not in Python's `re`, which tests: {error}."
        ) from None

    def check(completion: str, row: Mapping[str, Any]) -> dict[str, float]:
        found = {"format rate": float(matches(completion.strip()) is not None)}
        if isinstance(row.get("answer"), str):
            found["answer named"] = float(row["answer"] in completion)
        return found | {"characters": float(len(completion))}

    return check


def claim_directory(
    arguments: list[str], script: RegexArguments, args: Any, model_args: Any, data: dict[str, Any]
) -> tuple[Path, Path | None]:
    """Take a run directory, or the one to resume with its last checkpoint."""
    from grpo_credit.config import plan
    from grpo_credit.run import directory, manifest

    stem = f"grpo_regex-{plan(args).strategy.name.replace('/', '-').replace(':', '-')}"
    given = args.output_dir if names_option(arguments, "output_dir") else None
    out = directory.choose(RUNS, stem, given, script.resume)
    args.output_dir = str(out)
    config = {**asdict(script), **asdict(model_args), **args.to_dict()}
    extra = {"plan": str(plan(args))}
    described = manifest.manifest(sys.argv, config, data, args.seed, extra, recipe=__file__)
    return out, directory.claim(out, described, script.resume)


def build_trainer(job: Job, callbacks: list[Any]) -> Any:
    """Load or make the model and put the trainer together."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import get_peft_config, get_quantization_config

    from grpo_credit import CreditGRPOTrainer
    from grpo_credit.tiny import warm_start

    args, model_args = job.args, job.model_args
    name = model_args.model_name_or_path
    if not name:
        torch.set_num_threads(1)  # on shared cores a second one makes a tiny step 50 times slower
    else:
        args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(args.model_init_kwargs or {}),
        }
    trainer = CreditGRPOTrainer(
        name or str(warm_start()),
        job.reward,
        args,
        job.train,
        Dataset.from_list(job.test) if args.eval_strategy != "no" else None,
        callbacks=callbacks,
        peft_config=get_peft_config(model_args),
        quantization_config=get_quantization_config(model_args),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def run(job: Job) -> int:
    """Test, train, test; return the exit code."""
    from transformers.utils.logging import disable_progress_bar

    from grpo_credit.run import callbacks, directory, manifest, summary
    from grpo_credit.run.evaluation import measure

    disable_progress_bar()  # of loading weights; the live line stays
    out, stop = job.out, callbacks.StopOnSignal()
    shown = [
        callbacks.MetricsJsonl(out / directory.METRICS),
        callbacks.LiveLine("rewards/format/mean"),
        stop,
    ]
    with manifest.recorded(out, stop) as record:
        trainer = record.trainer = build_trainer(job, shown)
        manifest.set_model(out, trainer.model)
        trainer.accelerator.print(f"{trainer.plan}\nrun directory: {out}")
        before = measure(trainer, job.test, job.check, job.script.test_samples)
        with stop:
            trainer.train(resume_from_checkpoint=job.checkpoint and str(job.checkpoint))
        trainer.save_model(str(out / "model"))
        stopped = stop.signum is not None  # then there is no time for another test
        after = {} if stopped else measure(trainer, job.test, job.check, job.script.test_samples)
    title = f"{len(job.test)} held-out prompts (the reward is the format alone)"
    summary.before_after(before, after, title=title)
    if stopped:
        trainer.accelerator.print(
            f"stopped at step {trainer.state.global_step}; to go on: the same command with "
            f"--resume --output_dir {out}"
        )
    kept = {"rollouts by step": out / "rollouts"} if job.args.save_rollouts else {}
    summary.where(
        {
            "model, tokenizer": out / "model",
            "metrics by step": out / directory.METRICS,
            "completions": out / "completions",
            "credit by token": out / "credit",
            **kept,
            "manifest": out / manifest.MANIFEST,
        }
    )
    if job.args.push_to_hub:
        trainer.push_to_hub(dataset_name=job.script.dataset_name)
    trainer.end()
    return 128 + stop.signum if stop.signum else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
