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


@given(st.floats(0.0, 1e-9), st.lists(st.floats(1e3, 1e7), min_size=1, max_size=9))
def test_a_cost_that_is_the_same_everywhere_is_found(rate: float, excess: list[float]) -> None:
    found = Overflow.fit(1e6, excess, [rate * x for x in excess], [1e-3] * len(excess))
    assert found.seconds_per_byte == pytest.approx(rate)
    assert found.spread_s_per_byte == pytest.approx(0.0, abs=1e-15)
    assert found.above_bytes == 1e6


def test_it_has_the_least_absolute_relative_error_and_one_outlier_does_not_move_it() -> None:
    random = Random(0)
    excess = [random.uniform(1e6, 2e7) for _ in range(8)]
    missing = [5e-11 * x * random.uniform(0.8, 1.2) for x in excess]
    missing[3] += 1.0
    found = Overflow.fit(0.0, excess, missing, [1e-2] * 8)

    def error(rate: float) -> float:
        return sum(abs(rate * x - miss) for x, miss in zip(excess, missing))

    assert error(found.seconds_per_byte) <= min(error(1e-13 * i) for i in range(1000)) * (1 + 1e-12)
    assert 0.02 < found.spread_s_per_byte / found.seconds_per_byte < 0.4


@pytest.mark.parametrize(("excess", "missing"), [([], []), ([0.0, 0.0], [1e-3, 1e-3])])
def test_without_a_heavy_network_there_is_no_cost(excess: list[float], missing: list[float]) -> None:
    assert Overflow.fit(7.0, excess, missing, [1e-2] * len(excess)) == Overflow(7.0)


def test_weights_that_are_faster_than_expected_cost_nothing_less() -> None:
    assert Overflow.fit(0.0, [1e6], [-1e-3], [1e-2]).seconds_per_byte == 0.0


def test_on_a_slower_machine_it_costs_as_many_times_as_much() -> None:
    assert Overflow(1e6, 2e-11, 1e-11).times(3.0) == Overflow(1e6, pytest.approx(6e-11), pytest.approx(3e-11))
