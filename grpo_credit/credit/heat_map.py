"""The credit of each token, as a notebook shows it and as a table."""

from dataclasses import dataclass

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from grpo_credit.credit.rollouts import Rollouts


@dataclass(frozen=True)
class HeatMap:
    """Completions whose tokens are shaded by their credit: blue rewards, orange blames.

    Args:
        rollouts: the completions; with `texts` their tokens are shown as text, otherwise as ids.
        credit: (B, T), such as `compute_credit` returns.

    Raises:
        ValueError: if the credit has another shape than the mask.

    Example:
        >>> from grpo_credit import compute_credit
        >>> two = Rollouts.from_lists([1, 2], [1.0, 0.0], num_generations=2,
        ...                           max_completion_length=2, scale_rewards="none")
        >>> HeatMap(two, compute_credit("seq", two)).to_pandas()[["row", "token", "credit"]]
           row token  credit
        0    0     0    0.25
        1    1     0   -0.25
        2    1     1   -0.25
    """

    rollouts: Rollouts
    credit: Float[Tensor, "B T"]

    def __post_init__(self) -> None:
        if self.credit.shape != self.rollouts.mask.shape:
            raise ValueError(
                f"credit has shape {tuple(self.credit.shape)}, expected that of the completions, "
                f"{tuple(self.rollouts.mask.shape)}."
            )

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each counted token: completion, group, place, text or id, credit."""
        rollouts = self.rollouts
        rows, columns = (index.cpu() for index in rollouts.mask.nonzero(as_tuple=True))
        tokens = [rollouts.token_texts(row) for row in range(len(rollouts.mask))]
        return pd.DataFrame({
            "row": rows, "group": rollouts.group.cpu()[rows], "column": columns,
            "token": [tokens[r][c] for r, c in zip(rows.tolist(), columns.tolist(), strict=True)],
            "advantage": rollouts.advantages.cpu()[rows], "reward": rollouts.rewards.cpu()[rows],
            "credit": self.credit.cpu()[rows, columns],
        })  # fmt: skip

    def _repr_html_(self) -> str:
        return self.rollouts.shaded(self.credit)
