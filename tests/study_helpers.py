"""A synthetic study, as a runner and its recipes leave it."""

import json
import shutil

import numpy as np
import pandas as pd
import saved_helpers

from grpo_credit.credit.saved import save_rollouts
from grpo_credit.experiments.study.collect import collect

METRIC = "format rate (sampled)"
CREDITS = ("uniform", "seq", "length")
STEPS = (1, 2, 3, 4)


def collected(out, *args, **options):
    """Make a study, and the data of its report."""
    make_study(out, *args, **options)
    collect(out)
    return out


def copied(study, out):
    """Copy the data of a report to a place where they may be damaged."""
    out.mkdir()
    for path in study.glob("*.*"):
        shutil.copy(path, out)
    return out


def make_study(
    out,
    credits=CREDITS,
    seeds=(0, 1, 2, 3, 4, 5),
    *,
    value=None,
    states=None,
    rules=None,
    **changes,
):
    """Write study.json and every cell.

    Args:
        out: directory to make.
        credits: strategies.
        seeds: of the runs.
        value: (credit, seed) -> the held-out number after training.
        states: (credit, seed) -> status of the runs that did not finish.
        rules: (credit, seed) -> the user's own rules in the manifest.
        changes: entries of study.json.
    """
    out.mkdir(parents=True)
    study = {
        "schema": 1, "recipe": "recipes/grpo_regex.py", "credits": list(credits),
        "seeds": list(seeds), "options": ["--max_steps", "4"], "baseline": credits[0],
        "metric": None, "higher_is_better": True, "own_warm_starts": False,
        "command": "python scripts/ablate.py --seeds 6", **changes,
    }  # fmt: skip
    (out / "study.json").write_text(json.dumps(study))
    for place, credit in enumerate(credits):
        for seed in seeds:
            status = (states or {}).get((credit, seed), "finished")
            end = (value or default_value)(place, seed)
            own = (rules or {}).get((credit, seed), [])
            make_cell(out / "cells" / f"s{place}", credit, seed, status, end, own)
    return out


def default_value(place, seed):
    return 0.5 + 0.1 * place + 0.01 * (seed % 3)


def make_cell(folder, credit, seed, status, value, rules):
    """Write one run: its state, and a run directory where it was started."""
    folder.mkdir(parents=True, exist_ok=True)
    attempt = {
        "command": ["python", "recipe.py", f"--credit={credit}", f"--seed={seed}"],
        "started": "2026-01-01T00:00:00+00:00", "ended": "2026-01-01T00:00:30+00:00",
        "exit_code": 0 if status == "finished" else 1, "seconds": 30.0, "peak_memory_bytes": 5e8,
    }  # fmt: skip
    tail = ["ValueError: it broke"] if status == "failed" else []
    state = {"credit": credit, "seed": seed, "status": status, "attempts": [attempt], "tail": tail}
    if status == "waiting":
        state["attempts"] = []
    (folder / f"seed-{seed}.json").write_text(json.dumps(state))
    if status != "waiting":
        make_run(folder / f"seed-{seed}", credit, seed, status, value, rules)


def make_run(run, credit, seed, status, value, rules):
    run.mkdir(parents=True)
    steps = STEPS if status == "finished" else STEPS[:2]
    manifest = {
        "format": 1, "status": status, "global_step": steps[-1], "error": None,
        "git": {"commit": "abc", "dirty": False}, "versions": {"torch": "2.6", "trl": "1.16.0"},
        "config": {"learning_rate": 1e-3, "output_dir": str(run), "credit": credit},
        "extra": {"metric": METRIC, "rules": rules}, "seed": seed,
        "model": {"sha256": f"weights of seed {seed}"},
    }  # fmt: skip
    (run / "manifest.json").write_text(json.dumps(manifest))
    metrics = [metrics_line(step, credit, seed) for step in steps]
    metrics.append({"step": steps[-1], "time_s": 99.0, "train_runtime": 99.0, "train_loss": 0.1})
    write_lines(run / "metrics.jsonl", metrics)
    tests = [held_out_line(0, 0.2)]
    if status == "finished":
        tests += [held_out_line(2, (0.2 + value) / 2), held_out_line(4, value)]
    write_lines(run / "held_out.jsonl", tests)
    write_tables(run, steps, seed)


def metrics_line(step, credit, seed):
    wobble = 0.01 * ((7 * seed + 3 * step) % 5)
    return {
        "step": step, "epoch": 0.1 * step, "time_s": 2.0 * step, "num_tokens": 100.0 * step,
        "grad_norm": len(credit) * (1.0 + wobble), "reward": 0.2 + 0.1 * step + wobble,
        "step_time": 1.5 + wobble, "entropy": None,
        "rewards/format/mean": 0.5, "rewards/format/std": 0.1, "rewards/abstains/mean": None,
        "credit/gini": 0.1 + wobble, "credit/mass": wobble, "credit/effective_tokens": 10.0 * step,
        **{f"credit/position_{n}": 0.1 for n in range(1, 11)},
        **{f"credit/length_{n}": 0.25 for n in range(1, 5)},
    }  # fmt: skip


def held_out_line(step, value):
    return {
        "step": step,
        METRIC: value,
        "characters, right": 40.0,
        "characters, wrong": 60.0 + step,
    }


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_tables(run, steps, seed):
    """Write completions and lengths of the first and the last step, and rollouts of both."""
    for kind in ("completions", "credit", "rollouts"):
        (run / kind).mkdir()
    for step in (steps[0], steps[-1]):
        completions(step).to_parquet(run / "completions" / f"completions_{step:05d}.parquet")
        credit_table(step, seed).to_parquet(run / "credit" / f"credit_{step:05d}.parquet")
        path = run / "rollouts" / f"rollouts_{step:05d}.parquet"
        save_rollouts(path, saved_helpers.rollouts(), saved_helpers.PROMPTS,
                      saved_helpers.TOKENS, "uniform")  # fmt: skip


def completions(step):
    texts = [piece for piece in saved_helpers.HOSTILE if piece != "\ud800"]  # no UTF-8 for it
    return pd.DataFrame(
        {
            "step": step,
            "prompt": [f"<b>{n}</b> + 1 =" for n in range(len(texts))],
            "completion": texts,
            "format": np.linspace(0, 1, len(texts)),
            "abstains": [None] * len(texts),
            "digits": np.arange(len(texts)),  # of log_extra, as the next
            "found": ["7"] * len(texts),
            "advantage": np.linspace(-1, 1, len(texts)),
        }
    )


def credit_table(step, seed):
    """Right completions have 2 and 4 tokens, wrong ones 6 and 4 + step."""
    lengths = [2, 4, 6, 4 + step]
    return pd.DataFrame(
        {
            "step": step,
            "reward": [1.0, 1.0, 0.0, 0.0],
            "counted": [[True] * n for n in lengths],
            "token_ids": [[seed + step] * n for n in lengths],
        }
    )
