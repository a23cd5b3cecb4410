"""`python -m grpo_credit`: the command `grpo-credit`."""

import sys

from grpo_credit.cli import main

if __name__ == "__main__":
    sys.exit(main())
