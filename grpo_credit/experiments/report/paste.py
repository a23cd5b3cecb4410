"""Tables for papers and programs."""

import pandas as pd

from grpo_credit.experiments.words import Table
from grpo_credit.text import visible


def frame(content: Table) -> pd.DataFrame:
    """Return a table's texts as a data frame."""
    rows = [list(map(visible, row)) for row in content.rows]
    return pd.DataFrame(rows, columns=list(map(visible, content.columns)))


def csv(content: Table) -> str:
    """Write a table as CSV, its numbers as they are shown."""
    return frame(content).to_csv(index=False)


def latex(content: Table) -> str:
    r"""Write a table as LaTeX, for the packages booktabs and inputenc.

    Example:
        >>> print(latex(Table(["a", "b"], [["x_1", "50 %"]])), end="")
        \begin{tabular}{lr}
        \toprule
        a & b \\
        \midrule
        x\_1 & 50 \% \\
        \bottomrule
        \end{tabular}
    """
    columns = "l" + "r" * (len(content.columns) - 1)
    return frame(content).to_latex(index=False, escape=True, column_format=columns)
