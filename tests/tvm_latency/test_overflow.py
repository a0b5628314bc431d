"""What weights cost beyond those of a space's networks: nothing within it, and found from networks that have more."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.opspec import OpSpec
from tvm_latency.overflow import USUAL_SHARE, Overflow

LINEAR = OpSpec(kind="linear", height=1, width=1, in_channels=100, out_channels=1000)


def test_the_bytes_beyond_are_those_of_the_whole_network() -> None:
    assert Overflow(1.5 * LINEAR.weight_bytes).bytes_of([LINEAR, LINEAR]) == 0.5 * LINEAR.weight_bytes
    assert Overflow(1.5 * LINEAR.weight_bytes).bytes_of([LINEAR]) == 0.0


@given(st.floats(1e-13, 1e-9), st.lists(st.floats(1e3, 1e7), min_size=1, max_size=9))
def test_a_cost_that_is_the_same_everywhere_is_found(rate: float, excess: list[float]) -> None:
    found = Overflow.fit(1e6, excess, [rate * x for x in excess], [1e-3] * len(excess), [1e-5] * len(excess))
    assert found.seconds_per_byte == pytest.approx(rate, rel=1e-12, abs=0)
    assert found.share == pytest.approx(0.0, abs=1e-12)
    assert found.spread_s_per_byte <= (1e-12 if len(excess) > 2 else 1.0 + 1e-12) * rate
    assert (found.above_bytes, found.most_bytes) == (1e6, 1e6 + max(excess))


@pytest.mark.parametrize("rate", [0.0, 4e-11])
@pytest.mark.parametrize("share", [-0.02, 0.05])
def test_what_all_of_them_lack_is_not_charged_to_bytes(rate: float, share: float) -> None:
    excess, sum_s = [2e6, 6e6, 9e6, 14e6, 16e6], [9e-3, 10e-3, 11e-3, 13e-3, 11e-3]
    missing = [share * s + rate * x for s, x in zip(sum_s, excess)]
    found = Overflow.fit(0.0, excess, missing, sum_s, [1e-4] * 5)
    assert found.seconds_per_byte == pytest.approx(rate, abs=1e-20)
    assert found.share == pytest.approx(share)


Six = st.lists(st.floats(-1.0, 1.0), min_size=6, max_size=6)


@given(st.integers(1, 6), Six, st.integers(0, 2**31))
def test_the_error_is_least_in_units_of_what_is_uncertain(count: int, missing: list[float], seed: int) -> None:
    random, missing = Random(seed), missing[:count]
    excess, sum_s, uncertain_s = ([random.uniform(0.1, 1.0) for _ in missing] for _ in range(3))
    found = Overflow.fit(0.0, excess, missing, sum_s, uncertain_s)

    def error(share: float, rate: float) -> float:
        of_each = zip(missing, sum_s, excess, uncertain_s)
        return sum(abs(share * s + rate * x - m) / u for m, s, x, u in of_each) + abs(share) / USUAL_SHARE

    least = error(found.share, found.seconds_per_byte)
    others = [(random.uniform(-3, 3), random.uniform(0, 3)) for _ in range(50)]
    near = [(found.share + a * 1e-4, max(0.0, found.seconds_per_byte + b * 1e-4)) for a, b in others]
    assert least <= min(error(*other) for other in [*others, *near, (0.0, 0.0)]) * (1 + 1e-9) + 1e-12
    assert found.seconds_per_byte >= 0


def test_the_share_comes_within_a_tenth_of_what_the_space_has() -> None:
    unit = LINEAR.weight_bytes
    within, half, beyond = (Overflow(above * unit, 0.0, 0.0, 0.0, 0.08) for above in (1.0, 1 / 1.05, 1 / 1.1))
    for overflow, share in ((within, 0.0), (half, 0.04), (beyond, 0.08)):
        assert overflow.seconds([LINEAR], 2.0) == pytest.approx(share * 2.0)
        assert overflow.spread_s([LINEAR], 2.0) == pytest.approx(share * 2.0)
    byte = Overflow(0.75 * unit, 1e-9, 5e-10)
    assert byte.seconds([LINEAR], 2.0) == pytest.approx(0.25e-9 * unit)
    assert byte.spread_s([LINEAR], 2.0) == pytest.approx(0.125e-9 * unit)


def test_networks_that_a_neighbour_slowed_count_less() -> None:
    """Three of five by 14 %, in half of their rounds, which then scatter by as much."""
    excess, sum_s = [3e6, 6e6, 10e6, 14e6, 16e6], [9e-3, 10e-3, 10.5e-3, 12.5e-3, 11e-3]
    slower = [0.0, 0.14, 0.14, 0.0, 0.14]
    missing = [5e-11 * x + share * s for x, share, s in zip(excess, slower, sum_s)]
    noisy = [max(share, 0.02) * s for share, s in zip(slower, sum_s)]
    known = Overflow.fit(0.0, excess, missing, sum_s, noisy)
    alike = Overflow.fit(0.0, excess, missing, sum_s, [0.02 * s for s in sum_s])
    assert (known.share, known.seconds_per_byte) == pytest.approx((0.0, 5e-11), abs=1e-12)
    assert alike.seconds_per_byte > 1e-10


def test_the_spread_is_that_of_what_is_found() -> None:
    """Of forty noisy calibrations of six networks, hardly any is off by more than two spreads."""
    random, within = Random(0), 0
    for _ in range(40):
        excess = [random.uniform(3e6, 16e6) for _ in range(6)]
        sum_s = [random.uniform(9e-3, 13e-3) for _ in excess]
        missing = [0.05 * s + 4e-11 * x + random.gauss(0, 0.01 * s) for s, x in zip(sum_s, excess)]
        found = Overflow.fit(0.0, excess, missing, sum_s, [0.01 * s for s in sum_s])
        within += abs(found.seconds_per_byte - 4e-11) <= 2 * found.spread_s_per_byte
    assert within >= 34


@pytest.mark.parametrize(("excess", "missing"), [([], []), ([0.0, 0.0], [1e-3, 1e-3])])
def test_without_a_heavy_network_there_is_no_cost(excess: list[float], missing: list[float]) -> None:
    assert Overflow.fit(7.0, excess, missing, [1e-2] * len(excess), [1e-4] * len(excess)) == Overflow(7.0)


@pytest.mark.parametrize("missing", [0.0, 1e-19, -1e-19, -1e-3])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_weights_that_are_as_fast_as_expected_or_faster_cost_nothing(missing: float, count: int) -> None:
    found = Overflow.fit(0.0, [1e6] * count, [missing] * count, [1e-2] * count, [1e-4] * count)
    assert 0.0 <= found.seconds_per_byte <= 1e-25
    assert 0.0 <= found.spread_s_per_byte <= 1e-25


def test_on_a_slower_machine_it_costs_as_many_times_as_much() -> None:
    assert Overflow(1e6, 2e-11, 1e-11, 3e6).times(4.0) == Overflow(1e6, 8e-11, 4e-11, 3e6)


@pytest.mark.parametrize(("above", "most", "outside"), [(10.0, 12.0, False), (10.0, 0.0, True), (2.0, 11.7, True)])
def test_a_network_far_heavier_than_any_that_was_measured_is_said(above: float, most: float, outside: bool) -> None:
    unit = LINEAR.weight_bytes / 4
    said = Overflow(above * unit, 0.0, 0.0, most * unit).outside([LINEAR] * 3)
    assert (said is not None) == outside
    if said:
        assert said.startswith("1.2 MB in all, measured were networks of up to ")
