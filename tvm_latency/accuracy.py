"""How well predictions match measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Predictions against measurements of things the predictor was not fitted to.

    within_5pct, within_10pct: share of predictions that near to the measurement, relative to it.
    mape: mean absolute error relative to the measurement; 0.05 is 5 %.
    rmse_s: root of the mean squared error in seconds.
    spearman, kendall: rank correlations; None where ranks say nothing (fewer than three, or all equal).
    """

    count: int
    within_5pct: float
    within_10pct: float
    mape: float
    rmse_s: float
    spearman: float | None
    kendall: float | None

    @classmethod
    def of(cls, predicted_s: Sequence[float], measured_s: Sequence[float]) -> Scores:
        """Compare pair by pair.

        Raises:
            ValueError: nothing to compare, or not as many predictions as measurements.
        """
        if not measured_s or len(predicted_s) != len(measured_s):
            raise ValueError(
                f"Scores need pairs, got {len(predicted_s)} predictions of {len(measured_s)} measurements."
            )
        predicted, measured = np.asarray(predicted_s), np.asarray(measured_s)
        from scipy.stats import kendalltau, spearmanr  # which takes longer to load than most commands need to run

        errors = np.abs(predicted / measured - 1.0)
        ranked = len(measured) >= 3 and np.ptp(predicted) > 0 and np.ptp(measured) > 0
        return cls(
            count=len(measured),
            within_5pct=float(np.mean(errors <= 0.05)),
            within_10pct=float(np.mean(errors <= 0.10)),
            mape=float(errors.mean()),
            rmse_s=float(np.sqrt(np.mean((predicted - measured) ** 2))),
            spearman=float(spearmanr(predicted, measured).statistic) if ranked else None,
            kendall=float(kendalltau(predicted, measured).statistic) if ranked else None,
        )


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Scores on what was not used for fitting.

    blocks: the cost model on operators of the folds it was not fitted to; None where no operator was measured.
    model: the cost model on whole networks, none of their operators taken from measurements.
    networks: the latency table, measured operators where there are any, on the same networks: what a search adds up.
    baselines: simple predictors on the same networks, fitted to the same measurements, by name.
    noise: how far the rounds of the median network are apart, as a share of its time; a median of them varies less.
    """

    blocks: Scores | None
    model: Scores
    networks: Scores
    baselines: Mapping[str, Scores]
    noise: float
