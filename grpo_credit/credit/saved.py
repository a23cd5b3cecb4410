"""Rollouts of an optimizer step in one parquet file, so that any strategy can be computed later.

One row per completion. A field with a number per row is a column of numbers, a wider one a column
of flat lists; prompts, tokens and texts are JSON, which holds any Python string. What is one for
the whole step stands in the file's metadata, with the version of this layout.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from grpo_credit.credit.rollouts import OPTIONAL, Rollouts
from grpo_credit.credit.strategy import Strategy
from grpo_credit.credit.turns import Turn
from grpo_credit.errors import CreditError, first_line, named_line, place
from grpo_credit.records.files import LARGEST, parse_json, step_of
from grpo_credit.records.shape import HUGE, fit
from grpo_credit.records.tables import DAMAGE, open_table, read_table

VERSION = 1
_KEY = b"grpo_credit"
_TOKENS = "tokens"
_ROWS = 256  # that are read together
_SPAN = "span "  # and the span's name: its column


@dataclass(frozen=True)
class SavedRollouts:
    """What `load_rollouts` returns.

    Args:
        rollouts: whole groups and their window, as they were saved.
        prompts: texts or conversations, one per completion.
        tokens: the text of each token of each completion; a row is read when it is asked for.
        credit: the strategy that the run was trained with, as a user names it.
        options: its options.
        prompt_ids: token ids of each prompt; empty where they were not saved.
        temperature: that the completions were sampled at.
    """

    rollouts: Rollouts
    prompts: list[Any]
    tokens: Sequence[list[str]]
    credit: str
    options: dict[str, Any]
    prompt_ids: list[list[int]] = field(default_factory=list)
    temperature: float = 1.0


def save_rollouts(
    path: Path | str,
    rollouts: Rollouts,
    prompts: Sequence[object],
    tokens: Sequence[Sequence[str]],
    credit: str,
    options: Mapping[str, object] | None = None,
    prompt_ids: Sequence[Sequence[int]] = (),
    temperature: float = 1.0,
) -> None:
    """Write the rollouts of an optimizer step to a file.

    Args:
        path: the file; its directory must be there.
        rollouts: every field is kept, padding included.
        prompts: texts or conversations, one per completion.
        tokens: per completion the text of its tokens, at least up to the last counted one.
        credit: what resolves to the strategy that is trained with (`"even/seq"`).
        options: its options.
        prompt_ids: token ids of each prompt, for what needs the model again.
        temperature: that the completions were sampled at.

    Raises:
        CreditError: if prompts, tokens or prompt_ids do not fit the rollouts.
    """
    _expect_fit(rollouts, prompts, tokens, prompt_ids or prompts)
    about: dict[str, Any] = {"version": VERSION, "credit": credit, "options": dict(options or {})}
    about |= {"tensors": {}, "spans": None, "values": {}, "temperature": temperature}
    columns: dict[str, Any] = {"prompt": _json(prompts), _TOKENS: _json(tokens)}
    if prompt_ids:
        columns["prompt_ids"] = pa.array(prompt_ids, pa.list_(pa.int64()))
    for name, value in ((f.name, getattr(rollouts, f.name)) for f in fields(rollouts)):
        if isinstance(value, Tensor):
            about["tensors"][name] = {"dtype": str(value.dtype), "shape": list(value.shape[1:])}
            columns[name] = _column(value)
        elif name == "spans" and value is not None:
            about["spans"] = list(value)
            columns |= {_SPAN + span: _column(where) for span, where in value.items()}
        elif name == "texts" and value is not None:
            columns["texts"] = _json(value)
        elif name == "turns" and value is not None:
            columns["turns"] = _json([list(map(asdict, own)) for own in value])
        elif value is not None:
            about["values"][name] = value
    metadata = {_KEY: json.dumps(about, default=repr).encode()}
    table = pa.table(columns).replace_schema_metadata(metadata)
    with Path(path).open("wb") as file:  # by its name pyarrow opens no path that is not UTF-8
        pq.write_table(table, file, row_group_size=_ROWS, compression="zstd")


def load_rollouts(path: Path | str) -> SavedRollouts:
    """Read what `save_rollouts` wrote.

    Raises:
        CreditError: if the file is damaged, of another kind, or of another version; of tokens that
            do not fit their completion, when they are asked for.
        OSError: if there is no such file.

    Example:
        saved = load_rollouts("out/rollouts/rollouts_00020.parquet")
        compute_credit("loo+decided/seq", saved.rollouts)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        tokens = _Tokens(path)
        table = read_table(path, [name for name in tokens.names if name != _TOKENS])
        text = (table.schema.metadata or {}).get(_KEY, b"{}")
        about = parse_json(text[:LARGEST].decode(), f"{path}: its metadata")
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CreditError(
            f"{path} is no whole parquet file ({first_line(error)}); expected one by save_rollouts."
        ) from None
    version = about.get("version") if isinstance(about, dict) else None
    if version != VERSION:
        raise CreditError(
            f"{path} has version {version} of the rollouts' layout, expected "
            f"{VERSION}; read it with the grpo-credit that wrote it."
        )
    with _naming_damage(path):
        return _restored(table, about, tokens)


@contextmanager
def _naming_damage(path: Path) -> Generator[None]:
    try:
        yield
    except DAMAGE as error:
        raise CreditError(
            f"{path} is damaged ({named_line(error)}); expected a file by save_rollouts."
        ) from None


def find_rollouts(run: Path, step: int | None = None) -> Path:
    """Return the file of a step, the last one if none is named, in a run directory.

    Raises:
        CreditError: if there is none, with those there are.
    """
    folder = run / "rollouts"
    files = {step_of(path): path for path in folder.glob("rollouts_*.parquet")}
    files.pop(-1, None)
    if not files:
        raise CreditError(
            f"{folder} holds no rollouts_<step>.parquet; expected the directory of a run that kept "
            "them: train with --save_rollouts=N."
        )
    step = max(files) if step is None else step
    if step not in files:
        listed = ", ".join(map(str, sorted(files)))
        raise CreditError(f"no rollouts of step {step} in {folder}; there are {listed}.")
    return files[step]


class _Tokens(Sequence[list[str]]):
    """The texts of a file's tokens: millions, of which few are looked at."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self.needed, self.columns = path, path.absolute(), [0], 0
        with open_table(path) as file:
            self.names = file.schema_arrow.names
            groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        self._ends = list(accumulate(groups, initial=0))
        self._read: tuple[int, pa.ChunkedArray] = (-1, pa.chunked_array([], pa.string()))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        row = range(len(self))[row]
        group = bisect_right(self._ends, row) - 1
        with _naming_damage(self._path):
            if self._read[0] != group:
                self._read = group, read_table(self._place, [_TOKENS], group)[_TOKENS]
            text = self._read[1][row - self._ends[group]].as_py()
            texts = fit(list[str], parse_json(text, _TOKENS), f"{_TOKENS}[{row}]")
            _expect_texts(row, texts, self.needed[row], self.columns)
        return texts


_VALUES = {"reward_names": tuple[str, ...], "reward_weights": tuple[float, ...],
           "scale_rewards": str, "max_completion_length": int}  # fmt: skip
_ABOUT = {
    "credit": str, "options": dict[str, Any], "tensors": dict[str, Any], "temperature": float,
    "spans": list[str] | None, "values": _VALUES,
}  # fmt: skip
_BOOLS = frozenset({"mask", "truncated"})
_INTS = frozenset({"completion_ids", "group", "window_count", "generation", "decided", "states",
                   "offsets"})  # fmt: skip
_DTYPES = {str(kind): kind for kind in (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bfloat16,
    torch.float16, torch.float32, torch.float64,
)}  # fmt: skip


def _restored(table: pa.Table, about: dict[str, Any], tokens: _Tokens) -> SavedRollouts:
    about = fit(_ABOUT, about, "metadata")
    values: dict[str, Any] = dict(about["values"])
    for name, form in about["tensors"].items():
        values[name] = _tensor(table, name, *_form(name, form))
    if about["spans"] is not None:
        _, shape = _form("mask", about["tensors"]["mask"])
        values["spans"] = {
            name: _tensor(table, _SPAN + name, torch.bool, shape) for name in about["spans"]
        }
    if "texts" in table.column_names:
        values["texts"] = tuple(_parsed(table, "texts", str))
    if "turns" in table.column_names:
        values["turns"] = tuple(_parsed(table, "turns", tuple[Turn, ...]))
    rollouts, prompts = Rollouts(**values), _parsed(table, "prompt", Any)
    tokens.needed, tokens.columns = _needed(rollouts), rollouts.mask.size(1)
    if _TOKENS not in tokens.names:
        raise KeyError(_TOKENS)
    given = "prompt_ids" in table.column_names
    ids = fit(list[list[int]], table["prompt_ids"].to_pylist() if given else [], "prompt_ids")
    if not about["temperature"] > 0:
        raise ValueError(f"temperature is {about['temperature']}, expected more than 0")
    return SavedRollouts(
        rollouts, prompts, tokens, about["credit"], about["options"], ids, about["temperature"]
    )


def _form(name: str, form: object) -> tuple[torch.dtype, list[int]]:
    """Return the type and the shape of a row, if a field of this name has such a type."""
    form = fit({"dtype": str, "shape": list[int]}, form, f"tensors.{name}")
    dtype = _DTYPES[form["dtype"]]
    kind = "bool" if name in _BOOLS else "int" if name in _INTS else "float"
    is_kind = {
        "bool": dtype is torch.bool,
        "int": not (dtype.is_floating_point or dtype is torch.bool),
        "float": dtype.is_floating_point,
    }
    if not is_kind[kind] or any(size < 0 for size in form["shape"]):
        raise TypeError(f"{name} is of {form['dtype']} {form['shape']}, expected {kind}s")
    return dtype, form["shape"]


def _expect_fit(
    rollouts: Rollouts,
    prompts: Sequence[object],
    tokens: Sequence[Sequence[str]],
    prompt_ids: Sequence[object],
) -> None:
    rows = len(rollouts.mask)
    if not len(prompts) == len(tokens) == len(prompt_ids) == rows:
        raise CreditError(
            f"got {len(prompts)} prompts, {len(prompt_ids)} of them as token ids, and the tokens "
            f"of {len(tokens)} completions; expected {rows} each."
        )
    for row, (needed, texts) in enumerate(zip(_needed(rollouts), tokens, strict=True)):
        _expect_texts(row, texts, needed, rollouts.mask.size(1))


def _needed(rollouts: Rollouts) -> list[int]:
    """Return how many tokens each completion has up to the last counted one."""
    return (rollouts.mask.flip(1).cumsum(dim=1) > 0).sum(dim=1).tolist()


def _expect_texts(row: int, texts: Sequence[str], needed: int, columns: int) -> None:
    if not needed <= len(texts) <= columns:
        raise CreditError(
            f"completion {row} has the text of {len(texts)} tokens; expected {needed} (up to the "
            f"last counted one) to {columns}."
        )


def _column(value: Tensor) -> pa.Array:
    value = value.detach().cpu()
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()  # numpy lacks the first; both fit
    flat = pa.array(value.reshape(-1).numpy())
    if value.dim() == 1:
        return flat
    width = value[0].numel() if len(value) else 0
    return pa.ListArray.from_arrays(
        pa.array([width * row for row in range(len(value) + 1)], pa.int32()), flat
    )


def _tensor(table: pa.Table, name: str, dtype: torch.dtype, shape: list[int]) -> Tensor:
    column = table[name].combine_chunks()
    rows = len(column)
    if shape:
        if set(column.value_lengths().to_pylist()) - {math.prod(shape)}:
            raise ValueError(f"{name} has rows that are not of the shape {shape}")
        column = column.flatten()
    if column.null_count:
        raise ValueError(f"{name} has holes")
    values = torch.tensor(column.to_numpy(zero_copy_only=False))
    if dtype.is_floating_point and (huge := values[values.isfinite()].abs() > HUGE).any():
        raise ValueError(f"{name} has {int(huge.sum())} numbers beyond {HUGE:g}")
    return values.reshape(rows, *shape).to(dtype)


def _json(values: Sequence[object]) -> list[str]:
    return [json.dumps(value, default=repr) for value in values]


def _parsed(table: pa.Table, name: str, kind: Any) -> list[Any]:
    texts = enumerate(table[name].to_pylist())
    return [fit(kind, parse_json(text, name), f"{name}[{row}]") for row, text in texts]


def credit_of(name: str, strategy: Strategy, saved: SavedRollouts, path: Path | str) -> Tensor:
    """Compute the credit `(B, T)` of saved rollouts under a strategy.

    Args:
        name: as the user named it.
        strategy: what it resolves to, such as `resolve_text` gives.
        saved: the rollouts.
        path: where they come from, for the message.

    Raises:
        CreditError: if the strategy needs a field that was not saved, or fails on what was.
    """
    for need in sorted(strategy.needs):
        if any(getattr(saved.rollouts, field) is None for field in OPTIONAL[need]):
            raise CreditError(
                f"{name!r} needs rollouts.{need}, which {path} does not hold. It would if the "
                "run's own strategy needed it; a share of 0 will do: --credit=even@1,RULE@0."
            )
    try:
        return strategy.credit(saved.rollouts)
    except CreditError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CreditError(
            f"{name!r} cannot be computed on {path}: {named_line(error)} ({place(error)})"
        ) from error
