"""A space small enough to enumerate, whose every network's loss is known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from supernet.costs import LATENCY, Constraint, PathCosts
from supernet.distribution import Path

BLOCKS, CANDIDATES, FEATURES = 7, 5, 3
# How much a candidate's worth depends on its neighbours, beside what it is worth by itself.
INTERACTION = 0.1


class KnownLosses:
    """`Objective` without images: 78,125 networks whose loss is a sum over blocks and over pairs of neighbours."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.alone, self.together = normal(BLOCKS, CANDIDATES), INTERACTION**0.5 * normal(BLOCKS, CANDIDATES, FEATURES)
        self.costs = PathCosts(
            0.5, tuple(tuple(row) for row in torch.rand(BLOCKS, CANDIDATES, generator=generator).tolist())
        )
        self.evaluations = 0

    def _loss(self, gates: Tensor) -> Tensor:
        """gates [..., BLOCKS, CANDIDATES] -> loss [...]."""
        alone = (gates * self.alone).sum((-2, -1))
        features = torch.einsum("...bk,bkf->...bf", gates, self.together)
        return alone + (features[..., 1:, :] * features[..., :-1, :]).sum((-2, -1))

    def loss(
        self, path: Path, gates: Sequence[Tensor] | None = None, among: Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        one_hot = functional.one_hot(torch.tensor(path), CANDIDATES).double()
        if gates is None:
            return self._loss(one_hot)
        among = among or [range(CANDIDATES)] * BLOCKS
        # Work is counted as it is: each candidate that runs is a part of a network.
        self.evaluations += max(len(candidates) for candidates in among)
        mask = torch.zeros(BLOCKS, CANDIDATES, dtype=torch.float64)
        for row, candidates in zip(mask, among):
            row[list(candidates)] = 1.0
        stacked = torch.stack(list(gates))
        return self._loss(one_hot + mask * (stacked - stacked.detach()))

    def accuracy(self, path: Path) -> float:
        self.evaluations += 1
        return -float(self.loss(path))

    def every(self) -> tuple[Tensor, Tensor]:
        """All networks as gates [N, BLOCKS, CANDIDATES], and their losses [N]."""
        paths = torch.tensor(list(product(range(CANDIDATES), repeat=BLOCKS)))
        gates = functional.one_hot(paths, CANDIDATES).double()
        return gates, self._loss(gates)

    def within(self, limit: float) -> list[Constraint]:
        return [Constraint(LATENCY, self.costs, limit)]


@pytest.fixture
def known() -> KnownLosses:
    return KnownLosses(0)
