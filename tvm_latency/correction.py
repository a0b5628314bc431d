"""NetworkCorrection: what operators cost inside a network, relative to what they cost when they run alone."""

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
OWN_SPREAD = 0.03  # of what an operator alone was measured to take, about as much as that is repeated
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
    cost less there than alone, and a multiplication what it does. Besides, an operator may take a little more or less
    than all that says, and than it did when it was measured alone. A network is the sum of its operators, so an
    expectation over paths is linear in their probabilities.

    factors: by kind of work, 1 for all that are not in it.
    spread: how far networks that were not fitted to are from that sum, a standard deviation as a share of their time.
    own: of single operators, by their keys, beside the factors of their work; 1 for all that are not in it.
    """

    factors: Mapping[str, Factor] = field(default_factory=dict)
    spread: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    own: Mapping[str, Factor] = field(default_factory=dict)

    def array(self, kinds: Sequence[str]) -> Array:
        """The factors of these kinds of work."""
        return np.array([self.factor(kind) for kind in kinds])

    def factor(self, kind: str) -> float:
        """That of one kind of work."""
        return self.factors.get(kind, 1.0)

    @classmethod
    def fit(
        cls, kinds: Sequence[str], shares: Mapping[str, ArrayLike], alone_s: ArrayLike, measured_s: Sequence[float]
    ) -> NetworkCorrection:
        """Least squares on relative residuals, robust to outliers (soft L1), with priors towards a common factor.

        shares: for each operator the share [kinds] of its time that each kind of work takes; alone_s: [networks,
        operators], the seconds that a network's operators take alone; measured_s: [networks], as a whole.

        Raises:
            CorrectionError: fewer than two networks.
        """
        if len(measured_s) < 2:
            raise CorrectionError(
                f"A network correction needs at least two measured networks, got {len(measured_s)}. "
                "Measure more random networks."
            )
        of_work, parts = np.array(list(shares.values())), np.asarray(alone_s) / np.asarray(measured_s)[:, None]
        folds = KFold(min(FOLDS, len(parts)), shuffle=True, random_state=0).split(parts)
        misses = np.concatenate(
            [parts[rest] @ _in_network(of_work, *_fit(of_work, parts[fit])) - 1.0 for fit, rest in folds]
        )
        factors, own = _fit(of_work, parts)
        spread = float(MAD_OF_NORMAL * np.median(np.abs(misses)))
        return cls(dict(zip(kinds, factors.tolist())), spread, dict(zip(shares, own.tolist())))


def _in_network(of_work: Array, factors: Array, own: Array) -> Array:
    """What each operator takes there by what it takes alone."""
    return of_work @ factors * own


def _fit(of_work: Array, parts: Array) -> tuple[Array, Array]:
    """Factors of the kinds and of the operators, by which each network's parts add up to 1."""
    common, (operators, kinds) = 1.0 / np.median(parts.sum(axis=1)), of_work.shape
    scaled, spreads = common * parts, np.repeat([FACTOR_SPREAD, OWN_SPREAD], [kinds, operators])

    def residuals(found: Array) -> Array:
        network = scaled @ _in_network(of_work, found[:kinds], found[kinds:])
        return np.append((network - 1.0) / NOISE, (found - 1.0) / spreads)

    def slopes(found: Array) -> Array:
        factors, own = found[:kinds], found[kinds:]
        of_networks = np.hstack([scaled @ (of_work * own[:, None]), scaled * (of_work @ factors)])
        return np.vstack([of_networks / NOISE, np.diag(1.0 / spreads)])

    bounds = (LEAST_FACTOR, np.inf)
    found = least_squares(residuals, np.ones(kinds + operators), slopes, bounds=bounds, loss="soft_l1").x
    return common * found[:kinds], found[kinds:]
