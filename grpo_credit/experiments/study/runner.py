"""Run the cells that are not finished, a few at a time, until all have ended or somebody stops it.

Whatever happens to this process, the directory says how each cell stands: `cells.look`.
"""

import signal
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rich.console import Console

from grpo_credit.experiments.study.cells import Cell, State, at_work, look, save
from grpo_credit.experiments.study.engines import Engine, Handle
from grpo_credit.experiments.study.process import TICK_S, Ended, ignore
from grpo_credit.experiments.study.view import View, visible_name

REPEAT_S = 1.0  # a second signal within it is the same one
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Started:
    """A process that this runner started."""

    handle: Handle
    log_start: int
    stopping: bool = False  # to stop


class Runner:
    """Runs cells.

    `signum` is the signal that stopped it, None if none did; `insisted`, whether there was a second
    one, to stop at once.

    Args:
        cells: what is to be finished.
        engine: starts the processes.
        console: where it is told how they stand.
    """

    def __init__(self, cells: Sequence[Cell], engine: Engine, console: Console) -> None:
        self.engine = engine
        looked = {cell: look(cell) for cell in cells}
        self.states: dict[Cell, State] = {cell: state for cell, (state, _) in looked.items()}
        open_ = [cell for cell in cells if self.states[cell].status not in ("finished", "running")]
        self._waiting = deque(open_)
        self._elsewhere = [cell for cell in cells if self.states[cell].status == "running"]
        at_once = min(engine.slots, max(len(cells), 1))
        # By the cells of the whole study, not by those that are left: sums over threads differ in
        # their last bits, and a study that goes on shall end as an undisturbed one.
        self._threads = engine.threads(at_once)
        self.view = View(self.states, self._waiting, at_once, console)
        self.signum: int | None = None
        self.insisted = False
        self._since, self._killed = 0.0, False
        self._started: dict[Cell, Started] = {}
        for cell, (_, notes) in looked.items():
            for note in notes:
                self.view.tell(note)
            self._save(cell)
        self._tell_what_is_there()

    def _tell_what_is_there(self) -> None:
        if finished := self.view.count("finished"):
            self.view.tell(f"{finished} of {len(self.states)} cells are finished already")
        for cell in self._elsewhere:
            self.view.tell(f"{visible_name(cell)} is at work in a process of an earlier runner")

    def run(self) -> Mapping[Cell, State]:
        """Run until every cell has ended, or until a signal and the end of what was started."""
        try:
            with self._signals_handled():
                while self._goes_on():
                    self._reap()
                    self._look_elsewhere()
                    if self.signum is None:
                        self._launch()
                    else:
                        self._stop()
                    self.view.update()
                    time.sleep(TICK_S)
        finally:
            self.view.close()
        return self.states

    def _goes_on(self) -> bool:
        left = self._waiting or self._elsewhere
        return bool(self._started or (left and self.signum is None))

    # ---- starting -----------------------------------------------------------------------------

    def _launch(self) -> None:
        while self._waiting and len(self._started) < self.engine.slots:
            cell = self._waiting.popleft()
            try:
                self._start(cell)
            except OSError as error:  # no room for a log, say: the others may have some
                self.states[cell].status = "failed"
                self.states[cell].tail = [f"could not be started: {error}"]
                self._save(cell)
                self.view.tell(f"{visible_name(cell)} could not be started: {error}")

    def _start(self, cell: Cell) -> None:
        state = self.states[cell]
        cell.record.parent.mkdir(parents=True, exist_ok=True)
        log_start = cell.log.stat().st_size if cell.log.exists() else 0
        job = cell.job(self._environment())
        self._started[cell] = Started(self.engine.start(job), log_start)
        self.view.began[cell] = time.monotonic()
        state.begin(job.command)
        self._save(cell)

    def _environment(self) -> dict[str, str]:
        threads = {"OMP_NUM_THREADS": str(self._threads)} if self._threads else {}
        return {"PYTHONUNBUFFERED": "1", **threads}

    # ---- ending -------------------------------------------------------------------------------

    def _reap(self) -> None:
        for cell, started in list(self._started.items()):
            ended = started.handle.poll()
            if ended is not None:
                del self._started[cell]
                del self.view.began[cell]
                self._end(cell, ended, started.log_start)

    def _end(self, cell: Cell, ended: Ended, log_start: int) -> None:
        state = self.states[cell]
        if ended.exit_code and at_work(cell):
            self._elsewhere.append(cell)  # a job that an earlier runner left in a queue, say
            return
        state.end(cell, ended, log_start, stopping=self.signum is not None)
        self._save(cell)
        took = f" after {ended.seconds:.0f} s" if ended.seconds is not None else ""
        self.view.tell(f"{visible_name(cell)} {state.status}{took}")

    def _look_elsewhere(self) -> None:
        for cell in list(self._elsewhere):
            if not at_work(cell):
                self._elsewhere.remove(cell)
                self.states[cell], _ = look(cell)
                self._save(cell)
                if self.states[cell].status != "finished":
                    self._waiting.append(cell)

    def _save(self, cell: Cell) -> None:
        """Keep the record; without it the manifest of the run still tells how the cell stands."""
        try:
            save(cell, self.states[cell])
        except OSError as error:
            self.view.tell(f"{visible_name(cell)}: its record could not be written: {error}")

    # ---- signals ------------------------------------------------------------------------------

    @contextmanager
    def _signals_handled(self) -> Generator[None, None, None]:
        old = {
            signum: signal.signal(signum, self._handle)
            for signum in SIGNALS
            if signal.getsignal(signum) not in (signal.SIG_IGN, ignore)
        }
        try:
            yield
        finally:
            for signum, handler in old.items():
                signal.signal(signum, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum, self._since = signum, time.monotonic()
        elif time.monotonic() - self._since > REPEAT_S:
            self.insisted = True

    def _stop(self) -> None:
        """Pass the signal on: first for a checkpoint and the end, then for the end."""
        new = [started for started in self._started.values() if not started.stopping]
        if new:
            self.view.tell("stopping: the cells make their checkpoints; again to stop at once")
        for started in new:
            started.handle.stop()
            started.stopping = True
        if self.insisted and not self._killed:
            self._killed = True
            for started in self._started.values():
                started.handle.kill()
