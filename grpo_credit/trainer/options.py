"""The options that this package adds to TRL's: readable without importing torch or trl."""

from dataclasses import dataclass, field


@dataclass
class CreditOptions:
    """Options that `CreditGRPOConfig` adds to `GRPOConfig`."""

    credit: str | None = field(
        default=None,
        metadata={
            "help": "How a reward is spread over tokens: an aggregation (uniform, length, seq, "
            "dapo), allocation/aggregation (even/seq), or pkg.mod:obj for your own; `grpo-credit "
            "list` shows all. Default: what TRL's loss_type stands for."
        },
    )
    credit_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": "Options of the strategy, as JSON: '{\"alpha\": 0.75}'."},
    )
    credit_scale: float = field(
        default=1.0,
        metadata={
            "help": "A constant, > 0, that multiplies the credit and not the KL term; makes the "
            "gradients of two strategies equally long. AdamW undoes it but for clipping and its "
            "epsilon."
        },
    )
    privileged_column: str = field(
        default="privileged_prompt",
        metadata={
            "help": "Column of prompts that hold more than the model is shown, such as the answer; "
            "for strategies that compare (contrast)."
        },
    )
    answer_text_column: str = field(
        default="answer",
        metadata={
            "help": "Column of right answers, as the model would write them; for the strategy that "
            "asks at each turn how likely the policy finds them (igpo)."
        },
    )
    vine_cuts: str = field(
        default="every:64",
        metadata={
            "help": "Where credit 'vine' cuts completions, to continue them from there: 'every:64' "
            "tokens, 'sentence' (after one, or a line), 'entropy:2' (nats before a token, or more) "
            "or 'probability:0.1' (after a token of that or less)."
        },
    )
    vine_continuations: int = field(
        default=4,
        metadata={"help": "How many continuations from each cut are averaged."},
    )
    vine_tokens: int = field(
        default=0,
        metadata={
            "help": "How many tokens of continuations a generation may draw at most, over all "
            "processes; needed with credit 'vine'. Cuts that they do not suffice for, the later "
            "ones first, are left out. The same tokens as a larger num_generations usually do more."
        },
    )
    save_rollouts: int = field(
        default=0,
        metadata={
            "help": "Keep the rollouts of every N-th optimizer step with all that any strategy may "
            "need, for `grpo-credit show` and `grpo-credit lab replay`; costs a forward pass more "
            "in those steps. 0 keeps none."
        },
    )
    efficient_batching: str = field(
        default="auto",
        metadata={
            "help": "'auto': skip rows without credit, and run each prompt once with its "
            "completions in packed rows without padding, where that leaves the gradient as it is; "
            "'off': the micro-batches of TRL."
        },
    )


@dataclass
class SupervisedOptions:
    """Options that `CreditSFTConfig` adds to `SFTConfig`."""

    credit: str | None = field(
        default=None,
        metadata={
            "help": "How documents and their tokens weigh in the loss: an aggregation (uniform, "
            "length, seq, dapo, delta_l), allocation/aggregation (trace/seq), or pkg.mod:obj for "
            "your own; `grpo-credit list --stage supervised` shows all. Default: TRL's mean over "
            "the tokens of a step, which is dapo."
        },
    )
    credit_kwargs: dict | str | None = field(
        default=None,
        metadata={"help": "Options of the strategy, as JSON: '{\"alpha\": 0.75}'."},
    )
    save_rollouts: int = field(
        default=0,
        metadata={
            "help": "Keep the documents of every N-th optimizer step, for `grpo-credit show`. 0 "
            "keeps none."
        },
    )
