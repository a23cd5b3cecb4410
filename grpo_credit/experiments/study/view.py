"""The study on the terminal: a live table, or a plain line now and then where there is none."""

import math
import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from grpo_credit.experiments.study.cells import Cell, State
from grpo_credit.experiments.study.progress import Progress, read_progress
from grpo_credit.records.provenance import describe_command
from grpo_credit.text import duration, in_line, visible

ORDER = ("running", "failed", "interrupted", "finished", "waiting")
STYLES = {"running": "bold", "failed": "bold red", "interrupted": "yellow", "waiting": "dim"}
REDRAW_S, LINE_S = 1.0, 60.0


class View:
    """Shows how a study stands: when the running cells began, and how long others took.

    On a terminal a table, drawn again every second; elsewhere lines, at first and every minute.

    Args:
        states: of every cell; kept up to date by the runner.
        queue: the cells that are still to be started; likewise.
        slots: how many run at once.
        console: where it is shown.
    """

    def __init__(
        self,
        states: Mapping[Cell, State],
        queue: Collection[Cell],
        slots: int,
        console: Console,
    ) -> None:
        self.states, self.queue, self.slots = states, queue, slots
        self.began: dict[Cell, float] = {}
        self._console, self._shown = console, -math.inf
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        if console.is_terminal:
            self._live.start()

    def elapsed(self, cell: Cell) -> float:
        """Seconds since a running cell began."""
        return time.monotonic() - self.began.get(cell, time.monotonic())

    def count(self, status: str) -> int:
        """How many cells have a status."""
        return sum(state.status == status for state in self.states.values())

    def summary(self) -> str:
        """Say in a line how the study stands."""
        counts = [f"{self.count(status)} {status}" for status in ORDER if self.count(status)]
        left = self.seconds_left()
        about = f"; about {duration(round(left))} left" if left else ""
        return f"{len(self.states)} cells: {', '.join(counts)}{about}"

    def seconds_left(self) -> float | None:
        """Estimate the seconds that are left from the attempts that ended; None without any."""
        took = [
            attempt["seconds"]
            for state in self.states.values()
            if state.status == "finished" and len(state.attempts) == 1
            for attempt in state.attempts
            if attempt["seconds"]
        ]
        if not took:
            return None
        mean = sum(took) / len(took)
        running = sum(max(mean - self.elapsed(cell), 0) for cell in self.began)
        at_once = min(self.slots, len(self.began) + len(self.queue))
        return (running + mean * len(self.queue)) / max(at_once, 1)

    def tell(self, text: str) -> None:
        """Print a line, above the table where there is one."""
        self._console.print(in_line(text), markup=False, highlight=False, soft_wrap=True)

    def update(self) -> None:
        """Show how the study stands, if it is time."""
        if time.monotonic() - self._shown < (REDRAW_S if self._live.is_started else LINE_S):
            return
        self._shown = time.monotonic()
        if self._live.is_started:
            self._draw(self._console.height - 6)
            return
        self.tell(self.summary())
        for cell in self.began:
            at = read_progress(cell.run)
            reward = "" if at.reward is None else f"  reward {at.reward:.3f}"
            self.tell(f"  {visible_name(cell)}  step {steps(at)}{reward}")

    def close(self) -> None:
        """Leave how the study stands, every cell in the table."""
        if not self._live.is_started:
            self.tell(self.summary())
            return
        self._draw(len(self.states))
        self._live.stop()

    def _draw(self, rows: int) -> None:
        self._live.update(table(self, max(rows, 1)), refresh=True)


def table(view: View, rows: int) -> Table:
    """Make the table of cells, the running ones first, with at most so many rows."""
    shown = Table(caption=view.summary(), caption_justify="left", expand=False)
    shown.add_column("cell", overflow="fold")
    shown.add_column("status")
    for title in ("step", "reward", "elapsed", "left"):
        shown.add_column(title, justify="right", no_wrap=True)
    ordered = sorted(view.states, key=lambda cell: ORDER.index(view.states[cell].status))
    for cell in ordered[:rows]:
        state = view.states[cell]
        shown.add_row(*map(escape, _row(view, cell, state)), style=STYLES.get(state.status))
    return shown


def _row(view: View, cell: Cell, state: State) -> Sequence[str]:
    if state.status == "waiting":
        return visible_name(cell), state.status, "", "", "", ""
    at = read_progress(cell.run)
    took = sum(attempt["seconds"] or 0 for attempt in state.attempts) + (
        view.elapsed(cell) if state.status == "running" else 0
    )
    left = at.seconds_left if state.status == "running" else None
    reward = "-" if at.reward is None else f"{at.reward:.3f}"
    shown_left = "" if left is None else duration(round(left))
    return visible_name(cell), state.status, steps(at), reward, duration(round(took)), shown_left


def visible_name(cell: Cell) -> str:
    """Return a cell's name; the strategy as it was typed."""
    return visible(f"{cell.credit} · seed {cell.seed}")


def steps(at: Progress) -> str:
    """Return how far a run is.

    Example:
        >>> steps(Progress(3, 80)), steps(Progress(3)), steps(Progress())
        ('3/80', '3', '-')
    """
    if at.step is None:
        return "-"
    return str(at.step) if at.steps is None else f"{at.step}/{at.steps}"


def failures(states: Mapping[Cell, State]) -> Iterable[str]:
    """Tell, for each failed cell, the last lines of its log and the command that repeats it.

    Secrets in the command are hidden: what a terminal shows is kept in the logs of a job.
    """
    for cell, state in states.items():
        if state.status == "failed":
            yield f"\n{visible_name(cell)} failed; the end of {in_line(cell.log)}:"
            yield from (f"    {visible(line)}" for line in state.tail)
            yield f"  to repeat it alone: {in_line(describe_command(cell.command())['shell'])}"
