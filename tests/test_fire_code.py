"""No file has a say in what is imported or run: what it names takes the user's own word."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from ablate_helpers import FAKE
from fire_helpers import saved_run
from study_helpers import make_study

from grpo_credit import cli
from grpo_credit.credit.userfile import load_recipe
from grpo_credit.experiments.study.ablate import main as ablate
from grpo_credit.experiments.study.collect import collect
from grpo_credit.run.recipe import prepare

ROOT = Path(__file__).parents[1]


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """Go to a folder with modules that leave a mark where they are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "evilmod.py").write_text(
        "open('imported', 'w').close()\n"
        "def go(rollouts):\n    return rollouts.advantages[:, None] * rollouts.mask\n"
        "def phi(rollouts):\n    import torch\n"
        "    return torch.zeros(len(rollouts.mask), rollouts.mask.shape[1] + 1)\n"
    )
    yield tmp_path / "imported"
    sys.modules.pop("evilmod", None)


NAMING = {
    "a credit": ("evilmod:go", {}),
    "a part of one": ("even@0.5,evilmod:go@0.5/seq", {}),
    "an option": ("potential/seq", {"function": "evilmod:phi"}),
    "an argument of resolving": ("even", {"default_aggregation": "evilmod:go"}),
    "something imported already": ("os:getcwd", {}),
}


@pytest.mark.parametrize(("credit", "options"), NAMING.values(), ids=NAMING)
def test_what_saved_rollouts_name_is_not_imported(credit, options, trap, capsys):
    saved_run(trap.parent, credit, options)
    assert cli.main(["show", "."]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "own strategy" in err
    assert "--credit" in err
    assert not trap.exists()


def test_what_the_user_names_is_imported(trap, capsys):
    saved_run(trap.parent, "evilmod:go")
    assert cli.main(["show", ".", "--credit", "evilmod:go"]) == 0
    assert trap.exists()
    saved_run(trap.parent, "potential/seq", {"function": "evilmod:phi"})
    asked = 'potential/seq {"function": "evilmod:phi"}'
    assert cli.main(["show", ".", "--credit", asked]) == 0
    assert cli.main(["show", ".", "--credit", "potential/seq"]) == 2  # the option is the file's


def test_what_a_study_names_is_not_imported_when_it_is_collected(trap):
    out = make_study(trap.parent / "study", ("uniform", "evilmod:go"), (0, 1))
    report = collect(out)
    assert "a file's word imports nothing" in report.examples.left_out["evilmod:go"]
    assert not trap.exists()
    assert collect(out, ["evilmod:go"]).examples.left_out == {}
    assert trap.exists()


YAML_CODE = {
    "credit: evilmod:go": "names the code 'evilmod:go', and a file's word imports nothing",
    "credit: potential\ncredit_kwargs: {function: 'evilmod:phi'}": "names the code 'evilmod:phi'",
    "env: {PYTHONPATH: evil}": "sets env, which decides what code runs",
    "trust_remote_code: true": "sets trust_remote_code",
    "model_init_kwargs: {allow_all_kernels: true}": "sets allow_all_kernels",
    "model_init_kwargs: {attn_implementation: evil/kernel}": "sets attn_implementation",
    "model_init_kwargs: {trust_remote_code: true}": "sets trust_remote_code",
}


@pytest.mark.parametrize(("text", "message"), YAML_CODE.items())
def test_what_a_yaml_file_names_is_not_imported(text, message, trap, monkeypatch, capsys):
    Path("a.yaml").write_text(text)
    recipe = load_recipe(ROOT / "recipes" / "grpo_regex.py")
    with pytest.raises(ValueError, match=message):
        prepare(recipe, ["--config", "a.yaml"])
    study = "".join(f"  {line}\n" for line in text.splitlines() if not line.startswith("credit"))
    if study:
        Path("a.yaml").write_text(f"options:\n{study}")
        assert ablate(["--config", "a.yaml", "--recipe", str(FAKE)], ["ablate.py"]) == 2
        assert message in capsys.readouterr().err
    assert not trap.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("recipe: evilmod.py", "names the recipe 'evilmod.py'"),
     ("credit: [seq, 'evilmod:go']", "names the code 'evilmod:go'"),
     ("options: [--trust_remote_code=true]", "sets trust_remote_code"),
     ("options: [--trust-remote-code, 'true']", "sets trust_remote_code"),
     ("options: [--tools, 'os:getcwd', 'evilmod:go']", "names the code 'os:getcwd'"),
     ("options: ['--tools=evilmod:go', --bf16]", "names the code 'evilmod:go'"),
     ("options: [--credit_kwargs, '{\"function\": \"evilmod:phi\"}']", "names the code"),
     ("options: [--attn_implementation, someone/kernels]", "sets attn_implementation"),
     ("options: [--tools, 'evilmod:go']", "names the code 'evilmod:go'"),
     ("options: [--tools, fine, 'evilmod:go']", "names the code 'evilmod:go'"),
     ("options: {tools: ['evilmod:go']}", "names the code 'evilmod:go'"),
     ("options: [--credit-kwargs, '{\"function\": \"evilmod:go\"}']", "names the code"),
     ("options: {credit-kwargs: '{\"function\": \"evilmod:go\"}'}", "names the code")],
)  # fmt: skip
def test_a_study_file_runs_and_imports_nothing(text, message, trap, capsys):
    Path("a.yaml").write_text(text)
    assert ablate(["--config", "a.yaml"], ["ablate.py"]) == 2
    assert message in capsys.readouterr().err
    assert not trap.exists()


# What may run or unpickle code, and why no file decides what.
ALLOWED = {
    ("grpo_credit/cli.py", "import_module"): "what runs a verb, by constants",
    ("grpo_credit/__init__.py", "import_module"): "names of the package's own modules",
    ("grpo_credit/lab/__init__.py", "import_module"): "likewise",
    ("grpo_credit/experiments/study/__init__.py", "import_module"): "likewise",
    ("grpo_credit/experiments/report/__init__.py", "import_module"): "likewise",
    ("grpo_credit/own_rewards.py", "import_module"): "modules of the package rewards",
    ("grpo_credit/own_rewards.py", "exec_module"): "likewise",
    ("grpo_credit/experiments/report/page.py", "load"): "the reader of a report's data",
    (
        "grpo_credit/credit/registry.py",
        "import_module",
    ): "after `refuse_unsaid`, or the package's own",
    ("grpo_credit/credit/registry.py", "load"): "entry points of installed packages",
    ("grpo_credit/rewards.py", "load"): "the package rewards",
    ("grpo_credit/run/wrapper.py", "load"): "a launcher that the user named",
    ("grpo_credit/experiments/study/engines.py", "import_module"): "ray or submitit, by constants",
    ("grpo_credit/credit/userfile.py", "exec_module"): "a script that the user named",
}
BUILT_IN = {"eval", "exec", "compile", "__import__"}
RUNS = {"import_module", "exec_module", "run_path",
        "run_module", "load_module", "loads", "load", "unsafe_load", "full_load", "load_all",
        "read_pickle", "Unpickler", "find_class", "from_file"}  # fmt: skip
HARMLESS = {"json.loads", "json.load"}
MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "runpy", "imp"}


def calls_of_code(path):
    """Yield what a file calls that may run code: the name of the function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        owner = getattr(getattr(node.func, "value", None), "id", "")
        bare = name in BUILT_IN and isinstance(node.func, ast.Name)  # `model.eval()` is none
        if bare or (name in RUNS and f"{owner}.{name}" not in HARMLESS):
            yield name
        if name == "from_pretrained" and any(
            k.arg == "trust_remote_code" and getattr(k.value, "value", None) is True
            for k in node.keywords
        ):
            yield "trust_remote_code=True"


def test_no_reader_evaluates_unpickles_or_imports_what_a_file_names():
    sources = [*(ROOT / "grpo_credit").rglob("*.py"), *(ROOT / "recipes").glob("*.py"),
               ROOT / "scripts" / "ablate.py"]  # fmt: skip
    found = {(str(p.relative_to(ROOT)), name) for p in sources for name in calls_of_code(p)}
    assert found == set(ALLOWED)


if __name__ == "__main__":
    subprocess.run([sys.executable, "-m", "pytest", __file__], check=True)
