"""Calibration of a search space on a target: planned, measured and judged."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from pipeline.measure import code_versions
from supernet.costs import PathCosts
from supernet.settings import Progress
from supernet.space import SearchSpace
from targets.host import available_cpus
from targets.runner import Runner
from targets.runners import find_runner
from targets.target import Target
from tvm_latency import calibrate as calibrating
from tvm_latency.builders import BuilderPool
from tvm_latency.calibrate import Calibration
from tvm_latency.database import MeasurementDatabase
from tvm_latency.fitting import Fitted, Net
from tvm_latency.latency_table import LatencyTable
from tvm_latency.opspec import WeightType, network_weight_bytes, stored_as
from tvm_latency.plan import QUICK, WIDEST, CalibrationPlan, variations
from tvm_latency.workbench import MeasureSettings, Workbench

# A heavy network has so many times the weights of the heaviest of its space; as long as none has, widths grow so.
HEAVIER, WIDER = 1.1, 1.005
# What an interrupted calibration has built is kept for a week.
KEPT_S = 7 * 86400
# More disturbed rounds than this are worth a sentence.
WORTH_SAYING = 0.05


@dataclass(frozen=True)
class HeldOut:
    """A network that was measured and that no fit has seen."""

    architecture: str
    predicted_s: float
    measured_s: float


@dataclass(frozen=True)
class SpaceCalibration:
    """A calibration, prediction beside measurement for each network it was judged by, and the space's baseline.

    baseline_s: what the baseline takes at the speed of the machine that everything was measured at, so that a share of
        it and what the search predicts are of one kind; None where it was not, or could not be, measured.
    """

    calibration: Calibration
    held_out: tuple[HeldOut, ...]
    baseline_s: float | None


def calibrate_space(
    space: SearchSpace,
    target: Target,
    database: MeasurementDatabase,
    progress: Progress,
    *,
    weights: WeightType = "float32",
    seed: int = 0,
    plan: CalibrationPlan = QUICK,
    beside: Sequence[Net] = (),
    source: Fitted | None = None,
    settings: MeasureSettings | None = None,
) -> SpaceCalibration:
    """Measure every operator of the space and what is planned beside them, as far as the database does not have it.

    weights: how those of every operator are stored; each type has rows of its own.
    beside: networks that are only measured, in the same passes, as the space's baseline is if there is no source.
    source: another target's calibration of the same space, from where the operators are transferred.
    settings: how candidates are timed; None for what suits the target's runner.

    Raises:
        CalibrationError: too little could be measured.
        RunnerError: nothing can be run for the target.
    """
    random = Random(seed)
    drawn = dict.fromkeys(space.random_architecture(random) for _ in range(plan.fit_networks + plan.test_networks))
    networks = [stored_as(net.op_specs(), weights, target.batch) for net in drawn]
    baseline = stored_as(space.baseline.op_specs(), weights, target.batch)
    ops = space.op_specs()
    varied = variations(ops, plan.variations, Random(seed))
    with workbench(target, database, progress, settings, seed) as bench:
        found = calibrating.calibrate(
            stored_as(ops, weights, target.batch),
            networks[: plan.fit_networks],
            networks[plan.fit_networks :],
            target=target,
            workbench=bench,
            versions=code_versions(target),
            evict_bytes=evict_bytes(space, weights),
            varied=stored_as(varied, weights, target.batch),
            heavy_networks=[
                stored_as(net, weights, target.batch)
                for net in heavy_networks(space, plan.heavy_networks, Random(seed), weights)
            ],
            heaviest_bytes=heaviest_bytes(space, weights),
            # A search never follows a transfer, so that needs no baseline.
            beside=[*beside, *([] if source else [baseline])],
            source=source,
            seed=seed,
        )
    held_out = []
    for net, ops in list(zip(drawn, networks))[plan.fit_networks :]:
        if ops in found.test:
            held_out.append(HeldOut(net.text, found.table.network_seconds(ops), found.test[ops].seconds))
    measured = found.beside.get(baseline)
    return SpaceCalibration(found, tuple(held_out), measured.seconds if measured else None)


@contextmanager
def workbench(
    target: Target,
    database: MeasurementDatabase,
    progress: Progress,
    settings: MeasureSettings | None = None,
    seed: int = 0,
) -> Iterator[Workbench]:
    """What measures for the target, and builds on all cores; settings: None for what suits its runner.

    Raises:
        RunnerError: nothing can be run for the target.
    """
    runner = find_runner(target)
    with _workspace(database) as workspace:
        yield Workbench(
            runner=runner,
            database=database,
            build=BuilderPool(target, runner.form, workers=len(available_cpus())),
            workspace=workspace,
            progress=progress,
            settings=settings or _usual_settings(runner),
            seed=seed,
        )


def _usual_settings(runner: Runner) -> MeasureSettings:
    if runner.exact:
        return MeasureSettings(rounds=1, repeats=1, warmup=0, attempts=1)
    # What has to be carried there is carried once, and is not measured again where it is noisy.
    return MeasureSettings() if runner.at_once else MeasureSettings(attempts=1)


@contextmanager
def _workspace(database: MeasurementDatabase) -> Iterator[Path]:
    """Where artefacts wait until they are measured: beside the database, where a calibration that was interrupted finds
    them again. While another process uses that, a folder for this one.
    """
    folder = database.path.parent / "artefacts"
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with TemporaryDirectory() as name:
                yield Path(name)
            return
        yield folder
        # What is measured was removed. The rest waits for a calibration that was interrupted, if it is not too old.
        for file in folder.glob("[!.]*"):
            if time.time() - file.stat().st_mtime > KEPT_S:
                file.unlink(missing_ok=True)


def evict_bytes(space: SearchSpace, weights: WeightType = "float32") -> int:
    """What passes through the caches between two runs of an operator: the baseline's weights, stored as `weights`.

    Without those of its classifier, so that data of other classes need no new measurements.
    """
    ops = stored_as(space.baseline.op_specs(), weights)
    return network_weight_bytes([op for op in ops if op.kind != "linear"])


def heaviest_bytes(space: SearchSpace, weights: WeightType = "float32") -> int:
    """The weights of the heaviest network of the space, or of its baseline if that has more, stored as `weights`."""
    places = [[op] for op in space.fixed_ops()]
    places += [[op for choice in block.candidates if (op := block.op_spec(choice))] for block in space.blocks]
    heaviest = sum(max(op.weight_bytes for op in stored_as(ops, weights)) for ops in places)
    return max(heaviest, network_weight_bytes(stored_as(space.baseline.op_specs(), weights)))


def heavy_networks(space: SearchSpace, count: int, random: Random, weights: WeightType = "float32") -> tuple[Net, ...]:
    """So many distinct random networks of wider spaces, all with far more weights than any of the space."""
    found: dict[Net, None] = {}
    least, width = HEAVIER * heaviest_bytes(space, weights), 1.0
    while len(found) < count:
        net = stored_as(
            space.widened(random.uniform(width, WIDEST * width)).random_architecture(random).op_specs(), weights
        )
        if network_weight_bytes(net) >= least:
            found[net] = None
        else:
            width *= WIDER
    return tuple(found)


def path_latency(space: SearchSpace, table: LatencyTable, weights: WeightType = "float32", batch: int = 1) -> PathCosts:
    """The latencies that the search adds up: what the operators of the table add to a network.

    batch: images at once, as the table has its operators.

    Raises:
        MissingLatencyError: the table was made for another space, or for weights that are stored otherwise.
    """
    costs = PathCosts.of_space(space, lambda op: table.entry(replace(op, dtype=weights, batch=batch)).network_s)
    # With what the whole of the weights costs beyond those of the operators one by one.
    return replace(costs, fixed=table.network_seconds(stored_as(space.fixed_ops(), weights, batch)))


def disturbance(share: float) -> str:
    """A sentence on the share of disturbed rounds; empty where it is too small for one."""
    if share <= WORTH_SAYING:
        return ""
    return (
        f"The machine was disturbed: in {share:.0%} of the rounds the reference took longer than usual. They count "
        "only where too few others are left, those that it slowed least."
    )
