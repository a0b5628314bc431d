"""Measuring on a target: one network, or all that a search space needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from pipeline.files import write_json
from supernet.architecture import Architecture
from supernet.latency import PathLatency
from supernet.settings import Progress
from supernet.space import SearchSpace
from targets.local import LocalRunner
from targets.runner import Failure, Job
from targets.target import Target
from targets.toolchain import ToolchainError
from tvm_latency import calibrate as calibration
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
# Small networks run in a fraction of a millisecond: enough runs to outlast a busy moment of the machine.
NETWORK_ROUNDS, NETWORK_REPEATS, NETWORK_WARMUP = 10, 100, 20


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

    What slows the machine for a while so slows all of them, and their ratios hold.

    Raises:
        MeasureError: one crashed, or took too long.
    """
    jobs = [
        Job(
            key=name,
            module=library.resolve(),
            input_shapes=(tuple(shape),),
            repeats=NETWORK_REPEATS,
            warmup=NETWORK_WARMUP,
            evict_bytes=0,
        )
        for name, library in libraries.items()
    ]
    found = {}
    for result in LocalRunner(target).run(jobs, NETWORK_ROUNDS):
        if isinstance(result, Failure):
            raise MeasureError(f"{result.key} could not be measured on {target.name}: {result.reason}")
        found[result.key] = result.samples_s
    return found


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
    versions = (SCHEDULE_VERSION, version("apache-tvm"))
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
            evict_bytes=sum(op.weight_bytes for op in space.baseline.op_specs()),
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
    found.calibration.table.save(folder / "latency_table.json")
    found.calibration.model.save(folder / "cost_model.json")
    write_json(folder / "accuracy.json", accuracy_summary(found))


def load_calibration(folder: Path, target: Target) -> tuple[LatencyTable, CostModel]:
    """What `save_calibration` wrote.

    Raises:
        MeasureError: nothing was calibrated for this target.
        LatencyTableError, CostModelError: a file is damaged, or of another machine.
    """
    if not (folder / "cost_model.json").exists():
        raise MeasureError(
            f"Target {target.name} has no calibration for space {folder.name}. "
            f"Run `netlathe calibrate --target {target.name} --space {folder.name}` first."
        )
    return LatencyTable.load(folder / "latency_table.json"), CostModel.load(folder / "cost_model.json", target)


def accuracy_summary(found: SpaceCalibration) -> dict[str, Any]:
    """The `cost_model` part of summary.json: shares and rank correlation on networks that no fit has seen."""
    networks = found.calibration.accuracy.networks
    return {
        "within_5pct": networks.within_5pct,
        "within_10pct": networks.within_10pct,
        "spearman": networks.spearman,
        "networks": networks.count,
    }


def input_shape_of(model: onnx.ModelProto) -> tuple[int, ...]:
    """The static shape of a model's input.

    Raises:
        LoweringError: a dimension is not a number.
    """
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if not dims or any(dim.dim_value < 1 for dim in dims):
        raise LoweringError("The model's input has no fixed shape. Export it again for one image of one size.")
    return tuple(dim.dim_value for dim in dims)
