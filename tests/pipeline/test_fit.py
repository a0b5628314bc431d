from __future__ import annotations

import pytest

from pipeline.fit import MARGIN, check_possible, derive_within
from supernet.architecture import Architecture
from supernet.derive import BudgetError
from supernet.latency import PathLatency
from supernet.space import DIGITS

# One millisecond for what is fixed; in every block the first candidate is the most probable and the slowest.
LATENCY = PathLatency(
    1e-3, tuple(tuple(1e-3 / (1 + k) for k in range(len(block.candidates))) for block in DIGITS.blocks)
)
PROBABILITIES = tuple(tuple(2.0**-k for k in range(len(block.candidates))) for block in DIGITS.blocks)
WIDEST = DIGITS.architecture([block.candidates[0] for block in DIGITS.blocks])


def predicted(architecture: Architecture) -> float:
    searched = zip(DIGITS.blocks, architecture.blocks[1:])
    return LATENCY.of([block.candidates.index(found.choice) for block, found in searched])


def test_the_first_network_is_kept_if_it_fits() -> None:
    attempts = derive_within(DIGITS, PROBABILITIES, LATENCY, 1.0, lambda net: (predicted(net), 1.0))
    assert [attempt.architecture for attempt in attempts] == [WIDEST]
    assert attempts[0].predicted_s == attempts[0].measured_s


@pytest.mark.parametrize("factor", [1.04, 1.1, 1.5])
def test_over_budget_means_tighter_and_again(factor: float) -> None:
    budget_s = 6e-3
    attempts = derive_within(DIGITS, PROBABILITIES, LATENCY, budget_s, lambda net: (factor * predicted(net), budget_s))
    assert len(attempts) == 2
    assert attempts[0].measured_s > budget_s
    assert attempts[1].measured_s <= (1 - MARGIN) * budget_s
    assert attempts[1].predicted_s < attempts[0].predicted_s


def test_a_prediction_that_is_too_high_does_not_hide_the_fastest() -> None:
    attempts = derive_within(DIGITS, PROBABILITIES, LATENCY, 2e-3, lambda net: (0.5 * predicted(net), 2e-3))
    assert len(attempts) == 1
    assert attempts[0].measured_s < 2e-3 < attempts[0].predicted_s


def test_nothing_fits() -> None:
    tried: list[Architecture] = []

    def measure(architecture: Architecture) -> tuple[float, float]:
        tried.append(architecture)
        return 5e-3, 4e-3

    with pytest.raises(
        BudgetError,
        match=r"digits fits 4 ms. The fastest, `r16 .*`, takes 5 ms, .*: raise the budget above 5.102 ms",
    ):
        derive_within(DIGITS, PROBABILITIES, LATENCY, 4e-3, measure)
    assert len(tried) == len(set(tried)), "no network is measured twice"


def test_a_fastest_network_within_the_margin_is_told_the_budget_that_fits() -> None:
    with pytest.raises(BudgetError, match=r"takes 3.95 ms, .*: raise the budget above 4.031 ms, which leaves 2 %"):
        check_possible(DIGITS, LATENCY, lambda net: (3.95e-3, 4e-3))
    check_possible(DIGITS, LATENCY, lambda net: (3.95e-3, 4.0307e-3))


def test_a_budget_moves_with_the_baseline_it_is_measured_against() -> None:
    """The machine is half as fast when the network is measured, so its baseline is too: no reason to derive again."""
    attempts = derive_within(DIGITS, PROBABILITIES, LATENCY, 1.0, lambda net: (2 * predicted(net), 2.0))
    assert len(attempts) == 1
    assert (attempts[0].measured_s, attempts[0].budget_s) == (2 * attempts[0].predicted_s, 2.0)
