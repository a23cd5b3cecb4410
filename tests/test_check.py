"""`grpo-credit check`: the laws held up to anybody's strategy, with the smallest counterexample."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from drawn import broken
from harness import shipped

from grpo_credit import CreditError, cli, resolve_credit
from grpo_credit.credit.conformance import counterexample, examine, examples, smallest
from grpo_credit.credit.laws import (
    ALWAYS,
    PROMISES,
    float32_will_do,
    padding_changes_nothing,
    rows_may_be_permuted,
    the_rollouts_are_left_alone,
    zero_outside_the_mask,
)
from grpo_credit.credit.strategy import Rule

pytestmark = pytest.mark.usefixtures("quick_laws")

RULES = """
import torch
from grpo_credit import aggregation, allocation

@allocation
def checked_half(rollouts):
    first = rollouts.position < rollouts.lengths[:, None] / 2
    return rollouts.advantages[:, None] * first * rollouts.mask

@allocation(conserves_mass=True, keeps_sign=True)
def checked_third(rollouts):
    far = rollouts.position > 2
    return rollouts.advantages[:, None] * torch.where(far, -1.0, 1.0) * rollouts.mask

@allocation
def checked_shapeless(rollouts):
    return 1

@allocation(linear=False)
def checked_modest(rollouts, *, factor: float):
    return factor * rollouts.advantages[:, None] * rollouts.mask

@aggregation(sign_free=False)
def checked_balanced(rollouts):
    up = rollouts.window_sum((rollouts.advantages > 0) * rollouts.lengths)
    return torch.where(rollouts.advantages > 0, 1 / (1 + up), 1.0)[:, None]

def checked_whole(rollouts):
    return rollouts.advantages[:, None] * rollouts.mask
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    """Put a user's file of rules into the working directory."""
    (tmp_path / "checked_rules.py").write_text(RULES)
    monkeypatch.chdir(tmp_path)


def allocation(function, **about):
    """Decorate without a trace in the registry."""
    function.__credit_rule__ = Rule("allocation", function, "mine", **about)
    return function


def verdicts(credit, **options):
    return {f.law: f.verdict for f in examine(resolve_credit(credit, **options))}


def found_in(law, credit):
    return counterexample(law, resolve_credit(credit))


# ---- counterexamples --------------------------------------------------------------------------


def test_the_smallest_counterexample_is_reported_with_both_numbers():
    wide = allocation(lambda r: r.advantages[:, None] * r.mask / r.mask.shape[1])
    # one token in all will do: 1/1 of the advantage, and 1/4 after padding by 3. Two completions
    # with rewards 1 and 0 have A = ±0.5 / (√0.5 + 1e-4) = ±0.707007; dapo divides by 1
    assert found_in(padding_changes_nothing, wide) == (
        "the credit after padding by 3 columns is -0.176752 at [row 1, token 0], expected -0.707007"
        " (lengths [0, 1], rewards [1, 0])"
    )


def test_a_law_that_only_bigger_rollouts_break_is_caught():
    def late(rollouts):  # wrong from the fifth token on
        sign = torch.where(rollouts.position > 3, -1.0, 1.0)
        return rollouts.advantages[:, None] * sign * rollouts.mask

    said = broken(allocation(late, keeps_sign=True))["sign_is_kept"]
    assert "token 4], against the advantage" in said
    assert "lengths [0, 1, 3, 5]" in said
    assert broken(allocation(late)) == {}


def test_what_a_rule_raises_is_told_with_its_place():
    def raises(rollouts):
        return [][int(rollouts.lengths[0])]

    said = found_in(padding_changes_nothing, allocation(raises))
    assert said.startswith("IndexError('list index out of range') in ")
    assert "test_check.py, line " in said
    assert said.endswith("(lengths [0, 0], rewards [1, 0])")


def test_the_permutation_of_the_smallest_rollouts_is_no_identity():
    first_row = allocation(
        lambda r: r.advantages[:, None] * r.mask * (torch.arange(len(r.group)) == 0)[:, None]
    )
    said = found_in(rows_may_be_permuted, first_row)
    assert said.startswith("the credit with the rows in the order [1, 0] is ")
    assert "lengths [0, 1]" in said


def test_a_rule_that_writes_into_the_rollouts_is_caught():
    def writes(rollouts):
        rollouts.advantages.mul_(2)
        return rollouts.advantages[:, None] * rollouts.mask

    said = found_in(the_rollouts_are_left_alone, allocation(writes))
    assert said.startswith("rollouts.advantages was changed in place")


def test_a_rule_that_draws_random_numbers_is_caught():
    noisy = allocation(lambda r: r.advantages[:, None] * torch.rand(r.mask.shape) * r.mask)
    assert "when computed again is" in found_in(the_rollouts_are_left_alone, noisy)


def test_a_rule_that_needs_float64_is_caught():
    cancels = allocation(  # 1e9 has no room for the advantage beside it in float32
        lambda r: ((r.advantages + 1e9) - 1e9)[:, None] * r.mask, linear=False
    )
    assert found_in(float32_will_do, cancels).startswith("the credit in float32 is ")
    assert "padding_changes_nothing" not in broken(cancels)


# ---- verdicts ---------------------------------------------------------------------------------


def test_every_promise_is_reported(rules):
    found = verdicts("checked_rules:checked_half")
    assert {found[law.__name__] for law in ALWAYS} == {"holds"}
    assert [found[PROMISES[name].__name__] for name in PROMISES] == [
        "holds", "declared otherwise", "holds, though not declared", "holds",
    ]  # fmt: skip


def test_a_promise_that_does_not_hold_fails(rules):
    found = verdicts("checked_rules:checked_third")
    fails = {law for law, verdict in found.items() if verdict == "fails"}
    assert (
        fails == {"mass_is_conserved", "sign_is_kept"} == set(broken("checked_rules:checked_third"))
    )


def test_linear_though_declared_otherwise(rules):
    found = verdicts("checked_rules:checked_modest", factor=0.5)
    assert found["allocation_is_linear"] == "holds, though not declared"


def test_weights_that_look_at_signs(rules):
    assert verdicts("even/checked_rules:checked_balanced")[
        "weights_are_nonnegative_and_blind_to_sign"
    ] == "declared otherwise"  # fmt: skip


def test_a_whole_credit_promises_nothing(rules):
    found = verdicts("checked_rules:checked_whole")
    assert set(found) == {law.__name__ for law in ALWAYS}
    assert set(found.values()) == {"holds"}


def test_the_smallest_examples_are_in_order_of_size():
    made = list(smallest())
    assert len(made) == 9 * 4
    tokens = [int(rollouts.lengths.sum()) for rollouts in made]
    assert tokens == sorted(tokens)
    assert {len(rollouts.group) for rollouts in made} == {2}


def test_the_examples_have_the_degenerate_cases():
    made = list(examples())
    assert any((r.lengths == 0).all() for r in made)
    assert any(r.rewards.isnan().all() for r in made)
    assert any((r.lengths == 1).any() for r in made)
    assert any(((r.advantages == 0) & ~r.rewards.isnan()).any() for r in made)


def test_the_examples_have_what_long_runs_have():
    intricate = [r for r in examples() if len(r.reward_names) > 1]
    assert len(intricate) == 4
    for rollouts in intricate:
        assert rollouts.group.bincount().tolist() == [3, 4, 2]
        assert set(rollouts.window_count.tolist()) == {0, 1, 2}
        assert rollouts.reward_weights == (1.0, 0.0)
        assert rollouts.decided.shape == rollouts.rewards_per_func.shape
        assert {name.split("/")[0] for name in rollouts.spans} == set(rollouts.reward_names)
        ended = rollouts.mask.flip(1).cummax(dim=1).values.flip(1)  # a counted token still comes
        assert (ended & ~rollouts.mask).any()


def contiguous(rollouts):
    """Take a completion for its first L_i columns, as if no tool had written in between."""
    column = torch.arange(rollouts.mask.shape[1])
    return rollouts.advantages[:, None] * (column < rollouts.lengths[:, None])


def in_pairs(rollouts):
    """Take every group for two rows."""
    pairs = rollouts.advantages.view(-1, 2).mean(dim=1).repeat_interleave(2)
    return (rollouts.advantages - pairs)[:, None] * rollouts.mask


def one_function(rollouts):
    """Take the first reward function's column for the decision of all."""
    column = torch.arange(rollouts.mask.shape[1])
    return rollouts.advantages[:, None] * rollouts.mask * (column < rollouts.decided.view(-1, 1))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (contiguous, r"to token \d of completion \d, which is not counted; multiply by rollouts"),
        (in_pairs, "RuntimeError"),
        (one_function, "RuntimeError"),
    ],
)
def test_what_only_breaks_on_intricate_rollouts_is_caught(rule, message):
    for rollouts in (r for r in examples() if len(r.reward_names) == 1):
        resolve_credit(allocation(rule)).credit(rollouts)
    assert re.search(message, found_in(zero_outside_the_mask, allocation(rule)))


# ---- the command ------------------------------------------------------------------------------


def test_check_of_a_strategy_that_holds_is_five_lines(rules, capsys):
    assert cli.main(["check", "checked_rules:checked_half/seq"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "the laws of checked_half/seq",
        "11 hold: of those that bind every strategy, or that it promises",
        "1 not promised, and so not asked of it: conserves_mass=False",
        "1 more hold and may be declared: keeps_sign=True",
        "0 of 13 laws broken",
    ]


def test_check_names_every_law_on_request(rules, capsys):
    assert cli.main(["check", "checked_rules:checked_half/seq", "--long"]) == 0
    shown = capsys.readouterr().out
    for piece in ("holds: Permuting the rows", "declared otherwise: Σ_t A[i, t] = L_i"):
        assert piece in shown
    # L = 2, so half of the mass is gone: A/2 of A, with A = -0.707007 and seq's weight 1/2
    assert "the sum of the credit is -0.353503" in " ".join(shown.split())


def test_one_cause_of_several_broken_laws_is_shown_once(rules, capsys):
    assert cli.main(["check", "checked_rules:checked_shapeless"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("fails: ") > 5
    assert shown.count("returned int, expected a tensor of shape (2, 1)") == 1


def test_check_fails_with_exit_code_one(rules, capsys):
    assert cli.main(["check", "checked_rules:checked_third"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("fails: ") == 2
    assert "2 of 13 laws broken" in shown


def test_check_takes_options(rules, capsys):
    name = "checked_rules:checked_modest"
    assert cli.main(["check", name, "--credit_kwargs", '{"factor": 2}']) == 0
    assert cli.main(["check", name]) == 2
    assert "'checked_modest' needs the option 'factor'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sqe"], "grpo-credit: error: unknown strategy 'sqe'. Did you mean 'seq'?"),
        (["checked_rules:nothing"], "has no 'nothing'"),
        (["no_such_module:x"], "no module 'no_such_module'"),
        (["seq", "--credit_kwargs", "{"], "credit_kwargs is not JSON"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(rules, capsys, arguments, message):
    assert cli.main(["check", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_an_error_inside_the_users_file_is_one_line_until_more_is_asked_for(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "checked_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "checked_broken:rule"]) == 2
    said = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero (checked_broken.py:1)" in said
    assert said.count("\n") == 1
    with pytest.raises(CreditError) as raised:
        cli.main(["check", "checked_broken:rule", "--traceback"])
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


# ---- the benchmark ----------------------------------------------------------------------------

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench_credit.py"


def test_the_benchmark_measures_what_is_asked(tmp_path, monkeypatch, capsys):
    target = tmp_path / "bench.json"
    arguments = "even seq --completions 16 --tokens 8 16 --repeats 1 --json"
    monkeypatch.setattr(sys, "argv", ["bench_credit.py", *arguments.split(), str(target)])
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    finally:
        torch.set_num_threads(threads)
    assert "milliseconds, 16 completions" in capsys.readouterr().out
    found = json.loads(target.read_text())["rules"]
    assert list(found) == ["even", "seq"]
    assert list(found["even"]["seconds"]) == ["8", "16"]


def test_the_benchmark_fits_a_power():
    exponent = runpy.run_path(str(SCRIPT))["exponent"]
    # 3·T²: 3, 12, 48
    assert exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)


def test_the_benchmark_has_every_field_and_every_option():
    bench = runpy.run_path(str(SCRIPT))
    rollouts = bench["synthetic"](16, 32)
    assert all(value is not None for value in vars(rollouts).values())
    assert rollouts.mask.shape == (16, 32)
    text, places = rollouts.texts[0], rollouts.offsets[0]
    words = [text[start:end] for start, end in places.tolist()]
    assert words == [bench["WORDS"][i] for i in rollouts.completion_ids[0]]
    assert (rollouts.completion_ids[0, 0] == rollouts.completion_ids[1, 0]).all()
    for rule in shipped():
        resolve_credit(rule.name, **bench["OPTIONS"].get(rule.name, {}))
