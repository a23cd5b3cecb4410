"""The model that a command line names, looked up before anything is claimed or trained."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer
from transformers.integrations import deepspeed
from transformers.utils import logging
from transformers.utils.hub import is_offline_mode

from grpo_credit.records.ranks import decided_by_main


@decided_by_main
def look_up_model(name: str, prompts: list[Any], *, weights: bool = True, **where: Any) -> None:
    """See that a model and its tokenizer can be loaded and fit each other, as a run will do it.

    Only the values of the weights are not read: `meta` tensors have none. Of a pickle, torch reads
    tensors alone; nothing in it is run. `weights` of a folder are looked at, too; those of a hub
    are downloaded when the run loads them. `where` is `revision` and `trust_remote_code`.

    Raises:
        ValueError: there is no such model, its weights are missing, damaged or of another model,
            its tokenizer has no end token or ids beyond the embeddings, or cannot read
            conversations.
    """
    config = _found(AutoConfig, name, where)
    tokenizer = tokenizer_of(name, **where)
    if prompts and isinstance(prompts[0], list) and not tokenizer.chat_template:
        raise ValueError(
            f"the prompts are conversations, but the tokenizer of {name!r} has no chat template; "
            "use an instruction-tuned model, or prompts that are plain text."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer of {name!r} (--model_name_or_path) names no end token; is its "
            "tokenizer_config.json missing? Save or download the model again."
        )
    quantized = getattr(config, "quantization_config", None) is not None  # loads on its GPU only
    if weights and not quantized and Path(name).is_dir():
        rows = _embeddings(name, config, where)
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        _refuse_ids_beyond(rows, name, tokenizer, texts)


def _embeddings(name: str, config: Any, where: Mapping[str, Any]) -> int:
    """Load the model but for its values, and return the number of its token embeddings."""
    named = (getattr(transformers, each, None) for each in config.architectures or ())
    kind: Any = next(filter(None, named), transformers.AutoModelForCausalLM)  # as TRL chooses
    try:
        with _quietly(), _unsharded():
            model, report = kind.from_pretrained(
                name, device_map="meta", output_loading_info=True, ignore_mismatched_sizes=True,
                **where,
            )  # fmt: skip
    except Exception as error:  # of whatever kind: what is in the files decides
        # The first sentence: torch's others advise to run what is in a pickle.
        raise ValueError(
            f"the weights of {name!r} (--model_name_or_path) cannot be loaded: {_first(error)}. "
            "Save or download the model again."
        ) from error
    _refuse_unlike(name, report)
    return model.get_input_embeddings().weight.shape[0]


def _refuse_unlike(name: str, report: Mapping[str, Any]) -> None:
    """Refuse weights that would be drawn at random, because they are missing or do not fit."""
    for key, stored, described in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"the weights of {name!r} (--model_name_or_path) are of another model than its "
            f"config.json: {key} has shape {list(stored)} in the files and "
            f"{list(described)} by config.json."
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"the weights of {name!r} (--model_name_or_path) lack {len(missing)} parameters of "
            f"its config.json, such as {missing[0]}; they would begin at random."
        )


def _refuse_ids_beyond(rows: int, name: str, tokenizer: Any, texts: Sequence[str]) -> None:
    ids = [i for text in texts for i in tokenizer(text).input_ids]
    special = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    if (largest := max([*ids, *(i for i in special if i is not None)])) >= rows:
        raise ValueError(
            f"the tokenizer of {name!r} (--model_name_or_path) is not of this model: it writes "
            f"token {largest}, and the model has embeddings for 0 to {rows - 1}."
        )


@contextmanager
def _quietly() -> Generator[None, None, None]:
    """Keep transformers' table and progress bar away: what is wrong is told in one sentence."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


@contextmanager
def _unsharded() -> Generator[None, None, None]:
    """Load as without ZeRO-3, which refuses `meta` and would need every rank."""
    config = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = config


def tokenizer_of(name: str, **where: Any) -> Any:
    """Load a model's tokenizer.

    Raises:
        ValueError: if there is none.
    """
    return _found(AutoTokenizer, name, where)


def _found(kind: Any, name: str, where: Mapping[str, Any]) -> Any:
    try:
        return kind.from_pretrained(name, **where)
    except Exception as error:  # of whatever kind: what is in the files decides
        reason = _first(error)
        if isinstance(error, OSError) and not Path(name).exists():
            offline = "none of that name is in the hub's cache (HF_HUB_OFFLINE is set)"
            reason = f"there is no such folder, and {offline if is_offline_mode() else reason}"
        raise ValueError(
            f"no model or tokenizer {name!r} (--model_name_or_path): {reason}"
        ) from error


def _first(error: Exception) -> str:
    """Return the first sentence of an error, with its kind where the text alone says little."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"


def opens(tag: str, prompt: list[dict[str, str]], args: Any, model_args: Any) -> bool:
    """Return whether the chat template itself opens a tag, as those of reasoning models do.

    Then a completion begins inside the tag and must not open it again. A template may do so for
    some conversations alone, so `prompt` is one such as the recipe's.

    Raises:
        ValueError: if there is no such model, or its template refuses the prompt.
    """
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
