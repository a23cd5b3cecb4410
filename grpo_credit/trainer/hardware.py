"""What of a configuration the machine decides, where the user does not."""

from typing import Any

import torch


def fit_to_hardware(args: Any) -> None:
    """Set `use_cpu` without an accelerator, and an open `bf16` to what the hardware supports.

    Args:
        args: a configuration before its `__post_init__`; TRL's own stop with an error there.
    """
    accelerator = torch.accelerator.is_available()
    if not accelerator:
        args.use_cpu = True
    if args.bf16 is None:
        on_gpu = accelerator and not args.use_cpu and not args.fp16
        args.bf16 = bool(on_gpu and _supports_bf16())


def _supports_bf16() -> bool:
    kind = torch.accelerator.current_accelerator()
    if kind is None or kind.type not in ("cuda", "xpu", "npu"):
        return False  # MPS: TrainingArguments refuses bf16 there
    return bool(getattr(torch, kind.type).is_bf16_supported())
