"""What list, check and show know of supervised training, and what it learns in theory."""

import itertools

import pytest
import torch
from harness import shipped
from sft_helpers import PADDED, predicted, trained

from grpo_credit import CreditError, Rollouts, cli, resolve_credit
from grpo_credit.credit.documents import are_documents, learned_share
from grpo_credit.tiny.mixture import Mixture, is_short, outline, share_of_short

SERVE = {"dapo", "delta_l", "length", "seq", "uniform", "even", "potential", "trace"}
SERVE |= {"clip_cov", "lhts", "prob_mask", "prob_weight"}  # where a column tells log-probabilities
MINE = """
def by_rows(rollouts):
    return rollouts.mask / len(rollouts.mask)

def by_reward(rollouts):
    return rollouts.rewards[:, None] * rollouts.mask

def breaks(rollouts):
    raise TypeError("not today")
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "stage_rules.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)


def test_the_rules_that_serve_documents_are_listed_alone(capsys):
    assert cli.main(["list", "--stage", "supervised"]) == 0
    lines = capsys.readouterr().out.splitlines()

    names = {rule.name for rule in shipped()}
    assert {line.split(" ")[0] for line in lines} & names == SERVE


def test_a_rule_says_which_stages_it_serves(mine, capsys):
    names = ("seq", "loo", "softmax_length", "stage_rules:by_rows", "stage_rules:breaks")
    assert cli.main(["list", *names]) == 0
    told = [x.split(maxsplit=1)[1] for x in capsys.readouterr().out.splitlines() if "stages " in x]
    both, one = "alignment, supervised", "alignment"
    assert [line.strip() for line in told] == [both, one, one, both, one]


@pytest.mark.parametrize("credit", ["seq", "trace/length", "dapo"])
def test_rules_of_the_package_obey_the_laws_on_documents(credit, capsys):
    assert cli.main(["check", credit, "--stage", "supervised"]) == 0
    assert "0 of 13 laws broken" in capsys.readouterr().out


@pytest.mark.parametrize(
    "credit", ["loo", "entropy_top/seq", "even/prompt", "stage_rules:by_reward"]
)
def test_what_needs_rewards_or_groups_is_refused_by_name(credit, mine, capsys):
    assert cli.main(["check", credit, "--stage", "supervised"]) == 2
    error = capsys.readouterr().err
    assert credit.split("/")[0] in error
    assert "of a document only its token ids, its length and the advantage 1 are known" in error


def test_a_broken_law_is_shown_by_documents(mine, capsys):
    assert cli.main(["check", "stage_rules:by_rows", "--stage", "supervised"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "fails: Rows of other windows add nothing to this window's totals." in shown
    assert "(lengths [0, 1])" in shown


def test_documents_are_told_from_completions():
    assert are_documents(Rollouts.from_documents([1, 2]))
    made = {"num_generations": 2, "max_completion_length": 2}
    assert not are_documents(Rollouts.from_lists([1, 2], [1.0, None], **made))
    assert not are_documents(Rollouts.from_lists([1, 2], [None, None], **made))


def test_the_documents_of_a_step_are_shaded_by_a_denominator(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    trained(**PADDED[1], credit="seq", save_rollouts=1, output_dir=str(tmp_path))
    capsys.readouterr()
    assert cli.main(["show", str(tmp_path), "--credit", "length", "seq"]) == 0
    shown = capsys.readouterr().out
    assert "length: +100[...] is a credit of 0.125" in shown  # of the one-token document, 1 of 8
    assert "seq: +100[...] is a credit of 0.125" in shown
    headings = [line.split(" | ") for line in shown.splitlines() if line.startswith("document ")]
    lengths = {f"predicted tokens {len(ids)}" for ids in predicted()}
    assert {length for _, length in headings} == lengths
    assert {name for name, _ in headings} == {f"document {row}" for row in range(8)}
    assert "reward" not in shown
    assert cli.main(["show", str(tmp_path), "--credit", "loo"]) == 2
    assert "'loo/dapo' looks at rewards or groups" in capsys.readouterr().err


# ---- the theory ---------------------------------------------------------------------------------


def enumerated(strategy, share, short, long, window):
    """Go through every window that can be drawn, and add what trains each kind."""
    pull = {short: 0.0, long: 0.0}
    for lengths in itertools.product((short, long), repeat=window):
        chance = share ** lengths.count(short) * (1 - share) ** lengths.count(long)
        documents = Rollouts.from_documents(list(lengths), max_length=long, dtype=torch.float64)
        for length, credit in zip(lengths, strategy.credit(documents)[:, 0], strict=True):
            pull[length] += chance * float(credit)
    return pull[short] / sum(pull.values())


@pytest.mark.parametrize("credit", ["dapo", "seq", "length", "uniform", "delta_l", "trace/dapo"])
@pytest.mark.parametrize(("share", "window"), [(0.5, 1), (0.5, 4), (0.3, 6)])
def test_the_theory_is_what_every_window_says(credit, share, window):
    strategy = resolve_credit(credit)
    expected = enumerated(strategy, share, 2, 9, window)
    assert learned_share(strategy, share, 2, 9, window) == pytest.approx(expected, rel=1e-9)


def test_in_large_windows_the_denominator_makes_no_difference():
    dapo, seq = resolve_credit("dapo"), resolve_credit("seq")
    shares = [learned_share(dapo, 0.5, 2, 20, window) for window in (1, 4, 16, 64)]
    assert shares == sorted(shares, reverse=True)
    assert [round(share, 3) for share in shares] == [0.909, 0.66, 0.528, 0.507]
    assert all(learned_share(seq, 0.3, 2, 20, n) == pytest.approx(0.3) for n in (1, 4, 16))


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"short": 0}, {"window": 0}])
def test_a_mixture_that_is_none_has_no_theory(wrong):
    given = {"share": 0.5, "short": 2, "long": 20, "window": 4} | wrong
    with pytest.raises(CreditError, match="expected a share between 0 and 1, and numbers of 1 or"):
        learned_share(resolve_credit("seq"), **given)


# ---- the mixture --------------------------------------------------------------------------------


def test_documents_of_the_mixture_have_the_lengths_and_the_share_that_are_asked_for():
    rows = [row["text"] for row in Mixture(0.25, 3, 7).documents(4000, seed=1)]
    _, tokenizer = outline()
    predicted = {
        is_short(text): len(tokenizer(text).input_ids) for text in rows
    }  # less one, and the end
    assert predicted == {True: 3, False: 7}
    short = sum(map(is_short, rows)) / len(rows)
    assert abs(short - 0.25) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert "<unk>" not in tokenizer.decode(tokenizer(rows[0]).input_ids)


def test_the_share_of_a_model_is_among_the_two_kinds():
    model, tokenizer = outline()
    ids = [tokenizer.convert_tokens_to_ids(word) for word in ("<start>", "short", "long")]
    odds = model(torch.tensor([[ids[0]]])).logits[0, -1].softmax(-1)[ids[1:]]
    assert share_of_short(model, tokenizer) == pytest.approx(float(odds[0] / odds.sum()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "share is 1.0, expected a number between 0 and 1"),
        ({"short": 1}, "documents have 1 and 20 tokens, expected 2 or more"),
    ],
)
def test_a_mixture_without_two_kinds_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mixture(**options)
