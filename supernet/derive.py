"""Derive: the most probable network that fits the budget."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from supernet.architecture import Choice
from supernet.latency import PathLatency
from supernet.space import SearchSpace


class BudgetError(ValueError):
    """No network of the space fits the budget."""


class _Prefix(NamedTuple):
    """The first blocks of a network: seconds with the fixed layers, log-probability, candidate of each block."""

    seconds: float
    log_p: float
    path: tuple[int, ...]


def derive(
    space: SearchSpace, probabilities: Sequence[Sequence[float]], latency: PathLatency, budget_s: float
) -> tuple[Choice, ...]:
    """The choices of the most probable network whose predicted latency is at most `budget_s`.

    Exact: dynamic programming over blocks that keeps, of all prefixes, those that no other beats in both latency and
    probability (Nemhauser and Ullmann, 1969). Of equally probable networks the fastest wins.

    Raises:
        BudgetError: nothing fits; the message names the fastest network of the space.
        LatencyError: the latencies are not for this space.
    """
    latency.check(space)
    frontier = [_Prefix(latency.fixed_s, 0.0, ())]
    for block_p, block_s in zip(probabilities, latency.block_s, strict=True):
        # A probability that softmax rounded to zero still ranks below every other, and does not hide other blocks.
        log_p = [math.log(max(p, sys.float_info.min)) for p in block_p]
        longer = [
            _Prefix(prefix.seconds + block_s[k], prefix.log_p + log_p[k], (*prefix.path, k))
            for prefix in frontier
            for k in range(len(block_s))
        ]
        frontier = _undominated([prefix for prefix in longer if prefix.seconds <= budget_s])
    if not frontier:
        raise BudgetError(_nothing_fits(space, latency, budget_s))
    best = frontier[-1]
    return tuple(block.candidates[k] for block, k in zip(space.blocks, best.path))


def fastest(space: SearchSpace, latency: PathLatency) -> tuple[Choice, ...]:
    """The choices of the network with the lowest predicted latency."""
    return tuple(
        block.candidates[min(range(len(seconds)), key=seconds.__getitem__)]
        for block, seconds in zip(space.blocks, latency.block_s)
    )


def predicted_s(space: SearchSpace, choices: Sequence[Choice], latency: PathLatency) -> float:
    """Seconds of the network with these choices."""
    return latency.of([block.candidates.index(choice) for block, choice in zip(space.blocks, choices, strict=True)])


def _undominated(prefixes: list[_Prefix]) -> list[_Prefix]:
    """Those that are more probable than every faster one; fastest first, so the most probable is last."""
    kept: list[_Prefix] = []
    for prefix in sorted(prefixes, key=lambda prefix: (prefix.seconds, -prefix.log_p)):
        if not kept or prefix.log_p > kept[-1].log_p:
            kept.append(prefix)
    return kept


def _nothing_fits(space: SearchSpace, latency: PathLatency, budget_s: float) -> str:
    choices = fastest(space, latency)
    fastest_ms = predicted_s(space, choices, latency) * 1e3
    return (
        f"No network of space {space.name} fits {budget_s * 1e3:.4g} ms. The fastest, "
        f"`{space.architecture(choices).text}`, is predicted to take {fastest_ms:.4g} ms: raise the budget above that."
    )
