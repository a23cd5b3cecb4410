"""How a recipe trains: claim a run directory, look first, test, train, test, leave everything.

Importing it imports no torch: a recipe's `--help` answers at once.
"""

import shlex
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grpo_credit.records.lock import let_go
from grpo_credit.run.commandline import mistakes_in_one_line, short_help
from grpo_credit.run.ending import Ending
from grpo_credit.run.launcher import fewer_than_asked
from grpo_credit.run.recipe import Asked, Recipe, explain, prepare
from grpo_credit.terminal import print_anything
from grpo_credit.text import in_line
from grpo_credit.trainer.options import CreditOptions
from grpo_credit.trainer.parser import adapters, names_option

RUNS = Path("runs")


@dataclass(frozen=True)
class Job(Asked):
    """The same with a run directory of its own, named by the user or not."""

    out: Path
    named: bool
    checkpoint: Path | None


def run_recipe(recipe: Recipe, arguments: list[str]) -> int:
    """Train, test before and after, leave a run directory; return the exit code."""
    print_anything()
    if {"-h", "--help"} & set(arguments):
        print(short_help(recipe.name, recipe.about, recipe.arguments, CreditOptions))
        return 0
    with Ending(recipe.file) as ending:
        with mistakes_in_one_line(recipe.name, arguments, recipe.file):
            asked = prepare(recipe, arguments)
            if said := fewer_than_asked(asked.args.world_size):
                print(said, file=sys.stderr)
            if asked.script.dry_run:
                return explain(asked)
            ending.keep("nothing was begun")
            asked.model()  # made before the directory is claimed: it may turn out to be impossible
            job = _claim(recipe, arguments, asked)
        ending.keep(f"to go on: {_again(job)}")
        return train(job, ending)


def _claim(recipe: Recipe, arguments: list[str], asked: Asked) -> Job:
    """Take a run directory, or the one to resume with its last checkpoint."""
    from grpo_credit.credit.sources import own_sources
    from grpo_credit.records import checkpoints, directory, manifest
    from grpo_credit.trainer.completing import draws
    from grpo_credit.trainer.config import plan

    script, args, model_args, task = asked.script, asked.args, asked.model_args, asked.task
    strategy = plan(args).strategy
    given = args.output_dir if names_option(arguments, "output_dir") else None
    stem = f"{Path(recipe.file).stem}-{strategy.name.replace('/', '-').replace(':', '-')}"
    out = directory.choose(RUNS, stem, given, script.resume)
    args.output_dir = str(out)
    config = {**asdict(script), **asdict(model_args), **args.to_dict()}
    data = {"train": task.train, "test": task.test}
    extra = {
        "plan": str(plan(args)),
        "metric": task.metric,
        "held_out_draws": draws(args),
        "rules": own_sources(strategy.rules),
        "checkpoints": checkpoints.LIST,  # each of this run has one
    }
    described = manifest.manifest(sys.argv, config, data, args.seed, extra, recipe=recipe.file)
    checkpoint = directory.claim(out, described, script.resume)
    args.eval_on_start = args.eval_on_start and checkpoint is None  # or it is logged twice
    return Job(script, args, model_args, task, out, given is not None, checkpoint)


def build_trainer(job: Asked, callbacks: list[Any]) -> Any:
    """Load or make the model and put the trainer together."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback

    from grpo_credit import CreditGRPOTrainer

    args, model_args, task = job.args, job.model_args, job.task
    if not model_args.model_name_or_path:
        torch.set_num_threads(1)  # on shared cores a second one makes a tiny step 50 times slower
    else:
        args.model_init_kwargs = {
            "revision": model_args.model_revision,
            "attn_implementation": model_args.attn_implementation,
            "dtype": model_args.dtype,
            **(args.model_init_kwargs or {}),
        }
    trainer = CreditGRPOTrainer(
        job.model(),
        list(task.rewards),
        args,
        task.train,
        Dataset.from_list(task.test) if args.eval_strategy != "no" else None,
        callbacks=callbacks,
        **adapters(model_args),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def _again(job: Job) -> str:
    return f"the same command with --resume --output_dir {in_line(shlex.quote(str(job.out)))}"


def train(job: Job, ending: Ending) -> int:
    """Test, train, test; return the exit code."""
    from transformers.utils.logging import disable_progress_bar

    from grpo_credit.preflight.early import EarlyWarnings
    from grpo_credit.preflight.verdict import NotFit
    from grpo_credit.records import checkpoints, directory, manifest
    from grpo_credit.run import callbacks
    from grpo_credit.trainer.model_card import step_of

    disable_progress_bar()  # of loading weights; the live line stays
    out, stop, early, held_out = job.out, callbacks.StopOnSignal(), EarlyWarnings(), _held_out(job)
    log, live = callbacks.MetricsJsonl(out / directory.METRICS), callbacks.LiveLine(job.task.live)
    shown = [early, held_out, log, live, stop]  # in the order in which they act when it begins
    try:
        with manifest.recorded(out, stop, ending) as record:
            trainer = record.trainer = held_out.trainer = build_trainer(job, shown)
            manifest.set_model(out, trainer.model)
            trainer.accelerator.print(f"{trainer.plan}\nrun directory: {in_line(out)}")
            _look_first(job, trainer, early)
            with stop:
                trainer.train(resume_from_checkpoint=job.checkpoint and str(job.checkpoint))
            if job.checkpoint and checkpoints.step_of(job.checkpoint) == record.step:
                trainer.accelerator.print("every step was trained before; the last test is left")
            checkpoints.save_model(trainer, out / "model")
            stopped = stop.signum is not None  # then there is no time for another test
            tests = held_out.known(0), {} if stopped else held_out.at(step_of(trainer))
            trainer.create_model_card(model_name=in_line(out.name))
        if not stopped:
            let_go(out, remove=True)  # nobody can go on with it
    except NotFit as error:
        record.trainer.accelerator.wait_for_everyone()  # each rank has recorded it
        directory.release(out, job.named)
        error.tell()
        record.trainer.end()
        return 2
    except KeyboardInterrupt:  # a second signal while training stopped
        ending.signum = ending.signum or stop.signum
        raise
    finally:
        let_go(out)
    if stop.signum is not None:
        step = trainer.state.global_step
        trainer.accelerator.print(f"stopped at step {step}; to go on: {_again(job)}")
    else:
        ending.keep(f"the run in {in_line(out)} is finished")
        _sum_up(job, *tests)
    if job.args.push_to_hub:
        trainer.push_to_hub(dataset_name=getattr(job.script, "dataset_name", None))
    trainer.end()
    return 128 + stop.signum if stop.signum else 0


def _held_out(job: Job) -> Any:
    from grpo_credit.records.files import HELD_OUT
    from grpo_credit.run.evaluation import HeldOut

    task, script = job.task, job.script
    path = job.out / HELD_OUT
    return HeldOut(path, task.test, task.check, task.metric, script.test_samples, script.test_every)


def _sum_up(job: Job, before: dict[str, float], after: dict[str, float]) -> None:
    from grpo_credit.records import summary

    task = job.task
    first = {task.metric: before[task.metric]} if task.metric in before else {}
    summary.before_after({**first, **before}, after, title=f"{len(task.test)} {task.title}")
    summary.where(_left(job))


def _look_first(job: Job, trainer: Any, early: Any) -> None:
    """Do the preflight, unless it is off or was done; a sharded model has to wait."""
    from grpo_credit.preflight.findings import errors

    if not _is_to_be_looked_at(job):
        return
    look = partial(_look, job, trainer)
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        early.pending = look  # the model is put together when training begins
    else:
        found = look()
        early.tell(found)
        if errors(found):
            trainer.accelerator.print(
                "training goes on in spite of the errors; --preflight=strict would stop here"
            )


def _is_to_be_looked_at(job: Job) -> bool:
    """Whether no attempt was looked at to the end, or only one that a strict look would stop."""
    from grpo_credit.records import manifest
    from grpo_credit.records.ranks import on_main

    if job.script.preflight == "off" or job.checkpoint is not None:
        return False
    errors = on_main(manifest.preflight_errors, job.out)
    return errors is None or (job.script.preflight == "strict" and bool(errors))


def _look(job: Job, trainer: Any) -> list[Any]:
    from grpo_credit.preflight.findings import errors
    from grpo_credit.preflight.verdict import preflight
    from grpo_credit.records import manifest

    found = preflight(trainer, strict=job.script.preflight == "strict")
    manifest.set_preflight(job.out, [finding.kind for finding in errors(found)])
    return found


def _left(job: Job) -> dict[str, Path]:
    """Say where everything is that the run leaves."""
    from grpo_credit.records import directory
    from grpo_credit.records.files import HELD_OUT
    from grpo_credit.records.provenance import MANIFEST

    out = job.out
    kept = {"rollouts by step": out / "rollouts"} if job.args.save_rollouts else {}
    return {
        "model, tokenizer": out / "model",
        "metrics by step": out / directory.METRICS,
        "held-out numbers": out / HELD_OUT,
        "completions": out / "completions",
        "credit by token": out / "credit",
        **kept,
        "manifest": out / MANIFEST,
    }
