import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.accuracy import Scores


def test_known_answers() -> None:
    scores = Scores.of([1.04, 1.86, 3.60, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert (scores.count, scores.within_5pct, scores.within_10pct, scores.spearman) == (4, 0.5, 0.75, 1.0)
    # Relative errors 0.04, 0.07, 0.2, 0; a few roundings each.
    assert scores.mape == pytest.approx(0.31 / 4, rel=1e-14)
    assert scores.rmse_s == pytest.approx(((0.04**2 + 0.14**2 + 0.6**2) / 4) ** 0.5, rel=1e-14)


def test_the_order_is_what_spearman_sees() -> None:
    assert Scores.of([3.0, 2.0, 1.0], [1.0, 2.0, 3.0]).spearman == pytest.approx(-1.0, rel=1e-14)


@pytest.mark.parametrize(("predicted", "measured"), [([1.0, 2.0], [1.0, 2.0]), ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0])])
def test_ranks_that_say_nothing_are_none(predicted: list[float], measured: list[float]) -> None:
    assert Scores.of(predicted, measured).spearman is None


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=20))
def test_a_perfect_prediction_scores_perfectly(measured: list[float]) -> None:
    scores = Scores.of(measured, measured)
    assert (scores.within_5pct, scores.within_10pct, scores.mape, scores.rmse_s) == (1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(("predicted", "measured"), [([], []), ([1.0], [1.0, 2.0])])
def test_scores_need_pairs(predicted: list[float], measured: list[float]) -> None:
    with pytest.raises(ValueError, match=r"Scores need pairs, got \d predictions of \d measurements"):
        Scores.of(predicted, measured)
