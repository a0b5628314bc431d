"""Calibrate: measure every operator of a space and some whole networks, fit the cost model, say how good it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from targets.runner import Job, Runner, Timing
from targets.target import Target
from tvm_latency.accuracy import Accuracy, Scores
from tvm_latency.cost_model import MIN_OPS, CostModel
from tvm_latency.database import Context, MeasurementDatabase
from tvm_latency.latency_table import Entry, LatencyTable, NetworkCorrection
from tvm_latency.onnx_graph import input_shape
from tvm_latency.opspec import OpSpec

Ops = Sequence[OpSpec]
# Builds a shared library of these operators in sequence, at this path; answers the path or, as text, why it cannot.
Build = Callable[[Ops, Path], Path | str]
# (stage, done, total, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]

# From a sample's interquartile range to a standard deviation, if it were normal.
_IQR_OF_NORMAL = 1.349


class CalibrationError(RuntimeError):
    """Too little could be measured to fit a model and to judge it."""


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How artefacts are timed: `batch` of them are built, run in turns by one process, then removed.

    Each has `rounds` turns of `warmup` calls and `repeats` timed ones.
    """

    rounds: int = 5
    repeats: int = 8
    warmup: int = 2
    batch: int = 8


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a calibration found.

    measured, reused: artefacts timed now, and taken from the database.
    failures: key -> reason of what could not be built or run; its latency is predicted.
    """

    table: LatencyTable
    model: CostModel
    accuracy: Accuracy
    measured: int
    reused: int
    failures: Mapping[str, str]


def network_key(ops: Ops) -> str:
    """`net:` and a digest of the operators' keys: the name of a network in the database."""
    return "net:" + hashlib.sha256("\n".join(op.key for op in ops).encode()).hexdigest()[:16]


def calibrate(
    ops: Ops,
    fit_networks: Sequence[Ops],
    test_networks: Sequence[Ops],
    *,
    target: Target,
    runner: Runner,
    database: MeasurementDatabase,
    build: Build,
    versions: tuple[int, str],
    evict_bytes: int,
    workspace: Path,
    progress: Progress,
    settings: MeasureSettings | None = None,
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
        workspace: folder for shared libraries, each removed once it is measured.

    Raises:
        CalibrationError: too few networks or operators could be measured.
    """
    fitted = {network_key(net) for net in fit_networks}
    test_networks = [net for net in test_networks if network_key(net) not in fitted]
    bench = _Bench(runner, database, build, workspace, progress, settings or MeasureSettings())
    blocks = bench.measure(
        "measure blocks", {op.key: (op,) for op in ops}, Context(target.fingerprint, *versions, evict_bytes)
    )
    networks = bench.measure(
        "measure networks",
        {network_key(net): tuple(net) for net in (*fit_networks, *test_networks)},
        Context(target.fingerprint, *versions, evict_bytes=0),
    )
    failures = {**blocks.failures, **networks.failures}
    known = [op for op in ops if op.key in blocks.entries]
    fit, test = (
        [net for net in nets if network_key(net) in networks.entries] for nets in (fit_networks, test_networks)
    )
    if len(known) < MIN_OPS or len(fit) < 2 or not test:
        first = next((f" The first failure, of {key}: {reason}" for key, reason in failures.items()), "")
        raise CalibrationError(
            f"Measured {len(known)} operators, {len(fit)} networks to fit to and {len(test)} to test on; at least "
            f"{MIN_OPS}, 2 and 1 are needed.{first}"
        )

    model = CostModel.fit(known, [blocks.entries[op.key].seconds for op in known], target, seed)
    every_op = [op for net in (ops, *fit_networks, *test_networks) for op in net]
    table = LatencyTable(target_name=target.name, fingerprint=target.fingerprint, entries=blocks.entries)
    table = table.completed(every_op, model.predict)

    def measured_s(nets: Sequence[Ops]) -> list[float]:
        return [networks.entries[network_key(net)].seconds for net in nets]

    alone = [[(op, table.entry(op).seconds) for op in net] for net in fit]
    correction = NetworkCorrection.fit(alone, measured_s(fit))
    table, model = replace(table, correction=correction), model.with_correction(correction)
    accuracy = Accuracy(
        blocks=Scores.of([model.held_out_s[op.key] for op in known], [blocks.entries[op.key].seconds for op in known]),
        model=Scores.of([model.network_seconds(net) for net in test], measured_s(test)),
        networks=Scores.of([table.network_seconds(net) for net in test], measured_s(test)),
        noise=float(np.median([entry.spread_s / entry.seconds for entry in networks.entries.values()])),
    )
    return Calibration(
        table=table,
        model=model,
        accuracy=accuracy,
        measured=blocks.measured + networks.measured,
        reused=blocks.reused + networks.reused,
        failures=failures,
    )


@dataclass(frozen=True)
class _Measured:
    """What the database knows after measuring, and how many of the timings are new or were there before."""

    entries: dict[str, Entry]
    failures: dict[str, str]
    measured: int
    reused: int


@dataclass(frozen=True)
class _Bench:
    """Builds, runs and records whatever has no timing in the database yet."""

    runner: Runner
    database: MeasurementDatabase
    build: Build
    workspace: Path
    progress: Progress
    settings: MeasureSettings

    def measure(self, stage: str, nets: Mapping[str, tuple[OpSpec, ...]], context: Context) -> _Measured:
        """Every network of `nets` (key -> operators), in batches; then all that the database knows of them."""
        pending = [key for key in nets if not self._samples(key, context)]
        reused = done = len(nets) - len(pending)
        for start in range(0, len(pending), self.settings.batch):
            with TemporaryDirectory(dir=self.workspace) as folder:
                jobs: list[Job] = []
                for key in pending[start : start + self.settings.batch]:
                    built = self.build(nets[key], Path(folder) / f"{len(jobs)}.so")
                    if isinstance(built, str):
                        self.database.add(key, context, failure=built)
                        done += 1
                    else:
                        jobs.append(self._job(key, built, input_shape(nets[key][0]), context))
                    self.progress(stage, done, len(nets), {"built": float(len(jobs))})
                for result in self.runner.run(jobs, self.settings.rounds):
                    if isinstance(result, Timing):
                        self.database.add(result.key, context, samples_s=result.samples_s)
                    else:
                        self.database.add(result.key, context, failure=result.reason)
                    done += 1
                    self.progress(stage, done, len(nets), {})
        rows = {key: self.database.find(key, context) for key in nets}
        entries = {key: _entry(row.samples_s) for key, row in rows.items() if row and row.samples_s}
        return _Measured(
            entries=entries,
            failures={key: row.failure for key, row in rows.items() if row and row.failure},
            measured=len(entries) - reused,
            reused=reused,
        )

    def _samples(self, key: str, context: Context) -> tuple[float, ...] | None:
        row = self.database.find(key, context)
        return row.samples_s if row else None

    def _job(self, key: str, module: Path, shape: tuple[int, ...], context: Context) -> Job:
        return Job(
            key=key,
            module=module,
            input_shapes=(shape,),
            repeats=self.settings.repeats,
            warmup=self.settings.warmup,
            evict_bytes=context.evict_bytes,
        )


def _entry(samples_s: Sequence[float]) -> Entry:
    """The median and, from the interquartile range, the spread: a busy moment moves neither."""
    low, median, high = np.percentile(samples_s, (25, 50, 75))
    return Entry(float(median), float((high - low) / _IQR_OF_NORMAL), "measured")
