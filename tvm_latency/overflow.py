"""Overflow: what weights cost in a network that has more of them than any network of its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from scipy.optimize import linprog

from tvm_latency.drift import MAD_OF_NORMAL
from tvm_latency.opspec import OpSpec, network_weight_bytes

# As far beyond what was measured a network may be, as a share of it.
SLACK = 0.02
# What the cost model may miss of wider operators, a standard deviation as a share of a network's time.
SHARE_SPREAD = 0.1

Array = NDArray[np.float64]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Overflow:
    """Seconds for each byte of weights beyond `above_bytes`, with a standard deviation.

    A network comes back to a weight after all its others have passed through the caches, and the more there are, the
    fewer it finds there. As long as networks have as many as those of the space, their correction holds what that
    costs, and a network is the sum of its operators. Beyond, this is added.

    most_bytes: of weights, in any network that it was fitted to.
    """

    above_bytes: NonNegative = 0.0
    seconds_per_byte: NonNegative = 0.0
    spread_s_per_byte: NonNegative = 0.0
    most_bytes: NonNegative = 0.0

    def bytes_of(self, ops: Sequence[OpSpec]) -> float:
        """Of the network's weights, the bytes beyond."""
        return max(0.0, network_weight_bytes(ops) - self.above_bytes)

    def times(self, factor: float) -> Overflow:
        """On a machine where everything takes so many times as long."""
        return replace(
            self,
            seconds_per_byte=factor * self.seconds_per_byte,
            spread_s_per_byte=factor * self.spread_s_per_byte,
        )

    def outside(self, ops: Sequence[OpSpec]) -> str | None:
        """What to say of a network with far more weights than any that was measured; None if none is known of."""
        found, most = network_weight_bytes(ops), max(self.above_bytes, self.most_bytes)
        if not most or found <= most * (1 + SLACK):
            return None
        return f"{found / 1e6:.1f} MB in all, measured were networks of up to {most / 1e6:.1f} MB"

    @classmethod
    def fit(
        cls,
        above_bytes: float,
        excess_bytes: Sequence[float],
        missing_s: ArrayLike,
        network_s: ArrayLike,
        uncertain_s: ArrayLike,
    ) -> Overflow:
        """What a byte takes, from networks that have more weights and wider operators; 0 if none has more weights.

        missing = share * network + rate * excess, neither below 0, with the least absolute error in units of what is
        uncertain. The share is what the cost model misses of operators wider than any it has seen, which is no matter
        of bytes: without it a heavy network of ordinary operators would be charged for them. It is weakly held to 0.

        excess_bytes: of each network, beyond `above_bytes`; missing_s: what the sum of its operators lacks;
        network_s: what it takes; uncertain_s: by how much what it lacks may be off, a standard deviation above 0. What
        leaves the caches is slowed by whoever else uses them, so some heavy networks are far noisier than others.
        """
        excess = np.asarray(excess_bytes, dtype=float)
        beyond = excess > 0
        if not beyond.any():
            return cls(above_bytes)
        excess, missing, network, uncertain = (
            np.asarray(values, dtype=float)[beyond] for values in (excess, missing_s, network_s, uncertain_s)
        )
        share, rate = _least_absolute(network / uncertain, excess / uncertain, missing / uncertain)
        off = np.abs((missing - share * network) / excess - rate)
        spread = MAD_OF_NORMAL * _weighted_median(off, excess / uncertain)
        return cls(above_bytes, rate, spread, above_bytes + float(excess.max()))


def _least_absolute(network: Array, excess: Array, missing: Array) -> tuple[float, float]:
    """(share, rate), at least 0: the least sum of |share network + rate excess - missing| and of share / SHARE_SPREAD."""
    # A unit of the rate is what would make all of the largest excess.
    unit = max(float(np.max(np.abs(missing) / excess)), np.finfo(float).tiny)
    count = len(missing)
    over_and_under = np.hstack([np.eye(count), -np.eye(count)])
    scale = np.abs(missing).max() or 1.0
    found = linprog(
        [1 / SHARE_SPREAD, 0.0, *[1.0] * (2 * count)],
        A_eq=np.hstack([np.stack([network, unit * excess], axis=1), -over_and_under]) / scale,
        b_eq=missing / scale,
    )
    return float(found.x[0]), float(unit * found.x[1])


def _weighted_median(values: Array, weights: Array) -> float:
    order = np.argsort(values)
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, passed[-1] / 2)])
