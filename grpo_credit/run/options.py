"""Options of recipes beside TRL's."""

from dataclasses import dataclass, field
from typing import Any


def option(default: Any, about: str) -> Any:
    """Return a field of a dataclass of options, with its help."""
    return field(default=default, metadata={"help": about})


@dataclass
class LastingArguments:
    """Options of every `lifecycle.Run`."""

    test_every: int = option(0, "Test every N optimizer steps, too; 0: before and after training.")
    resume: bool = option(
        False, "Go on with the run in --output_dir, or with the last unfinished one."
    )


@dataclass
class RunArguments(LastingArguments):
    """Options of a `Run` that samples completions; `test_prompts` is the script's to read."""

    test_prompts: int = option(64, "Held-out prompts to test on, drawn at random.")
    test_samples: int = option(4, "Sampled completions per held-out prompt.")
    preflight: str = option(
        "auto",
        "Sample a few groups before training and say why it would not learn: 'auto' "
        "goes on, 'strict' stops at an error (exit code 2), 'off' does not look.",
    )


@dataclass
class ScriptArguments:
    """Options of every recipe."""

    dry_run: bool = option(
        False, "Print what the configuration means, and stop; nothing is written."
    )
    traceback: bool = option(False, "Show where a mistake was found, instead of one line about it.")


@dataclass
class RecipeArguments(ScriptArguments, RunArguments):
    """Options that every recipe with rewards adds to TRL's."""


@dataclass
class TinyArguments(RecipeArguments):
    """Options of a recipe that makes a tiny model where none is named."""

    warm_start_seed: int = option(
        0, "Seed of the tiny model's first weights and lessons, 0 or more; each is made once."
    )


@dataclass
class DatasetArguments:
    """Which data of the user's are read."""

    dataset_name: str | None = option(
        None, "Prompts: hub name, folder or file with a column 'prompt'."
    )
    dataset_config: str | None = option(None, "Configuration of the data set, if it has several.")
    dataset_train_split: str = option("train", "Split to train on.")
    dataset_test_split: str = option(
        "test",
        "Split to test on: the same rows in every run, without questions that are "
        "trained on. If missing, they are held out of the train split.",
    )


@dataclass
class DataArguments(DatasetArguments, RecipeArguments):
    """Options of a recipe that reads prompts of the user's."""


@dataclass
class SupervisedArguments(DatasetArguments, ScriptArguments, LastingArguments):
    """Options of a recipe that trains on documents, and samples nothing."""

    dataset_name: str | None = option(
        None, "Documents: hub name, folder or file with 'text', 'messages', or 'prompt' and "
        "'completion'.",
    )  # fmt: skip
    test_prompts: int = option(64, "Held-out documents to test on, drawn at random.")


def check_options(options: LastingArguments) -> None:
    """Read `preflight` as YAML means it, and refuse tests of nothing.

    Raises:
        ValueError: with what was expected.
    """
    from grpo_credit.preflight.verdict import read_how  # which needs torch, and a help does not

    if isinstance(options, RunArguments):
        options.preflight = read_how(options.preflight)
    for name, least in (("test_prompts", 1), ("test_samples", 1), ("test_every", 0)):
        if (value := getattr(options, name, least)) < least:
            raise ValueError(f"--{name} is {value}, expected {least} or more.")
