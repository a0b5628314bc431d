"""Derive a network that is *measured* to be within the budget, before any time goes into training it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from supernet.algorithms.interface import Ranked
from supernet.architecture import Architecture, Choice
from supernet.costs import LATENCY, Constraint, PathCosts
from supernet.derive import BudgetError, derive, fastest, path_of, predicted_s
from supernet.space import SearchSpace

# Room for the noise of a repeated measurement; `python -m benchmarks.demo_seeds` checks that it is enough.
MARGIN = 0.02

Measure = Callable[[Architecture], tuple[float, float]]
"""The measured seconds of a network, and the budget in seconds at that moment."""


@dataclass(frozen=True)
class Attempt:
    """A derived network with its two latencies, and the budget at the moment of its measurement.

    A budget relative to the baseline is as many seconds as the baseline needs when it is measured in turns with the
    network: a machine that is slower for a while is so for both.
    """

    architecture: Architecture
    predicted_s: float
    measured_s: float
    budget_s: float

    @property
    def fits(self) -> bool:
        """Whether it is within the budget, with room for what a second measurement may differ by."""
        return self.measured_s <= (1 - MARGIN) * self.budget_s


def check_possible(space: SearchSpace, latency: PathCosts, measure: Measure, others: Sequence[Constraint] = ()) -> None:
    """Refuse limits that no network of the space keeps, before anything is searched for.

    The budget is refused if the fastest network, measured, is over it; with `others` also if no network is predicted
    to be within all limits.

    Raises:
        BudgetError: the message has that network and its latency, or the least of each limit.
    """
    choices = fastest(space, latency)
    attempt = _attempt(space, latency, measure, choices)
    if not attempt.fits:
        raise BudgetError(_nothing_fits(space, attempt))
    if not all(other.allows(path_of(space, choices)) for other in others):
        uniform = [[1 / len(block.candidates)] * len(block.candidates) for block in space.blocks]
        derive(space, uniform, [Constraint(LATENCY, latency, (1 - MARGIN) * attempt.budget_s), *others])


def derive_within(
    space: SearchSpace,
    probabilities: Sequence[Sequence[float]],
    constraints: Sequence[Constraint],
    measure: Measure,
    ranking: Sequence[Ranked] = (),
) -> list[Attempt]:
    """Derive, measure, and while the measurement is over the budget derive again for a tighter prediction.

    The first constraint is the latency's, its limit the budget; the others only limit what is derived. `probabilities`
    and `ranking` are what a search found.

    Every attempt in order, the last of which fits. The bound on predictions falls below the last prediction each time,
    so no network is tried twice and the loop ends.

    Raises:
        BudgetError: the fastest network of the space does not fit either; the message has its measured latency.
    """
    attempts: list[Attempt] = []
    latency, *others = constraints
    attempt = partial(_attempt, space, latency.costs, measure)
    bound_s = (1 - MARGIN) * latency.limit
    while True:
        try:
            bound = [replace(latency, limit=bound_s), *others]
            attempts.append(attempt(derive(space, probabilities, bound, ranking)))
        except BudgetError as error:
            choices = fastest(space, latency.costs)
            if not all(other.allows(path_of(space, choices)) for other in others):
                raise
            attempts.append(attempt(choices))
            if not attempts[-1].fits:
                raise BudgetError(_nothing_fits(space, attempts[-1])) from error
        last = attempts[-1]
        if last.fits:
            return attempts
        # What this network missed by, the next is expected to miss by too.
        bound_s = last.predicted_s * (1 - MARGIN) * last.budget_s / last.measured_s


def _attempt(space: SearchSpace, latency: PathCosts, measure: Measure, choices: Sequence[Choice]) -> Attempt:
    architecture = space.architecture(choices)
    return Attempt(architecture, predicted_s(space, choices, latency), *measure(architecture))


def _nothing_fits(space: SearchSpace, fastest: Attempt) -> str:
    return (
        f"No network of space {space.name} fits {1e3 * fastest.budget_s:.4g} ms. "
        f"The fastest, `{fastest.architecture.text}`, "
        f"takes {1e3 * fastest.measured_s:.4g} ms, measured: raise the budget above "
        f"{1e3 * fastest.measured_s / (1 - MARGIN):.4g} ms, which leaves {100 * MARGIN:g} % for noise."
    )
