"""The reference takes out what slows the machine down, and what it does not explain is noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.database import Round
from tvm_latency.drift import QUIET_ROUNDS, Usual, disturbed, steady, usual


def beside(reference_s: float, *samples_s: float) -> Round:
    return Round(samples_s, reference_s, reference_s)


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
    assert found.seconds == pytest.approx(1e-3, rel=3e-3)
    assert found.noise == pytest.approx(0.02, rel=0.1)


def test_one_interrupted_call_of_a_round_changes_nothing() -> None:
    assert steady([beside(1.0, 1.0, 1.0, 9.0), beside(2.0, 2.0, 2.0, 2.0)], usual_s=ONE).seconds == 1.0


def test_the_usual_speed_is_the_quiet_one_if_a_quarter_was_quiet() -> None:
    rounds = [beside(reference_s, 1.0) for reference_s in [1.0, 1.01, 0.99] * 3 + [2.0, 3.0, 2.5] * 6]
    assert usual(rounds) == pytest.approx((1.0, 1.0), rel=0.02)
    assert disturbed(rounds, usual(rounds)) == pytest.approx(18 / 27)
    assert disturbed([beside(reference_s, 1.0) for reference_s in (1.0, 1.05, 1.0)], ONE) == 0.0


def test_a_reference_whose_median_call_fits_between_the_turns_of_another_process_was_disturbed() -> None:
    interrupted = [Round((1.9,), 1.0, 1.6)] * 9
    assert disturbed([*interrupted, beside(1.0, 1.0)], usual_s=ONE) == pytest.approx(0.9)
    # Even where they are nearly all there is: their medians say nothing of what was wrong.
    assert steady([*interrupted, *[beside(1.0, 1.0)] * 2], usual_s=ONE).seconds == 1.0


def test_calls_of_uneven_length_are_no_disturbance_where_they_are_usual() -> None:
    rounds = [Round((1.0,), reference_s, 1.3 * reference_s) for reference_s in (1.0, 1.01, 0.99, 1.02)]
    assert disturbed(rounds, usual(rounds)) == 0.0
    assert disturbed([*rounds, Round((1.0,), 1.0, 1.5)], usual(rounds)) == pytest.approx(0.2)


def test_disturbed_rounds_count_only_where_quiet_ones_are_few() -> None:
    """A candidate that a disturbance slows more than the reference."""
    disturbed_rounds = [beside(2.0, 3.0)] * 7
    quiet_rounds = [beside(1.0, 1.0)] * QUIET_ROUNDS
    assert steady([*disturbed_rounds, *quiet_rounds], usual_s=ONE).seconds == 1.0
    # Too few are left: the least disturbed ones beside them, corrected.
    slowed = [beside(slowness, 1.5 * slowness) for slowness in (1.4, 1.2, 1.3)]
    found = steady([*disturbed_rounds, *slowed, *quiet_rounds[2:]], usual_s=ONE)
    assert (found.seconds, found.spread_s) == (1.5, 0.0)
    assert steady([*disturbed_rounds, *quiet_rounds[1:]], usual_s=ONE).seconds == 1.0
