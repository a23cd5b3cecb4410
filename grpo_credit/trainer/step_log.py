"""`StepLog`: what was trained on is what is logged, drawn and saved."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformers import TrainerCallback
from transformers.utils import logging

from grpo_credit.credit import diagnostics
from grpo_credit.credit.saved import save_rollouts
from grpo_credit.records.files import aside
from grpo_credit.trainer.credit_tables import save_credit
from grpo_credit.trainer.seams import Host, mode
from grpo_credit.trainer.storable import logged_storably
from grpo_credit.trainer.window import Window, token_texts

logger = logging.get_logger(__name__)
LOOPS = 0.1  # of the completions of a step, beyond which it is said


class StepLog(TrainerCallback):
    """Describes the credit of the last optimizer step, and keeps it beside TRL's tables.

    As a callback it saves the rollouts of every N-th step, once that is done.

    Args:
        host: the trainer.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._trained_on: tuple[Window, Tensor] | None = None
        self._undescribed: tuple[Any, ...] = ()  # the credit of a step that is not yet logged

    def record(
        self,
        window: Window,
        credit: Float[Tensor, "B T"],
        even: Float[Tensor, "B _"] | None,
    ) -> None:
        """Take note of the credit of a window."""
        kept = self._host.state.stateful_callbacks  # which a resume brings back
        seen = kept.setdefault(f"credit_rewards_{mode(self._host)}", {})
        midpoint = diagnostics.midpoint(window.rollouts.rewards, seen)
        self._append(diagnostics.dead_groups(window.rollouts, midpoint))
        described = credit, window.rollouts, even
        if not self._host.model.training:
            return self._append(diagnostics.summary(*described))
        self._undescribed = described
        if self._host.log_completions or self._host.save_every:
            self._trained_on = window, credit

    @contextmanager
    def around(self) -> Generator[None]:
        """Surround TRL's log: the credit is described for it, and written beside its table."""
        self.describe()
        tells = self._host.log_completions and self._host.accelerator.is_main_process
        with logged_storably(self._host._logs) if tells else nullcontext():
            yield
        self.write_credit()

    def describe(self) -> None:
        """Add the diagnostics of the last optimizer step to TRL's metrics, for the log to come."""
        if self._host.model.training and self._undescribed:
            numbers = diagnostics.summary(*self._undescribed)
            self._append(numbers)
            self._undescribed = ()
            self._warn_of_loops(numbers.get("loops", 0.0))

    def _warn_of_loops(self, share: float) -> None:
        """Warn, once, where the values of states cannot tell how near the limit is."""
        options = self._host.plan.strategy.options.get("automaton", {})
        if share > LOOPS and options.get("mode") == "td":
            logger.warning_once(
                f"credit/loops is above {LOOPS:.0%}: so many completions of a step were cut off in "
                "a state of the reward's automaton that leads to itself. 'automaton' with "
                "mode='td' does not see the limit come, and may teach to stay there. Use "
                "mode='baseline' or 'known', which have no such bias; or raise "
                "--max_completion_length, or tell long stays from short ones by the option clock "
                "(such as 8)."
            )

    def write_credit(self) -> None:
        """Write the credit of each token beside TRL's completions table, if there is one."""
        host = self._host
        if host.model.training and host.log_completions and self._trained_on is not None:
            told = *self._trained_on, host._tokenizer, host.state.global_step
            self._write("credit", lambda path: save_credit(path, *told))

    def save_rollouts(self) -> None:
        """Keep the rollouts of the last optimizer step in `<output_dir>/rollouts/`."""
        if self._trained_on is None:
            raise RuntimeError("there was no optimizer step yet whose rollouts could be saved.")
        host, window, strategy = self._host, self._trained_on[0], self._host.plan.strategy
        named = getattr(host.args, "credit", None)  # with its module, where it has one
        tokens = token_texts(window.rollouts, host._tokenizer)
        options = {k: v for given in strategy.options.values() for k, v in given.items()}
        self._write(
            "rollouts",
            lambda path: save_rollouts(
                path,
                window.rollouts,
                window.prompts,
                tokens,
                named if isinstance(named, str) else strategy.name,
                options,
                window.prompt_ids,
                host.temperature,
            ),
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save, if it is this step's turn."""
        if self._host.save_every and state.global_step % self._host.save_every == 0:
            self.save_rollouts()

    def _append(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self._host._metrics[mode(self._host)][f"credit/{name}"].append(value)

    def _write(self, kind: str, write: Callable[[Path], Any]) -> None:
        write_table(self._host, kind, write, self._host.state.global_step)


def write_table(trainer: Any, kind: str, write: Callable[[Path], Any], step: int) -> None:
    """Write `<output_dir>/<kind>/<kind>_<step>.parquet` in one step, on the main process."""
    if trainer.accelerator.is_main_process:
        folder = Path(trainer.args.output_dir) / kind
        folder.mkdir(parents=True, exist_ok=True)
        with aside(folder / f"{kind}_{step:05d}.parquet") as temporary:
            write(temporary)
