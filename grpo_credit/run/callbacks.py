"""Trainer callbacks: the metrics file, the live line, and stopping on a signal.

Add each of them on every rank; only the main process writes and prints.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm
from transformers import TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Arguments

from grpo_credit.records.files import lines_from_end, parse_line
from grpo_credit.records.jsonfile import append_line
from grpo_credit.records.ranks import is_main, world_size
from grpo_credit.records.shape import fit
from grpo_credit.run import ending
from grpo_credit.run.launcher import launcher_pid

Logs = dict[str, Any] | None


class MetricsJsonl(TrainerCallback):
    """Append what the trainer logs to a file, one JSON object a line.

    A line is {"step", "epoch", "time_s", ...the logs}; NaN and infinities are null. `time_s` is
    seconds of training, and goes on where an earlier attempt at the run left off. A line is on
    disk before training continues.

    Args:
        path: the file; made when it is not there, never truncated.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._zero = time.monotonic()

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Start the clock, ahead by the seconds of earlier attempts."""
        if state.is_world_process_zero:
            self._zero = time.monotonic() - _last_time(self.path)

    def on_log(
        self, args: Arguments, state: State, control: Control, logs: Logs = None, **_: Any
    ) -> None:
        """Append one line."""
        if not state.is_world_process_zero:
            return
        seconds = round(time.monotonic() - self._zero, 3)
        line = {"step": state.global_step, "epoch": state.epoch, "time_s": seconds, **(logs or {})}
        append_line(self.path, line)


def _last_time(path: Path) -> float:
    whole = (line for _, line in lines_from_end(path) if line.endswith(b"\n"))
    if not path.is_file() or (last := next(whole, None)) is None:
        return 0.0
    where = f"{path}, its last line"
    return fit({"time_s": float}, parse_line(last, where), where)["time_s"]


class LiveLine(TrainerCallback):
    """Show on stderr how training goes: a bar on a terminal, a plain line now and then elsewhere.

    The bar counts optimizer steps. The plain line, also used with `disable_tqdm`, reads
    "step 10/80  reward 0.41  format 0.41  length 23.1  0.62 s/step", of what the trainer logged.

    Args:
        metric: one more that is shown; "rewards/format/mean" as "format". None for none.
        every: optimizer steps between plain lines, >= 1; the first logged step and the last are
            always shown.
    """

    def __init__(self, metric: str | None = None, every: int = 10) -> None:
        self.metric, self.every = metric, every
        self._bar = tqdm(disable=True)
        self._last: int | None = None  # step of the last plain line

    def on_train_begin(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Open the bar, at the step of a resumed run."""
        self._last = None
        has_bar = state.is_world_process_zero and not args.disable_tqdm and sys.stderr.isatty()
        self._bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True,
            disable=not has_bar,
        )  # fmt: skip

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Move the bar."""
        self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self, args: Arguments, state: State, control: Control, logs: Logs = None, **_: Any
    ) -> None:
        """Show the numbers of a training log; logs of evaluations have no "loss"."""
        if not state.is_world_process_zero or "loss" not in (logs := logs or {}):
            return
        if not self._bar.disable:
            self._bar.set_postfix_str(self._numbers(logs))
        elif self._is_due(state, control):
            self._last = state.global_step
            line = f"step {state.global_step}/{state.max_steps}  {self._numbers(logs)}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def on_train_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Close the bar."""
        self._bar.close()

    def _is_due(self, state: State, control: Control) -> bool:
        if self._last is None or control.should_training_stop:
            return True
        return state.global_step // self.every > self._last // self.every

    def _numbers(self, logs: dict[Any, Any]) -> str:
        name = (self.metric or "").removeprefix("rewards/").removesuffix("/mean")
        texts: tuple[tuple[str | None, str], ...] = (
            ("reward", "reward {:.2f}"),
            (self.metric, name + " {:.2f}"),
            ("completions/mean_length", "length {:.1f}"),
            ("step_time", "{:.2f} s/step"),
        )
        return "  ".join(text.format(float(logs[key])) for key, text in texts if key in logs)


class StopOnSignal(TrainerCallback):
    """End training after the current optimizer step on a signal, with a checkpoint.

    Use it as a context manager around the training and give it to the trainer as a callback. The
    first SIGINT (Ctrl-C), SIGTERM or SIGHUP (the terminal is closed) asks for a log, a checkpoint
    and the end of training at the end of the step; all ranks agree on it, whichever of them got
    the signal. A second SIGINT or SIGTERM raises KeyboardInterrupt at once; within `REPEAT_S` of
    the first it is taken for the same one, because torchrun sends Ctrl-C a second time and
    `timeout` may. A launcher that disappears counts as SIGTERM. A signal that was ignored before
    stays ignored (`nohup`, background jobs of scripts).

    `signum` is the signal, on every rank, or None; a recipe exits with 128 + `signum`.
    """

    REPEAT_S = ending.REPEAT_S
    INSISTENT = (signal.SIGINT, signal.SIGTERM)  # who closes a terminal later is only leaving

    def __init__(self) -> None:
        self.signum: int | None = None
        self._early = False  # whether it left steps to train
        self._since = 0.0
        self._old: dict[int, Any] = {}
        self._pid = os.getpid()
        self._launcher: int | None = None
        self._terminals: list[int] = []

    def __enter__(self) -> "StopOnSignal":
        """Install the handlers; in another thread than the main one Python allows none."""
        self._pid, self._launcher = os.getpid(), launcher_pid()
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        if threading.current_thread() is threading.main_thread():
            for signum in ending.SIGNALS:
                old = signal.getsignal(signum)
                if old not in (None, signal.SIG_IGN):
                    self._old[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        """Put the old handlers back."""
        while self._old:
            signal.signal(*self._old.popitem())

    def on_step_end(self, args: Arguments, state: State, control: Control, **_: Any) -> Control:
        """Ask for the end of training if any rank was told to stop."""
        agreed = self._agree(args.device)
        if agreed:
            if self.signum is None:
                self._note(agreed)
            control.should_log = control.should_save = control.should_training_stop = True
            self._early = state.global_step < state.max_steps
        return control

    def on_epoch_end(self, args: Arguments, state: State, control: Control, **_: Any) -> None:
        """Leave out what is due at the end of an epoch: here it is only interrupted."""
        if self._early and (state.epoch or 0) % 1:
            control.should_evaluate = control.should_save = False

    def _agree(self, device: torch.device) -> int:
        """Largest signal number over the ranks, 0 if there is none.

        Only the agreed number may decide: a signal that arrives during the reduction is seen by
        one rank alone, and has to wait for the next step.
        """
        orphaned = self._launcher is not None and os.getppid() != self._launcher
        mine = self.signum or (signal.SIGTERM if orphaned else 0)
        if world_size() == 1:
            return int(mine)
        flag = torch.tensor(int(mine), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return int(flag.item())

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            self._redeliver(signum)
            return
        self._let_go_of_lost_terminals()
        if self.signum is None:
            self._note(signum)
        elif signum in self.INSISTENT and time.monotonic() - self._since > self.REPEAT_S:
            raise KeyboardInterrupt

    def _redeliver(self, signum: int) -> None:
        """Let a forked child, such as a pool worker, die of the signal as it would without us."""
        signal.signal(signum, self._old[signum])
        os.kill(os.getpid(), signum)

    def _let_go_of_lost_terminals(self) -> None:
        """Send what would go to a closed terminal nowhere; the next print would fail the run."""
        for fd in [fd for fd in self._terminals if not os.isatty(fd)]:
            self._terminals.remove(fd)
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), fd)

    def _note(self, signum: int) -> None:
        self.signum, self._since = int(signum), time.monotonic()
        if is_main():
            ending.say(
                f"{signal.Signals(signum).name}: stopping after this step; the checkpoint and the "
                f"run directory stay usable; {self._how_to_insist()}"
            )

    def _how_to_insist(self) -> str:
        # A launcher keeps a second Ctrl-C for itself, or passes each on twice; see `launcher`.
        how = "press again" if self._launcher is None else f"`kill {os.getpid()}`"
        return f"{how} to stop at once"
