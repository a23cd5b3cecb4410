"""From what a user names to a strategy; the plan of a configuration; the command line."""

import functools
import re
import subprocess
import sys
from typing import Literal

import pytest
import torch

from grpo_credit import (
    CreditError,
    CreditGRPOConfig,
    Rollouts,
    aggregation,
    allocation,
    chain,
    compute_credit,
    list_credit,
    mix,
    resolve_credit,
)
from grpo_credit.credit import registry
from grpo_credit.trainer.config import plan

HALF = """
from grpo_credit import allocation

@allocation
def half(rollouts):
    first = rollouts.position < rollouts.lengths[:, None] / 2
    return rollouts.advantages[:, None] * first * rollouts.mask

def whole(rollouts):
    return rollouts.advantages[:, None] * rollouts.mask / rollouts.num_tokens

broken = 3
"""


@allocation
def optioned(
    rollouts: Rollouts,
    *,
    gamma: float = 0.5,
    steps: int = 1,
    mode: Literal["soft", "hard"] = "soft",
    floor: float | None = None,
) -> torch.Tensor:
    """Scale by gamma, for tests of options."""
    return rollouts.advantages[:, None] * gamma * rollouts.mask


@allocation(linear=False)
def bent(rollouts: Rollouts) -> torch.Tensor:
    """Give every token the size of the advantage."""
    return rollouts.advantages.abs()[:, None] * rollouts.mask


@allocation
def early(rollouts: Rollouts) -> torch.Tensor:
    """Give everything to the first token."""
    return rollouts.advantages[:, None] * (rollouts.position == 0) * rollouts.mask


@allocation(needs=["entropies", "decided"])
def needing(rollouts: Rollouts) -> torch.Tensor:
    """Need two optional fields."""
    return rollouts.advantages[:, None] * rollouts.entropies * rollouts.mask


@aggregation
def demanding(rollouts: Rollouts, *, alpha: float) -> torch.Tensor:
    """Ask for an option that has no default."""
    return alpha / rollouts.num_tokens


def two():
    return Rollouts.from_lists(
        [1, 3], [1.0, 0.0], num_generations=2, max_completion_length=4, advantages=[1.0, -1.0]
    )


# ---- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "even/dapo"),
        ("seq", "even/seq"),
        ("even", "even/dapo"),
        ("even/length", "even/length"),
        (" even / length ", "even/length"),
        (optioned, "optioned/dapo"),
        (functools.partial(optioned, gamma=1.0), "optioned/dapo"),
        (lambda r: r.mask / 1.0, "<lambda>"),
    ],
)
def test_a_strategy_may_be_named_in_many_ways(given, name):
    assert resolve_credit(given).name == name


@pytest.mark.parametrize(
    ("credit", "message"),
    [
        (
            "sqe",
            r"unknown strategy 'sqe'\. Did you mean 'seq'\? Known: .*uniform.*; or your own",
        ),
        ("xyzzy", r"unknown strategy 'xyzzy'\. Known:"),
        ("seq/even", "wrong way round, expected allocation/aggregation"),
        ("seq/dapo", "'seq' is an aggregation, expected an allocation there"),
        ("even/seq/x", "expected allocation/aggregation, or one"),
        ("even/", "expected allocation/aggregation, or one"),
        ("no.such:rule", r"no module 'no' for strategy 'no\.such:rule'; looked in"),
        ("json.such:rule", r"no module 'json\.such' for strategy 'json\.such:rule'; looked in"),
        ("this.such:rule", r"no module 'this\.such' for strategy"),
        ("grpo_credit.credit.aggregations:sqe", "has no 'sqe'. Did you mean 'seq'?"),
        (":half", "expected 'pkg.mod:obj' with both names whole"),
        ("my_rules:", "expected 'pkg.mod:obj' with both names whole"),
        (".my_rules:half", "expected 'pkg.mod:obj' with both names whole"),
        ("grpo_credit.credit.advantages:SCALE_EPS", "is a float, expected a function of Rollouts"),
    ],
)
def test_a_wrong_name_is_explained(credit, message):
    with pytest.raises(CreditError, match=message):
        resolve_credit(credit)


@pytest.mark.parametrize(
    ("credit", "message"),
    [
        ("even+seq", "'seq' is an aggregation, expected an allocation there"),
        ("even+", r"'even\+' is no chain of allocations"),
        ("even+bent", "'bent' is not linear in the advantages, so it cannot weigh what 'even'"),
        ("even@0.5,optioned@0.6", "shares of the mixture are 0.5, 0.6; expected >= 0, summing to"),
        ("even@1.5,optioned@-0.5", "shares of the mixture are 1.5, -0.5; expected >= 0"),
        ("even@0.5,optioned", "'optioned' has no share of the mixture; expected e.g. optioned@0.5"),
        ("even@0.5,even@0.5", "names a member of the mixture twice"),
        ("even@0.5,evn@0.5", "Did you mean 'even'"),
    ],
)
def test_a_wrong_composition_is_explained(credit, message):
    with pytest.raises(CreditError, match=message):
        resolve_credit(credit)


def test_a_chain_multiplies_weights():
    # optioned: gamma = 0.5 on every token; early: the first token only
    found = compute_credit("bent+optioned+early/seq", two())
    assert found.tolist() == [[0.25, 0, 0], [0.25, 0, 0]]  # bent: |A| = 1; seq: 1/2
    assert compute_credit(chain(bent, optioned, early), two()).tolist() == [
        [0.125, 0, 0], [0.125, 0, 0],  # dapo: 1/4
    ]  # fmt: skip


def test_a_mixture_is_convex():
    # 0.75 on the first token alone, 0.25 on all; seq: 1/2
    assert compute_credit("early@0.75,even@0.25/seq", two()).tolist() == [
        [0.5, 0, 0], [-0.5, -0.125, -0.125],
    ]  # fmt: skip
    in_python = resolve_credit(mix({early: 0.75, chain("even"): 0.25}), default_aggregation="seq")
    assert in_python.credit(two()).tolist() == [[0.5, 0, 0], [-0.5, -0.125, -0.125]]
    assert resolve_credit("early@1").credit(two()).equal(resolve_credit("early").credit(two()))


def test_a_composition_needs_and_promises_what_its_parts_do():
    both = resolve_credit("optioned@0.5,early+needing@0.5/seq", gamma=0.25)
    assert both.name == "optioned@0.5,early+needing@0.5/seq"
    assert both.needs == {"entropies", "decided"}
    assert both.options["optioned"] == {"gamma": 0.25}
    assert (both.linear, both.keeps_sign, both.conserves_mass, both.even) == (True,) + (False,) * 3
    assert not resolve_credit("bent").linear
    assert resolve_credit("even@0.5,even+even@0.5").even
    with pytest.raises(CreditError, match=r"needs rollouts\.decided, which is None"):
        both.credit(two())


def test_a_rule_in_the_users_own_file(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(HALF)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    monkeypatch.setattr(sys, "path", list(path))
    assert resolve_credit("my_rules:half").name == "half/dapo"
    assert resolve_credit("my_rules:half/seq").name == "half/seq"
    assert resolve_credit("my_rules:whole").name == "my_rules:whole"
    assert compute_credit("my_rules:half/seq", two()).tolist() == [[0.5, 0, 0], [-0.5, -0.5, 0]]
    with pytest.raises(CreditError, match="whole credit; decorate it with @allocation"):
        resolve_credit("my_rules:whole/seq")
    with pytest.raises(CreditError, match="is a int, expected a function"):
        resolve_credit("my_rules:broken")
    assert sys.path == [str(tmp_path), *path]


def test_entry_points_are_found_and_a_broken_one_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "plugged.py").write_text(HALF.replace("half", "plugged"))
    info = tmp_path / "plugged-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: plugged\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[grpo_credit.strategies]\nplugged = plugged:plugged\nbroken_plugin = no_such_module:x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    assert resolve_credit("plugged/seq").name == "plugged/seq"
    with pytest.warns(UserWarning, match="strategy 'broken_plugin'"):
        assert "plugged" in {rule.name for rule in list_credit()}


def test_a_decorator_keeps_its_needs_for_a_second_function():
    needy = allocation(needs="entropies")
    for name in ("needy_one", "needy_two"):
        rule = lambda rollouts: rollouts.entropies  # noqa: E731
        rule.__name__ = rule.__qualname__ = name
        assert resolve_credit(needy(rule)).needs == {"entropies"}


def test_every_rule_has_what_the_table_shows():
    for rule in list_credit():
        if rule.function.__module__.startswith("grpo_credit."):
            assert rule.summary.endswith(".")
            assert "=" in rule.formula
            assert re.search(r"arXiv:\d{4}\.\d{5}|\b(19|20)\d\d\b|this package", rule.paper)


# ---- options ----------------------------------------------------------------------------------


def test_options_reach_the_function():
    assert compute_credit("optioned/seq", two(), gamma=2)[0, 0] == 1.0
    assert compute_credit("even/demanding", two(), alpha=4.0)[0, 0] == 1.0


@pytest.mark.parametrize(
    ("credit", "options", "message"),
    [
        ("seq", {"alpha": 1}, "'even/seq' has no option 'alpha'; it takes no options"),
        ("optioned", {"gama": 1.0}, r"no option 'gama'; options: .*Did you mean 'gamma'\?"),
        ("optioned", {"gamma": "high"}, r"'gamma' of 'optioned' is 'high' \(str\), expected float"),
        ("optioned", {"gamma": True}, r"is True \(bool\), expected float"),
        ("optioned", {"steps": 1.5}, r"is 1.5 \(float\), expected int"),
        (
            "optioned",
            {"mode": "medium"},
            r"is 'medium' \(str\), expected Literal\['soft', 'hard'\]",
        ),
        ("optioned", {"floor": "x"}, r"is 'x' \(str\), expected float \| None"),
        ("even/demanding", {}, "'demanding' needs the option 'alpha'"),
    ],
)
def test_a_wrong_option_is_explained(credit, options, message):
    with pytest.raises(CreditError, match=message):
        resolve_credit(credit, **options)


# ---- the plan of a configuration --------------------------------------------------------------


def config(**settings):
    return CreditGRPOConfig("unused", report_to=[], **settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("even/dapo", "dapo", "token")),
        ({"credit": "seq"}, ("even/seq", "dapo", "sequence")),
        ({"credit": "seq", "importance_sampling_level": "token"}, ("even/seq", "dapo", "token")),
        ({"credit": "uniform"}, ("even/uniform", "dapo", "token")),
        ({"loss_type": "grpo"}, ("even/length", "dapo", "token")),
        ({"loss_type": "luspo"}, ("even/seq", "dapo", "token")),
        ({"loss_type": "luspo", "credit": "seq"}, ("even/seq", "dapo", "sequence")),
        ({"loss_type": "sapo"}, ("even/length", "sapo", "token")),
        ({"loss_type": "cispo", "credit": "length"}, ("even/length", "cispo", "token")),
        ({"loss_type": "vespo", "credit": "seq"}, ("even/seq", "vespo", "token")),
        ({"credit": "even", "loss_type": "dr_grpo"}, ("even/uniform", "dapo", "token")),
        (
            {"credit": "optioned", "credit_kwargs": '{"gamma": 1}'},
            ("optioned/dapo", "dapo", "token"),
        ),
    ],
)
def test_what_a_configuration_comes_to(settings, expected):
    found = plan(config(**settings))
    assert (found.strategy.name, found.loss_type, found.ratio) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"credit": "sqe"}, "Did you mean 'seq'"),
        (
            {"credit": "seq", "loss_type": "grpo"},
            "loss_type='grpo' aggregates by 'length', but cred",
        ),
        ({"credit": "seq", "loss_type": "dapo"}, "drop loss_type"),
        ({"loss_type": "bnpo"}, "bnpo.*use credit='dapo'"),
        ({"loss_type": "ppo"}, "loss_type is 'ppo', expected one of cispo, dapo"),
        ({"credit_kwargs": "{alpha: 1}"}, "not JSON: Expecting property name.*at character 1"),
        ({"credit_kwargs": "[1]"}, r"credit_kwargs is \[1\], expected a JSON object"),
        ({"credit": "seq", "credit_kwargs": '{"a": 1}'}, "has no option 'a'"),
        ({"importance_sampling_level": "word"}, "is 'word', expected 'token' or 'sequence'"),
        ({"credit": "optioned", "loss_type": "vespo"}, "loss_type='vespo' decides by the sign"),
        ({"credit": "optioned", "off_policy_mask_threshold": 0.5}, "off_policy_mask_threshold dec"),
        ({"credit": "tests_no_such:x", "beta": 0.1}, "no module"),
        ({"credit": optioned}, r"names only, so pass a function to the trainer"),
    ],
)
def test_a_clash_is_explained_at_parse_time(settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_a_rule_that_claims_a_twin_does_not_become_it():
    @aggregation(trl="grpo")
    def thrice(rollouts):
        return 3 / rollouts.num_tokens

    assert plan(config(loss_type="grpo")).strategy.name == "even/length"


def test_options_in_the_configuration_wait_for_the_strategy_of_the_trainer():
    found = plan(config(credit_kwargs={"gamma": 0.25}), credit="optioned")
    assert found.strategy.options["optioned"] == {"gamma": 0.25}


def test_kl_is_refused_for_a_credit_without_aggregation():
    with pytest.raises(CreditError, match=r"beta=0\.1 adds a KL term.*decorate it"):
        plan(config(beta=0.1), credit=lambda rollouts: rollouts.mask / 1.0)


def test_credit_may_not_be_named_twice():
    with pytest.raises(CreditError, match="'dapo' as an argument of the trainer and 'seq' in the"):
        plan(config(credit="seq"), credit="dapo")


def test_a_machine_without_accelerator_trains_in_float32_on_the_cpu():
    settings = config()
    assert (settings.use_cpu, settings.bf16) == (True, False)
    assert config(bf16=True).bf16 is True


# ---- the command line -------------------------------------------------------------------------


def test_help_and_import_are_light():
    code = (
        "import sys, grpo_credit, grpo_credit.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    import grpo_credit

    with pytest.raises(AttributeError, match="no attribute 'CreditGRPO'"):
        _ = grpo_credit.CreditGRPO
    assert set(grpo_credit.__all__) <= set(dir(grpo_credit))
