"""What a latency model has to beat: three simple predictors of whole networks, fitted to the same measurements.

Each has `network_seconds`, as the latency table and the cost model have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from targets.target import Target
from tvm_latency.features import FEATURES, features, terms
from tvm_latency.opspec import OpSpec

Ops = Sequence[OpSpec]

TREES = 300


class NetworkPredictor(Protocol):
    """Predicts whole networks."""

    def network_seconds(self, ops: Ops) -> float:
        """Seconds of the network that runs these operators in order."""
        ...


@dataclass(frozen=True)
class FlopsLinear:
    """Seconds as a line over floating-point operations: what a search for fewer FLOPs believes in."""

    offset_s: float
    seconds_per_flop: float

    @classmethod
    def fit(cls, networks: Sequence[Ops], measured_s: Sequence[float]) -> FlopsLinear:
        """Least squares of relative errors."""
        work = np.array([[1.0, sum(op.flops for op in net)] for net in networks])
        weights = 1.0 / np.asarray(measured_s)
        scale = work.mean(axis=0)
        solution = np.linalg.lstsq(work / scale * weights[:, None], np.ones(len(networks)), rcond=None)[0] / scale
        return cls(*map(float, solution))

    def network_seconds(self, ops: Ops) -> float:
        """See `NetworkPredictor`."""
        return self.offset_s + self.seconds_per_flop * sum(op.flops for op in ops)


@dataclass(frozen=True)
class SumOfBlocks:
    """The measured seconds of its operators alone, added up: a look-up table as published."""

    alone_s: Mapping[str, float]

    def network_seconds(self, ops: Ops) -> float:
        """See `NetworkPredictor`."""
        return sum(self.alone_s[op.key] for op in ops)


@dataclass(frozen=True)
class RandomForest:
    """A random forest over the same features and terms, added up over a network's operators."""

    target: Target
    forest: Any

    @classmethod
    def fit(cls, networks: Sequence[Ops], measured_s: Sequence[float], target: Target, seed: int = 0) -> RandomForest:
        """Fit the logarithm of seconds; operators alone may stand among the networks."""
        from sklearn.ensemble import RandomForestRegressor  # a second to load, and only a calibration is judged

        inputs = [_inputs(net, target) for net in networks]
        forest = RandomForestRegressor(TREES, random_state=seed, n_jobs=1).fit(inputs, np.log(measured_s))
        return cls(target, forest)

    def network_seconds(self, ops: Ops) -> float:
        """See `NetworkPredictor`."""
        return float(np.exp(self.forest.predict([_inputs(ops, self.target)])[0]))


def _inputs(ops: Ops, target: Target) -> list[float]:
    """Sums of the terms and means of the features."""
    added = np.sum([terms(op, target) for op in ops], axis=0)
    mean = np.mean([features(op, target) for op in ops], axis=0)
    assert mean.size == len(FEATURES)
    return [*added.tolist(), *mean.tolist()]
