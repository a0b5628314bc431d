"""Derive: the best network that keeps every limit, by what a search found."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_diag

from supernet.algorithms.interface import Ranked
from supernet.architecture import Choice
from supernet.costs import Constraint, PathCosts
from supernet.space import SearchSpace

# HiGHS keeps a constraint up to 1e-7 of its size. Where it finds a network a hair over a limit, it searches again with
# limits that are lower by more than that.
TOLERANCE = 1e-6


class BudgetError(ValueError):
    """No network of the space keeps the limits."""


def derive(
    space: SearchSpace,
    probabilities: Sequence[Sequence[float]],
    constraints: Sequence[Constraint],
    ranking: Sequence[Ranked] = (),
) -> tuple[Choice, ...]:
    """The choices of the best network of those within every limit.

    Where a search ranked networks, the first that keeps the limits; else, or if none of them does, the most probable.
    That is exact: a choice of one candidate for each block is an integer program, which HiGHS solves in milliseconds
    (Huangfu and Hall, 2018). Of equally probable networks the one that costs least of the first constraint wins.

    Raises:
        BudgetError: nothing fits; the message names the fastest network of the space.
        CostError: the costs are not for this space.
    """
    for constraint in constraints:
        constraint.costs.check(space)
    within = (r.path for r in ranking if all(constraint.allows(r.path) for constraint in constraints))
    path = next(within, None) or most_probable(probabilities, constraints)
    if path is None:
        raise BudgetError(_nothing_fits(space, constraints))
    return choices_of(space, path)


def most_probable(
    probabilities: Sequence[Sequence[float]], constraints: Sequence[Constraint]
) -> tuple[int, ...] | None:
    """The most probable path within every limit; None where there is none."""
    for slack in (0.0, TOLERANCE):
        path = _most_probable(probabilities, constraints, slack)
        if path is None or all(constraint.allows(path) for constraint in constraints):
            return path
    return None


def _most_probable(
    probabilities: Sequence[Sequence[float]], constraints: Sequence[Constraint], slack: float
) -> tuple[int, ...] | None:
    # A probability that softmax rounded to zero still ranks below every other, and does not hide other blocks.
    log_p = np.array([math.log(max(p, sys.float_info.min)) for block in probabilities for p in block])
    costs = [np.array([cost for block in c.costs.blocks for cost in block]) for c in constraints]
    one_of_each_block = block_diag([np.ones((1, len(block))) for block in probabilities], format="csr")
    rules = [LinearConstraint(one_of_each_block, 1, 1)] + [
        LinearConstraint(cost[None] / c.limit, ub=(1 - slack) - c.costs.fixed / c.limit)
        for cost, c in zip(costs, constraints)
    ]
    best = _solve(-log_p, rules)
    if best is None:
        return None
    likely = LinearConstraint(log_p[None], lb=log_p @ best - TOLERANCE)
    cheapest = _solve(costs[0] / constraints[0].limit, [*rules, likely])
    chosen = best if cheapest is None else cheapest
    starts = np.cumsum([0, *(len(block) for block in probabilities)])
    return tuple(int(chosen[start:end].argmax()) for start, end in pairwise(starts))


def fastest(space: SearchSpace, costs: PathCosts) -> tuple[Choice, ...]:
    """The choices of the network that costs least."""
    return choices_of(space, costs.cheapest())


def choices_of(space: SearchSpace, path: Sequence[int]) -> tuple[Choice, ...]:
    """The candidates that a path picks."""
    return tuple(block.candidates[k] for block, k in zip(space.blocks, path, strict=True))


def path_of(space: SearchSpace, choices: Sequence[Choice]) -> tuple[int, ...]:
    """The path that picks these candidates."""
    return tuple(block.candidates.index(choice) for block, choice in zip(space.blocks, choices, strict=True))


def predicted_s(space: SearchSpace, choices: Sequence[Choice], latency: PathCosts) -> float:
    """Seconds of the network with these choices."""
    return latency.of(path_of(space, choices))


def _solve(objective: np.ndarray, rules: Sequence[LinearConstraint]) -> np.ndarray | None:
    """The minimum over zeros and ones; None where nothing keeps the rules."""
    found = milp(
        objective,
        integrality=np.ones_like(objective),
        bounds=Bounds(0, 1),
        constraints=rules,
        options={"mip_rel_gap": 0},
    )
    return None if found.x is None else found.x.round()


def _nothing_fits(space: SearchSpace, constraints: Sequence[Constraint]) -> str:
    latency, *others = constraints
    choices = fastest(space, latency.costs)
    network, least_ms = space.architecture(choices).text, 1e3 * predicted_s(space, choices, latency.costs)
    if latency.limit < latency.costs.of(latency.costs.cheapest()):
        return (
            f"No network of space {space.name} fits {latency.limit * 1e3:.4g} ms. The fastest, "
            f"`{network}`, is predicted to take {least_ms:.4g} ms: raise the budget above that."
        )
    least = "; ".join(
        f"{c.name} {c.limit:.4g}, of which {c.costs.of(c.costs.cheapest()):.4g} is the least" for c in others
    )
    return (
        f"No network of space {space.name} fits {latency.limit * 1e3:.4g} ms (the fastest, `{network}`, takes "
        f"{least_ms:.4g} ms) and the other limits ({least}) together. Raise one."
    )
