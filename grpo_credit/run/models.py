"""The model that a command line names, looked up before any weights are loaded."""

from collections.abc import Mapping
from typing import Any


def look_up_model(name: str, prompts: list[Any], **where: Any) -> None:
    """Find a model and its tokenizer before anything is written; no weights are loaded.

    Args:
        name: folder or hub name.
        prompts: some prompts; conversations need a chat template.
        where: `revision`, `trust_remote_code`.

    Raises:
        ValueError: if there is no such model, or it cannot read conversations.
    """
    from transformers import AutoConfig

    _found(AutoConfig, name, where)
    tokenizer = tokenizer_of(name, **where)
    if prompts and isinstance(prompts[0], list) and not tokenizer.chat_template:
        raise ValueError(
            f"the prompts are conversations, but the tokenizer of {name!r} has no chat template; "
            "use an instruction-tuned model, or prompts that are plain text."
        )


def tokenizer_of(name: str, **where: Any) -> Any:
    """Load a model's tokenizer.

    Raises:
        ValueError: if there is none.
    """
    from transformers import AutoTokenizer

    return _found(AutoTokenizer, name, where)


def _found(kind: Any, name: str, where: Mapping[str, Any]) -> Any:
    try:
        return kind.from_pretrained(name, **where)
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"no model or tokenizer {name!r} (--model_name_or_path): {reason}"
        ) from None


def opens(tag: str, prompt: list[dict[str, str]], args: Any, model_args: Any) -> bool:
    """Return whether the chat template itself opens a tag, as those of reasoning models do.

    Then a completion begins inside the tag and must not open it again.

    Args:
        tag: such as "<think>".
        prompt: a conversation such as the recipe's; a template may open the tag for some alone.
        args: TRL's configuration.
        model_args: its options of the model, which is named.

    Raises:
        ValueError: if there is no such model, or its template refuses the prompt.
    """
    from jinja2 import TemplateError

    where = {"revision": model_args.model_revision, "trust_remote_code": args.trust_remote_code}
    name = model_args.model_name_or_path
    tokenizer = tokenizer_of(name, **where)
    if not tokenizer.chat_template:
        return False  # refused by `look_up_model`
    options = args.chat_template_kwargs or {}
    try:
        text = tokenizer.apply_chat_template(
            prompt, tokenize=False, add_generation_prompt=True, **options
        )
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in prompt)
        raise ValueError(
            f"the chat template of {name!r} refuses the prompts (roles: {roles}): {error}. Take "
            "another model, or leave the refused role out (in grpo_math.py: --system_prompt '')."
        ) from None
    return text.rstrip().endswith(tag)
