"""Measure what a big study, a big step and a long run cost: CPU seconds, peak memory and bytes.

    OMP_NUM_THREADS=1 python scripts/bench_load.py --full --json load.json

Everything is made up in a temporary folder, by default small; `--full` takes minutes and a gigabyte
of disk. Each figure is of a process of its own, imports included, so that its peak memory is its
own; CPU time, because others may share the machine.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

METRIC = "right (sampled)"
NAMES = (
    *("num_tokens", "completions/mean_length", "completions/max_length", "step_time", "reward"),
    *("reward_std", "rewards/right/mean", "rewards/right/std", "entropy", "grad_norm", "loss"),
    *("learning_rate", "credit/mass", "credit/gini", "credit/effective_tokens"),
    *("credit/norm_ratio", "credit/zero_share", *(f"credit/position_{n}" for n in range(1, 11))),
)
SMALL = {"strategies": 4, "seeds": 3, "points": 100, "lines": 20_000, "rows": 128, "tokens": 256}
FULL = {"strategies": 24, "seeds": 12, "points": 1000, "lines": 1_000_000, "rows": 4096,
        "tokens": 2048}  # fmt: skip
Size = dict[str, int]


# ---- what is made up --------------------------------------------------------------------------


def metrics(rng: np.random.Generator, count: int) -> Iterator[str]:
    """Yield lines of metrics.jsonl, 27 numbers each besides step, epoch and time."""
    for step, numbers in enumerate(rng.random((count, len(NAMES))).tolist(), 1):
        line = {"step": step, "epoch": step / count, "time_s": 1.5 * step}
        yield json.dumps(line | dict(zip(NAMES, numbers, strict=True)) | {"num_tokens": 100 * step})


def write_lines(path: Path, lines: Iterator[str]) -> None:
    """Write a file of lines."""
    with path.open("w") as file:
        file.writelines(line + "\n" for line in lines)


def make_study(out: Path, size: Size) -> None:
    """Write a study as its runner and recipes leave it, without tables of completions."""
    credits = [f"rule{n}" for n in range(size["strategies"])]
    study = {
        "schema": 1, "recipe": "recipe.py", "credits": credits, "seeds": [*range(size["seeds"])],
        "options": [], "baseline": credits[0], "metric": METRIC, "higher_is_better": True,
        "command": "ablate",
    }  # fmt: skip
    out.mkdir(parents=True)
    (out / "study.json").write_text(json.dumps(study))
    for place, credit in enumerate(credits):
        for seed in study["seeds"]:
            _make_cell(out / "cells" / credit, credit, seed, place, size["points"])


def _make_cell(folder: Path, credit: str, seed: int, place: int, points: int) -> None:
    rng, run = np.random.default_rng((place, seed)), folder / f"seed-{seed}"
    run.mkdir(parents=True)
    attempt = {"command": ["python", "recipe.py"], "seconds": 30.0, "peak_memory_bytes": 5e8}
    state = {"credit": credit, "seed": seed, "status": "finished", "attempts": [attempt]}
    (folder / f"seed-{seed}.json").write_text(json.dumps(state))
    manifest = {"format": 1, "status": "finished", "global_step": points, "extra": {}, "seed": seed}
    (run / "manifest.json").write_text(json.dumps(manifest))
    write_lines(run / "metrics.jsonl", metrics(rng, points))
    tests = ({"step": step, METRIC: float(rng.random())} for step in {0, points // 2, points})
    write_lines(run / "held_out.jsonl", map(json.dumps, sorted(tests, key=lambda t: t["step"])))


def make_rollouts(run: Path, rows: int, tokens: int) -> None:
    """Save one step of whole groups of eight."""
    from grpo_credit.credit.saved import save_rollouts

    rollouts, texts = some_rollouts(rows, tokens)
    (run / "rollouts").mkdir(parents=True)
    path = run / "rollouts" / "rollouts_00001.parquet"
    save_rollouts(path, rollouts, ["What is it?"] * rows, texts, "seq")


def some_rollouts(rows: int, tokens: int) -> tuple[Any, list[list[str]]]:
    """Return rollouts of phrases that come again, and the text of every token."""
    from grpo_credit import Rollouts

    rng = np.random.default_rng(0)
    lengths = [tokens, *rng.integers(tokens // 4, tokens, rows - 1, endpoint=True).tolist()]
    rewards = rng.integers(0, 2, rows).astype(float).tolist()
    made = Rollouts.from_lists(lengths, rewards, num_generations=8, max_completion_length=tokens)
    phrases = np.minimum(rng.zipf(1.2, (4096, 4)), 50_000)
    chosen = rng.integers(0, len(phrases), (rows, tokens // 4 + 1))
    ids = phrases[chosen].reshape(rows, -1)[:, :tokens]
    made.completion_ids.copy_(made.completion_ids.new_tensor(ids) * made.mask)
    texts = [[f" w{i}" for i in row[:n]] for row, n in zip(ids.tolist(), lengths, strict=True)]
    return made, texts


# ---- what is measured -------------------------------------------------------------------------


def collect_study(folder: Path, size: Size) -> dict[str, Any]:
    """Collect a study and write its page."""
    from grpo_credit.experiments.report.page import render
    from grpo_credit.experiments.study.collect import collect

    collect(folder / "study")
    page = render(folder / "study")
    curves = next((folder / "study").glob("curves.*"))
    return {"page_bytes": page.stat().st_size, "curves_bytes": curves.stat().st_size}


def show_some(folder: Path, size: Size) -> dict[str, Any]:
    """Write the page of eight completions."""
    return _show(folder, "run", 8)


def show_many(folder: Path, size: Size) -> dict[str, Any]:
    """Write the page of as many completions as there are."""
    return _show(folder, "many", 512)


def _show(folder: Path, run: str, rows: int) -> dict[str, Any]:
    from grpo_credit.cli import main

    page = folder / "page.html"
    if main(["show", str(folder / run), "--rows", str(rows), "--html", str(page)]):
        raise RuntimeError("nothing was shown")
    return {"page_bytes": page.stat().st_size}


def resume(folder: Path, size: Size) -> dict[str, Any]:
    """Drop the last thousandth of the metrics of a long run, and find its last time."""
    return _resume(folder, size["lines"] * 999 // 1000)


def resume_early(folder: Path, size: Size) -> dict[str, Any]:
    """Drop half of them."""
    return _resume(folder, size["lines"] // 2)


def _resume(folder: Path, step: int) -> dict[str, Any]:
    from grpo_credit.records import directory
    from grpo_credit.run.callbacks import MetricsJsonl

    before, start = time.process_time(), time.perf_counter()
    directory._drop_later_lines(folder / "metrics.jsonl", step)
    MetricsJsonl(folder / "metrics.jsonl").on_train_begin(*_BEGIN)
    return {
        "own_cpu_s": time.process_time() - before,
        "own_wall_s": time.perf_counter() - start,
        "kept_bytes": (folder / "metrics.jsonl").stat().st_size,
    }


class _Main:
    is_world_process_zero = True


_BEGIN: Any = (None, _Main(), None)


def table_even(folder: Path, size: Size) -> dict[str, Any]:
    """Write the credit table of a step where all tokens of a completion have the same credit."""
    return _table(folder, size, dense=False)


def table_dense(folder: Path, size: Size) -> dict[str, Any]:
    """Write the credit table of a step where every token has a credit of its own."""
    return _table(folder, size, dense=True)


def _table(folder: Path, size: Size, dense: bool) -> dict[str, Any]:
    import torch

    from grpo_credit.trainer.credit_tables import save_credit
    from grpo_credit.trainer.window import Generation, Window

    rollouts, _ = some_rollouts(size["rows"] // 4, 2 * size["tokens"])
    rows, columns = rollouts.mask.shape
    torch.manual_seed(0)
    own = torch.rand(rows, columns) if dense else torch.ones(rows, columns)
    credit = torch.randn(rows, 1) * own * rollouts.mask
    texts = ["What is it?"] * rows
    made = Generation(rollouts, rollouts.advantages[:, None], texts, texts, [])
    window = Window.join([made], torch.arange(rows))
    before = time.process_time()
    path = folder / f"credit_{int(dense):05d}.parquet"
    save_credit(path, window, credit, _Words(), 1)
    tokens = int(rollouts.mask.sum())
    return {
        "own_cpu_s": time.process_time() - before,
        "tokens": tokens,
        "bytes": path.stat().st_size,
        "bytes_per_token": path.stat().st_size / tokens,
    }


class _Words:
    """A tokenizer whose tokens are words."""

    def decode(self, ids: list[int]) -> str:
        """Spell tokens."""
        return "".join(f" w{i}" for i in ids)


BENCHMARKS: dict[str, Callable[[Path, Size], dict[str, Any]]] = {
    "collect": collect_study,
    "show": show_some,
    "show-many": show_many,
    "resume": resume,
    "resume-early": resume_early,
    "table": table_even,
    "table-dense": table_dense,
}


# ---- running and telling ----------------------------------------------------------------------


def make(folder: Path, chosen: list[str], size: Size) -> None:
    """Make what the benchmarks need."""
    if "collect" in chosen:
        make_study(folder / "study", size)
    if "show" in chosen:
        make_rollouts(folder / "run", size["rows"], size["tokens"])
    if "show-many" in chosen:
        make_rollouts(folder / "many", min(512, size["rows"]), size["tokens"] // 4)
    if {"resume", "resume-early"} & set(chosen):
        write_lines(folder / "metrics.jsonl", metrics(np.random.default_rng(0), size["lines"]))


def in_a_process(name: str, folder: Path, size: Size) -> dict[str, Any]:
    """Run one benchmark in a process of its own and add what that one took."""
    command = [sys.executable, __file__, "--only", name, "--inside", str(folder),
               "--size", json.dumps(size)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def inside(name: str, folder: Path, size: Size) -> None:
    """Run one benchmark here and print what it took as a line of JSON."""
    start = time.perf_counter()
    found = BENCHMARKS[name](folder, size)
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    took = {"cpu_s": used.ru_utime + used.ru_stime, "wall_s": time.perf_counter() - start}
    print(json.dumps({**took, "peak_mb": peak / 1e6, **found}))


def report(results: dict[str, dict[str, Any]]) -> None:
    """Print one row per figure."""
    table = Table("benchmark", "figure", "value", title="under load")
    for name, figures in results.items():
        for figure, value in figures.items():
            table.add_row(
                name, figure, f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"
            )
        table.add_section()
    Console().print(table)


def main() -> None:
    """Run the benchmarks that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=BENCHMARKS, help="run this one alone")
    parser.add_argument("--full", action="store_true", help="at the size of a large study and run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        return inside(asked.only, asked.inside, asked.size)
    size, chosen = FULL if asked.full else SMALL, [asked.only] if asked.only else [*BENCHMARKS]
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), chosen, size)
        results = {name: in_a_process(name, Path(folder), size) for name in chosen}
    report(results)
    if asked.json:
        machine = {"python": platform.python_version(), "cores": os.cpu_count()}
        asked.json.write_text(json.dumps({"machine": machine, "size": size, **results}, indent=2))
    return None


if __name__ == "__main__":
    main()
