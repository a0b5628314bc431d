"""Measuring on a target: one network, or all that a search space needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from pipeline.files import read_json, write_json
from supernet.architecture import Architecture
from supernet.latency import PathLatency
from supernet.settings import Progress
from supernet.space import SearchSpace
from targets.local import LocalRunner
from targets.runner import Failure, Job
from targets.target import Target
from targets.toolchain import ToolchainError
from tvm_latency import calibrate as calibration
from tvm_latency.accuracy import Scores
from tvm_latency.build import compile_onnx
from tvm_latency.calibrate import Calibration, network_key
from tvm_latency.cost_model import CostModel
from tvm_latency.database import Context, MeasurementDatabase
from tvm_latency.latency_table import LatencyTable
from tvm_latency.lower import LoweringError
from tvm_latency.onnx_graph import input_shape, network_graph
from tvm_latency.opspec import OpSpec
from tvm_latency.schedules import SCHEDULE_VERSION

# Networks that the correction from blocks to networks is fitted to, and others that it is judged by.
FIT_NETWORKS, TEST_NETWORKS = 12, 24
VERSIONS = "versions.json"
# Small networks run in a fraction of a millisecond: enough runs to outlast a busy moment of the machine.
NETWORK_ROUNDS, NETWORK_REPEATS, NETWORK_WARMUP = 10, 100, 20
# Large ones would take minutes for that: so many seconds in a turn, and in all turns, unless the least take longer.
TURN_S, TOTAL_S, LEAST = 2.0, 20.0, 3
# A first call has this long; a turn that takes so many times as long as the first call announced is stuck.
FIRST_DEADLINE_S, PATIENCE = 120.0, 5.0


class MeasureError(RuntimeError):
    """A network could not be run on its target."""


@dataclass(frozen=True)
class HeldOut:
    """A network that was measured and that no fit has seen."""

    architecture: str
    predicted_s: float
    measured_s: float


@dataclass(frozen=True)
class SpaceCalibration:
    """A calibration, and prediction beside measurement for each network it was judged by."""

    calibration: Calibration
    held_out: tuple[HeldOut, ...]


def measure_libraries(
    libraries: Mapping[str, Path], shape: Sequence[int], target: Target
) -> dict[str, tuple[float, ...]]:
    """Seconds of every timed run of each network, by name: back to back within a turn, in turns with each other.

    What slows the machine for a while so slows all of them, and their ratios hold. One call of each, which is not
    reported, decides how many are timed.

    Raises:
        MeasureError: one crashed, or took too long.
        RunnerError: this machine cannot run code for the target.
    """

    def jobs(repeats: int, warmup: int) -> list[Job]:
        shapes = (tuple(shape),)
        return [
            Job(key=name, module=library.resolve(), input_shapes=shapes, repeats=repeats, warmup=warmup)
            for name, library in libraries.items()
        ]

    first = _timed(jobs(repeats=1, warmup=1), target, 1, FIRST_DEADLINE_S)
    call_s = max(sample for samples in first.values() for sample in samples)
    repeats = _within(NETWORK_REPEATS, TURN_S / call_s)
    warmup = max(1, NETWORK_WARMUP * repeats // NETWORK_REPEATS)
    turn_s = (repeats + warmup) * call_s
    deadline_s = max(FIRST_DEADLINE_S, PATIENCE * turn_s)
    return _timed(jobs(repeats, warmup), target, _within(NETWORK_ROUNDS, TOTAL_S / turn_s), deadline_s)


def _within(most: int, affordable: float) -> int:
    """As many as can be afforded, between `LEAST` and `most`."""
    return max(LEAST, min(most, int(affordable)))


def _timed(jobs: Sequence[Job], target: Target, rounds: int, deadline_s: float) -> dict[str, tuple[float, ...]]:
    found = {}
    for result in LocalRunner(target, deadline_s).run(jobs, rounds):
        if isinstance(result, Failure):
            raise MeasureError(f"{result.key} could not be measured on {target.name}: {result.reason}")
        found[result.key] = result.samples_s
    return found


def require_runnable(target: Target) -> None:
    """Refuse a target whose code this machine cannot run, before it is run in this process.

    Raises:
        RunnerError: it needs vectors or cores that this machine does not have.
    """
    LocalRunner(target)


def measure_networks(nets: Mapping[str, Architecture], target: Target) -> dict[str, float]:
    """Median seconds of each network, compiled with random weights; all of one resolution, measured in turns.

    Raises:
        MeasureError, LoweringError, ToolchainError: one cannot be compiled or run.
    """
    with TemporaryDirectory() as folder:
        libraries = {
            name: compile_onnx(network_graph(net.op_specs()), target).export(Path(folder) / f"{name}.so")
            for name, net in nets.items()
        }
        shape = input_shape(next(iter(nets.values())).op_specs()[0])
        return {name: median(samples) for name, samples in measure_libraries(libraries, shape, target).items()}


def calibrate_space(
    space: SearchSpace,
    target: Target,
    database: MeasurementDatabase,
    progress: Progress,
    *,
    seed: int = 0,
    fit_networks: int = FIT_NETWORKS,
    test_networks: int = TEST_NETWORKS,
) -> SpaceCalibration:
    """Measure every operator of the space and random networks of it, as far as the database does not have them.

    Raises:
        CalibrationError: too little could be measured.
    """
    random = Random(seed)
    drawn = dict.fromkeys(space.random_architecture(random) for _ in range(fit_networks + test_networks))
    networks = [net.op_specs() for net in drawn]
    versions = _versions()
    with TemporaryDirectory() as workspace:
        found = calibration.calibrate(
            space.op_specs(),
            networks[:fit_networks],
            networks[fit_networks:],
            target=target,
            runner=LocalRunner(target),
            database=database,
            build=_Builder(target),
            versions=versions,
            evict_bytes=evict_bytes(space),
            workspace=Path(workspace),
            progress=progress,
            seed=seed,
        )
    held_out = []
    for net in list(drawn)[fit_networks:]:
        row = database.find(network_key(net.op_specs()), Context(target.fingerprint, *versions, evict_bytes=0))
        if row is not None and row.samples_s:
            held_out.append(HeldOut(net.text, found.table.network_seconds(net.op_specs()), median(row.samples_s)))
    return SpaceCalibration(found, tuple(held_out))


def evict_bytes(space: SearchSpace) -> int:
    """What passes through the caches between two runs of an operator: the baseline's weights.

    Without those of its classifier, so that data of other classes need no new measurements.
    """
    return sum(op.weight_bytes for op in space.baseline.op_specs() if op.kind != "linear")


def _versions() -> tuple[int, str]:
    """What decides, beside the machine, which measurements count: our schedules, and TVM."""
    return SCHEDULE_VERSION, version("apache-tvm")


@dataclass(frozen=True)
class _Builder:
    """Builds operators for a target, as `calibrate` wants it: a failure is a text, so that the rest goes on."""

    target: Target

    def __call__(self, ops: Sequence[OpSpec], path: Path) -> Path | str:
        try:
            return compile_onnx(network_graph(ops), self.target).export(path)
        except (LoweringError, ToolchainError) as error:
            return str(error)


def path_latency(space: SearchSpace, table: LatencyTable) -> PathLatency:
    """The latencies that the search adds up: those of the table, with its correction for whole networks.

    Raises:
        MissingLatencyError: the table was made for another space.
    """
    scale = table.correction.scale
    return PathLatency(
        fixed_s=table.network_seconds(space.fixed_ops()),
        block_s=tuple(
            tuple(
                0.0 if (op := block.op_spec(choice)) is None else scale * table.block_seconds(op)
                for choice in block.candidates
            )
            for block in space.blocks
        ),
    )


def save_calibration(found: SpaceCalibration, folder: Path) -> None:
    """Write the latency table and the cost model where `load_calibration` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VERSIONS).unlink(missing_ok=True)
    found.calibration.table.save(folder / "latency_table.json")
    found.calibration.model.save(folder / "cost_model.json")
    write_json(folder / "accuracy.json", asdict(found.calibration.accuracy))
    # Last, so that a folder that has it is complete.
    write_json(folder / VERSIONS, {"versions": list(_versions())})


def load_calibration(folder: Path, target: Target) -> tuple[LatencyTable, CostModel]:
    """What `save_calibration` wrote.

    Raises:
        MeasureError: nothing was calibrated for this target, or on another machine, or with other versions.
        LatencyTableError, CostModelError: a file is damaged.
    """
    command = f"`netlathe calibrate --target {target.name} --space {folder.name} --threads {target.threads}`"
    saved = read_json(folder / VERSIONS) if (folder / VERSIONS).exists() else None
    if saved is None:
        raise MeasureError(
            f"Target {target.name} has no calibration for space {folder.name} with {target.threads} thread(s). "
            f"Run {command} first."
        )
    there, here = saved.get("versions"), list(_versions())
    if there != here:
        raise MeasureError(
            f"The calibration in {folder} was made with other versions of schedules and TVM ({there}; here {here}). "
            f"Calibrate again: {command}."
        )
    table = LatencyTable.load(folder / "latency_table.json")
    if table.fingerprint != target.fingerprint:
        raise MeasureError(
            f"The calibration in {folder} was made on {table.fingerprint}; this is {target.fingerprint}. "
            f"Calibrate again: {command}."
        )
    return table, CostModel.load(folder / "cost_model.json", target)


def accuracy_summary(scores: Scores) -> dict[str, Any]:
    """Shares and rank correlation on networks that no fit has seen, as in the `cost_model` part of summary.json."""
    return {
        "within_5pct": scores.within_5pct,
        "within_10pct": scores.within_10pct,
        "spearman": scores.spearman,
        "networks": scores.count,
    }


def input_shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """The static shape of a model's one input.

    Raises:
        LoweringError: not one float32 image in and one tensor out, or a dimension is not a number.
    """
    # Old models list their weights among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    single = len(inputs) == len(model.graph.output) == 1
    if not single or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise LoweringError(
            f"The model has {_listed(inputs)} in and {_listed(model.graph.output)} out. Netlathe compiles one float32 "
            "image in, one tensor out: export it again so."
        )
    dims = inputs[0].type.tensor_type.shape.dim
    if not dims or any(dim.dim_value < 1 for dim in dims):
        raise LoweringError("The model's input has no fixed shape. Export it again for one image of one size.")
    return tuple(dim.dim_value for dim in dims)


def _listed(values: Sequence[onnx.ValueInfoProto]) -> str:
    """`image (float), mask (bool)`; `nothing` for none."""
    names = onnx.TensorProto.DataType.Name
    return ", ".join(f"{v.name} ({names(v.type.tensor_type.elem_type).lower()})" for v in values) or "nothing"
