"""A command line as TRL reads it: the script's options, TRL's, and a YAML file of both."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from grpo_credit.credit.userfile import refuse_code_of
from grpo_credit.errors import named_line, place
from grpo_credit.records.files import read_yaml
from grpo_credit.text import did_you_mean

Given = Mapping[str, Any]  # the options that are named, on the command line or in YAML
_NOT_GIVEN = object()


def parse(
    kinds: tuple[type[Any], type[Any]],
    prog: str,
    arguments: Sequence[str],
    defaults: Callable[[Given], Mapping[str, Any]],
) -> tuple[Any, Any, ModelConfig, Given]:
    """Parse a command line and its YAML file; what nothing reads is a mistake.

    Args:
        kinds: dataclass of the script's own options, and `CreditGRPOConfig` or `CreditSFTConfig`.
        prog: name of the script.
        arguments: the command line, without the program; --help-all prints every option and exits.
        defaults: of what is given, returns values that take the place of the dataclasses' own.

    Returns:
        The script's options, the configuration, TRL's `ModelConfig`, and what was given.

    Raises:
        ValueError: an unknown option or YAML key (with a suggestion), or a value of a wrong type.
    """
    every: Any = (*kinds, ModelConfig)
    parser = _Parser(every, prog=prog, allow_abbrev=False)  # a default may hang on the whole name
    if "--help-all" in arguments:
        parser.print_help()
        raise SystemExit(0)
    words = [part for word in arguments for part in _split_config(word)]
    if words[-1:] == ["--config"]:
        raise ValueError("--config needs a YAML file.")
    file = Path(words[words.index("--config") + 1]) if "--config" in words else None
    names = [field.name for kind in every for field in dataclasses.fields(kind)]
    unset = argparse.Namespace(**dict.fromkeys(names, _NOT_GIVEN))
    named = vars(parser.parse_known_args(words, unset)[0])
    given = _read_config(file, every, arguments) if file else {}
    given |= {name: value for name, value in named.items() if value is not _NOT_GIVEN}
    parser.set_defaults(**defaults(given))
    try:
        parsed: Any = parser.parse_args_and_config(
            words, return_remaining_strings=True, separate_remaining_strings=True
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        whose = file or "the command line"
        raise ValueError(
            f"an option in {whose} has a value of the wrong kind or size: {named_line(error)} "
            f"({place(error)})."
        ) from error
    script, args, model_args, from_yaml, from_flags = parsed
    unknown = [(w, "YAML key") for w in from_yaml[::2]] + [(w, "option") for w in from_flags]
    for word, what in unknown:
        name = word.partition("=")[0].lstrip("-").replace("-", "_")
        raise ValueError(f"unknown {what} {name!r}: nothing reads it.{did_you_mean(name, names)}")
    return script, args, model_args, given


class _Parser(TrlParser):
    """TRL's parser, whose mistakes are errors and whose every switch may stand bare."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Take `--bf16` for `--bf16=true`: TRL's parser wants a value where the default is None."""
        if getattr(options.get("type"), "__name__", "") == "string_to_bool":
            options = {"nargs": "?", "const": True, **options}
        return super().add_argument(*names, **options)


def adapters(model_args: ModelConfig) -> dict[str, Any]:
    """Return what `ModelConfig` says of LoRA and quantization, as arguments of a trainer."""
    return {
        "peft_config": get_peft_config(model_args),
        "quantization_config": get_quantization_config(model_args),
    }


def _read_config(
    file: Path, kinds: Sequence[type[Any]], arguments: Sequence[str]
) -> dict[str, Any]:
    """Read a YAML file; refuse one that names code, or has a value of a shape an option takes not.

    Words are left to the parser, and so is what no option has the name of.
    """
    content = read_yaml(file)
    refuse_code_of(file, content, arguments)
    hints = {name: str(hint) for kind in kinds for name, hint in get_type_hints(kind).items()}
    for key, value in content.items():
        shape, hint = type(value).__name__, hints.get(key, "")
        takes_number = "int" in hint or "float" in hint
        wrong = shape in ("list", "dict") or (shape == "bool" and takes_number)
        if wrong and hint and shape not in hint:
            raise ValueError(f"{key} in {file} is a {shape}, expected {hint}.")
    return content


def _split_config(word: str) -> list[str]:
    """TRL's parser knows `--config FILE` but not `--config=FILE`."""
    return word.split("=", 1) if word.startswith("--config=") else [word]
