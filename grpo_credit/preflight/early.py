"""The preflight's checks during the first steps, from what the trainer logs anyway."""

from collections.abc import Callable, Iterable
from typing import Any

from transformers import TrainerCallback

from grpo_credit.preflight.checks import dead_groups, spread, truncation
from grpo_credit.preflight.findings import Finding, show
from grpo_credit.terminal import console


class EarlyWarnings(TrainerCallback):
    """Warn, once for each kind, of what the first optimizer steps show, on the main process.

    The first warning comes `after` some steps, because one step's groups may be unlucky. `told` are
    kinds of findings that are not told again, such as those of the preflight; `pending` is a
    preflight that has to wait until training begins. Where `alone`, the strategy teaches without
    rewards that differ.
    """

    def __init__(self, steps: int = 10, after: int = 3) -> None:
        self.steps, self.after = steps, after
        self.told: set[str] = set()
        self.alone = False
        self.pending: Callable[[], Iterable[Finding]] | None = None
        self._first = 0
        self._logs: list[dict[str, float]] = []

    def tell(self, findings: Iterable[Finding]) -> None:
        """Take findings as told."""
        self.told |= {finding.kind for finding in findings}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where training begins, and do what had to wait for it."""
        self._first, self._logs = state.global_step, []
        if self.pending is not None:
            look, self.pending = self.pending, None
            self.tell(look())

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Look at the mean of the logs so far."""
        logs, done = logs or {}, state.global_step - self._first
        if not state.is_world_process_zero or "loss" not in logs or done > self.steps:
            return
        self._logs.append({k: v for k, v in logs.items() if isinstance(v, int | float)})
        if done < self.after:
            return
        new = [f for f in self._findings(args) if f.kind not in self.told]
        self.tell(new)
        if new:
            told = [f._replace(message=f"in the first {done} steps, {f.message}") for f in new]
            show(told, console(stderr=True))

    def _findings(self, args: Any) -> list[Finding]:
        means = (k for k in self._logs[-1] if k.startswith("rewards/") and k.endswith("/mean"))
        names = [key.split("/")[1] for key in means]
        cut = truncation(self._mean("completions/clipped_ratio"), args.max_completion_length)
        if self.alone:
            return [cut] if cut else []
        findings = [cut]
        findings += [self._constant(name, len(names) == 1) for name in names]
        low, high = self._mean("credit/dead_groups_low"), self._mean("credit/dead_groups_high")
        findings += [dead_groups(low, high, args.num_generations)]
        return [finding for finding in findings if finding is not None]

    def _constant(self, name: str, alone: bool) -> Finding | None:
        if any(log.get(f"rewards/{name}/std") != 0 for log in self._logs):
            return None
        means = [log[f"rewards/{name}/mean"] for log in self._logs]
        return spread(name, means, alone, of="logged means")

    def _mean(self, key: str) -> float:
        values = [log[key] for log in self._logs if key in log]
        return sum(values) / max(1, len(values))
