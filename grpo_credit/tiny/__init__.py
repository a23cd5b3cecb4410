"""Models and tasks that need no download.

The first task is a running sum with a fixed answer format. Its model has half a million parameters,
reads characters, and is warm-started in half a minute to obey the format one time in three.
`warm_start` names the function here; its module is reached by `from grpo_credit.tiny.warm_start
import ...`. The second task, paths through star graphs, is in `path_star` and `next_token`.
"""

from grpo_credit.tiny.demonstrations import Demonstration, demonstration
from grpo_credit.tiny.model import build_model
from grpo_credit.tiny.task import MAX_COMPLETION_TOKENS, PATTERN, Check, check, dataset, prompts
from grpo_credit.tiny.tokenizer import build_tokenizer
from grpo_credit.tiny.warm_start import warm_start

__all__ = [
    "MAX_COMPLETION_TOKENS",
    "PATTERN",
    "Check",
    "Demonstration",
    "build_model",
    "build_tokenizer",
    "check",
    "dataset",
    "demonstration",
    "prompts",
    "warm_start",
]
