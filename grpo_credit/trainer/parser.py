"""A command line as TRL reads it: the script's options, TRL's, and a YAML file of both.

Importing it imports neither torch nor trl.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from grpo_credit.credit.userfile import refuse_code_of
from grpo_credit.errors import named_line, place
from grpo_credit.records.files import read_yaml
from grpo_credit.text import did_you_mean


def parse(
    kind: type[Any], prog: str, arguments: Sequence[str], defaults: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """Parse a command line and its YAML file; what nothing reads is a mistake.

    Args:
        kind: dataclass of the script's own options.
        prog: name of the script.
        arguments: the command line, without the program; --help-all prints every option and exits.
        defaults: values that take the place of the dataclasses' own; below YAML and flags.

    Returns:
        The script's options, a `CreditGRPOConfig`, and TRL's `ModelConfig`.

    Raises:
        ValueError: an unknown option or YAML key (with a suggestion), or a value of a wrong type.
    """
    from trl import ModelConfig, TrlParser

    from grpo_credit.trainer.config import CreditGRPOConfig

    kinds: Any = (kind, CreditGRPOConfig, ModelConfig)
    parser: Any = TrlParser(kinds, prog=prog)
    if "--help-all" in arguments:
        parser.print_help()
        raise SystemExit(0)
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
    for word, what in unknown:
        name = word.partition("=")[0].lstrip("-").replace("-", "_")
        hint = did_you_mean(name, [action.dest for action in parser._actions])
        raise ValueError(f"unknown {what} {name!r}: nothing reads it.{hint}")
    script, args, model_args = parsed
    return script, args, model_args


def adapters(model_args: Any) -> dict[str, Any]:
    """Return what `ModelConfig` says of LoRA and quantization, as arguments of a trainer."""
    from trl import get_peft_config, get_quantization_config

    return {
        "peft_config": get_peft_config(model_args),
        "quantization_config": get_quantization_config(model_args),
    }


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
