"""Options of recipes beside TRL's."""

from dataclasses import dataclass, field


@dataclass
class RunArguments:
    """Options that every recipe adds to TRL's."""

    test_prompts: int = field(
        default=64, metadata={"help": "Held-out prompts to test on, drawn at random."}
    )
    test_samples: int = field(
        default=4, metadata={"help": "Sampled completions per held-out prompt."}
    )
    test_every: int = field(
        default=0,
        metadata={"help": "Test every N optimizer steps, too; 0: before and after training."},
    )
    resume: bool = field(
        default=False,
        metadata={"help": "Go on with the run in --output_dir, or with the last unfinished one."},
    )
    preflight: str = field(
        default="auto",
        metadata={
            "help": "Sample a few groups before training and say why it would not learn: 'auto' "
            "goes on, 'strict' stops at an error (exit code 2), 'off' does not look."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print what the configuration means, and stop; nothing is written."},
    )
    traceback: bool = field(
        default=False,
        metadata={"help": "Show where a mistake was found, instead of one line about it."},
    )


@dataclass
class TinyArguments(RunArguments):
    """Options of a recipe that makes a tiny model where none is named."""

    warm_start_seed: int = field(
        default=0,
        metadata={"help": "Seed of the tiny model's first weights and lessons, 0 or more; each "
        "is made once."},
    )  # fmt: skip


@dataclass
class DataArguments(RunArguments):
    """Options of a recipe that reads prompts of the user's."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Prompts: hub name, folder or file with a column 'prompt'."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the data set, if it has several."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test",
        metadata={
            "help": "Split to test on: the same rows in every run, without questions that are "
            "trained on. If missing, they are held out of the train split."
        },
    )
