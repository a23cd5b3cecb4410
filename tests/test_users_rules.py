"""Rules in files of the user's: what breaks in one of them, and what goes on working."""

import sys

import pytest

from grpo_credit import CreditError, Rollouts, compute_credit, list_credit, resolve_credit
from grpo_credit.credit import registry


def two():
    return Rollouts.from_lists(
        [1, 3], [1.0, 0.0], num_generations=2, max_completion_length=4, advantages=[1.0, -1.0]
    )


LAZY = """
from grpo_credit import allocation

@allocation
def lazy(rollouts):
    from lazy_helper import land
    return land(rollouts)
"""


def test_a_rule_may_import_from_its_own_folder_when_it_is_used(tmp_path, monkeypatch):
    (tmp_path / "lazy_rules.py").write_text(LAZY)
    (tmp_path / "lazy_helper.py").write_text(
        "def land(r):\n    return r.advantages[:, None] * r.mask"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert compute_credit("lazy_rules:lazy/seq", two())[0, 0] == 0.5


def test_a_folder_without_the_rule_is_not_left_on_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert resolve_credit("grpo_credit.credit.aggregations:seq").name == "even/seq"
    with pytest.raises(CreditError, match="no module 'nowhere'"):
        resolve_credit("nowhere:rule")
    with pytest.raises(CreditError, match=r"no module 'wave\.nothing'"):  # of the standard library
        resolve_credit("wave.nothing:rule")
    assert sys.path == path


def test_an_error_inside_the_users_file_names_it_and_the_line(tmp_path, monkeypatch):
    (tmp_path / "my_broken.py").write_text("\nimport a_module_that_is_missing")
    monkeypatch.chdir(tmp_path)
    told = r"my_broken\.py cannot be imported: ModuleNotFoundError: .*a_module_that_is_missing' "
    with pytest.raises(CreditError, match=rf"{told}\(my_broken\.py:2\)") as raised:
        resolve_credit("my_broken:rule")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_a_module_that_would_train_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "my_training.py").write_text("open('ran', 'w')\ntrainer.train()\n")
    monkeypatch.chdir(tmp_path)
    for name in ("my_training:rule", "my_training.part:rule"):  # which is looked for in the module
        with pytest.raises(CreditError, match=r"my_training\.py:2 would train as soon as"):
            resolve_credit(name)
    assert not (tmp_path / "ran").exists()


BAD = """
from grpo_credit import allocation

@allocation
def good(rollouts):
    return rollouts.advantages[:, None] * rollouts.mask

@allocation(needs=["entropy"])
def misneeding(rollouts):
    pass

@allocation(needs=3)
def counting(rollouts):
    pass

@allocation(conserve_mass=True)
def misdeclaring(rollouts):
    pass

@allocation
def seq(rollouts):
    pass
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("misneeding", r"'misneeding' in bad_rules: needs 'entropy', but Rollouts can provide "
         r"answer_logps, decided, entropies, .*Did you mean 'entropies'\?"),
        ("counting", "'counting' in bad_rules: needs 3, but Rollouts can provide"),
        ("misdeclaring", r"'misdeclaring' in bad_rules: @allocation got 'conserve_mass', but it "
         r"takes .*Did you mean 'conserves_mass'\?"),
        ("seq", r"'seq' in bad_rules is already registered by grpo_credit\.credit\.aggregations; "
         "choose"),
    ],
)  # fmt: skip
def test_a_wrong_decorator_is_named_when_its_rule_is_used(name, message, tmp_path, monkeypatch):
    (tmp_path / "bad_rules.py").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "bad_rules", raising=False)
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    monkeypatch.setattr(registry, "_BROKEN", {})
    assert compute_credit("bad_rules:good/seq", two())[0, 0] == 0.5
    assert resolve_credit("even/seq").credit(two())[0, 0] == 0.5
    with pytest.raises(CreditError, match=message):
        resolve_credit(f"bad_rules:{name}")
    with pytest.warns(UserWarning, match=f"left out: '{name}' in bad_rules"):
        assert name not in {rule.name for rule in list_credit()} - {"seq"}
