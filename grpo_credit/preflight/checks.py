"""What a sample of completions says about the run to come: each check is a function of numbers.

The thresholds are rules of thumb; every message gives the number itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from grpo_credit.preflight.findings import Finding, Severity
from grpo_credit.preflight.groups import SIZES, dead_shares, mean_informative
from grpo_credit.preflight.sample import RewardSample, Sample, milliseconds
from grpo_credit.preflight.tool_use import check_tools
from grpo_credit.preflight.variants import VARIANTS
from grpo_credit.rewards import SlowPatternWarning

SLOW_CALL = 1.0  # seconds
SAME = 1e-6  # how far apart equal rewards may be


def check_sample(sample: Sample, *, alone: bool = False) -> list[Finding]:
    """Find what will keep a run from learning in a sample of its completions.

    Where a reward raised, nothing is said about groups: its scores are not real. Nor where all
    rewards are the same: that is told of the reward. A strategy that teaches `alone` needs no
    rewards that differ.
    """
    judged = not alone and not any(reward.failures for reward in sample.rewards)
    findings = [
        truncation(_share(sample.truncated), sample.longest),
        *(finding for reward in sample.rewards for finding in _reward(reward, sample, alone)),
        special_tokens(_share(sample.special)),
        informative_groups(sample) if judged and _range(sample.totals) > SAME else None,
        reward_time(sample),
        *check_tools(sample.tools),
    ]
    return [finding for finding in findings if finding is not None]


def _reward(reward: RewardSample, sample: Sample, alone: bool) -> list[Finding | None]:
    if reward.failures:
        return [raised(reward)]
    nothing_else = _range(sample.totals) <= SAME
    return [
        None if alone else spread(reward.name, reward.scores, nothing_else),
        slow(reward),
        hopeless(reward, len(sample.lengths)),
        *failing_format(reward),
    ]


# ---- length -----------------------------------------------------------------------------------


def truncation(share: float, longest: int, kind: str = "truncation") -> Finding | None:
    """Judge the share of completions that run into `max_completion_length`."""
    severity = _graded(share, note=0.05, warning=0.2, error=0.8)
    if severity is None:
        return None
    return Finding(
        severity,
        kind,
        f"{share:.0%} of the completions are cut off at max_completion_length={longest}: what "
        "stands at their end, such as an answer, is never seen.",
        f"Raise --max_completion_length (say {4 * longest if share > 0.8 else 2 * longest}), make "
        "sure that the model ends its turn (chat template, end-of-text token), or leave cut "
        "completions out of the loss with --mask_truncated_completions.",
    )


def special_tokens(share: float) -> Finding | None:
    """Judge the share of completions in whose text special tokens are spelled out."""
    severity = _graded(share, note=0.0, warning=0.2, error=2.0)
    if severity is None:
        return None
    return Finding(
        severity,
        "special tokens",
        f"{share:.0%} of the completions hold the text of a special token, such as <|im_end|>: the "
        "model writes it in letters, or the tokenizer does not know it as special.",
        "Use the tokenizer and chat template that belong to the model; a reward sees this text.",
    )


# ---- rewards ----------------------------------------------------------------------------------


def raised(reward: RewardSample) -> Finding:
    """Tell an exception of a reward function."""
    return Finding(
        "error",
        f"reward {reward.name}",
        f"it failed in {len(reward.failures)} of {len(reward.calls)} calls; the first time with "
        f"{reward.failures[0]}",
        "Mend it, or wrap it: rewards.guard(reward, on_error='wrong'). Training stops at the "
        "first exception of a reward.",
    )


def spread(
    name: str, scores: Sequence[float] | np.ndarray, alone: bool, of: str = "completions"
) -> Finding | None:
    """Judge whether a reward tells completions apart, or what else (`of`) it has scored.

    NaN is an abstention. It is an error where the reward is `alone`: no other one teaches instead.
    """
    given = np.asarray(scores, dtype=float)
    given = given[~np.isnan(given)]
    severity: Severity = "error" if alone else "warning"
    if not given.size:
        return Finding(
            severity,
            f"reward {name}",
            f"it abstained (None) on all {len(scores)} {of}.",
            "See that it reads the right column and form of completion.",
        )
    if _range(given) > SAME:
        return None
    return Finding(
        severity,
        f"reward {name}",
        f"it is constant: {given[0]:g} for all {given.size} {of}, so it teaches nothing.",
        "If it never fires, see what the model writes, and take easier prompts or a more capable "
        "model; for a format, loosen it, give partial credit (rewards.TagFormat(partial_credit="
        "...)), or begin with supervised fine-tuning on it. If it always fires, ask for more.",
    )


def failing_format(reward: RewardSample) -> list[Finding]:
    """Return what changes would have made failing completions earn as much as the best one."""
    return [
        Finding(
            "error" if 2 * helped.helped >= helped.tried else "warning",
            f"reward {reward.name}: {variant.kind}",
            f"{helped.helped} of {helped.tried} completions with the lowest reward fail only "
            f"because {variant.cause}.",
            variant.remedy,
        )
        for variant in VARIANTS
        if (helped := reward.relief.get(variant.kind)) is not None
    ]


# ---- time -------------------------------------------------------------------------------------


def slow(reward: RewardSample) -> Finding | None:
    """Judge how long a reward takes for the completions of one prompt."""
    times = milliseconds(reward)
    if times is None or times[1] < 1e3 * SLOW_CALL:
        return None
    return Finding(
        "warning",
        f"reward {reward.name}: time",
        f"a call with {max(n for n, _ in reward.calls)} completions takes {times[0]:,.0f} ms "
        f"(median; 95th percentile {times[1]:,.0f} ms); every rank waits for the slowest.",
        "Make it an `async def`, which TRL runs side by side with the others, give it processes "
        "and a time limit with rewards.guard(reward, timeout=...), or remember answers.",
    )


def hopeless(reward: RewardSample, completions: int) -> Finding | None:
    """Tell the pattern that most often ran out of time."""
    if not reward.slow:
        return None
    [(pattern, count)] = reward.slow.most_common(1)
    return Finding(
        "error",
        f"reward {reward.name}: pattern",
        f"{pattern!r:.300} ran out of time on {count} of {completions} completions. They count as "
        "not matching, and it will cost as much at every step.",
        SlowPatternWarning.remedy,
    )


def reward_time(sample: Sample) -> Finding | None:
    """Judge the share of the time of sampling that rewards take."""
    rewards = sum(seconds for r in sample.rewards for _, seconds in r.calls)
    if rewards < SLOW_CALL or rewards < sample.seconds:
        return None
    return Finding(
        "warning",
        "time",
        f"rewards took {rewards:.1f} s for {len(sample.lengths)} completions, generation "
        f"{sample.seconds:.1f} s.",
        "Speed up the rewards first.",
    )


# ---- groups -----------------------------------------------------------------------------------


def informative_groups(sample: Sample) -> Finding | None:
    """Judge the expected share of groups in which two rewards differ."""
    groups = sample.groups
    shares = {size: mean_informative(groups, size) or 0.0 for size in SIZES if size > sample.group}
    return dead_groups(*dead_shares(groups, sample.group), sample.group, shares)


def dead_groups(
    low: float, high: float, group: int, larger: Mapping[int, float] | None = None
) -> Finding | None:
    """Judge the shares of groups whose rewards are all low and all high.

    `larger` maps larger sizes than `num_generations` to the share of informative groups they have.
    """
    share = round(1 - low - high, 9)
    if share >= 0.3:
        return None
    return Finding(
        "error" if share < 0.05 else "warning",
        "dead groups",
        f"only {share:.1%} of the groups are expected to be informative with num_generations="
        f"{group}: {low:.0%} are all low, {high:.0%} all high, and give no gradient.",
        _more_informative(low >= high, larger or {}),
    )


def _more_informative(too_hard: bool, shares: Mapping[int, float]) -> str:
    better = next((size for size, s in shares.items() if s >= 0.5), max(shares, default=None))
    easier = (
        "Take easier prompts, give partial credit, or begin with supervised fine-tuning."
        if too_hard
        else "Take harder prompts, or ask more of a completion."
    )
    if better is None or shares[better] < 0.05:
        return easier
    return f"Set --num_generations {better}: {shares[better]:.0%} would be. {easier}"


def _range(values: np.ndarray) -> float:
    scored = values[~np.isnan(values)]
    return float(np.ptp(scored)) if scored.size else 0.0


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))


def _graded(value: float, **limits: float) -> Any:
    """Return the highest severity whose limit is exceeded."""
    return next((name for name, limit in reversed(limits.items()) if value > limit), None)
