"""The commands as Python functions, with the same names and the same results as `netlathe COMMAND --json`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artefacts import bench, compile, report, silent, targets  # noqa: A004
from pipeline.calibration import calibrate_space, load_calibration, save_calibration
from pipeline.config import RunConfig
from pipeline.context import RunContext
from pipeline.disk import require_free_space
from pipeline.files import write_json
from pipeline.nets import resolve_net, space_of
from pipeline.places import RUNS, calibration_folder, default_database
from pipeline.run_folder import Run, claim_folder, default_folder
from pipeline.shipping import train_settings
from pipeline.stages import perform
from supernet import train as training
from supernet.data import load_data
from supernet.export import export_onnx
from supernet.settings import Progress
from supernet.space import preset
from targets.target import get_target
from tvm_latency.database import MeasurementDatabase
from tvm_latency.opspec import WeightType, stored_as

__all__ = ["bench", "calibrate", "compile", "predict", "report", "run", "search", "targets", "train"]


def run(
    config: RunConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    until: str = "report",
    database: Path | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """From data to a verified artefact: the content of summary.json and, as `run`, the run's folder.

    until: the last stage to perform; `derive` stops when the architecture is found; the result is that stage's.

    Raises:
        Every error of `pipeline.errors.EXIT_CODES`, each with a sentence for the user.
    """
    folder = out or default_folder(config, RUNS, resume=resume)
    require_free_space(folder)
    with Run(folder, config, resume=resume, say=say) as opened:
        context = RunContext(config, folder, database or default_database(), progress, say)
        return {"run": str(folder), **perform(opened, context, until)[until]}


def search(
    config: RunConfig,
    *,
    out: Path | None = None,
    resume: bool = False,
    database: Path | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """`run` up to the derived network: its text, its latencies, and as `file` the architecture.json."""
    found = run(config, out=out, resume=resume, until="derive", database=database, progress=progress, say=say)
    return {**found, "file": str(Path(found["run"]) / "derive" / "architecture.json")}


def calibrate(
    target: str = "x86",
    space: str = "imagenet",
    *,
    threads: int = 1,
    weights: WeightType = "float32",
    database: Path | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure a space on a target, fit the cost model, and judge it by blocks and networks it has not seen."""
    database = database or default_database()
    machine = get_target(target).with_threads(threads)
    with closing(MeasurementDatabase(database)) as rows:
        if rows.recovered:
            say(rows.recovered)
        found = calibrate_space(preset(space), machine, rows, progress, weights=weights)
    folder = calibration_folder(database, machine, space, weights)
    save_calibration(found, folder)
    return {
        "target": target,
        "space": space,
        "weights": weights,
        "measured": found.calibration.measured,
        "reused": found.calibration.reused,
        "failures": dict(found.calibration.failures),
        **asdict(found.calibration.accuracy),
        "folder": str(folder),
    }


def predict(
    net: str,
    target: str = "x86",
    *,
    space: str | None = None,
    threads: int = 1,
    weights: WeightType = "float32",
    database: Path | None = None,
) -> dict[str, Any]:
    """The latency of a network by the calibration of its space, without compiling it.

    Raises:
        MeasureError: nothing that holds here was calibrated for that space on this target.
        SpaceError: there is no such space, or none for images of the network's size.
    """
    found = resolve_net(net)
    architecture = found.require_architecture("a prediction")
    chosen = preset(space).name if space else space_of(architecture, hint=" Name one with --space.")
    machine = get_target(target).with_threads(threads)
    folder = calibration_folder(database or default_database(), machine, chosen, weights)
    table, model = load_calibration(folder, machine, weights)
    ops = stored_as(architecture.op_specs(), weights)
    measured = {key for key, entry in table.entries.items() if entry.source == "measured"}
    return {
        "net": found.name,
        "target": target,
        "weights": weights,
        "predicted_ms": 1e3 * table.completed(ops, model.predict).network_seconds(ops),
        "operators": len(ops),
        "measured_operators": sum(op.key in measured for op in ops),
        "macs": architecture.macs,
        "params": architecture.params,
    }


def train(
    net: str,
    data: str,
    *,
    out: Path | None = None,
    epochs: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a network on data; `model.onnx`, the weights and the top-1 on test images are left in `out`.

    Killed and called again with the same arguments, it goes on from its checkpoint.

    Raises:
        RunFolderError: `out` holds anything but an earlier training.
    """
    found = resolve_net(net)
    architecture = found.require_architecture("training")
    images = load_data(data, architecture.resolution, seed)
    for note in images.notes:
        say(note)
    architecture = architecture.with_classes(len(images.classes))
    settings = train_settings(space_of(architecture), seed, epochs)
    folder = out or RUNS / f"train-{found.name}-{Path(data).name}-s{seed}"
    require_free_space(folder)
    claim_folder(folder, "train")
    trained = training.train(architecture, images, settings, folder / "net.checkpoint", progress, notice=say)
    export_onnx(training.load_network(architecture, trained.state), architecture, folder / "model.onnx")
    write_json(folder / "architecture.json", architecture.to_json())
    return {
        "net": found.name,
        "architecture": architecture.text,
        "top1": trained.top1,
        "seconds": trained.seconds,
        "state": str(trained.state),
        "model": str(folder / "model.onnx"),
    }
