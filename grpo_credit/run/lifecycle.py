"""What surrounds a training: `Run`, for recipes and for scripts of one's own.

Under several ranks do all of it on every rank: only the main process writes and prints. Training
arguments come first, since constructing them starts the process group.
"""

import shlex
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import disable_progress_bars
from transformers import PrinterCallback, ProgressCallback
from transformers.utils.logging import disable_progress_bar

from grpo_credit.credit.sources import own_sources
from grpo_credit.errors import CreditError
from grpo_credit.preflight.early import EarlyWarnings
from grpo_credit.preflight.findings import Finding, errors
from grpo_credit.preflight.verdict import NotFit, preflight, tell
from grpo_credit.records import checkpoints, directory, manifest, summary
from grpo_credit.records.files import ANSWERS, HELD_OUT
from grpo_credit.records.lock import let_go
from grpo_credit.records.provenance import MANIFEST
from grpo_credit.records.ranks import is_main
from grpo_credit.run.callbacks import LiveLine, MetricsJsonl, StopOnSignal
from grpo_credit.run.closing import end_training
from grpo_credit.run.commandline import mistakes_in_one_line
from grpo_credit.run.ending import Ending, is_program
from grpo_credit.run.evaluation import HeldOut
from grpo_credit.run.options import LastingArguments, RunArguments, check_options
from grpo_credit.run.recipe import Task
from grpo_credit.run.stages import stage_of
from grpo_credit.terminal import print_anything
from grpo_credit.text import in_line
from grpo_credit.trainer.model_card import step_of

if TYPE_CHECKING:
    from grpo_credit import CreditGRPOConfig, CreditSFTConfig


class Run:
    """A training with a directory of its own, tests, a live line and an orderly end.

        with Run(args, task, options) as run:
            trainer = CreditGRPOTrainer(..., args=args, callbacks=run.callbacks)
            run.train(trainer)

    Constructing it claims the directory, before the trainer writes there. When the block ends, the
    manifest says "finished", "interrupted" or "failed", and a table shows the held-out numbers. A
    signal leaves a checkpoint, and the block as SystemExit with 128 + the signal; a strict
    preflight's error, or other weights than a resumed run needs, give the directory back and leave
    with 2. So does, in the program itself, what is refused here.

    Args:
        args: a `CreditGRPOConfig`, or a `CreditSFTConfig`; `output_dir` is the run directory.
        task: what is trained and tested.
        options: of tests, resuming and preflight.
        more: what else must be the same where the run is resumed, such as the model's options.
        file: of the script; by default the program's.
        named: whether the user named the directory, which stays then if nothing is trained.

    Attributes:
        callbacks: for the trainer.
        checkpoint: to go on from; None to begin at the first step.
        out: the run directory.

    Raises:
        ValueError: wrong options, or a directory that cannot be taken; see `directory.claim`.

    Example:
        with Run(args, Task(train, test, [reward], check, metric="pass@1")) as run:
            trainer = CreditGRPOTrainer(model, reward, args, train, callbacks=run.callbacks)
            run.train(trainer)
    """

    def __init__(
        self,
        args: "CreditGRPOConfig | CreditSFTConfig",
        task: Task,
        options: LastingArguments | None = None,
        *,
        more: Mapping[str, Any] | None = None,
        file: str | None = None,
        named: bool = True,
    ) -> None:
        self.args, self.task, self._stage = args, task, stage_of(args)
        fitting = RunArguments if self._stage.samples else LastingArguments
        self.options: Any = options or fitting()
        print_anything()
        disable_progress_bar()  # of loading weights; the live line stays
        disable_progress_bars()  # of preparing data
        file = file or getattr(sys.modules["__main__"], "__file__", "")
        self.out, self._named, self._ending = Path(str(args.output_dir)), named, Ending(file)
        refusal = mistakes_in_one_line(Path(file).name, sys.argv, file)
        with refusal if is_program(file) else nullcontext():
            check_options(self.options)
            described = self._described(more or {}, file)
            self.checkpoint = directory.claim(self.out, described, self.options.resume)
        args.eval_on_start = args.eval_on_start and self.checkpoint is None  # or it is logged twice
        self._trainer: Any = None
        self._stop, self._early = StopOnSignal(), EarlyWarnings()
        samples = getattr(self.options, "test_samples", 0)
        self._held_out = HeldOut(
            self.out / HELD_OUT, task.test, task.check, task.metric, samples,
            self.options.test_every, measures=task.measure,
        )  # fmt: skip
        log, early = MetricsJsonl(self.out / directory.METRICS), [self._early] * self._stage.samples
        # In the order in which they act when training begins.
        self.callbacks = [*early, self._held_out, log, LiveLine(task.live), self._stop]

    def _described(self, more: Mapping[str, Any], file: str) -> dict[str, Any]:
        config = {**asdict(self.options), **more, **self.args.to_dict()}
        data = {"train": self.task.train, "test": self.task.test}
        planned = self._stage.planned(self.args)
        extra = {
            "plan": str(planned),
            "metric": self.task.metric,
            "held_out_draws": self._stage.draws(self.args),
            "rules": own_sources(planned.strategy.rules),
            "checkpoints": checkpoints.LIST,  # each of this run has one
        }
        return manifest.manifest(sys.argv, config, data, self.args.seed, extra, recipe=file or None)

    # ---- the training ---------------------------------------------------------------------------

    def train(self, trainer: Any) -> None:
        """Look first, train from where the run stands, save the model, test it, write its card.

        The trainer is a `CreditGRPOTrainer` or a `CreditSFTTrainer`, as the configuration is. TRL's
        own bar and lines give way to the live line.
        """
        self._trainer = self._held_out.trainer = trainer
        self._early.alone = trainer.plan.alone
        for shown in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(shown)
        manifest.set_model(self.out, trainer.model, trainer.plan.refers)
        trainer.accelerator.print(f"{trainer.plan}\nrun directory: {in_line(self.out)}")
        self._look_first(trainer)
        with self._stop:
            trainer.train(resume_from_checkpoint=self.checkpoint and str(self.checkpoint))
        if self.checkpoint and checkpoints.step_of(self.checkpoint) == self._step():
            trainer.accelerator.print("every step was trained before; the last test is left")
        checkpoints.save_model(trainer, self.out / "model")
        if self._stop.signum is None:  # else there is no time for another test
            self._held_out.at(step_of(trainer))
        trainer.create_model_card(model_name=in_line(self.out.name))

    def _look_first(self, trainer: Any) -> None:
        """Do the preflight, unless it is off or was done; a sharded model has to wait."""
        if not self._is_to_be_looked_at():
            return
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            self._early.pending = partial(self._look, trainer)  # put together when training begins
            return
        findings = self._look(trainer)
        self._early.tell(findings)
        if errors(findings):
            trainer.accelerator.print(
                "training goes on in spite of the errors; --preflight=strict would stop here"
            )

    def _is_to_be_looked_at(self) -> bool:
        """Whether no attempt was looked at to the end, or a strict look would stop what was."""
        if not self._stage.samples or self.checkpoint is not None:
            return False
        if self.options.preflight == "off":
            return False
        kinds = manifest.preflight_errors(self.out)
        return kinds is None or (self.options.preflight == "strict" and bool(kinds))

    def _look(self, trainer: Any) -> list[Finding]:
        trainer.accelerator.print("sampling completions for the preflight")
        findings = preflight(trainer, strict=self.options.preflight == "strict")
        manifest.set_preflight(self.out, [finding.kind for finding in errors(findings)])
        return findings

    def _step(self) -> int | None:
        return None if self._trainer is None else self._trainer.state.global_step

    # ---- what is around it ----------------------------------------------------------------------

    def __enter__(self) -> "Run":
        """Record from here on how it ends."""
        self._surroundings = self._surround()
        self._surroundings.__enter__()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        """Write how it ended, and tell."""
        return self._surroundings.__exit__(*error)

    @contextmanager
    def _surround(self) -> Generator[None]:
        again = f"the same command with --resume --output_dir {in_line(shlex.quote(str(self.out)))}"
        with self._ending:
            self._ending.keep(f"to go on: {again}")
            code = 0
            try:
                with manifest.recorded(self.out, self._stop, self._step, self._ending):
                    yield
                    if self._trainer is None:
                        raise CreditError("nothing was trained: run.train(trainer) was not called.")
                if self._stop.signum is None:
                    let_go(self.out, remove=True)  # nobody can go on with it
            except (NotFit, manifest.OtherWeights) as error:
                self._trainer.accelerator.wait_for_everyone()  # each rank has recorded it
                directory.release(self.out, self._named)
                tell(error)
                end_training(self._trainer)
                code = 2
            except KeyboardInterrupt:  # a second signal while training stopped
                self._ending.signum = self._ending.signum or self._stop.signum
                raise
            finally:
                let_go(self.out)
            if code := code or self._end(again):
                raise SystemExit(code)

    def _end(self, again: str) -> int:
        """Say how it ended and what it left; return the exit code."""
        trainer, stopped = self._trainer, self._stop.signum
        if stopped is not None:
            trainer.accelerator.print(f"stopped at step {self._step()}; to go on: {again}")
        else:
            self._ending.keep(f"the run in {in_line(self.out)} is finished")
            self._sum_up(self._held_out.known(0), self._held_out.known(step_of(trainer)))
        if self.args.push_to_hub:
            trainer.push_to_hub(dataset_name=getattr(self.options, "dataset_name", None))
        end_training(trainer)
        return 128 + stopped if stopped else 0

    def _sum_up(self, before: dict[str, float], after: dict[str, float]) -> None:
        if after:
            chosen = self.task.numbers or (self.task.metric, *before, *after)
            names = dict.fromkeys(name for name in chosen if name in before | after)
            first, last = ({n: of[n] for n in names if n in of} for of in (before, after))
            of = f"{len(self.task.test)} " if self.task.test else ""
            summary.before_after(first, last, title=f"{of}{self.task.title}")
        summary.where(self._left())
        if is_main():
            self.task.closing(self.out)

    def _left(self) -> dict[str, Path]:
        """Return where everything is that the run leaves."""
        names = {
            "model, tokenizer": "model",
            "metrics by step": directory.METRICS,
            "held-out numbers": HELD_OUT,
            "held-out answers": ANSWERS,
            "completions": "completions",
            "credit by token": "credit",
            "rollouts by step": "rollouts",
            "manifest": MANIFEST,
        }
        return {what: self.out / name for what, name in names.items() if (self.out / name).exists()}
