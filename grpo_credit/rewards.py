"""Rewards, by a name that no file of yours can take: `from grpo_credit.rewards import …`.

The same objects as those of the top-level `rewards`; see `grpo_credit.own_rewards`.
"""

import sys
from typing import TYPE_CHECKING

from grpo_credit.own_rewards import load

if TYPE_CHECKING:
    from rewards import *  # noqa: F403

sys.modules[__name__] = load(__name__)
