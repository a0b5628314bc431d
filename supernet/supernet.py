"""SuperNet: every network of a space in one set of weights, with the probability of each path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from supernet.binarised import BinarisedBlock
from supernet.network import build_layer, initialise
from supernet.space import SearchSpace


class SuperNet(nn.Module):
    """Images [B, 3, R, R] float32 and a path -> logits [B, classes].

    `alphas` holds one vector [candidates] for each block; all zero at first, so every path is equally likely.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        fixed = [build_layer(op, running_statistics=False) for op in space.fixed_ops()]
        self.stem = nn.Sequential(*fixed[:2])
        self.blocks = nn.ModuleList(BinarisedBlock(block) for block in space.blocks)
        self.head = nn.Sequential(*fixed[2:])
        initialise(self)
        for block in self.blocks:
            cast(BinarisedBlock, block).agree()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.alphas = nn.ParameterList(torch.zeros(len(block.candidates)) for block in space.blocks)

    def forward(self, images: Tensor, path: Sequence[int], gates: Sequence[Tensor] | None = None) -> Tensor:
        """The logits of the network that `path` (one candidate for each block) picks.

        With `gates` (the probabilities) backward also gives every candidate of every block its gradient; see
        `BinarisedBlock`.
        """
        x = self.stem(images)
        for i, (block, chosen) in enumerate(zip(self.blocks, path, strict=True)):
            x = block(x, chosen, None if gates is None else gates[i])
        return cast(Tensor, self.head(x))

    def weights(self) -> list[nn.Parameter]:
        """Every parameter but the alphas."""
        alphas = {id(alpha) for alpha in self.alphas}
        return [parameter for parameter in self.parameters() if id(parameter) not in alphas]

    def probabilities(self) -> list[Tensor]:
        """The probability of each candidate of each block, with a graph back to the alphas."""
        return [alpha.softmax(0) for alpha in self.alphas]

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> list[int]:
        """A path drawn by the probabilities."""
        return [int(torch.multinomial(p.cpu(), 1, generator=generator)) for p in self.probabilities()]

    @torch.no_grad()
    def most_probable(self) -> list[int]:
        """The path of the highest probability in each block."""
        return [int(alpha.argmax()) for alpha in self.alphas]
