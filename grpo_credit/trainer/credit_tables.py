"""The credit that a step was trained on, token by token, in less than two bytes a token.

A file has a row for each completion. Token ids and credit are flat lists, split into planes of
bytes before they are compressed; the text of each id stands once, in the file's metadata.
"""

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from torch import Tensor

from grpo_credit.records.files import parse_json
from grpo_credit.records.tables import read_table
from grpo_credit.trainer.storable import storable
from grpo_credit.trainer.window import Window

EXACT = 16  # values of credit in a completion that are kept as they are
BITS = 3  # of the mantissa, where there are more: an error of at most 1/16
_KEY = b"grpo_credit"
_LARGEST = 100_000_000  # bytes of all texts: more would be no vocabulary
_SPLIT = ("token_ids", "credit")


def save_credit(
    path: Path, window: Window, credit: Float[Tensor, "B T"], tokenizer: Any, step: int
) -> None:
    """Write the credit that an optimizer step was trained on, one completion a row.

    Columns: step, row (in the generation batches, all ranks), times (used in this step), group,
    prompt, reward, advantage (before credit), and per token up to the last counted one: token_ids,
    counted, credit. `load_credit` adds the tokens' texts.

    The credit of a completion with up to `EXACT` different values is exact; otherwise each value is
    rounded to `BITS` bits after the leading one, a relative error of at most 2^-(BITS + 1).
    """
    rollouts = window.rollouts
    rows = (rollouts.window_count > 0).nonzero().flatten()
    mask = rollouts.mask[rows].cpu()
    kept = mask.flip(1).cumsum(dim=1).flip(1) > 0
    ids = rollouts.completion_ids[rows].cpu()[kept].int()
    lengths = kept.sum(dim=1).numpy()
    texts = {i: tokenizer.decode([i]) for i in ids.unique().tolist()}
    exact = credit[rows].detach().float().cpu()[kept].numpy()
    table = pa.table(
        {
            "step": [step] * len(rows),
            "row": rows.cpu().numpy(),
            "times": rollouts.window_count[rows].cpu().numpy(),
            "group": rollouts.group[rows].cpu().numpy(),
            "prompt": storable([window.prompts[row] for row in rows.tolist()]),
            "reward": rollouts.rewards[rows].float().cpu().numpy(),
            "advantage": rollouts.advantages[rows].float().cpu().numpy(),
            "token_ids": _lists(ids.numpy(), lengths),
            "counted": _lists(mask[kept].numpy(), lengths),
            "credit": _lists(_rounded(exact, lengths), lengths),
        }
    )
    packed = base64.b64encode(zlib.compress(json.dumps(texts).encode()))
    with Path(path).open("wb") as file:  # by its name pyarrow opens no path that is not UTF-8
        pq.write_table(
            table.replace_schema_metadata({_KEY: packed}),
            file,
            compression="zstd",
            use_dictionary=["prompt"],
            column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in _SPLIT},
        )


def load_credit(path: Path | str) -> pd.DataFrame:
    """Read a credit table, of earlier versions as well, with `tokens`: the text of each token.

    Example:
        load_credit("out/credit/credit_00020.parquet")[["reward", "tokens", "credit"]]
    """
    table = read_table(Path(path))
    packed = (table.schema.metadata or {}).get(_KEY)
    frame = table.to_pandas(ignore_metadata=True)
    if packed is not None:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(packed), _LARGEST)
        texts = parse_json(unpacked.decode(), f"{path}: its texts")
        frame["tokens"] = [[texts[str(i)] for i in ids.tolist()] for ids in frame["token_ids"]]
    return frame


def _lists(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(
        np.concatenate([[0], lengths.cumsum()]).astype(np.int32), pa.array(values)
    )


def _rounded(credit: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Round the credit of completions with many different values."""
    ends = lengths.cumsum()
    rows = zip(ends - lengths, ends, strict=True)
    many = np.array([len(np.unique(credit[start:end])) > EXACT for start, end in rows], dtype=bool)
    dropped = np.finfo(np.float32).nmant - BITS
    bits = credit.view(np.uint32) + np.uint32(1 << (dropped - 1))
    short = (bits >> np.uint32(dropped) << np.uint32(dropped)).view(np.float32)
    return np.where(np.repeat(many, lengths) & np.isfinite(short), short, credit)
