"""Model cards name the strategy, its formula, its papers and the manifest."""

import json
from pathlib import Path

from harness import ours, reference

from grpo_credit.credit.parse import resolve_credit
from grpo_credit.trainer.model_card import credit_section, held_out_section


def test_every_rule_of_a_strategy_has_its_row():
    text = credit_section(resolve_credit("decided+trace/delta_l", alpha=0.5), "clipped ratio", {})
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["decided", "trace", "delta_l"]
    assert "g[i] = L_i^-α / Σ_j L_j^-α" in rows[2]
    assert "| alpha=0.5 |" in rows[2]
    assert "[2509.07558](https://arxiv.org/abs/2509.07558)" in rows[2]
    assert "manifest" not in text


def test_a_bar_in_a_formula_does_not_end_the_cell():
    text = credit_section(resolve_credit("patterns/seq"), "clipped ratio", {})
    [row] = [line for line in text.splitlines() if line.startswith("| `patterns`")]
    assert r"\|A" in row
    assert row.replace(r"\|", "").count("|") == 6


def mine(rollouts):
    """Credit every token by one."""
    return 1.0 * rollouts.mask  # ``` hf_abcdefghijklmnopqrst


def test_a_rule_of_ones_own_is_described_and_its_source_shown():
    text = credit_section(resolve_credit(mine), "clipped ratio", None)
    assert "| `mine` | credit | Credit every token by one. | – | – |" in text
    assert "test_card.py, sha256 " in text
    assert "\n    def mine(rollouts):\n" in text
    assert "    return 1.0 * rollouts.mask  # ``` <hidden>\n" in text
    assert "sha256" not in credit_section(resolve_credit("seq"), "clipped ratio", None)


def test_the_manifest_is_quoted():
    manifest = {
        "command": {"shell": "x --credit=seq"},
        "seed": 3,
        "git": {"commit": "abc", "dirty": False},
    }
    text = credit_section(resolve_credit("seq"), "clipped ratio", manifest)
    quoted = json.loads(text.partition("```json")[2].partition("```")[0])
    assert (quoted["seed"], quoted["commit"]) == (3, "abc")
    assert quoted["command"] == "x --credit=seq"


def test_a_checkpoint_comes_with_the_card(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"seed": 11}))
    write_tests(tmp_path)
    ours(credit="tree_td/seq", save_strategy="steps", save_steps=2, output_dir=str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "It has been trained using [TRL]" in card
    assert card.count("## Credit assignment") == 1
    assert "`credit=tree_td/seq` (clipped ratio, sequence-level)" in card
    assert '"seed": 11' in card
    assert card.index("## Credit assignment") < card.index("## Citations")
    base = "/".join(Path(reference()).parts[-2:])
    assert f"a fine-tuned version of `{base}` (a local model)." in card
    assert f'model="{tmp_path}/checkpoint-2"' in card
    assert "generator(question, max_new_tokens" in card  # no chat template
    assert "None" not in card.partition("## Credit")[0]
    assert "before training and at step 2." in card


def write_tests(folder):
    tests = [{"step": 0, "right": 0.25, "mean@4": 0.5}, {"step": 2, "right": 0.5, "mean@4": 0.75}]
    (folder / "held_out.jsonl").write_text("".join(json.dumps(t) + "\n" for t in tests))


TESTS = [
    {"step": 0, "pass@1": 0.25, "mean@4": 0.5},
    {"step": 4, "pass@1": 0.5, "mean@4": 0.75},
    {"step": 8, "pass@1": None, "mean@4": 0.625},
]


def rows_of(section):
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_held_out_numbers_are_those_of_the_step_that_is_kept():
    manifest = {"extra": {"metric": "mean@4"}, "datasets": {"test": {"rows": 64}}}
    best = held_out_section(TESTS, 4, manifest)
    assert "On 64 held-out prompts, by a checker that is not the reward, before" in best
    assert "at step 4." in best
    metric_first = ["| mean@4 | 0.500 | 0.750 | +0.250 |", "| pass@1 | 0.250 | 0.500 | +0.250 |"]
    assert rows_of(best) == metric_first
    last = held_out_section(TESTS, 9, {})
    assert rows_of(last)[::-1] == [
        "| mean@4 | 0.500 | 0.625 | +0.125 |", "| pass@1 | 0.250 | - | - |"
    ]  # fmt: skip
    for known in ([], TESTS[:1], TESTS):
        assert held_out_section(known, 3, manifest) == ""  # nothing after training yet
