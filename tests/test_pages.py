"""What the pages say of themselves: links lead somewhere, commands are parsed, code runs."""

import ast
import doctest
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

import grpo_credit
from grpo_credit import cli
from grpo_credit.experiments.study.commandline import make_parser

ROOT = Path(__file__).parent.parent
OURS = {"grpo_credit", "rewards"}
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("re*/*.md")]


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def commands(page):
    """Find the commands that stand on lines of their own."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^    grpo-credit (.*)$", text, re.MULTILINE):
        yield line.partition("  #")[0]


COMMANDS = sorted({command for page in PAGES for command in commands(page)})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_parsed(command):
    words = shlex.split(command)
    if words[0] == "ablate":
        assert make_parser().parse_known_args(words[1:])[0].recipe
    else:
        assert cli._parser().parse_args(words).verb


def blocks(page):
    """Return code that is no session, with >>>."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^ *```python\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in found if not block.startswith(">>>")]


@pytest.mark.parametrize("page", filter(blocks, PAGES), ids=lambda page: page.stem)
def test_code_is_python_and_what_it_imports_of_ours_is_there(page):
    for block in blocks(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
                home = import_module(node.module)
                assert all(hasattr(home, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", [p for p in PAGES if ">>>" in p.read_text()], ids=str)
def test_sessions_are_as_they_are_shown(page):
    failed, tried = doctest.testfile(
        str(page), module_relative=False, optionflags=doctest.ELLIPSIS, encoding="utf-8"
    )
    assert tried
    assert not failed


def written(pattern, *files):
    """Find what a pattern groups in pages, configurations and the image's recipe."""
    texts = [path.read_text(encoding="utf-8") for path in files]
    return [found for text in texts for found in re.findall(pattern, text, re.MULTILINE)]


def test_a_servers_command_is_parsed_by_trl():
    from trl.scripts.vllm_serve import make_parser

    served = written(
        r"(?:    |[0-9] )trl vllm-serve (.*)$", *PAGES, *ROOT.glob("recipes/configs/*")
    )
    assert len(served) == 2
    for options in served:
        asked, rest = make_parser().parse_args_and_config(
            args=shlex.split(options), return_remaining_strings=True
        )
        assert asked.model.startswith("Qwen/")
        assert rest == []


def test_an_installation_names_extras_and_constraints_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = written(
        r"install .*(?:-c|--constraint) (\S+) '\.\[(.*?)\]'", *PAGES, ROOT / "Dockerfile"
    )
    assert len(asked) == 2
    for constraints, named in asked:
        assert (ROOT / constraints).is_file()
        assert set(named.split(",")) <= set(extras["optional-dependencies"])


def test_the_code_of_the_readme_runs(tmp_path):
    own, used = blocks(ROOT / "README.md")[1:3]
    (tmp_path / "my_rules.py").write_text(own)
    (tmp_path / "use.py").write_text(used)
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    # advantages ±1/√2 over N = 2, on the first half of 2 and of 4 tokens
    assert done.stdout.count("0.3536") + done.stdout.count("0.3535") == 3, done.stdout


def test_the_version_is_the_same_everywhere():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert grpo_credit.__version__ == found
    assert f"\nversion: {found}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {found} " in (ROOT / "CHANGELOG.md").read_text()
