"""Tasks whose deciding tokens are known; see `grpo_credit.lab.process.Task` for what a task is."""

from collections.abc import Callable
from functools import partial

from grpo_credit.lab.process import Task
from grpo_credit.lab.tasks.arithmetic import Arithmetic
from grpo_credit.lab.tasks.formats import Format
from grpo_credit.lab.tasks.keys import Keys
from grpo_credit.lab.tasks.path_star import PathStar

# A fault (f) may be repaired (r) later; what is ordinary (o) changes nothing.
RECOVERY = {"pattern": "([ofr]*r)?[or]*", "alphabet": "ofr", "slip": 0.2, "length": 24}
# The first good (g) or bad (b) token settles it, soon or late; all after it is talk.
HORIZON = {"pattern": "o*g[obg]*", "alphabet": "obg", "slip": 0.3, "length": 32}
SHORT: dict[str, partial[Format]] = {  # can be listed, if given a short length
    "recovery": partial(Format, **RECOVERY, name="recovery"),
    "horizon": partial(Format, **HORIZON, name="horizon"),
}

TASKS: dict[str, Callable[[], Task]] = {
    **{task.name: task for task in (Keys, Format, Arithmetic, PathStar)},
    **SHORT,
}

__all__ = ["SHORT", "TASKS", "Arithmetic", "Format", "Keys", "PathStar"]
