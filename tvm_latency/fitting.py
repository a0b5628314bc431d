"""Fit the cost model and the latency table to measurements, and judge them by networks that were left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import hypot

import numpy as np

from targets.target import Target
from tvm_latency.accuracy import Accuracy, Scores
from tvm_latency.baselines import FlopsLinear, NetworkPredictor, RandomForest, SumOfBlocks
from tvm_latency.cost_model import CostModel
from tvm_latency.drift import Steady
from tvm_latency.latency_table import Entry, LatencyTable
from tvm_latency.opspec import OpSpec
from tvm_latency.overflow import Overflow

# No sum of operators is known better, as a share.
LEAST_SPREAD = 1e-3

Net = tuple[OpSpec, ...]


@dataclass(frozen=True)
class Measured:
    """Operators alone and whole networks with their times, at the usual speed of one machine.

    heavy: networks with more weights than the `heaviest_bytes` of any network of the space.
    """

    ops: Mapping[OpSpec, Steady]
    networks: Mapping[Net, Steady]
    heavy: Mapping[Net, Steady] = field(default_factory=dict)
    heaviest_bytes: int = 0

    def network_seconds(self) -> list[float]:
        """Of each network."""
        return [found.seconds for found in self.networks.values()]


@dataclass(frozen=True)
class Fitted:
    """A table of the operators that were measured and of those that networks have beside them, and a cost model."""

    table: LatencyTable
    model: CostModel


def fit(measured: Measured, target: Target, others: Iterable[OpSpec] = (), seed: int = 0) -> Fitted:
    """Fit the cost model to operators, its correction to networks, and what heavy networks lack then to those.

    `others` have their place in the table too.

    Raises:
        CostModelError, CorrectionError: too little was measured.
    """
    seconds = {op: found.seconds for op, found in measured.ops.items()}
    model = CostModel.fit(tuple(seconds), tuple(seconds.values()), target, seed)
    alone = [
        [(op, seconds[op] if op in seconds else model.predict(op).seconds) for op in net] for net in measured.networks
    ]
    model = model.corrected(alone, measured.network_seconds())
    table = LatencyTable(
        target_name=target.name,
        fingerprint=target.fingerprint,
        entries={
            op.key: Entry(found.seconds, found.spread_s, "measured", model.in_network(op, found.seconds))
            for op, found in measured.ops.items()
        },
        spread=model.correction.spread,
    )
    every_op = [op for net in (*measured.networks, *measured.heavy) for op in net]
    table = table.completed([*every_op, *others], model.predict)
    return Fitted(replace(table, overflow=_overflow(table, measured)), model)


def _overflow(table: LatencyTable, measured: Measured) -> Overflow:
    none = Overflow(measured.heaviest_bytes)
    excess = [none.bytes_of(net) for net in measured.heavy]
    sum_s = [table.network_seconds(net) for net in measured.heavy]
    missing_s = [found.seconds - alone for found, alone in zip(measured.heavy.values(), sum_s)]
    # Both the measurement and the sum of the operators may be off.
    uncertain_s = [
        hypot(found.spread_s, max(table.spread, LEAST_SPREAD) * found.seconds) for found in measured.heavy.values()
    ]
    return Overflow.fit(measured.heaviest_bytes, excess, missing_s, sum_s, uncertain_s)


def baselines(measured: Measured, alone: LatencyTable, target: Target, seed: int = 0) -> dict[str, NetworkPredictor]:
    """The baselines by name, from the same measurements; `alone` has every operator of the networks to predict."""
    nets, seconds = list(measured.networks), measured.network_seconds()
    ops = {op: found.seconds for op, found in measured.ops.items()}
    return {
        "flops_linear": FlopsLinear.fit(nets, seconds),
        "sum_of_blocks": SumOfBlocks({key: entry.seconds for key, entry in alone.entries.items()}),
        "random_forest": RandomForest.fit([*((op,) for op in ops), *nets], [*ops.values(), *seconds], target, seed),
    }


def judge(
    fitted: Fitted, others: Mapping[str, NetworkPredictor], measured: Measured, test: Mapping[Net, Steady]
) -> Accuracy:
    """Scores on networks that were not fitted to, and on operators of the folds that were left out."""
    held_out, ops = fitted.model.held_out_s, measured.ops.items()

    def scores(predictor: NetworkPredictor) -> Scores:
        return Scores.of([predictor.network_seconds(net) for net in test], [found.seconds for found in test.values()])

    networks = [*measured.networks.values(), *test.values()]
    return Accuracy(
        blocks=Scores.of([held_out[op.key] for op, _ in ops], [found.seconds for _, found in ops]) if ops else None,
        model=scores(fitted.model),
        networks=scores(fitted.table),
        baselines={name: scores(predictor) for name, predictor in others.items()},
        noise=float(np.median([found.noise for found in networks])),
    )
