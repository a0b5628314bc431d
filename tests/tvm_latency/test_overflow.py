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


@given(st.floats(1e-12, 1e-10), st.lists(st.floats(1e5, 1e7), min_size=1, max_size=9))
def test_a_cost_that_is_the_same_everywhere_is_found(rate: float, excess: list[float]) -> None:
    found = Overflow.fit(1e6, excess, [rate * x for x in excess], [1e-2] * len(excess), [1e-9] * len(excess))
    assert found.seconds_per_byte == pytest.approx(rate, rel=1e-2, abs=0)
    assert found.spread_s_per_byte <= 1e-2 * rate
    assert (found.above_bytes, found.most_bytes) == (1e6, 1e6 + max(excess))


def test_what_wider_operators_lack_is_not_charged_to_bytes() -> None:
    excess, network_s = [2e6, 6e6, 9e6, 14e6, 16e6], [9e-3, 10e-3, 11e-3, 13e-3, 11e-3]
    for rate in (0.0, 4e-11):
        missing = [0.05 * s + rate * x for s, x in zip(network_s, excess)]
        found = Overflow.fit(0.0, excess, missing, network_s, [1e-5] * 5)
        assert found.seconds_per_byte == pytest.approx(rate, abs=1e-12)


def test_a_network_that_a_neighbour_slowed_counts_less() -> None:
    """One that is 3 ms too slow, and as uncertain."""
    random = Random(0)
    excess, network_s = [random.uniform(1e6, 2e7) for _ in range(8)], [1e-2 + 1e-3 * n for n in range(8)]
    missing = [5e-11 * x * random.uniform(0.9, 1.1) for x in excess]
    missing[3] += 3e-3
    uncertain_s = [2e-4] * 8
    alike = Overflow.fit(0.0, excess, missing, network_s, uncertain_s)
    uncertain_s[3] = 3e-3
    known = Overflow.fit(0.0, excess, missing, network_s, uncertain_s)
    assert known.seconds_per_byte == pytest.approx(5e-11, rel=0.1)
    # Even if that is not known, it pulls linearly: by least squares it would be charged with its weight.
    assert alike.seconds_per_byte == pytest.approx(5e-11, rel=0.3)
    assert 0.02 < known.spread_s_per_byte / known.seconds_per_byte < 0.4


@pytest.mark.parametrize(("excess", "missing"), [([], []), ([0.0, 0.0], [1e-3, 1e-3])])
def test_without_a_heavy_network_there_is_no_cost(excess: list[float], missing: list[float]) -> None:
    assert Overflow.fit(7.0, excess, missing, [1e-2] * len(excess), [1e-4] * len(excess)) == Overflow(7.0)


def test_weights_that_are_faster_than_expected_cost_nothing_less() -> None:
    assert Overflow.fit(0.0, [1e6], [-1e-3], [1e-2], [1e-4]).seconds_per_byte == pytest.approx(0.0, abs=1e-13)


def test_on_a_slower_machine_it_costs_as_many_times_as_much() -> None:
    assert Overflow(1e6, 2e-11, 1e-11, 3e6).times(4.0) == Overflow(1e6, 8e-11, 4e-11, 3e6)


@pytest.mark.parametrize(("above", "most", "outside"), [(10.0, 12.0, False), (10.0, 0.0, True), (2.0, 11.7, True)])
def test_a_network_far_heavier_than_any_that_was_measured_is_said(above: float, most: float, outside: bool) -> None:
    unit = LINEAR.weight_bytes / 4
    said = Overflow(above * unit, 0.0, 0.0, most * unit).outside([LINEAR] * 3)
    assert (said is not None) == outside
    if said:
        assert said.startswith("1.2 MB in all, measured were networks of up to ")
