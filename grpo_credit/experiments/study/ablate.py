"""A study from its command line, or its call, to its end."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from grpo_credit import terminal
from grpo_credit.experiments.design import Study, merged, read_study, write_study
from grpo_credit.experiments.study.cells import cells_of, is_finished
from grpo_credit.experiments.study.check import ask
from grpo_credit.experiments.study.commandline import (
    Request,
    fail,
    hint_for,
    make_parser,
    read,
    words,
)
from grpo_credit.experiments.study.engines import Engine, make_engine
from grpo_credit.experiments.study.process import ignore_alone
from grpo_credit.experiments.study.runner import Runner
from grpo_credit.experiments.study.view import failures
from grpo_credit.records.files import sweep
from grpo_credit.records.lock import Busy, hold, let_go
from grpo_credit.run.commandline import MISTAKES, TRACEBACK, reveal
from grpo_credit.text import did_you_mean

if TYPE_CHECKING:
    from grpo_credit.experiments.report.data import Report

LOCK = ".runner.lock"


def main(arguments: Sequence[str], command: Sequence[str]) -> int:
    """Run a study.

    Args:
        arguments: the command line, without the program.
        command: with it, for the record.

    Returns:
        0 if every cell is finished, 1 if one failed or has no number to compare, 2 for a mistake or
        where no report could be written, 128 + signal if stopped.
    """
    terminal.print_anything()
    if {"-h", "--help"} & set(arguments):
        make_parser().print_help()
        return 0
    ignore_alone()
    try:
        request = read(arguments)
        study, engine = begin(request, command)
    except MISTAKES as error:
        if TRACEBACK in arguments:
            reveal(error)
            raise
        return fail(error)
    except KeyboardInterrupt:  # nothing has begun
        return 130
    try:
        code = run_study(study, request.out, engine)
        if code > 128 and not any(map(is_finished, cells_of(study, request.out))):
            return code
        return max(code, write_report(request.out, study.credits))
    except KeyboardInterrupt:  # a page can wait: the same command writes it
        return 130
    finally:
        let_go(request.out, LOCK)


def run(
    study: Study,
    out: str | Path,
    *,
    engine: str = "local",
    jobs: int | None = None,
    engine_options: Mapping[str, Any] | None = None,
) -> "Report":
    """Run what is not finished of a study and write its page, as `grpo-credit ablate` does.

    Args:
        study: what is run.
        out: its directory, new or one to go on with.
        engine: where cells run: "local", "ray", "slurm".
        jobs: how many at once; None for one a GPU, or one a core.
        engine_options: for `ray.remote`, or submitit.

    Returns:
        What came of it; a notebook shows its verdicts, and `report.pictures` has its figures.

    Raises:
        ValueError: what cannot be run, such as an option that the recipe refuses.
        KeyboardInterrupt: if it was stopped; the same call goes on.

    Example:
        from grpo_credit.experiments import study

        asked = study.Study("grpo_regex.py", ("seq", "dapo"), seeds=(0, 1, 2, 3, 4, 5))
        study.run(asked, "reports/regex", jobs=2)
    """
    request = Request(study, Path(out), engine, jobs, dict(engine_options or {}))
    study, cells_run = begin(request, words(request))
    try:
        if run_study(study, request.out, cells_run) > 128:
            raise KeyboardInterrupt
        return collected(request.out, study.credits)[0]
    finally:
        let_go(request.out, LOCK)


def begin(request: Request, command: Sequence[str]) -> tuple[Study, Engine]:
    """Make sure that a study can be run, take its directory, and write study.json.

    Raises:
        ValueError: what cannot be run; nothing is written then.
    """
    with patience("asking the recipe about its options"):
        check(request)
    engine = make_engine(request.engine, request.jobs, request.engine_options, request.out)
    alone(request.out)
    study = settled(read_study(request.out), request)
    write_study(request.out, study, command)
    return study, engine


def collected(out: Path, trusted: Sequence[str]) -> tuple["Report", Path]:
    """Collect what the cells left, see `collect`, and write the page; return both."""
    from grpo_credit.experiments.report.page import render
    from grpo_credit.experiments.study.collect import collect

    return collect(out, trusted), render(out)


def write_report(out: Path, trusted: Sequence[str] = ()) -> int:
    """Collect what the cells left and write the page; see `collect`.

    Returns:
        0, 1 if a run that finished has no number to compare, 2 where no report could be written.
    """
    with patience("collecting the runs for the report; Ctrl-C leaves without it"):
        from grpo_credit.experiments.report.terminal import print_verdicts, say

        try:
            report, page = collected(out, trusted)
        except (ValueError, OSError) as error:
            return fail(error)
    damaged: dict[str, list[str]] = defaultdict(list)
    for cell in report.cells:
        if cell.status == "damaged":
            damaged[cell.reason or ""].append(f"{cell.credit} · seed {cell.seed}")
    for reason, (name, *others) in damaged.items():
        more = f" and {len(others)} more" if others else ""
        say(f"without a number: {name}{more}; {reason}")
    print_verdicts(report)
    say(f"report: {page}")
    return int(bool(damaged))


def settled(old: Study | None, request: Request) -> Study:
    """Return the study that is to be run in a directory that holds `old`."""
    return merged(old, request.study, request.out) if old else request.study


def check(request: Request) -> None:
    """Make sure that the recipe would run what is new; nothing is written.

    Raises:
        ValueError: another study is in the directory, what the recipe refuses, or a metric that it
            does not measure.
    """
    old = read_study(request.out)
    study = settled(old, request)
    known = old.credits if old else ()
    first = [cell for cell in cells_of(study, request.out) if cell.seed == study.seeds[0]]
    new = [cell.arguments() for cell in first if cell.credit not in known]
    if not new:
        return
    try:
        metrics = ask(study.recipe, new)
    except ValueError as error:
        error.args = (f"{error}{hint_for(study.options, str(error))}",)
        raise
    if study.metric is not None and study.metric not in metrics:
        raise ValueError(
            f"--metric is {study.metric!r}, which is no held-out number of {study.recipe} with "
            f"these options; it has {', '.join(map(repr, metrics))}."
            f"{did_you_mean(study.metric, metrics)}"
        )


def patience(what: str) -> AbstractContextManager[object]:
    """Show on a terminal what is being waited for."""
    console = Console(stderr=True)
    return console.status(what) if console.is_terminal else nullcontext()


def alone(out: Path) -> None:
    """Take the directory for this process, and sweep what a killed one left half written.

    Raises:
        ValueError: another runner has it.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        hold(out, LOCK)
    except Busy:
        raise ValueError(f"another runner is at work on {out}; wait for it, or stop it.") from None
    for folder in filter(Path.is_dir, (out, *out.glob("cells/*"))):
        sweep(folder)


def run_study(study: Study, out: Path, engine: Engine) -> int:
    """Run the cells, tell of those that failed, and return the exit code."""
    console = terminal.console()
    runner = Runner(cells_of(study, out), engine, console)
    states = runner.run()
    for line in failures(states):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if runner.signum is not None:
        console.print("stopped; the same command goes on", highlight=False)
        if runner.insisted:
            raise SystemExit(128 + runner.signum)  # without a page
        return 128 + runner.signum
    return int(any(state.status != "finished" for state in states.values()))
