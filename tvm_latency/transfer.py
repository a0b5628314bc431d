"""Transfer: the latencies of one machine become those of another, of which only a few networks are measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from targets.target import Target
from tvm_latency.correction import NetworkCorrection
from tvm_latency.cost_model import CostModel
from tvm_latency.drift import Steady
from tvm_latency.fitting import Fitted, Net
from tvm_latency.latency_table import Entry, LatencyTable
from tvm_latency.opspec import OpSpec


def transfer(
    source: Fitted,
    ops: Sequence[OpSpec],
    networks: Mapping[Net, Steady],
    target: Target,
    others: Iterable[OpSpec] = (),
    seed: int = 0,
) -> Fitted:
    """What `fitting.fit` would find on the target, from the source's operators and networks measured on the target.

    Each kind of work of an operator takes so many times as long here as there; the factors are those that explain the
    networks. Operators need not be measured for that: a network has some twenty. What they take alone is not known
    then, so the table has what they add to a network for that too, all of it predicted.

    ops: those to fit the cost model to, as far as the source's table has them; `others` have their place in the table.

    Raises:
        CostModelError, CorrectionError: too little was measured.
    """

    def there(op: OpSpec) -> float:
        return source.table.entry(op).seconds if op.key in source.table.entries else source.model.predict(op).seconds

    alone = [[(op, there(op)) for op in net] for net in networks]
    here = source.model.corrected(alone, [found.seconds for found in networks.values()])
    kind = "weight_bytes"
    weights_there_and_here = here.correction.factor(kind) / source.model.correction.factor(kind)
    spread = here.correction.spread
    # Errors of operators that do not depend on each other add up to that of a network so.
    op_spread = spread * median(len(net) for net in networks) ** 0.5
    seconds = {op: here.in_network(op, there(op)) for op in ops if op.key in source.table.entries}
    model = CostModel.fit(tuple(seconds), tuple(seconds.values()), target, seed)
    model = replace(model, correction=NetworkCorrection(spread=spread))
    table = LatencyTable(
        target_name=target.name,
        fingerprint=target.fingerprint,
        entries={op.key: Entry(found, op_spread * found, "predicted", found) for op, found in seconds.items()},
        spread=spread,
        overflow=source.table.overflow.times(weights_there_and_here),
    )
    every_op = [op for net in networks for op in net]
    return Fitted(table.completed([*every_op, *others], model.predict), model)
