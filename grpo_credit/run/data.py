"""Prompts to train and to test on, and the model that is to read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    disable_progress_bars,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetGenerationError

from grpo_credit.run.recipe import DataArguments

READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def load_prompts(
    asked: DataArguments, seed: int, columns: Sequence[str] = ("prompt",)
) -> tuple[Any, list[dict[str, Any]]]:
    """Load a data set, and some of it to test on.

    Args:
        asked: what is to be read. `dataset_name` is a folder written by `save_to_disk`, a .jsonl,
            .parquet or .csv file, or whatever `datasets.load_dataset` takes. Where there is no
            split `dataset_test_split`, or it is the train split, rows are held out from that: at
            most `test_prompts`, and never more than a fifth of the data.
        seed: of the choice of the held-out rows.
        columns: that every row must have.

    Returns:
        The train data, and rows to test on.

    Raises:
        ValueError: if a split or a column is missing, with those there are; if the file cannot be
            read, or has too few rows.
    """
    name, held_out = asked.dataset_name or "", asked.test_prompts
    train_split, test_split = asked.dataset_train_split, asked.dataset_test_split
    splits = _splits(name, asked.dataset_config)
    if train_split not in splits:
        raise ValueError(f"{name} has no split {train_split!r}; it has: {', '.join(splits)}.")
    train = splits[train_split]
    require_columns(train, columns, name)
    if test_split in splits and test_split != train_split:
        test = splits[test_split]
        require_columns(test, columns, f"{name}[{test_split}]")
        return train, [test[i] for i in range(min(held_out, len(test)))]
    if len(train) < 2:
        raise ValueError(f"{name} has {len(train)} rows, expected 2 or more: to train and to test.")
    parted = train.train_test_split(test_size=max(1, min(held_out, len(train) // 5)), seed=seed)
    return parted["train"], list(parted["test"])


def require_columns(data: Dataset | IterableDataset, columns: Sequence[str], name: str) -> None:
    """Raise ValueError, with the columns there are, if one is missing."""
    there = data.column_names or []
    for column in columns:
        if column not in there:
            raise ValueError(f"{name} has no column {column!r}; it has: {', '.join(there)}.")


def look_up_model(name: str, prompts: list[Any], **where: Any) -> None:
    """Find a model and its tokenizer before anything is written; no weights are loaded.

    Args:
        name: folder or hub name.
        prompts: some prompts; conversations need a chat template.
        where: `revision`, `trust_remote_code`.

    Raises:
        ValueError: if there is no such model, or it cannot read conversations.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoConfig.from_pretrained(name, **where)
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **where)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"no model or tokenizer {name!r} (--model_name_or_path): {reason}"
        ) from None
    if prompts and isinstance(prompts[0], list) and not tokenizer.chat_template:
        raise ValueError(
            f"the prompts are conversations, but the tokenizer of {name!r} has no chat template; "
            "use an instruction-tuned model, or prompts that are plain text."
        )


def check_prompts(train: Any, test: Sequence[Mapping[str, Any]]) -> None:
    """Refuse data that are empty, or whose prompts are neither texts nor conversations.

    Raises:
        ValueError: with what the first prompt is.
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


def _splits(name: str, config: str | None) -> Mapping[Any, Any]:
    disable_progress_bars()  # of reading a file; a recipe shows one live line
    try:
        found = _read(name, config)
    except DatasetGenerationError as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{name} cannot be read: {reason:.300}") from None
    return found if isinstance(found, DatasetDict) else {"train": found}


def _read(name: str, config: str | None) -> Any:
    path = Path(name)
    if path.is_file():
        if path.suffix not in READERS:
            raise ValueError(f"{name} is no file of prompts; expected one of {', '.join(READERS)}.")
        if not path.stat().st_size:
            raise ValueError(f"{name} is empty; expected rows of prompts.")
        return load_dataset(READERS[path.suffix], data_files=str(path))
    saved = path.is_dir() and any(path.glob("dataset_dict.json")) + any(path.glob("state.json"))
    return load_from_disk(name) if saved else load_dataset(name, config)
