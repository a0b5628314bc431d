"""SuperNet: every network of a space in one set of weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from supernet.binarised import BinarisedBlock
from supernet.distribution import Path
from supernet.network import build_layer, initialise
from supernet.space import SearchSpace


class SuperNet(nn.Module):
    """Images [B, 3, R, R] float32 and a path -> logits [B, classes]."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        fixed = [build_layer(op, running_statistics=False) for op in space.fixed_ops()]
        self.stem = nn.Sequential(*fixed[:2])
        self.blocks = nn.ModuleList(BinarisedBlock(block) for block in space.blocks)
        self.head = nn.Sequential(*fixed[2:])
        initialise(self)
        for block in self._blocks():
            block.agree()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        images: Tensor,
        path: Path,
        gates: Sequence[Tensor] | None = None,
        among: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """The logits of the network that `path` picks.

        With `gates` (the probabilities) backward also gives the candidates of every block (those in `among`, where it
        is given) their gradient; see `BinarisedBlock`.
        """
        x = self.stem(images)
        for i, (block, chosen) in enumerate(zip(self.blocks, path, strict=True)):
            x = block(x, chosen, None if gates is None else gates[i], None if among is None else among[i])
        return cast(Tensor, self.head(x))

    def prune(self, candidates: Iterable[tuple[int, int]]) -> None:
        """Give up the weights of candidates: (block, candidate) of each."""
        blocks = self._blocks()
        for block, candidate in candidates:
            blocks[block].prune(candidate)

    def _blocks(self) -> list[BinarisedBlock]:
        return [cast(BinarisedBlock, block) for block in self.blocks]
