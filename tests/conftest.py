import gc
import inspect
import os
import sys
from collections import Counter
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

# Modules, and single tests, that train, build what trains, generate, or start processes.
SLOW = {
    "architectures", "bench_step", "completing", "credit_scale", "drop_in", "exactness",
    "fire_data", "fire_endings", "guard", "lab_enumerated", "lab_exact", "lab_oracle", "lab_replay",
    "lab_prose", "lab_strings", "lab_verbs", "mathematics", "own_rewards", "own_script",
    "parity_with_trl", "partition",
    "passes", "path_star", "path_star_recipe", "patience", "preflight", "preflight_precision",
    "preflight_recipe", "preflight_tools", "recipe", "recipe_commands", "recipe_configs",
    "recipe_math", "recipe_mistakes", "recipe_tasks", "report_browser", "reward_code",
    "rules_in_training", "run_signals", "sharded", "study_cells", "study_engines",
    "study_kill", "study_recipe", "study_report", "study_warm_start", "subclasses", "tool_calls",
    "trainer", "trial", "vine", "vllm", "warm_start", "workers",
    "automaton::test_a_pattern_without_an_automaton_is_tried_once",
    "automaton::test_an_automaton_of_few_but_huge_states_is_given_up",
    "automaton::test_what_is_too_large_is_refused_before_the_memory_is_gone",
    "fire_large::test_collecting_without_rollouts_needs_no_torch",
    "for_programs::test_a_preflight_has_rewards_and_findings",
    "packing::test_dropout_of_adapters_has_trls_gradient_in_the_mean",
    "plan::test_steps_are_those_that_the_trainer_takes",
    "preflight_headroom::test_path_star_has_none_since_one_token_decides_and_the_others_are_forced",
    "preflight_headroom::test_the_format_has_headroom_in_a_batch_of_8",
    "preflight_headroom::test_the_model_is_asked_as_training_would",
    "report_page::test_the_page_of_a_large_study_is_small_and_says_what_it_leaves_out",
    "report_page::test_a_report_is_rendered_again_without_torch",
}  # fmt: skip
TRAINS = {"ours", "trl", "launch", "ended"}  # of harness.py and torchrun.py
EXHAUSTIVE = {  # of their cases every fourth is not slow
    "answers::test_hostile_texts_earn_nothing_and_take_no_time",
    "automaton::test_character_sets_are_the_engines_on_all_code_points",
    "regex_reward::test_what_is_settled_is_what_no_continuation_changes",
    "repetition::test_hostile_text_is_scored",
    "tags::test_decided_is_when_no_continuation_changes_the_score",
    "tags::test_scanner_and_automaton_agree",
    "tags::test_scanner_and_automaton_agree_on_steps_with_a_choice",
}


def place(item: pytest.Item) -> str:
    return f"{item.path.stem.removeprefix('test_')}::{item.name.partition('[')[0]}"


def is_slow(item: pytest.Item) -> bool:
    called = inspect.unwrap(getattr(item, "function", is_slow)).__code__.co_names
    names = {place(item), place(item).partition("::")[0]}
    return not (SLOW.isdisjoint(names) and TRAINS.isdisjoint(called))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what trains or starts processes, by what it calls and where it stands."""
    cases = Counter()
    for item in items:
        cases[place(item)] += 1
        if is_slow(item) or (place(item) in EXHAUSTIVE and cases[place(item)] % 4 != 1):
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
