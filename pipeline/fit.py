"""Derive a network that is *measured* to be within the budget, before any time goes into training it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from supernet.algorithms.interface import Ranked
from supernet.architecture import Architecture, Choice
from supernet.costs import Constraint, split
from supernet.derive import BudgetError, derive, fastest, in_words, path_of
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
    budgets, others = split(constraints)
    attempt = _fastest(space, budgets, budgets, measure)
    if not all(other.allows(_path(space, attempt)) for other in others):
        uniform = [[1 / len(block.candidates)] * len(block.candidates) for block in space.blocks]
        now = [replace(b, limit=(1 - MARGIN) * latency.budget_s) for b, latency in zip(budgets, attempt.latencies)]
        derive(space, uniform, [*now, *others])


def derive_within(
    space: SearchSpace,
    probabilities: Sequence[Sequence[float]],
    constraints: Sequence[Constraint],
    measure: Measure,
    ranking: Sequence[Ranked] = (),
    used: float = 0.0,
) -> list[Attempt]:
    """Derive, measure, and while a measurement is over its budget derive again for a tighter prediction.

    What is no budget only limits what is derived. `probabilities` and `ranking` are what a search found; `used` is as
    for `derive`, by predictions.

    Every attempt in order, the last of which fits. The bound on a prediction falls below the last one each time that
    this is over, so no network is tried twice and the loop ends.

    Raises:
        BudgetError: the fastest network of the space does not fit either; the message has its measured latency.
    """
    attempts: list[Attempt] = []
    budgets, others = split(constraints)
    bounds = [replace(budget, limit=(1 - MARGIN) * budget.limit) for budget in budgets]
    while True:
        try:
            choices = derive(space, probabilities, [*bounds, *others], ranking, used)
        except BudgetError:
            if not all(other.allows(path_of(space, fastest(space, bounds))) for other in others):
                raise
            return [*attempts, _fastest(space, budgets, bounds, measure)]
        last = _attempt(space, budgets, measure, choices)
        attempts.append(last)
        if last.fits:
            return attempts
        bounds = _tightened(bounds, last)


def _tightened(bounds: Sequence[Constraint], last: Attempt) -> list[Constraint]:
    """What a network missed a budget by, the next is expected to miss it by too."""
    return [
        bound
        if latency.fits
        else replace(bound, limit=latency.predicted_s * (1 - MARGIN) * latency.budget_s / latency.measured_s)
        for bound, latency in zip(bounds, last.latencies)
    ]


def _fastest(
    space: SearchSpace, budgets: Sequence[Constraint], bounds: Sequence[Constraint], measure: Measure
) -> Attempt:
    """The fastest network, by the shares of `bounds` that it is predicted to take, measured.

    Of several targets one may be slower than predicted and another not so near to its budget: then the network that is
    fastest by what the first one's measurements say is measured too.

    Raises:
        BudgetError: it is over a budget.
    """
    attempt = _attempt(space, budgets, measure, fastest(space, bounds))
    if not attempt.fits:
        choices = fastest(space, _tightened(bounds, attempt))
        if choices != tuple(block.choice for block in attempt.architecture.blocks[1:]):
            attempt = _attempt(space, budgets, measure, choices)
    if attempt.fits:
        return attempt
    over = [(budget, latency) for budget, latency in zip(budgets, attempt.latencies) if not latency.fits]
    allowed = " and ".join(in_words(budget, latency.budget_s) for budget, latency in over)
    taken = " and ".join(in_words(budget, latency.measured_s) for budget, latency in over)
    enough = " and ".join(in_words(budget, latency.measured_s / (1 - MARGIN)) for budget, latency in over)
    raise BudgetError(
        f"No network of space {space.name} fits {allowed}. The fastest, `{attempt.architecture.text}`, "
        f"takes {taken}, when it is run: raise the budget above {enough}, which leaves {100 * MARGIN:g} % for noise."
    )


def _attempt(space: SearchSpace, budgets: Sequence[Constraint], measure: Measure, choices: Sequence[Choice]) -> Attempt:
    architecture, path = space.architecture(choices), path_of(space, choices)
    pairs = zip(budgets, measure(architecture), strict=True)
    return Attempt(architecture, tuple(Latency(budget.costs.of(path), *measured) for budget, measured in pairs))


def _path(space: SearchSpace, attempt: Attempt) -> tuple[int, ...]:
    return path_of(space, [block.choice for block in attempt.architecture.blocks[1:]])
