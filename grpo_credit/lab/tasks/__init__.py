"""Tasks whose deciding tokens are known; see `grpo_credit.lab.process.Task` for what a task is."""

from collections.abc import Callable

from grpo_credit.lab.process import Task
from grpo_credit.lab.tasks.arithmetic import Arithmetic
from grpo_credit.lab.tasks.formats import Format
from grpo_credit.lab.tasks.keys import Keys
from grpo_credit.lab.tasks.path_star import PathStar

TASKS: dict[str, Callable[[], Task]] = {
    task.name: task for task in (Keys, Format, Arithmetic, PathStar)
}

__all__ = ["TASKS", "Arithmetic", "Format", "Keys", "PathStar"]
