"""Calibrate: measure every operator of a space and some whole networks, fit the cost model, say how good it is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from targets.target import Target
from tvm_latency.accuracy import Accuracy
from tvm_latency.cost_model import MIN_OPS, CostModel
from tvm_latency.database import Context
from tvm_latency.drift import Steady, disturbed, steady
from tvm_latency.fitting import Fitted, Measured, Net, baselines, fit, judge
from tvm_latency.latency_table import LatencyTable
from tvm_latency.transfer import transfer
from tvm_latency.workbench import ALWAYS, NEVER, Candidate, Ops, Workbench


class CalibrationError(RuntimeError):
    """Too little could be measured to fit a model and to judge it."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a calibration found.

    measured, reused: artefacts timed now, and taken from the database.
    failures: key -> reason of what could not be built or run; its latency is predicted.
    disturbed: share of the rounds in which the reference was slow.
    clocks_mhz: the lowest and the highest of all rounds; empty where nobody says.
    fitted_to: what model and table were fitted to; test: what they were judged by; beside: what was only measured.
    """

    fitted: Fitted
    accuracy: Accuracy
    measured: int
    reused: int
    failures: Mapping[str, str]
    disturbed: float
    clocks_mhz: tuple[int, ...]
    fitted_to: Measured
    test: Mapping[Net, Steady]
    beside: Mapping[Net, Steady]

    @property
    def table(self) -> LatencyTable:
        """The latency table."""
        return self.fitted.table

    @property
    def model(self) -> CostModel:
        """The cost model."""
        return self.fitted.model


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
    varied: Ops = (),
    heavy_networks: Sequence[Ops] = (),
    heaviest_bytes: int = 0,
    beside: Sequence[Ops] = (),
    source: Fitted | None = None,
    seed: int = 0,
) -> Calibration:
    """Measure what the database lacks, then fit and evaluate on what it holds.

    Every result is committed as it comes, so an interrupted calibration goes on where it stopped. What failed in an
    earlier calibration is tried once more, since the usual reasons (linker, memory, a busy machine) pass.

    Args:
        ops: the distinct operators of the space; varied: others, that only the cost model is fitted to.
        fit_networks: networks that the correction is fitted to; at least two must run.
        test_networks: other networks, for evaluation only; at least one must run. Any that is also fitted is left out.
        versions: of the schedules and of TVM; with the target's fingerprint they decide which rows count.
        evict_bytes: memory that passes between two runs of an operator: the weights of a network of the space.
            Networks are run back to back, as they will be used.
        heavy_networks: networks with more weights than the `heaviest_bytes` of any network of the space.
        beside: networks that are only measured, in the same passes.
        source: what was found on another target, from where the operators are transferred: none is measured here.

    Raises:
        CalibrationError: too few networks or operators could be measured.
    """
    seen = {network_key(net) for net in fit_networks}
    test_networks = [net for net in test_networks if network_key(net) not in seen]
    cold, warm = (Context(target.fingerprint, *versions, evicted) for evicted in (evict_bytes, 0))
    candidates = dict[str, Candidate]()
    if source is None:
        candidates |= {op.key: Candidate((op,), cold) for op in ops}
        # One among many: what it takes is nobody's to know but the model's.
        candidates |= {op.key: Candidate((op,), cold, NEVER) for op in varied}
    not_fitted = (*heavy_networks, *test_networks, *beside)
    candidates |= {network_key(net): Candidate(tuple(net), warm) for net in not_fitted}
    # Each tells of some twenty operators.
    candidates |= {network_key(net): Candidate(tuple(net), warm, ALWAYS) for net in fit_networks}
    ops = (*ops, *varied)
    reused = workbench.measure(candidates)
    rows = {key: workbench.database.find(key, candidate.context) for key, candidate in candidates.items()}
    # What works only sometimes cannot be shipped, so its time does not count either.
    timed = {key: row.rounds for key, row in rows.items() if row and row.failure is None}
    failures = {key: row.failure for key, row in rows.items() if row and row.failure}
    slow = disturbed(one for rounds in timed.values() for one in rounds)
    clocks_mhz = {one.clock_mhz for rounds in timed.values() for one in rounds if one.clock_mhz}
    times = steady(timed)

    def networks(nets: Sequence[Ops]) -> dict[Net, Steady]:
        return {tuple(net): times[key] for net in nets if (key := network_key(net)) in times}

    measured = Measured(
        {op: times[op.key] for op in ops if op.key in times},
        networks(fit_networks),
        networks(heavy_networks),
        heaviest_bytes,
    )
    test = networks(test_networks)
    least = MIN_OPS if source is None else 0
    if len(measured.ops) < least or len(measured.networks) < 2 or not test:
        first = next((f" The first failure, of {key}: {reason}" for key, reason in failures.items()), "")
        raise CalibrationError(
            f"Measured {len(measured.ops)} operators, {len(measured.networks)} networks to fit to and {len(test)} to "
            f"test on; at least {least}, 2 and 1 are needed.{first}"
        )
    others = [op for net in (ops, *fit_networks, *test_networks) for op in net]
    if source is None:
        fitted = fit(measured, target, others, seed)
        alone = fitted.table
    else:
        fitted = transfer(source, ops, measured.networks, target, others, seed)
        alone = source.table.completed(others, source.model.predict)
    accuracy = judge(fitted, baselines(measured, alone, target, seed), measured, test)
    return Calibration(
        fitted=fitted,
        accuracy=accuracy,
        measured=len(timed) - reused,
        reused=reused,
        failures=failures,
        disturbed=sum(slow) / max(1, len(slow)),
        clocks_mhz=(min(clocks_mhz), max(clocks_mhz)) if clocks_mhz else (),
        fitted_to=measured,
        test=test,
        beside=networks(beside),
    )
