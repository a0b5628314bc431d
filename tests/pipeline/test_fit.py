from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.fit import MARGIN, Attempt, Latency, check_possible, derive_within
from supernet.algorithms.interface import Ranked
from supernet.architecture import Architecture
from supernet.costs import Constraint, PathCosts, latency, parameters
from supernet.derive import BudgetError, path_of
from supernet.presets import DIGITS

# One millisecond for what is fixed; in every block the first candidate is the most probable and the slowest.
COSTS = PathCosts(1e-3, tuple(tuple(1e-3 / (1 + k) for k in range(len(block.candidates))) for block in DIGITS.blocks))
PROBABILITIES = tuple(tuple(2.0**-k for k in range(len(block.candidates))) for block in DIGITS.blocks)
WIDEST = DIGITS.architecture([block.candidates[0] for block in DIGITS.blocks])
PARAMETERS = parameters(DIGITS, 1.0)
# The fastest network is none of the smallest: its last blocks are k7e6 where there is no skip.
FASTEST_PARAMETERS = PARAMETERS.costs.of(COSTS.cheapest())


def path(architecture: Architecture) -> tuple[int, ...]:
    return path_of(DIGITS, [block.choice for block in architecture.blocks[1:]])


def predicted(architecture: Architecture) -> float:
    return COSTS.of(path(architecture))


def within(budget_s: float, *others: Constraint) -> Sequence[Constraint]:
    return (latency(COSTS, budget_s), *others)


One = Callable[[Architecture], tuple[float, float]]


def derive(constraints: Sequence[Constraint], measure: One, *ranking: Any) -> list[Attempt]:
    """For one budget."""
    return derive_within(DIGITS, PROBABILITIES, constraints, lambda net: [measure(net)], *ranking)


def check(measure: One, budget_s: float, *others: Constraint) -> None:
    check_possible(DIGITS, within(budget_s, *others), lambda net: [measure(net)])


def only(attempt: Attempt) -> Latency:
    (latency,) = attempt.latencies
    return latency


def test_the_first_network_is_kept_if_it_fits() -> None:
    attempts = derive(within(1.0), lambda net: (predicted(net), 1.0))
    assert [attempt.architecture for attempt in attempts] == [WIDEST]
    assert only(attempts[0]).predicted_s == only(attempts[0]).measured_s


@pytest.mark.parametrize("factor", [1.04, 1.1, 1.5])
def test_over_budget_means_tighter_and_again(factor: float) -> None:
    budget_s = 6e-3
    attempts = derive(within(budget_s), lambda net: (factor * predicted(net), budget_s))
    assert len(attempts) == 2
    first, second = map(only, attempts)
    assert first.measured_s > budget_s
    assert second.measured_s <= (1 - MARGIN) * budget_s
    assert second.predicted_s < first.predicted_s


def test_a_prediction_that_is_too_high_does_not_hide_the_fastest() -> None:
    attempts = derive(within(2e-3), lambda net: (0.5 * predicted(net), 2e-3))
    assert len(attempts) == 1
    assert only(attempts[0]).measured_s < 2e-3 < only(attempts[0]).predicted_s


def test_nothing_fits() -> None:
    tried: list[Architecture] = []

    def measure(architecture: Architecture) -> tuple[float, float]:
        tried.append(architecture)
        return 5e-3, 4e-3

    with pytest.raises(
        BudgetError,
        match=r"digits fits 4 ms. The fastest, `r16 .*`, takes 5 ms, .*: raise the budget above 5.102 ms",
    ):
        derive(within(4e-3), measure)
    assert len(tried) == len(set(tried)), "no network is measured twice"


def test_a_fastest_network_within_the_margin_is_told_the_budget_that_fits() -> None:
    with pytest.raises(BudgetError, match=r"takes 3.95 ms, .*: raise the budget above 4.031 ms, which leaves 2 %"):
        check(lambda net: (3.95e-3, 4e-3), 4e-3)
    check(lambda net: (3.95e-3, 4.0307e-3), 4.0307e-3)


def test_a_budget_moves_with_the_baseline_it_is_measured_against() -> None:
    """The machine is half as fast when the network is measured, so its baseline is too: no reason to derive again."""
    attempts = derive(within(1.0), lambda net: (2 * predicted(net), 2.0))
    assert len(attempts) == 1
    found = only(attempts[0])
    assert (found.measured_s, found.budget_s) == (2 * found.predicted_s, 2.0)


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_every_attempt_keeps_the_other_limits(factor: float) -> None:
    smallest = PARAMETERS.costs.of(PARAMETERS.costs.cheapest())
    limit = Constraint("parameters", PARAMETERS.costs, 2 * smallest)
    attempts = derive(within(8e-3, limit), lambda net: (factor * predicted(net), 8e-3))
    assert all(attempt.architecture.params <= limit.limit for attempt in attempts)
    assert attempts[-1].fits
    assert not limit.allows(path(WIDEST)), "the limit decides"


def test_a_ranking_is_gone_down_until_one_is_measured_to_fit() -> None:
    first, second, third = (
        Ranked(path(DIGITS.architecture([block.candidates[k] for block in DIGITS.blocks])), 1.0 - 0.1 * k)
        for k in range(3)
    )
    slowest_s = COSTS.of(first.path)
    attempts = derive(
        within(1.01 * slowest_s / (1 - MARGIN)), lambda net: (1.2 * predicted(net), slowest_s), (first, second, third)
    )
    assert [path(attempt.architecture) for attempt in attempts] == [first.path, second.path]


def test_where_nothing_of_a_ranking_fits_the_most_probable_is_taken() -> None:
    ranked = Ranked(path(WIDEST), 0.9)
    (attempt,) = derive(within(5e-3), lambda net: (predicted(net), 5e-3), (ranked,))
    (other,) = derive(within(5e-3), lambda net: (predicted(net), 5e-3))
    assert attempt == other


def test_the_fastest_network_is_no_way_out_where_it_is_over_another_limit() -> None:
    limit = Constraint("parameters", PARAMETERS.costs, 0.9 * FASTEST_PARAMETERS)
    only_the_fastest_s = 1.0001 * COSTS.of(COSTS.cheapest()) / (1 - MARGIN)
    with pytest.raises(BudgetError, match=r"and the other limits \(parameters .* is the least\) together. Raise one"):
        derive(within(only_the_fastest_s, limit), lambda net: pytest.fail("nothing to measure"))


def test_limits_that_no_network_keeps_are_refused_before_a_search() -> None:
    budget_s = 1.0
    for share, possible in ((0.0001, False), (0.9, True), (1.1, True)):
        limit = Constraint("parameters", PARAMETERS.costs, share * FASTEST_PARAMETERS)
        if possible:
            check(lambda net: (predicted(net), budget_s), budget_s, limit)
        else:
            with pytest.raises(BudgetError, match="and the other limits"):
                check(lambda net: (predicted(net), budget_s), budget_s, limit)


# A second target: the fixed layers take twice as long.
OTHER = PathCosts(2e-3, COSTS.blocks)


def test_every_target_is_within_its_budget() -> None:
    """The second is measured slower than predicted, so it alone is derived again for less."""
    budgets = (latency(COSTS, 7e-3, "one"), latency(OTHER, 8e-3, "two"))
    attempts = derive_within(
        DIGITS,
        PROBABILITIES,
        budgets,
        lambda net: [(predicted(net), 7e-3), (1.1 * OTHER.of(path(net)), 8e-3)],
    )
    assert len(attempts) > 1
    assert [one.fits for one in attempts[-1].latencies] == [True, True]
    assert not any(attempt.fits for attempt in attempts[:-1])
    first, last = attempts[0].latencies, attempts[-1].latencies
    assert first[0].fits
    assert not first[1].fits
    assert last[1].predicted_s < first[1].predicted_s


def test_a_target_that_no_network_fits_is_named() -> None:
    budgets = (latency(COSTS, 1.0, "one"), latency(OTHER, 1.0, "two"))
    with pytest.raises(BudgetError, match=r"fits 1000 ms on two\. The fastest, `r16 .*`, takes 2000 ms on two, when"):
        check_possible(DIGITS, budgets, lambda net: [(0.5, 1.0), (2.0, 1.0)])


def test_a_compromise_moves_to_the_target_that_is_slower_than_predicted() -> None:
    """Targets disagree on what is fast. One takes 1.3 times what was predicted, the other half of it."""
    turned = PathCosts(1e-3, tuple(block[::-1] for block in COSTS.blocks))
    budgets = (latency(COSTS, 4.5e-3, "one"), latency(turned, 4.5e-3, "two"))
    tried: list[Architecture] = []

    def measure(net: Architecture) -> list[tuple[float, float]]:
        tried.append(net)
        return [(1.3 * COSTS.of(path(net)), 4.5e-3), (0.5 * turned.of(path(net)), 4.5e-3)]

    check_possible(DIGITS, budgets, measure)
    assert len(tried) == 2
    first, second = (COSTS.of(path(net)) for net in tried)
    assert 1.3 * second < (1 - MARGIN) * 4.5e-3 < 1.3 * first
