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

from grpo_credit.run.recipe import DataArguments

READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def load_prompts(
    asked: DataArguments, seed: int, columns: Sequence[str] = ("prompt",)
) -> tuple[Any, list[dict[str, Any]]]:
    """Load a data set, and some of it to test on.

    Args:
        asked: what is to be read. `dataset_name` is a folder written by `save_to_disk`, a .jsonl,
            .parquet or .csv file, or whatever `datasets.load_dataset` takes. Where there is no
            split `dataset_test_split`, rows are held out from the train split: at most
            `test_prompts`, and never more than a fifth of the data.
        seed: of the choice of the held-out rows.
        columns: that every row must have.

    Returns:
        The train data, and rows to test on.

    Raises:
        ValueError: if a split or a column is missing; with those there are.
    """
    name, held_out = asked.dataset_name or "", asked.test_prompts
    train_split, test_split = asked.dataset_train_split, asked.dataset_test_split
    splits = _splits(name, asked.dataset_config)
    if train_split not in splits:
        raise ValueError(f"{name} has no split {train_split!r}; it has: {', '.join(splits)}.")
    train = splits[train_split]
    require_columns(train, columns, name)
    if test_split in splits:
        test = splits[test_split]
        require_columns(test, columns, f"{name}[{test_split}]")
        return train, [test[i] for i in range(min(held_out, len(test)))]
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


def _splits(name: str, config: str | None) -> Mapping[Any, Any]:
    disable_progress_bars()  # of reading a file; a recipe shows one live line
    path = Path(name)
    if path.is_file():
        if path.suffix not in READERS:
            raise ValueError(f"{name} is no file of prompts; expected one of {', '.join(READERS)}.")
        return load_dataset(READERS[path.suffix], data_files=str(path))
    saved = path.is_dir() and any(path.glob("dataset_dict.json")) + any(path.glob("state.json"))
    found = load_from_disk(name) if saved else load_dataset(name, config)
    return found if isinstance(found, DatasetDict) else {"train": found}
