"""What can be asked for, and what is refused before anything runs."""

import json
import sys
from dataclasses import asdict

import pytest
import yaml
from ablate_helpers import FAKE, ablate

from grpo_credit import CreditError
from grpo_credit.experiments.design import SCHEMA, Study, credit_arguments, load_study, slug
from grpo_credit.experiments.study import engines
from grpo_credit.experiments.study.ablate import main
from grpo_credit.experiments.study.commandline import read

STUDY = Study("a.py", ("seq",), (0, 1))
LEAST = ["--recipe", str(FAKE), "--credit", "uniform", "seq", "--out", "study"]


def study(*more):
    return read([*LEAST, *more]).study


def test_one_number_of_seeds_is_a_count_and_several_are_the_seeds():
    assert study("--seeds", "3").seeds == (0, 1, 2)
    assert study("--seeds", "1", "5", "9").seeds == (1, 5, 9)


def test_what_the_study_does_not_know_is_the_recipes():
    asked = read([*LEAST, "--seeds", "2", "--max_steps=4", "--pause", "1", "--", "--config", "x"])
    assert asked.study.options == ("--max_steps=4", "--pause", "1", "--config", "x")
    assert asked.study.credits == ("uniform", "seq")
    assert (asked.study.baseline, asked.study.metric) == ("uniform", None)


def test_a_yaml_file_describes_a_study_and_the_command_line_overrides_it(tmp_path):
    file = tmp_path / "study.yaml"
    content = {
        "recipe": "a.py", "credit": ["seq", 'delta_l {"alpha": 0.5}'], "seeds": [3, 4],
        "out": "here", "baseline": "seq", "lower_is_better": False,
        "engine_options": {"num_cpus": 2}, "own_warm_starts": True,
        "options": {"max_steps": 4, "use_peft": True, "log_completions": False, "pause": None},
    }  # fmt: skip
    file.write_text(yaml.dump(content))
    with pytest.raises(ValueError, match=r"names the recipe 'a\.py', and a file's word runs"):
        read(["--config", str(file)])
    recipe = ["--recipe=a.py", "--config", str(file)]
    with pytest.raises(ValueError, match=r"names the engine_options .* say it on the command line"):
        read(recipe)  # SLURM's may be lines of a script
    recipe += ['--engine_options={"num_cpus": 2}']
    asked = read([*recipe, "--seeds", "2", "--pause=1"])
    assert asked.study == Study(
        "a.py", ("seq", 'delta_l {"alpha": 0.5}'), (0, 1),
        ("--log_completions", "False", "--max_steps", "4", "--use_peft", "--pause=1"),
        "seq", own_warm_starts=True,
    )  # fmt: skip
    assert (str(asked.out), asked.engine_options) == ("here", {"num_cpus": 2})
    file.write_text(yaml.dump(content | {"options": ["--max_steps=4"]}))
    assert read(recipe).study.options == ("--max_steps=4",)


def test_strategies_have_directories_of_their_own():
    names = ["seq", "decided/seq", 'delta_l {"alpha": 0.5}', 'delta_l {"alpha": 0.75}',
             "loo+decided/seq", "loo-decided/seq", "my.mod:obj/seq", "..", "../../etc", "é" * 300,
             "a@0.5,b@0.5/seq", "a@0.5+b@0.5/seq"]  # fmt: skip
    slugs = [slug(name) for name in names]
    assert slugs[:2] == ["seq", "decided-seq"]
    assert len(set(slugs)) == len(names)
    assert not any("/" in name or name.startswith(".") or len(name) > 90 for name in slugs)


def test_options_of_a_strategy_become_options_of_the_recipe():
    assert credit_arguments("decided/seq") == ["--credit=decided/seq"]
    assert credit_arguments('x {"a": {"b": 1}}') == [
        "--credit=x",
        '--credit_kwargs={"a": {"b": 1}}',
    ]


# ---- mistakes ---------------------------------------------------------------------------------


MISTAKES = {
    "one seed": (["--seeds", "1"], "1 seed: a study needs at least 2"),
    "negative seeds": (["--seeds", "-3"], "--seeds is -3, expected a count"),
    "a seed for a count": (["--seeds", "20261130"], "expected a count up to 10,000"),
    "a seed twice": (["--seeds", "3", "4", "3"], "the seed 3 is named twice"),
    "a strategy twice": (["--credit", "seq", "seq"], "the strategy 'seq' is named twice"),
    "unknown strategy": (["--credit", "uniform", "sqe"], "fake_recipe.py: unknown strategy 'sqe'"),
    "unknown recipe": (["--recipe", str(FAKE.with_name("fake_recip.py"))],
                       f"Did you mean '{FAKE}'?"),
    "no recipe": (["--recipe", __file__], "assigns no RECIPE, and nothing of it was run"),
    "a recipe that cannot be read": (["--recipe", "broken.py"],
                                     "broken.py:1 is no Python: invalid syntax"),
    "unknown option": (["--sedes=6"], "unrecognized arguments: --sedes=6 Did you mean 'seeds'?"),
    "ill-typed option": (["--max_steps=many"], "invalid int value: 'many'"),
    "unknown baseline": (["--baseline", "dapo"], "the baseline 'dapo' is none of the strategies"),
    "an option of ours": (["--seed=4"], "--seed is set by the study for each cell; use --seeds."),
    "a directory of theirs": (["--", "--output-dir", "x"], "--output_dir is set by the study"),
    "strategy options": (["--credit_kwargs={}"], "write --credit 'NAME {\"option\": value}'."),
    "unknown metric": (["--metric=mean@5", "--test_samples=4"], "with these options; it has "
                       "'mean@4', 'form (greedy)'. Did you mean 'mean@4'?"),
    "no jobs": (["--jobs=0"], "--jobs is 0, expected at least 1."),
    "unknown engine": (["--engine=moon"], "invalid choice: 'moon'"),
    "options of no engine": (['--engine_options={"a": 1}'], "--engine local takes no"),
    "engine options that are no JSON": (["--engine_options={"], "--engine_options is not valid"),
    "engine options that are a list": (["--engine_options=[]"], "expected a JSON object"),
    "no SLURM": (["--engine=slurm"], "needs SLURM's `sbatch`, which is not on the PATH"),
    "missing YAML": (["--config", "none.yaml"], "No such file or directory: 'none.yaml'"),
    "unknown YAML key": (["--config", "typo.yaml"], "unknown key 'sedes' in typo.yaml: nothing "
                         "reads it. Did you mean 'seeds'?"),
    "no YAML": (["--config", "list.yaml"], "list.yaml holds no mapping of options."),
    "torn YAML": (["--config", "torn.yaml"], "torn.yaml is no YAML: while parsing"),
    "other files": (["--out", "full"], "full holds other files (notes.txt); use another --out."),
    "a file": (["--out", "typo.yaml"], "typo.yaml is a file; use another --out."),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typo.yaml").write_text("sedes: 4\n")
    (tmp_path / "list.yaml").write_text("- seeds\n")
    (tmp_path / "torn.yaml").write_text("seeds: [1, 2\n")
    (tmp_path / "broken.py").write_text("def\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_costs_one_line_and_exit_code_2_and_leaves_nothing(mistake, folder, capsys):
    wrong, message = MISTAKES[mistake]
    before = sorted(folder.rglob("*"))
    seeds = [] if "--seeds" in wrong else ["--seeds", "2"]
    code = main([*LEAST, *seeds, *wrong], ["ablate.py"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("grpo-credit ablate: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["recipe", "credit", "seeds", "out"])
def test_what_a_study_cannot_be_without_is_named(name, capsys):
    words = {"recipe": "r.py", "credit": "seq", "seeds": "2", "out": "o"}
    given = [part for key, value in words.items() if key != name for part in (f"--{key}", value)]
    assert main(given, ["ablate.py"]) == 2
    assert f"--{name} is missing" in capsys.readouterr().err


@pytest.mark.parametrize(("engine", "module"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_missing_extra_names_the_line_that_installs_it(
    engine, module, folder, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    assert main([*LEAST, "--seeds", "2", "--engine", engine], ["ablate.py"]) == 2
    assert f"install it with pip install 'grpo-credit[{engine}]'." in capsys.readouterr().err
    assert not (folder / "study").exists()


def test_an_option_that_submitit_does_not_know_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match=r"--engine_options of slurm: .*tempo"):
        engines.make_engine("slurm", 1, {"cluster": "local", "tempo": 3}, tmp_path)


# ---- a directory that holds a study -----------------------------------------------------------


@pytest.mark.slow
def test_a_study_may_grow_but_not_change(tmp_path):
    few = ["--credit", "uniform", "seq", "--max_steps=2", "--seeds"]
    code, out, err = ablate(tmp_path, *few, "2")
    assert code == 0, out + err
    first = json.loads((tmp_path / "study" / "study.json").read_text())
    assert first["command"].startswith("python ")  # the script need not be executable
    code, out, err = ablate(tmp_path, *few, "2", "--baseline=seq", "--max_steps=3")
    assert (code, err.count("\n")) == (2, 1)
    assert "study holds another study; options: --max_steps=2 in the study, " in err
    assert "baseline: uniform in the study, seq now" in err
    code, out, err = ablate(tmp_path, *few, "5", "6")
    assert code == 2
    assert "seeds: 0 1 in the study, 5 6 now" in err
    assert json.loads((tmp_path / "study" / "study.json").read_text()) == first
    code, out, err = ablate(tmp_path, *few, "3", "--credit", "uniform", "dapo", "seq")
    assert code == 0, out + err
    assert "4 of 9 cells are finished already" in out
    grown = json.loads((tmp_path / "study" / "study.json").read_text())
    assert (grown["credits"], grown["seeds"]) == (["uniform", "seq", "dapo"], [0, 1, 2])
    assert grown["started"] == first["started"]


@pytest.mark.slow
def test_secrets_are_kept_nowhere(tmp_path):
    command = ["--credit", "seq", "--seeds", "2", "--max_steps=1", "--hub_token=abc123"]
    for _ in range(2):
        code, out, err = ablate(tmp_path, *command)
        assert code == 0, out + err
    kept = [path for path in (tmp_path / "study").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"abc123" in path.read_bytes()]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("[]", "expected a JSON object"),
     ('{"schema": 2}', "has schema 2, expected 1"), ('{"schema": 1}', "lacks 'recipe'"),
     (json.dumps({"schema": 1, **asdict(STUDY), "seeds": None}), "seeds is damaged: got None"),
     ('{"schema": 1, "match_grad_norm": true}', "whose credit was scaled by --match_grad_norm")],
)  # fmt: skip
def test_a_damaged_study_is_refused_and_left_alone(content, message, folder, capsys):
    (folder / "study").mkdir()
    (folder / "study" / "study.json").write_text(content)
    assert main([*LEAST, "--seeds", "2"], ["ablate.py"]) == 2
    assert message in capsys.readouterr().err
    assert (folder / "study" / "study.json").read_text() == content


def test_the_runner_imports_no_torch():
    import subprocess

    code = (
        "import sys, grpo_credit.experiments.study.ablate as a; a.main(['--help'], ['x']); "
        "print(sorted({'torch', 'transformers', 'ray', 'submitit', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--own_warm_starts" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_study_that_is_older_than_an_option_is_read(tmp_path):
    asked = read([*LEAST, "--seeds", "2"]).study
    content = {"schema": SCHEMA, **asdict(asked)}
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert load_study(tmp_path / "study.json") == asked
    del content["own_warm_starts"]
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert load_study(tmp_path / "study.json") == asked
    del content["seeds"]
    (tmp_path / "study.json").write_text(json.dumps(content))
    with pytest.raises(CreditError, match="it lacks 'seeds'"):
        load_study(tmp_path / "study.json")
