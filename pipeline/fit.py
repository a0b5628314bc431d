"""Derive a network that is *measured* to be within the budget, before any time goes into training it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from supernet.algorithms.interface import Ranked
from supernet.architecture import Architecture, Choice
from supernet.costs import Constraint, budgets
from supernet.derive import BudgetError, derive, fastest, in_ms, path_of
from supernet.space import SearchSpace

# Room for the noise of a repeated measurement; `python -m benchmarks.demo_seeds` checks that it is enough.
MARGIN = 0.02

Measure = Callable[[Architecture], Sequence[tuple[float, float]]]
"""For each budget: the measured seconds of a network, and the budget in seconds at that moment."""


@dataclass(frozen=True)
class Latency:
    """A network's predicted and measured seconds for one budget, and the budget at the moment of the measurement.

    A budget relative to the baseline is as many seconds as the baseline needs when it is measured in turns with the
    network: a machine that is slower for a while is so for both.
    """

    predicted_s: float
    measured_s: float
    budget_s: float

    @property
    def fits(self) -> bool:
        """Whether it is within the budget, with room for what a second measurement may differ by."""
        return self.measured_s <= (1 - MARGIN) * self.budget_s


@dataclass(frozen=True)
class Attempt:
    """A derived network with its latency for each budget."""

    architecture: Architecture
    latencies: tuple[Latency, ...]

    @property
    def fits(self) -> bool:
        """Whether it is within every budget."""
        return all(latency.fits for latency in self.latencies)


def check_possible(space: SearchSpace, constraints: Sequence[Constraint], measure: Measure) -> None:
    """Refuse limits that no network of the space keeps, before anything is searched for.

    A budget is refused if the fastest network, measured, is over it; where there are other limits, also if no network
    is predicted to be within all of them.

    Raises:
        BudgetError: the message has that network and its latency, or the least of each limit.
    """
    spent = budgets(constraints)
    choices = fastest(space, spent)
    attempt = _attempt(space, spent, measure, choices)
    if not attempt.fits:
        raise BudgetError(_nothing_fits(space, spent, attempt))
    others = [constraint for constraint in constraints if not constraint.budget]
    if not all(other.allows(path_of(space, choices)) for other in others):
        uniform = [[1 / len(block.candidates)] * len(block.candidates) for block in space.blocks]
        now = (replace(b, limit=(1 - MARGIN) * latency.budget_s) for b, latency in zip(spent, attempt.latencies))
        derive(space, uniform, [*now, *others])


def derive_within(
    space: SearchSpace,
    probabilities: Sequence[Sequence[float]],
    constraints: Sequence[Constraint],
    measure: Measure,
    ranking: Sequence[Ranked] = (),
) -> list[Attempt]:
    """Derive, measure, and while a measurement is over its budget derive again for a tighter prediction.

    What is no budget only limits what is derived. `probabilities` and `ranking` are what a search found.

    Every attempt in order, the last of which fits. The bound on a prediction falls below the last one each time that
    this is over, so no network is tried twice and the loop ends.

    Raises:
        BudgetError: the fastest network of the space does not fit either; the message has its measured latency.
    """
    attempts: list[Attempt] = []
    spent, others = budgets(constraints), [constraint for constraint in constraints if not constraint.budget]
    attempt = partial(_attempt, space, spent, measure)
    bounds = [replace(budget, limit=(1 - MARGIN) * budget.limit) for budget in spent]
    while True:
        try:
            attempts.append(attempt(derive(space, probabilities, [*bounds, *others], ranking)))
        except BudgetError as error:
            choices = fastest(space, spent)
            if not all(other.allows(path_of(space, choices)) for other in others):
                raise
            attempts.append(attempt(choices))
            if not attempts[-1].fits:
                raise BudgetError(_nothing_fits(space, spent, attempts[-1])) from error
        last = attempts[-1]
        if last.fits:
            return attempts
        # What this network missed by, the next is expected to miss by too.
        bounds = [
            bound
            if latency.fits
            else replace(bound, limit=latency.predicted_s * (1 - MARGIN) * latency.budget_s / latency.measured_s)
            for bound, latency in zip(bounds, last.latencies)
        ]


def _attempt(space: SearchSpace, spent: Sequence[Constraint], measure: Measure, choices: Sequence[Choice]) -> Attempt:
    architecture, path = space.architecture(choices), path_of(space, choices)
    pairs = zip(spent, measure(architecture), strict=True)
    return Attempt(architecture, tuple(Latency(budget.costs.of(path), *measured) for budget, measured in pairs))


def _nothing_fits(space: SearchSpace, spent: Sequence[Constraint], fastest: Attempt) -> str:
    over = [(budget, latency) for budget, latency in zip(spent, fastest.latencies) if not latency.fits]
    allowed, taken, enough = (
        " and ".join(in_ms(budget, seconds(latency)) for budget, latency in over)
        for seconds in (
            lambda latency: latency.budget_s,
            lambda latency: latency.measured_s,
            lambda latency: latency.measured_s / (1 - MARGIN),
        )
    )
    return (
        f"No network of space {space.name} fits {allowed}. The fastest, `{fastest.architecture.text}`, "
        f"takes {taken}, measured: raise the budget above {enough}, which leaves {100 * MARGIN:g} % for noise."
    )
