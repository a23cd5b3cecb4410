"""What TRL's model card does not know: a local model's name, held-out numbers, the credit."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl.trainer.utils import get_config_model_id

from grpo_credit.credit.sources import own_sources
from grpo_credit.credit.strategy import Rule, Strategy
from grpo_credit.records.files import HELD_OUT, read_lines, read_object, replace_text
from grpo_credit.records.provenance import MANIFEST, hide_in_text
from grpo_credit.records.summary import change_rows

_ARXIV = re.compile(r"(?:arXiv:)?(\d{4}\.\d{4,5})")


def complete_card(trainer: Any) -> None:
    """Put names into the model card that TRL wrote, and two sections before its citations."""
    folder = Path(trainer.args.output_dir)
    card, manifest = folder / "README.md", folder / MANIFEST
    known = read_object(manifest) if manifest.is_file() else {}
    before, heading, after = card.read_text(encoding="utf-8").partition("## Citations")
    sections = [
        with_names(before, trainer),
        held_out_section(
            read_lines(folder / HELD_OUT), step_of(trainer), known, hasattr(trainer, "reward_funcs")
        ),
        credit_section(trainer.plan.strategy, trainer.plan.surrogate, known),
    ]
    replace_text(card, "".join(sections) + f"\n{heading}{after}")


def step_of(trainer: Any) -> int:
    """Return the optimizer step whose weights the trainer ends with."""
    state = trainer.state
    best = trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None
    return state.best_global_step if best else state.global_step


def with_names(text: str, trainer: Any) -> str:
    """Name the model where TRL writes None: one that is local, or not on the Hub yet.

    Args:
        text: of TRL's card.
        trainer: its model, and where that was saved last: `model` in the run directory, or the
            checkpoint that is about to be written.
    """
    folder, config = Path(trainer.args.output_dir), trainer.model.config
    name = "/".join(Path(get_config_model_id(config) or "").parts[-2:])
    base = f"`{name}` (a local model)" if name else f"a new {config.model_type} model"
    saved = folder / "model"
    place = saved if saved.is_dir() else folder / f"checkpoint-{trainer.state.global_step}"
    text = text.replace("[None](https://huggingface.co/None)", base)
    text = text.replace('model="None"', f"model={json.dumps(str(place))}")
    if getattr(trainer.processing_class, "chat_template", None) is None:
        text = text.replace('[{"role": "user", "content": question}]', "question")
    return text


def held_out_section(
    lines: Sequence[Mapping[str, Any]],
    step: int,
    manifest: Mapping[str, Any],
    rewarded: bool = True,
) -> str:
    """Show held-out numbers before training and at an optimizer step, or the last one before it.

    Args:
        lines: of held_out.jsonl.
        step: whose weights the card is about.
        manifest: of the run; its metric comes first.
        rewarded: whether there were rewards, and a checker beside them.

    Returns:
        A section for a model card; empty while nothing was measured after training.
    """
    tested = {line["step"]: line for line in lines if line["step"] <= step}
    last = max(tested, default=0)
    if last == 0:
        return ""
    metric = (manifest.get("extra") or {}).get("metric")
    before, after = (
        {name: value for name, value in tested.get(at, {}).items() if name != "step"}
        for at in (0, last)
    )
    table = sorted(change_rows(before, after), key=lambda row: row[0] != metric)
    rows = ((manifest.get("datasets") or {}).get("test") or {}).get("rows")
    what = "prompts, by a checker that is not the reward" if rewarded else "documents"
    on = f"On {f'{rows} ' if rows else ''}held-out {what}"
    return "\n".join(
        [
            "## Held-out numbers",
            "",
            f"{on}, before training and at step {last}.",
            "",
            "| | before | after | change |",
            "|---|--:|--:|--:|",
            *(f"| {' | '.join(map(_cell, row))} |" for row in table),
            *("", ""),
        ]
    )


def credit_section(strategy: Strategy, surrogate: str, manifest: Mapping[str, Any]) -> str:
    """Describe a strategy in Markdown: formulas, options, papers, and how to train it again.

    Args:
        strategy: of the training.
        surrogate: the loss and its ratio, in words.
        manifest: of the run, as in manifest.json; empty where there is none.

    Returns:
        A section for a model card.
    """
    lines = [
        "## Credit assignment",
        "",
        f"Trained with `credit={strategy.name}` ({surrogate}), by grpo-credit: each token's "
        "log-probability gradient was multiplied by allocation × aggregation.",
        "",
        "| rule | kind | formula | options | source |",
        "|---|---|---|---|---|",
        *(_row(rule, strategy.options.get(rule.name, {})) for rule in strategy.rules),
    ]
    return "\n".join([*lines, *_own(strategy), *(_again(manifest) if manifest else []), ""])


def _row(rule: Rule, options: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    formula = _code(rule.formula) if rule.formula else rule.summary or "–"
    cells = (f"`{rule.name}`", rule.kind, formula, said or "–", _linked(rule.paper))
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _own(strategy: Strategy) -> list[str]:
    """Show the source of the rules that are a user's own."""
    lines: list[str] = []
    for rule in own_sources(strategy.rules):
        source = hide_in_text(rule["function"] or "(no source)").splitlines()
        about = f"`{rule['rule']}` of {rule['file']}, sha256 {rule['sha256']}:"
        lines += ["", about, "", *(f"    {line}" for line in source)]
    return lines


def _again(manifest: Mapping[str, Any]) -> list[str]:
    versions = manifest.get("versions") or {}
    git = manifest.get("git") or {}
    kept = {
        "command": (manifest.get("command") or {}).get("shell"),
        "seed": manifest.get("seed"),
        "model": manifest.get("model"),
        "commit": git.get("commit"),
        "changed since": git.get("dirty"),
        "versions": versions,
        "datasets": manifest.get("datasets"),
    }
    return ["", "Its manifest:", "", "```json", json.dumps(kept, indent=1), "```"]


def _code(text: str) -> str:
    return f"`{text}`" if text else "–"


def _linked(paper: str) -> str:
    return _ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", paper) or "–"


def _cell(text: str) -> str:
    """Keep a bar from ending the cell, a line break the row."""
    return text.replace("|", r"\|").replace("\n", " ")
