"""TRL's reference model, for rules that read its log-probabilities where beta is 0."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from grpo_credit.errors import CreditError


@contextmanager
def referring(owner: Any, wanted: bool) -> Generator[None, None, None]:
    """Let TRL make its reference model, or score by it: it does so where `owner.beta` is not 0.

    Args:
        owner: the configuration while the trainer is made, the trainer while it generates.
        wanted: whether a rule asks for it.
    """
    beta = owner.beta
    owner.beta = beta or float(wanted)
    try:
        yield
    finally:
        owner.beta = beta


def check_origin(model: Any, given: Mapping[str, Any], plan: Any) -> None:
    """Refuse a model that TRL cannot load a second time, where the plan has a reference model.

    An adapter's can be switched off instead.

    Args:
        model: as the trainer is given it.
        given: its other arguments, by name.
        plan: of its credit.

    Raises:
        CreditError: if it was made in memory.
    """
    made = not isinstance(model, str) and not getattr(model.config, "_name_or_path", "")
    adapted = given.get("peft_config") is not None or hasattr(model, "peft_config")
    if plan.refers and made and not adapted:
        raise CreditError(
            f"{plan.strategy.name!r} compares with a reference model, which TRL loads from where "
            "the model was loaded from; this one was made in memory. Use save_pretrained, and pass "
            "the folder, or train an adapter (peft_config)."
        )
