"""What a recipe's configuration, checks and tests depend on: the stage that it trains in.

A stage is where the trained tokens come from: the policy, which is rewarded, or data. Importing
this imports no torch: a recipe's `--help` answers at once.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from grpo_credit.trainer.options import CreditOptions, SupervisedOptions

if TYPE_CHECKING:
    from grpo_credit.preflight.plan import Explanation

DEFAULTS: dict[str, Any] = {"logging_steps": 1, "report_to": [], "save_total_limit": 2}


class Alignment:
    """Completions that the policy samples, and rewards score: `CreditGRPOTrainer`."""

    samples = True
    host = "GRPOConfig"
    options = CreditOptions
    defaults: Mapping[str, Any] = DEFAULTS | {
        "num_generations": 8,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 8,  # with TRL's 1 a step is one prompt
        "log_completions": True,
        "num_completions_to_print": 0,  # the tables are in the run directory
        "learning_rate": 1e-6,
    }

    def config(self) -> type[Any]:
        """Return the class of the configuration."""
        from grpo_credit.trainer.config import CreditGRPOConfig

        return CreditGRPOConfig

    def planned(self, args: Any) -> Any:
        """Return what a configuration comes to: a strategy, and a line in words."""
        from grpo_credit.trainer.config import plan

        return plan(args)

    def draws(self, args: Any) -> str:
        """Say whether two runs are tested by the same draws."""
        from grpo_credit.trainer.completing import draws

        return draws(args)

    def check(self, setup: Any) -> None:
        """Refuse data and rewards that a run would fail on, or train nothing by.

        Raises:
            ValueError: with what is wrong.
        """
        from grpo_credit.credit.needs import check_columns, check_told
        from grpo_credit.preflight.columns import GIVEN, reward_name
        from grpo_credit.run.data import check_prompts

        task, args = setup.task, setup.args
        check_prompts(task.train, task.test)
        if not setup.script.dry_run:
            _refuse_too_few(args, task.train)
        named = [(reward_name(reward), reward) for reward in task.rewards]
        strategy = self.planned(args).strategy
        check_told(strategy.name, strategy.needs, named, args.reward_weights or [1.0] * len(named))
        if columns := getattr(task.train, "column_names", None):
            check_columns(named, [*columns, *sorted(GIVEN)])

    def explain(self, setup: Any) -> "Explanation":
        """Return what a configuration means."""
        from grpo_credit.preflight.plan import explain

        return explain(setup, setup.adapters()["peft_config"])

    def measured(self, setup: Any) -> list[str]:
        """Return the names of the held-out numbers, by what is said of an empty completion."""
        from grpo_credit.run.evaluation import measured

        return measured(setup.task.check("", setup.task.test[0]), setup.script.test_samples)


class Supervised:
    """Documents of data: `CreditSFTTrainer`. Nothing is sampled, so there is no preflight."""

    samples = False
    host = "SFTConfig"
    options = SupervisedOptions
    defaults: Mapping[str, Any] = DEFAULTS | {"learning_rate": 2e-5}  # TRL's

    def config(self) -> type[Any]:
        """Return the class of the configuration."""
        from grpo_credit.trainer.sft_config import CreditSFTConfig

        return CreditSFTConfig

    def planned(self, args: Any) -> Any:
        """Return what a configuration comes to: a strategy, and a line in words."""
        from grpo_credit.trainer.sft_config import Supervision, supervised

        return Supervision.of(supervised(args, args.credit, args.credit_kwargs))

    def draws(self, args: Any) -> str:
        """Say whether two runs are tested by the same draws."""
        return "none: held-out numbers are computed from probabilities"

    def check(self, setup: Any) -> None:
        """Refuse data without a document.

        Raises:
            ValueError: if there is none.
        """
        train = setup.task.train
        if hasattr(train, "__len__") and not len(train):
            raise ValueError("there are no documents to train on; the data are empty.")
        self.check_columns(setup.args, train)

    def check_columns(self, args: Any, train: Any) -> None:
        """Refuse data without the column that the credit reads.

        Raises:
            ValueError: naming it, and the columns there are.
        """
        from grpo_credit.trainer.sft_logps import COLUMN, check_column

        strategy = self.planned(args).strategy
        if COLUMN in strategy.needs:
            check_column(strategy.name, train)

    def explain(self, setup: Any) -> "Explanation":
        """Return what a configuration means."""
        from grpo_credit.preflight.plan import explain_supervised

        return explain_supervised(setup, self.planned(setup.args))

    def measured(self, setup: Any) -> list[str]:
        """Refuse a study, whose pages are of rewards and completions.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "a study compares runs by rewards and completions, and supervised training has none; "
            "run the recipe itself, once for each strategy and seed."
        )


ALIGNMENT, SUPERVISED = Alignment(), Supervised()
Stage = Alignment | Supervised


def stage_of(args: Any) -> Stage:
    """Return the stage of a configuration: TRL's for GRPO samples generations."""
    return ALIGNMENT if hasattr(args, "num_generations") else SUPERVISED


def _refuse_too_few(args: Any, train: Any) -> None:
    """Refuse data of which nothing would be trained: such a run ends at once, as if it had been."""
    from grpo_credit.preflight.batches import Batches, check_batches
    from grpo_credit.preflight.findings import errors

    for finding in errors(check_batches(Batches.of(args, train))):
        raise ValueError(f"{finding.message} {finding.remedy}")
