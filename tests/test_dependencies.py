"""What the package imports is what its installation brings."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BRINGS = importlib.metadata.packages_distributions()
OWN = {"grpo_credit", "rewards"} | {path.stem for path in ROOT.glob("scripts/*.py")}


def names(requirements):
    """Return the normalized names of distributions."""
    words = [re.match(r"[\w.-]+", requirement)[0] for requirement in requirements]
    return {re.sub(r"[-_.]+", "-", word).lower() for word in words}


def imported(folder):
    """Return module -> first place of every import of somebody else's, wherever it stands."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                found.setdefault(module.split(".")[0], f"{path.relative_to(ROOT)}:{node.lineno}")
    return {m: at for m, at in found.items() if m not in {*OWN, *sys.stdlib_module_names}}


@pytest.mark.parametrize("folder", ["grpo_credit", "rewards", "recipes", "scripts"])
def test_every_import_is_declared(folder):
    """By the package or an extra for users; what another distribution brings may leave with it."""
    extras = {k: v for k, v in PROJECT["optional-dependencies"].items() if k != "dev"}
    declared = names([*PROJECT["dependencies"], *(r for of in extras.values() for r in of)])
    undeclared = {
        module: at
        for module, at in imported(folder).items()
        if not names(BRINGS.get(module, [module])) & declared
    }
    assert undeclared == {}
