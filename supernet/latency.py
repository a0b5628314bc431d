"""Latency of paths, and the constraint that drives its expectation to the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from supernet.space import SearchSpace

# Weight of log(E / T) whatever the multiplier: half the latency is worth 0.0007 of cross-entropy, far below what a
# candidate that classifies better gains, and enough to choose between candidates that classify alike.
PULL = 0.001


class LatencyError(ValueError):
    """A latency is missing, not finite or negative, or the budget is no budget."""


@dataclass(frozen=True)
class PathLatency:
    """Seconds of what every network runs, and of each candidate of each block (skip: 0.0).

    Raises:
        LatencyError: a latency that is not a finite number, or below zero; nothing that takes time at all.
    """

    fixed_s: float
    block_s: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        every = [self.fixed_s, *(seconds for block in self.block_s for seconds in block)]
        if not all(math.isfinite(seconds) and seconds >= 0.0 for seconds in every):
            raise LatencyError(
                "Every latency must be a finite number of seconds, zero or more. Calibrate the target again."
            )
        if self.fixed_s == 0.0:
            raise LatencyError("The fixed layers cannot take 0 s. Calibrate the target again.")

    def check(self, space: SearchSpace) -> None:
        """Refuse a table that was made for another space.

        Raises:
            LatencyError: a block or a candidate has no latency, or there is one too many.
        """
        expected = [len(block.candidates) for block in space.blocks]
        found = [len(block) for block in self.block_s]
        if expected != found:
            raise LatencyError(
                f"Space {space.name} has {expected} candidates by block, the latencies are for {found}. "
                "Calibrate the target for this space."
            )

    def of(self, path: Sequence[int]) -> float:
        """Seconds of the network that picks candidate `path[i]` in block i."""
        total = self.fixed_s
        for seconds, chosen in zip(self.block_s, path, strict=True):
            total += seconds[chosen]
        return total

    def expected_s(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Expected seconds, a scalar: fixed + sum over blocks of sum_j p_j F_j (the paper's equation 6).

        Every candidate has its term, so every block gets a gradient whichever path is sampled.
        """
        blocks = (p @ p.new_tensor(seconds) for p, seconds in zip(probabilities, self.block_s, strict=True))
        return sum(blocks, start=probabilities[0].new_tensor(self.fixed_s))


class LatencyConstraint:
    """Expected latency at or below the budget, as an augmented Lagrangian (Nocedal and Wright, section 17.4).

    The constraint is log(E / T) <= 0. The logarithm of the *ratio* has no unit, so microseconds and seconds need no
    other weight; the paper's (log E / log T)^b is not a number below 1 ms. The multiplier grows while the expectation
    is over the budget and shrinks to zero under it, so no weight has to be guessed for a budget to be met. A small
    linear term stays under the budget too: every block gets a gradient at every step, and of candidates that classify
    alike the faster one wins.
    """

    def __init__(self, budget_s: float, *, damping: float, rate: float, multiplier: float = 0.0) -> None:
        """Start from `multiplier`; `damping` weighs the quadratic term, `rate` is the step of the multiplier.

        Raises:
            LatencyError: the budget is not a positive finite number.
        """
        if not (math.isfinite(budget_s) and budget_s > 0.0):
            raise LatencyError(f"A latency budget must be a positive number of seconds, got {budget_s}.")
        self.budget_s, self.damping, self.rate, self.multiplier = budget_s, damping, rate, multiplier

    def penalty(self, expected_s: Tensor) -> Tensor:
        """What to add to the loss. Gradient: (PULL + max(0, multiplier + damping * log(E / T))) * d log(E / T)."""
        excess = (expected_s / self.budget_s).log()
        active = ((self.multiplier + self.damping * excess).relu() ** 2 - self.multiplier**2) / (2.0 * self.damping)
        return PULL * excess + active

    def update(self, expected_s: float) -> None:
        """One step of dual ascent, after a step of the alphas."""
        self.multiplier = max(0.0, self.multiplier + self.rate * math.log(expected_s / self.budget_s))
