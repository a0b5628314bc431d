"""Overflow: what weights cost in a network that has more of them than any network of its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from tvm_latency.opspec import OpSpec, network_weight_bytes

# As far beyond what was measured a network may be, as a share of it.
SLACK = 0.02
# What heavy networks usually lack, as a share of the sum of their operators.
USUAL_SHARE = 0.1
# They lack all of it from so much beyond, as a share of the most that a network of the space has. What a calibration
# measures has at least as much, so that how it begins is not known; it begins without a step.
ALL_FROM = 0.1

Array = NDArray[np.float64]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Overflow:
    """What networks take beyond the sum of their operators: a share of it, and seconds for each byte of weights beyond
    `above_bytes`, with a standard deviation.

    A network comes back to a weight after all its others have passed through the caches, and the more there are, the
    fewer it finds there. As long as networks have as many as those of the space, their correction holds what that
    costs, and a network is the sum of its operators. Beyond, this is added. A cache that is filled in turn keeps
    nothing as soon as not all of it fits, so most of it comes at once.

    most_bytes: of weights, in any network that it was fitted to. share: below 0 if sums of operators are too long.
    """

    above_bytes: NonNegative = 0.0
    seconds_per_byte: NonNegative = 0.0
    spread_s_per_byte: NonNegative = 0.0
    most_bytes: NonNegative = 0.0
    share: Finite = 0.0

    def bytes_of(self, ops: Sequence[OpSpec]) -> float:
        """Of the network's weights, the bytes beyond."""
        return max(0.0, network_weight_bytes(ops) - self.above_bytes)

    def seconds(self, ops: Sequence[OpSpec], sum_s: float) -> float:
        """What the network takes beyond the sum of its operators, which is `sum_s`."""
        excess = self.bytes_of(ops)
        return self.share * self._grown(excess) * sum_s + self.seconds_per_byte * excess

    def spread_s(self, ops: Sequence[OpSpec], sum_s: float) -> float:
        """The standard deviation of that: some networks lack hardly any of the share, and others more than it."""
        excess = self.bytes_of(ops)
        return hypot(self.share * self._grown(excess) * sum_s, self.spread_s_per_byte * excess)

    def _grown(self, excess: float) -> float:
        """The part of the share that there is with so many bytes beyond."""
        all_from = ALL_FROM * self.above_bytes
        return min(1.0, excess / all_from) if all_from else float(excess > 0)

    def times(self, factor: float) -> Overflow:
        """On a machine where everything takes so many times as long, with caches like these."""
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
        sum_s: ArrayLike,
        uncertain_s: ArrayLike,
    ) -> Overflow:
        """From networks that have more weights; 0 if none has.

        missing = share * sum + rate * excess for a rate of at least 0, with the least absolute error in units of
        what is uncertain, and of `USUAL_SHARE` for the share, which one network alone says nothing of. The spread is
        what the rate changes by where one of the networks is left out (the jackknife); all of it for two and fewer.

        excess_bytes: of each network, beyond `above_bytes`; sum_s: of its operators; missing_s: what that lacks;
        uncertain_s: by how much its rounds scatter and sums of operators are off, above 0.
        What leaves the caches is slowed by whoever else uses them, so some heavy networks are far noisier than others.
        """
        none, excess = cls(above_bytes), np.asarray(excess_bytes, dtype=float)
        beyond = excess > 0
        if not beyond.any():
            return none
        sums = np.array([none._grown(one) for one in excess]) * np.asarray(sum_s)
        lines = np.stack([sums, excess, missing_s], axis=1)[beyond] / np.asarray(uncertain_s)[beyond, None]
        share, rate = _least_absolute(lines)
        count = len(lines)
        without = np.array([_least_absolute(np.delete(lines, left_out, axis=0))[1] for left_out in range(count)])
        spread = float(np.sqrt(count - 1) * without.std()) if count > 2 else rate
        return cls(above_bytes, rate, spread, above_bytes + float(excess.max()), share)


def _least_absolute(lines: Array) -> tuple[float, float]:
    """The share and the rate for which |share| / USUAL_SHARE + the sum of |a share + b rate - c| over lines is least.

    That is where two of the lines meet, those of share = 0 and rate = 0 among them.
    """
    every = np.vstack([lines, [1 / USUAL_SHARE, 0.0, 0.0], [0.0, 1.0, 0.0]])
    first, second = (every[index].T for index in np.triu_indices(len(every), 1))
    (a, b, c), (d, e, f) = first, second
    determinant = a * e - b * d
    meet = determinant != 0
    share, rate = ((c * e - b * f)[meet] / determinant[meet], (a * f - c * d)[meet] / determinant[meet])
    possible = rate >= 0
    found = np.stack([share, rate])[:, possible]
    weighted = every[:-1]
    cost = np.abs(weighted[:, :2] @ found - weighted[:, 2:]).sum(axis=0)
    best_share, best_rate = found[:, cost.argmin()] + 0.0
    return float(best_share), float(best_rate)
