"""Which process am I, and how the others learn what the main one found."""

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch.distributed as dist

P = ParamSpec("P")
R = TypeVar("R")


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Rank of this process; 0 for a single one."""
    return dist.get_rank() if _started() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of ranks; 1 for a single process."""
    return dist.get_world_size() if _started() else int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the one process that writes and prints."""
    return rank() == 0


def decided_by_main(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function called on the main process alone; see `on_main`. Call it on every rank."""

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        return on_main(functools.partial(function, *args, **options))

    return call


def on_main(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function on the main process and give every rank its result, or its exception.

    A refusal must reach every rank: if the main process alone stopped, the others would wait for it
    in their next collective operation. With several ranks the result or exception is pickled.

    Raises:
        RuntimeError: if there are several ranks and no process group yet.
    """
    if world_size() == 1:
        return function(*args)
    if not _started():
        raise RuntimeError(
            f"{world_size()} ranks, but no process group yet; make the training arguments first"
        )
    outcome = _outcome(function, *args) if is_main() else [None, None]
    dist.broadcast_object_list(outcome, src=0)
    result, error = outcome
    if error is not None:
        raise error
    return result


def _outcome(function: Callable[..., Any], *args: Any) -> list[Any]:
    try:
        return [function(*args), None]
    except Exception as error:  # every kind: it is raised again, on all ranks
        return [None, error]
