"""The rules on the terminal, at any width."""

import pytest

from grpo_credit import CreditError, allocation, cli, list_credit
from grpo_credit.credit.catalogue import COSTS, rules_in
from grpo_credit.credit.rollouts import OPTIONAL

MINE = """
from __future__ import annotations

from typing import TYPE_CHECKING

from grpo_credit import allocation

if TYPE_CHECKING:
    from nowhere import Rollouts

@allocation(needs=["entropies"], keeps_sign=True)
def listed_mine(rollouts: Rollouts, *, slope: float, knee: int = 3):
    '''Bend [b]it[/b].'''

def listed_whole(rollouts):
    pass
"""


def printed(capsys, *words):
    assert cli.main(["list", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "listed_rules.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("width", [80, 140])
def test_list_names_every_rule_with_every_option_whole(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = printed(capsys)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in shown
    for rule in list_credit():
        if rule.function.__module__.startswith("grpo_credit."):
            assert [line for line in lines if line.split(" ")[0] == rule.name]
            for name, option in rule.options.items():
                required = option.default is option.empty
                assert (f"{name} (required)" if required else f"{name}={option.default}") in shown


def test_without_a_named_width_a_pipe_gets_a_line_a_rule(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    (line,) = (line for line in printed(capsys).splitlines() if line.startswith("tree_td "))
    assert "the group members that share the prefix." in line


def test_one_rule_is_told_whole(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    shown = printed(capsys, "trace")
    for piece in (
        "trace  allocation", "A[i, t] = A_i · w[t] · L_i / Σ w,", "decay: float = 0.99",
        "factor per token, 0 to 1.", "style: 'recent' | 'both' = 'recent'",
        "conserves mass: Σ_t A[i, t] = L_i · A_i", "linear:", "keeps sign:", "arXiv:2510.00194",
        "grpo-credit check trace",
    ):  # fmt: skip
        assert piece in shown


def test_twins_are_told(capsys):
    shown = " ".join(printed(capsys, "length", "loo").split())
    assert "TRL loss_type=grpo verl loss_agg_mode=seq-mean-token-mean" in shown
    assert "verl adv_estimator=rloo" in shown


def test_every_rule_can_be_told(capsys):
    shown = printed(capsys, "--long")
    for rule in list_credit():
        assert f"{rule.name}  {rule.kind}" in shown


def test_a_rule_of_the_users_is_told(mine, capsys):
    shown = printed(capsys, "listed_rules:listed_mine", "listed_rules:listed_whole")
    for piece in (
        "listed_rules:listed_mine  allocation", "Bend [b]it[/b].", "slope: Any, required",
        "knee: Any = 3", "entropies: a forward pass", "keeps sign",
        """grpo-credit check listed_rules:listed_mine --credit_kwargs '{"slope": …}'""",
        "listed_rules:listed_whole  credit",
    ):  # fmt: skip
        assert piece in shown


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("seq", ["seq"]),
        ("decided+trace/seq", ["decided", "trace", "seq"]),
        ("tree_td@0.5,even@0.5", ["tree_td", "even"]),
        ("even@0.5 , loo+decided@.5 / length", ["even", "loo", "decided", "length"]),
    ],
)
def test_a_composition_is_told_by_its_parts(name, parts):
    assert list(rules_in(name)) == parts


def test_an_unknown_name_is_told():
    with pytest.raises(CreditError, match="Did you mean 'seq'"):
        rules_in("sqe")


def test_what_every_need_costs_is_said():
    assert set(COSTS) == set(OPTIONAL)


def test_a_rule_without_a_docstring_has_a_line(monkeypatch, capsys):
    from grpo_credit.credit import registry

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    @allocation
    def listed_bare(rollouts):
        return rollouts.mask

    assert "listed_bare" in printed(capsys)
    assert "listed_bare  allocation" in printed(capsys, "listed_bare")


def test_where_a_rule_does_not_learn_is_said_in_the_list_and_of_it_alone(capsys):
    cautioned = {rule.name: rule.caution for rule in list_credit() if rule.caution}
    assert {"automaton", "entropy_soft", "entropy_top", "tree_td"} <= set(cautioned)
    every = " ".join(printed(capsys).split())
    assert every.count("Caution: ") == len(cautioned)
    for name, caution in cautioned.items():
        assert caution in " ".join(printed(capsys, name).split())
