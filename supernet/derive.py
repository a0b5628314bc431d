"""Derive: the best network that keeps every limit, by what a search found."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import block_diag, csr_array, hstack

from supernet.algorithms.interface import Ranked
from supernet.architecture import Choice
from supernet.costs import Constraint, split
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
    used: float = 0.0,
) -> tuple[Choice, ...]:
    """The choices of the best network of those within every limit.

    Where a search ranked networks, the first that keeps the limits. Else, or if none of them does, the most probable of
    those that take at least a share of `used` of a budget, and no candidate that was pruned: each block's likeliest is
    often cheaper than what its probabilities expect, and would leave unused what they were driven to. If there is none,
    the most probable of all.

    That is exact: a choice of one candidate for each block is an integer program, which HiGHS solves in milliseconds
    (Huangfu and Hall, 2018). Of equally probable networks the one that costs least of the first constraint wins.

    Raises:
        BudgetError: nothing fits; the message names the fastest network of the space.
        CostError: the costs are not for this space.
    """
    for constraint in constraints:
        constraint.costs.check(space)
    within = (r.path for r in ranking if all(constraint.allows(r.path) for constraint in constraints))
    path = next(within, None) or most_probable(probabilities, constraints, used)
    path = path or most_probable(probabilities, constraints)
    if path is None:
        raise BudgetError(_nothing_fits(space, constraints))
    return choices_of(space, path)


def most_probable(
    probabilities: Sequence[Sequence[float]], constraints: Sequence[Constraint], used: float = 0.0
) -> tuple[int, ...] | None:
    """The most probable path within every limit; None where there is none.

    used: only of paths that take such a share of one of the budgets, and no candidate that was pruned.
    """
    if not used:
        return _exactly_within(probabilities, constraints, [])
    alive = np.array([float(p > 0.0) for block in probabilities for p in block])
    rules = [LinearConstraint(alive[None], lb=len(probabilities))]
    found = []
    for budget in split(constraints)[0]:
        cost = np.array([cost for block in budget.costs.blocks for cost in block])
        share = LinearConstraint(cost[None] / budget.limit, lb=used - budget.costs.fixed / budget.limit)
        if path := _exactly_within(probabilities, constraints, [*rules, share]):
            found.append(path)
    return max(found, key=lambda path: math.prod(p[k] for p, k in zip(probabilities, path)), default=None)


def _exactly_within(
    probabilities: Sequence[Sequence[float]], constraints: Sequence[Constraint], rules: Sequence[LinearConstraint]
) -> tuple[int, ...] | None:
    """The most probable path by further rules, within every limit to the last bit."""
    for slack in (0.0, TOLERANCE):
        path = _most_probable(probabilities, constraints, rules, slack)
        if path is None or all(constraint.allows(path) for constraint in constraints):
            return path
    return None


def _most_probable(
    probabilities: Sequence[Sequence[float]],
    constraints: Sequence[Constraint],
    rules: Sequence[LinearConstraint],
    slack: float,
) -> tuple[int, ...] | None:
    # A probability that softmax rounded to zero still ranks below every other, and does not hide other blocks.
    log_p = np.array([math.log(max(p, sys.float_info.min)) for block in probabilities for p in block])
    costs = [np.array([cost for block in c.costs.blocks for cost in block]) for c in constraints]
    rules = [LinearConstraint(_one_of_each(probabilities), 1, 1), *rules] + [
        LinearConstraint(cost[None] / c.limit, ub=(1 - slack) - c.costs.fixed / c.limit)
        for cost, c in zip(costs, constraints)
    ]
    best = _solve(-log_p, rules)
    if best is None:
        return None
    likely = LinearConstraint(log_p[None], lb=log_p @ best - TOLERANCE)
    cheapest = _solve(costs[0] / constraints[0].limit, [*rules, likely])
    return _path(best if cheapest is None else cheapest, probabilities)


def _one_of_each(blocks: Sequence[Sequence[float]]) -> csr_array:
    """A row for each block, which sums its candidates."""
    return block_diag([np.ones((1, len(block))) for block in blocks], format="csr")


def _path(chosen: np.ndarray, blocks: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """The candidates that zeros and ones stand for, one after the other."""
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    return tuple(int(chosen[start:end].argmax()) for start, end in pairwise(starts))


def fastest(space: SearchSpace, budgets: Sequence[Constraint]) -> tuple[Choice, ...]:
    """The choices of the network that takes the least share of its budget; of several the largest share counts.

    With several that is an integer program too: the least t of which every share is at most one.
    """
    first, *others = budgets
    if not others:
        return choices_of(space, first.costs.cheapest())
    blocks = first.costs.blocks
    one_of_each_block = hstack([_one_of_each(blocks), csr_array((len(blocks), 1))])
    rules = [LinearConstraint(one_of_each_block, 1, 1)]
    for costs, limit in ((budget.costs, budget.limit) for budget in budgets):
        share = np.array([*(cost / limit for block in costs.blocks for cost in block), -1.0])
        rules.append(LinearConstraint(share[None], ub=-costs.fixed / limit))
    least = _solve(np.eye(share.size)[-1], rules, real=1)
    assert least is not None, "any network will do"
    return choices_of(space, _path(least, blocks))


def choices_of(space: SearchSpace, path: Sequence[int]) -> tuple[Choice, ...]:
    """The candidates that a path picks."""
    return tuple(block.candidates[k] for block, k in zip(space.blocks, path, strict=True))


def path_of(space: SearchSpace, choices: Sequence[Choice]) -> tuple[int, ...]:
    """The path that picks these candidates."""
    return tuple(block.candidates.index(choice) for block, choice in zip(space.blocks, choices, strict=True))


def _solve(objective: np.ndarray, rules: Sequence[LinearConstraint], real: int = 0) -> np.ndarray | None:
    """The minimum over zeros and ones, the last `real` variables apart; None where nothing keeps the rules."""
    whole = np.arange(objective.size) < objective.size - real
    found = milp(
        objective,
        integrality=whole,
        bounds=Bounds(0, np.where(whole, 1, np.inf)),
        constraints=rules,
        options={"mip_rel_gap": 0},
    )
    return None if found.x is None else found.x.round()


def _nothing_fits(space: SearchSpace, constraints: Sequence[Constraint]) -> str:
    budgets, others = split(constraints)
    choices = fastest(space, budgets)
    path, network = path_of(space, choices), space.architecture(choices).text
    allowed = " and ".join(in_words(budget, budget.limit) for budget in budgets)
    taken = " and ".join(in_words(budget, budget.costs.of(path)) for budget in budgets)
    if not all(budget.allows(path) for budget in budgets):
        return (
            f"No network of space {space.name} fits {allowed}. The fastest, `{network}`, is predicted to take {taken}: "
            "raise the budget above that."
        )
    least = "; ".join(
        f"{c.name} {c.limit:.4g}, of which {c.costs.of(c.costs.cheapest()):.4g} is the least" for c in others
    )
    return (
        f"No network of space {space.name} fits {allowed} (the fastest, `{network}`, takes {taken}) and the other "
        f"limits ({least}) together. Raise one."
    )


def in_words(budget: Constraint, seconds: float) -> str:
    """`4 ms`, or `4 ms on x86` where the budget is that of one of several targets."""
    return f"{1e3 * seconds:.4g} {budget.unit}{budget.where}"
