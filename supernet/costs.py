"""What paths cost: seconds on a target, parameters, bytes of activations; and limits that a search keeps. No torch.

A cost is a sum over blocks, so its expectation is one too (arXiv 1812.00332, equation 6). Bytes of activations are not:
the largest operator decides. Their limit forbids candidates instead (`within_memory`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from supernet.space import SearchSpace
from tvm_latency.opspec import OpSpec

LATENCY, PARAMETERS, WEIGHTED = "latency", "parameters", "in the weighted mean"


class CostError(ValueError):
    """A cost is missing, not finite or negative, or a limit is none."""


@dataclass(frozen=True)
class PathCosts:
    """What every network of a space costs (`fixed`), and what each candidate of each block adds to it (skip: 0.0).

    Raises:
        CostError: a cost that is not a finite number, or below zero; nothing that costs anything at all.
    """

    fixed: float
    blocks: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        every = [self.fixed, *(cost for block in self.blocks for cost in block)]
        if not all(math.isfinite(cost) and cost >= 0.0 for cost in every):
            raise CostError("Every cost must be a finite number, zero or more. Calibrate the target again.")
        if self.fixed == 0.0:
            raise CostError("The fixed layers cannot cost nothing. Calibrate the target again.")

    @classmethod
    def of_space(cls, space: SearchSpace, cost: Callable[[OpSpec], float]) -> PathCosts:
        """The costs of a space's networks, where `cost` says those of an operator."""
        return cls(
            fixed=sum(cost(op) for op in space.fixed_ops()),
            blocks=tuple(
                tuple(0.0 if (op := block.op_spec(choice)) is None else cost(op) for choice in block.candidates)
                for block in space.blocks
            ),
        )

    def check(self, space: SearchSpace) -> None:
        """Refuse costs that were made for another space.

        Raises:
            CostError: a block or a candidate has no cost, or there is one too many.
        """
        expected = [len(block.candidates) for block in space.blocks]
        found = [len(block) for block in self.blocks]
        if expected != found:
            raise CostError(
                f"Space {space.name} has {expected} candidates by block, the costs are for {found}. "
                "Calibrate the target for this space."
            )

    def of(self, path: Sequence[int]) -> float:
        """The cost of the network that picks candidate `path[i]` in block i."""
        total = self.fixed
        for costs, chosen in zip(self.blocks, path, strict=True):
            total += costs[chosen]
        return total

    def cheapest(self) -> list[int]:
        """The path that costs least."""
        return [min(range(len(costs)), key=costs.__getitem__) for costs in self.blocks]

    def expected(self, probabilities: Sequence[Any]) -> Any:
        """The expected cost, a scalar: fixed + sum over blocks of sum_j p_j F_j (the paper's equation 6).

        probabilities: a tensor [candidates] for each block. Every candidate has its term, so every block gets a
        gradient whichever path is sampled.
        """
        blocks = (p @ p.new_tensor(costs) for p, costs in zip(probabilities, self.blocks, strict=True))
        return sum(blocks, start=probabilities[0].new_tensor(self.fixed))


@dataclass(frozen=True)
class Constraint:
    """A cost by name, such as `latency`, and what it may be at most; both in one unit.

    budget: whether the limit is there to be used up, not only to be kept. Of several budgets, such as the latencies on
    several targets, the one that is furthest over counts.
    unit: of a budget, how a thousandth of its limit's unit is called; where: on which target, if there are several.

    Raises:
        CostError: the limit is not a positive finite number.
    """

    name: str
    costs: PathCosts
    limit: float
    budget: bool = False
    unit: str = "ms"
    where: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit > 0.0):
            raise CostError(f"A limit of {self.name} must be a positive number, got {self.limit}.")

    def allows(self, path: Sequence[int]) -> bool:
        """Whether a network keeps the limit."""
        return self.costs.of(path) <= self.limit


def latency(costs: PathCosts, budget_s: float, target: str = "", unit: str = "ms", name: str = LATENCY) -> Constraint:
    """A budget of seconds on a target, which needs a name where there are several."""
    where = f" on {target}" if target else ""
    return Constraint(f"{name}{where}", costs, budget_s, budget=True, unit=unit, where=where)


def split(constraints: Sequence[Constraint]) -> tuple[list[Constraint], list[Constraint]]:
    """The budgets, and what is only to be kept.

    Raises:
        CostError: there is no budget.
    """
    budgets = [constraint for constraint in constraints if constraint.budget]
    if not budgets:
        raise CostError(f"A search needs a budget, which none of {', '.join(c.name for c in constraints)} is.")
    return budgets, [constraint for constraint in constraints if not constraint.budget]


def weighted(constraints: Sequence[Constraint], shares: Sequence[float]) -> Constraint:
    """One budget for several: the mean over them of cost over limit, weighted by `shares`, is at most 1.

    Cost and limit are in the unit of the first.
    """
    first, total = constraints[0], sum(shares)
    factors = [share / total * first.limit / c.limit for share, c in zip(shares, constraints, strict=True)]
    mean = [
        tuple(sum(f * cost for f, cost in zip(factors, costs)) for costs in zip(*blocks, strict=True))
        for blocks in zip(*(constraint.costs.blocks for constraint in constraints), strict=True)
    ]
    fixed = sum(factor * constraint.costs.fixed for factor, constraint in zip(factors, constraints))
    name, where = first.name.removesuffix(first.where), f" {WEIGHTED}"
    return replace(first, name=f"{name}{where}", where=where, costs=PathCosts(fixed, tuple(mean)))


def parameters(space: SearchSpace, limit: float) -> Constraint:
    """At most so many trainable parameters, batch norm included."""
    return Constraint(PARAMETERS, PathCosts.of_space(space, lambda op: float(op.params)), limit)
