"""Costs in the loss: how a search is made to keep a limit, in three forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

# The paper's exponents and weights (arXiv 1812.00332, section 3.3; released code; its REINFORCE reward is MnasNet's).
POWER_SCALE, POWER_EXPONENT, REWARD_EXPONENT = 0.2, 0.3, 0.1
LINEAR_WEIGHT = 0.1
# Costs in the paper's form are in this unit: seconds become milliseconds.
POWER_UNIT = 1e-3


class Penalty:
    """How one cost enters the loss. This one does not: what follows adds to it or multiplies it."""

    multiplier = 0.0
    """What the search has learnt of the weight; goes into checkpoints and figures."""

    def total(self, loss: Tensor, expected: Tensor, limit: float) -> Tensor:
        """The loss with the expected cost in it, both scalars."""
        return loss + self.term(expected, limit)

    def term(self, expected: Tensor, limit: float) -> Tensor:
        """What is added to the loss."""
        return expected.new_zeros(())

    def reward(self, accuracy: float, cost: float, limit: float) -> float:
        """The reward of one network, for algorithms that learn from rewards; what `term` adds is not in it."""
        return accuracy

    def update(self, expected: float, limit: float) -> None:
        """Called after each step of what decides, with the expected cost before it."""


@dataclass
class TargetPenalty(Penalty):
    """Expected cost *at* the limit, by an augmented Lagrangian (Nocedal and Wright, section 17.3).

    The constraint is log(E / T) = 0. The logarithm of the *ratio* has no unit, so microseconds and seconds need no
    other weight. The multiplier grows while the expectation is over the limit and falls, below zero too, while it is
    under it: the weight adapts until the expectation is there. An equation, not an inequality: what is left of the
    budget is given to the network, since of two networks the larger one nearly always learns more in the end, which a
    short search cannot see.

    damping: weight of the quadratic term. rate: step of the multiplier. The limit T is given with each expectation E,
    since of several budgets now one and now another is the furthest over.
    """

    damping: float
    rate: float
    multiplier: float = 0.0

    def term(self, expected: Tensor, limit: float) -> Tensor:
        """Gradient: (multiplier + damping * log(E / T)) * d log(E / T)."""
        excess = (expected / limit).log()
        return self.multiplier * excess + 0.5 * self.damping * excess**2

    def update(self, expected: float, limit: float) -> None:
        """One step of dual ascent."""
        self.multiplier += self.rate * math.log(expected / limit)


@dataclass
class BoundPenalty(TargetPenalty):
    """Expected cost at or below the limit: the same with log(E / T) <= 0 (section 17.4).

    The multiplier is never below zero, and under the limit both terms vanish: a limit that does not bind changes
    nothing.
    """

    def term(self, expected: Tensor, limit: float) -> Tensor:
        """Gradient: max(0, multiplier + damping * log(E / T)) * d log(E / T)."""
        excess = (expected / limit).log()
        active = (self.multiplier + self.damping * excess).relu() ** 2 - self.multiplier**2
        return active / (2.0 * self.damping)

    def update(self, expected: float, limit: float) -> None:
        """One step of dual ascent."""
        super().update(expected, limit)
        self.multiplier = max(0.0, self.multiplier)


@dataclass
class LinearPenalty(Penalty):
    """The paper's second form: loss + weight * (E - T) / T. Nothing makes the cost arrive at T."""

    weight: float = LINEAR_WEIGHT

    def term(self, expected: Tensor, limit: float) -> Tensor:
        """The pull is the same on both sides of the limit."""
        return self.weight * (expected / limit - 1.0)


@dataclass
class PowerPenalty(Penalty):
    """The paper's first form: loss * a * (log E / log T)^b. Nothing makes the cost arrive at T.

    log is log(1 + milliseconds) here: the paper's log(milliseconds) is not a number below 1 ms and zero at it.
    """

    scale: float = POWER_SCALE
    exponent: float = POWER_EXPONENT

    def total(self, loss: Tensor, expected: Tensor, limit: float) -> Tensor:
        """The product."""
        ratio = (expected / POWER_UNIT).log1p() / math.log1p(limit / POWER_UNIT)
        return loss * self.scale * ratio**self.exponent

    def reward(self, accuracy: float, cost: float, limit: float) -> float:
        """accuracy * (T / cost)^0.1."""
        return accuracy * float((limit / cost) ** REWARD_EXPONENT)


PENALTIES: dict[str, Callable[..., Penalty]] = {
    "target": TargetPenalty,
    "linear": lambda **_: LinearPenalty(),
    "power": lambda **_: PowerPenalty(),
}
"""Those of a budget, by the name that settings use; all take `damping` and `rate`."""
