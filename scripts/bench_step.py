"""Time the optimizer step of TRL's `GRPOTrainer` and ours on the same rollouts and weights.

    OMP_NUM_THREADS=1 python scripts/bench_step.py
    OMP_NUM_THREADS=1 python scripts/bench_step.py --workload reference dead --json bench.json
    OMP_NUM_THREADS=1 python scripts/bench_step.py --no-gradient-checkpointing --lora
    OMP_NUM_THREADS=1 python scripts/bench_step.py --growth
    python scripts/bench_step.py --device cuda --attention flex_attention

64 completions, which TRL runs as 8 micro-batches of 8 rows, with gradient checkpointing as TRL's
default is; two iterations of each generation batch with a learning rate of 0. The second iteration
is timed, from the first `training_step` to the last: forward, backward, our credit and our passes,
no generation. `no grad` is the pass for the old log-probabilities. Seconds are the processor's on
the CPU, so that other programs disturb little, and the wall's on a GPU. The two trainers take
turns; a ratio is the median of ours over the median of TRL's. `memory` is the ratio of what a step
allocates at its peak beyond what was there when it began. Tokens are those that the backbone runs,
padding included, with the number of its passes. `needed` are those that any exact method must run,
each completion with credit and the prompts of these once; `ideal` is needed over TRL's. `gradient`
is the relative difference to TRL's gradient, the largest of the strategies asked for.

CPU: a Llama of 6 layers, 256 wide, in float32. CUDA: the shape of Qwen2.5-0.5B in bfloat16, every
length times 4. Weights are random, nothing is downloaded.
"""

import argparse
import gc
import json
import math
import os
import statistics
import sys
import tempfile
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from bench_step_meter import Meter
from bench_step_workloads import TOKENIZER, WORKLOADS, Workload, reward, workload
from peft import LoraConfig
from transformers import AutoModelForCausalLM, LlamaConfig, PrinterCallback, Qwen2Config
from trl import GRPOConfig, GRPOTrainer, ModelConfig, get_peft_config

from grpo_credit import CreditGRPOConfig, CreditGRPOTrainer

ROWS = 8  # of TRL's micro-batches
TWINS: dict[str, dict[str, Any]] = {
    "dapo": {"loss_type": "dapo"},
    "length": {"loss_type": "grpo"},
    "seq": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "uniform": {"loss_type": "dr_grpo"},
}
SCALES = {"cpu": 1, "cuda": 4}
MODELS = {
    "cpu": LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
        num_attention_heads=8, tie_word_embeddings=True, dtype="float32",
    ),
    "cuda": Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True, dtype="bfloat16",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What both trainers have in common.

    Args:
        device: "cpu" or "cuda".
        gradient_checkpointing: TRL's default.
        lora: the adapter of TRL's `--use_peft`, without its dropout, which would differ.
        attention: transformers' name of the attention.
    """

    device: str
    gradient_checkpointing: bool = True
    lora: bool = False
    attention: str = "sdpa"

    @property
    def adapter(self) -> LoraConfig | None:
        """The adapter, if there is one."""
        config = get_peft_config(ModelConfig(use_peft=True)) if self.lora else None
        return config and replace(config, lora_dropout=0.0)


def metered(
    trainer_class: Any, config_class: Any, load: Workload, setting: Setting, **options: Any
) -> Meter:
    """Build a trainer with a meter on it; weights and order are the same every time."""
    torch.manual_seed(0)
    with torch.device(setting.device):
        config = deepcopy(MODELS[setting.device])  # trainers change it
        model = AutoModelForCausalLM.from_config(config, attn_implementation=setting.attention)
    trainer = trainer_class(
        model=model,
        reward_funcs=reward,
        args=config_class(
            per_device_train_batch_size=ROWS,
            gradient_accumulation_steps=load.rows // ROWS,
            num_generations=load.group,
            num_iterations=2,
            max_steps=2,
            max_completion_length=load.longest,
            learning_rate=0.0,
            optim="sgd",
            max_grad_norm=0.0,
            use_cpu=setting.device == "cpu",
            bf16=setting.device == "cuda",
            gradient_checkpointing=setting.gradient_checkpointing,
            output_dir=tempfile.mkdtemp(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            **options,
        ),
        train_dataset=load.dataset(),
        processing_class=TOKENIZER,
        rollout_func=load.rollout,
        peft_config=setting.adapter,
    )
    trainer.remove_callback(PrinterCallback)
    return Meter(trainer, setting.device)


def pair(credit: str, load: Workload, setting: Setting) -> dict[str, Meter]:
    """Build both trainers, once the last ones, which refer to themselves, are gone."""
    gc.collect()
    return {
        "trl": metered(GRPOTrainer, GRPOConfig, load, setting, **TWINS[credit]),
        "ours": metered(
            CreditGRPOTrainer,
            CreditGRPOConfig,
            load,
            setting,
            credit=credit,
            efficient_batching="auto",
        ),
    }


def difference(meters: dict[str, Meter]) -> float:
    """Return |ours - TRL's| / |TRL's|, Euclidean, of the last gradients."""
    ours, host = meters["ours"].gradient, meters["trl"].gradient
    return float((ours - host).norm() / host.norm())


def compare(load: Workload, credits: list[str], setting: Setting) -> dict[str, float]:
    """Compare the gradients of strategies with those of their twins."""
    found = {}
    for credit in credits:
        meters = pair(credit, load, setting)
        for meter in meters.values():
            meter.trainer.train()
        found[credit] = difference(meters)
    return found


def measure(load: Workload, credit: str, repeats: int, setting: Setting) -> dict[str, Any]:
    """Run both trainers in turn: once for the memory, to warm up, and then timed."""
    meters = pair(credit, load, setting)
    for turn in range(1 + repeats):
        for meter in meters.values():
            meter.watch_memory = turn == 0
            meter.trainer.train()
    found: dict[str, Any] = {
        name: {
            "seconds": meter.seconds[1:],
            "seconds_no_grad": meter.seconds_no_grad[1:],
            "peak_bytes": meter.peak_bytes,
            **vars(meter.with_grad),
            **{f"{key}_no_grad": value for key, value in vars(meter.no_grad).items()},
        }
        for name, meter in meters.items()
    }
    return {
        **found,
        "time_ratio": ratio(found, "seconds"),
        "no_grad_ratio": ratio(found, "seconds_no_grad"),
        "memory_ratio": found["ours"]["peak_bytes"] / found["trl"]["peak_bytes"],
        "ideal": load.ideal,
        "needed": load.needed,
        "gradients": {credit: difference(meters)},
    }


def print_growth(credit: str, setting: Setting) -> None:
    """Time our step for ever more groups, and fit seconds = a constant x tokens ^ exponent."""
    points = []
    for groups in (5, 10, 20, 40, 80):
        load = Workload([32] * groups, [[128] * 8] * groups)
        meter = metered(
            CreditGRPOTrainer, CreditGRPOConfig, load, setting,
            credit=credit, efficient_batching="auto",
        )  # fmt: skip
        meter.trainer.train()
        points.append((load.rows * load.longest, meter.seconds[0]))
        print("{:,} counted tokens: {:.2f} s".format(*points[-1]), flush=True)
    exponent, _ = statistics.linear_regression(
        *zip(*(map(math.log, p) for p in points), strict=True)
    )
    print(f"exponent {exponent:.2f}")


def ratio(found: dict[str, Any], of: str) -> float:
    """Return the median of ours over TRL's."""
    ours, host = (statistics.median(found[name][of]) for name in ("ours", "trl"))
    return ours / host


def row(found: dict[str, Any]) -> dict[str, str | float]:
    """Lay out a workload."""
    ours, host = found["ours"], found["trl"]
    return {
        "TRL s": statistics.median(host["seconds"]),
        "ours s": statistics.median(ours["seconds"]),
        "time": found["time_ratio"],
        "ideal": found["ideal"],
        "no grad": found["no_grad_ratio"],
        "memory": found["memory_ratio"],
        "TRL tokens / passes": f"{host['tokens']:,} / {host['passes']}",
        "ours": f"{ours['tokens']:,} / {ours['passes']}",
        "needed": f"{found['needed']:,}",
        "gradient": f"{max(found['gradients'].values()):.0e}",
    }


def main() -> None:
    """Measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--credit", nargs="+", choices=TWINS, default=list(TWINS),
        help="strategies whose gradient is compared (default: all); the first one is timed",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="timed steps of each trainer")
    parser.add_argument("--device", choices=MODELS, default="cpu")
    parser.add_argument(
        "--gradient-checkpointing", action=argparse.BooleanOptionalAction, default=True,
        help="TRL's default is to do it",
    )  # fmt: skip
    parser.add_argument("--attention", default="sdpa", help="sdpa, eager, flex_attention ...")
    parser.add_argument(
        "--growth", action="store_true",
        help="time ours alone, from 5,000 to 80,000 counted tokens of equal lengths",
    )  # fmt: skip
    parser.add_argument("--lora", action="store_true", help="an adapter instead of all weights")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    asked = parser.parse_args()
    if asked.repeats < 1:
        parser.error(f"--repeats is {asked.repeats}, expected 1 or more")
    if asked.json and asked.json.exists():
        parser.error(f"--json {asked.json} exists; name another file")
    if asked.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU that PyTorch can use")
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # about rollout_func
    timed, *others = asked.credit
    setting = Setting(asked.device, asked.gradient_checkpointing, asked.lora, asked.attention)
    if asked.growth:
        print_growth(timed, setting)
        return
    name = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    about = {"processor": name, "threads": torch.get_num_threads()}
    about |= {"torch": torch.__version__, "credit": timed, **asdict(setting)}
    results = {}
    for name in asked.workload:
        load = workload(name, SCALES[asked.device])
        found = results[name] = measure(load, timed, asked.repeats, setting)
        found["gradients"] |= compare(load, others, setting)
        print(f"{name}: {found['time_ratio']:.3f} of TRL's time", file=sys.stderr, flush=True)
        if asked.json:  # after each, so that nothing measured is lost
            asked.json.write_text(json.dumps({**about, "workloads": results}, indent=1), "utf-8")
    print(f"one optimizer step, {timed}, {setting}")
    rows = {name: row(found) for name, found in results.items()}
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
