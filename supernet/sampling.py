"""Random networks of a space within limits, each as likely as any other but for the rounding of costs."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
import torch

from supernet.costs import Constraint

# The tightest limit is kept by counting, on costs that are each rounded up to a part of it: with 21 blocks the last
# thousandth of the limit is out of reach. The others are kept by drawing again.
PARTS = 20_000
DRAWS = 10_000


class SamplingError(ValueError):
    """No network that keeps every limit was found."""


class RandomPaths:
    """Draws paths that keep every constraint, uniformly among those that cost at least `at_least` of the tightest.

    The number of ways to go on from each block with what is left of the limit is counted backwards, block by block;
    a candidate is then drawn with the share of networks that go on from it. Drawing blindly would find next to no
    network where the limit is tight.

    Raises:
        SamplingError: no network costs that.
    """

    def __init__(self, constraints: Sequence[Constraint], at_least: float = 0.0) -> None:
        # The tightest first, so that few draws are thrown away.
        tightness = {c.name: c.costs.of(c.costs.cheapest()) / c.limit for c in constraints}
        self.first, *self.others = sorted(constraints, key=lambda c: -tightness[c.name])
        part = self.first.limit / PARTS
        self.costs = [[ceil(cost / part) for cost in block] for block in self.first.costs.blocks]
        self.left = PARTS - ceil(self.first.costs.fixed / part)
        spare = np.zeros(max(self.left, 0) + 1)
        spare[: floor((1.0 - at_least) * PARTS) + 1] = 1.0
        # ways[b][r]: networks from block b on that cost at most r parts, and leave no more than allowed.
        self.ways = [spare]
        for block in reversed(self.costs):
            self.ways.insert(0, sum((_shifted(self.ways[0], cost) for cost in block), np.zeros_like(spare)))
        if self.left < 0 or self.ways[0][self.left] == 0:
            share = f" and at least {at_least:.0%} of it" if at_least else ""
            raise SamplingError(
                f"No network of the space has a {self.first.name} of at most {self.first.limit:.4g}{share}. Raise the "
                "limit."
            )

    def draw(self, generator: torch.Generator) -> list[int]:
        """One path.

        Raises:
            SamplingError: none of many draws keeps the other constraints.
        """
        for _ in range(DRAWS):
            path = self._draw(generator)
            if all(constraint.allows(path) for constraint in self.others):
                return path
        names = ", ".join(constraint.name for constraint in self.others)
        raise SamplingError(
            f"Of {DRAWS} random networks within the {self.first.name}, none keeps the limit of {names}. Raise one."
        )

    def _draw(self, generator: torch.Generator) -> list[int]:
        path, left = [], self.left
        for block, ways in zip(self.costs, self.ways[1:]):
            weights = torch.tensor([ways[left - cost] if cost <= left else 0.0 for cost in block], dtype=torch.float64)
            path.append(int(torch.multinomial(weights, 1, generator=generator)))
            left -= block[path[-1]]
        return path


def _shifted(ways: np.ndarray, cost: int) -> np.ndarray:
    """ways[r - cost] at r, nothing where that is below zero."""
    shifted = np.zeros_like(ways)
    if cost < len(ways):
        shifted[cost:] = ways[: len(ways) - cost]
    return shifted
