"""What weights cost beyond those of a space's networks: nothing within it, and found from networks that have more."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.opspec import OpSpec
from tvm_latency.overflow import Overflow

LINEAR = OpSpec(kind="linear", height=1, width=1, in_channels=100, out_channels=1000)


def test_the_bytes_beyond_are_those_of_the_whole_network() -> None:
    assert Overflow(1.5 * LINEAR.weight_bytes).bytes_of([LINEAR, LINEAR]) == 0.5 * LINEAR.weight_bytes
    assert Overflow(1.5 * LINEAR.weight_bytes).bytes_of([LINEAR]) == 0.0


@given(st.floats(1e-13, 1e-9), st.lists(st.floats(1e3, 1e7), min_size=1, max_size=9))
def test_a_cost_that_is_the_same_everywhere_is_found(rate: float, excess: list[float]) -> None:
    found = Overflow.fit(1e6, excess, [rate * x for x in excess], [1e-3] * len(excess))
    assert found.seconds_per_byte == pytest.approx(rate, rel=1e-12, abs=0)
    assert found.spread_s_per_byte <= 1e-12 * rate
    assert (found.above_bytes, found.most_bytes) == (1e6, 1e6 + max(excess))


def test_it_has_the_least_error_by_what_is_uncertain_and_one_outlier_does_not_move_it() -> None:
    random = Random(0)
    excess = [random.uniform(1e6, 2e7) for _ in range(8)]
    uncertain_s = [1e-3 * (1 + n % 3) for n in range(8)]
    missing = [5e-11 * x * random.uniform(0.8, 1.2) for x in excess]
    missing[3] += 1.0
    found = Overflow.fit(0.0, excess, missing, uncertain_s)

    def error(rate: float) -> float:
        return sum(abs(rate * x - miss) / s for x, miss, s in zip(excess, missing, uncertain_s))

    assert error(found.seconds_per_byte) <= min(error(1e-13 * i) for i in range(1000)) * (1 + 1e-12)
    # Where a network that is surely so and two that are not disagree, the one counts.
    assert Overflow.fit(0.0, [1.0, 1.0, 1.0], [1.0, 5.0, 6.0], [1.0, 9.0, 9.0]).seconds_per_byte == 1.0
    assert 0.02 < found.spread_s_per_byte / found.seconds_per_byte < 0.4


@pytest.mark.parametrize(("excess", "missing"), [([], []), ([0.0, 0.0], [1e-3, 1e-3])])
def test_without_a_heavy_network_there_is_no_cost(excess: list[float], missing: list[float]) -> None:
    assert Overflow.fit(7.0, excess, missing, [1e-2] * len(excess)) == Overflow(7.0)


def test_weights_that_are_faster_than_expected_cost_nothing_less() -> None:
    assert Overflow.fit(0.0, [1e6], [-1e-3], [1e-2]).seconds_per_byte == 0.0


def test_on_a_slower_machine_it_costs_as_many_times_as_much() -> None:
    assert Overflow(1e6, 2e-11, 1e-11, 3e6).times(4.0) == Overflow(1e6, 8e-11, 4e-11, 3e6)


@pytest.mark.parametrize(("above", "most", "outside"), [(10.0, 12.0, False), (10.0, 0.0, True), (2.0, 11.7, True)])
def test_a_network_far_heavier_than_any_that_was_measured_is_said(above: float, most: float, outside: bool) -> None:
    unit = LINEAR.weight_bytes / 4
    said = Overflow(above * unit, 0.0, 0.0, most * unit).outside([LINEAR] * 3)
    assert (said is not None) == outside
    if said:
        assert said.startswith("1.2 MB in all, measured were networks of up to ")
