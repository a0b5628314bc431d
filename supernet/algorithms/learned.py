"""What the algorithms share that learn the probabilities of paths: alphas, their optimiser, and the limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from supernet import parallel
from supernet.algorithms.interface import Objective, Ranked
from supernet.costs import LATENCY, Constraint, split
from supernet.distribution import PathDistribution
from supernet.loop import cosine_lr, set_lr
from supernet.penalties import PENALTIES, BoundPenalty, Penalty
from supernet.settings import SearchSettings


class Learned(ABC):
    """Alphas that Adam moves along the gradient that a subclass finds.

    steps: how many steps there will be, from which the learning rates follow; see `SearchSettings`.
    """

    interleaved: ClassVar[bool] = True

    def __init__(self, constraints: Sequence[Constraint], settings: SearchSettings, steps: int) -> None:
        self.constraints = tuple(constraints)
        self.distribution = PathDistribution([len(block) for block in self.constraints[0].costs.blocks])
        rates = {"damping": settings.latency_damping, "rate": settings.latency_travel / steps}
        # Budgets are to be used up, and share a penalty; other limits are only not to be passed.
        self.budgets, self.bounds = split(self.constraints)
        self.penalty = PENALTIES[settings.penalty](**rates)
        self.bound_penalties = [BoundPenalty(**rates) for _ in self.bounds]
        # The mean of a half cosine is half its height.
        self.steps, self.taken = steps, 0
        self.height = 2.0 * settings.alpha_travel / (steps * self.moved_share())
        # beta1 = 0: momentum would go on moving paths that are no longer sampled.
        self.optimizer = torch.optim.Adam(self.alphas, lr=self.height, betas=(0.0, 0.999))

    @property
    def alphas(self) -> list[torch.nn.Parameter]:
        """One vector [candidates] for each block."""
        return list(self.distribution.alphas)

    def moved_share(self) -> float:
        """What Adam moves an alpha in all, over what it would if it had a gradient at each step."""
        return 1.0

    def sample(self, generator: torch.Generator) -> list[int]:
        """A path drawn by the probabilities."""
        return self.distribution.sample(generator)

    @abstractmethod
    def gradient(self, objective: Objective, generator: torch.Generator) -> Sequence[Tensor]:
        """The gradient of loss and limits with respect to each block's alphas, as found from some sampled networks."""

    def step(self, objective: Objective, generator: torch.Generator) -> None:
        """One step of the alphas, then one of the multipliers."""
        gradients = self.gradient(objective, generator)
        parallel.average(gradients)
        for alpha, gradient in zip(self.alphas, gradients, strict=True):
            alpha.grad = gradient
        before = self.expected()
        # Smaller and smaller steps, so that the expected costs come to rest where the limits are.
        set_lr(self.optimizer, cosine_lr(self.height, self.taken, self.steps))
        self.optimizer.step()
        self.taken += 1
        for penalty, expected, limit in before:
            penalty.update(float(expected), limit)

    @torch.no_grad()
    def expected(self) -> list[tuple[Penalty, Tensor, float]]:
        """`limited` by the probabilities as they are."""
        return self.limited(self.distribution.probabilities())

    def limited(self, probabilities: Sequence[Tensor]) -> list[tuple[Penalty, Tensor, float]]:
        """Each penalty with the expected cost, a scalar, and the limit it is for: of the budgets the furthest over."""
        expected = [(budget.costs.expected(probabilities), budget.limit) for budget in self.budgets]
        worst = max(expected, key=lambda pair: float(pair[0].detach()) / pair[1])
        bounds = zip(self.bound_penalties, self.bounds)
        return [(self.penalty, *worst), *((p, b.costs.expected(probabilities), b.limit) for p, b in bounds)]

    def with_limits(self, loss: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """The loss with every expected cost in it."""
        for penalty, expected, limit in self.limited(probabilities):
            loss = penalty.total(loss, expected, limit)
        return loss

    @torch.no_grad()
    def probabilities(self) -> list[Tensor]:
        """Of each candidate of each block."""
        return self.distribution.probabilities()

    def ranking(self) -> list[Ranked]:
        """Only probabilities are learnt."""
        return []

    def prune(self, threshold: float) -> list[tuple[int, int]]:
        """Give up every candidate less likely than `threshold`, but never the likeliest of a block."""
        return self.distribution.prune(threshold)

    def figures(self) -> dict[str, float]:
        """The multiplier of the budgets, and that of each other limit by its name."""
        others = {f"{b.name}_multiplier": p.multiplier for b, p in zip(self.bounds, self.bound_penalties)}
        return {f"{LATENCY}_multiplier": self.penalty.multiplier, **others}

    def state_dict(self) -> dict[str, Any]:
        """Alphas, what Adam keeps, multipliers."""
        return {
            "distribution": self.distribution.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "multipliers": [penalty.multiplier for penalty in (self.penalty, *self.bound_penalties)],
            "taken": self.taken,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.distribution.load_state_dict(state["distribution"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.taken = state["taken"]
        for penalty, multiplier in zip((self.penalty, *self.bound_penalties), state["multipliers"], strict=True):
            penalty.multiplier = multiplier
