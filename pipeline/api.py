"""The commands as Python functions, with the same names and the same results as `netlathe COMMAND --json`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline import ranks
from pipeline.artefacts import bench, compile, report, silent, targets  # noqa: A004
from pipeline.calibration import calibrate_space, disturbance
from pipeline.config import ALSO, ConfigError, RunConfig, weight_type
from pipeline.context import RunContext
from pipeline.disk import require_free_space
from pipeline.files import write_json
from pipeline.machine import find_machine
from pipeline.measure import MeasureError
from pipeline.nets import resolve_net
from pipeline.places import RUNS, calibration_folder, default_database
from pipeline.portable import check_export, export_calibration, import_calibration
from pipeline.prediction import predict
from pipeline.run_folder import Run, claim_folder, default_folder
from pipeline.saved_calibration import ACCURACY_PLOT, load_calibration, save_calibration, space_options
from pipeline.shipping import train_settings
from pipeline.stages import follow, perform
from pipeline.sweep import sweep
from supernet import parallel
from supernet import train as training
from supernet.data import load_data
from supernet.export import export_onnx
from supernet.settings import Progress, RecipeName
from supernet.space_file import find_space
from targets.registry import get_target
from targets.target import DType, Target
from targets.unit import Unit
from tvm_latency.cost_model import CostModelError
from tvm_latency.database import MeasurementDatabase
from tvm_latency.fitting import Fitted
from tvm_latency.latency_table import LatencyTableError
from tvm_latency.opspec import WeightType
from tvm_latency.plan import FULL, TRANSFERRED, transfer_plan

__all__ = ["bench", "calibrate", "compile", "predict", "report", "run", "search", "sweep", "targets", "train"]


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
    Under torchrun the result of every rank but the first is empty.

    Raises:
        Every error of `pipeline.errors.EXIT_CODES`, each with a sentence for the user.
    """
    parallel.join()
    database = database or default_database()
    if parallel.rank() > 0:
        follow(lambda folder: RunContext(config, folder, database, silent, lambda sentence: None))
        return {}
    folder = out or default_folder(config, RUNS, resume=resume)
    require_free_space(folder)
    parallel.send_text(str(folder))
    with Run(folder, config, resume=resume, say=say) as opened:
        context = RunContext(config, folder, database, progress, say)
        found = perform(opened, context, until)[until]
    ranks.dismiss()
    return {"run": str(folder), **found}


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
    if not found:
        return {}
    also = {name: _in_unit(its, get_target(name).unit) for name, its in found.pop(ALSO).items()}
    file = Path(found["run"]) / "derive" / "architecture.json"
    return {**_in_unit(found, get_target(config.target).unit), ALSO: also, "file": str(file)}


def _in_unit(content: Any, unit: Unit) -> Any:
    """Results of stages and scores as users see them: seconds become thousandths, by the unit's names."""
    if isinstance(content, list):
        return [_in_unit(part, unit) for part in content]
    if not isinstance(content, dict):
        return content
    edge = {
        "measured_s": unit.measured_key,
        "seconds": unit.key,
        **{f"{name}_s": f"{name}_{unit.key}" for name in ("predicted", "budget", "rmse")},
    }
    shown = {}
    for name, part in content.items():
        if name == "source":
            shown[name] = unit.source(part)
        else:
            shown[edge.get(name, name)] = 1e3 * part if name in edge else _in_unit(part, unit)
    return shown


def calibrate(
    target: str = "x86",
    space: str = "imagenet",
    *,
    resolution: int | None = None,
    width: float = 1.0,
    threads: int = 1,
    weights: WeightType | None = None,
    dtype: DType = "float32",
    source: str | None = None,
    measurements: int | None = None,
    export: Path | None = None,
    imported: Path | None = None,
    database: Path | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure a space on a target, fit the cost model, and judge it by blocks and networks it has not seen.

    space, resolution, width: a preset or a .toml file, and what of it is different, as for `run`.
    source: a target whose calibration of the space is transferred: `measurements` networks (50 unless given) are
    measured, and no operators.
    export: a file to write the calibration to, beside the folder where commands look for it.
    imported: a file that such a calibration, or an official ProxylessNAS table, is taken from; nothing is measured.

    Raises:
        CalibrationError: too little could be measured.
        ConfigError: options that exclude each other, or that would replace measured operators by predicted ones.
        MeasureError: the source was not calibrated.
        PortableError, ProxylessYamlError: a file to import that is none for this target, space and weights.
    """
    database = database or default_database()
    machine, weights = find_machine(target, threads, dtype), weight_type(weights, dtype)
    chosen = find_space(space).for_task(resolution=resolution, width=width)
    folder = calibration_folder(database, machine, chosen.name, weights)
    kind = {"target": target, "space": chosen.name, "weights": weights, "dtype": dtype}
    if source is None and measurements is not None:
        raise ConfigError("--measurements says how many networks --from measures; name its target too.")
    if source is not None and imported is not None:
        raise ConfigError("--from measures, --import does not. Give one of them.")
    if imported is not None:
        left_out = import_calibration(imported, folder, chosen, machine, weights)
        return {**kind, "imported": str(imported), "left_out": list(left_out), "folder": str(folder)}
    if export is not None:
        check_export(export, machine, weights)
    asked = space_options(space, resolution, width)
    there = None if source is None else _source(source, machine, folder, database, weights, asked)
    plan = FULL if there is None else transfer_plan(measurements or TRANSFERRED)
    with closing(MeasurementDatabase(database)) as rows:
        if rows.recovered:
            say(rows.recovered)
        found = calibrate_space(chosen, machine, rows, progress, weights=weights, plan=plan, source=there)
    save_calibration(found, folder, machine)
    if sentence := disturbance(found.calibration.disturbed):
        say(sentence)
    if export is not None:
        export_calibration(export, folder, chosen, machine, weights)
    return {
        **kind,
        machine.unit.obtained: found.calibration.measured,
        "reused": found.calibration.reused,
        "failures": dict(found.calibration.failures),
        "disturbed": found.calibration.disturbed,
        "clocks_mhz": list(found.calibration.clocks_mhz),
        **_in_unit(asdict(found.calibration.accuracy), machine.unit),
        "folder": str(folder),
        "plot": str(folder / ACCURACY_PLOT),
    }


def _source(source: str, machine: Target, folder: Path, database: Path, weights: WeightType, asked: str) -> Fitted:
    """The calibration that is transferred to a machine whose own is in `folder`; asked: see `load_calibration`.

    Raises:
        ConfigError: it has measured operators itself.
        MeasureError: the source was not calibrated.
    """
    other = find_machine(source, machine.threads, machine.dtype)
    try:
        table, _ = load_calibration(folder, machine, weights)
        measured = any(entry.source == "measured" for entry in table.entries.values())
    except (MeasureError, LatencyTableError, CostModelError):
        # What does not hold here and now is nothing to lose.
        measured = False
    if measured:
        raise ConfigError(
            f"{machine.name} was calibrated with measured operators already, which is better than what --from "
            f"finds. Remove {folder} to do it all the same."
        )
    there = calibration_folder(database, other, folder.name, weights)
    return Fitted(*load_calibration(there, other, weights, asked))


def train(
    net: str,
    data: str,
    *,
    out: Path | None = None,
    resolution: int | None = None,
    recipe: RecipeName = "short",
    epochs: int | None = None,
    ema: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train a network on data; `model.onnx`, the weights and the top-1 on test images are left in `out`.

    Killed and called again with the same arguments, it goes on from its checkpoint. With `ema` the weights that are
    tested and left are their moving average, of which so much stays at each step. The data say how many classes there
    are, and with `resolution` images are of so many pixels a side instead of the network's own.

    Raises:
        RunFolderError: `out` holds anything but an earlier training.
        ConfigError: torchrun has started several processes.
    """
    ranks.refuse("train")
    found = resolve_net(net)
    architecture = found.require_architecture("training")
    architecture = replace(architecture, resolution=resolution or architecture.resolution)
    images = load_data(data, architecture.resolution, seed)
    for note in images.notes:
        say(note)
    architecture = architecture.with_classes(len(images.classes))
    settings = train_settings(recipe, architecture.resolution, seed, epochs, ema)
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
