"""Random search and evolution over a supernet that has learnt: networks are evaluated, nothing is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from supernet.algorithms.interface import Objective, Ranked
from supernet.costs import Constraint
from supernet.sampling import RandomPaths
from supernet.settings import SearchSettings

# Of a generation the best so many are parents (arXiv 1904.00420 has 10 of 50), and a block of a child changes so often.
PARENTS_SHARE, MUTATION = 0.2, 0.1
# Children that are over a limit are made again, so often; after that a random network takes their place.
TRIES = 100


class Evaluated(ABC):
    """Networks within every limit, `settings.population` in each step, ranked by their accuracy.

    The weights learn along uniformly random paths before (single path one-shot, arXiv 1904.00420).
    """

    interleaved: ClassVar[bool] = False

    def __init__(self, constraints: Sequence[Constraint], settings: SearchSettings, steps: int) -> None:
        self.constraints, self.population = tuple(constraints), settings.population
        self.random = RandomPaths(self.constraints)
        # What cannot be found is not found out after the weights have learnt.
        self.random.draw(torch.Generator())
        self.rewards: dict[tuple[int, ...], float] = {}

    @property
    def shape(self) -> list[int]:
        """The number of candidates of each block."""
        return [len(block) for block in self.constraints[0].costs.blocks]

    def sample(self, generator: torch.Generator) -> list[int]:
        """Every candidate of a block is as likely as the others."""
        return [int(torch.randint(count, (), generator=generator)) for count in self.shape]

    @abstractmethod
    def propose(self, best: Sequence[Ranked], generator: torch.Generator) -> Sequence[int]:
        """The next network to look at, within every limit, from the best so far."""

    def step(self, objective: Objective, generator: torch.Generator) -> None:
        """Evaluate networks that have not been before; small spaces may run out of them, and parents of children."""
        best = self.best()
        for _ in range(self.population):
            for attempt in range(2 * TRIES):
                path = tuple(self.propose(best, generator) if attempt < TRIES else self.random.draw(generator))
                if path not in self.rewards:
                    self.rewards[path] = objective.accuracy(path)
                    break

    def probabilities(self) -> list[Tensor]:
        """How often each candidate of a block is among the best of what was evaluated; uniform before."""
        best = self.best()
        if not best:
            return [torch.full((count,), 1.0 / count) for count in self.shape]
        paths = torch.tensor([ranked.path for ranked in best])
        return [torch.bincount(column, minlength=n) / len(best) for column, n in zip(paths.T, self.shape)]

    def best(self) -> list[Ranked]:
        """The first of the ranking, from which a generation is made."""
        return self.ranking()[: max(2, round(PARENTS_SHARE * self.population))]

    def ranking(self) -> list[Ranked]:
        """All, best first; of equal ones the one that was found first."""
        ranked = [Ranked(path, reward) for path, reward in self.rewards.items()]
        return sorted(ranked, key=lambda network: -network.reward)

    def prune(self, threshold: float) -> list[tuple[int, int]]:
        """Nothing: what is not among the best now may be later."""
        return []

    def figures(self) -> dict[str, float]:
        """How many were evaluated, and the best of them."""
        return {"evaluated": float(len(self.rewards)), "best_reward": max(self.rewards.values(), default=0.0)}

    def state_dict(self) -> dict[str, Any]:
        """Everything that was evaluated, in order."""
        return {"paths": [list(path) for path in self.rewards], "rewards": list(self.rewards.values())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rewards = dict(zip(map(tuple, state["paths"]), state["rewards"], strict=True))


class RandomSearch(Evaluated):
    """Every network within the limits is as likely as any other."""

    def propose(self, best: Sequence[Ranked], generator: torch.Generator) -> Sequence[int]:
        """Any."""
        return self.random.draw(generator)


class Evolution(Evaluated):
    """Children of the best: half are crossings of two, half are one with some blocks changed."""

    def propose(self, best: Sequence[Ranked], generator: torch.Generator) -> Sequence[int]:
        """A random one in the first generation."""
        for _ in range(TRIES if best else 0):
            child = self._child(best, generator)
            if all(constraint.allows(child) for constraint in self.constraints):
                return child
        return self.random.draw(generator)

    def _child(self, best: Sequence[Ranked], generator: torch.Generator) -> list[int]:
        def draw(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        one = best[draw(len(best))].path
        if draw(2):
            other = best[draw(len(best))].path
            return [pair[draw(2)] for pair in zip(one, other)]
        changes = (torch.rand(len(one), generator=generator) < MUTATION).tolist()
        # At least one block changes.
        changes[draw(len(one))] = True
        return [draw(count) if change else k for k, count, change in zip(one, self.shape, changes)]
