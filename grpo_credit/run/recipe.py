"""What a recipe is, and what is checked before it trains; `training` runs it.

A recipe is a `Recipe`: options, defaults, a function that makes a `Task` of them, and one that
trains. Everything a user can get wrong is checked before a model is loaded or a file written.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_credit.run.options import ScriptArguments, check_options
from grpo_credit.run.stages import ALIGNMENT, Stage

if TYPE_CHECKING:
    from grpo_credit.trainer.parser import ModelConfig

LORA_DEFAULTS = {"lora_target_modules": ["all-linear"]}
TINY_DEFAULTS = {  # of every tiny model: cheap steps, on a laptop, each of them to be looked at
    "learning_rate": 3e-4,
    "lr_scheduler_type": "constant",
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "save_steps": 20,
    "save_rollouts": 20,
    "ddp_find_unused_parameters": False,
}


@dataclass(frozen=True)
class Task:
    """What is trained and tested.

    Args:
        train: data set with a column "prompt" and whatever the rewards read.
        test: held-out rows with a "prompt" and whatever the checker reads; none: nothing is tested.
        rewards: reward functions.
        check: judges a completion of a held-out row; not the reward. See `evaluation.measure`.
        metric: the held-out number that the task is about, as `evaluation.measure` names it.
        title: of the table of held-out numbers.
        tiny: makes the model where the command line names none; None where one must be named.
        live: metric shown while training beside the reward; see `callbacks.LiveLine`.
        tiny_outline: gives the configuration and the tokenizer of the model that `tiny` makes.
        measure: takes the trainer and returns held-out numbers, in place of `check`.
        numbers: held-out numbers that the closing table shows; all if there are none.
        closing: shows more of the run directory, at the end.
    """

    train: Any
    test: list[dict[str, Any]] = field(default_factory=list)
    rewards: list[Any] = field(default_factory=list)
    check: Callable[[str, Mapping[str, Any]], Mapping[str, float]] = lambda completion, row: {}
    metric: str = ""
    title: str = "held-out prompts"
    tiny: Callable[[], Path] | None = None
    live: str | None = None
    tiny_outline: Callable[[], tuple[Any, Any]] | None = None
    measure: Callable[[Any], dict[str, float]] | None = None
    numbers: tuple[str, ...] = ()
    closing: Callable[[Path], None] = lambda out: None


@dataclass(frozen=True)
class Recipe:
    """A script that trains.

    Args:
        file: of the script.
        about: its docstring, with commands.
        arguments: dataclass of its options, derived from `RecipeArguments`, or of supervised
            training `SupervisedArguments`.
        task: makes the task of the script's options, TRL's configuration and the model's options,
            or raises ValueError with what is wrong; loads no model.
        train: makes the trainer and hands it to `train` of a `lifecycle.Run`, as its last act:
            `grpo-credit preflight` hands over one that only looks.
        defaults: that take the place of TRL's; flags and YAML override them.
        tiny_defaults: likewise, where no model is named, over `TINY_DEFAULTS`.
        stage: `stages.ALIGNMENT` or `stages.SUPERVISED`.

    With --use_peft the default learning rate is ten times as large: an adapter wants larger steps.
    """

    file: str
    about: str
    arguments: type[ScriptArguments]
    task: Callable[[Any, Any, Any], Task]
    train: Callable[["Setup", Any], None]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tiny_defaults: Mapping[str, Any] = field(default_factory=dict)
    stage: Stage = ALIGNMENT

    @property
    def name(self) -> str:
        """The script's name, such as "grpo_regex.py"."""
        return Path(self.file).name

    def check(self, arguments: list[str]) -> list[str]:
        """Check a command line as a run would; return the names of its held-out numbers.

        The names are those of what the checker says of an empty completion. Nothing is written.

        Raises:
            ValueError: (or OSError, ImportError) what a run would refuse.
        """
        return self.stage.measured(prepare(self, arguments))


@dataclass(frozen=True)
class Setup:
    """A task on a checked configuration."""

    script: Any
    args: Any  # a CreditGRPOConfig, or a CreditSFTConfig
    model_args: "ModelConfig"
    task: Task
    given: Mapping[str, Any]  # the options that the user named

    def model(self) -> str:
        """Return the model to train: the one that is named, or the tiny one, which is then made."""
        if self.model_args.model_name_or_path:
            return self.model_args.model_name_or_path
        assert self.task.tiny is not None  # the recipe's `task` refuses otherwise
        return str(self.task.tiny())

    def adapters(self) -> dict[str, Any]:
        """Return what the command line says of LoRA and quantization, for a trainer."""
        from grpo_credit.trainer.parser import adapters

        return adapters(self.model_args)

    def eval_dataset(self) -> Any:
        """Return the held-out rows as a data set, where the trainer evaluates."""
        from datasets import Dataset

        return Dataset.from_list(self.task.test) if self.args.eval_strategy != "no" else None


def explain(recipe: Recipe, setup: Setup) -> int:
    """Print what the configuration means; nothing is loaded, written or trained."""
    from grpo_credit.records.ranks import is_main

    if is_main():
        recipe.stage.explain(setup).print()
    return 0


def prepare(recipe: Recipe, arguments: list[str]) -> Setup:
    """Read the command line, the data and the model's description; nothing is written."""
    from grpo_credit.run.models import look_up_model

    script, args, model_args, given = _read(recipe, arguments)
    check_options(script)
    _check_warm_start(script, model_args.model_name_or_path)
    setup = Setup(script, args, model_args, recipe.task(script, args, model_args), given)
    recipe.stage.check(setup)
    if model_args.model_name_or_path:
        look_up_model(
            model_args.model_name_or_path,
            [row.get("prompt", row.get("messages", row.get("text"))) for row in setup.task.test],
            weights=not script.dry_run,
            revision=model_args.model_revision,
            trust_remote_code=args.trust_remote_code,
        )
    return setup


def _check_warm_start(script: ScriptArguments, model: str | None) -> None:
    """Refuse a seed that is none, or that nothing would read."""
    seed = getattr(script, "warm_start_seed", 0)
    if seed < 0:
        raise ValueError(f"--warm_start_seed is {seed}, expected 0 or more.")
    if seed and model:
        raise ValueError(
            f"--warm_start_seed is of the tiny model, but --model_name_or_path is {model!r}, whose "
            "weights no seed changes; leave it out."
        )


def _read(
    recipe: Recipe, arguments: list[str]
) -> tuple[Any, Any, "ModelConfig", Mapping[str, Any]]:
    """Parse the command line; what nothing reads is a mistake."""
    from grpo_credit.trainer.parser import parse

    warnings.filterwarnings("ignore", "`.*gradient_checkpointing.*` is deprecated", FutureWarning)
    kinds = recipe.arguments, recipe.stage.config()
    return parse(kinds, recipe.name, arguments, partial(_defaults, recipe))


def _defaults(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a recipe, where a user named some of the options."""
    defaults = {**recipe.stage.defaults, **recipe.defaults}
    if not given.get("model_name_or_path"):
        defaults |= {**TINY_DEFAULTS, **recipe.tiny_defaults}
    if str(given.get("use_peft")).lower() in ("true", "yes", "t", "y", "1"):
        tenfold = f"{10 * defaults['learning_rate']:.6g}"  # 10 * 1e-6 is not 1e-5 in binary
        defaults |= LORA_DEFAULTS | {"learning_rate": float(tenfold)}
    return defaults
