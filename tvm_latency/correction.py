"""NetworkCorrection: what work costs inside a network, relative to what it costs when an operator runs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.optimize import least_squares
from sklearn.model_selection import KFold

from tvm_latency.drift import MAD_OF_NORMAL

# Random networks take nearly the same time, so kinds of work are hard to tell apart. Where the data do not insist, all
# have the same factor; these are standard deviations.
NOISE = 0.01  # of a network's time, beyond which it is an outlier that pulls linearly, not squared
FACTOR_SPREAD = 0.5  # of the common factor
# No work is free: of the common factor too.
LEAST_FACTOR = 0.05
# What networks miss that were left out of a fit is the spread.
FOLDS = 10

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Array = NDArray[np.float64]


class CorrectionError(ValueError):
    """Too little was measured to tell what work costs inside a network."""


@dataclass(frozen=True)
class NetworkCorrection:
    """The seconds of an operator alone, split into kinds of work, each multiplied by its factor: those in a network.

    Alone, every kernel is called cold: its code and the virtual machine's have left the caches with the weights. In a
    network they have not, and the processor fetches ahead across operators, so a call of a kernel and a byte of weights
    cost less there than alone, and a multiplication what it does. A network is the sum of its operators, so an
    expectation over paths is linear in their probabilities.

    factors: by kind of work, 1 for all that are not in it.
    spread: how far networks that were not fitted to are from that sum, a standard deviation as a share of their time.
    """

    factors: Mapping[str, Factor] = field(default_factory=dict)
    spread: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    def array(self, kinds: Sequence[str]) -> Array:
        """The factors of these kinds of work."""
        return np.array([self.factor(kind) for kind in kinds])

    def factor(self, kind: str) -> float:
        """That of one kind of work."""
        return self.factors.get(kind, 1.0)

    @classmethod
    def fit(cls, kinds: Sequence[str], work_s: ArrayLike, measured_s: Sequence[float]) -> NetworkCorrection:
        """Least squares on relative residuals, robust to outliers (soft L1), with weak priors towards a common factor.

        work_s: [networks, kinds], the seconds of a network's operators alone, by kind of work; measured_s: [networks],
        those of the network as a whole.

        Raises:
            CorrectionError: fewer than two networks.
        """
        if len(measured_s) < 2:
            raise CorrectionError(
                f"A network correction needs at least two measured networks, got {len(measured_s)}. "
                "Measure more random networks."
            )
        work = np.asarray(work_s) / np.asarray(measured_s)[:, None]
        folds = KFold(min(FOLDS, len(work)), shuffle=True, random_state=0).split(work)
        misses = np.concatenate([work[rest] @ _factors(work[fit]) - 1.0 for fit, rest in folds])
        return cls(dict(zip(kinds, _factors(work).tolist())), float(MAD_OF_NORMAL * np.median(np.abs(misses))))


def _factors(work: Array) -> Array:
    """Factors of each kind by which rows of work add up to 1."""
    common = 1.0 / np.median(work.sum(axis=1))

    def residuals(factors: Array) -> Array:
        return np.append((common * work @ factors - 1.0) / NOISE, (factors - 1.0) / FACTOR_SPREAD)

    start, bounds = np.ones(work.shape[1]), (LEAST_FACTOR, np.inf)
    return np.asarray(common * least_squares(residuals, x0=start, bounds=bounds, loss="soft_l1").x)
