r"""Compare credit strategies: strategies × seeds of a recipe, each cell a process of its own.

    python scripts/ablate.py --recipe recipes/grpo_regex.py --credit uniform length seq dapo \
        --seeds 6 --out reports/regex [options of the recipe]

The same as `grpo-credit ablate`; see --help.
"""

import sys

from grpo_credit.experiments.study.ablate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], ["python", *sys.argv]))
