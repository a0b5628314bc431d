"""A space small enough to enumerate, whose every network's loss is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from supernet.costs import Constraint, PathCosts, latency
from supernet.distribution import Path

FEATURES = 3
# What a candidate is worth by itself is this far from the next one of its block.
SPACING = 0.5
# How much it depends on each neighbour: pairs have a standard deviation of sqrt(FEATURES) times this.
INTERACTION = 0.05


class KnownLosses:
    """`Objective` without images: networks whose loss is a sum over blocks and over pairs of neighbours.

    78,125 of them unless fewer blocks or candidates are asked for.
    """

    def __init__(self, seed: int, *, blocks: int = 7, candidates: int = 5, interaction: float = INTERACTION) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.shape = blocks, candidates

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        # Evenly spaced in a random order: of normal values two are nearly alike in one of seven blocks, and no
        # algorithm that samples can tell them apart.
        order = torch.stack([torch.randperm(candidates, generator=generator) for _ in range(blocks)])
        self.alone = SPACING * order.double()
        self.together = interaction**0.5 * normal(blocks, candidates, FEATURES)
        costs = torch.rand(blocks, candidates, generator=generator).tolist()
        self.costs = PathCosts(0.5, tuple(tuple(row) for row in costs))
        self.evaluations = 0

    def mixture(self, gates: Tensor) -> Tensor:
        """gates [..., blocks, candidates] -> loss [...], linear in the gates of each block."""
        alone = (gates * self.alone).sum((-2, -1))
        features = torch.einsum("...bk,bkf->...bf", gates, self.together)
        return alone + (features[..., 1:, :] * features[..., :-1, :]).sum((-2, -1))

    def loss(
        self, path: Path, gates: Sequence[Tensor] | None = None, among: Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        blocks, candidates = self.shape
        one_hot = functional.one_hot(torch.tensor(path), candidates).double()
        if gates is None:
            return self.mixture(one_hot)
        among = among or [range(candidates)] * blocks
        # Work is counted as it is: each candidate that runs is a part of a network.
        self.evaluations += max(len(some) for some in among)
        mask = torch.zeros(blocks, candidates, dtype=torch.float64)
        for row, some in zip(mask, among):
            row[list(some)] = 1.0
        stacked = torch.stack(list(gates))
        return self.mixture(one_hot + mask * (stacked - stacked.detach()))

    def accuracy(self, path: Path) -> float:
        self.evaluations += 1
        return -float(self._table[1][self._index(path)])

    def _index(self, path: Path) -> int:
        index = 0
        for k in path:
            index = index * self.shape[1] + k
        return index

    @cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        """All paths [N, blocks], and their losses [N]."""
        blocks, candidates = self.shape
        paths = torch.tensor(list(product(range(candidates), repeat=blocks)))
        return paths, self.mixture(functional.one_hot(paths, candidates).double())

    def best(self, limit: float) -> tuple[tuple[int, ...], float]:
        """The path of the least loss within the limit, and its loss, by looking at all."""
        paths, _ = self._table
        losses = self._losses_within(limit)
        return tuple(paths[losses.argmin()].tolist()), losses.min().item()

    def quantile(self, limit: float, share: float) -> float:
        """The loss that so many of the networks within the limit do not exceed."""
        losses = self._losses_within(limit)
        return losses[losses.isfinite()].quantile(share).item()

    def _losses_within(self, limit: float) -> Tensor:
        paths, losses = self._table
        costs = torch.tensor(self.costs.blocks, dtype=torch.float64)
        spent = self.costs.fixed + costs[torch.arange(self.shape[0]), paths].sum(1)
        return losses.masked_fill(spent > limit, torch.inf)

    def within(self, limit: float) -> list[Constraint]:
        return [latency(self.costs, limit)]


@pytest.fixture(scope="session")
def known_losses() -> type[KnownLosses]:
    return KnownLosses
