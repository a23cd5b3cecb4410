"""FSDP2 and DeepSpeed's ZeRO without a GPU: both shard over gloo processes, for real.

accelerate offers them on accelerators alone, so that here it is told that its processes are some.
As a program: run another one like that, under torchrun.

    torchrun --nproc_per_node=2 tests/sharding.py fsdp2 recipes/grpo_math.py --use_cpu ...
"""

import importlib
import os
import runpy
import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

KINDS = {
    "ddp": (DistributedType.MULTI_CPU, {}),
    "fsdp2": (
        DistributedType.MULTI_GPU,  # from which accelerate goes on to FSDP
        {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
            "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
            "FSDP_RESHARD_AFTER_FORWARD": "true",
            "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        },
    ),
    "zero3": (
        DistributedType.DEEPSPEED,
        {
            "DS_ACCELERATOR": "cpu",
            "ACCELERATE_USE_DEEPSPEED": "true",
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
            "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true",
            "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true",
        },
    ),
}


def shard(kind: str) -> None:
    """Make every trainer from now on one of this kind, as `accelerate launch` would."""
    distributed, environment = KINDS[kind]
    os.environ.update(environment)
    if distributed == DistributedType.DEEPSPEED:
        backend = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None  # would compile C++; gloo will do
    set_device = PartialState.set_device

    def told(self: PartialState) -> None:
        set_device(self)
        self.distributed_type = distributed

    PartialState.set_device = told


def gradients_of_zero() -> list[torch.Tensor]:
    """Keep a list of the whole gradient before each of DeepSpeed's optimizer steps."""
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.utils import safe_get_full_grad

    found, step = [], DeepSpeedEngine.step

    def recorded(self: DeepSpeedEngine) -> None:
        if self.is_gradient_accumulation_boundary():
            whole = [safe_get_full_grad(p) for _, p in sorted(self.module.named_parameters())]
            found.append(torch.cat([gradient.flatten().double() for gradient in whole]))
        step(self)

    DeepSpeedEngine.step = recorded
    return found


if __name__ == "__main__":
    shard(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
