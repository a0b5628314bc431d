"""Gradients of binarised gates (ProxylessNAS, arXiv 1812.00332, section 3.2), of all candidates or of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from supernet.algorithms.interface import Objective
from supernet.algorithms.learned import Learned


class Gradient(Learned):
    """One sampled path runs; every other candidate is run again in backward, without a graph, for its gate's gradient.

    Memory of one path, work of all candidates forwards.
    """

    def gradient(self, objective: Objective, generator: torch.Generator) -> Sequence[Tensor]:
        """The paper's equation 4 for every candidate."""
        probabilities = self.distribution.probabilities()
        loss = objective.loss(self.sample(generator), probabilities, self.distribution.alive())
        return torch.autograd.grad(self.with_limits(loss, probabilities), self.alphas)


class TwoPath(Learned):
    """Two candidates of each block are sampled and compete, as if there were no others (section 3.2, end).

    Memory of one path here too, since the second of the pair is run again in backward; work of two candidates.
    """

    def moved_share(self) -> float:
        """The root of the share of steps with one: in the others Adam's mean square falls, and its next step grows.

        That share is two of all candidates, as long as none is pruned.
        """
        return math.sqrt(min(1.0, 2.0 / max(len(alpha) for alpha in self.alphas)))

    def gradient(self, objective: Objective, generator: torch.Generator) -> Sequence[Tensor]:
        """Equation 4 within the pairs; zero for the others."""
        pairs = self._pairs(generator)
        within = [_within(alpha, pair) for alpha, pair in zip(self.alphas, pairs)]
        # Of the pair one runs, drawn by its probability within the pair.
        path = [int(torch.multinomial(p.detach().cpu(), 1, generator=generator)) for p in within]
        loss = objective.loss(path, within, pairs)
        # Expected costs have their true value, and the gradient within the pairs that the loss has.
        true = self.distribution.probabilities()
        probabilities = [p.detach() + (q - q.detach()) for p, q in zip(true, within)]
        return torch.autograd.grad(self.with_limits(loss, probabilities), self.alphas)

    def step(self, objective: Objective, generator: torch.Generator) -> None:
        """A step within the pairs, then a shift of both that keeps the probability of every other candidate.

        Exact since Adam without momentum, and without weight decay, moves nothing but the pairs.
        """
        before = [alpha.detach().clone() for alpha in self.alphas]
        super().step(objective, generator)
        with torch.no_grad():
            for alpha, old in zip(self.alphas, before):
                moved = alpha != old
                alpha[moved] += old[moved].logsumexp(0) - alpha[moved].logsumexp(0)

    def _pairs(self, generator: torch.Generator) -> list[list[int]]:
        """Two candidates of each block by their probabilities; the one that is left where the others were pruned."""
        pairs = []
        for p in self.distribution.probabilities():
            weights = p.detach().cpu()
            count = min(2, int((weights > 0).sum()))
            pairs.append(torch.multinomial(weights, count, generator=generator).tolist())
        return pairs


def _within(alpha: Tensor, pair: Sequence[int]) -> Tensor:
    """softmax over the pair, [candidates] with zeros for the others."""
    q = alpha[list(pair)].softmax(0)
    return alpha.new_zeros(alpha.shape).index_put((torch.tensor(pair, device=alpha.device),), q)
