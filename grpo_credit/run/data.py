"""Prompts to train and to test on."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from grpo_credit.records.files import decoded, parse_json
from grpo_credit.run.options import DataArguments, SupervisedArguments

READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
HELD_OUT = 0  # the seed of which rows are tested on; not the run's, so that runs can be compared
NAMED = 5  # how many of the rows at fault a message names
Columns = Mapping[str, Callable[[Any], bool]]  # column -> whether one of its values is empty


def is_blank(value: Any) -> bool:
    """Return whether a value of a column says nothing.

    That is None, NaN, a text of whitespace, an empty list, or a conversation without a word of the
    user's (where there is no user, without a word).
    """
    if isinstance(value, Mapping):  # a message, or a part of one, such as an image
        return "content" in value and is_blank(value["content"])
    if isinstance(value, list):
        messages = [each for each in value if isinstance(each, Mapping)]
        of_user = [message for message in messages if message.get("role") == "user"]
        return all(map(is_blank, of_user or value))
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


PROMPT: Columns = {"prompt": is_blank}
DOCUMENTS: Sequence[Columns] = (  # as TRL knows documents
    {"messages": is_blank},
    {"prompt": is_blank, "completion": is_blank},
    {"text": is_blank},
)


def load_documents(asked: SupervisedArguments) -> tuple[Any, list[dict[str, Any]]]:
    """Load documents, and some of them to test on; see `load_prompts`.

    Raises:
        ValueError: if there are none of the columns that TRL reads, or as `load_prompts` does.
    """
    name, split = asked.dataset_name or "", asked.dataset_train_split
    there = load_split(name, asked.dataset_config, split).column_names
    for columns in DOCUMENTS:
        if set(columns) <= set(there):
            return load_prompts(asked, columns)
    raise ValueError(
        f"{name} has the columns {', '.join(there)}; expected 'text', 'messages', or 'prompt' and "
        "'completion'. Rename them."
    )


def load_prompts(
    asked: DataArguments | SupervisedArguments, columns: Columns = PROMPT
) -> tuple[Any, list[dict[str, Any]]]:
    """Load a data set, and some of it to test on.

    The rows to test on are drawn at random, the same ones in every run, whatever its seed, each
    with a question of its own (a question is what the first of the columns holds). None of these
    questions is trained on: where the train split has it, a row of the test split is not drawn;
    where rows are held out of the train split, at most a fifth of its questions, all that ask the
    same leave it.

    Args:
        asked: what is to be read. `dataset_name` is a folder written by `save_to_disk`, a .jsonl,
            .parquet or .csv file, or whatever `datasets.load_dataset` takes.
        columns: that every row must have, and when a value of one is empty; the question first.

    Raises:
        ValueError: if a split or a column is missing, with those there are; if rows are empty in a
            column, with their number and the first of them; if the file cannot be read, or has too
            few rows or questions.
    """
    name, held_out = asked.dataset_name or "", asked.test_prompts
    train_split, test_split = asked.dataset_train_split, asked.dataset_test_split
    splits = _splits(name, asked.dataset_config)
    train, question = _split(splits, train_split, name), next(iter(columns))
    require_columns(train, columns, name)
    if test_split not in splits or test_split == train_split:
        return _hold_out(train, question, held_out, name)
    require_columns(splits[test_split], columns, f"{name}[{test_split}]")
    return train, _unseen(splits[test_split], train, question, held_out, f"{name}[{test_split}]")


def load_split(name: str, config: str | None, split: str) -> Dataset:
    """Load a split of what `--dataset_name` names.

    Raises:
        ValueError: if it is not there, with those that are, or cannot be read.
    """
    return _split(_splits(name, config), split, name)


def _split(splits: Mapping[Any, Any], split: str, name: str) -> Dataset:
    if split not in splits:
        raise ValueError(f"{name} has no split {split!r}; it has: {', '.join(splits)}.")
    return splits[split]


def _hold_out(train: Dataset, question: str, count: int, name: str) -> tuple[Dataset, list[Any]]:
    """Part a split into what is trained on and what is tested on."""
    questions = _first_rows(train, question)
    if len(questions) < 2:
        raise ValueError(
            f"{name} has {len(train)} rows with {len(questions)} different values of {question!r}, "
            "expected 2 or more: to train and to test."
        )
    drawn = _drawn(questions, min(count, len(questions) // 5) or 1)
    left = [row for row, value in enumerate(train[question]) if str(value) not in drawn]
    return train.select(left), [train[row] for row in drawn.values()]


def _unseen(
    test: Dataset, train: Dataset, question: str, count: int, name: str
) -> list[dict[str, Any]]:
    """Draw rows of a test split whose questions are not trained on."""
    seen = _first_rows(train, question)
    new = {value: row for value, row in _first_rows(test, question).items() if value not in seen}
    if len(test) and not new:
        raise ValueError(
            f"every {question!r} of {name} is one to train on, too; name a split with others "
            "(--dataset_test_split)."
        )
    return [test[row] for row in _drawn(new, min(count, len(new))).values()]


def _first_rows(data: Dataset, question: str) -> dict[str, int]:
    """Map each question to the first row that asks it."""
    rows: dict[str, int] = {}
    for row, value in enumerate(data[question]):
        rows.setdefault(str(value), row)
    return rows


def _drawn(rows: Mapping[str, int], count: int) -> dict[str, int]:
    return dict(random.Random(HELD_OUT).sample(list(rows.items()), count))


def require_columns(data: Dataset, columns: Columns, name: str) -> None:
    """Raise ValueError if a column is missing, with those there are, or empty in some rows."""
    there = data.column_names or []
    for column in columns:
        if column not in there:
            raise ValueError(f"{name} has no column {column!r}; it has: {', '.join(there)}.")
    for column, is_empty in columns.items():
        if empty := [row for row, value in enumerate(data[column]) if is_empty(value)]:
            raise ValueError(
                f"{name} has {len(empty)} of {len(data)} rows without {column!r}: "
                f"{_first_of(empty)} (the first row is 0). Fill them in, or leave these rows out."
            )


def _first_of(rows: Sequence[int]) -> str:
    more = [] if len(rows) <= NAMED else ["…"]
    return ", ".join([*map(str, rows[:NAMED]), *more])


def check_prompts(train: Any, test: Sequence[Mapping[str, Any]]) -> None:
    """Refuse data that are empty, or whose prompts are neither all texts nor all conversations.

    Raises:
        ValueError: with what a prompt is.
    """
    if hasattr(train, "__len__") and not len(train):
        raise ValueError("there are no prompts to train on; the data are empty.")
    if not test:
        raise ValueError("there are no prompts to test on; the test data are empty.")
    for row in [*([train[0]] if hasattr(train, "__len__") else []), *test]:
        if not isinstance(row["prompt"], str | list) or not row["prompt"]:
            raise ValueError(
                f"a prompt is {row['prompt']!r:.80}, expected a text or a list of messages."
            )
    kind = type(test[0]["prompt"])
    for prompt in [*_of_any_type(train), *(row["prompt"] for row in test)]:
        if type(prompt) is not kind:
            raise ValueError(
                f"some prompts are texts and some are conversations, such as {prompt!r:.80}; TRL "
                "treats all as the first one is. Make them alike."
            )


def _of_any_type(train: Any) -> Sequence[Any]:
    """Return the prompts of a column whose rows may differ in type; files of JSON make some."""
    kind = (getattr(train, "features", None) or {}).get("prompt")
    return train["prompt"] if type(kind).__name__ == "Json" else []  # not in every version


def _splits(name: str, config: str | None) -> Mapping[Any, Any]:
    disable_progress_bars()  # of reading a file; a recipe shows one live line
    path = Path(name)
    try:
        loaded = _read_file(path) if path.is_file() else _read_named(name, config)
    except DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{name} cannot be read: {reason:.300}") from None
    return loaded if isinstance(loaded, DatasetDict) else {"train": loaded}


def _read_named(name: str, config: str | None) -> Any:
    path = Path(name)
    saved = path.is_dir() and any(path.glob("dataset_dict.json")) + any(path.glob("state.json"))
    try:
        return load_from_disk(name) if saved else load_dataset(name, config)
    except ValueError as error:  # no such configuration, or none named where there are several
        raise ValueError(f"{error} (--dataset_name {name}, --dataset_config)") from None
    except OSError as error:
        if path.exists():
            raise
        raise ValueError(
            f"there is no file or folder {name!r} (--dataset_name), and no data set of that name "
            f"was found elsewhere: {error}"
        ) from None


def _read_file(path: Path) -> Any:
    if path.suffix not in READERS:
        raise ValueError(f"{path} is no file of prompts; expected one of {', '.join(READERS)}.")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty; expected rows of prompts.")
    if path.suffix != ".parquet":
        _each_line(path, decoded)  # arrow takes any bytes, and fails when a value is used
    try:
        return load_dataset(READERS[path.suffix], data_files=str(path))
    except (DatasetGenerationError, ValueError):
        if path.suffix == ".jsonl":
            _each_line(path, lambda line, where: parse_json(decoded(line, where), where))
        raise


def _each_line(path: Path, expect: Callable[[bytes, str], Any]) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            expect(line, f"{path}:{number}")
