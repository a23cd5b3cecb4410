"""The end of a trainer's engine and process group."""

from typing import Any


def end_training(trainer: Any) -> None:
    """Close the trackers and the process group.

    An engine of vLLM in this process has groups of its own, and would look for them at exit.
    """
    engine = getattr(getattr(trainer, "vllm_generation", None), "llm", None)
    if engine is not None:
        engine.llm_engine.engine_core.shutdown()
    trainer.accelerator.end_training()
