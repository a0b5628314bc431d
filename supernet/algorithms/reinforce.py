"""REINFORCE over paths (ProxylessNAS, arXiv 1812.00332, section 3.3.2): accuracy needs no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from supernet.algorithms.interface import Objective
from supernet.algorithms.learned import Learned
from supernet.costs import Constraint
from supernet.settings import SearchSettings

# Share of a step's mean reward in the moving baseline; the released code has it the wrong way round, 99 % of the new.
BASELINE_RATE = 0.05


class Reinforce(Learned):
    """The gradient of the expected reward by its score function, (R - baseline) * d log p(path).

    The baseline is a moving average of the rewards before this step, so it depends on none of the step's own draws and
    biases nothing. The first step has none yet and takes the mean of its own n rewards, which makes its expectation
    shorter by 1 / n and leaves its direction. Expected costs have an exact gradient, which no sampling could better.
    """

    def __init__(self, constraints: Sequence[Constraint], settings: SearchSettings, steps: int) -> None:
        super().__init__(constraints, settings, steps)
        self.samples = settings.samples
        self.baseline: float | None = None

    def gradient(self, objective: Objective, generator: torch.Generator) -> Sequence[Tensor]:
        """The mean over `samples` networks."""
        paths = [self.sample(generator) for _ in range(self.samples)]
        rewards = [self.reward(objective, path) for path in paths]
        mean = sum(rewards) / len(rewards)
        baseline = mean if self.baseline is None else self.baseline
        self.baseline = baseline + BASELINE_RATE * (mean - baseline)
        loss = self.surrogate(paths, [reward - baseline for reward in rewards])
        probabilities = self.distribution.probabilities()
        for penalty, expected, limit in self.limited(probabilities):
            loss = loss + penalty.term(expected, limit)
        return torch.autograd.grad(loss, self.alphas)

    def reward(self, objective: Objective, path: Sequence[int]) -> float:
        """Accuracy, with the costs in it where the penalty is of that form."""
        worst = max(self.budgets, key=lambda budget: budget.costs.of(path) / budget.limit)
        return self.penalty.reward(objective.accuracy(path), worst.costs.of(path), worst.limit)

    def surrogate(self, paths: Sequence[Sequence[int]], advantages: Sequence[float]) -> Tensor:
        """A scalar whose gradient is the estimate of that of minus the expected reward."""
        terms = [-a * self.distribution.log_probability(path) for path, a in zip(paths, advantages, strict=True)]
        return torch.stack(terms).mean()

    def figures(self) -> dict[str, float]:
        """The baseline too."""
        return {**super().figures(), "baseline_reward": self.baseline or 0.0}

    def state_dict(self) -> dict[str, Any]:
        """The baseline too."""
        return {**super().state_dict(), "baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The baseline too."""
        super().load_state_dict(state)
        self.baseline = state["baseline"]
