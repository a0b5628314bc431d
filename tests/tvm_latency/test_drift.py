"""What ran beside a candidate takes out what slowed the machine, and what it does not explain is noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tvm_latency import drift
from tvm_latency.database import Round
from tvm_latency.drift import LEAST_ROUNDS, SLOW, USUAL_MISS, Steady, disturbed, steady


def beside(reference_s: float, *samples_s: float) -> Round:
    return Round(samples_s, (reference_s,) * 3)


def alone(rounds: list[Round]) -> Steady:
    return steady({"a": rounds})["a"]


SPEEDS = st.lists(st.floats(0.9, 1.1), min_size=1, max_size=9, unique=True)


@given(SPEEDS, st.floats(1e-6, 1.0), st.floats(1e-5, 1e-2), st.integers(1, 8))
def test_a_common_slowness_is_taken_out(speeds: list[float], seconds: float, reference_s: float, repeats: int) -> None:
    found = alone([beside(speed * reference_s, *(speed * seconds,) * repeats) for speed in speeds])
    usual = np.exp(np.percentile(np.log(speeds), 25))
    assert found.seconds == pytest.approx(usual * seconds)
    assert found.noise == pytest.approx(0.0, abs=1e-9)


def test_others_tell_how_slow_the_machine_was_where_the_reference_does_not() -> None:
    """In half of the groups everything but the reference takes 1.2 times as long."""
    slow = [1.0, 1.2] * 6
    rows = {
        key: [Round((seconds * one,), (1.0 + 1e-9 * turn,)) for turn, one in enumerate(slow)]
        for key, seconds in (("a", 1.0), ("b", 3.0), ("c", 0.5), ("d", 2.0))
    }
    found = steady(rows)
    # One of five that says otherwise pulls as hard as a quarter of what is usual pushes, however far it is.
    assert [found[key].seconds for key in "abcd"] == pytest.approx([1.0, 3.0, 0.5, 2.0], rel=0.3 * USUAL_MISS)
    assert max(one.noise for one in found.values()) <= 0.5 * USUAL_MISS


def test_candidates_of_different_days_are_compared_by_the_reference_if_by_nothing_else() -> None:
    """On the second day everything takes 1.1 times as long, and other candidates are measured."""
    today, tomorrow = _groups([1.0] * 6), _groups([1.1] * 6)
    rows = {f"today {number}": [beside(one, one * number) for one in today] for number in range(1, 9)}
    rows |= {f"tomorrow {number}": [beside(one, one * number) for one in tomorrow] for number in range(1, 9)}
    found = steady(rows)
    for number in range(1, 9):
        assert found[f"today {number}"].seconds == pytest.approx(number, rel=1e-4)
        assert found[f"tomorrow {number}"].seconds == pytest.approx(number, rel=1e-4)


def test_what_was_measured_on_both_days_says_more_than_the_reference() -> None:
    """On the second day the reference takes 1.02 times as long, all else 1.05; a third of the candidates is there."""
    today, tomorrow = _groups([1.0] * 6), _groups([1.02] * 24)
    rows = {f"today {number}": [beside(one, number) for one in today] for number in range(1, 21)}
    for number in range(1, 11):
        rows[f"both {number}"] = [
            *(beside(one, number) for one in today),
            *(beside(one, 1.05 * number) for one in tomorrow),
        ]
    found = steady(rows)
    for number in range(1, 11):
        ratio = found[f"both {number}"].seconds / found[f"today {number}"].seconds
        assert ratio == pytest.approx(1.0, abs=0.15 * USUAL_MISS)


@pytest.mark.parametrize("scatter", [0.01, 0.05, 0.1])
def test_nothing_is_left_to_better_where_rounds_scatter(scatter: float) -> None:
    """Two days, of which a few noisy candidates are all that both have: the derivative of the robust loss is 0."""
    random = np.random.default_rng(0)
    days = [range(12), range(8, 24)]
    entries = [(row, 20 * day + turn) for day, rows in enumerate(days) for row in rows for turn in range(20)]
    row, column = np.array(entries).T
    logs = row / 7 + 0.1 * (column >= 20) + scatter * random.standard_t(2, len(row))
    slowness = drift._slowness(logs, row, column)

    def lost(takes: np.ndarray, slowness: np.ndarray) -> float:
        missed = (logs - takes[row] - slowness[column]) / USUAL_MISS
        return float(np.sum(np.sqrt(1 + missed**2) - 1))

    def best_takes(slowness: np.ndarray) -> np.ndarray:
        found = [
            minimize_scalar(lambda one, mine=mine: np.sum(np.sqrt(1 + ((mine - one) / USUAL_MISS) ** 2))).x
            for mine in (logs[row == number] - slowness[column[row == number]] for number in range(24))
        ]
        return np.array(found)

    takes = best_takes(slowness)
    second_day = np.arange(40) >= 20
    least = lost(takes, slowness)
    for moved in (-1e-3, 1e-3):
        shifted = slowness + moved * second_day
        assert least < lost(best_takes(shifted), shifted)


def test_the_spread_is_a_standard_deviation_that_outliers_do_not_move() -> None:
    """Beside so many others that the noise of one says nothing of the machine."""
    random = np.random.default_rng(0)
    noisy = 1e-3 * np.exp(0.02 * random.standard_normal(2001))
    noisy[:100] *= 10
    groups = [1.0 + 1e-9 * group for group in range(len(noisy))]
    rows = {f"calm {number}": [beside(one, 1.0) for one in groups] for number in range(4)}
    found = steady({"noisy": [beside(*pair) for pair in zip(groups, noisy.tolist())], **rows})["noisy"]
    assert found.seconds == pytest.approx(1e-3, rel=3e-3)
    assert found.noise == pytest.approx(0.02, rel=0.1)


def test_interrupted_calls_of_a_round_change_nothing() -> None:
    interrupted = [Round((1.0, 1.0, 8.0, 9.0), (one, one, one, 1.3 * one)) for one in (1.0, 1.0 + 1e-9)]
    assert alone([*interrupted, Round((1.0,) * 4, (1.0,) * 4)]).seconds == pytest.approx(1.0)


def test_a_machine_that_is_slowed_at_random_is_told_more_exactly_than_by_the_reference() -> None:
    """Others take up to a third of whole groups of a shuffled pass, and up to half of each call besides."""
    random = np.random.default_rng(0)

    def calls(slow: float, count: int) -> tuple[float, ...]:
        return tuple((slow * (1.0 + 0.5 * random.random(count))).tolist())

    def errors() -> tuple[float, float]:
        truth = np.exp(random.standard_normal(24))
        rows: dict[str, list[Round]] = {str(number): [] for number in range(len(truth))}
        for _ in range(12):
            for group in np.split(random.permutation(len(truth)), 4):
                slow = 1.0 + 0.3 * random.random()
                reference = calls(slow, 8)
                for number in group:
                    found = tuple(float(truth[number]) * one for one in calls(slow, 8))
                    rows[str(number)].append(Round(found, reference))
        ratios = [[np.median(one.samples_s) / np.median(one.reference_samples_s) for one in f] for f in rows.values()]
        ours, medians = [found.seconds for found in steady(rows).values()], np.median(ratios, axis=1)
        # What is common to all is the level, which is the machine's.
        return float(np.std(np.log(ours / truth))), float(np.std(np.log(medians / truth)))

    ours, by_reference = np.mean([errors() for _ in range(20)], axis=0)
    assert ours < 0.8 * by_reference


def test_slow_rounds_count_only_where_others_are_few() -> None:
    """A candidate that slows down more than what ran beside it, so that no common slowness explains it."""
    others = {str(number): [beside(one, one) for one in _groups([1.0] * 6 + [2.0] * 6)] for number in range(4)}
    rounds = [beside(one, 1.0 if one < SLOW else 3.0) for one in _groups([1.0] * 6 + [2.0] * 6)]
    found = steady({"a": rounds, **others})["a"]
    assert (found.seconds, found.calm_rounds) == (pytest.approx(1.0), 6)
    # Two calm rounds and nine slow ones: the calmest three count.
    few = [*rounds[:2], *rounds[6:]]
    found = steady({"a": few, **others})["a"]
    assert (found.seconds, found.calm_rounds) == (pytest.approx(1.0), 2)
    assert found.calm_rounds < LEAST_ROUNDS


def test_rounds_in_which_the_core_was_shared_do_not_count() -> None:
    """Another process takes every other slice of 3 ms for half of the passes: long calls take twice as long, short ones
    as ever, and what ran beside a candidate is sometimes the ones, sometimes the others.
    """
    random = np.random.default_rng(0)
    truth = dict(zip(map(str, range(24)), [10e-3, 0.1e-3] * 12))
    rows: dict[str, list[Round]] = {key: [] for key in truth}
    for shared in [True] * 6 + [False] * 6:
        for group in np.split(random.permutation(24), 4):
            calm = 1.2e-3 * (1.0 + 0.02 * random.random())
            reference = (*(calm,) * 4, *(calm + (3e-3 if shared else 0.0),) * 4)
            for key in map(str, group):
                slow = random.uniform(1.8, 2.2) if shared and truth[key] > 3e-3 else 1.0
                rows[key].append(Round((slow * truth[key],) * 8, reference))
    found = steady(rows)
    assert [found[key].seconds for key in truth] == pytest.approx([*truth.values()], rel=0.03)
    # Where a candidate has no other round, those count.
    assert steady({"0": rows["0"][:6], **{key: rows[key] for key in map(str, range(1, 24))}})["0"].seconds > 15e-3


def _groups(slowness: list[float]) -> list[float]:
    """As many groups, which no two rounds of a candidate share."""
    return [slow * (1.0 + 1e-9 * number) for number, slow in enumerate(slowness)]


def test_nothing_measured_is_nothing_found() -> None:
    assert steady({}) == steady({"a": []}) == {}
    assert disturbed([]) == ()


def test_the_usual_speed_is_the_quiet_one_if_a_quarter_was_quiet() -> None:
    rounds = [beside(reference_s, 1.0) for reference_s in [1.0, 1.01, 0.99] * 3 + [2.0, 3.0, 2.5] * 6]
    assert disturbed(rounds) == (False,) * 9 + (True,) * 18
    assert not any(disturbed([beside(reference_s, 1.0) for reference_s in (1.0, 1.05, 1.0)]))


def test_a_reference_whose_median_call_fits_between_the_turns_of_another_process_was_disturbed() -> None:
    interrupted = [Round((1.9,), (1.0, 1.0, 2.8))] * 2
    assert disturbed([*interrupted, *[beside(1.0, 1.0)] * 3]) == (True, True, False, False, False)


def test_calls_of_uneven_length_are_no_disturbance_where_they_are_usual() -> None:
    rounds = [Round((1.0,), (slow, slow, 1.9 * slow)) for slow in (1.0, 1.01, 0.99, 1.02)]
    assert not any(disturbed(rounds))
    assert disturbed([*rounds, Round((1.0,), (1.0, 1.0, 2.5))])[-1]
