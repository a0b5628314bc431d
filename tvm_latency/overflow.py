"""Overflow: what weights cost in a network that has more of them than any network of its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tvm_latency.drift import MAD_OF_NORMAL
from tvm_latency.opspec import OpSpec, network_weight_bytes

# As far beyond what was measured a network may be, as a share of it.
SLACK = 0.02

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Overflow:
    """Seconds for each byte of weights beyond `above_bytes`, with a standard deviation.

    A network comes back to a weight after all its others have passed through the caches, and the more there are, the
    fewer it finds there. As long as networks have as many as those of the space, their correction holds what that
    costs, and a network is the sum of its operators. Beyond, this is added. It is fitted to wider networks, so it also
    holds what the cost model misses of wider operators.

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
        cls, above_bytes: float, excess_bytes: Sequence[float], missing_s: ArrayLike, uncertain_s: ArrayLike
    ) -> Overflow:
        """The least absolute error over networks, each in units of how uncertain it is; 0 if none has more weights.

        What leaves the caches is slowed by whoever else uses them: heavy networks are noisier than others, and some
        than the rest.

        excess_bytes: of each network, beyond `above_bytes`; missing_s: what the sum of its operators lacks;
        uncertain_s: by how much that may be off, a standard deviation above 0.
        """
        excess = np.asarray(excess_bytes, dtype=float)
        beyond = excess > 0
        if not beyond.any():
            return cls(above_bytes)
        rates = np.asarray(missing_s)[beyond] / excess[beyond]
        weights = excess[beyond] / np.asarray(uncertain_s)[beyond]
        rate = max(0.0, _weighted_median(rates, weights))
        spread = MAD_OF_NORMAL * _weighted_median(np.abs(rates - rate), weights)
        return cls(above_bytes, rate, spread, above_bytes + float(excess.max()))


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    order = np.argsort(values)
    passed = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(passed, passed[-1] / 2)])
