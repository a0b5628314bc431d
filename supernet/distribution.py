"""PathDistribution: how likely each candidate of each block is, as alphas that a search moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Path = Sequence[int]
"""A network of a space: the index of one candidate for each block."""


class PathDistribution(nn.Module):
    """One vector of alphas [candidates] for each block, p = softmax(alpha); all zero at first: equally likely.

    A candidate that was pruned has alpha = -inf: its probability is zero, exactly and for good.
    """

    def __init__(self, candidates: Sequence[int]) -> None:
        super().__init__()
        self.alphas = nn.ParameterList(torch.zeros(count) for count in candidates)

    def probabilities(self) -> list[Tensor]:
        """The probability of each candidate of each block, with a graph back to the alphas."""
        return [alpha.softmax(0) for alpha in self.alphas]

    def log_probability(self, path: Path) -> Tensor:
        """log p of a path, a scalar with a graph back to the alphas."""
        chosen = [alpha.log_softmax(0)[k] for alpha, k in zip(self.alphas, path, strict=True)]
        return torch.stack(chosen).sum()

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> list[int]:
        """A path drawn by the probabilities."""
        return [int(torch.multinomial(p.cpu(), 1, generator=generator)) for p in self.probabilities()]

    @torch.no_grad()
    def most_probable(self) -> list[int]:
        """The path of the highest probability in each block."""
        return [int(alpha.argmax()) for alpha in self.alphas]

    @torch.no_grad()
    def prune(self, threshold: float) -> list[tuple[int, int]]:
        """Give up every candidate less likely than `threshold`, but never the likeliest of a block.

        Returns:
            (block, candidate) of each that was given up now.
        """
        pruned = []
        for block, (alpha, p) in enumerate(zip(self.alphas, self.probabilities())):
            below = (p < threshold) & (p < p.max()) & alpha.isfinite()
            alpha[below] = -torch.inf
            pruned += [(block, k) for k in below.nonzero().flatten().tolist()]
        return pruned

    def alive(self) -> list[list[int]]:
        """The candidates of each block that were not pruned."""
        return [alpha.isfinite().nonzero().flatten().tolist() for alpha in self.alphas]
