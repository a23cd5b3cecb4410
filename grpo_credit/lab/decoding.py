"""What comes of drawing several strings and keeping one, against the tempered target."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grpo_credit.lab.particles import TableWalk, draw, shares, steer
from grpo_credit.lab.sampling import Progress
from grpo_credit.lab.tempering import Tempering, divergence, resampled

UNSEEN = 0.5  # strings added to every count, so that one that never came out has a logarithm


class Decoded(NamedTuple):
    """How far the strings that come out are from the target.

    Args:
        way: how they are drawn.
        samples: how many at a time, of which one is kept; K.
        distance: KL(target ‖ .) of each policy, nats.
        floor: what an exact sampler of as many strings shows; None where nothing is drawn.
    """

    way: str
    samples: int
    distance: Float[Tensor, " R"]
    floor: Float[Tensor, " R"] | None


def measure(
    problem: Tempering, samples: Sequence[int], draws: int, seed: int, progress: Progress = iter
) -> list[Decoded]:
    """Measure resampling, exactly, and sequential Monte Carlo, from strings that it draws.

    Args:
        problem: policies, and their temperature.
        samples: values of K, each at least 1.
        draws: strings of each policy that Monte Carlo draws, at least the largest K.
        seed: of these.
        progress: wraps the iteration over K, such as `tqdm`.

    Raises:
        ValueError: if a number is too small.
    """
    if min(samples) < 1 or draws < max(samples):
        raise ValueError(
            f"{draws} draws are to be kept one of {', '.join(map(str, samples))}; expected 1 or "
            "more of them, and no more than there are draws."
        )
    myopic = problem.ahead(1)
    weight, myopic_weight = (problem.strings / problem.tau - q for q in (problem.strings, myopic))
    floor = _floor(problem, draws, seed)
    found = []
    for count in progress(samples):
        steered = _steered(problem, count, draws, seed)
        found += [
            Decoded(
                "samples of p", count, _resampled(problem, problem.strings, weight, count), None
            ),
            Decoded("next-token", count, _resampled(problem, myopic, myopic_weight, count), None),
            Decoded("Monte Carlo", count, steered, floor),
        ]
    return sorted(found, key=lambda each: each.way, reverse=True)


def _resampled(
    problem: Tempering, proposal: Float[Tensor, "R M"], weight: Float[Tensor, "R M"], samples: int
) -> Float[Tensor, " R"]:
    pairs = zip(proposal, weight, strict=True)
    return divergence(problem.target, torch.stack([resampled(p, w, samples) for p, w in pairs]))


def _steered(problem: Tempering, samples: int, draws: int, seed: int) -> Float[Tensor, " R"]:
    language, found = problem.language, []
    for logps in problem.reference:
        generator = torch.Generator().manual_seed(seed)
        walk = TableWalk(language, logps, problem.tau, draws // samples * samples)
        found.append(shares(language, *steer(walk, samples, language.length, generator)))
    return _seen(problem, torch.stack(found), draws)


def _floor(problem: Tempering, draws: int, seed: int) -> Float[Tensor, " R"]:
    rows = draw(problem.target.exp(), draws, torch.Generator().manual_seed(seed))
    counts = torch.zeros_like(problem.target).scatter_add(1, rows, torch.ones_like(rows).double())
    return _seen(problem, counts / draws, draws)


def _seen(problem: Tempering, shares: Float[Tensor, "R M"], draws: int) -> Float[Tensor, " R"]:
    counts = shares * draws + UNSEEN
    return divergence(problem.target, (counts / counts.sum(dim=1, keepdim=True)).log())
