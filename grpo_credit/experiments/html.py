"""Pages: one Jinja environment and one base page, whatever they show.

A template's name is its path in the package. What is not `Markup` is made visible and escaped;
nothing is loaded from a network, and no script runs but the one that the page's own policy names by
its hash.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from grpo_credit.experiments import words
from grpo_credit.experiments.figures.palette import PALETTE
from grpo_credit.experiments.figures.shading import LEVELS, shade
from grpo_credit.text import visible

_KNOWN: dict[str, Any] = {
    "LEVELS": LEVELS, "PALETTE": PALETTE, "shade": shade, "aligned": words.aligned,
    "moment": words.moment,
    "number": words.number, "signed": words.signed, "size": words.size,
    "time_taken": words.time_taken,
}  # fmt: skip


def render(template: str, script: str = "", **content: Any) -> str:
    """Render a page that extends the base page.

    Args:
        template: the page's.
        script: a template with the one script that may run in it; none by default.
        content: what the page shows; `title` is part of it.
    """
    code = own(script) if script else Markup("")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment().get_template(template).render(**content, script=code, digest=digest)


def own(name: str) -> Markup:
    """Return a file of ours as it is: nothing of a study is in it."""
    return Markup(environment().get_template(name).render())


@cache
def environment() -> Environment:
    """Return what templates are read and rendered by."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.globals.update(_KNOWN)
    return environment
