"""The correction finds what work costs inside a network, where networks tell it, and else takes one factor for all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.correction import LEAST_FACTOR, NOISE, CorrectionError, NetworkCorrection

KINDS = ("calls", "multiplications", "bytes")
# Seconds of each kind of work in 40 networks.
WORK = np.random.default_rng(0).uniform(0.5, 2.0, (40, 3))
ONE_EACH = dict(zip(KINDS, np.eye(3)))


def fitted(work: np.ndarray, measured_s: np.ndarray) -> np.ndarray:
    """The factor of each kind, where every operator is of one kind of work."""
    found = NetworkCorrection.fit(KINDS, ONE_EACH, work, measured_s.tolist())
    return found.array(KINDS) * [found.own[kind] for kind in KINDS]


def test_a_correction_needs_two_networks() -> None:
    with pytest.raises(CorrectionError, match="at least two measured networks, got 1"):
        NetworkCorrection.fit(KINDS, ONE_EACH, WORK[:1], [1.0])


def test_networks_that_are_the_sum_of_their_operators_need_no_correction() -> None:
    found = NetworkCorrection.fit(KINDS, ONE_EACH, WORK, WORK.sum(axis=1).tolist())
    assert found.array(KINDS) == pytest.approx(1.0)
    assert found.spread == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("unit_s", [1.0, 1e-6])
@pytest.mark.parametrize("truth", [(0.8, 0.8, 0.8), (0.3, 1.0, 0.9), (1.0, 1.2, 0.5)])
def test_the_factors_that_networks_follow_are_found(truth: tuple[float, ...], unit_s: float) -> None:
    # The priors are far weaker than 40 networks without noise.
    assert fitted(unit_s * WORK, unit_s * WORK @ truth) == pytest.approx(truth, abs=1e-3)


@pytest.mark.parametrize("count", [12, 60])
def test_the_spread_is_what_networks_that_were_not_fitted_to_miss_by(count: int) -> None:
    """Nine kinds of work, 1 % of noise, means over 40 fits."""
    random, kinds, truth = np.random.default_rng(1), tuple("abcdefghi"), np.linspace(0.5, 1.5, 9)
    said, missed = [], []
    for _ in range(40):
        work = random.uniform(0.5, 2.0, (count + 50, 9))
        seconds = work @ truth * (1 + 0.01 * random.standard_normal(count + 50))
        found = NetworkCorrection.fit(kinds, dict(zip(kinds, np.eye(9))), work[:count], seconds[:count].tolist())
        said.append(found.spread)
        missed.append(np.std(work[count:] @ (found.array(kinds) * list(found.own.values())) / seconds[count:]))
    assert np.mean(said) == pytest.approx(np.mean(missed), rel=0.35)


def test_one_outlier_among_many_moves_the_correction_little() -> None:
    measured_s = WORK @ (0.8, 1.0, 0.6)
    measured_s[5] *= 10
    predicted = WORK @ fitted(WORK, measured_s) / (WORK @ (0.8, 1.0, 0.6))
    assert np.delete(predicted, 5) == pytest.approx(1.0, rel=2 * NOISE)


def test_what_two_networks_cannot_tell_is_as_what_they_can() -> None:
    """Both have the same shares of work, so only the sum is known."""
    found = fitted(np.array([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]), np.array([1.6, 3.2]))
    assert found == pytest.approx([0.8, 0.8, 0.8], abs=1e-3)


def test_operators_that_differ_from_others_of_their_work_are_found() -> None:
    """Twenty operators of one kind of work, each measured some 3 % too high or too low; networks of eight of them."""
    random = np.random.default_rng(3)
    off = np.exp(0.03 * random.standard_normal(20))
    alone = np.array([random.permutation([1.0] * 8 + [0.0] * 12) for _ in range(100)]) * random.uniform(0.5, 2.0, 20)
    measured_s = alone @ off * (1 + 0.002 * random.standard_normal(100))
    shares = {f"op{number}": [1.0] for number in range(20)}
    found = NetworkCorrection.fit(("calls",), shares, alone[:60], measured_s[:60].tolist())
    missed = np.std(alone[60:] @ list(found.own.values()) / measured_s[60:])
    assert missed < 0.4 * np.std(alone[60:].sum(axis=1) / measured_s[60:])
    assert found.spread == pytest.approx(missed, rel=0.5)


@given(st.lists(st.floats(1e-6, 10.0), min_size=2, max_size=6))
def test_no_work_is_free(measured_s: list[float]) -> None:
    work = WORK[: len(measured_s)]
    common = 1 / np.median(work.sum(axis=1) / measured_s)
    found = NetworkCorrection.fit(KINDS, ONE_EACH, work, measured_s)
    assert (found.array(KINDS) >= 0.999 * LEAST_FACTOR * common).all()
    assert min(found.own.values()) >= 0.999 * LEAST_FACTOR
