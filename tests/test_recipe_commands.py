"""Every command of the pages and the recipes is one that its recipe's parser takes."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from grpo_credit.run.recipe import _read

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("recipes/*.md")),
    *sorted((ROOT / "recipes").glob("*.py")), *sorted((ROOT / "recipes" / "configs").glob("*")),
]  # fmt: skip
LAUNCH = re.compile(r"accelerate launch (?:--config_file \S+ )?(recipes/\w+\.py)(.*)")
HALF = """
from grpo_credit import allocation

@allocation
def half(rollouts):
    return rollouts.advantages[:, None] * rollouts.mask
"""


def commands(page):
    """Find the recipe and the options of each command: to the backtick, or the line's end."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)  # none is in a fence
    quoted = re.findall(r"`([^`]+)`", text) if page.suffix == ".md" else []
    lines = re.sub(r"\\\n[\s#]*", "", re.sub(r"`[^`]*`", "", text) if quoted else text)
    for command in [*(words.replace("\n", " ") for words in quoted), lines]:
        for found in LAUNCH.finditer(command):
            yield found.groups()


WRITTEN = sorted({command for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("script", "options"), WRITTEN)
def test_a_command_of_the_pages_is_parsed(script, options, tmp_path, monkeypatch):
    mine = ModuleType("my_rules")
    exec(HALF, vars(mine))
    monkeypatch.setitem(sys.modules, "my_rules", mine)
    monkeypatch.chdir(ROOT)
    recipe = runpy.run_path(str(ROOT / script))["RECIPE"]
    asked = shlex.split(options.replace("NAME", "seq"), comments=True)
    _read(recipe, [*asked, f"--output_dir={tmp_path}"])


def test_the_commands_are_found():
    assert len(WRITTEN) > 15
    assert any("--bf16" in options for _, options in WRITTEN)
    assert any("one_gpu_lora.yaml" in options for _, options in WRITTEN)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--bf16", True), ("--bf16=false", False), ("--ddp_find_unused_parameters", True)],
)
def test_a_switch_without_a_default_needs_no_value(option, value, tmp_path):
    recipe = runpy.run_path(str(ROOT / "recipes" / "grpo_math.py"))["RECIPE"]
    words = [option, "--model_name_or_path=m", "--fp16=false", f"--output_dir={tmp_path}"]
    _, args, *_ = _read(recipe, words)
    assert getattr(args, option.strip("-").partition("=")[0]) is value


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "recipes").glob("*.py")))
def test_help_is_short_and_light(script):
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print(sorted({'torch', 'transformers'} & set(sys.modules))))\n"
        f"sys.argv = ['x', '--help']; runpy.run_path({str(ROOT / 'recipes' / script)!r}, "
        "run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    own = re.findall(
        r"^    (\w+): .* = (?:option|field)\(",
        (ROOT / "recipes" / script).read_text(),
        re.MULTILINE,
    )
    assert own
    for option in ("credit", "help-all", *own):
        assert f"--{option}" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
