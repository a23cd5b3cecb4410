"""A credit rule of your own: laws, bias and variance, training.

    grpo-credit check my_rule:later/seq
    grpo-credit lab exact --credit seq my_rule:later/seq
    accelerate launch grpo_regex.py --credit=my_rule:later/seq

The last one trains a recipe that `grpo-credit recipe grpo_regex --copy` writes here.
"""

from grpo_credit import Rollouts, allocation, compute_credit


# A rule tells where in a completion its advantage lands. It gets the completions of one optimizer
# step, whole groups over all ranks, and returns a (B, T) matrix without a gradient. What else it
# can read (entropies, rewards per function, spans ...) is in the docstring of `Rollouts`; what
# costs a pass is asked for by `@allocation(needs=["entropies"])`. Options are keyword-only
# parameters, set by --credit_kwargs '{"power": 2}'.
@allocation
def later(rollouts, *, power: float = 1.0):
    """Give the k-th token of a completion k^power of its advantage; their mean is the advantage."""
    weight = (rollouts.position + 1.0) ** power * rollouts.mask
    mean = weight.sum(dim=1, keepdim=True) / rollouts.lengths[:, None].clamp(min=1)
    return rollouts.advantages[:, None] * weight / mean.clamp(min=1e-9)


# How completions weigh against each other is said after the slash: seq, length, dapo, uniform.
if __name__ == "__main__":
    two = Rollouts.from_lists([2, 4], [1, 0], num_generations=2, max_completion_length=4)
    print(compute_credit("later/seq", two))
