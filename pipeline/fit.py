"""Derive a network that is *measured* to be within the budget, before any time goes into training it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from supernet.architecture import Architecture, Choice
from supernet.derive import BudgetError, derive, fastest, predicted_s
from supernet.latency import PathLatency
from supernet.space import SearchSpace


@dataclass(frozen=True)
class Attempt:
    """A derived network with its two latencies."""

    architecture: Architecture
    predicted_s: float
    measured_s: float


def derive_within(
    space: SearchSpace,
    probabilities: Sequence[Sequence[float]],
    latency: PathLatency,
    budget_s: float,
    measure: Callable[[Architecture], float],
) -> list[Attempt]:
    """Derive, measure, and while the measurement is over the budget derive again for a tighter prediction.

    Every attempt in order, the last of which fits. The bound on predictions falls below the last prediction each time,
    so no network is tried twice and the loop ends.

    Raises:
        BudgetError: the fastest network of the space does not fit either; the message has its measured latency.
    """
    attempts: list[Attempt] = []
    attempt = partial(_attempt, space, latency, measure)
    bound_s = budget_s
    while True:
        try:
            attempts.append(attempt(derive(space, probabilities, latency, bound_s)))
        except BudgetError as error:
            attempts.append(attempt(fastest(space, latency)))
            if attempts[-1].measured_s > budget_s:
                raise BudgetError(_nothing_fits(space, attempts[-1], budget_s)) from error
        last = attempts[-1]
        if last.measured_s <= budget_s:
            return attempts
        # What this network missed by, the next is expected to miss by too.
        bound_s = last.predicted_s * budget_s / last.measured_s


def _attempt(
    space: SearchSpace, latency: PathLatency, measure: Callable[[Architecture], float], choices: Sequence[Choice]
) -> Attempt:
    architecture = space.architecture(choices)
    return Attempt(architecture, predicted_s(space, choices, latency), measure(architecture))


def _nothing_fits(space: SearchSpace, fastest: Attempt, budget_s: float) -> str:
    return (
        f"No network of space {space.name} fits {1e3 * budget_s:.4g} ms. The fastest, `{fastest.architecture.text}`, "
        f"takes {1e3 * fastest.measured_s:.4g} ms, measured: raise the budget above that."
    )
