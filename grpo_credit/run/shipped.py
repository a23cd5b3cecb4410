"""What comes with the package to be copied: recipes, configurations, and starts of your own.

The verbs `grpo-credit recipes`, `recipe` and `new`.
"""

import argparse
import ast
from pathlib import Path

from rich.table import Table
from rich.text import Text

from grpo_credit.errors import CreditError
from grpo_credit.terminal import console
from grpo_credit.text import did_you_mean

PACKAGE = Path(__file__).parent.parent
STARTS = Path(__file__).parent / "starts"


def files() -> dict[str, Path]:
    """Return what can be copied, by name: recipes first, then what configures them."""
    inside = PACKAGE / "_recipes"  # of a wheel; a clone has them beside the package
    folder = inside if inside.is_dir() else PACKAGE.parent / "recipes"
    kinds = ("*.py", "configs/*.yaml", "accelerate/*.yaml")
    return {path.stem: path for kind in kinds for path in sorted(folder.glob(kind))}


def about(path: Path) -> str:
    """Return the first line of what a recipe or a configuration says of itself."""
    text = path.read_text(encoding="utf-8")
    said = ast.get_docstring(ast.parse(text)) if path.suffix == ".py" else text.lstrip("# ")
    return (said or "").splitlines()[0]


def show_recipes(_: argparse.Namespace) -> int:
    """Print what can be copied, in a line each."""
    table = Table(title="grpo-credit recipe NAME --copy", title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, path in files().items():
        table.add_row(name, Text(about(path)))
    console().print(table)
    return 0


def show_recipe(args: argparse.Namespace) -> int:
    """Print a recipe or a configuration, or copy it into the folder at hand."""
    name, known = args.name.removesuffix(".py").removesuffix(".yaml"), files()
    if name not in known:
        raise CreditError(f"there is no recipe {args.name!r}.{did_you_mean(name, known)}")
    text = known[name].read_text(encoding="utf-8")
    if args.copy:
        return write_new(Path(known[name].name), text)
    print(text, end="")
    return 0


def write_start(args: argparse.Namespace) -> int:
    """Write a commented start of a rule or a recipe, which runs as it is."""
    if args.file.suffix != ".py" or not args.file.stem.isidentifier():
        raise CreditError(
            f"{args.file} cannot be imported by its name; take one such as my_{args.kind}.py."
        )
    text = (STARTS / f"{args.kind}.py").read_text(encoding="utf-8")
    return write_new(args.file, text.replace(f"my_{args.kind}", args.file.stem))


def write_new(path: Path, text: str) -> int:
    """Write a file that is not there yet, and print its path."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CreditError(f"{path} is there already; nothing was written.") from None
    print(f"wrote {path}")
    return 0
