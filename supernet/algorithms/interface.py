"""What a search asks of an algorithm, and what an algorithm may ask of the networks of a space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from supernet.distribution import Path


class Objective(Protocol):
    """Networks of a space, judged on images that no weight learns on; lower loss and higher accuracy are better."""

    def loss(
        self, path: Path, gates: Sequence[Tensor] | None = None, among: Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        """A scalar; with `gates` its backward gives them dL/dg, those of the candidates in `among` if given."""

    def accuracy(self, path: Path) -> float:
        """A share; no gradient."""


@dataclass(frozen=True)
class Ranked:
    """A network that was evaluated, and what it was found to be worth."""

    path: tuple[int, ...]
    reward: float


class Algorithm(Protocol):
    """How a search decides which network is best.

    interleaved: whether it decides while the weights learn, a step in turn with theirs, or once they have learnt.
    """

    interleaved: ClassVar[bool]

    def sample(self, generator: torch.Generator) -> list[int]:
        """The path that the next step of the weights trains."""

    def step(self, objective: Objective, generator: torch.Generator) -> None:
        """Learn from some networks."""

    def probabilities(self) -> list[Tensor]:
        """How likely each candidate of each block is to be in the best network, [candidates] for each block."""

    def ranking(self) -> list[Ranked]:
        """Every network that was evaluated by itself, best first; empty where only probabilities were learnt."""

    def prune(self, threshold: float) -> list[tuple[int, int]]:
        """Give up the candidates that are less likely: (block, candidate) of each."""

    def figures(self) -> dict[str, float]:
        """What is worth to be watched."""

    def state_dict(self) -> dict[str, Any]:
        """All that changes; tensors, numbers, text, lists and dicts of them."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
