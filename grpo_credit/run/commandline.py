"""A recipe's command line: a short help without heavy imports, and mistakes told in one line."""

import argparse
import dataclasses
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from grpo_credit.errors import TRACEBACK, in_one_line, named_line, place
from grpo_credit.run.files import read_yaml
from grpo_credit.suggest import did_you_mean
from grpo_credit.userfile import refuse_code_of

MISTAKES = (ValueError, OSError, ImportError, SyntaxError)


def short_help(prog: str, description: str, *options: Any) -> str:
    """Render the options of plain dataclasses, such as a recipe's own.

    Args:
        prog: name of the script.
        description: what it does, and examples.
        *options: dataclasses whose fields have `metadata["help"]`.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        usage=f"{prog} [--config FILE.yaml] [options]",
        epilog="Every option of TRL's GRPOConfig and ModelConfig works too: --help-all lists them.",
    )
    group = parser.add_argument_group("options")
    for kind in options:
        for field in dataclasses.fields(kind):
            default = (
                f" (default: {field.default})" if field.default not in (None, False, "") else ""
            )
            text = (field.metadata["help"] + default).replace("%", "%%")
            group.add_argument(f"--{field.name}", help=text, metavar=field.name.upper())
    return parser.format_help()


@contextmanager
def mistakes_in_one_line(
    prog: str, arguments: Sequence[str] = (), script: str = ""
) -> Generator[None, None, None]:
    """Turn what a user got wrong into one line on stderr and exit code 2.

    To be put around parsing and checking only: in training, an error is no mistake of the command
    line and keeps its traceback.

    Args:
        prog: what was started.
        arguments: its command line; with --traceback the error passes.
        script: file of a recipe, whose own `raise` is meant for its user.
    """
    try:
        yield
    except MISTAKES as error:
        if wants_traceback(arguments):
            reveal(error)
            raise
        if "torch" not in sys.modules or _is_main():  # else there are no ranks yet
            print(f"{prog}: error: {in_one_line(error, script)}", file=sys.stderr)
        raise SystemExit(2) from None


def wants_traceback(arguments: Sequence[str]) -> bool:
    """Whether a command line has --traceback."""
    return TRACEBACK in arguments


def reveal(error: BaseException | None) -> None:
    """Let a traceback show what an error was made of: `raise ... from None` hides that."""
    while error is not None:
        error.__suppress_context__ = False
        error = error.__cause__ or error.__context__


def _is_main() -> bool:
    from grpo_credit.run.ranks import is_main

    return is_main()


def parse(parser: Any, arguments: Sequence[str], defaults: Mapping[str, Any]) -> tuple[Any, ...]:
    """Parse a command line and its YAML file; what nothing reads is a mistake.

    Args:
        parser: a `trl.TrlParser`.
        arguments: the command line, without the program.
        defaults: values that take the place of the dataclasses' own; below YAML and flags.

    Returns:
        One dataclass instance per type of the parser.

    Raises:
        ValueError: an unknown option or YAML key (with a suggestion), or a value of a wrong type.
    """
    parser.error = _raise
    parser.allow_abbrev = False  # `names_option` could not tell what an abbreviation stands for
    parser.set_defaults(**defaults)
    _take_bare_switches(parser)
    words = [part for word in arguments for part in _split_config(word)]
    if words[-1:] == ["--config"]:
        raise ValueError("--config needs a YAML file.")
    if (file := _config_of(words)) is not None:
        _check_config(parser, file, arguments)
    try:
        *parsed, from_yaml, from_flags = parser.parse_args_and_config(
            words, return_remaining_strings=True, separate_remaining_strings=True
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        whose = file or "the command line"
        raise ValueError(
            f"an option in {whose} has a value of the wrong kind or size: {named_line(error)} "
            f"({place(error)})."
        ) from error
    unknown = [(w, "YAML key") for w in from_yaml[::2]] + [(w, "option") for w in from_flags]
    for word, kind in unknown:
        name = word.partition("=")[0].lstrip("-").replace("-", "_")
        hint = did_you_mean(name, [action.dest for action in parser._actions])
        raise ValueError(f"unknown {kind} {name!r}: nothing reads it.{hint}")
    return tuple(parsed)


def _take_bare_switches(parser: Any) -> None:
    """Take `--bf16` for `--bf16=true`: TRL's parser wants a value where the default is None."""
    fields = [field for kind in parser.dataclass_types for field in dataclasses.fields(kind)]
    switches = {field.name for field in fields if field.type == bool | None}  # as it resolved them
    for action in parser._actions:
        if action.dest in switches and action.nargs is None:
            action.nargs, action.const = "?", True


def names_option(arguments: Sequence[str], option: str) -> bool:
    """Whether a command line, or the YAML file that it names, sets an option."""
    return _given(arguments, option) is not None


def switches_on(arguments: Sequence[str], option: str) -> bool:
    """Whether a command line, or the YAML file that it names, sets an option to true."""
    return str(_given(arguments, option)).lower() in ("true", "yes", "t", "y", "1")


def _given(arguments: Sequence[str], option: str) -> Any:
    """Return what an option is set to, True for a bare flag; None where it is not named."""
    words = [part for word in arguments for part in _split_config(word)]
    found = None
    for word, after in zip(words, [*words, "--"][1:], strict=True):
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name.replace("-", "_") == option:
            found = value if equals else True if after.startswith("--") else after
    file = _config_of(words)
    return found if found is not None or file is None else read_yaml(file).get(option)


def _config_of(words: Sequence[str]) -> Path | None:
    return Path(words[words.index("--config") + 1]) if "--config" in words[:-1] else None


def _check_config(parser: Any, file: Path, arguments: Sequence[str]) -> None:
    """Refuse a YAML file that names code, or has a list or a mapping where an option takes none."""
    content = read_yaml(file)
    refuse_code_of(file, content, arguments)
    hints = {n: str(h) for kind in parser.dataclass_types for n, h in get_type_hints(kind).items()}
    for key, value in content.items():
        shape = type(value).__name__
        if shape in ("list", "dict") and shape not in hints.get(key, shape):
            raise ValueError(f"{key} in {file} is a {shape}, expected {hints[key]}.")


def _split_config(word: str) -> list[str]:
    """TRL's parser knows `--config FILE` but not `--config=FILE`."""
    return word.split("=", 1) if word.startswith("--config=") else [word]


def _raise(message: str) -> NoReturn:
    raise ValueError(message)
