"""Calibrate: measure every operator of a space and some whole networks, fit the cost model, say how good it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from targets.target import Target
from tvm_latency.accuracy import Accuracy, Scores
from tvm_latency.baselines import FlopsLinear, NetworkPredictor, RandomForest, SumOfBlocks
from tvm_latency.cost_model import MIN_OPS, CostModel
from tvm_latency.database import Context, Round
from tvm_latency.drift import disturbed, steady, usual
from tvm_latency.latency_table import Entry, LatencyTable, NetworkCorrection
from tvm_latency.workbench import Candidate, Ops, Workbench


class CalibrationError(RuntimeError):
    """Too little could be measured to fit a model and to judge it."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a calibration found.

    measured, reused: artefacts timed now, and taken from the database.
    failures: key -> reason of what could not be built or run; its latency is predicted.
    usual_s: what the reference takes at the machine's usual speed, to which all measurements were brought.
    disturbed: share of the rounds in which the reference was slow.
    network_s: measured seconds of each network that ran, by its key.
    """

    table: LatencyTable
    model: CostModel
    accuracy: Accuracy
    measured: int
    reused: int
    failures: Mapping[str, str]
    usual_s: float
    disturbed: float
    network_s: Mapping[str, float]


def network_key(ops: Ops) -> str:
    """`net:` and a digest of the operators' keys: the name of a network in the database."""
    return "net:" + hashlib.sha256("\n".join(op.key for op in ops).encode()).hexdigest()[:16]


def calibrate(
    ops: Ops,
    fit_networks: Sequence[Ops],
    test_networks: Sequence[Ops],
    *,
    target: Target,
    workbench: Workbench,
    versions: tuple[int, str],
    evict_bytes: int,
    seed: int = 0,
) -> Calibration:
    """Measure what the database lacks, then fit and evaluate on what it holds.

    Every result is committed as it comes, so an interrupted calibration goes on where it stopped. What failed in an
    earlier calibration is tried once more, since the usual reasons (linker, memory, a busy machine) pass.

    Args:
        ops: the distinct operators of the space.
        fit_networks: networks that the correction is fitted to; at least two must run.
        test_networks: other networks, for evaluation only; at least one must run. Any that is also fitted is left out.
        versions: of the schedules and of TVM; with the target's fingerprint they decide which rows count.
        evict_bytes: memory that passes between two runs of an operator: the weights of a network of the space.
            Networks are run back to back, as they will be used.

    Raises:
        CalibrationError: too few networks or operators could be measured.
    """
    fitted = {network_key(net) for net in fit_networks}
    test_networks = [net for net in test_networks if network_key(net) not in fitted]
    cold, warm = (Context(target.fingerprint, *versions, evicted) for evicted in (evict_bytes, 0))
    candidates = {op.key: Candidate((op,), cold) for op in ops}
    candidates |= {network_key(net): Candidate(tuple(net), warm) for net in (*fit_networks, *test_networks)}
    reused = workbench.measure(candidates)
    rows = {key: workbench.database.find(key, candidate.context) for key, candidate in candidates.items()}
    # What works only sometimes cannot be shipped, so its time does not count either.
    timed = {key: row.rounds for key, row in rows.items() if row and row.failure is None}
    failures = {key: row.failure for key, row in rows.items() if row and row.failure}
    references = [reference_s for rounds in timed.values() for _, reference_s in rounds]
    usual_s = usual(references) if references else 1.0
    entries = {key: _entry(rounds, usual_s) for key, rounds in timed.items()}
    blocks = {op.key: entries[op.key] for op in ops if op.key in entries}
    networks = {key: entry for key, entry in entries.items() if key not in blocks}
    known = [op for op in ops if op.key in blocks]
    fit, test = ([net for net in nets if network_key(net) in networks] for nets in (fit_networks, test_networks))
    if len(known) < MIN_OPS or len(fit) < 2 or not test:
        first = next((f" The first failure, of {key}: {reason}" for key, reason in failures.items()), "")
        raise CalibrationError(
            f"Measured {len(known)} operators, {len(fit)} networks to fit to and {len(test)} to test on; at least "
            f"{MIN_OPS}, 2 and 1 are needed.{first}"
        )

    model = CostModel.fit(known, [blocks[op.key].seconds for op in known], target, seed)
    every_op = [op for net in (ops, *fit_networks, *test_networks) for op in net]
    table = LatencyTable(target_name=target.name, fingerprint=target.fingerprint, entries=blocks)
    table = table.completed(every_op, model.predict)

    def measured_s(nets: Sequence[Ops]) -> list[float]:
        return [networks[network_key(net)].seconds for net in nets]

    alone = [[(op, table.entry(op).seconds) for op in net] for net in fit]
    correction = NetworkCorrection.fit(alone, measured_s(fit))
    table, model = replace(table, correction=correction), model.with_correction(correction)
    baselines: dict[str, NetworkPredictor] = {
        "flops_linear": FlopsLinear.fit(fit, measured_s(fit)),
        "sum_of_blocks": SumOfBlocks({key: entry.seconds for key, entry in table.entries.items()}),
        "random_forest": RandomForest.fit(
            [*((op,) for op in known), *fit],
            [*(blocks[op.key].seconds for op in known), *measured_s(fit)],
            target,
            seed,
        ),
    }
    accuracy = Accuracy(
        blocks=Scores.of([model.held_out_s[op.key] for op in known], [blocks[op.key].seconds for op in known]),
        model=Scores.of([model.network_seconds(net) for net in test], measured_s(test)),
        networks=Scores.of([table.network_seconds(net) for net in test], measured_s(test)),
        baselines={
            name: Scores.of([baseline.network_seconds(net) for net in test], measured_s(test))
            for name, baseline in baselines.items()
        },
        noise=float(np.median([entry.spread_s / entry.seconds for entry in networks.values()])),
    )
    return Calibration(
        table=table,
        model=model,
        accuracy=accuracy,
        measured=len(timed) - reused,
        reused=reused,
        failures=failures,
        usual_s=usual_s,
        disturbed=disturbed(references, usual_s),
        network_s={key: entry.seconds for key, entry in networks.items()},
    )


def _entry(rounds: Sequence[Round], usual_s: float) -> Entry:
    """A measurement at the machine's usual speed."""
    found = steady(rounds, usual_s)
    return Entry(found.seconds, found.spread_s, "measured")
