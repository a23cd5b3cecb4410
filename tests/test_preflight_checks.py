"""Each kind of failure is named, with the setting to change."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from preflight_helpers import reward_sample, sample
from rich.console import Console

from grpo_credit import resolve_credit
from grpo_credit.preflight.batches import Batches
from grpo_credit.preflight.checks import check_sample
from grpo_credit.preflight.findings import Finding, ordered, show
from grpo_credit.preflight.report import print_report
from grpo_credit.preflight.sample import Relief, milliseconds
from grpo_credit.trainer.config import teaches_alone

GOOD = [1, 0, 1, 0] * 4


def only(found):
    assert len(found) == 1, [str(f) for f in found]
    return found[0]


def test_nothing_is_found_where_nothing_is_wrong():
    assert check_sample(sample(reward_sample(GOOD))) == []


@pytest.mark.parametrize(
    ("cut", "severity"), [(0.05, None), (0.1, "note"), (0.5, "warning"), (0.9, "error")]
)
def test_truncation_is_graded(cut, severity):
    found = check_sample(sample(reward_sample(GOOD * 5), cut=cut))
    assert [f.severity for f in found] == ([severity] if severity else [])


def test_pairs_of_a_reward_at_five_percent_are_mostly_dead():
    one_in_twenty = ([1] + 19 * [0]) * 4
    found = only(check_sample(sample(reward_sample(one_in_twenty), size=20, group=2)))
    assert (found.severity, found.kind) == ("warning", "dead groups")
    # 1/10 of the pairs hold the success; of 16 out of 20, 16/20 do; of 8, 8/20; of 4, 4/20
    assert "only 10.0% of the groups" in found.message
    assert "num_generations=2: 90% are all low, 0% all high" in found.message
    assert "Set --num_generations 16: 80% would be" in found.remedy
    assert "easier prompts" in found.remedy


def test_too_easy_prompts_want_harder_ones():
    almost_all = [0] + 31 * [1] + 32 * [1]
    found = only(check_sample(sample(reward_sample(almost_all), size=32, group=2)))
    assert found.severity == "error"  # 31 of the 496 pairs of the first prompt
    assert "only 3.1% of the groups" in found.message
    assert "0% are all low, 97% all high" in found.message
    assert "Set --num_generations 16: 25% would be. Take harder prompts" in found.remedy


def test_larger_groups_are_not_advised_where_nearly_nothing_succeeds():
    # of the first prompt's groups of 16 half hold its success, of the other 19 prompts' none
    rewards = [1] + 31 * [0] + 32 * 19 * [0]
    found = only(check_sample(sample(reward_sample(rewards), size=32, group=4)))
    assert found.remedy == (
        "Take easier prompts, give partial credit, or begin with supervised fine-tuning."
    )


@pytest.mark.parametrize(("first", "told"), [(GOOD, ["warning"]), ([1] * 16, ["error"] * 2)])
def test_a_constant_reward_beside_one_that_differs_is_a_warning(first, told):
    found = check_sample(sample(reward_sample(first), reward_sample([0] * 16, "answer")))
    assert [f.severity for f in found] == told
    assert found[-1].kind == "reward answer"


def test_a_reward_that_always_abstains_is_named():
    found = only(check_sample(sample(reward_sample([np.nan] * 16))))
    assert found.severity == "error"
    assert "abstained (None) on all 16 completions" in found.message


def test_a_reward_that_takes_two_seconds_is_named():
    found = check_sample(sample(reward_sample(GOOD, calls=[(4, 2.0)] * 4), seconds=3.0))
    call, all_calls = found
    assert (call.severity, call.kind) == ("warning", "reward format: time")
    assert "4 completions takes 2,000 ms (median; 95th percentile 2,000 ms)" in call.message
    assert "rewards took 8.0 s for 16 completions, generation 3.0 s" in all_calls.message


def test_percentiles_are_nearest_ranks():
    reward = reward_sample(GOOD, calls=[(4, s / 1000) for s in range(20, 0, -1)])
    assert milliseconds(reward) == pytest.approx((10, 19))
    assert milliseconds(reward_sample(GOOD)) is None


def test_what_would_have_helped_is_told():
    helped = {"missing DOTALL": Relief(9, 16), "white space around": Relief(1, 16)}
    found = check_sample(sample(reward_sample(GOOD, relief=helped)))
    assert [(f.severity, f.kind) for f in found] == [
        ("error", "reward format: missing DOTALL"),
        ("warning", "reward format: white space around"),
    ]
    assert "9 of 16 completions with the lowest reward fail only because `.`" in found[0].message
    assert found[0].remedy.startswith("Put (?s) before the pattern")


# ---- on the terminal --------------------------------------------------------------------------


def printed(function, *arguments):
    out = Console(file=io.StringIO(), width=200)
    function(*arguments, out)
    return out.file.getvalue()


def test_the_report_gives_every_number():
    calls = [(4, 0.002)] * 4
    drawn = sample(reward_sample([1] + 15 * [0], calls=calls), size=16, cut=0.25, seconds=4.0)
    batches = Batches(1, 8, 2, 2, 1, 4, 16, asked_steps=1000)
    text = re.sub(r"\s+", " ", printed(print_report, drawn, [], batches))
    assert "preflight: 1 prompts, 16 completions each" in text
    assert "│ format │ 0.062 │ 0.242 │ 6% │ 0% │ 2.0 │ 2.0 │" in text
    assert "25% cut off at max_completion_length=16" in text
    assert "12% for G=2, 25% for G=4, 50% for G=8, 100% for G=16" in text
    assert "(their rewards are equal) with num_generations=4: 75% all low, 0% all high" in text
    # 16 completions of 10 tokens in 4 s; rewards 8 ms; 1,000 generations of them: 4,008 s
    assert "sampled 40 tokens per second" in text
    assert "about 4 s, the 1,000 of the run 1 h 06 min" in text
    assert "nothing found" in text


def test_the_report_shows_a_completion_cut_and_harmless():
    drawn = sample(reward_sample(GOOD))
    batches = Batches(1, 8, 2, 2, 1, 4, 16)
    hostile = replace(drawn, first="[red]a[/red] :smile:\n\x1b[2J" + "b" * 400 + "the end")
    text = "".join(printed(print_report, hostile, [], batches).split("\n"))
    assert "the first completion: [red]a[/red] :smile:⏎ ␛[2Jbbb" in text
    assert f"b […] {'b' * 113}the end" in text
    assert "the first completion" not in printed(print_report, drawn, [], batches)


def test_sizes_beyond_the_sample_are_lower_bounds():
    text = printed(print_report, sample(reward_sample(GOOD)), [], Batches(1, 8, 2, 2, 1, 4, 16))
    assert "at least 100% for G=8" in " ".join(text.split())


def test_errors_come_first_and_nothing_in_them_is_obeyed():
    hostile = "[red]x[/red] \x1b[2J\u202e"
    found = [Finding("note", "b", "second"), Finding("error", "a", hostile, "change [it]")]
    assert [f.severity for f in ordered(found)] == ["error", "note"]
    text = printed(show, found)
    assert text.splitlines()[0] == "error   a: [red]x[/red] ␛[2J⟨U+202E⟩"
    assert "      -> change [it]" in text


def test_rules_that_teach_where_all_rewards_are_equal_are_known():
    options = {"wreinforce": {"positive": 0.0}, "temper": {"tau": 0.5}}
    alone = ["empg", "igpo", "steps", "temper", "turn_deltas", "vine", "wreinforce"]
    names = ["seq", "decided", "opo", "loo", "automaton", *alone]
    assert [n for n in names if teaches_alone(resolve_credit(n, **options.get(n, {})))] == alone
