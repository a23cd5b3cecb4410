"""The command line of a study, and the YAML file that may stand for it."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from grpo_credit.credit.userfile import refuse_code_of
from grpo_credit.errors import TRACEBACK, in_one_line
from grpo_credit.experiments.design import Study
from grpo_credit.experiments.study.engines import ENGINES
from grpo_credit.records.files import parse_object, read_yaml, refuse_unwritable
from grpo_credit.text import did_you_mean

MOST_SEEDS = 10_000  # a mistyped seed is no count

ABOUT = """Train one recipe with several credit strategies and seeds, and keep all of it.

    grpo-credit ablate --recipe recipes/grpo_regex.py --credit uniform length seq dapo \\
        --seeds 6 --out reports/regex [options of the recipe]

The same command again goes on where it was stopped, however that was. Strategies and seeds may be
added later. Every other option is the recipe's; after `--` even one that has a name from below."""


@dataclass(frozen=True)
class Request:
    """A study, and how it is to be run.

    Args:
        study: what is run.
        out: its directory.
        engine: name of the engine.
        jobs: how many cells at once; None for what the engine thinks best.
        engine_options: of the engine.
    """

    study: Study
    out: Path
    engine: str = "local"
    jobs: int | None = None
    engine_options: dict[str, Any] = field(default_factory=dict)


def read(arguments: Sequence[str]) -> Request:
    """Read a command line and its YAML file.

    Raises:
        ValueError: what is wrong, in a line.
        OSError: the YAML file cannot be read.
    """
    parser = make_parser()
    before, theirs = _split(arguments)
    args, unknown = parser.parse_known_args(before)
    from_file: list[str] = []
    if args.config is not None:
        words, from_file = _words(Path(args.config), parser, before)
        args, unknown = parser.parse_known_args([*words, *before])
    for name in ("recipe", "credit", "seeds", "out"):
        if getattr(args, name) is None:
            raise ValueError(f"--{name} is missing; --help shows an example.")
    study = Study(
        recipe=args.recipe,
        credits=tuple(" ".join(credit.split()) for credit in args.credit),
        seeds=_seeds(args.seeds),
        options=(*from_file, *unknown, *theirs),
        baseline=args.baseline or "",
        metric=args.metric,
        higher_is_better=not args.lower_is_better,
        own_warm_starts=args.own_warm_starts,
    )
    refuse_unwritable(args.out, "--out")
    if args.jobs is not None and args.jobs < 1:
        raise ValueError(f"--jobs is {args.jobs}, expected at least 1.")
    return Request(
        study,
        Path(args.out),
        args.engine,
        args.jobs,
        parse_object(args.engine_options, "--engine_options"),
    )


def words(request: Request) -> list[str]:
    """Return the command line that asks for the same.

    Example:
        >>> asked = Study("a.py", ("seq",), (0, 1), ("--bf16=false",))
        >>> words(Request(asked, Path("b")))[-4:]
        ['--out=b', '--baseline=seq', '--', '--bf16=false']
    """
    study, seeds = request.study, list(request.study.seeds)
    counted = [len(seeds)] if seeds == [*range(len(seeds))] else seeds
    return [
        "grpo-credit", "ablate", f"--recipe={study.recipe}", "--credit", *study.credits,
        "--seeds", *map(str, counted), f"--out={request.out}", f"--baseline={study.baseline}",
        *([f"--metric={study.metric}"] if study.metric else []),
        *([] if study.higher_is_better else ["--lower_is_better"]),
        *(["--own_warm_starts"] if study.own_warm_starts else []),
        *([f"--engine={request.engine}"] if request.engine != "local" else []),
        *([f"--engine_options={json.dumps(request.engine_options)}"]
          if request.engine_options else []),
        *(["--", *study.options] if study.options else []),
    ]  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """Describe the options."""
    parser = _Parser(
        prog="grpo-credit ablate",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE.yaml", help="all of this from a file, the recipe's options under "
        "'options'; the command line overrides it")  # fmt: skip
    add("--recipe", metavar="FILE.py", help="script that trains")
    add("--credit", nargs="+", metavar="NAME", help="strategies; with options as "
        """'NAME {"alpha": 0.75}'""")  # fmt: skip
    add("--seeds", nargs="+", type=int, metavar="N", help="one number is how many (6: 0 to 5), "
        "several are the seeds themselves")  # fmt: skip
    add("--out", metavar="DIR", help="directory of the study, new or one to go on with")
    add("--baseline", metavar="NAME", help="what the others are compared with (default: the first)")
    add("--metric", metavar="NAME", help="held-out number that decides (default: the recipe's)")
    add("--lower_is_better", action="store_true", help="the metric is a cost")
    add(
        "--own_warm_starts",
        action="store_true",
        help="a tiny model of its own for every seed "
        "(--warm_start_seed=SEED in its runs); otherwise all start from the same weights",
    )
    add("--jobs", type=int, metavar="N", help="cells at once (default: one a GPU, or one a core)")
    add("--engine", choices=sorted(ENGINES), default="local", help="where cells run (default: "
        "local); ray and slurm need the extra of that name")  # fmt: skip
    add("--engine_options", default="{}", metavar="JSON", help="""for ray.remote, or submitit: """
        """'{"timeout_min": 600, "slurm_partition": "gpu"}'""")  # fmt: skip
    add(TRACEBACK, action="store_true", help="show where a mistake was found, too")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(arguments)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _seeds(given: Sequence[int]) -> tuple[int, ...]:
    if len(given) == 1:
        if given[0] < 0:
            raise ValueError(f"--seeds is {given[0]}, expected a count or a list of seeds.")
        if given[0] > MOST_SEEDS:
            raise ValueError(
                f"--seeds is {given[0]}, expected a count up to {MOST_SEEDS:,}; two or more "
                "numbers are the seeds themselves."
            )
        return tuple(range(given[0]))
    return tuple(given)


def _words(
    path: Path, parser: argparse.ArgumentParser, typed: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return a YAML file as words of our command line and of the recipe's."""
    content = read_yaml(path)
    refuse_code_of(path, content, typed)
    for key in ("recipe", "engine_options"):  # a script; and lines of a job's script
        if key in content and not any(word.startswith(f"--{key}") for word in typed):
            raise ValueError(
                f"{path} names the {key} {content[key]!r:.80}, and a file's word runs nothing; if "
                f"you trust it, say it on the command line (--{key})."
            )
    options = content.pop("options", None) or {}
    if not isinstance(options, dict | list):
        raise ValueError(f"options in {path} are {options!r:.60}, expected a mapping or a list.")
    theirs = _flags(options) if isinstance(options, dict) else [str(each) for each in options]
    for option in [*_options(theirs), *([options] if isinstance(options, dict) else [])]:
        refuse_code_of(path, option, typed)
    known = [action.dest for action in parser._actions if action.dest not in ("help", "config")]
    for key in content:
        if key not in known:
            hint = did_you_mean(str(key), [*known, "options"])
            raise ValueError(f"unknown key {key!r} in {path}: nothing reads it.{hint}")
    content = {key: value for key, value in content.items() if value is not False}
    return _flags(content), theirs


def _flags(values: Mapping[str, Any]) -> list[str]:
    """Return a mapping as options: a list as several words, true as the bare flag, null as none.

    False is said: some of a recipe's options are true by default.

    Example:
        >>> _flags({"seeds": [1, 5], "max_steps": 40, "own_warm_starts": True, "jobs": None})
        ['--seeds', '1', '5', '--max_steps', '40', '--own_warm_starts']
        >>> _flags({"gradient_checkpointing": False})
        ['--gradient_checkpointing', 'False']
    """
    words: list[str] = []
    for key, value in values.items():
        if value is None:
            continue
        words.append(f"--{key}")
        if isinstance(value, list):
            words += map(str, value)
        elif value is not True:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return words


def hint_for(options: Sequence[str], message: str) -> str:
    """Suggest an option of the study for one that the recipe refused with a message."""
    known = [action.dest for action in make_parser()._actions]
    names = [word.partition("=")[0][2:] for word in options if word.startswith("--")]
    hints = [did_you_mean(name, known) for name in names if name in message]
    return next(filter(None, hints), "")


def fail(error: Exception) -> int:
    """Print what is wrong in a line on stderr; return the exit code of a mistake."""
    print("grpo-credit ablate: error:", *in_one_line(error).split(), file=sys.stderr)
    return 2


def _options(words: Sequence[str]) -> list[dict[str, Any]]:
    """Return each option of a list of words with its values, be they joined by = or words apart."""
    found: list[dict[str, Any]] = []
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("-") or not found:
            found.append({name.lstrip("-").replace("-", "_"): value if equals else True})
        else:
            [key] = found[-1]
            said = found[-1][key]
            found[-1][key] = word if said is True else f"{said} {word}"
    return found
