import gc
import inspect
import os
import sys
from collections.abc import Generator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # rollout_func, which fixes the completions
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # parity is stated in float32 on the CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ.pop("COLUMNS", None)  # which xdist sets; a test of a width names it

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

from grpo_credit.experiments.study.process import ignore_alone

sys.dont_write_bytecode = False  # or each process compiles the package and the tests anew
ignore_alone()  # as a background job; the processes of tests are sent the signals it ignores

# a shared machine may pause for seconds: neither an example nor its making is timed
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Modules, and single tests, that train, generate, or start processes with much to import.
SLOW = {
    "architectures", "bench_step", "completing", "credit_scale", "drop_in", "exactness",
    "fire_data", "fire_endings", "lab_enumerated", "lab_exact", "lab_replay", "lab_verbs",
    "own_script", "parity_with_trl", "partition", "passes", "path_star", "path_star_recipe",
    "preflight", "preflight_precision", "preflight_recipe", "recipe", "recipe_commands",
    "recipe_math", "recipe_tasks", "report_browser", "rules_in_training", "run_signals",
    "sharded", "study_cells", "study_engines", "study_kill", "study_recipe", "study_warm_start",
    "subclasses", "tool_calls", "trainer", "trial", "warm_start",
    "mathematics::test_nothing_is_printed",
    "mathematics::test_endless_formulas_are_killed_and_counted_and_the_pool_recovers",
}  # fmt: skip
TRAINS = {"ours", "trl", "launch", "ended"}  # of harness.py and torchrun.py


def is_slow(item: pytest.Item) -> bool:
    called = inspect.unwrap(getattr(item, "function", is_slow)).__code__.co_names
    module = item.path.stem.removeprefix("test_")
    return not (SLOW.isdisjoint({module, f"{module}::{item.name}"}) and TRAINS.isdisjoint(called))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what trains or starts processes, by what it calls and where it stands."""
    for item in filter(is_slow, items):
        item.add_marker("slow")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Forget the rules that an example registers: a test that comes after it may ask for all."""
    if type(item).__name__ != "DoctestItem":
        return (yield)
    from grpo_credit.credit import registry

    kept = registry.rules()
    try:
        return (yield)
    finally:
        registry._RULES.clear()
        registry._RULES.update(kept)


def pytest_collection_finish() -> None:
    """Keep what was imported out of the collection that ends every training: half of its time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def quick_laws(monkeypatch):
    """Check no shapes, which takes longer than the laws."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
