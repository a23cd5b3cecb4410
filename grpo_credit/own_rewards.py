"""Find this project's `rewards`, also where something else has that name.

`grpo_credit.rewards` is the top-level `rewards` wherever that is ours. Where a user's `rewards.py`
or another distribution hides or overwrites it, the package's own copy is loaded under the name
`grpo_credit.rewards`: the folder `_rewards` of the wheel, or `rewards` beside it in a checkout.
"""

import filecmp
import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

PUBLIC = "rewards"


def load(name: str) -> ModuleType:
    """Return our `rewards`, the modules of which can from now on be imported as `<name>.…`."""
    return _own_copy(name) if hider() else _alias(name)


def hider() -> str | None:
    """Return the file (or what else) that `import rewards` finds instead of ours, None if ours."""
    try:
        spec = find_spec(PUBLIC)
    except ValueError:  # a module made by hand
        return f"sys.modules[{PUBLIC!r}]"
    if spec is None:
        return "nothing on sys.path"
    if spec.origin and _same(Path(spec.origin).parent, _folder()):
        return None
    return spec.origin or ", ".join(spec.submodule_search_locations or ())


def hint(module: str) -> str:
    """Return a sentence for the error about a module or a name in it that is not there."""
    if module.partition(".")[0] != PUBLIC or not (hiding := hider()):
        return ""
    return f" {PUBLIC!r} is {hiding} here, not grpo-credit's: use grpo_credit.{module}."


def _folder() -> Path:
    here = Path(__file__).parent
    shipped = here / f"_{PUBLIC}"
    return shipped if shipped.is_dir() else here.parent / PUBLIC


def _same(folder: Path, own: Path) -> bool:
    names = [path.name for path in own.glob("*.py")]
    return folder == own or filecmp.cmpfiles(folder, own, names, shallow=False)[0] == names


def _own_copy(name: str) -> ModuleType:
    folder = str(_folder())
    spec = spec_from_file_location(
        name, f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package; install grpo-credit again.")
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _alias(name: str) -> ModuleType:
    module = importlib.import_module(PUBLIC)
    # what is loaded need not be found: the import would put modules in place of functions
    loaded = {n: m for n, m in sys.modules.items() if n.startswith(f"{PUBLIC}.")}
    sys.modules.update({name + n.removeprefix(PUBLIC): m for n, m in loaded.items()})
    sys.meta_path.insert(0, _Alias(f"{name}."))
    return module


class _Alias(MetaPathFinder, Loader):
    """Give the modules of `rewards` a second name, and nothing a second copy."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Answer for the second names."""
        return spec_from_loader(fullname, self) if fullname.startswith(self.prefix) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module of the first name."""
        module = importlib.import_module(f"{PUBLIC}.{spec.name.removeprefix(self.prefix)}")
        spec.loader_state = module.__spec__  # which the import is about to replace
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it was."""
        module.__spec__ = module.__spec__ and module.__spec__.loader_state
