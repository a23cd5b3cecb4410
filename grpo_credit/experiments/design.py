"""What a study consists of, and study.json, which says it."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from grpo_credit.errors import CreditError
from grpo_credit.records.files import read_json, read_object, replace_text
from grpo_credit.records.provenance import describe_command, git_state, now
from grpo_credit.records.shape import fit

STUDY = "study.json"
SCHEMA = 1
SMALLEST = 2  # seeds: with one, a difference between strategies cannot be told from luck
WARM_START = "warm_start_seed"
OWNED = ("seed", "output_dir", "resume", "credit", "credit_kwargs")


@dataclass(frozen=True)
class Study:
    """Strategies × seeds of one recipe.

    Args:
        recipe: path of the script, as it was typed.
        credits: strategies, each a name or 'NAME {"option": value}'.
        seeds: of every strategy.
        options: more options of the recipe, the same for every cell.
        baseline: what the others are compared with; the first strategy by default.
        metric: the held-out number that decides; None for the one the recipe names.
        higher_is_better: which way the metric points.
        command: that runs the study again, as study.json has it.
        own_warm_starts: whether every seed begins with a tiny model of its own.

    Raises:
        CreditError: fewer than two seeds, no strategy, a strategy or seed named twice, a baseline
            that is not among the strategies, an option that the study sets itself.

    Example:
        >>> Study("recipes/grpo_regex.py", ("seq", "dapo"), (0, 1)).baseline
        'seq'
    """

    recipe: str
    credits: tuple[str, ...]
    seeds: tuple[int, ...]
    options: tuple[str, ...] = ()
    baseline: str = ""
    metric: str | None = None
    higher_is_better: bool = True
    command: str = ""
    own_warm_starts: bool = False

    def __post_init__(self) -> None:
        if not self.credits:
            raise CreditError("no strategy to study; name some: --credit uniform length seq dapo.")
        if not self.baseline:
            object.__setattr__(self, "baseline", self.credits[0])
        if odd := [credit for credit in self.credits if not credit.isprintable()]:
            raise CreditError(f"{odd[0]!r} is the name of no strategy.")
        _refuse_twice("strategy", [slug(credit) for credit in self.credits], self.credits)
        _refuse_twice("seed", self.seeds, self.seeds)
        if len(self.seeds) < SMALLEST:
            raise CreditError(
                f"{len(self.seeds)} seed: a study needs at least {SMALLEST}, since one cannot tell "
                "a strategy from luck; 6 can show a difference. --seeds 6 means 0 to 5."
            )
        if self.baseline not in self.credits:
            raise CreditError(
                f"the baseline {self.baseline!r} is none of the strategies: "
                f"{', '.join(self.credits)}."
            )
        _refuse_owned(self.options)
        named = {word.partition("=")[0].replace("-", "_") for word in self.options}
        if self.own_warm_starts and f"__{WARM_START}" in named:
            raise CreditError(
                f"--{WARM_START} is set for each seed by --own_warm_starts; drop one."
            )

    def options_of(self, seed: int) -> tuple[str, ...]:
        """Return the recipe's options of a seed's runs, without the seed itself."""
        return (*self.options, *([f"--{WARM_START}={seed}"] if self.own_warm_starts else []))


def _refuse_twice(what: str, keys: Sequence[object], shown: Sequence[object]) -> None:
    for place, key in enumerate(keys):
        if key in keys[:place]:
            raise CreditError(f"the {what} {shown[place]!r} is named twice.")


def _refuse_owned(options: Sequence[str]) -> None:
    instead = {"credit_kwargs": """write --credit 'NAME {"option": value}'""",
               "seed": "use --seeds", "output_dir": "use --out",
               "resume": "the same command goes on with a study"}  # fmt: skip
    for word in options:
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in OWNED:
            advice = instead.get(name, "leave it out")
            raise CreditError(f"--{name} is set by the study for each cell; {advice}.")


def slug(credit: str) -> str:
    """Name the directory of a strategy: readable, and another one for every strategy.

    Example:
        >>> slug("decided/seq"), slug('delta_l {"alpha": 0.5}')
        ('decided-seq', 'delta_l-alpha-0.5-8f709cff')
    """
    if re.fullmatch(r"[A-Za-z_][\w.]*(/[A-Za-z_][\w.]*)?", credit, re.ASCII):
        return credit.replace("/", "-")  # a name holds no "-", so this is another one for each
    readable = re.sub(r"[^A-Za-z0-9_.]+", "-", credit).strip("-.")[:60]
    digest = hashlib.sha256(credit.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable}-{digest[:8]}"


def credit_arguments(credit: str) -> list[str]:
    """Turn a strategy as typed into the options of a recipe.

    Example:
        >>> credit_arguments('delta_l {"alpha": 0.5}')
        ['--credit=delta_l', '--credit_kwargs={"alpha": 0.5}']
    """
    name, brace, options = credit.partition("{")
    return [f"--credit={name.strip()}", *([f"--credit_kwargs={brace}{options}"] if brace else [])]


def read_study(out: Path) -> Study | None:
    """Read study.json of a directory; None if the directory is free.

    Raises:
        ValueError: the directory holds something else, or study.json is damaged, of another schema,
            or of a study that cannot go on.
    """
    path = out / STUDY
    if not path.exists():
        _refuse_other_files(out)
        return None
    content = read_object(path)
    if content.get("match_grad_norm"):
        raise ValueError(
            f"{path} is of a study whose credit was scaled by --match_grad_norm, which is no more; "
            "use another --out."
        )
    try:
        study = load_study(path)
        fit({"started": str, "git": Any}, content, str(path))
    except CreditError as error:
        raise ValueError(f"{error} Use another --out.") from None
    return study


def load_study(path: Path) -> Study:
    """Read a study.json.

    Raises:
        CreditError: if it is damaged or of another schema.
    """
    content = read_object(path)
    if content.get("schema") != SCHEMA:
        raise CreditError(f"{path} has schema {content.get('schema')}, expected {SCHEMA}.")
    younger = {f.name for f in fields(Study) if f.default is not MISSING}  # than some studies
    kinds = {n: k for n, k in get_type_hints(Study).items() if n in content or n not in younger}
    values = fit(kinds, content, str(path))
    return Study(**{name: values[name] for name in kinds})


def _refuse_other_files(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; use another --out.")
    entries = sorted(path.name for path in out.iterdir()) if out.exists() else []
    if others := [name for name in entries if not name.startswith(".")]:
        raise ValueError(f"{out} holds other files ({', '.join(others[:3])}); use another --out.")


def merged(old: Study, new: Study, out: Path) -> Study:
    """Return the study that a directory holds after a command: the same, or a larger one.

    Strategies and seeds may be added, because each cell stands for itself; all else must agree.

    Raises:
        ValueError: with what differs.
    """
    hidden = replace(new, options=without_secrets(new.options), command=old.command)
    grown = {
        name: (*getattr(old, name), *(v for v in getattr(new, name) if v not in getattr(old, name)))
        for name in ("credits", "seeds")
    }
    before, after = asdict(old), asdict(hidden)
    different = [
        f"{key}: {_shown(before[key])} in the study, {_shown(after[key])} now"
        for key in before
        if (set(before[key]) - set(after[key]) if key in grown else before[key] != after[key])
    ]
    if different:
        raise ValueError(
            f"{out} holds another study; {'; '.join(different)}. Repeat its command, with more "
            "strategies or seeds if you like, or use another --out."
        )
    return replace(new, **grown)


def _shown(value: object) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)


def without_secrets(options: Sequence[str]) -> tuple[str, ...]:
    """Return options as they may be kept in a file."""
    return tuple(describe_command(options)["argv"])


def write_study(out: Path, study: Study, command: Sequence[str]) -> None:
    """Write study.json; its "started" and "git" are those of the first command."""
    path = out / STUDY
    if path.exists():
        first = {key: read_json(path)[key] for key in ("started", "git")}
    else:
        first = {"started": now(), "git": git_state(Path(study.recipe))}
    described = {**asdict(study), "options": without_secrets(study.options)}
    content = {
        "schema": SCHEMA,
        **described,
        "command": describe_command(command)["shell"],
        **first,
    }
    out.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(content, indent=2) + "\n")
