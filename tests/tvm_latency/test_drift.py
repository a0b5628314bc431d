"""The reference takes out what slows the machine down, and what it does not explain is noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.database import Round
from tvm_latency.drift import QUIET_ROUNDS, Usual, disturbed, steady, usual


def beside(reference_s: float, *samples_s: float) -> Round:
    return Round(samples_s, (reference_s,) * 3)


# A reference of one second that is never interrupted.
ONE = Usual(1.0, 1.0)
SPEEDS = st.lists(st.floats(0.5, 4.0), min_size=1, max_size=9)


@given(SPEEDS, st.floats(1e-6, 1.0), st.floats(1e-5, 1e-2), st.integers(1, 8))
def test_a_common_slowness_is_taken_out(speeds: list[float], seconds: float, reference_s: float, repeats: int) -> None:
    rounds = [beside(speed * reference_s, *(speed * seconds,) * repeats) for speed in speeds]
    found = steady(rounds, usual_s=Usual(reference_s, reference_s))
    assert found.seconds == pytest.approx(seconds)
    assert found.noise == pytest.approx(0.0, abs=1e-9)


def test_the_spread_is_a_standard_deviation_that_outliers_do_not_move() -> None:
    random = np.random.default_rng(0)
    rounds = 1e-3 * (1 + 0.02 * random.standard_normal(2001))
    rounds[:100] *= 10
    found = steady([beside(1.0, seconds) for seconds in rounds.tolist()], usual_s=ONE)
    # The first quartile of what is left of 2001 normal numbers when 100 have gone: 0.634 standard deviations below.
    assert found.seconds == pytest.approx(1e-3 * (1 - 0.634 * 0.02), rel=2e-3)
    assert found.noise == pytest.approx(0.02, rel=0.1)


def test_interrupted_calls_of_a_round_change_nothing() -> None:
    interrupted = Round((1.0, 8.0, 9.0), (1.0, 1.3, 1.0))
    assert steady([interrupted, Round((2.0, 2.0, 2.0), (2.0, 2.0, 2.0))], usual_s=Usual(1.0, 2.0)).seconds == 1.0


@given(st.integers(0, 2**32 - 1))
def test_a_machine_that_is_slowed_at_random_is_told_more_exactly_than_by_medians(seed: int) -> None:
    """Others take from nothing to half of the time of a call, of the reference and of the candidate independently."""
    random = np.random.default_rng(seed)

    def calls(count: int) -> tuple[float, ...]:
        return tuple((1.0 + 0.5 * random.random(count) ** 2).tolist())

    def estimates() -> tuple[float, float]:
        rounds = [Round(calls(8), calls(16)) for _ in range(12)]
        by_medians = [np.median(one.samples_s) / np.median(one.reference_samples_s) for one in rounds]
        return steady(rounds, usual(rounds)).seconds, float(np.median(by_medians))

    ours, medians = zip(*(estimates() for _ in range(20)))
    assert np.std(ours) / np.mean(ours) < np.std(medians) / np.mean(medians)


def test_the_usual_speed_is_the_quiet_one_if_a_quarter_was_quiet() -> None:
    rounds = [beside(reference_s, 1.0) for reference_s in [1.0, 1.01, 0.99] * 3 + [2.0, 3.0, 2.5] * 6]
    assert usual(rounds) == pytest.approx((1.0, 1.0), rel=0.02)
    assert disturbed(rounds, usual(rounds)) == pytest.approx(18 / 27)
    assert disturbed([beside(reference_s, 1.0) for reference_s in (1.0, 1.05, 1.0)], ONE) == 0.0


def test_a_reference_whose_median_call_fits_between_the_turns_of_another_process_was_disturbed() -> None:
    interrupted = [Round((1.9,), (1.0, 1.0, 2.8))] * 9
    assert disturbed([*interrupted, beside(1.0, 1.0)], usual_s=ONE) == pytest.approx(0.9)
    # Even where they are nearly all there is: their medians say nothing of what was wrong.
    assert steady([*interrupted, *[beside(1.0, 1.0)] * 2], usual_s=ONE).seconds == 1.0


def test_calls_of_uneven_length_are_no_disturbance_where_they_are_usual() -> None:
    rounds = [Round((1.0,), (slow, slow, 1.9 * slow)) for slow in (1.0, 1.01, 0.99, 1.02)]
    assert disturbed(rounds, usual(rounds)) == 0.0
    assert disturbed([*rounds, Round((1.0,), (1.0, 1.0, 2.5))], usual(rounds)) == pytest.approx(0.2)


def test_disturbed_rounds_count_only_where_quiet_ones_are_few() -> None:
    """A candidate that a disturbance slows more than the reference."""
    disturbed_rounds = [beside(2.0, 3.0)] * 7
    quiet_rounds = [beside(1.0, 1.0)] * QUIET_ROUNDS
    assert steady([*disturbed_rounds, *quiet_rounds], usual_s=ONE).seconds == 1.0
    # Too few are left: the least disturbed ones beside them, corrected: of 1, 1.5 and 1.5 the first quartile.
    slowed = [beside(slowness, 1.5 * slowness) for slowness in (1.4, 1.2, 1.3)]
    found = steady([*disturbed_rounds, *slowed, *quiet_rounds[2:]], usual_s=ONE)
    assert (found.seconds, found.spread_s) == (1.25, 0.0)
    assert steady([*disturbed_rounds, *quiet_rounds[1:]], usual_s=ONE).seconds == 1.0
